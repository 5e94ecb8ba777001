"""Units of networks: what they are, that they stay switched off, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import cgsv_jax as cg
from cgsv_jax import models
from cgsv_jax.core import local, vectors
from cgsv_jax.core import units as units_lib
from cgsv_jax.types import Examples, Trainer

KEY = jax.random.key(0)
SMALL = {
    "mlp": ((5,), {"hidden": (7, 6)}),
    "mnist_cnn": ((19, 18, 2), {}),
    "cifar_cnn": ((17, 16, 3), {}),
    "tutorial_cnn": ((17, 16, 3), {}),
    "text_cnn": ((8,), {"vocabulary": 9, "embedding": 4, "kernels": 5}),
}
CLASSES = 4


def built(name):
    shape, options = SMALL[name]
    return models.MODELS[name](shape, CLASSES, **options)


def submodel(name, params):
    shape, options = SMALL[name]
    recipe = {"input_shape": shape, "num_classes": CLASSES, **options}
    return models.submodel(name, recipe, params)


def row_of(name):
    dtype = jnp.int32 if name == "text_cnn" else jnp.float32
    return jax.ShapeDtypeStruct((1, *SMALL[name][0]), dtype)


def inputs_of(name, count, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, *SMALL[name][0])
    if name == "text_cnn":
        return jnp.int32(rng.integers(1, 9, shape))
    return jnp.float32(rng.normal(size=shape))


def keeping(units, share=0.5, seed=0):
    """[H] bool, at least one of every layer on and one off."""
    rng = np.random.default_rng(seed)
    parts = []
    for width in units.layers:
        keep = rng.random(width) < share
        keep[rng.permutation(width)[:2]] = True, False
        parts.append(keep)
    return np.concatenate(parts)


def tree_of(shapes, vector):
    parts = [vector[t.start : t.stop].reshape(t.shape) for t in vectors.tensors(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), parts)


def test_the_units_of_a_perceptron():
    """2 inputs, layers of 2 and 3 units, 2 classes; layers in order, bias before kernel."""
    units = models.mlp((2,), 2, hidden=(2, 3)).units()
    assert units.layers == (2, 3)
    feeds = [0, 1, 0, 1, 0, 1] + [2, 3, 4] * 3 + [-1] * 8
    reads = [-1] * 6 + [-1] * 3 + [0] * 3 + [1] * 3 + [-1] * 2 + [2, 2, 3, 3, 4, 4]
    times = [0] * 2 + [1] * 4 + [0] * 3 + [1] * 6 + [0] * 2 + [1] * 6
    for seen, expected in zip(units[:3], (feeds, reads, times), strict=True):
        np.testing.assert_array_equal(seen, expected)


def test_the_units_of_a_convolution():
    """Every entry by its name: channels, and the dense layer that reads them channel-major."""
    model = built("mnist_cnn")
    units = model.units()
    assert units.layers == (64, 16, 200)
    shapes = jax.eval_shape(model.init, KEY)
    feeds, reads, times = (tree_of(shapes, x) for x in units[:3])
    # (19, 18): the last row is not read; 16 x 16 responses, pooled to 8 x 8, then 2 x 2 to 1 x 1.
    assert np.all(feeds["conv1"]["kernel"] == np.arange(64))
    assert np.all(reads["conv1"]["kernel"] == -1)
    assert np.all(times["conv1"]["kernel"] == 16 * 16)
    assert np.all(feeds["conv2"]["kernel"] == 64 + np.arange(16))
    assert np.all(reads["conv2"]["kernel"] == np.arange(64)[:, None])
    assert np.all(times["conv2"]["kernel"] == 2 * 2)
    assert np.all(reads["fc1"]["kernel"] == 64 + np.arange(16)[:, None])
    assert np.all(feeds["fc2"]["kernel"] == -1)
    assert np.all(reads["fc2"]["kernel"] == 80 + np.arange(200)[:, None])
    wide = models.mnist_cnn((32, 32, 1)).units()  # 15 x 15, then 4 x 4 places of 16 channels
    shapes = jax.eval_shape(models.mnist_cnn((32, 32, 1)).init, KEY)
    read = tree_of(shapes, wide.reads)["fc1"]["kernel"]
    np.testing.assert_array_equal(read[:, 0], np.repeat(64 + np.arange(16), 4 * 4))


@pytest.mark.parametrize(
    "name", [n if n == "mlp" else pytest.param(n, marks=pytest.mark.long) for n in SMALL]
)
def test_a_model_says_of_its_units_what_it_does(name):
    """What a network is asked for agrees with what it says of zeros in what feeds a unit alone."""
    model = built(name)
    units = model.units()
    open_ = model._replace(units=lambda: units._replace(incoming=None))
    assert units_lib.units_of(open_, row_of(name)).incoming is (name != "mnist_cnn")
    assert units.incoming is (name != "mnist_cnn")


OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, optimizer, marks=() if name == "mlp" else pytest.mark.long)
        for name in ("mlp", "mnist_cnn", "cifar_cnn")
        for optimizer in OPTIMIZERS
    ],
)
def test_units_that_are_off_stay_off(name, optimizer):
    """100 steps of local training, bit for bit, by an optimizer that moved all of them before.

    All else moves as in the network without these units, in float64: sums of at most 800 terms of
    order 1 differ by 1e-13, and adam divides by 1e-8 at least, so that where a gradient is as small
    as that a step of .01 differs by 1e-7; as small as that are few, and seldom.
    """
    with jax.enable_x64(True):
        model, units = built(name), built(name).units()
        chosen = OPTIMIZERS[optimizer], local.decayed(0.01, 1.0)
        trainer = local.trainer(model, *chosen, batch_size=4)
        labels = jnp.int32(np.random.default_rng(1).integers(CLASSES, size=20))
        examples = Examples(jnp.float64(inputs_of(name, 20)), jnp.arange(20), labels)
        order = jnp.int32([np.random.default_rng(e).permutation(20) for e in range(20)])
        start = jax.tree.map(jnp.float64, model.init(KEY))
        shapes = jax.eval_shape(lambda: start)
        mask = np.asarray(units_lib.on(units, keeping(units)))
        update = jax.jit(trainer.update)

        def trained(params, state, update=update):
            delta, state, _ = update(KEY, params, state, examples, order, jnp.int32(0))
            return jax.tree.map(jnp.add, params, delta), state

        def forget(state):
            stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], state)
            state = local.forgotten(trainer, shapes, stacked, jnp.asarray(mask)[None])
            return jax.tree.map(lambda x: x[0], state)

        whole, gathered = trained(start, trainer.init(start))
        part = vectors.unraveler(shapes)(vectors.ravel(whole) * mask)
        after, state = trained(part, forget(gathered))
        before, vector = (np.asarray(vectors.ravel(tree)) for tree in (part, after))
        assert not np.any(vector[~mask])
        assert np.mean(vector[mask] != before[mask]) > 0.5
        for seen, again in zip(jax.tree.leaves(state), jax.tree.leaves(forget(state)), strict=True):
            np.testing.assert_array_equal(seen, again)  # nothing is gathered of them

        small = submodel(name, part)
        alike = local.trainer(small.model, *chosen, batch_size=4)
        theirs, _ = trained(small.params, alike.init(small.params), jax.jit(alike.update))
        ours, _ = trained(part, trainer.init(part))
        pair = vectors.ravel(theirs), vectors.ravel(submodel(name, ours).params)
        np.testing.assert_allclose(*pair, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "name", [n if n == "mlp" else pytest.param(n, marks=pytest.mark.long) for n in SMALL]
)
@pytest.mark.parametrize("incoming", [False, True])
def test_a_submodel_is_a_small_network_with_the_same_logits(name, incoming):
    """In float32 to 1e-6 of their size, with as many parameters and multiplications as are on."""
    model, units = built(name), built(name).units()
    keep = keeping(units, 0.4)
    start = vectors.ravel(model.init(KEY))
    unravel = vectors.unraveler(jax.eval_shape(model.init, KEY))
    params = unravel(start * np.asarray(units_lib.on(units, keep, incoming)))
    small, inputs = submodel(name, params), inputs_of(name, 6)
    np.testing.assert_array_equal(small.kept, keep)
    logits = np.asarray(model.apply(params, inputs))
    close = {"rtol": 0, "atol": 1e-6 * (1 + np.abs(logits).max())}
    np.testing.assert_allclose(small.model.apply(small.params, inputs), logits, **close)
    on = np.asarray(units_lib.on(units, keep))
    assert small.parameters == vectors.ravel(small.params).size == on.sum()
    assert small.flops == 2 * small.model.units().times.sum() == 2 * units.times[on].sum()
    assert small.model.units().layers == tuple(
        int(part.sum()) for part in np.split(keep, np.cumsum(units.layers)[:-1])
    )


def test_of_a_layer_that_is_off_one_unit_stays():
    model = built("mlp")
    params = model.init(KEY)
    params["fc1"] = jax.tree.map(jnp.zeros_like, params["fc1"])
    small = submodel("mlp", params)
    assert small.recipe["hidden"] == [1, 6]
    inputs = inputs_of("mlp", 3)
    np.testing.assert_allclose(
        small.model.apply(small.params, inputs), model.apply(params, inputs), atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: models.submodel("vit", {}, {}), "name is 'vit', it must be one of mlp, mnist_cnn"),
        (lambda: submodel("mlp", {"fc1": jnp.ones(3)}), "params have other names or shapes"),
        (lambda: models.cifar_cnn(widths=(3, 4)), r"cifar_cnn has 4 hidden layers, .* \(3, 4\)"),
        (lambda: models.text_cnn(kernels=(3, 4)), r"text_cnn has 3 convolutions, .* \(3, 4\)"),
    ],
)
def test_what_is_no_submodel_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


class Own(nn.Module):
    activation: object = nn.relu
    norm: bool = False

    @nn.compact
    def __call__(self, inputs):
        x = nn.Dense(6)(inputs)
        x = nn.LayerNorm(use_bias=False, use_scale=False)(x) if self.norm else x
        return nn.Dense(3)(self.activation(x))


def own(activation=nn.relu, norm=False, **changes):
    """A network of one's own with 4 inputs, 6 units, 3 classes, and what is said of its units."""
    said = models.mlp((4,), 3, hidden=(6,)).units()._replace(incoming=None)
    said = said._replace(**{k: np.int32(change(getattr(said, k))) for k, change in changes.items()})
    model = models.from_linen(Own(activation, norm), (4,))
    return model._replace(units=lambda: said)


ROW = jax.ShapeDtypeStruct((1, 4), jnp.float32)


@pytest.mark.parametrize(
    ("activation", "incoming"), [(nn.relu, True), (jnp.tanh, False), (nn.gelu, False)]
)
def test_the_units_of_ones_own_network_are_tried(activation, incoming):
    assert units_lib.units_of(own(activation), ROW).incoming is incoming
    assert units_lib.units_of(models.from_linen(Own(), (4,)), ROW) is None


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (own(nn.sigmoid), "do not stay 0"),
        (own(norm=True), "do not stay 0"),
        (
            own(feeds=lambda x: np.where(x >= 0, (x + np.arange(x.size) % 2) % 6, x)),
            "units is wrong",
        ),
        (own(reads=lambda x: -np.ones_like(x)), "those that read it alone, it is not off"),
        (own(reads=lambda x: x[:-1]), r"Units.reads is int32 \[50\]"),
        (own(feeds=lambda x: x + 1), "Units.feeds holds 6, it must hold -1 to 5"),
        (own(times=lambda x: -x), "Units.times holds -1"),
        (own()._replace(units=lambda: 3), "gives a int, it must give cg.Units"),
    ],
)
def test_what_are_no_units_is_refused(model, complaint):
    with pytest.raises(ValueError, match=complaint):
        units_lib.units_of(model, ROW)


def test_an_entry_is_on_if_both_of_its_units_are():
    units = models.mlp((2,), 2, hidden=(2, 3)).units()
    keep = np.array([[True, False, False, True, True], [False] * 5, [True] * 5])
    for row, seen, fed in zip(
        keep, units_lib.on(units, keep), units_lib.on(units, keep, incoming=True), strict=True
    ):
        for d, (feeds, reads) in enumerate(zip(units.feeds, units.reads, strict=True)):
            assert fed[d] == (feeds < 0 or row[feeds])
            assert seen[d] == (fed[d] and (reads < 0 or row[reads]))


PARAMS = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
HELD = jnp.asarray([[True, False, True, True, False, True, True], [False] * 7])


def forgotten(init):
    trainer = Trainer(init, lambda *_: None, lambda round_: round_)
    shapes = jax.eval_shape(lambda: PARAMS)
    full = jax.tree.map(lambda x: jnp.ones((2, *jnp.shape(x))), init(PARAMS))
    return local.forgotten(trainer, shapes, full, HELD)


def own_state(params):
    return {"count": jnp.zeros(2), "gathered": jax.tree.map(jnp.zeros_like, params)}


@pytest.mark.parametrize(
    "init",
    [
        optax.adam(0.1).init,
        optax.inject_hyperparams(optax.adam)(0.1).init,
        optax.masked(optax.adam(0.1), functools.partial(jax.tree.map, lambda _: True)).init,
        own_state,
    ],
)
def test_optimizers_forget_the_entries_that_are_off(init):
    """Every state like the parameters is 0 where an entry is off; counts and rates stay."""
    seen = forgotten(init)
    expected = {"a": HELD[:, :3] * 1.0, "b": HELD[:, 3:].reshape(2, 2, 2) * 1.0}
    likes = 0
    for leaf in jax.tree.leaves(seen):
        for like in expected.values():
            if leaf.shape == like.shape:
                np.testing.assert_array_equal(leaf, like)
                likes += 1
                break
        else:
            np.testing.assert_array_equal(leaf, 1)
    assert likes in (2, 4)


def test_a_parameter_that_is_not_optimized_has_no_state_to_forget():
    only_a = functools.partial(jax.tree_util.tree_map_with_path, lambda path, _: "a" in str(path))
    seen = forgotten(optax.masked(optax.trace(0.9), only_a).init)
    np.testing.assert_array_equal(jax.tree.leaves(seen)[0], HELD[:, :3])


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (lambda params: jnp.zeros_like(params["a"]), "Trainer.init does not say"),
        (vectors.ravel, "another form"),
        (optax.adafactor(0.1, min_dim_size_to_factor=1).init, "Trainer.init does not say"),
    ],
)
def test_a_state_whose_entries_cannot_be_told_is_refused(init, reason):
    with pytest.raises(ValueError, match=reason):
        forgotten(init)


def test_units_are_exported():
    assert cg.Units is units_lib.Units
