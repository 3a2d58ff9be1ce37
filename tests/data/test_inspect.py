"""Tests the inspection of batches: shares, record names, targets, pictures and the command."""

import json
import random
import re

import numpy as np
import pytest
from helpers import chat, python, write_clip, write_dataset
from PIL import Image

from vxlpro_jax import inspect_data as command
from vxlpro_jax.config.schema import IGNORE_LABEL, IMAGE_TOKEN, STAMP_TOKENS, DataConfig
from vxlpro_jax.data.inspect import picture, text, view, words
from vxlpro_jax.data.loader.batches import stack_rows
from vxlpro_jax.data.loader.build import build_pipeline, tokenizer_for
from vxlpro_jax.data.loader.samples import RowShape, Sample
from vxlpro_jax.data.text.chat import Turn, encode_conversation, encode_stamps
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

SIZE = 28
LEARNED = (0xC2, 0x18, 0x5B)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_for(DataConfig())


@pytest.fixture
def make_sample(tokenizer):
    """Makes a sample with a given number of groups of 2 s, whose frames differ."""

    def make(groups, *, answer="left", seed=0) -> Sample:
        frames = np.random.default_rng(seed).integers(0, 256, (groups, 4, SIZE, SIZE, 3), np.uint8)
        mark = "<image>\n" if groups else ""
        turns = [Turn("human", f"{mark}Which way?"), Turn("gpt", answer)]
        ids, labels = encode_conversation(turns, tokenizer=tokenizer)
        stamps = encode_stamps(2.0 * np.arange(groups), tokenizer=tokenizer)
        return Sample(frames, stamps, ids, labels)

    return make


def stack(*rows, groups=8, text=160):
    return stack_rows(rows, shape=RowShape(groups=groups, text=text, image_size=SIZE))


def joined(spans, kind=None):
    return "".join(span.text for span in spans if kind in (None, span.kind))


# ---- Shares -------------------------------------------------------------------------------------


def test_account_of_a_batch_made_by_hand(make_sample):
    one, two, none = make_sample(3), make_sample(2, answer="right"), make_sample(0)
    usage = view.measure_usage(stack([one, two], [none]), tokens_per_group=16)
    ids = [len(sample.tokens) for sample in (one, two, none)]
    assert usage.samples == (2, 1)
    assert usage.groups == view.Usage(5, 16)
    assert usage.groups.share == 5 / 16
    assert usage.text == view.Usage(sum(ids), 320)
    # Groups replace the two image positions.
    assert usage.slots == (sum(ids) - 2 + 5 * 26, 320 + 16 * 26)
    labels = np.concatenate([one.labels, two.labels, none.labels])
    assert usage.targets == np.count_nonzero(labels != IGNORE_LABEL)


def test_shares_sum_to_one(make_sample):
    rng = random.Random(0)
    rows = [[make_sample(rng.randrange(1, 4)) for _ in range(rng.randint(1, 2))] for _ in range(9)]
    batch = stack(*rows)
    usage, shares = view.measure_usage(batch, tokens_per_group=4), picture.RowShares.of(batch)
    assert usage.groups.share + usage.groups.padding == pytest.approx(1)
    for use, counts, places in (
        (usage.groups, shares.groups, 8),
        (usage.text, shares.text, 160),
    ):
        assert {sum(row) for row in counts} == {places}
        assert sum(sum(row[1:]) for row in counts) == use.used
        assert [len(row) - 1 for row in counts] == [len(row) for row in rows]


def test_batch_without_text():
    frames = np.zeros((1, 4, SIZE, SIZE, 3), np.uint8)
    none = np.zeros(0, np.int32)
    batch = stack([Sample(frames, np.zeros((1, STAMP_TOKENS), np.int32), none, none)], text=0)
    usage = view.measure_usage(batch, tokens_per_group=4)
    assert (usage.text, usage.slots) == ((0, 0), (0, 0))
    assert usage.text.padding == 0
    told = words.describe_batch(batch, usage=usage, stats=words.LoadStats(0, 1.0, {}))
    assert "1 of 8 used" in told
    assert "text" not in told
    seen = view.view_sample(batch, tokenizer=None, row=0, number=1)
    assert (seen.stamps, seen.turns, seen.repeated) == ((), [], 3)
    assert "4 frames in 1 group(s), including 3 repeated" in words.describe_sample(seen)


def test_describe_batch(make_sample):
    batch = stack([make_sample(2)], [make_sample(4)])
    usage = view.measure_usage(batch, tokens_per_group=4)
    stats = words.LoadStats(3, 0.5, {"damaged": 2, "record": 1})
    told = words.describe_batch(batch, usage=usage, stats=stats)
    assert "made in 0.50 s: 4.0 samples/s" in told
    assert "6 of 16 used, 62.5% padding: packing efficiency 37.5%" in told
    assert f"uint8 [2, 8, 4, {SIZE}, {SIZE}, 3], {batch['frames'].nbytes:,} bytes" in told
    assert "2 damaged, 1 record" in told


# ---- Samples ------------------------------------------------------------------------------------


def test_view_sample_selects_by_row_and_number(make_sample):
    samples = [make_sample(1, answer="left", seed=1), make_sample(4, answer="right", seed=2)]
    batch = stack([make_sample(2)], samples)
    for number, sample in enumerate(samples, 1):
        seen = view.view_sample(batch, tokenizer=None, row=1, number=number)
        assert (seen.groups, seen.ids) == (len(sample.groups), len(sample.tokens))


def test_frames_stamps_and_text_of_a_sample(make_sample, tokenizer):
    seen = view.view_sample(
        stack([make_sample(3)]), tokenizer=tokenizer, row=0, number=1, name="a, 7"
    )
    assert seen.stamps == ("Time 0000.0s:", "Time 0002.0s:", "Time 0004.0s:")
    assert [shown.title for shown in seen.thumbnails[:5]] == [
        *("Time 0000.0s:", "+1", "+2", "+3", "Time 0002.0s:")
    ]
    told = words.describe_sample(seen)
    assert told.startswith("Row 0, sample 1: a, 7\n")
    assert "12 frames in 3 group(s); 4.0 s from the first stamp to the last" in told
    assert told.endswith("⟦<|im_start|>⟧assistant↵⟦left<|im_end|>↵⟧")
    assert "user↵<image>↵↵Which way?⟦" in told


def test_long_samples_show_first_frames_of_spaced_groups(make_sample, tokenizer):
    sample = make_sample(30)
    seen = view.view_sample(stack([sample], groups=30), tokenizer=tokenizer, row=0, number=1)
    assert len(seen.thumbnails) == view.MOST_THUMBNAILS
    titles = [shown.title for shown in seen.thumbnails]
    assert titles == sorted(titles)
    assert (titles[0], titles[-1]) == (seen.stamps[0], seen.stamps[-1])
    for shown in seen.thumbnails:
        np.testing.assert_array_equal(
            shown.pixels, sample.groups[seen.stamps.index(shown.title), 0]
        )
    assert " … Time 0058.0s:" in words.describe_sample(seen)


def test_repeated_frames_are_counted(make_sample):
    sample = make_sample(2)
    sample.groups[1, 2:] = sample.groups[1, 1]
    seen = view.view_sample(stack([sample]), tokenizer=None, row=0, number=1)
    assert [shown.repeats for shown in seen.thumbnails] == [False] * 6 + [True] * 2
    assert seen.repeated == 2


def test_targets_are_marked_exactly_where_labels_are(tokenizer):
    rng = random.Random(1)
    for _ in range(20):
        turns = [
            Turn(role, "".join(rng.choices("ab $é猫\n?", k=rng.randrange(1, 30))))
            for _ in range(rng.randint(1, 3))
            for role in ("human", "gpt")
        ]
        turns[0] = Turn("human", f"<image>\n{turns[0].text}")
        ids, labels = encode_conversation(turns, tokenizer=tokenizer)
        found = text.split_turns(ids, labels, tokenizer=tokenizer)
        assert len(found) == 1 + len(turns)
        spans = [span for turn in found for span in turn]
        for kind, of_kind in (
            ("target", labels != IGNORE_LABEL),
            ("context", (labels == IGNORE_LABEL) & (ids != IMAGE_TOKEN)),
        ):
            raw = "".join(_text_of(span, tokenizer) for span in _runs(ids, of_kind))
            assert joined(spans, kind) == raw
        assert joined(spans, "image") == "<image>"


def _runs(ids, of_kind):
    edges = np.flatnonzero(np.diff(of_kind)) + 1
    parts = zip(np.split(ids, edges), np.split(of_kind, edges), strict=True)
    return [part.tolist() for part, kind in parts if kind[0]]


def _text_of(ids, tokenizer):
    return tokenizer.backend.decode(ids, skip_special_tokens=False).replace("\n", "↵")


def test_control_characters_are_not_printed(tokenizer):
    ids = np.array(tokenizer.encode("a\x1b[31m\x07b\r\n"), np.int32)
    (span,) = text.split_kinds(ids, np.full(len(ids), IGNORE_LABEL), tokenizer=tokenizer)
    assert span == ("a�[31m�b�↵", "context")


def test_wrap_keeps_all_text():
    rng = random.Random(2)
    for _ in range(50):
        spans = [
            text.TextSpan("".join(rng.choices("abc 猫。 ", k=rng.randint(1, 40))), kind)
            for kind in rng.choices(["target", "context", "image"], k=rng.randint(1, 6))
        ]
        lines = text.wrap(spans, columns=20)
        assert all(text.width(joined(line)) <= 20 for line in lines)
        pieces = [span for line in lines for span in line]
        for kind in ("target", "context", "image"):
            assert joined(pieces, kind) == joined(spans, kind)
        assert joined(pieces) == joined(spans)
    assert text.wrap([text.TextSpan("one two", "context")], columns=5) == [
        *([text.TextSpan("one ", "context")], [text.TextSpan("two", "context")])
    ]


# ---- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples_per_row", [1, 3])
def test_record_names_match_the_row(tmp_path, samples_per_row):
    for count in range(3, 9):
        write_clip(tmp_path / f"v{count}.mp4", frames=2 * count, seed=count)
    (tmp_path / "v5.mp4").write_bytes(b"no video")
    records = [
        {"video": f"v{count}.mp4", "conversations": chat("<image>\nWho?", f"number {count}")}
        for count in range(3, 9)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    data = DataConfig(
        path=str(tmp_path / "data.json"),
        batch_size=2,
        max_frames=16,
        max_text_tokens=128,
        samples_per_row=samples_per_row,
        bad_sample_quota=0.2,
    )
    iterator = build_pipeline(data, image_size=SIZE, seed=0)
    tokenizer = iterator.source.reader.tokenizer
    try:
        for _ in range(6):
            before, batch = iterator.get_state(), next(iterator)
            after = iterator.get_state()
            counts = view.measure_usage(batch, tokens_per_group=4).samples
            for row, count in enumerate(counts):
                named = view.record_names(iterator.source, before=before, after=after, row=row)
                assert len(named) == count
                for number, name in enumerate(named, 1):
                    seen = view.view_sample(batch, tokenizer=tokenizer, row=row, number=number)
                    index = int(re.search(r"record (\d+)", name)[1])
                    assert joined(seen.turns[-1]).endswith(f"number {index + 3}<|im_end|>↵")
    finally:
        iterator.close()


# ---- Pictures -----------------------------------------------------------------------------------


def test_picture_grows_with_samples_and_colours_targets(make_sample, tokenizer, tmp_path):
    batch = stack([make_sample(1), make_sample(2)], [make_sample(0)])
    shares = picture.RowShares.of(batch)
    places = ((0, 1), (0, 2), (1, 1))
    samples = [view.view_sample(batch, tokenizer=tokenizer, row=r, number=n) for r, n in places]
    silent = [without_targets(sample) for sample in samples]
    path = tmp_path / "batch0.png"
    found = []
    for shown in (samples[:1], samples, silent):
        picture.draw_batch(shares, samples=shown, title="$a_$", path=path)
        with Image.open(path) as image:
            image.load()
            found.append((image.size, _count(image)))
    (width, low), _ = found[0]
    (same, high), learned = found[1]
    assert width == same > 1000
    assert 200 < low < high < 2000
    assert learned > 300
    # Only the one word of the legend is left.
    assert 0 < found[2][1] < learned / 4
    assert [file.name for file in tmp_path.iterdir()] == ["batch0.png"]


def without_targets(sample):
    """Returns the sample without targets."""
    turns = [[text.TextSpan(joined(turn), "context")] for turn in sample.turns]
    return sample._replace(turns=turns)


def _count(image):
    """Returns the number of pixels in the colour of targets."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return np.count_nonzero(np.abs(pixels - LEARNED).max(-1) < 8)


def test_unwritable_picture_is_an_error(make_sample, tmp_path):
    batch = stack([make_sample(1)])
    samples = [view.view_sample(batch, tokenizer=None, row=0, number=1)._replace(turns=[])]
    with pytest.raises(InputError, match=r"batch0\.png cannot be written"):
        picture.draw_batch(
            picture.RowShares.of(batch),
            samples=samples,
            title="",
            path=tmp_path / "missing" / "batch0.png",
        )


# ---- The command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_command_prints_and_draws(tmp_path):
    data, out = write_dataset(tmp_path), tmp_path / "out"
    process = python(
        *("-m", "vxlpro_jax.inspect_data", "--config=configs/stage2.py:tiny,batch=2,text=160"),
        *(f"--config.data.path={data}", "--config.data.samples_per_row=3"),
        *("--batches=2", f"--out={out}"),
    )
    told, mistakes = process.communicate()
    assert process.returncode == 0, mistakes
    assert len(re.findall(r"^Batch \d: ", told, re.M)) == 2
    assert "uint8 [2, 2, 4, 112, 112, 3], 602,112 bytes" in told
    assert "⟦red<|im_end|>↵⟧" in told
    assert f"{data}, record 1" in told
    assert sorted(file.name for file in out.iterdir()) == ["batch0.png", "batch1.png"]
    for file in out.iterdir():
        with Image.open(file) as image:
            image.load()
            assert image.width > 1000


@pytest.mark.slow
def test_command_without_text_and_with_a_bad_record(tmp_path, capsys):
    data = write_dataset(tmp_path)
    (tmp_path / "long.mp4").write_bytes(b"no video")
    argv = [
        *("inspect", "--config=configs/stage1.py:tiny,batch=3", f"--config.data.path={data}"),
        *("--config.data.bad_sample_quota=0.4", f"--out={tmp_path / 'out'}"),
        *("--config.eval_every=0", f"--config.data.cache_dir={tmp_path}"),
    ]
    for _ in range(2):  # Records that an earlier start has listed do not count.
        command.main(argv)
        told = capsys.readouterr().out
        assert "bad             1 " in told
        assert "im_start" not in told
        assert "short" not in told
    assert (tmp_path / "out" / "batch0.png").exists()


@pytest.mark.parametrize(
    ("flag", "said"), [("--batches=0", "batches"), ("--out={file}/in", "cannot be written")]
)
def test_bad_flags_are_an_error(flag, said, tmp_path):
    data = write_dataset(tmp_path)
    argv = ["inspect", "--config=configs/stage2.py", f"--config.data.path={data}"]
    with pytest.raises(InputError, match=said):
        command.main([*argv, flag.format(file=data)])
