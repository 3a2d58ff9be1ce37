"""Subtitles shown with sampled frames."""

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
        file.write_text(text)
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


def test_malformed_times_are_told(read):
    with pytest.raises(InputError, match="have the times 'now': mend them"):
        read("1\nnow\ntext")
