"""Tests LLaVA-format files: accepted and refused records, and permitted paths."""

import gzip
import json
import pickle

import pytest

from vxlpro_jax.data.sources.load import load_records, load_visual_records
from vxlpro_jax.data.sources.storage import StoredFile, fingerprint, open_media, resolve_inside
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.utils.errors import InputError

VISUAL = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}]
TEXT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
GOOD = json.dumps({"conversations": TEXT})


@pytest.fixture
def load(tmp_path):
    def load(*samples):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(list(samples)))
        return load_records(path)

    return load


def test_records(load):
    video, image, text = load(
        {
            "id": 7,
            "video": "a/b.mp4",
            "conversations": VISUAL,
            "scale": 2,
            "duration": 9,
            "source": "x",
        },
        {"image": "c.png", "conversations": VISUAL},
        {"conversations": TEXT},
    )
    assert (video.video, video.images, video.scale) == ("a/b.mp4", (), 2.0)
    assert (video.duration, image.duration, text.duration) == (9.0, None, None)
    assert video.turns == (Turn("human", "<image>\nWho?"), Turn("gpt", "Me."))
    assert video.name.endswith("data.json, record 0 (id 7)")
    assert (image.video, image.images, image.scale) == ("", ("c.png",), 1.0)
    assert not text.has_visual


def test_visual_records_need_no_text(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"video": "a.mp4"}, {"conversations": TEXT}, {"image": "c.png"}]))
    records = load_visual_records(path)
    assert [(r.video, r.images, r.turns) for r in records] == [
        ("a.mp4", (), ()),
        ("", ("c.png",), ()),
    ]


def test_no_visual_record_is_an_error(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversations": TEXT}]))
    with pytest.raises(InputError, match="names no video and no image"):
        load_visual_records(path)


def test_a_duration_that_is_no_time_is_unknown(load):
    odd = ("00:10", None, -1, 0, True, float("inf"))
    records = load(*({"video": "a.mp4", "conversations": VISUAL, "duration": d} for d in odd))
    assert [record.duration for record in records] == [None] * len(odd)


def good(**changes):
    return {"video": "a.mp4", "conversations": VISUAL, **changes}


@pytest.mark.parametrize(
    ("sample", "field", "what"),
    [
        (good(video=3), "video", "expected one file's path"),
        (good(video=["a.mp4"]), "video", "expected one file's path"),
        (good(video=""), "video", "expected one file's path"),
        (good(video="a\0.mp4"), "video", "expected one file's path"),
        (good(video="/etc/passwd"), "video", "inside data.video_root"),
        (good(video="a/../../b.mp4"), "video", "inside data.video_root"),
        (good(video="C:\\b.mp4"), "video", "inside data.video_root"),
        (good(video="a\\..\\..\\b.mp4"), "video", "inside data.video_root"),
        (good(video="s3://bucket/b.mp4"), "video", "inside data.video_root"),
        (good(video="\ud800.mp4"), "video", "expected one file's path"),
        ({"image": "../x.png", "conversations": VISUAL}, "image", "inside data.image_root"),
        (good(image="a.png"), "image", "beside field 'video'"),
        ({"image": [], "conversations": VISUAL}, "image", "non-empty list of paths"),
        ({"image": ["a", 3], "conversations": VISUAL}, "image[1]", "expected one file's path"),
        ({"image": ["a", "/x"], "conversations": VISUAL}, "image[1]", "inside data.image_root"),
        (good(scale="2"), "scale", "a number above 0"),
        (good(scale=True), "scale", "a number above 0"),
        (good(scale=0), "scale", "a number above 0"),
        (good(scale=float("nan")), "scale", "a number above 0"),
        (good(scale=10**400), "scale", "a number above 0"),
        (good(start=1.0), "start", "cut the video"),
        (good(clip=[1, 2]), "clip", "cut the video"),
        (good(system="Be kind."), "system", "into the first human turn"),
        (good(conversations=[VISUAL[0], {**VISUAL[1], "weight": 0}]), "weight", "every reply"),
        ({"video": "a.mp4"}, "conversations", "expected a non-empty list"),
        (good(conversations=[]), "conversations", "expected a non-empty list"),
        (good(conversations="Hi"), "conversations", "expected a non-empty list"),
        (good(conversations=["Hi"]), "conversations[0]", "expected an object"),
        (good(conversations=[*VISUAL, {"value": "x"}]), "conversations[2].from", "'human' or"),
        (good(conversations=[{"from": "system"}]), "conversations[0].from", "'human' or 'gpt'"),
        (good(conversations=[{"from": "human"}]), "conversations[0].value", "expected text"),
        (
            good(conversations=[{"from": "human", "value": "\ud800"}]),
            "conversations[0].value",
            "text",
        ),
        (good(conversations=VISUAL[1:]), "conversations", "needs a human turn"),
        (good(conversations=[*VISUAL, *VISUAL]), "conversations", "2 times"),
        (good(conversations=TEXT), "conversations", "lacks <image>"),
        ({"conversations": VISUAL}, "conversations", "no video or image"),
    ],
)
def test_errors_name_file_record_and_field(sample, field, what, load):
    with pytest.raises(InputError) as error:
        load({"conversations": TEXT}, {"id": "odd", **sample})
    assert f"data.json, record 1 (id 'odd'): field {field!r}" in str(error.value)
    assert what in str(error.value)


def test_a_record_must_be_an_object(load):
    with pytest.raises(InputError, match=r"data.json, record 0: is \[1\]: expected an object"):
        load([1])


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            "{",
            "[",
            "[]",
            " [ ] x",
            f"[{GOOD}",
            f"[{GOOD},]",
            f"[{GOOD} {GOOD}]",
            f"[{GOOD}] x",
        ),
        *('{"a": 1}', "3", b"\xff\xfe", "[" * 100_000, '[{"a": "'),
    ],
)
def test_files_that_hold_no_samples(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"Data file .*bad.json (is not JSON|holds no samples)"):
        load_records(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "holds no samples"),
        (b"\n \n", "holds no samples"),
        (b'{"conversations": 3}\n{\n', "2 mistakes .*line 1: field 'conversations' .*line 2, is"),
        (b"\n{\n", "line 2, is not JSON"),
        (b"\xff\n", "line 1, is not JSON"),
        (b"[" * 100_000, "line 1, is not JSON"),
        (b"\n\n[1]\n", r"line 3: is \[1\]: expected an object"),
    ],
)
def test_lines_that_cannot_be_used(content, what, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad.jsonl[,:]? {what}"):
        load_records(path)


def test_lists_and_lines_are_read_alike(tmp_path):
    samples = [
        {"id": "ü 🌍", "video": "ü.mp4", "conversations": VISUAL, "scale": 0.5, "more": [1, {}]},
        {"conversations": TEXT},
        {"id": 2, "image": ["a.png", "b.png"], "conversations": VISUAL},
    ]
    (tmp_path / "list.json").write_text(json.dumps(samples, ensure_ascii=False, indent=2))
    (tmp_path / "bom.json").write_text(json.dumps(samples), encoding="utf-8-sig")
    lines = "\r\n\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8-sig")
    loaded = [load_records(tmp_path / name) for name in ("list.json", "bom.json", "lines.jsonl")]
    first, *others = [[record._replace(name="") for record in records] for records in loaded]
    assert others == [first, first]
    assert [record.video for record in first] == ["ü.mp4", "", ""]
    assert [record.images for record in first] == [(), (), ("a.png", "b.png")]
    assert loaded[0][2].name == f"{tmp_path}/list.json, record 2 (id 2)"
    assert loaded[2][2].name == f"{tmp_path}/lines.jsonl, line 5 (id 2)"


def test_records_are_a_sequence(load):
    records = load(*({"id": i, "conversations": TEXT} for i in range(5)))
    assert [record.name[-2] for record in records] == list("01234")
    assert next(reversed(records)) == records[4]
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    for index in (5, -1):
        with pytest.raises(IndexError):
            records[index]


def test_braces_and_stars(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.json").write_text(json.dumps([{"id": name, "conversations": TEXT}]))
    (tmp_path / "d{1,2}.json").write_text(json.dumps([{"id": "d", "conversations": TEXT}]))

    def names(pattern):
        return [record.name[-3] for record in load_records(tmp_path / pattern)]

    assert names("{c,a}.json") == ["c", "a"]
    assert names("[a-b]*.json") == ["a", "b"]
    assert names("d{1,2}.json") == ["d"]
    assert load_records(tmp_path / "{c,a}.json").counts == (2,)
    with pytest.raises(InputError, match=r"x.json does not exist"):
        names("{a,x}.json")
    with pytest.raises(InputError, match="no file matches"):
        names("x*.json")
    with pytest.raises(InputError, match="braces hold a list"):
        names("{a}.json")


def test_marks_of_several_pictures_may_stand_together(load):
    def text(value, images):
        turns = [{"from": "human", "value": value}, VISUAL[1]]
        return load({"image": images, "conversations": turns})[0].turns[0].text

    assert text("<image>\nWho?", ["a", "b"]) == "<image>\nWho?"
    assert text("<image>\n<image> <image>\nWho?", ["a", "b", "c"]) == "<image>\nWho?"
    for value, images in (("<image> and <image>", ["a", "b"]), ("<image><image>", ["a"])):
        with pytest.raises(InputError, match="contains <image> 2 times"):
            text(value, images)


def test_files_are_beside_their_data_file_or_under_a_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    samples = [{key: "x", "conversations": VISUAL} for key in ("video", "image")]
    (tmp_path / "data.json").write_text(json.dumps(samples))

    def roots(**options):
        return [record.root for record in load_records("~/data.json", **options)]

    assert roots() == [str(tmp_path)] * 2
    assert roots(video_root="~/v") == [str(tmp_path / "v"), str(tmp_path)]
    assert roots(image_root=tmp_path / "i") == [str(tmp_path), str(tmp_path / "i")]


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none.json does not exist: check data.path"):
        load_records(tmp_path / "none.json")


def test_links_may_lead_anywhere_inside_the_root_only(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
        (folder / "clip.mp4").touch()
    (root / "inner").symlink_to(root / "a")
    (root / "folder").symlink_to(outside)
    (root / "clip.mp4").symlink_to(outside / "clip.mp4")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link").symlink_to(root)

    assert resolve_inside(root, "inner/clip.mp4") == root / "a" / "clip.mp4"
    assert resolve_inside(tmp_path / "link", "a/clip.mp4") == root / "a" / "clip.mp4"
    for name in ("folder/clip.mp4", "clip.mp4", "../outside/clip.mp4", "/etc/passwd"):
        with pytest.raises(InputError, match="leads out of its folder"):
            resolve_inside(root, name)
    for name in ("loop", "loop/clip.mp4"):
        with pytest.raises(InputError, match="is a broken link"):
            resolve_inside(root, name)


def test_a_folder_of_frames_may_not_hold_a_link_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "frames").mkdir(parents=True)
    (root / "1.png").touch()
    (root / "frames" / "1.png").symlink_to("../1.png")
    file = StoredFile(str(root), "frames")
    with open_media(file) as found:
        assert found == root / "frames"
    for target in (tmp_path / "secret.png", "/etc/hosts", "../../secret.png", "2.png"):
        (root / "frames" / "2.png").unlink(missing_ok=True)
        (root / "frames" / "2.png").symlink_to(target)
        expected = (
            "is a broken link" if target == "2.png" else r"frames/2\.png leads out of its folder"
        )
        for use in (open_media(file).__enter__, lambda: fingerprint(file)):
            with pytest.raises(InputError, match=expected):
                use()


def test_null_is_absent(load):
    fields = ("id", "video", "image", "scale", "duration", "start", "system", "messages")
    text, video = load({"conversations": TEXT, **dict.fromkeys(fields)}, good(image=None))
    assert not text.has_visual
    assert (text.scale, text.name[-8:]) == (1.0, "record 0")
    assert video.video == "a.mp4"


def test_paths_may_be_written_as_on_windows(load):
    (record,) = load(good(video="a\\b\\c.mp4"))
    assert record.video == "a/b/c.mp4"


PARTS = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Who?"}]


@pytest.mark.parametrize(
    "sample",
    [
        {
            "video": "a.mp4",
            "conversations": [{"from": "human", "value": "<video>\nWho?"}, VISUAL[1]],
        },
        {"videos": ["a.mp4"], "conversations": VISUAL},
        {
            "messages": [
                {"role": "user", "content": "<video>\nWho?"},
                {"role": "assistant", "content": "Me."},
            ],
            "video": "a.mp4",
        },
        {
            "messages": [
                {"role": "user", "content": PARTS},
                {"role": "assistant", "content": [{"type": "text", "text": "Me."}]},
            ]
        },
    ],
)
def test_other_formats_mean_the_same(sample, load):
    (record,) = load(sample)
    assert record._replace(name="") == load(good())[0]._replace(name="")


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        ({"messages": 3}, "field 'messages' is 3: expected a list"),
        ({"messages": [3]}, "'messages\\[0\\]' has the role None"),
        ({"messages": [{"role": "system", "content": "x"}]}, "has the role 'system'"),
        ({"messages": [{"role": "user", "content": None}]}, "has the content None"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "parts of the types"),
        ({"messages": [], "conversations": TEXT}, "keep one of them"),
        (good(videos=["b.mp4"]), "names its video in two ways: keep field 'video'"),
        (good(messages=[{"role": "user", "content": PARTS}]), "names its video in two ways"),
        ({"videos": ["a.mp4", "b.mp4"], "conversations": VISUAL}, "expected one file's path"),
    ],
)
def test_other_formats_that_cannot_be_used(sample, what, load):
    with pytest.raises(InputError, match=what):
        load(sample)


def test_a_tag_of_html_is_no_mark(load):
    turns = [{"from": "human", "value": "What is <video>?"}, TEXT[1]]
    assert load({"conversations": turns})[0].turns[0].text == "What is <video>?"


@pytest.mark.parametrize("count", [2, 9, 10, 30])
def test_the_first_ten_mistakes_are_named_at_once(count, load, caplog):
    with pytest.raises(InputError) as told:
        load({"conversations": TEXT}, *({"id": "x" * 90, "video": i} for i in range(count)))
    message = str(told.value)
    assert len(message) <= 500
    assert message.isprintable()
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == min(count, 10)
    for number, line in enumerate(logged, start=1):
        assert f"data.json, record {number} (id 'xxx" in line
        assert line.endswith(f"field 'video' is {number - 1}: expected one file's path.")
        assert f"record {number} " in message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_field_twice_is_told(name, tmp_path):
    text = '{"video": "a.mp4", "video": "b.mp4", "conversations": []}'
    (tmp_path / name).write_text(f"[{text}]" if name.endswith("json") else text)
    with pytest.raises(InputError, match="field 'video' is given twice"):
        load_records(tmp_path / name)


def test_fields_of_turns_that_are_not_used_are_named(load, caplog):
    load({"conversations": [{**TEXT[0], "image": "a.png"}, TEXT[1]]})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("are not used: 'conversations[].image' (in 1 records).")


def test_fields_that_are_not_used_are_named(load, caplog):
    load(*({"vidoe": "a", "other": 1, "\ud800": 2, "source": 3, "conversations": TEXT},) * 2)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "data.json has fields that are not used: 'other' (in 2 records), 'vidoe' (in 2 records, did"
        " you mean 'video'?), '\\ud800' (in 2 records)."
    )


@pytest.mark.parametrize(
    ("name", "between"),
    [
        *(("a.jsonl", "\n"), ("a.JSONL", "\n"), ("a.ndjson", "\n"), ("a.jsonl.gz", "\n")),
        *(("a.NDJSON.GZ", "\n"), ("a.json", ","), ("a.Json.gz", ",")),
    ],
)
def test_kinds_of_files(name, between, tmp_path):
    text = between.join(json.dumps({"id": i, "conversations": TEXT}) for i in range(3))
    data = (f"[{text}]" if between == "," else text).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    assert [record.name[-2] for record in load_records(tmp_path / name)] == list("012")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"[" + b" " * 99)[:-9]],
    ids=["empty", "no gzip", "cut off"],  # Names with gzip data would vary.
)
def test_damaged_gzip_is_told(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"is incomplete gzip|holds no samples|is not JSON"):
        load_records(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_gzip_that_grows_without_end_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(gzip.compress(b" " * (1 << 26), compresslevel=1) * 9)
    with pytest.raises(InputError, match="is one JSON text of more than"):
        load_records(tmp_path / name)


@pytest.mark.parametrize(
    "pattern", ["{a,b}" * 40, "{0..999999999}", f"{{0..{'9' * 5000}}}", "{0..99999}{0..99999}"]
)
def test_braces_that_mean_too_much_are_refused(pattern, tmp_path):
    with pytest.raises(InputError, match=r"too many names|braces hold") as told:
        load_records(tmp_path / pattern)
    assert len(str(told.value)) <= 500


def test_a_range_that_goes_down_is_refused(tmp_path):
    with pytest.raises(InputError, match="braces hold a list"):
        load_records(tmp_path / "{5..3}.json")
