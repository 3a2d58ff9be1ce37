"""Annotation files: JSON, JSON lines and Parquet, and the sentence that names a bad field."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
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
        ("a.json", b"\xff", "are not UTF-8"),
        ("a.parquet", b"no", "are not Parquet"),
        ("b.json", None, r"b\.json cannot be read"),
        ("b.parquet", None, r"b\.parquet cannot be read"),
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
