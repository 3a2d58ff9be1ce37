"""Tests a judge model on a real server: its requests, the ratings from its replies, failures."""

import contextlib
import http.server
import itertools
import json
import socket
import threading
import time

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
        judge_at(server).ask(QUESTION)  # Nothing listens on this port now.


def no_bar(items, **_):
    return items


@pytest.fixture
def judged(tmp_path):
    """Lets a server judge answers (in order) to invented records; returns the results."""

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
        # Without the judge it still counts as wrong.
        assert metrics["overall"] == pytest.approx(100 / 3)
        # Answers that match, or are empty, are not sent to the judge.
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
        # The same answer is not sent again; another answer is.
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
    """Results without the judge are written even if it refuses, and no model is loaded."""
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


class _RawServer:
    """Sends the same bytes to every client, or calls `talk(connection)`."""

    def __init__(self, talk):
        self._talk = talk if callable(talk) else lambda connection: connection.sendall(talk)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            if self._reads_request(connection):
                self._talk(connection)

    def _reads_request(self, connection):
        """Returns whether a complete request arrived before the client closed the connection."""
        data, missing = b"", 1
        while missing > 0:
            if not (more := connection.recv(65536)):  # Closed: it would return this forever.
                return False
            data += more
            head, end, body = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            missing = int(length) - len(body) if end else 1
        return True

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # This ends `accept`, unlike `close`.
        self._listener.close()


@pytest.fixture
def raw():
    servers = []

    def start(talk):
        servers.append(_RawServer(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def whole(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


NONSENSE = [
    *(b"", b"\r\n\r\n", b"\0" * 1000, b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1\r\n\r\n"),
    *(b"HTTP/1.1 2000000000 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n"),
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    *map(
        whole,
        [
            *(b"", b"null", b"3", b'"a"', b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b"9" * 5000),
            *(b'{"choices": null}', b'{"choices": []}', b'{"choices": {}}', b'{"choices": [3]}'),
            *(
                b'{"choices": [{"message": null}]}',
                b'{"choices": [{"message": {"content": null}}]}',
            ),
            b'{"choices": [{"message": {"content": ["a"]}}]}',
        ],
    ),
]


@pytest.mark.parametrize("reply", NONSENSE)
def test_any_nonsense_of_http_is_a_sentence(reply, raw):
    server = raw(reply)
    with pytest.raises(errors.Failure, match=r"did not answer in 6 tries \(.+\)") as told:
        judge_at(server).ask(QUESTION)
    assert server.connections == TRIES
    assert len(str(told.value)) <= 500
    assert str(told.value).isprintable()
    assert KEY not in str(told.value)


@pytest.mark.parametrize("code", [300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize("where", ["{}", "//{}", "http://{}/v1", "https://{}/v1", "ftp://{}/a", ""])
def test_redirects_are_never_followed(code, where, raw):
    with serving(lambda _: "3") as other:
        place = where.format(other.url.split("/")[2])
        head = f"HTTP/1.1 {code} Moved {KEY}\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        server = raw(head.encode())
        with pytest.raises(InputError, match="another address") as told:
            judge_at(server).ask(QUESTION)
    assert (other.asked, server.connections) == ([], 1)
    assert KEY not in str(told.value)


def drip(data):
    def talk(connection):
        for byte in itertools.cycle(data):
            connection.sendall(bytes([byte]))
            time.sleep(0.01)

    return talk


def flood(head, data):
    def talk(connection):
        connection.sendall(head)
        while True:
            connection.sendall(data)

    return talk


@pytest.mark.slow
@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: time.sleep(60),
        drip(b"H"),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
        flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        flood(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        flood(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536),
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 1000),
        flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"a" * 65536),
        flood(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 65536),
    ],
)
def test_time_and_size_of_an_exchange_are_limited(talk, raw):
    server = raw(talk)
    judge = Judge(server.url, model="judge", key=KEY, first_wait=0.001, seconds=0.3)
    started = time.monotonic()
    with pytest.raises(errors.Failure, match="did not answer"):
        judge.ask(QUESTION)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_a_refusal_says_of_itself_is_not_repeated(status, raw):
    """A server may repeat the request, including the key."""
    server = raw(f"HTTP/1.1 {status} {KEY}\x1b[2J\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(InputError, match=f"HTTP {status}") as told:
        judge_at(server).ask(QUESTION)
    assert KEY not in str(told.value)
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "localhost:80",
            "ftp://a/v1",
            "file:///etc/passwd",
            "http://",
            "http:///v1",
            "//a/v1",
        ),
        *("http://a:b/v1", "http://a:99999/v1", "http://[::1/v1", "http://a b/v1", "http://a/\n"),
        *(f"http://{'a' * 70}/v1", "http://a..b/v1", "http://a\r\nX: y/v1", "data:text/plain,3"),
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(InputError, match="--judge_url is not an HTTP address"):
        Judge(url, model="judge", key=KEY)


def test_a_password_in_the_address_is_refused_unseen():
    with pytest.raises(InputError, match="--judge_url holds a user name or password") as told:
        Judge("http://user:secret@a/v1", model="judge", key=KEY)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("key", ["a b", "a\nb", "kéy", "a\r\nHost: b", "\ud800"])
def test_keys_that_cannot_be_sent_are_refused_unseen(key):
    with pytest.raises(InputError, match="OPENAI_API_KEY has spaces") as told:
        Judge("http://a/v1", model="judge", key=key)
    assert key not in str(told.value)


def test_spaces_around_a_key_are_left_out():
    with serving(lambda _: "3") as server:
        assert Judge(server.url, model="judge", key=f" {KEY}\n").ask(QUESTION) == "3"
    assert server.asked[0][1] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("{}/v1/", "/v1/chat/completions"),
        ("{}", "/chat/completions"),
        ("{}/v1/chat/completions", "/v1/chat/completions"),
        ("{}/ä b/?version=1".replace(" ", "%20"), "/%C3%A4%20b/chat/completions?version=1"),
    ],
)
def test_where_requests_go(url, path):
    with serving(lambda _: "3") as server:
        place = server.url.removesuffix("/v1")
        assert Judge(url.format(place), model="judge", key="").ask(QUESTION) == "3"
    assert server.asked[0][:2] == (path, None)


def test_proxies_never_see_the_key(monkeypatch):
    """A proxy for http is not used; one for https would only provide a tunnel."""
    seen = []

    def talk(connection):
        connection.sendall(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")

    with serving(lambda _: "3") as server, socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(65536))
                    talk(connection)

        threading.Thread(target=proxy, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NO_PROXY", "")
        assert judge_at(server).ask(QUESTION) == "3"
        assert seen == []
        judge = Judge("https://judge.example/v1", model="judge", key=KEY, first_wait=0.001)
        with pytest.raises(errors.Failure, match="did not answer"):
            judge.ask(QUESTION)
    assert len(seen) == TRIES
    assert all(asked.startswith(b"CONNECT judge.example:443 ") for asked in seen)
    assert not [asked for asked in seen if KEY.encode() in asked]


def test_an_unencrypted_server_is_not_sent_the_key_of_https(raw):
    seen = []
    server = raw(lambda connection: seen.append(1))
    judge = Judge(
        server.url.replace("http:", "https:"), model="judge", key=KEY, first_wait=0.001, seconds=0.1
    )
    with pytest.raises(errors.Failure, match="did not answer"):
        judge.ask(QUESTION)
    assert seen == []


def test_replies_with_lone_surrogates_are_kept(judged):
    with serving(lambda _: "3\ud800") as server:
        found = judged("vstar_what", server, ["ball", "stone"])
    assert [item["judged"]["rating"] for item in found["per_item"]] == [-1, -1]
