"""Benchmarks are found in the folder, by entry point and by path; adding one takes one file."""

import json
import sys
from importlib import metadata

import pytest

from vxlpro_jax import score
from vxlpro_jax.evals import benchmarks, registry
from vxlpro_jax.utils.errors import InputError

# A complete benchmark with one question, whose right answer is "yes".
DUMMY = '''
"""Whether it is so."""
from vxlpro_jax.evals.annotations import read_rows
from vxlpro_jax.evals.benchmark import Benchmark, Budget, Prompt, Record, Score
from vxlpro_jax.evals.metrics import pooled_accuracies

def read(path):
    return [Record(id=row.id("id"), video=row.text("video")) for row in read_rows(path)]

BENCHMARKS = (
    Benchmark(
        name="dummy",
        read=read,
        prompt=lambda record, profile: Prompt("Is it so?"),
        score=lambda record, answer, profile: Score(answer, answer == "yes"),
        aggregate=pooled_accuracies,
        budget=Budget(max_frames=8, max_new_tokens=4),
    ),
)
'''


@pytest.fixture
def dummy(tmp_path):
    """The file of a benchmark, in a separate folder."""
    folder = tmp_path / "dummies"
    folder.mkdir()
    (folder / "dummy_benchmark.py").write_text(DUMMY)
    return folder / "dummy_benchmark.py"


def write_distribution(folder, *, value):
    """Writes the metadata of an installed package with an entry point, as an installer does."""
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\ndummy = {value}\n")


def scored(name, tmp_path, capsys):
    """Returns the metrics that the score command prints for one right and one wrong answer."""
    (tmp_path / "a.json").write_text(json.dumps([{"video": "a.mp4"}, {"video": "b.mp4"}]))
    answers = [{"id": 0, "prediction": "yes"}, {"id": 1, "prediction": "no"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, answers)))
    files = ["--annotations", str(tmp_path / "a.json"), "--predictions", str(tmp_path / "p.jsonl")]
    score.main(["--benchmark", name, *files, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "dummy"
    return found["metrics"]


def test_a_file_in_the_folder_of_benchmarks_is_all_it_takes(dummy, tmp_path, monkeypatch, capsys):
    """The folder is extended instead of written to."""
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(dummy.parent)])
    assert "dummy" in registry.find_all()
    assert scored("dummy", tmp_path, capsys) == {"overall": 50}
    with pytest.raises(SystemExit):
        score.main(["--help"])
    assert "dummy" in capsys.readouterr().out
    del sys.modules["vxlpro_jax.evals.benchmarks.dummy_benchmark"]


def test_a_file_anywhere_is_given_by_its_path(dummy, tmp_path, capsys):
    assert scored(str(dummy), tmp_path, capsys) == {"overall": 50}
    assert "dummy" not in registry.find_all()


@pytest.mark.parametrize("value", ["dummy_benchmark", "dummy_benchmark:ONE"])
def test_a_package_offers_benchmarks_by_entry_point(dummy, value, monkeypatch):
    dummy.write_text(f"{DUMMY}\nONE = BENCHMARKS[0]\n")
    write_distribution(dummy.parent, value=value)
    monkeypatch.syspath_prepend(dummy.parent)
    assert registry.find("dummy").budget.max_frames == 8
    sys.modules.pop("dummy_benchmark")


def test_an_entry_point_that_cannot_be_loaded_spoils_no_other(dummy, monkeypatch, caplog):
    write_distribution(dummy.parent, value="gone_module")
    monkeypatch.syspath_prepend(dummy.parent)
    assert "vnbench" in registry.find_all()
    assert "Entry point dummy (gone_module) cannot be loaded" in caplog.text


def test_a_name_given_twice_is_refused(dummy, monkeypatch):
    dummy.write_text(DUMMY.replace('name="dummy"', 'name="vnbench"'))
    write_distribution(dummy.parent, value="dummy_benchmark")
    monkeypatch.syspath_prepend(dummy.parent)
    with pytest.raises(InputError, match="vnbench is defined twice"):
        registry.find_all()
    sys.modules.pop("dummy_benchmark")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no BENCHMARKS"),
        ("BENCHMARKS = ()", "has no BENCHMARKS"),
        ("BENCHMARKS = [1]", "not all of type `Benchmark`"),
        ("1 / 0", "cannot be imported .ZeroDivisionError"),
        ("def", "cannot be imported .SyntaxError"),
        (f"{DUMMY}\nBENCHMARKS *= 2", "defines dummy, dummy: list a single one"),
    ],
)
def test_a_file_without_a_benchmark_is_named(tmp_path, text, sentence):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.py .*{sentence}"):
        registry.find(str(tmp_path / "bad.py"))


def test_unknown_names_and_chains():
    with pytest.raises(InputError, match="'mlvu' is unknown: choose one of charades_sta, "):
        registry.find("mlvu")
    with pytest.raises(InputError, match=r"nowhere\.py does not exist"):
        registry.find("nowhere.py")
    with pytest.raises(InputError, match="--chain is 3, but vstar_when has chains 1, 2"):
        registry.find("vstar_when", chain=3)
    assert registry.find("vstar_when", chain=1) is registry.find("vstar_when")


def test_every_benchmark_has_a_name_of_its_own_module():
    """These names are used on the command line and must not change."""
    assert list(registry.find_all()) == [
        *("charades_sta", "longvideobench", "mlvu_dev", "mlvu_test", "questions"),
        *("tempcompass_multi_choice", "tempcompass_yes_no", "tempcompass_caption_matching"),
        *("tempcompass_captioning", "videomme", "videomme_subtitles", "vnbench"),
        *("vstar_what", "vstar_when", "vstar_where"),
    ]
    assert not metadata.entry_points(group=registry.ENTRY_POINT_GROUP)
