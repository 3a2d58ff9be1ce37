"""A judge model behind a real server: what it is asked, what its replies come to, and failures."""

import contextlib
import http.server
import json
import threading

import published_files
import pytest

from vxlpro_jax import evaluate
from vxlpro_jax.evals import registry
from vxlpro_jax.evals.benchmark import JudgeRequest
from vxlpro_jax.evals.judge import TRIES, Judge, ask_judge
from vxlpro_jax.evals.results import Results
from vxlpro_jax.utils import errors
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.journal import Journal, Shard

KEY = "not-a-key"


class _Server(http.server.ThreadingHTTPServer):
    """Answers with `reply(request)`; first with each of `codes`. `asked` lists the requests."""

    def __init__(self, reply, codes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.codes, self.asked = reply, list(codes), []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], request))
        code = self.server.codes.pop(0) if self.server.codes else 200
        message = {"role": "assistant", "content": self.server.reply(request)}
        body = json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(reply, *, codes=()):
    with _Server(reply, codes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def judge_at(server, *, model="judge"):
    return Judge(server.url, model=model, key=KEY, first_wait=0.001)


QUESTION = JudgeRequest("You judge.", "Right?", {"temperature": 0})


def test_what_is_sent_and_tried_again():
    with serving(lambda _: " yes \n", codes=(429, 503, 500)) as server:
        assert judge_at(server).ask(QUESTION) == "yes"
    messages = [
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": "Right?"},
    ]
    expected = {"model": "judge", "messages": messages, "temperature": 0}
    assert server.asked == [("/v1/chat/completions", f"Bearer {KEY}", expected)] * 4


def test_refusals_are_told_at_once_and_silence_at_last():
    with serving(lambda _: "", codes=(401,)) as server:
        with pytest.raises(InputError, match="HTTP 401") as told:
            judge_at(server).ask(QUESTION)
        assert KEY not in str(told.value)
        assert len(server.asked) == 1
        server.codes = [503] * TRIES
        with pytest.raises(errors.Failure, match="did not answer in 6 tries"):
            judge_at(server).ask(QUESTION)
    with pytest.raises(errors.Failure, match="did not answer"):
        judge_at(server).ask(QUESTION)  # Nothing listens there now.


def no_bar(items, **_):
    return items


@pytest.fixture
def judged(tmp_path):
    """Lets a server judge answers (by place) to invented records; the results."""

    def run(name, server, answers):
        benchmark = registry.find(name)
        records = benchmark.read(published_files.write_annotations(name, tmp_path))
        pairs = zip(records, answers, strict=True)
        texts = {record.id: text for record, text in pairs if text is not None}
        scored = benchmark.score_all(records, texts, profile="official")
        found = Results.of(benchmark, scored, profile="official")
        replies = ask_judge(
            judge_at(server), benchmark.rubric, scored, out=tmp_path, progress=no_bar
        )
        return found.with_judge(benchmark, scored, replies).to_json()

    return run


def test_mlvu_is_judged_by_the_sum_of_two_scores(judged):
    def reply(request):
        system = request["messages"][0]["content"]
        if "Completeness" in system:
            return "So {'score_completeness': 3, 'score_reliability': 2, 'total_score': 5}"
        return '{"score_accuracy": 4.5, "score_relevance": 5, "total_score": 9.5}'

    with serving(reply) as server:
        found = judged("mlvu_dev", server, ["B", "A", "He runs.", "A dog."])
    metrics = found["metrics"]
    assert (metrics["judged/SSC"], metrics["judged/VS"]) == (9.5, 5)
    assert metrics["judged/G-Avg"] == pytest.approx(7.25)
    assert (found["counts"]["unscored"], found["unscored"]) == (0, [])
    users = {request["messages"][1]["content"] for _, _, request in server.asked}
    points = "Scoring points: ['he runs', 'far']"
    assert users == {
        f"Question: What does he do?\n{points}\nAnswer: He runs.",
        "Reference: A cat.\nSummary: A dog.",
    }


def test_mlvu_counts_a_reply_without_both_scores_as_0(judged):
    with serving(lambda _: "{'score_accuracy': 5}") as server:
        found = judged("mlvu_dev", server, ["B", "", "He runs.", "A dog."])
    assert found["metrics"]["judged/G-Avg"] == 0


def test_captions_are_judged_by_the_clips_own_question(judged):
    replies = iter(["Reasoning: so.\nAnswer: B. down", "Answer: A. up"])
    lock = threading.Lock()

    def reply(_):
        with lock:
            return next(replies)

    with serving(reply) as server:
        found = judged("tempcompass_captioning", server, ["It falls.</s>", " ", "It sinks."])
    assert found["metrics"]["judged/accuracy"] == pytest.approx(100 / 3)
    assert found["metrics"]["judged/aspect/speed"] == 0
    assert found["counts"]["unscored"] == 0
    users = {request["messages"][1]["content"] for _, _, request in server.asked}
    for caption in ("It falls.", "It sinks."):
        ending = f"\nDescription: {caption}\nQuestion:\nWhere to?\nA. up\nB. down\n"
        assert sum(user.endswith(ending) for user in users) == 1
    (request, _) = (request for _, _, request in server.asked)
    assert (request["temperature"], request["presence_penalty"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("name", "matched", "unmatched"),
    [
        ("tempcompass_multi_choice", ("B", "A"), "(B) down</s>"),
        ("tempcompass_yes_no", ("No.", "yes"), "It is no"),
        ("tempcompass_caption_matching", ("Caption A", "a dog"), "The cat."),
    ],
)
def test_a_judge_rates_what_the_rules_of_tempcompass_do_not_match(judged, name, matched, unmatched):
    with serving(lambda _: "Correct, not Incorrect.") as server:
        found = judged(name, server, [*matched, unmatched])
        (request,) = (request for _, _, request in server.asked)
        user = request["messages"][1]["content"]
        assert user.startswith("Question:\n")
        assert user.endswith(f"\nAnswer: {unmatched.removesuffix('</s>')}")
        assert [item["judged"]["right"] for item in found["per_item"]] == [1, 0, 1]
        metrics = found["metrics"]
        assert metrics["judged/accuracy"] == pytest.approx(200 / 3)
        assert (metrics["judged/aspect/order"], metrics["judged/aspect/speed"]) == (100, 0)
        # Without the judge it is still wrong.
        assert metrics["overall"] == pytest.approx(100 / 3)
        # Nothing is asked of what is matched or empty.
        found = judged(name, server, [*matched, None])
        assert found["metrics"]["judged/accuracy"] == pytest.approx(100 / 3)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Correct", 1),
        ("It is Correct.", 1),
        ("Incorrect", 0),
        ("Incorrect, not Correct", 0),
        ("It is Correct or Incorrect", 0),
        ("correct", 0),
        ("", 0),
    ],
)
def test_what_a_judge_of_tempcompass_says(judged, reply, right):
    with serving(lambda _: reply) as server:
        found = judged("tempcompass_yes_no", server, ["It is no", "", ""])
    assert found["per_item"][0]["judged"]["right"] == right


@pytest.mark.parametrize("name", ["vstar_what", "tempcompass_captioning"])
def test_a_judge_with_nothing_to_rate_leaves_everything_wrong(judged, name):
    records = len(published_files.ANNOTATIONS["vstar_what"]) + (name != "vstar_what")
    with serving(lambda _: "3") as server:
        found = judged(name, server, [None] * records)
    assert not server.asked
    assert found["metrics"]["judged/accuracy"] == 0
    assert found["counts"]["unscored"] == 0


def test_vstar_is_right_from_a_rating_of_2(judged, tmp_path):
    def reply(request):
        return "2" if "Answer: ball" in request["messages"][1]["content"] else "about 3"

    with serving(reply) as server:
        found = judged("vstar_what", server, ["ball", "stone"])
        assert found["metrics"]["judged/accuracy"] == 50
        assert [item["judged"]["rating"] for item in found["per_item"]] == [2, -1]
        assert {request["messages"][1]["content"] for _, _, request in server.asked} == {
            f"Question: What is thrown?\nRight answer: a ball\nAnswer: {answer}"
            for answer in ("ball", "stone")
        }
        # What was asked is not asked again; another answer is.
        assert judged("vstar_what", server, ["ball", "stone"]) == found
        assert len(server.asked) == 2
        judged("vstar_what", server, ["ball", "leaf"])
        assert len(server.asked) == 3
    assert len(Journal(tmp_path, name="judgements", shard=Shard()).entries) == 3


def test_what_was_judged_before_a_failure_is_kept(judged, tmp_path):
    with serving(lambda _: "3") as server:
        judged("vstar_what", server, ["ball", ""])
        server.codes = [401]
        with pytest.raises(InputError, match="refuses"):
            judged("vstar_what", server, ["ball", "stone"])
        assert judged("vstar_what", server, ["ball", "stone"])["metrics"]["judged/accuracy"] == 100
    assert len(server.asked) == 3


def test_benchmarks_whose_answers_a_judge_can_rate():
    rated = [name for name, benchmark in registry.find_all().items() if benchmark.rubric]
    assert rated == [
        *("mlvu_dev", "mlvu_test", "tempcompass_multi_choice", "tempcompass_yes_no"),
        *("tempcompass_caption_matching", "tempcompass_captioning", "vstar_what"),
    ]


def test_the_command_takes_the_judge_by_flag(tmp_path, monkeypatch):
    """Results without the judge are there even if it refuses; no model is loaded for it."""
    name, out = "vstar_what", tmp_path / "out"
    annotations = published_files.write_annotations(name, tmp_path)
    journal = Journal(out, name="answers", shard=Shard())
    for number in range(2):
        journal.add(json.dumps(number), {"id": number, "answer": "a ball"})
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "_METADATA").touch()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    argv = ["--checkpoint", tmp_path, "--benchmark", name, "--annotations", annotations]
    argv += ["--videos", tmp_path, "--out", out, "--judge_model", "judge", "--judge_url"]
    with serving(lambda _: "3", codes=[401, 401]) as server:
        argv = list(map(str, [*argv, server.url]))
        with pytest.raises(InputError, match="refuses"):
            evaluate.main(argv)
        found = json.loads((out / "results.json").read_text())
        assert (found["counts"]["unscored"], found["metrics"]) == (2, {"answered": 100})
        server.codes = []
        evaluate.main(argv)
    assert {key for _, key, _ in server.asked} == {f"Bearer {KEY}"}
    found = json.loads((out / "results.json").read_text())
    assert found["metrics"]["judged/accuracy"] == 100
    assert not [file for file in out.iterdir() if file.is_file() and KEY in file.read_text()]
