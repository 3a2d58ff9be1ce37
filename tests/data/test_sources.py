"""LLaVA-format files: what is read, what is refused, and where paths may lead."""

import json

import pytest

from vxlpro_jax.config import InputError
from vxlpro_jax.data.chat import Turn
from vxlpro_jax.data.sources import load_records, load_visual_records, resolve_inside

VISUAL = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Me."}]
TEXT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]


@pytest.fixture
def load(tmp_path):
    def load(*samples):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(list(samples)))
        return load_records(path)

    return load


def test_records(load):
    video, image, text = load(
        {"id": 7, "video": "a/b.mp4", "conversations": VISUAL, "scale": 2, "source": "x"},
        {"image": "c.png", "conversations": VISUAL},
        {"conversations": TEXT},
    )
    assert (video.video, video.image, video.scale) == ("a/b.mp4", "", 2.0)
    assert video.turns == (Turn("human", "<image>\nWho?"), Turn("gpt", "Me."))
    assert video.name.endswith("data.json, record 0 (id 7)")
    assert (image.video, image.image, image.scale) == ("", "c.png", 1.0)
    assert (text.video, text.image) == ("", "")


def test_visual_records_need_no_text(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"video": "a.mp4"}, {"conversations": TEXT}, {"image": "c.png"}]))
    records = load_visual_records(path)
    assert [(r.video, r.image, r.turns) for r in records] == [("a.mp4", "", ()), ("", "c.png", ())]


def test_no_visual_record_at_all_is_told(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversations": TEXT}]))
    with pytest.raises(InputError, match="names no video and no image"):
        load_visual_records(path)


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
        ({"image": "../x.png", "conversations": VISUAL}, "image", "inside data.image_root"),
        (good(image="a.png"), "image", "beside field 'video'"),
        (good(scale="2"), "scale", "a number above 0"),
        (good(scale=True), "scale", "a number above 0"),
        (good(scale=0), "scale", "a number above 0"),
        (good(scale=float("nan")), "scale", "a number above 0"),
        ({"video": "a.mp4"}, "conversations", "expected a non-empty list"),
        (good(conversations=[]), "conversations", "expected a non-empty list"),
        (good(conversations="Hi"), "conversations", "expected a non-empty list"),
        (good(conversations=["Hi"]), "conversations[0]", "expected an object"),
        (good(conversations=[*VISUAL, {"value": "x"}]), "conversations[2].from", "'human' or"),
        (good(conversations=[{"from": "system"}]), "conversations[0].from", "'human' or 'gpt'"),
        (good(conversations=[{"from": "human"}]), "conversations[0].value", "expected text"),
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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "3", b"\xff\xfe"])
def test_files_that_hold_no_samples(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"Data file .*bad.json (is not JSON|holds no list)"):
        load_records(path)


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
    with pytest.raises(InputError, match="leads nowhere"):
        resolve_inside(root, "loop")
