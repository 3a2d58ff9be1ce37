"""The losses with the video and with blank videos equal training losses."""

import json

import jax
import numpy as np
import pytest
from helpers import MICRO, chat, write_dataset, write_model

from vxlpro_jax import prune as command
from vxlpro_jax.checkpoints.params import read_params
from vxlpro_jax.config.schema import IGNORE_LABEL, TrainConfig
from vxlpro_jax.curation.blind_loss import BLANKS, BlindScorer, reply_labels
from vxlpro_jax.data.loader.batches import stack_rows
from vxlpro_jax.data.loader.samples import RowShape, SampleReader
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro
from vxlpro_jax.training.losses import cross_entropy
from vxlpro_jax.training.objectives.sft import sft_loss
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

RATIO = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights, and `data.json`."""
    folder = write_model(tmp_path_factory.mktemp("model"), scale=0.1)
    records = json.loads(write_dataset(folder).read_text())[:3]
    records += [
        {"video": "long.mp4", "conversations": chat("<image>\nWhat moves?", "a red square")},
        {
            "video": "short.mp4",
            "conversations": [*chat("<image>\nWhat?", "red"), *chat("Which way?", "left")],
        },
        {"video": "long.mp4", "conversations": chat("<image>\nHow many?", "1 " * 40)},
        {"video": "missing.mp4", "conversations": chat("<image>\nWhat?", "red")},
        {"video": "long.mp4", "conversations": chat("<image>\nWhat?", "")},
    ]
    (folder / "data.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def records(folder):
    found = load_records(folder / "data.json")
    return [(number, found[number]) for number in range(len(found))]


@pytest.fixture(scope="module")
def scorer(folder):
    return BlindScorer.load(folder, max_frames=8, keep_ratio=RATIO, workers=2)


@pytest.fixture(scope="module")
def losses(scorer, records):
    return dict(scorer.score(records))


def reader(text):
    shape = RowShape(groups=2, text=text, image_size=MICRO.vision.image_size)
    return SampleReader.build(
        Tokenizer.from_folder(TINY_TOKENIZER), shape=shape, pinpoints="(1x1),...,(6x6)"
    )


@pytest.fixture(scope="module")
def params(folder):
    return read_params(folder / "params")


@jax.jit
def training_loss(params, batch):
    config = TrainConfig(model=MICRO, keep_ratio=(RATIO, RATIO))
    return sft_loss(params, batch, key=jax.random.key(1), config=config).value


@jax.jit
def plain_loss(params, batch, keep):
    """Computes the loss from all logits."""
    model = VideoXLPro(MICRO)
    fields = ("tokens", "token_segments", "stamp_ids", "group_segments")
    text = Text(**{name: batch[name] for name in fields}, keep_counts=keep)
    hidden = model.apply({"params": params}, batch["frames"], text)
    logits = model.apply({"params": params}, hidden, method="logits")
    return cross_entropy(logits, labels=batch["labels"]).mean


@pytest.mark.parametrize("number", range(6))
def test_losses_equal_training_losses(params, records, losses, number):
    """Each batch has one sample, with its frames or with blank ones, and labels of the replies."""
    read = reader(192)
    sample = read(records[number][1])
    sample = sample._replace(labels=reply_labels(sample, tokenizer=read.tokenizer))
    blanks = [sample._replace(groups=np.full_like(sample.groups, level)) for level in BLANKS]
    keep = int(len(sample.groups) * MICRO.tokens_per_group * RATIO)
    keep = np.array([[max(16, keep // 16 * 16)]], np.int32)
    for shown, found in (([sample], losses[number].seen), (blanks, losses[number].blind)):
        batches = [stack_rows([[one]], shape=read.shape) for one in shown]
        training = np.mean([training_loss(params, batch) for batch in batches])
        plain = np.mean([plain_loss(params, batch, keep) for batch in batches])
        assert found == pytest.approx(training, rel=5e-6)
        assert found == pytest.approx(plain, rel=5e-6)
    assert abs(losses[number].seen - losses[number].blind) > 1e-4


def test_reply_labels_are_the_replies(records):
    read = reader(192)
    for number, replies in ((3, ["a red square"]), (4, ["red", "left"])):
        sample = read(records[number][1])
        labels = reply_labels(sample, tokenizer=read.tokenizer)
        ids = [token for reply in replies for token in read.tokenizer.encode(reply)]
        assert labels[labels != IGNORE_LABEL].tolist() == ids
        chosen = labels != IGNORE_LABEL
        np.testing.assert_array_equal(labels[chosen], sample.labels[chosen])


def test_samples_that_cannot_be_scored_have_an_error(losses):
    assert losses.keys() == set(range(8))
    assert "missing.mp4 does not exist" in losses[6].error
    assert losses[7].error == "It has no reply."
    assert losses[6].seen is None
    assert losses[7].blind is None


def test_losses_do_not_depend_on_the_batch(scorer, records, losses):
    for number in (1, 4):
        [(_, alone)] = scorer.score([records[number]])
        np.testing.assert_allclose(alone[:2], losses[number][:2], rtol=1e-5)


def test_scorer_name_depends_on_the_settings(folder, scorer):
    assert scorer.name == BlindScorer.load(folder, max_frames=8, keep_ratio=RATIO).name
    assert scorer.name != BlindScorer.load(folder, max_frames=8, keep_ratio=1.0).name


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_frames": 6, "keep_ratio": 1.0}, "--max_frames is 6"),
        ({"max_frames": 8, "keep_ratio": 0.0}, "--keep_ratio is 0"),
    ],
)
def test_settings_out_of_range_are_an_error(folder, settings, complaint):
    with pytest.raises(InputError, match=complaint):
        BlindScorer.load(folder, **settings)


@pytest.mark.parametrize(("margin", "kept"), [("-1000", [0, 1, 2]), ("1000", [])])
def test_command_scores_with_the_model(folder, losses, tmp_path, margin, kept):
    """The margins exceed any loss, so that the decision is known even for an untrained model."""
    records = json.loads((folder / "data.json").read_text())[:3]
    (folder / "few.json").write_text(json.dumps(records))
    command.main(
        [
            *("--manifest", str(folder / "few.json"), "--out", str(tmp_path)),
            *("--checkpoint", str(folder)),
            *("--max_frames", "8", "--keep_ratio", str(RATIO), "--margin", margin),
            *("--num_workers", "1", "--min_seconds", "0"),
        ]
    )
    text = (tmp_path / "kept.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [records[i] for i in kept]
    rows = (tmp_path / "decisions.jsonl").read_text().splitlines()
    for number, row in enumerate(map(json.loads, rows)):
        assert row["rule"] == ("" if kept else "blind")
        assert row["loss_seen"] == pytest.approx(losses[number].seen, rel=1e-5)
        assert row["loss_blind"] == pytest.approx(losses[number].blind, rel=1e-5)
