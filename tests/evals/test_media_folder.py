"""Annotations find the file that they name, and no other with a similar name."""

import unicodedata

import pytest

from vxlpro_jax.evals.media_folder import MediaFolder, MediaKind, stem_of
from vxlpro_jax.utils.errors import InputError

VIDEO, PICTURE, SUBTITLES = MediaKind.VIDEO, MediaKind.PICTURE, MediaKind.SUBTITLES


def found(root, name, kind=VIDEO, **options):
    return MediaFolder(root).find(name, kind=kind, **options).relative_to(root).as_posix()


@pytest.fixture
def files(tmp_path):
    """Makes empty files below a folder and returns the folder."""

    def make(*names):
        root = tmp_path / "videos"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    return make


SIDECARS = ["c.jpg", "c.webp", "c.info.json", "c.en.vtt", "c.srt", "c.txt", "c.mp4.part", "c.wav"]


@pytest.mark.parametrize("name", ["c", "c.mp4", "c.webm"])
def test_what_lies_beside_a_video_is_no_video(name, files):
    root = files(*SIDECARS, "other.mp4")
    with pytest.raises(InputError, match=rf"'{name}' is not in"):
        MediaFolder(root).find(name, kind=VIDEO)
    (root / "c.mkv").touch()
    assert found(root, name) == "c.mkv"


@pytest.mark.parametrize(
    ("name", "present", "right"),
    [
        ("s_1.5", ["s_1.mkv", "s_1.5.mp4"], "s_1.5.mp4"),
        ("s_1.5", ["s_1.mkv", "below/s_1.5.mp4"], "below/s_1.5.mp4"),
        ("s_1.5.mp4", ["s_1.mp4", "s_1.5.mkv"], "s_1.5.mkv"),
        ("v1.0.2", ["v1.0.mp4", "v1.0.2.WEBM", "v1.mp4"], "v1.0.2.WEBM"),
        ("a.b", ["a.mp4", "a.b.c.mp4", "a.b.mov"], "a.b.mov"),
        (".hidden", [".hidden.mp4", "hidden.mp4"], ".hidden.mp4"),
        ("x.", ["x.mp4", "x..mp4"], "x..mp4"),
    ],
)
def test_dots_belong_to_a_name(name, present, right, files):
    assert found(files(*present), name) == right


def test_a_dotted_name_without_its_file_is_missing(files):
    with pytest.raises(InputError, match=r"'s_1\.5' is not in"):
        MediaFolder(files("s_1.mkv")).find("s_1.5", kind=VIDEO)


@pytest.mark.parametrize("asked", ["NFC", "NFD", "NFKD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["café", "Ångström.mp4", "dir é/ü", "각.mp4"])
def test_names_are_compared_as_unicode_means_them(name, stored, asked, files):
    path = name if name.endswith(".mp4") else f"{name}.mp4"
    root = files(unicodedata.normalize(stored, path))
    folder, asked_name = MediaFolder(root), unicodedata.normalize(asked, name)
    (there,) = (file for file in root.rglob("*") if file.is_file())
    assert folder.find(asked_name, kind=VIDEO) == there
    assert folder.find_exact(unicodedata.normalize(asked, path)) == there


def test_a_folder_of_frames_is_a_video_and_another_folder_is_none(files):
    root = files("a/1.jpg", "a/2.jpg", "b/b.mp4", "c/notes.txt", "d/.hidden.png")
    assert found(root, "a") == "a"
    assert found(root, "b") == "b/b.mp4"
    for name in ("c", "d"):
        with pytest.raises(InputError, match="is not in"):
            MediaFolder(root).find(name, kind=VIDEO)
    with pytest.raises(InputError, match="is not in"):
        MediaFolder(root).find("a", kind=PICTURE)


def test_kinds_do_not_mix(files):
    root = files("a.mp4", "a.png", "a.vtt")
    assert found(root, "a") == "a.mp4"
    assert found(root, "a", PICTURE) == "a.png"
    assert found(root, f"{stem_of('a.mp4')}.srt", SUBTITLES) == "a.vtt"


def test_several_that_match_are_named(files):
    root = files("x/a.mp4", "y/a.mp4")
    with pytest.raises(InputError, match=r"matches x/a\.mp4, y/a\.mp4"):
        MediaFolder(root).find("a", kind=VIDEO)
    assert found(root, "a", hints=["y"]) == "y/a.mp4"


def test_a_windows_path_is_read(files):
    assert found(files("x/a.mp4", "y/a.mp4"), "y\\a.mp4") == "y/a.mp4"


@pytest.mark.parametrize(
    "name", ["../a.mp4", "/etc/hosts", "file:///etc/hosts", "http://x/a.mp4", "..\\a.mp4", "c:\\a"]
)
def test_a_name_that_leads_out_is_refused(name, files):
    folder = MediaFolder(files("b.mp4"))
    for find in (folder.find_exact, lambda name: folder.find(name, kind=VIDEO)):
        with pytest.raises(InputError, match="leads out of"):
            find(name)


@pytest.mark.parametrize("name", ["file:b.mp4", "concat:b.mp4", "b%d.mp4", "b*.mp4", "x" * 5000])
def test_a_name_is_taken_as_it_is(name, files):
    folder = MediaFolder(files("b.mp4", "b1.mp4"))
    for find in (folder.find_exact, lambda name: folder.find(name, kind=VIDEO)):
        with pytest.raises(InputError, match="is not in"):
            find(name)


def test_a_link_out_of_the_folder_is_refused(files, tmp_path):
    root = files("a/1.jpg", "inner.mp4")
    (tmp_path / "secret.mp4").touch()
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "a" / "2.jpg").symlink_to(tmp_path / "secret.mp4")
    (root / "within.mp4").symlink_to("inner.mp4")
    folder = MediaFolder(root)
    for name in ("link.mp4", "a"):
        for find in (folder.find_exact, lambda name: folder.find(name, kind=VIDEO)):
            with pytest.raises(InputError, match="leads out of its folder"):
                find(name)
    assert found(root, "within") == "within.mp4"
