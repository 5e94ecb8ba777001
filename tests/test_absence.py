"""A client whose update cannot be used is an absent client, in every method and bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import METHODS, Options
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgsv_jax.core import simulation
from cgsv_jax.types import Trainer

N, ROUNDS, EPOCHS = 4, 4, 1
# What a round may be for a client. The first two send something that can be used.
GOOD, ZERO, LEAVES, NAN, ONE_NAN, ONE_INF, ALL_MINUS_INF, TOO_LONG, NAN_LOSS = range(9)
BROKEN = (NAN, ONE_NAN, ONE_INF, ALL_MINUS_INF, TOO_LONG, NAN_LOSS)


def trainer(model):
    """A step somewhere, by the client's key and model, broken as the order's first entry says.

    Not real training, whose program takes longer to compile than all the rest.
    """

    def update(key, params, opt_state, examples, order, round_, pull=None, with_gradient=False):
        kind = order[0, 0]
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        good = [
            0.1 * jax.random.normal(k, x.shape, x.dtype) - 0.05 * x
            for k, x in zip(keys, leaves, strict=True)
        ]

        def at_one_place(value):
            return [good[0].at[0].set(value), *good[1:]]

        deltas = jax.lax.switch(
            kind,
            [
                lambda: good,
                lambda: [jnp.zeros_like(x) for x in good],
                lambda: good,  # the server is told that it has left, see `rounds`
                lambda: [jnp.full_like(x, jnp.nan) for x in good],
                lambda: at_one_place(jnp.nan),
                lambda: at_one_place(jnp.inf),
                lambda: [jnp.full_like(x, -jnp.inf) for x in good],
                lambda: [jnp.full_like(x, 3e38) for x in good],  # finite, of infinite length
                lambda: [jnp.full_like(x, jnp.nan) for x in good],  # and so is its loss
            ],
        )
        loss = jnp.where(kind == NAN_LOSS, jnp.nan, 1.0 + jnp.sum(good[0]) ** 2)
        # Its own optimizer's state must not remember a round that was none.
        trained = jax.tree.unflatten(tree, deltas), opt_state + deltas[0][0], loss
        return (*trained, trained[0]) if with_gradient else trained

    return Trainer(lambda params: jnp.zeros(()), update, lambda round_: jnp.float32(0.1))


def program(name, tiny):
    """Some rounds as one compiled function of what every client does in each: kinds [T, N]."""
    data, clients = tiny.world()
    model = tiny.model_of(name)
    federation = tiny.federation(name, model, options=Options(rounds=ROUNDS - 1, removes=True))
    federation = federation._replace(trainer=trainer(federation.model))
    key = jax.random.key(3)

    def one_round(state, kinds):
        orders = jnp.broadcast_to(kinds[:, None, None], (N, EPOCHS, clients.mask.shape[1]))
        upload, optimizer = simulation.train(key, state, data, clients, federation, orders)
        gone = kinds == LEAVES
        upload = upload._replace(
            present=upload.present & ~gone,
            deltas=jnp.where(gone[:, None], 0.0, upload.deltas),
            norms=jnp.where(gone, 0.0, upload.norms),
        )
        optimizer = jnp.where(gone, state.optimizer, optimizer)
        state, record = simulation.serve(key, state, upload, optimizer, federation)
        return state, (record, state.clients, state.server)

    start = simulation.init(key, N, federation)
    return jax.jit(lambda kinds: jax.lax.scan(one_round, start, kinds))


KINDS = st.lists(
    st.lists(st.sampled_from([GOOD, GOOD, GOOD, ZERO, *BROKEN]), min_size=N, max_size=N),
    min_size=ROUNDS,
    max_size=ROUNDS,
)


@pytest.mark.parametrize("name", METHODS)
def test_a_broken_client_is_an_absent_one(name, tiny):
    """Any subsets of clients, broken in any way in any round, against the same ones leaving.

    It is one program, so that nothing but what they sent can tell the two apart; the others get
    the same bits, and everything that a later round starts from stays finite.
    """
    run = program(name, tiny)

    @settings(max_examples=40, derandomize=True, database=None, deadline=None)
    @given(KINDS)
    @example([[NAN] * N] * ROUNDS)  # nobody is left
    @example([[TOO_LONG, GOOD, GOOD, GOOD], *[[GOOD] * N] * (ROUNDS - 1)])
    @example([[GOOD] * N, [ONE_NAN, ONE_INF, NAN_LOSS, GOOD], [ZERO] * N, [GOOD] * N])
    def compare(kinds):
        kinds = np.array(kinds, np.int32)
        usable = (kinds == GOOD) | (kinds == ZERO)
        state, (record, models, servers) = run(kinds)
        left, (seen, *_) = run(np.where(usable, kinds, LEAVES).astype(np.int32))
        jax.tree.map(np.testing.assert_array_equal, state, left)
        for field in ("score", "reputation", "weight", "quota", "present", "norm", "energy"):
            np.testing.assert_array_equal(getattr(record, field), getattr(seen, field), field)
        for leaf in jax.tree.leaves((state, models, servers)):
            assert np.isfinite(leaf).all()
        for field in ("score", "reputation", "weight", "energy"):
            assert np.isfinite(getattr(record, field)).all(), field
        assert not np.any(np.asarray(record.present) & ~usable)
        assert not np.asarray(record.weight)[~usable].any()
        # Whoever sent nothing that can be used is where it was.
        before = np.concatenate([np.asarray(models[:1] * 0), np.asarray(models[:-1])])
        moved = np.any(np.asarray(models) != before, axis=2)
        assert not moved[1:][~usable[1:]].any()

    compare()
