"""Tests records of ingested shards: serialization, parsing, and bad records."""

import json

import pytest

from vxlpro_jax.data.sources.arrayrecord_format import (
    BadRecord,
    IngestedRecord,
    decode_record,
    encode_record,
    validate_fields,
)
from vxlpro_jax.utils.errors import InputError

TURNS = ({"from": "human", "value": "<image>\nWo?"}, {"from": "gpt", "value": "Überall 🌍"})
TALK = json.dumps(TURNS).encode()
MP4 = b"\0\0\0\x18ftypmp42" + bytes(range(256))


@pytest.mark.parametrize("video", [MP4, "clips/ü.mp4", b"\0"])
def test_a_record_comes_back(video):
    record = IngestedRecord("clip 7", TURNS, video)
    assert decode_record(encode_record(record)) == record


def test_the_layout_is_as_documented():
    data = encode_record(IngestedRecord("7", TURNS, MP4))
    length = int.from_bytes(data[4:8], "little")
    assert data[:4] == b"VXR1"
    assert json.loads(data[8 : 8 + length]) == {
        "id": "7",
        "conversations": list(TURNS),
        "video_bytes": len(MP4),
    }
    assert data[8 + length :] == MP4


@pytest.mark.parametrize("video", [MP4, "clips/a.mp4"])
def test_bytes_that_are_not_a_record_are_an_error(video):
    data = encode_record(IngestedRecord("7", TURNS, video))
    others = [b"", b"VXR1", b"VXR2" + data[4:], data[:-1], data + b"x", b"VXR1\2\0\0\0[]", TALK]
    for other in others:
        with pytest.raises(InputError, match="not a complete record"):
            decode_record(other)


def test_a_good_record_is_taken_as_it_is():
    assert validate_fields(id=b"a", conversations=TALK, video=MP4) == IngestedRecord(
        "a", TURNS, MP4
    )
    assert validate_fields(id=7, conversations=TALK, video=b"a/b.mp4") == IngestedRecord(
        "7", TURNS, "a/b.mp4"
    )


@pytest.mark.parametrize(
    "data",
    [
        MP4,
        b"\x1aE\xdf\xa3\x9f\x42",
        b"RIFF\x24\x08\0\0AVI LIST",
        b"GIF89a\x08\0\x08\0\xf0",
        b"\x93NUMPY\x01\0",
        (b"\x47" + bytes(187)) * 3,
        (bytes(4) + b"\x47" + bytes(187)) * 3,
    ],
)
def test_files_of_known_containers_are_videos(data):
    assert validate_fields(id=b"a", conversations=TALK, video=data).video == data


@pytest.mark.parametrize("path", ["clip.mp4", "GIF89a.gif", "ftyp/видео 1.mp4", "a..b/c", "a"])
def test_short_printable_text_is_a_path(path):
    assert validate_fields(id=b"a", conversations=TALK, video=path.encode()).video == path


def talk(*turns) -> bytes:
    return json.dumps([{"from": role, "value": text} for role, text in turns]).encode()


ASKED, ANSWERED = ("human", "<image> What?"), ("gpt", "That.")
BAD = {
    "no id": ("id", {"id": None}),
    "empty id": ("id", {"id": b""}),
    "two ids": ("id", {"id": [b"a", b"b"]}),
    "id with a newline": ("id", {"id": b"a\nb"}),
    "id of other bytes": ("id", {"id": b"\xff"}),
    "no conversations": ("conversations", {"conversations": None}),
    "half of JSON": ("conversations", {"conversations": TALK[:-1]}),
    "JSON without end": ("conversations", {"conversations": b"[" * 100_000}),
    "an object": ("conversations", {"conversations": b"{}"}),
    "no turns": ("conversations", {"conversations": b"[]"}),
    "turns of text": ("conversations", {"conversations": b'["a"]'}),
    "another role": ("conversations", {"conversations": talk(ASKED, ("user", "a"))}),
    "a list for a role": ("conversations", {"conversations": talk(ASKED, (["gpt"], "a"))}),
    "no text": ("conversations", {"conversations": talk(ASKED, ("gpt", None))}),
    "half a letter": ("conversations", {"conversations": talk(ASKED, ("gpt", "\ud800"))}),
    "no human turn": ("conversations", {"conversations": talk(ANSWERED)}),
    "no mark": ("conversations", {"conversations": talk(("human", "What?"), ANSWERED)}),
    "two marks": ("conversations", {"conversations": talk(ASKED, ASKED)}),
    "mark in a reply": ("conversations", {"conversations": talk(ASKED, ("gpt", "<image>"))}),
    "no video": ("video", {"video": None}),
    "a number for a video": ("video", {"video": 1.5}),
    "an empty video": ("video", {"video": b""}),
    "zeros": ("video", {"video": bytes(5000)}),
    "long text": ("video", {"video": b"a" * 5000}),
    "an error page": ("video", {"video": b"<html>\n<p>Not found"}),
    "a path upwards": ("path", {"video": b"a/../../b.mp4"}),
    "a path from the root": ("path", {"video": b"/etc/passwd"}),
    "a path of Windows": ("path", {"video": b"C:\\a.mp4"}),
    "a path upwards of Windows": ("path", {"video": b"a\\..\\..\\b.mp4"}),
    "a URL": ("path", {"video": b"s3://bucket/a.mp4"}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_records_have_kind_and_reason(case):
    kind, spoilt = BAD[case]
    with pytest.raises(BadRecord) as caught:
        validate_fields(**{"id": b"a", "conversations": TALK, "video": MP4, **spoilt})
    assert caught.value.kind == kind
    assert len(str(caught.value)) < 200
