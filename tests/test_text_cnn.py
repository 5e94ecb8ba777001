"""The text network: both forms of its pooling, padding, dropout, the contract, PyTorch."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax import models
from cgsv_jax.models import words

VOCABULARY, LENGTH, CLASSES = 40, 12, 3
SMALL = {"vocabulary": VOCABULARY, "embedding": 5, "kernels": 4}
FORMS = {"plain": words.plain_max, "blocked": words.blocked_max}


def sentences(batch, length=LENGTH, seed=0, full=False):
    """Tokens [B, L] of all lengths from 0 to L, or of length L."""
    rng = np.random.default_rng(seed)
    lengths = np.full(batch, length) if full else rng.integers(0, length + 1, batch)
    tokens = rng.integers(1, VOCABULARY, (batch, length))
    return np.where(np.arange(length) < lengths[:, None], tokens, words.PADDING).astype(np.int32)


def weights(seed=0, embedding=5, features=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(VOCABULARY, embedding)), rng.normal(size=(3, embedding, features))


def small(**changes):
    return models.text_cnn((LENGTH,), CLASSES, **SMALL | changes)


def loops(tokens, table, kernel):
    """What the pooling is, one window after another; and the first window that attains it."""
    pooled = np.full((len(tokens), kernel.shape[-1]), -np.inf)
    place = np.zeros(pooled.shape, int)
    for b, sentence in enumerate(tokens):
        count = np.sum(sentence != words.PADDING)
        embedded = np.where((sentence != words.PADDING)[:, None], table[sentence], 0)
        for j in range(max(1, count - 2)):
            response = np.einsum("he,hek->k", embedded[j : j + 3], kernel)
            place[b] = np.where(response > pooled[b], j, place[b])
            pooled[b] = np.maximum(response, pooled[b])
    return pooled, place


# ---------------------------------------------------------------- pooling


# One group and several, blocks that are cut, sentences as long as a window.
SIZES = [(1, 12), (5, 9), (70, 21), (3, 3), (33, 10)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("batch", "length"), SIZES)
def test_pooling_is_the_maximum_over_whole_windows(batch, length, form):
    """Values and gradients in float64: sums of 15 terms of order 1, over rows that share a word."""
    tokens, (table, kernel) = sentences(batch, length), weights()
    cotangent = np.random.default_rng(9).normal(size=(batch, 6))
    with jax.enable_x64(True):

        @jax.jit
        def value_and_gradients(table, kernel, cotangent):
            value, pull = jax.vjp(functools.partial(form, tokens), table, kernel)
            return value, *pull(cotangent)

        pooled, of_table, of_kernel = value_and_gradients(table, kernel, cotangent)
    expected, place = loops(tokens, table, kernel)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-13)
    table_gradient, kernel_gradient = np.zeros_like(table), np.zeros_like(kernel)
    for b, k in np.ndindex(*place.shape):
        for h in range(3):
            token = tokens[b, place[b, k] + h]
            if token != words.PADDING:
                kernel_gradient[h, :, k] += cotangent[b, k] * table[token]
                table_gradient[token] += cotangent[b, k] * kernel[h, :, k]
    np.testing.assert_allclose(of_table, table_gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(of_kernel, kernel_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_longer_padding_changes_nothing(form):
    """Sums of the same 15 terms; only the number of windows beside them differs."""
    tokens, (table, kernel) = sentences(9), weights()
    table, kernel = jnp.float32(table), jnp.float32(kernel)
    longer = np.pad(tokens, ((0, 0), (0, 17)))

    @jax.jit
    def value_and_gradients(tokens):
        value, pull = jax.vjp(functools.partial(form, tokens), table, kernel)
        return value, *pull(jnp.ones((9, 6)))

    both = value_and_gradients(tokens), value_and_gradients(longer)
    for short, long in zip(*both, strict=True):
        np.testing.assert_allclose(short, long, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_comes_through(form, bad):
    """A client that diverges is noticed by its numbers, so the maximum may not hide them."""
    tokens, (table, kernel) = sentences(8, full=True), weights()
    kernel[1, 2, 3] = bad
    pooled = jax.jit(form)(tokens, jnp.float32(table), jnp.float32(kernel))
    assert not np.isfinite(pooled[:, 3]).any()
    assert np.isfinite(pooled[:, :3]).all()


def test_clients_wait_for_the_one_with_the_most_words():
    """Under vmap the loops of several clients are one; nobody's numbers change."""
    table, kernel = (jnp.float32(x) for x in weights())
    tokens = np.stack([sentences(40, seed=0), sentences(40, seed=1, full=True)])
    gradient = jax.grad(lambda t, k, x: jnp.sum(words.blocked_max(x, t, k) ** 2), argnums=(0, 1))
    together = jax.jit(jax.vmap(gradient, in_axes=(None, None, 0)))(table, kernel, tokens)
    for i in range(2):
        alone = jax.jit(gradient)(table, kernel, tokens[i])
        for a, b in zip(together, alone, strict=True):
            # Sums of 40 x 6 x 3 terms of order 10 at most, in another order.
            np.testing.assert_allclose(a[i], b, rtol=0, atol=2e-3)


# ---------------------------------------------------------------- the network


def test_number_of_parameters():
    shapes = jax.eval_shape(models.text_cnn().init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 5_322_809
    assert shapes["embed"].shape == (16_583, 300)
    assert shapes["conv3"]["kernel"].shape == (3, 300, 128)
    assert shapes["fc1"]["kernel"].shape == (384, 5)


def test_parameters_start_as_torch_starts_them():
    model = models.text_cnn((9,), 2, vocabulary=500)
    params = jax.jit(model.init)(jax.random.key(1))
    table = np.float64(params["embed"])
    assert abs(table.mean()) < 5 / np.sqrt(table.size)
    assert abs(table.var() - 1) < 5 * np.sqrt(2 / table.size)
    for name, fan_in in (("conv1", 900), ("conv2", 900), ("conv3", 900), ("fc1", 384)):
        for leaf in params[name].values():
            assert float(jnp.abs(leaf).max()) <= fan_in**-0.5
            # The variance of n uniform draws has relative standard deviation sqrt(0.8 / n).
            assert abs(float(jnp.var(leaf)) * 3 * fan_in - 1) < 5 * np.sqrt(0.8 / leaf.size)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=re.escape("at least 3 tokens, got the shape (8, 8, 1)")):
        models.text_cnn((8, 8, 1), 10)
    with pytest.raises(ValueError, match=re.escape("got the shape (2,)")):
        models.text_cnn((2,), 10)
    for bad in ({"vocabulary": 0}, {"dropout": 1.0}, {"kernels": 0}):
        with pytest.raises(ValueError, match=r"a dropout in \[0, 1\), got 3, "):
            small(**bad)


def test_a_sentence_shorter_than_a_window_has_a_class():
    """Even one without words: its logits are the biases', and its gradient is finite."""
    model = small()
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = np.zeros((3, LENGTH), np.int32)
    tokens[1, :1], tokens[2, :2] = 7, (7, 8)
    apply = jax.jit(model.apply)
    logits = apply(params, tokens)
    assert np.isfinite(logits).all()
    assert len({tuple(row) for row in np.asarray(logits)}) == 3
    biases = jnp.concatenate([params[f"conv{i}"]["bias"] for i in (1, 2, 3)])
    expected = jax.nn.relu(biases) @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: apply(p, tokens, jax.random.key(1)).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # Words that nobody used, padding among them, stay where they are.
    moved = np.flatnonzero(np.abs(gradient["embed"]).sum(axis=1))
    assert set(moved) <= {7, 8}
    assert len(moved)


def test_a_key_switches_dropout_on():
    model, tokens = small(), sentences(6, full=True)
    params = jax.jit(model.init)(jax.random.key(0))
    apply, still = jax.jit(model.apply), jax.jit(small(dropout=0.0).apply)
    draws = [apply(params, tokens, jax.random.key(seed)) for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], apply(params, tokens))
    np.testing.assert_array_equal(still(params, tokens, jax.random.key(1)), still(params, tokens))


def test_contract():
    """Shapes without running, float32 whatever the default, clients under vmap."""
    model, tokens, key = small(), sentences(6), jax.random.key(0)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            shapes = jax.eval_shape(model.init, key)
            assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params = jax.jit(jax.vmap(model.init))(jax.random.split(key, 2))
    one = jax.tree.map(lambda x: x[1], params)
    for switch in (None, key):
        logits = jax.jit(model.apply)(one, tokens, switch)
        assert (logits.shape, logits.dtype) == ((6, CLASSES), jnp.float32)
        lifted = jax.jit(jax.vmap(lambda p, s=switch: model.apply(p, tokens, s)))(params)
        # At most 15 terms of order 1 in a response and 12 in a logit.
        np.testing.assert_allclose(lifted[1], logits, rtol=0, atol=1e-5)


def test_half_precision_is_near():
    """bfloat16 weights give bfloat16 logits near the others."""
    model = small()
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = sentences(6, full=True)
    apply = jax.jit(model.apply)
    half = apply(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), tokens)
    assert half.dtype == jnp.bfloat16
    # 2^-8 per rounding, some tens of terms of order 1/3.
    np.testing.assert_allclose(np.float32(half), apply(params, tokens), rtol=0, atol=0.15)


def test_round_trip_through_torch_layouts():
    params = jax.jit(small().init)(jax.random.key(0))
    arrays = models.params_to_torch(params)
    layers = ("conv1", "conv2", "conv3", "fc1")
    named = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(arrays) == ["embed.weight", *named]
    chex.assert_trees_all_equal(models.params_from_torch(arrays), params)
    assert arrays["conv2.weight"][3, 4, 1] == params["conv2"]["kernel"][1, 4, 3]
    np.testing.assert_array_equal(arrays["embed.weight"][7], params["embed"][7])
    with pytest.raises(ValueError, match=re.escape("'embed.weight' of shape (3, 4, 5, 6, 7)")):
        models.params_from_torch({"embed.weight": np.zeros((3, 4, 5, 6, 7))})


def test_torch_computes_the_same():
    """Logits and gradients in float64, on sentences of all lengths, from the same parameters."""
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    from benchmarks.pytorch.networks import TextCNN

    tokens, labels = sentences(40), np.arange(40) % CLASSES
    assert set(np.count_nonzero(tokens, axis=1)) >= {0, 1, 2, 3, LENGTH}
    network = TextCNN(VOCABULARY, SMALL["embedding"], SMALL["kernels"], CLASSES).double()
    with jax.enable_x64(True):
        model = small(dropout=0.0)
        params = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), jax.jit(model.init)(jax.random.key(3))
        )

        def loss(params):
            logits = model.apply(params, tokens, jax.random.key(0))
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -picked.mean(), logits

        gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    start = {name: torch.tensor(x) for name, x in models.params_to_torch(params).items()}
    network.load_state_dict(start)
    assert list(dict(network.named_parameters())) == list(start)  # so are the flat vectors
    theirs = network.logits(torch.tensor(tokens))
    torch.nn.functional.cross_entropy(theirs, torch.tensor(labels)).backward()
    np.testing.assert_allclose(logits, theirs.detach().numpy(), rtol=0, atol=1e-13)
    ours = models.params_to_torch(gradient)
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), rtol=0, atol=1e-13)
