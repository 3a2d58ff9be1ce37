"""Compares the decoder with the reference over more than 512 positions, with and without cache."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_reference.bridge import params_of, randomized

from vxlpro_jax.models import kv_cache
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.qwen2 import Qwen2

LENGTH = 530


@pytest.fixture(scope="module")
def embeddings(config):
    return np.random.default_rng(0).standard_normal((2, LENGTH, config.decoder.width))


def every_position(x):
    return jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])


def decoder(config, params, *, backend="auto"):
    """Computes logits of embeddings, jitted."""
    model = Qwen2(config.decoder, backend)

    @jax.jit
    def run(params, x, positions, segments):
        def both(model, x):
            return model.logits(model(x, positions=positions, segments=segments))

        return model.apply({"params": params}, x, method=both)

    def logits(x, *, positions=None, segments=None):
        if positions is None:
            positions = every_position(x)
        return np.asarray(run(params["decoder"], x, positions, segments))

    return logits


def extend_with(model, params):
    """Calls `Qwen2.extend` with all positions of a piece, jitted."""

    @jax.jit
    def extend(x, cache):
        at = every_position(x)
        return model.apply({"params": params["decoder"]}, x, cache, query_index=at, method="extend")

    return extend


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("backend", ["xla", "chunked"])
def test_logits_equal_torch(config, embeddings, tied, backend):
    """The second vocabulary is one row larger, as some checkpoints have it."""
    sizes = dataclasses.replace(config.decoder, tied_head=tied, vocab_size=211 + (not tied))
    config = dataclasses.replace(config, decoder=sizes)
    oracle = randomized(config)
    theirs = torch.stack([oracle.decode(row) for row in torch.from_numpy(embeddings)])
    ours = decoder(config, params_of(oracle), backend=backend)(embeddings)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", ["xla", "chunked"])
def test_samples_of_a_row_do_not_see_each_other(config, oracle, params, embeddings, backend):
    """Two samples and padding in one row give the same logits as each sample alone."""
    bounds = (0, 290, 521)
    row = embeddings[:1]
    segments = np.zeros((1, LENGTH), np.int32)
    positions = np.zeros((1, LENGTH), np.int32)
    for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
        segments[:, start:stop] = index + 1
        positions[:, start:stop] = np.arange(stop - start)
    ours = decoder(config, params, backend=backend)(row, positions=positions, segments=segments)
    for start, stop in itertools.pairwise(bounds):
        theirs = oracle.decode(torch.from_numpy(row[0, start:stop])).detach().numpy()
        np.testing.assert_allclose(ours[0, start:stop], theirs, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_cache_equals_full_forward(config, params, embeddings):
    """Prefills rows of unequal length, then decodes one position at a time."""
    model, lengths, steps = Qwen2(config.decoder), np.array([520, 512], np.int32), 6
    full = decoder(config, params)(embeddings)
    extend = extend_with(model, params)
    logits = jax.jit(
        lambda hidden: model.apply({"params": params["decoder"]}, hidden, method="logits")
    )
    cache = KVCache.empty(config.decoder, batch=2, slots=LENGTH, dtype=embeddings.dtype)
    hidden, cache = extend(embeddings[:, :520], cache)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            logits(hidden)[row, :length], full[row, :length], rtol=0, atol=1e-9
        )
    cache = cache.replace(lengths=jnp.asarray(lengths))
    for step in range(steps):
        at = lengths + step
        hidden, cache = extend(embeddings[np.arange(2), at][:, None], cache)
        np.testing.assert_allclose(logits(hidden)[:, 0], full[np.arange(2), at], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [(521,), (1, 520), (128, 128, 265), (300, 1, 1, 219)])
def test_chunked_prefill_equals_one_pass(config, params, embeddings, pieces, monkeypatch):
    """This holds for all chunk lengths; the cache is read in blocks that do not divide them."""
    monkeypatch.setattr(kv_cache, "BLOCK", 96)
    model = Qwen2(config.decoder)
    cache = KVCache.empty(config.decoder, batch=2, slots=LENGTH, dtype=embeddings.dtype)
    assert cache.block == 96
    assert cache.keys.data.shape[2] % 96 == 0
    extend, hidden, start = extend_with(model, params), [], 0
    for size in pieces:
        read, cache = extend(embeddings[:, start : start + size], cache)
        start += size
        hidden.append(read)
    whole = jax.jit(
        lambda x: model.apply({"params": params["decoder"]}, x, positions=every_position(x))
    )(embeddings[:, :521])
    np.testing.assert_allclose(jnp.concatenate(hidden, axis=1), whole, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_an_int8_cache_is_close_to_an_exact_one(config, params, embeddings):
    """Each head's vector is rounded to a 127th of its maximum; later pieces read it back."""
    extend, exact, rounded = extend_with(Qwen2(config.decoder), params), [], []
    for kind, found in (("model", exact), ("int8", rounded)):
        cache = KVCache.empty(
            config.decoder, batch=2, slots=LENGTH, dtype=embeddings.dtype, kind=kind
        )
        for start in range(0, 512, 128):
            x = embeddings[:, start : start + 128]
            read, cache = extend(x, cache)
            found.append(read)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves((cache.keys, cache.values)))
        found.append(held)
    exact_bytes, rounded_bytes = exact.pop(), rounded.pop()
    width = config.decoder.head_dim
    assert rounded_bytes / exact_bytes == (width + 4) / (width * embeddings.dtype.itemsize)
    np.testing.assert_array_equal(exact[0], rounded[0])  # The first piece reads no cache.
    error = np.abs(np.stack(rounded) - np.stack(exact)).max() / np.std(exact)
    assert 1e-6 < error < 0.05


@pytest.mark.slow
def test_unscanned_layers_equal_scanned_ones(config, params, embeddings):
    apart = Qwen2(dataclasses.replace(config.decoder, scan_layers=False))
    leaves = dict(params["decoder"])
    stacked = leaves.pop("layers")
    for index in range(config.decoder.depth):
        leaves[f"layers_{index}"] = jax.tree.map(lambda leaf, at=index: leaf[at], stacked)
    cache = KVCache.empty(config.decoder, batch=2, slots=LENGTH, dtype=embeddings.dtype)
    arguments_of = {
        "__call__": {"positions": every_position(embeddings)},
        "extend": {"cache": cache, "query_index": np.array([[0, LENGTH - 1], [300, 2]])},
    }
    for method, arguments in arguments_of.items():
        scanned, unscanned = (
            jax.jit(functools.partial(model.apply, method=method))(
                {"params": weights}, embeddings, **arguments
            )
            for model, weights in ((Qwen2(config.decoder), params["decoder"]), (apart, leaves))
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12), scanned, unscanned
        )


def test_depth_does_not_change_the_program(config, params):
    """Layers are scanned, so the jaxpr of six layers is as long as that of two."""

    def equations(depth):
        sizes = dataclasses.replace(config.decoder, depth=depth)
        model = Qwen2(sizes)
        x = jax.ShapeDtypeStruct((1, 8, sizes.width), jnp.float32)
        ints = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        variables = jax.eval_shape(
            lambda x, p: model.init(jax.random.key(0), x, positions=p), x, ints
        )
        run = jax.make_jaxpr(lambda v, x, p: model.apply(v, x, positions=p))
        return str(run(variables, x, ints)).count("\n")

    assert equations(6) == equations(2)
