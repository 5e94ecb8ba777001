"""Every program of the package lowers for a TPU and for a GPU, which a CPU can find out.

Lowering is where an operation without a rule for the platform shows; that the numbers are right
there needs the hardware.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import CONTRIBUTIONS, GAMES, REWARDS

from cgsv_jax import models
from cgsv_jax.core import metrics, top_k
from cgsv_jax.experiment import bind, deal, names, programs
from cgsv_jax.models import words

pytestmark = pytest.mark.long

ACCELERATORS = ("tpu", "cuda")

# Every method, measure, reward, layout, precision and model once, on rows without a data set.
BASE = {"dataset": "synthetic", "synthetic_rows": 200, "clients": 4, "rounds": 2, "seeds": 1}
RUNS = {
    **{f"method {name}": {"algorithms": name} for name in names.TABLES.algorithms},
    "setting released": {"algorithms": "cgsv:released"},
    # The least core asks SciPy, on the host: JAX exports no program that calls back.
    **{f"measure {name}": {"contribution": name} for name in CONTRIBUTIONS if name != "least_core"},
    **{f"game {name}": {"contribution": "gtg_shapley", "game": name} for name in GAMES},
    **{f"reward {name}": {"reward": name} for name in REWARDS},
    **{f"layout {name}": {"layout": name} for name in ("all", "one", "balanced", "3")},
    **{f"precision {name}": {"precision": name} for name in names.TABLES.precisions},
    **{f"optimizer {name}": {"optimizer": name} for name in names.TABLES.optimizers},
    "two seeds and few evaluated": {"seeds": 2, "eval_clients": 2},
}


def lowers(function, *arguments):
    """The module of a function of these arguments for accelerators; abstract ones will do.

    One program for both kinds: what it does on each of them is two branches of it.
    """
    exported = jax.export.export(jax.jit(function), platforms=ACCELERATORS)(*arguments)
    assert exported.platforms == ACCELERATORS
    return exported.mlir_module()


def marked(name):
    """Methods and layouts are lowered in every full run, each of the other choices by night."""
    often = name.startswith(("method", "layout", "setting", "two"))
    return pytest.param(RUNS[name], id=name, marks=() if often else pytest.mark.nightly)


@pytest.mark.parametrize("asked", [marked(name) for name in RUNS])
def test_runs_lower_for_accelerators(asked):
    config = names.configure(**({"algorithms": "cgsv"} | BASE | asked))
    (task,), (method,) = deal.tasks(config), config.methods
    made = programs.programs(bind.bind(config, method, task))
    seeds = np.asarray(config.seeds, np.uint32)
    hyper = jax.tree.map(lambda x: np.repeat(x, len(seeds)), made.hyper)
    origin = jax.eval_shape(made.origin, seeds)
    lowers(made.origin, seeds)
    lowers(made.begin, seeds, hyper, origin)
    state = jax.eval_shape(made.begin, seeds, hyper, origin)
    module = lowers(functools.partial(made.segment, 2), seeds, hyper, state, made.shared)
    assert "stablehlo.while" in module


@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"mlp"}))
@pytest.mark.parametrize("training", [True, False])
def test_models_lower_for_accelerators(name, training):
    model = models.MODELS[name]()
    inputs = jax.ShapeDtypeStruct((8, 32, 32, 1 if name == "mnist_cnn" else 3), jnp.float32)
    if name == "text_cnn":
        inputs = jax.ShapeDtypeStruct((8, 56), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params, inputs):
        return jnp.sum(model.apply(params, inputs, jax.random.key(0) if training else None))

    lowers(jax.grad(loss) if training else loss, params, inputs)


@pytest.mark.parametrize("form", [words.plain_max, words.blocked_max])
def test_both_forms_over_words_lower_for_accelerators(form):
    """An accelerator takes the plain one; the model that is lowered here takes the CPU's."""
    tokens = jax.ShapeDtypeStruct((8, 56), jnp.int32)
    table, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((50, 6), (3, 6, 5)))

    def loss(table, kernel, tokens):
        return jnp.sum(form(tokens, table, kernel))

    lowers(jax.grad(loss, argnums=(0, 1)), table, kernel, tokens)


def test_metrics_and_masks_lower_for_accelerators():
    row = jax.ShapeDtypeStruct((7,), jnp.float32)
    lowers(metrics.fairness, row, row)
    # Long enough to be selected digit by digit on a CPU: elsewhere it is sorted.
    vector = jax.ShapeDtypeStruct((40_000,), jnp.float32)
    module = lowers(top_k.largest, vector, jax.ShapeDtypeStruct((7,), jnp.int32))
    assert "stablehlo.sort" in module
