"""Networks of flax.linen, flax.nnx and equinox: the library's own logits, and what is refused."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import cgsv_jax as cg
from cgsv_jax import models
from cgsv_jax.types import Examples

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (6, 4))
LABELS = jnp.array([0, 1, 1, 0, 1, 0])


class Linen(nn.Module):
    """A dense layer, a normalisation if any, dropout."""

    norm: type[nn.Module] | None = None
    rate: float = 0.5

    @nn.compact
    def __call__(self, inputs, train):
        x = nn.Dense(8)(inputs)
        if self.norm is nn.BatchNorm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        if self.norm is nn.GroupNorm:
            x = nn.GroupNorm(num_groups=2)(x)
        return nn.Dense(2)(nn.Dropout(self.rate, deterministic=not train)(x))


class NNX(nnx.Module):
    def __init__(self, rngs, rate=0.5, norm=None):
        self.layers = nnx.List([nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)])
        self.drops = nnx.List([nnx.Dropout(rate, rngs=rngs) for _ in range(2)])
        self.norm = norm and norm(8, rngs=rngs)

    def __call__(self, x):
        x = self.layers[0](self.drops[0](x))
        x = x if self.norm is None else self.norm(x)
        return self.layers[1](self.drops[1](nnx.relu(x)))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    drop: eqx.nn.Dropout
    second: eqx.nn.Linear
    activation: object

    def __init__(self, key, rate=0.5):
        first, second = jax.random.split(key)
        self.first = eqx.nn.Linear(4, 8, key=first)
        self.drop = eqx.nn.Dropout(rate)
        self.second = eqx.nn.Linear(8, 2, key=second)
        self.activation = lambda x: jax.nn.relu(x)  # another one in every module that is built

    def __call__(self, x, key=None):
        return self.second(self.drop(self.activation(self.first(x)), key=key))


def nnx_logits(key):
    module = NNX(nnx.Rngs(key))
    module.eval()
    return module(INPUTS)


OWN = {
    "linen": (
        lambda rate: models.from_linen(Linen(nn.GroupNorm, rate), (4,)),
        lambda key: Linen(nn.GroupNorm).apply(
            Linen(nn.GroupNorm).init(key, INPUTS, False), INPUTS, False
        ),
    ),
    "nnx": (lambda rate: models.from_nnx(lambda rngs: NNX(rngs, rate)), nnx_logits),
    "equinox": (
        lambda rate: models.from_equinox(lambda key: Equinox(key, rate)),
        lambda key: jax.vmap(eqx.nn.inference_mode(Equinox(key)))(INPUTS),
    ),
}
libraries = pytest.mark.parametrize("library", OWN)


@libraries
def test_logits_are_those_of_the_library(library):
    """Of every seed: a start, and the function of its code, are its own."""
    make, logits = OWN[library]
    model = make(0.5)
    for seed in (0, 7):
        key = jax.random.key(seed)
        chex.assert_trees_all_equal(model.apply(model.init(key), INPUTS), logits(key))
        traced = jax.jit(lambda key: model.apply(model.init(key), INPUTS))(key)
        chex.assert_trees_all_close(traced, logits(key), rtol=1e-5)


@libraries
def test_a_key_switches_dropout_on(library):
    model = OWN[library][0](0.5)
    params, inputs = jax.jit(model.init)(KEY), jnp.ones((3, 4))
    chex.assert_trees_all_equal(model.apply(params, inputs), model.apply(params, inputs))
    train = jax.jit(model.apply)
    draws = [train(params, inputs, jax.random.key(seed)) for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], model.apply(params, inputs))


def test_layers_of_nnx_drop_out_apart():
    """Layers that fork one stream have a key each, which a fresh one must not make the same."""

    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.drops = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])
            self.weight = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return self.weight * jnp.stack([drop(x) > 0 for drop in self.drops])

    model = models.from_nnx(Twice)
    first, second = model.apply(model.init(KEY), jnp.ones((8, 32)), KEY)
    assert 0.4 < first.mean() < 0.6
    assert not np.array_equal(first, second)


@libraries
def test_training_is_a_loop_of_ones_own(library):
    """`cg.trainer` of the adapted model does what gradient steps on the library's do."""
    model = OWN[library][0](0.0)
    params, order = model.init(KEY), jnp.array([[3, 1, 0, 5], [2, 4, 1, 0]])
    trainer = cg.trainer(model, optax.sgd, cg.decayed(0.5, 1.0), batch_size=2)
    examples = Examples(INPUTS, jnp.arange(6), LABELS)
    delta, _, _ = jax.jit(trainer.update)(
        KEY, params, trainer.init(params), examples, order, jnp.int32(0)
    )

    @jax.jit
    @jax.grad
    def slope(params, rows):
        logits = model.apply(params, INPUTS[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[rows]).mean()

    own = params
    for rows in order.reshape(-1, 2):
        own = jax.tree.map(lambda p, g: p - 0.5 * g, own, slope(own, rows))
    way = jax.tree.map(lambda new, old: new - old, own, params)
    assert min(float(jnp.abs(x).max()) for x in jax.tree.leaves(way)) > 1e-3
    chex.assert_trees_all_close(delta, way, atol=1e-6)


class Counts(eqx.Module):
    weight: jax.Array
    calls: jax.Array

    def __call__(self, x):
        return x @ self.weight


class Normal(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, x):
        return x


REFUSED = {
    "linen": (
        lambda: models.from_linen(Linen(nn.BatchNorm), (4,)),
        r"Linen keeps mutable collections \(batch_stats\).*GroupNorm in place of BatchNorm",
    ),
    "nnx": (
        lambda: models.from_nnx(functools.partial(NNX, norm=nnx.BatchNorm)),
        r"keeps arrays that are no nnx.Param \(norm.mean, norm.var\).*GroupNorm",
    ),
    "equinox": (
        lambda: models.from_equinox(lambda key: Normal(eqx.nn.BatchNorm(8, "b", mode="ema"))),
        r"Normal keeps arrays that are no parameters \(.*eqx.nn.State\)",
    ),
    "integers": (
        lambda: models.from_equinox(lambda key: Counts(jnp.ones((4, 2)), jnp.array(3))),
        r"Counts keeps arrays that are no parameters \(calls\)",
    ),
    "built": (
        lambda: models.from_equinox(Equinox(KEY)),
        r"build is a Equinox already, it must be a function key -> module",
    ),
    "other": (
        lambda: models.from_equinox(lambda key: Linen()),
        r"it gives a Linen of .*no equinox",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_parameter_is_refused_when_the_model_is_built(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_linen_without_a_mode_and_integer_inputs():
    class Text(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(2)(nn.Embed(11, 3)(inputs).mean(axis=1))

    model = models.from_linen(Text(), (6,), jnp.int32)
    tokens = jnp.arange(24).reshape(4, 6) % 11
    params = model.init(KEY)
    expected = Text().apply({"params": params}, tokens)
    chex.assert_trees_all_equal(model.apply(params, tokens), expected)
    assert model.apply(params, tokens, KEY).shape == (4, 2)


@pytest.fixture(scope="module")
def trained():
    """A short run of an nnx model, and its data."""
    data = cg.Dataset(INPUTS, LABELS, INPUTS, LABELS)
    clients = cg.partition.from_lists([[0, 1], [2, 3, 4], [5]])
    model = OWN["nnx"][0](0.0)
    trainer = cg.trainer(model, optax.sgd, cg.decayed(0.5, 1.0), batch_size=2)
    settings = cg.Settings(rounds=2, epochs=1, answers=True)
    federation = cg.Federation(model, trainer, cg.cgsv(gamma=0.5), settings)
    return model, jax.jit(lambda key: cg.run(key, data, clients, federation))(KEY)


def test_parameters_of_a_client_answer_as_the_client_does(trained):
    model, (state, _, evaluation) = trained
    for client in range(3):
        logits = model.apply(cg.params_of(state, client, model), INPUTS)
        right = jnp.argmax(logits, axis=1) == LABELS
        np.testing.assert_array_equal(right, evaluation.answers.right[-1, client])
    params = cg.params_of(state, "server", model)
    server = jnp.argmax(model.apply(params, INPUTS), axis=1) == LABELS
    assert server.mean() == evaluation.server_accuracy[-1]
    module = NNX(nnx.Rngs(5), 0.0)
    nnx.update(module, params)  # of the library's own kind
    chex.assert_trees_all_equal(module(INPUTS), model.apply(params, INPUTS))


def test_parameters_of_nobody_are_refused(trained):
    model, (state, *_) = trained
    other = models.mlp((4,), 2)
    several = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    for arguments, sentence in (
        ((state, 3, model), r"client is 3, it must be in 0\.\.2, or \"server\""),
        ((state, -1, model), "client is -1"),
        ((state, "first", model), "client is 'first'"),
        ((state, 0, other), r"model has \d+ parameters, it must have 58, those of the state"),
        ((several, 0, model), r"state holds \[2, 58\] parameters of several runs"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cg.params_of(*arguments)
