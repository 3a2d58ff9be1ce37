"""Tests annotation files: JSON, JSON lines and Parquet, and messages that name a bad field."""

import contextlib
import json
import random
import sys

import published_files
import pyarrow
import pyarrow.parquet
import pytest

from vxlpro_jax.evals import registry
from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
from vxlpro_jax.evals.results import Results
from vxlpro_jax.utils.errors import InputError

RECORDS = [{"question": "Why?", "options": ["a", "b"]}, {"question": "How?", "options": ["c"]}]


def test_every_form_of_file_reads_the_same(tmp_path):
    files = [tmp_path / name for name in ("a.json", "a.jsonl", "a.parquet")]
    files[0].write_text(json.dumps(RECORDS))
    files[1].write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), files[2])
    for file in files:
        rows = read_rows(file)
        assert [row.fields for row in rows] == RECORDS
        assert [row.where for row in rows] == [f"{file}, record 0", f"{file}, record 1"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("between", ["", "\n", "\r\n\r\n"])
def test_lists_put_together_are_one(tmp_path, name, between):
    file = tmp_path / name
    parts = [json.dumps(RECORDS[:1], indent=1), json.dumps(RECORDS[1:]), json.dumps(RECORDS[0])]
    file.write_bytes(b"\xef\xbb\xbf" + between.join(["", *parts, ""]).encode())
    assert [(row.index, row.fields) for row in read_rows(file)] == [
        *enumerate([*RECORDS, RECORDS[0]])
    ]


def test_parquet_without_pyarrow_says_what_to_do(tmp_path, monkeypatch):
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_rows(file)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"{", "are not JSON"),
        ("a.json", b"[]", "have no list of records"),
        ("a.json", b'{"a": 1}', "have no list of records"),
        ("a.json", b"[1]", "record 0 is not an object"),
        ("a.json", b"[{}] {", "are not JSON"),
        ("a.json", b"[" * 100_000, "are not JSON"),
        ("a.json", b"", "have no list of records"),
        ("a.json", b"\xff", "is not UTF-8"),
        ("a.parquet", b"no", "are not Parquet"),
        ("b.json", None, r"b\.json does not exist"),
        ("b.parquet", None, r"b\.parquet does not exist"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (lambda row: row.text("x"), 5, "expected text"),
        (lambda row: row.text("x"), "", "expected text"),
        (lambda row: row.number("x"), True, "expected a number"),
        (lambda row: row.number("x"), float("nan"), "expected a number"),
        (lambda row: row.one_of("x", ("a", "b")), "c", "expected one of 'a', 'b'"),
        (lambda row: row.one_of("x", (0, 1)), True, "expected one of 0, 1"),
        (lambda row: row.options("x"), [], "expected a non-empty list"),
        (lambda row: row.options("x"), [None], "expected a list of texts or numbers"),
        (lambda row: row.span("x"), [1], "expected two numbers"),
        (lambda row: row.span("x"), [1, "2"], "expected two numbers"),
        (lambda row: row.id("x"), 1.5, "expected text or an integer"),
    ],
)
def test_a_bad_field_is_named_with_file_and_record(read, value, expected):
    with pytest.raises(InputError, match=rf"f\.json, record 3: field 'x' is .*: {expected}"):
        read(AnnotationRow("f.json, record 3", 3, {"x": value}))


def test_a_missing_field_is_named_and_a_missing_id_is_the_place():
    row = AnnotationRow("f.json, record 3", 3, {"null": None, "empty": ""})
    with pytest.raises(InputError, match="field 'x' is missing: expected text"):
        row.text("x")
    assert row.id("x") == row.id("null") == row.id("empty") == 3


def parquet(folder, rows):
    file = folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("seed", range(40))
def test_damaged_parquet_is_told(seed, tmp_path):
    """Damage in the middle of a file gives an error message or readable rows."""
    draw, file = random.Random(seed), parquet(tmp_path, RECORDS)
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice([1, 3])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data[: draw.choice([len(data), len(data) - 9])])
    with contextlib.suppress(InputError):
        assert len(read_rows(file)) == len(RECORDS)


def test_parquet_that_grows_without_end_is_refused(tmp_path):
    rows = pyarrow.array(["a" * (1 << 20)]).dictionary_encode().take(pyarrow.array([0] * 2000))
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": rows}), file)
    assert file.stat().st_size < 2 << 20
    with pytest.raises(InputError, match="hold more than 512 MiB"):
        read_rows(file)
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.nulls(1_000_001)}), file)
    with pytest.raises(InputError, match="more than 1,000,000 rows"):
        read_rows(file)


ODD = [
    *(10**400, -(10**400), float("nan"), 1e999, "\ud800", "", True, None, {"a": [1]}),
    *([[[]]], ["\ud800"], [10**400, 1], [0, 1e15], "9" * 1000, "A: b c: d", "x"),
]


@pytest.mark.parametrize("odd", range(len(ODD)))
@pytest.mark.parametrize("name", list(registry.find_all()))
def test_odd_values_of_any_field_are_told_or_scored(name, odd, tmp_path):
    benchmark = registry.find(name)
    file = published_files.write_annotations(name, tmp_path)
    whole = file.read_text()
    for path in paths_of(json.loads(whole)):
        changed = json.loads(whole)
        at = changed
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = ODD[odd]
        file.write_text(json.dumps(changed))
        records = []
        with contextlib.suppress(InputError):
            records = benchmark.read_unique(file)
        for record in records:
            prompt = benchmark.prompt(record, "official")
            assert len(prompt.text) < 1_000_000
            prompt.text.encode()
        answers = {record.id: '{"3": [0, 0, 10, 1e400]}' for record in records}
        scored = benchmark.score_all(records, answers, profile="official")
        results = Results.of(benchmark, scored, profile="official")
        json.dumps(results.to_json(), allow_nan=False)


def paths_of(value, path=()):
    """Returns the path of each part of a JSON value."""
    steps = enumerate(value) if isinstance(value, list) else ()
    for step, part in value.items() if isinstance(value, dict) else steps:
        yield (*path, step)
        yield from paths_of(part, (*path, step))
