"""Compares the model with the reference: all kinds of samples, alone and packed; gradients."""

import functools

import jax
import numpy as np
import pytest
import torch
from torch_reference.bridge import Batch, by_torch_name, pack, random_sample
from torch_reference.model import IMAGE

from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.video_xl_pro import VideoXLPro
from vxlpro_jax.training.losses import cross_entropy

pytestmark = pytest.mark.slow

GROUPS, SLOTS = 4, 40
KINDS = {
    "video": {"frames": 8, "keep_ratio": 0.7},
    "frames_not_in_fours": {"frames": 5, "keep_ratio": 0.83},
    "one_frame": {"frames": 1, "keep_ratio": 0.3},
    "picture": {"frames": 3, "is_picture": True},
    "picture_of_one_crop": {"frames": 1, "is_picture": True},
    "text": {},
}


@pytest.fixture(scope="module")
def samples(config):
    rng = np.random.default_rng(0)
    return {name: random_sample(rng, config=config, **kind) for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def rows(samples):
    """Two rows that mix lengths, kinds and padding."""
    return [
        [samples["frames_not_in_fours"], samples["text"], samples["picture_of_one_crop"]],
        [samples["picture"], samples["one_frame"]],
    ]


def total_loss(params, batch: Batch, *, config):
    """Returns the sum over the batch's targets, and their number."""

    def predict(model):
        return model.logits(model(batch.frames, batch.text))

    logits = VideoXLPro(config).apply({"params": params}, method=predict)
    loss = cross_entropy(logits, labels=batch.labels)
    return loss.mean * loss.targets, loss.targets


@pytest.fixture(scope="module")
def loss_and_gradient(config):
    """A function that is compiled once for the shapes that all tests pack into."""
    return jax.jit(jax.value_and_grad(functools.partial(total_loss, config=config), has_aux=True))


@pytest.fixture(scope="module")
def stages(config):
    """A function for the selected tokens, the decoder's input and all logits; compiled once."""

    @jax.jit
    def run(params, batch):
        def stages(model):
            selected = model.select(model.encode(batch.frames), batch.text)
            sequence = model.splice(selected, batch.text)
            return selected, sequence, model.logits(model.decode(sequence))

        return VideoXLPro(config).apply({"params": params}, method=stages)

    return run


def packed(rows, config) -> Batch:
    return pack(rows, size=config.vision.image_size, groups=GROUPS, slots=SLOTS)


def oracle_loss_and_gradient(oracle, samples):
    """Returns the sum over the targets of all samples, and its gradients."""
    oracle.zero_grad()
    total = sum(oracle(s).loss * sum(label >= 0 for label in s.labels) for s in samples)
    total.backward()
    grads = {name: p.grad for name, p in oracle.named_parameters()}
    return total.item(), grads


def assert_gradients_agree(ours, theirs, *, rtol=1e-7, atol=1e-10):
    """Compares norms of differences; a gradient that torch does not have counts as zero."""
    ours = by_torch_name(ours)
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        grad = np.zeros_like(ours[name]) if grad is None else grad.numpy()
        norm, error = np.linalg.norm(grad), np.linalg.norm(ours[name] - grad)
        assert error <= atol + rtol * norm, f"{name}: {error} of {norm}"


@pytest.mark.parametrize("name", KINDS)
def test_every_stage_of_a_sample_equals_torch(config, oracle, params, samples, stages, name):
    sample = samples[name]
    selected, sequence, logits = stages(params, packed([[sample]], config))
    with torch.no_grad():
        theirs = oracle(sample)
    length = len(theirs.inputs_embeds)
    assert sequence.layout.lengths[0] == length
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)
    close(sequence.embeddings[0, :length], theirs.inputs_embeds)
    close(logits[0, :length], theirs.logits, atol=1e-8)
    if sample.frames is not None:
        groups = len(theirs.scores) // 144
        close(selected.scores[0, :groups].ravel(), theirs.scores)
        kept = np.flatnonzero(selected.kept[0, :groups, 10:])
        np.testing.assert_array_equal(kept, theirs.kept)


def test_packed_loss_and_gradients_equal_torch(config, oracle, params, rows, loss_and_gradient):
    """Sums over five samples in two padded rows equal the sums of each sample alone."""
    (ours, targets), grads = loss_and_gradient(params, packed(rows, config))
    every = [sample for row in rows for sample in row]
    theirs, expected = oracle_loss_and_gradient(oracle, every)
    assert targets == sum(label >= 0 for s in every for label in s.labels)
    assert float(ours) == pytest.approx(theirs, rel=1e-10)
    assert_gradients_agree(grads, expected)


def test_gradient_of_a_sample_ignores_its_neighbours(
    config, oracle, params, rows, samples, loss_and_gradient
):
    """If only one of five samples has targets, the gradient is that of this sample alone."""
    batch = packed(rows, config)
    mine = batch.text.token_segments[0] == 3
    labels = np.full_like(batch.labels, -100)
    labels[0, mine] = batch.labels[0, mine]
    (ours, _), grads = loss_and_gradient(params, batch._replace(labels=labels))
    theirs, expected = oracle_loss_and_gradient(oracle, [samples["picture_of_one_crop"]])
    assert float(ours) == pytest.approx(theirs, rel=1e-10)
    assert_gradients_agree(grads, expected)


def test_text_alone_leaves_the_visual_half_without_gradient(
    config, oracle, params, samples, loss_and_gradient
):
    """Text-only samples, which crash the release, can be trained on; a row may even be empty."""
    rows = [[samples["text"], samples["text"], samples["text"]], []]
    (ours, _), grads = loss_and_gradient(params, packed(rows, config))
    theirs, expected = oracle_loss_and_gradient(oracle, [samples["text"]] * 3)
    assert float(ours) == pytest.approx(theirs, rel=1e-10)
    assert_gradients_agree(grads, expected)
    for part in ("vision", "dts", "projector", "selector"):
        for leaf in jax.tree.leaves(grads[part]):
            np.testing.assert_array_equal(leaf, 0)


def test_prefill_and_decode_steps_equal_torch(config, oracle, params, samples):
    """Compares greedy ids of two padded rows decoded together."""
    rows = [[samples["frames_not_in_fours"]], [samples["text"]]]
    batch, steps = packed(rows, config), 5
    slots = SLOTS + 154 * GROUPS + steps
    model = VideoXLPro(config)

    @jax.jit
    def start(params, batch):
        def prefill(model):
            sequence = model.assemble(model.encode(batch.frames), batch.text)
            cache = KVCache.empty(config.decoder, batch=2, slots=slots, dtype=np.float64)
            return model.prefill(sequence.embeddings, cache, sequence.layout.lengths - 1)

        return model.apply({"params": params}, method=prefill)

    @jax.jit
    def step(params, ids, cache):
        return model.apply({"params": params}, ids, cache, method="decode_step")

    logits, cache = start(params, batch)
    ids = []
    for _ in range(steps):
        ids.append(np.asarray(logits.argmax(-1)))
        logits, cache = step(params, ids[-1], cache)
    with torch.no_grad():
        for row, [sample] in enumerate(rows):
            theirs = oracle.greedy(oracle(sample).inputs_embeds, steps=steps)
            assert [int(step_ids[row]) for step_ids in ids] == theirs


def test_the_image_position_is_replaced_in_place(config, params, samples):
    """Text before and after the image surrounds the visual tokens, in order."""
    sample = samples["video"]
    text = packed([[sample]], config).text
    visual = np.zeros((1, GROUPS, 144, config.decoder.width))

    @jax.jit
    def assemble(params, visual, text):
        return VideoXLPro(config).apply({"params": params}, visual, text, method="assemble")

    layout = assemble(params, visual, text).layout
    image = sample.ids.index(IMAGE)
    sources = np.asarray(layout.sources[0, : layout.lengths[0]])
    assert sources[:image].tolist() == list(range(image))
    after = len(sample.ids) - image - 1
    assert sources[-after:].tolist() == list(range(image + 1, len(sample.ids)))
    assert (np.diff(sources[image:-after]) > 0).all()


def test_skipped_groups_shift_later_positions(config, params):
    """The second, third and last of six groups keep their positions among all six."""
    taken = [1, 2, 5]
    sample = random_sample(np.random.default_rng(5), config=config, frames=24, keep_ratio=1.0)
    long = pack([[sample]], size=config.vision.image_size, groups=6, slots=SLOTS).text
    short = long.replace(
        group_segments=long.group_segments[:, taken],
        stamp_ids=long.stamp_ids[:, taken],
        keep_counts=np.array([[3 * 144]], np.int32),
        skipped=np.array([[1, 1, 3]], np.int32),
    )

    def layout(text):
        visual = np.zeros((1, text.stamp_ids.shape[1], 144, config.decoder.width))
        apply = functools.partial(VideoXLPro(config).apply, {"params": params})
        layout = apply(visual, text, method="assemble").layout
        return layout.replace(sources=layout.sources[0], positions=layout.positions[0])

    where, whole = layout(short), layout(long)
    places = dict(zip(whole.sources.tolist(), whole.positions.tolist(), strict=True))
    length = int(where.lengths[0])
    for source, position in zip(where.sources.tolist()[:length], where.positions, strict=False):
        group, place = divmod(source - SLOTS, 154)
        same = source if source < SLOTS else SLOTS + 154 * taken[group] + place
        assert position == places[same]
