"""Whole tiny runs of every method against NumPy, so that changed arithmetic is noticed."""

import jax
import numpy as np
import oracle
import oracle_personal
import oracle_rivals
import oracle_second_wave_d
import pytest
from declared import METHODS, Hyper, Options
from test_rules import in_rounds, oracle_world

ROUNDS, EPOCHS, BATCH = 4, 2, 4
NUMBERS = {
    "gamma_decay": 0.9,
    "learning_rate": 0.3,
    "decay": 0.8,
    "gamma": 0.5,
    "alpha": 0.6,
    "beta": 2.0,
    "q": 1.5,
    "kappa": 0.3,
    "recovery": 0.0,  # nobody is sent the reference model, see test_iafl_recovery_...
    "removal": 0.9,  # cffl removes somebody in the first round
    "clip": 0.1,
    "growth": 0.7,
    "floor": 1e-3,
    "norm_epsilon": 0.0,
    "cosine_epsilon": 0.0,
    "selection_beta": 5.0,
}


def last_layer(features, classes):
    """Raveled as bias [C], kernel [F, C]: class c has entries C + f C + c, and c."""
    return [[*(classes + f * classes + c for f in range(features)), c] for c in range(classes)]


def test_every_method_has_an_oracle():
    """cgsv and its released setting have theirs in `test_three_whole_rounds`, the rest here.

    Those of `oracle_personal` are in test_personal and test_ditto, with absent clients, those of
    `oracle_second_wave_d` in test_second_wave_d.
    The server of witness is cgsv's with another measure, see `test_rounds_are_those_of_loops`.
    Submodels are of a network with hidden units, see test_fedsac.py and test_fedrac.py.
    """
    others = {"cgsv", "witness", "fedsac", "fedrac", *oracle_personal.METHODS}
    others |= {*oracle_second_wave_d.METHODS}
    assert {*oracle_rivals.RIVALS, *others} == set(METHODS)


@pytest.mark.parametrize("name", oracle_rivals.RIVALS)
def test_a_whole_run_is_the_oracles(name, tiny):
    """Four rounds from one start: ragged clients, short last batches, a decaying rate, in float64.

    What is drawn at random is taken from the run itself, and only that: the lots of random_reward,
    and which of the possible sets of others iafl chose. So is a quota on the edge of an integer.
    """
    data, clients = tiny.world(pad=2)
    orders = tiny.orders(clients, ROUNDS, EPOCHS)
    model, key = tiny.softmax(), jax.random.key(3)
    with jax.enable_x64(True):
        numbers = Hyper(**{f: np.float64(NUMBERS.get(f, 0.01)) for f in Hyper._fields})
        data = data._replace(
            inputs=np.float64(data.inputs),
            validation=(np.float64(data.validation[0]), data.validation[1]),
        )
        # Of fedavg_finetuned, the last round is alone; of cffl, it is beyond the end of growth.
        options = Options(rounds=ROUNDS - 1, removed="alone")
        federation = tiny.federation(name, model, numbers, options)
        start, seen = in_rounds(key, data, clients, orders, federation)
        params = model.init(jax.random.fold_in(key, 0))
    world = oracle_world(data, clients, params)
    np.testing.assert_array_equal(start.server, oracle.ravel(world["init_params"]))
    told = [
        {
            "drawn": np.float64(standing.score),
            "rewards": np.float64(download.rewards),
            "quota": np.asarray(download.quota),
        }
        for _, _, download, standing, _ in seen
    ]
    server = oracle_rivals.Server(
        clients.mask.sum(1),
        world["init_params"],
        oracle.softmax_logits,
        data.validation,
        last_layer(tiny.features, tiny.classes),
        rounds=ROUNDS - 1,
        options=oracle.Options(learning_rate=0.3, decay=0.8),
        **NUMBERS,
    )
    want = oracle_rivals.run(
        name, server, **world, orders=orders, told=told, batch=BATCH,
        gradient=oracle.softmax_gradient,
    )  # fmt: skip

    # As in `test_three_whole_rounds`: six steps a round, sums of at most 12 terms, four rounds, and
    # (1 + lr L)^steps with L <= 1 for amplification: 6 x 12 x 4 x 1.3^24 = 1.6e5 units of 2^-52,
    # and one norm or cosine that divides by what is at least .1: 4e-10. Float32 would be 1e-7 off
    # after one step.
    close = {"rtol": 0, "atol": 4e-10}
    for t, (state, upload, download, standing, record) in enumerate(seen):
        w = want[t]
        assert state.server.dtype == np.float64
        np.testing.assert_allclose(upload.deltas, w["deltas"], **close)
        if upload.start_loss is not None:
            np.testing.assert_allclose(upload.start_loss, w["start_loss"], **close)
        np.testing.assert_allclose(download.weights, w["weights"], **close)
        np.testing.assert_allclose(download.aggregate, w["aggregate"], **close)
        np.testing.assert_allclose(download.rewards, w["rewards"], **close)
        np.testing.assert_allclose(standing.reputation, w["reputation"], **close)
        np.testing.assert_allclose(record.reputation, w["reputation"], **close)
        np.testing.assert_allclose(state.server, w["server"], **close)
        np.testing.assert_allclose(state.clients, w["clients"], **close)
    moved = np.abs(want[-1]["clients"] - np.asarray(start.clients)).max(axis=1)
    assert moved.max() > 0.05  # something was learnt, so that all of this was of something
