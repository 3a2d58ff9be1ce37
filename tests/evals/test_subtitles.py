"""Tests subtitles shown with sampled frames."""

import random

import pytest

from vxlpro_jax.evals.subtitles import read_srt, subtitles_at
from vxlpro_jax.utils.errors import InputError

SRT = """1
00:00:00,000 --> 00:00:01,000
<font color="white" size=".72c">zero</font>

2
00:00:02,500 --> 00:00:03,000
plain
words

3
01:00:00,000 --> 01:00:01,500
<font color="white" size=".72c">late</font>
"""


@pytest.fixture
def read(tmp_path):
    def read(text=SRT):
        file = tmp_path / "a.srt"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_srt(file)

    return read


def at(cues, frames, profile):
    return subtitles_at(cues, frames=frames, fps=2.0, profile=profile)


def test_times_and_lines(read):
    cues = read()
    assert [(cue.start, cue.end) for cue in cues] == [(0, 1), (2.5, 3), (3600, 3601.5)]
    assert cues[1].text == "plain words"


def test_a_cue_covers_frames_from_its_start_to_before_its_end(read):
    assert at(read(), [1], "official") == "zero"
    assert at(read(), [2], "official") == ""  # Frame 2 is at 1.0 s, where the cue ends.
    assert at(read(), [5], "official") == "plain words"
    assert at(read(), [7200, 0, 1], "official") == "zero\nlate"


def test_legacy_shows_only_text_in_its_font_tag(read):
    assert at(read(), [0, 5, 7200], "legacy2025") == "zero\nlate"


def test_legacy_keeps_the_order_of_a_set(read):
    clocks = [f"00:{i // 60:02}:{i % 60:02}" for i in range(901)]
    blocks = [
        f'{i}\n{clock},000 --> {clock},999\n<font color="white" size=".72c">{i}</font>'
        for i, clock in enumerate(clocks)
    ]
    shown = at(read("\n\n".join(blocks)), [0, 10, 1800], "legacy2025")
    assert shown.split("\n") == [str(i) for i in {0, 5, 900}]


CUES = [(0.5, 2.0, "Café, 7!"), (2.0, 3.25, "42"), (3661.0, 3662.0, "2 - 3 of them")]


def clock(seconds, *, mark=","):
    whole = int(seconds)
    parts = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{parts}{mark}{round(1000 * (seconds - whole)):03}"


def srt(*, mark=",", counter="{}\n", arrow=" --> ", below="", between="\n"):
    cues = []
    for i, (start, end, text) in enumerate(CUES, start=1):
        times = f"{clock(start, mark=mark)}{arrow}{clock(end, mark=mark)}{below}"
        cues.append(f"{counter.format(i)}{times}\n{text}\n")
    return between.join(cues)


def webvtt(*, head="", **changes):
    return f"WEBVTT{head}\n\n{srt(mark='.', **changes)}"


DIALECTS = {
    "plain": srt(),
    "dots": srt(mark="."),
    "spaces in times": srt(mark=", ", arrow="-->"),
    "blank lines with spaces": srt(between=" \t\n"),
    "several blank lines": srt(between="\n\n\n"),
    "no blank lines": srt(between=""),
    "blank lines everywhere": srt().replace("\n", "\n\n"),
    "blank lines before": f"\n\n{srt()}",
    "spaces around counters": srt(counter="  {}  \n"),
    "no counters": srt(counter=""),
    "counters with gaps": srt(counter="{}7\n"),
    "positions": srt(below=" X1:100 X2:200"),
    "lines of Windows": srt().replace("\n", "\r\n"),
    "lines of old Macs": srt().replace("\n", "\r"),
    "lines with two returns": srt().replace("\n", "\r\r\n"),
    "no last line end": srt().rstrip(),
    "cut off before the times": f"{srt()}\n4\n",
    "WebVTT": webvtt(head=" - film\n\nNOTE of 3", counter="", below=" align:start"),
    "WebVTT with identifiers": webvtt(counter="scene {}\n"),
    "WebVTT with notes": webvtt(between="\nNOTE 5\n\n"),
    "WebVTT with tags": webvtt().replace("42", "<v Ann><c.loud>42</c>"),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_every_dialect_has_the_same_cues(dialect, encoding, read):
    assert read(DIALECTS[dialect].encode(encoding)) == CUES


@pytest.mark.parametrize("seed", range(20))
def test_text_is_kept_whatever_blank_lines_it_has(seed, read):
    draw = random.Random(seed)
    said = [[*draw.choices(["", " ", "a", "b 5", "9", "x --> y"], k=5), "end"] for _ in range(6)]
    text = ""
    for i, lines in enumerate(said, start=10):
        text += "\n".join((str(i), f"{clock(i)} --> {clock(i + 1)}", *lines, "", ""))
    assert [cue.text for cue in read(text)] == [" ".join(filter(str.strip, x)) for x in said]


def test_short_clocks_and_character_references_of_webvtt(read):
    (cue,) = read("WEBVTT\n\n01:02.500 --> 01:03.000\nA &amp; B\n")
    assert cue == (62.5, 63.0, "A & B")


def test_instructions_to_players_are_not_shown(read):
    cues = read("1\n00:00:00,000 --> 00:00:01,000\n{\\an8}<i>Hello</i>\n")
    assert at(cues, [0], "official") == "Hello"


@pytest.mark.parametrize("text", ["", " \n", "WEBVTT\n", "\ufeff"])
def test_a_file_may_have_no_cue(text, read):
    assert read(text) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1\nnow\ntext", "have no line with '-->' between times"),
        ("1\n00:00:0x,000 --> 00:00:01,000\ntext", "have invalid times '00:00:0x,000"),
        ("1\n00:00:00,000 --> soon\ntext", "have invalid times '00:00:00,000 --> soon"),
        (f"{SRT}\n4\n --> \ntext", "have invalid times ' --> '"),
        (f"{SRT}\n4\n\u0660\u0661:02 -->\ntext", "have invalid times"),
        (f"{SRT}\n4\n-00:00:01,000 --> 00:00:01,000\ntext", "have invalid times '-00:00"),
        ("Привет".encode("cp1251"), "unknown encoding: save them as UTF-8"),
        ("字幕".encode("gbk"), "unknown encoding: save them as UTF-8"),
        (b"1\0\0\xff", "unknown encoding: save them as UTF-8"),
        ("ab".encode("utf-16")[:-1], "unknown encoding: save them as UTF-8"),
    ],
)
def test_what_cannot_be_used_is_told(text, what, read):
    with pytest.raises(InputError, match=what):
        read(text)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_srt(tmp_path / "none.srt")
