"""The digest of data files depends on the content and order of records, not on their paths."""

import json

import pytest

from vxlpro_jax.data.sources.load import load_records

RECORDS = [
    {
        "id": str(index),
        "video": f"{index}.mp4",
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is {index}?"},
            {"from": "gpt", "value": "Blue."},
        ],
    }
    for index in range(4)
]


def digest(folder, records, name="data.json", **options):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(records))
    return load_records(folder / name, **options).digest


@pytest.fixture
def own(tmp_path):
    return digest(tmp_path / "first", RECORDS)


def test_files_may_move_and_be_written_anew(own, tmp_path):
    assert digest(tmp_path / "second", RECORDS, name="other.json") == own
    assert digest(tmp_path / "first", RECORDS, video_root=str(tmp_path)) == own
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, RECORDS)))
    assert load_records(lines).digest == own


def test_any_other_sample_or_order_is_noticed(own, tmp_path):
    changed = json.loads(json.dumps(RECORDS))
    changed[2]["conversations"][1]["value"] = "Red."
    moved = [RECORDS[0] | {"video": "9.mp4"}, *RECORDS[1:]]
    others = [RECORDS[:3], [*RECORDS, RECORDS[0]], RECORDS[::-1], changed, moved]
    found = {digest(tmp_path / "other", records) for records in others}
    assert len(found | {own}) == len(others) + 1
