"""FedSAC: rounds against NumPy loops, its known verdicts, and the code that implements it anew."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_submodels
import pytest
from declared import Hyper, Options
from test_rules import oracle_world

import cgsv_jax as cg
from cgsv_jax import models
from cgsv_jax.core import evaluation, simulation, vectors
from cgsv_jax.results import frames, tables
from cgsv_jax.rules import submodels
from cgsv_jax.rules.methods import fedsac

ROUNDS, EPOCHS, BATCH, N = 5, 2, 4, 4
ALONE = np.array([0.9, 0.35, 0.6, 0.8])
# Who has the most comes late, and the last is away while units are looked at again.
PRESENT = np.array([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
EVERYBODY = np.ones((ROUNDS, N), bool)


@pytest.mark.parametrize(
    ("present", "options"),
    [
        (PRESENT, {}),
        pytest.param(EVERYBODY, {"unit_order": "descending"}, marks=pytest.mark.long),
        pytest.param(PRESENT, {"prune_output": True}, marks=pytest.mark.long),
    ],
)
def test_rounds_are_those_of_loops(tiny, present, options):
    """In float64, with units of tanh; who stays away is not in the cohort."""
    data, clients = tiny.world(pad=1, noise=1.0)
    orders = tiny.orders(clients, ROUNDS, EPOCHS)
    model, key = tiny.mlp(hidden=8), jax.random.key(2)
    with jax.enable_x64(True):
        held = (np.float64(data.validation[0]), data.validation[1])
        data = data._replace(inputs=np.float64(data.inputs), validation=held)
        numbers = Hyper(**{f: np.float64(0.01) for f in Hyper._fields})
        numbers = numbers._replace(learning_rate=0.5, decay=0.8, steepness=3.0)
        federation = tiny.federation(
            *("fedsac", model, numbers, Options(importance_every=3, **options)), epochs=EPOCHS
        )
        params = model.init(jax.random.fold_in(key, 0))
        federation = tiny.attended(federation, present)
        start = simulation.init(key, N, federation)._replace(alone=jnp.asarray(ALONE))
        seen = tiny.played(key, data, clients, orders, federation, start)
    want = oracle_submodels.fedsac(
        **oracle_world(data, clients, params), orders=orders, alone=ALONE, validation=held,
        logits=oracle.mlp_logits, gradient=oracle.mlp_gradient, batch=BATCH, present=present,
        options=oracle.Options(learning_rate=0.5, decay=0.8), steepness=3.0, every=3,
        descending=options.get("unit_order") == "descending",
        with_output=options.get("prune_output", False), incoming=False,
    )  # fmt: skip
    # As in test_whole_runs, (1 + lr L)^steps for amplification: 6 x 12 x 5 x 1.5^30 = 7e7 units of
    # 2^-52 are 2e-8; and an importance is a difference of losses over their sum, above .01.
    close = {"rtol": 0, "atol": 2e-8}
    for (state, record), its in zip(seen, want, strict=True):
        np.testing.assert_allclose(state.algorithm.importance, its["importance"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(state.algorithm.keep, its["keep"])
        np.testing.assert_array_equal(record.quota, its["quota"])
        np.testing.assert_allclose(state.server, its["server"], **close)
        np.testing.assert_allclose(state.clients, its["clients"], **close)
        np.testing.assert_allclose(record.reputation, its["reputation"], **close)
        assert not np.any(np.asarray(state.clients)[its["clients"] == 0])
    assert len({tuple(row) for its in want for row in its["keep"]}) > 3


def test_what_is_recorded_of_the_other_code():
    """Allocation, importance and masked aggregation of YOVC/FedSAC, 2dd43da, on a small network.

    Its server ran (torch 2.13, float32) on a network of 5, 7, 6 and 4 units with five clients whose
    accuracies alone it was told; three rounds, each of which judges the units anew; the trained
    models were recorded. There units of the last layer count, and what feeds a unit alone is 0.
    """
    with np.load(Path(__file__).parent / "data" / "official_fedsac.npz") as arrays:
        theirs = dict(arrays)
    model = models.mlp((5,), 4, hidden=(7, 6))
    network = evaluation.network(model, (5,))
    algorithm = fedsac(network, float(theirs["beta"]), every=1, prune_output=True, mask="incoming")
    update = jax.jit(algorithm.update)
    state = algorithm.init(*theirs["allocated"][0].shape)
    units = submodels.with_output("", submodels.submodels("", network, "incoming"), network)
    for t in range(3):
        start, trained = theirs["allocated"][t], theirs["trained"][t]
        if t == 0:  # theirs are allocated before the first round
            keep = np.zeros((5, 17), bool)
            keep[:, :] = np.array(
                [[start[i][units.units.feeds == h].any() for h in range(17)] for i in range(5)]
            )
            state = state._replace(keep=jnp.asarray(keep))
        np.testing.assert_array_equal(units.masks(np.asarray(state.keep)), start != 0)
        upload = cg.Upload(
            server=jnp.asarray(theirs["server"][t]),
            clients=jnp.asarray(start),
            deltas=jnp.asarray(trained - start),
            norms=jnp.ones(5),
            scales=jnp.ones(5),
            present=jnp.ones(5, bool),
            num_examples=jnp.arange(5),
            loss=jnp.zeros(5),
            learning_rate=jnp.float32(0.1),
            validation=(jnp.asarray(theirs["inputs"]), jnp.asarray(theirs["labels"])),
            round=jnp.int32(t),
            alone=jnp.asarray(theirs["alone"]),
        )
        download, standing, state = update(jax.random.key(0), upload, state)
        after = theirs["server"][t + 1]
        np.testing.assert_allclose(upload.server + download.aggregate, after, atol=1e-6)
        if t < 2:  # a difference of losses, of 150 rows and 7 digits each, over a sum above .5
            np.testing.assert_allclose(state.importance, theirs["importance"][t + 1], atol=2e-3)
            np.testing.assert_allclose(
                upload.clients + download.rewards, theirs["allocated"][t + 1], atol=1e-6
            )
        earned = theirs["earned"] / theirs["earned"].sum()
        np.testing.assert_allclose(standing.reputation, earned, atol=1e-6)


def test_units_are_taken_until_they_are_worth_what_was_earned():
    """Worth 0, 5, 15, 30, 50 in ascending order; the one that crosses is taken, one always is."""
    worth = jnp.array([30.0, 0.0, 50.0, 5.0, 15.0])
    limits = jnp.array([0.0, 4.9, 5.0, 5.1, 20.0, 20.1, 50.1, 100.0])
    counts = [1, 2, 2, 3, 3, 4, 5, 5]
    ranked = jnp.argsort(worth)
    for taken, count in zip(submodels.within(ranked, worth, limits), counts, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(taken), np.sort(ranked[:count]))
    down = submodels.within(jnp.argsort(-worth), worth, jnp.array([50.0, 50.1, 100.0]))
    np.testing.assert_array_equal(down.sum(axis=1), [1, 2, 4])  # what is worth nothing is left


def test_what_is_earned():
    accuracy = np.array([0.2, 0.5, 0.9])
    for beta in (0.0, 1.0, 80.0):
        expected = 100 * np.exp(beta * accuracy) / np.exp(beta * 0.9)
        seen = submodels.earned(jnp.asarray(accuracy), jnp.float32(0.9), beta)
        np.testing.assert_allclose(seen, expected, rtol=2e-5)
    seen = submodels.earned(jnp.asarray(accuracy), jnp.float32(0.9), np.inf)
    np.testing.assert_array_equal(seen, [0, 0, 100])


def test_what_nobody_holds_stays_as_it_is(tiny):
    """The masked mean, entry by entry; absent clients do not count."""
    deltas = np.float32([[1, 2, 3, 4], [3, 4, 5, 6], [100, 100, 100, 100]])
    held = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    upload = tiny.upload(deltas, [1, 2, 3], [True, True, False])
    np.testing.assert_array_equal(submodels.masked_mean(upload, jnp.asarray(held)), [2, 2, 0, 6])


def test_importance_is_alike_where_no_unit_matters():
    seen = submodels.lossless(jnp.float32(1.0), jnp.float32([1.0, 0.5, 0.9, np.nan]))
    np.testing.assert_array_equal(seen, [25] * 4)
    seen = submodels.lossless(jnp.float32(1.0), jnp.float32([1.5, 2.5, 0.9, np.inf]))
    np.testing.assert_allclose(seen, [25, 75, 0, 0], rtol=1e-6)


def test_the_best_has_everything_and_a_smaller_part_of_the_reward_is_counted(tiny):
    """Quota and energy of the mask; at steepness 0 all are alike."""
    rng = np.random.default_rng(0)
    model = models.mlp((3,), 3, hidden=(8, 8))
    size = sum(tiny.sizes_of(model))
    server = rng.normal(size=size)
    clients = np.tile(server, (4, 1))
    upload = tiny.upload(rng.normal(size=(4, size)), [1] * 4, clients=clients, server=server)
    upload = upload._replace(alone=jnp.asarray(ALONE, jnp.float32))
    network = evaluation.network(model, (3,))
    for steepness in (0.0, 4.0):
        algorithm = fedsac(network, steepness)
        download, _, _ = jax.jit(algorithm.update)(
            jax.random.key(0), upload, algorithm.init(4, size)
        )
        moved = np.asarray(download.held) * np.asarray(download.aggregate)
        energy = (moved**2).sum(axis=1) / (np.asarray(download.aggregate) ** 2).sum()
        np.testing.assert_allclose(download.energy, energy, rtol=1e-5)
        np.testing.assert_array_equal(download.quota, download.held.sum(axis=1))
        order = np.argsort(ALONE)
        assert (np.diff(np.asarray(download.quota)[order]) >= 0).all()
        assert download.quota[0] == size
        assert (download.quota[1] == size) == (steepness == 0)


@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        (models.mlp((3,), 3, hidden=()), {}, "fedsac switches hidden units off, .* has none"),
        (models.mnist_cnn((18, 18, 1), 3), {"mask": "incoming"}, "whose gradient at 0 is 0"),
        (models.mlp((3,), 3)._replace(units=None), {}, r"give it model._replace\(units="),
        (models.mlp((3,), 3), {"mask": "out"}, "submodel_mask is 'out', it must be both or inc"),
        (models.mlp((3,), 3), {"order": "up"}, "order is 'up', it must be ascending or desc"),
        (models.mlp((3,), 3), {"standalone_on": "rows"}, "standalone_on is 'rows'"),
        (models.mlp((3,), 3), {"every": 0}, "every is 0, it must be a whole number from 1"),
    ],
)
def test_what_is_refused(model, options, complaint):
    shape = (18, 18, 1) if "incoming" in options.values() else (3,)
    with pytest.raises(ValueError, match=complaint):
        fedsac(evaluation.network(model, shape), **options)


@pytest.mark.long
def test_standalone_accuracies_may_be_of_the_test_rows(tiny):
    """Of validation rows unless asked for; and then a run needs none for that."""
    data, clients = tiny.world(noise=1.0)
    test = data._replace(test_inputs=data.inputs[:9], test_labels=data.labels[:9])
    orders, key = tiny.orders(clients, 2, 1), jax.random.key(4)
    asked = {"model": tiny.softmax(), "rounds": 2, "epochs": 1, "alone": True}
    federation = tiny.federation("iafl", options=Options(contribution_by="accuracy"), **asked)
    on_test = federation._replace(settings=federation.settings._replace(alone_on_test=True))
    swapped = test._replace(validation=(test.test_inputs, test.test_labels))
    seen = {}
    for name, data, chosen in (
        ("validation", test, federation),
        ("test", test._replace(validation=None), on_test),
        ("swapped", swapped, federation),
    ):
        state = simulation.init(key, N, chosen)
        trained = jax.jit(simulation.train_alone, static_argnums=(4, 5))
        state = trained(key, state, data, clients, chosen, 2, orders)
        seen[name] = np.asarray(state.alone)
    np.testing.assert_array_equal(seen["test"], seen["swapped"])
    assert np.any(seen["test"] != seen["validation"])
    for on in ("validation", "test"):
        needs = cg.METHODS["iafl"].build(by="accuracy", standalone_on=on).needs
        assert (needs.alone, needs.rows) == (True, on == "validation")


def test_what_clients_models_cost_is_in_the_table():
    """Parameters and FLOPs of the small networks, from a run whose cohort leaves somebody out."""
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 3
    inputs = np.float32(np.eye(3)[labels] + rng.normal(0, 0.7, (60, 3)))
    data = cg.Dataset(inputs, labels, inputs[::2], labels[::2], (inputs[1::2], labels[1::2]))
    clients = cg.partition.from_lists([range(0, 9, 3), [1, 2, 4], range(9, 30), range(30, 60)])
    result = cg.compare(
        *(data, clients, None, "fedsac"), rounds=3, seeds=1, cohort=3, steepness=20.0, hidden=(9,),
        quiet=True, save_models=True,
    )  # fmt: skip
    (cell,) = (own for own in result.cells if own.method == "fedsac")
    table = frames.clients_frame([cell])
    recipe = {"input_shape": (3,), "num_classes": 3, "hidden": (9,)}
    model = models.built(models.MODELS["mlp"], recipe)
    unravel = vectors.unraveler(jax.eval_shape(model.init, jax.random.key(0)))
    for i, row in enumerate(table.iter_rows(named=True)):
        small = models.submodel("mlp", recipe, unravel(jnp.asarray(cell.models[1][0, i])))
        assert (row["parameters"], row["flops"]) == (small.parameters, small.flops)
    assert table["parameters"].n_unique() > 1
    shown = tables.clients_of(table)
    assert {"fedsac parameters", "fedsac kFLOPs"} <= set(shown.columns)
    other = [own for own in result.cells if own.method != "fedsac"]
    shown = frames.clients_frame(other)
    assert shown["parameters"].null_count() == len(shown)
