"""Seeds and settings are axes: one program in place of many runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import TABLES, Hyper

from cgsv_jax.config import schema
from cgsv_jax.core import grid, simulation
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Number

SEEDS, BETAS = 3, (0.5, 2.0, np.inf)


def stacked(rows):
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def settings_of(tiny):
    """Three settings that differ in every number, beta among them."""
    return [
        tiny.hyper(
            beta=beta, learning_rate=0.3 + 0.1 * i, decay=0.9 - 0.2 * i, gamma=0.5 - 0.1 * i,
            alpha=0.8 - 0.3 * i, floor=0.001 + 0.1 * i, norm_epsilon=0.1 * i,
            cosine_epsilon=0.2 * i,
        )
        for i, beta in enumerate(BETAS)
    ]  # fmt: skip


def run_of(tiny):
    data, clients = tiny.world((5, 3, 6))
    orders = tiny.orders(clients, 2, 2)

    def run(key, hyper):
        """Without evaluation, which is half of what there would be to compile."""
        federation = tiny.federation(model=tiny.softmax(), hyper=hyper)
        return jax.lax.scan(
            lambda state, given: simulation.round_(key, state, data, clients, federation, given),
            simulation.init(key, 3, federation),
            orders,
        )

    return run


def test_numbers_without_an_axis_are_for_all_settings():
    """The defaults of numbers are such; a grid of one that varies needs no more than it."""
    keys, betas = jax.random.split(jax.random.key(0), 2), jnp.array([1.0, 2.0, 3.0])
    hyper = Hyper(beta=betas)
    got = grid.grid(lambda key, hyper: hyper, keys, hyper)
    assert {x.shape for x in got} == {(2, 3)}
    np.testing.assert_array_equal(got.beta, [betas, betas])
    np.testing.assert_array_equal(got.q, np.full((2, 3), Hyper._field_defaults["q"]))
    alone = grid.grid(lambda key, hyper: hyper, keys, hyper._replace(beta=1.0))
    assert {x.shape for x in alone} == {(2, 1)}
    pairs = grid.runs(lambda key, hyper: hyper, keys, hyper._replace(beta=betas[:2]))
    assert {x.shape for x in pairs} == {(2,)}
    with pytest.raises(ValueError, match=r"numbers of \[2, 3\] points, it must be one length"):
        grid.grid(lambda key, hyper: hyper, keys, hyper._replace(alpha=betas[:2]))


def test_a_grid_is_its_runs(tiny):
    """3 seeds x 3 settings in one program against 9 calls of another, in x64.

    Two rounds of four steps of sums of at most 12 terms of order 1, (1 + lr)^8 = 15 for what later
    steps make of an error, and the division by an update's norm, .1 or more: 14,400 units of 2^-52.
    """
    with jax.enable_x64(True):
        run, keys, rows = (
            run_of(tiny),
            jax.random.split(jax.random.key(0), SEEDS),
            settings_of(tiny),
        )
        separate = jax.jit(run)
        got = jax.jit(lambda keys, hyper: grid.grid(run, keys, hyper))(keys, stacked(rows))
        want = [separate(key, row) for key in keys for row in rows]
        want = jax.tree.map(lambda *x: np.stack(x).reshape(SEEDS, len(rows), *x[0].shape), *want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=14_400 * 2.0**-52)
    state, record = got
    assert record.quota.shape == (SEEDS, 3, 2, 3)
    for axis in (0, 1):  # neither seeds nor settings collapsed into one
        assert np.abs(np.diff(state.server, axis=axis)).max(-1).min() > 1e-2


@pytest.mark.parametrize("width", [None, 1, 2, 5])
@pytest.mark.parametrize("carry", [False, True], ids=["from the start", "going on"])
def test_every_pair_is_in_its_place(width, carry):
    """Whatever the width; further arguments are shared by all, a carry belongs to its run."""
    keys = jax.random.split(jax.random.key(1), 3)
    hyper = Hyper(*(jnp.arange(4.0) + 10 * i for i in range(len(Hyper._fields))))
    state = {"w": jnp.arange(24.0).reshape(3, 4, 2)}

    def run(key, hyper, *rest):
        *mine, shared = rest
        total = sum(hyper) * shared
        return jax.random.bits(key), total, mine[0]["w"] if mine else None

    options = {"carry": state} if carry else {}
    bits, total, mine = grid.grid(run, keys, hyper, jnp.float32(2), width=width, **options)
    want = np.array([int(jax.random.bits(k)) for k in keys], np.uint32)
    np.testing.assert_array_equal(bits, np.tile(want[:, None], (1, 4)))
    np.testing.assert_array_equal(total, np.tile(2.0 * sum(hyper), (3, 1)))
    if carry:
        np.testing.assert_array_equal(mine, state["w"])


def test_every_number_reaches_the_run(tiny):
    """All of cgsv are traced, and a program that ignored one would not mention its variable."""
    jaxpr = jax.make_jaxpr(run_of(tiny))(jax.random.key(0), tiny.hyper()).jaxpr
    fields = jaxpr.invars[1:]
    mentioned = {str(v) for equation in jaxpr.eqns for v in equation.invars}
    ignored = {f for f, v in zip(Hyper._fields, fields, strict=True) if str(v) not in mentioned}
    # Other methods' numbers, those of other parts, and those of options that are off.
    reads = spec_lib.options_of(TABLES.algorithms["cgsv"], {}, TABLES.parts) | schema.TRAINING
    on = {n for n, o in reads.items() if isinstance(o, Number) and not o.switch}
    assert ignored == {*Hyper._fields} - on
