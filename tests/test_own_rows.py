"""Rows that a client holds out for itself: which they are, and what its model makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import polars as pl
import pytest

from cgsv_jax.command import main
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import participation, simulation
from cgsv_jax.data import partition
from cgsv_jax.experiment import deal, names, running
from cgsv_jax.results import frames, tables
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.types import Clients

SMALL = {
    **{"dataset": "digits", "clients": 5, "rounds": 2, "epochs": 1, "hidden": (8,), "seeds": 1},
    **{"partitions": "class_imbalance", "own_test_share": 0.25, "algorithms": "standalone,fedper"},
}


def dealt(rows, share, labels=None, seed=0):
    mask = np.array([[x >= 0 for x in own] for own in rows])
    rows = np.where(mask, rows, 0).astype(np.int32)
    clients = Clients(rows, mask, labels=labels)
    return clients, partition.hold_out(np.random.default_rng(seed), clients, share)


@pytest.mark.parametrize(
    ("held", "share", "tested"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 0.25, 2),
        ([1, 2, 3, 4, 5, 6, 7, 8], 0.99, 7),  # one is left to train on
        ([1, 2, 3, 4, 5, 6, 7, 8], 1e-9, 1),
        ([1, 2, -1, -1, -1, -1, -1, -1], 0.25, 1),
        ([3, -1, -1, -1, -1, -1, -1, -1], 0.25, 0),
        ([3, 3, 3, 3, -1, -1, -1, -1], 0.25, 0),  # one row, four times
        ([3, 3, 5, 5, 5, 6, 7, 7], 0.5, 2),  # four rows
    ],
)
def test_of_every_client_some_distinct_rows_are_held_out(held, share, tested):
    for seed in range(5):
        before, after = dealt([held, [0, 1, 2, 3, 4, 5, 6, 7]], share, seed=seed)
        for client in range(2):
            trains = after.rows[client][after.mask[client]]
            own = after.own_rows[client][after.own_mask[client]]
            held_before = before.rows[client][before.mask[client]]
            assert not {*trains} & {*own}
            assert len({*own}) == len(own)
            # What stays stays as often as before, and in its order.
            stays = [row for row in held_before if row not in own]
            assert trains.tolist() == stays
            assert {*trains} | {*own} == {*held_before}
            for mask in (after.mask[client], after.own_mask[client]):
                assert (np.diff(mask.astype(int)) <= 0).all()  # to the left
        assert after.own_mask[0].sum() == tested
        assert after.sizes[0] >= 1


def test_every_row_is_as_likely_and_labels_go_with_their_rows():
    counts = np.zeros(9)
    for seed in range(400):
        labels = np.arange(9, dtype=np.int32)[None] + 10
        _, after = dealt([list(range(9))], 1 / 3, labels, seed)
        own = after.own_rows[0][after.own_mask[0]]
        counts[own] += 1
        assert (after.own_labels[0][after.own_mask[0]] == own + 10).all()
        assert (after.labels[0][after.mask[0]] == after.rows[0][after.mask[0]] + 10).all()
    # 400 draws of 3 of 9: a deviation is sqrt(400 2/9) = 9.4, and the test allows five.
    assert np.abs(counts - 400 / 3).max() < 47


def test_nothing_is_held_out_of_a_share_of_0():
    before, after = dealt([[1, 2, 3]], 0.0)
    assert after is before
    held, _ = dealt([[1, 2, 3]], 0.0)
    _, once = dealt([[1, 2, 3]], 0.5)
    with pytest.raises(ValueError, match="must be 0: clients have such rows already"):
        partition.hold_out(np.random.default_rng(0), once, 0.5)
    with pytest.raises(ValueError, match="own_test_share is 1"):
        partition.hold_out(np.random.default_rng(0), held, 1.0)


def world(tiny):
    """Four clients who keep 3, 0, 5 and 1 rows, of which some are told otherwise."""
    data, clients = tiny.world()
    rng = np.random.default_rng(1)
    mask = np.arange(5) < np.array([3, 0, 5, 1])[:, None]
    rows = np.where(mask, rng.integers(len(data.labels), size=mask.shape), 0).astype(np.int32)
    labels = rng.integers(3, size=mask.shape).astype(np.int32)
    return data, clients._replace(own_rows=rows, own_mask=mask, own_labels=labels)


def by_hand(models, data, clients, like):
    """Accuracies, a client and a row at a time."""
    found = []
    for model, rows, mask, labels in zip(
        models, clients.own_rows, clients.own_mask, clients.own_labels, strict=True
    ):
        params = oracle.unravel(np.float64(model), like)
        right = [
            oracle.mlp_logits(params, np.float64(data.inputs[row][None])).argmax() == label
            for row, there, label in zip(rows, mask, labels, strict=True)
            if there
        ]
        found.append(np.mean(right) if right else np.nan)
    return np.array(found)


@pytest.mark.parametrize(
    ("chosen", "settings"),
    [
        (None, {}),
        pytest.param(None, {"width": 1}, marks=pytest.mark.long),
        pytest.param(None, {"width": 3, "eval_batch": 2}, marks=pytest.mark.long),
        pytest.param([3, 0], {"eval_width": 2}, marks=pytest.mark.long),
    ],
)
def test_accuracy_on_own_rows_is_that_of_loops(tiny, chosen, settings):
    data, clients = world(tiny)
    federation = tiny.federation("standalone", rounds=3, eval_every=2, **settings)
    key, orders = jax.random.key(0), tiny.orders(clients, 3, 2)
    picked = None if chosen is None else jnp.array(chosen)
    run = jax.jit(lambda orders: simulation.run(key, data, clients, federation, orders, picked))
    state, _, evaluation = run(orders)
    like = jax.tree.leaves(federation.model.init(key))
    want = by_hand(np.asarray(state.clients), data, clients, like)
    assert np.isfinite(want).sum() == 3
    assert evaluation.own_accuracy.shape == (2, 4 if chosen is None else 2)
    want = want if chosen is None else want[chosen]
    np.testing.assert_allclose(evaluation.own_accuracy[-1], want, rtol=1e-6)
    if settings:
        return
    bare = clients._replace(own_rows=None, own_mask=None, own_labels=None)
    run = jax.jit(lambda orders: simulation.run(key, data, bare, federation, orders, picked))
    _, _, without = run(orders)
    assert without.own_accuracy is None
    np.testing.assert_array_equal(evaluation.accuracy, without.accuracy)


def test_labels_are_those_of_the_rows_where_nobody_says_otherwise(tiny):
    data, clients = world(tiny)
    told = clients._replace(own_labels=data.labels[clients.own_rows])
    federation = tiny.federation("cgsv", rounds=2)
    federation = federation._replace(participation=participation.uniform(2))
    key, orders = jax.random.key(0), tiny.orders(clients, 2, 2)
    run = jax.jit(lambda clients, orders: simulation.run(key, data, clients, federation, orders))
    silent = run(clients._replace(own_labels=None), orders)[2].own_accuracy
    np.testing.assert_array_equal(silent, run(told, orders)[2].own_accuracy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"own_rows": None}, "Clients has own_mask, own_labels, it must have"),
        ({"own_mask": None}, "own_rows and own_mask or neither"),
        ({"own_mask": np.ones((3, 5), bool)}, r"own_mask is bool \[3, 5\], it must be bool \[4"),
        ({"own_rows": np.zeros((4, 2), np.int32)}, r"own_rows is .*, it must be integers \[4, 5\]"),
        ({"own_rows": np.full((4, 5), 99, np.int32)}, "own_rows holds 99, it must hold rows"),
        ({"own_labels": np.full((4, 5), 3, np.int32)}, "own_labels holds 3, it must hold classes"),
    ],
)
def test_own_rows_that_cannot_be_are_refused(tiny, change, says):
    data, clients = world(tiny)
    with pytest.raises(ValueError, match=says):
        simulation.run(
            jax.random.key(0), data, clients._replace(**change), tiny.federation("cgsv", rounds=1)
        )


def test_attackers_are_judged_on_true_labels_and_copies_on_the_same_rows():
    asked = {**SMALL, "attacks": ("label_flip:2", "replication:3"), "partitions": "uniform"}
    (task,) = deal.tasks(names.configure(**asked, attackers=(0, 1, 2)))
    clients = task.clients
    assert task.cheats[:3] == ("label_flip", "label_flip", "replication")
    true = np.asarray(task.data.labels)
    assert (clients.labels != true[clients.rows])[clients.mask].any()
    assert clients.own_labels is None  # of the rows
    for copy in (5, 6):
        np.testing.assert_array_equal(clients.own_rows[copy], clients.own_rows[2])
        np.testing.assert_array_equal(clients.rows[copy], clients.rows[2])
    np.testing.assert_array_equal(task.sizes, clients.mask.sum(1))


def test_the_seed_of_the_partition_draws_and_others_keep_their_rows():
    tasks = [
        deal.tasks(names.configure(**{**SMALL, "partitions": "uniform", **more}))[0]
        for more in ({}, {}, {"partition_seed": 1}, {"own_test_share": 0.0})
    ]
    same, again, other, none = (task.clients for task in tasks)
    np.testing.assert_array_equal(same.own_rows, again.own_rows)
    assert (same.own_rows.shape != other.own_rows.shape) or (same.own_rows != other.own_rows).any()
    assert none.own_rows is None
    for client in range(5):
        kept = {*same.rows[client][same.mask[client]]}
        own = {*same.own_rows[client][same.own_mask[client]]}
        assert kept | own == {*none.rows[client][none.mask[client]]}
        assert len(own) == round(0.25 * (len(kept) + len(own)))


@pytest.fixture(scope="module")
def result():
    """A run of which everything is kept."""
    return running.run(names.configure(**{**SMALL, "partitions": "uniform"}, save_models=True))


def test_tables_hold_what_the_models_reach(result):
    made = result.frames
    (task,) = result.tasks
    for cell in result.cells:
        _, models = cell.models
        want = []
        for model, rows, mask in zip(
            models[0], task.clients.own_rows, task.clients.own_mask, strict=True
        ):
            rows = rows[mask]
            accuracy, _ = task.network.evaluate(
                model[None], task.data.inputs[rows], task.data.labels[rows]
            )
            want.append(accuracy[0])
        of = {"method": cell.method}
        clients = made["clients"].filter(**of)
        np.testing.assert_allclose(clients["own_accuracy"], want, rtol=1e-6)
        assert clients["own_rows"].to_list() == task.clients.own_mask.sum(1).tolist()
        last = made["rounds"].filter(**of, round=2)
        np.testing.assert_allclose(last["own_accuracy"], want, rtol=1e-6)
        (row,) = made["summary"].filter(**of).to_dicts()
        np.testing.assert_allclose(row["mean_own_accuracy"], np.mean(want), rtol=1e-6)
        np.testing.assert_allclose(row["min_own_accuracy"], np.min(want), rtol=1e-6)
        alone = clients["standalone_own_accuracy"].to_numpy()
        gain = np.mean(np.float64(want) - alone)
        if cell.method == frames.YARDSTICK:
            np.testing.assert_allclose(alone, want, rtol=1e-6)
            assert row["own_gain"] is None
        else:
            np.testing.assert_allclose(row["own_gain"], gain, atol=1e-6)


def test_tables_show_it_where_there_is_some(result):
    shown = "\n".join(map(repr, tables.reports(result.frames)))
    assert "Clients on their own rows, on uniform" in shown
    assert "(in brackets: on the rows that the client holds out for itself)" in shown
    summary = result.frames["summary"]
    two = [summary, summary.with_columns(partition=frames.pl.lit("other"))]
    assert "; own " in repr(tables.overview(frames.pl.concat(two)))
    columns = [name for name in summary.columns if "own_" in name]
    without = result.frames | {
        "summary": summary.with_columns(
            frames.pl.lit(None, frames.pl.Float64).alias(n) for n in columns
        ),
        "clients": result.frames["clients"].with_columns(
            frames.pl.lit(None, frames.pl.Float32).alias("own_accuracy"),
            frames.pl.lit(None, frames.pl.Float32).alias("standalone_own_accuracy"),
        ),
    }
    shown = "\n".join(map(repr, tables.reports(without)))
    assert "own rows" not in shown
    assert "brackets" not in shown


def test_an_outcome_with_own_rows_is_packed_without_a_rounding(result):
    for cell in result.cells:
        (end,) = frames.outcomes(cell)
        some = end._replace(own_accuracy=np.where(np.arange(5) == 2, np.nan, end.own_accuracy))
        for kept in (end, some, end._replace(own_accuracy=np.zeros(0, np.float32))):
            again = sweep_results.unpacked(sweep_results.packed(kept), 5, 5)
            np.testing.assert_array_equal(again.own_accuracy, kept.own_accuracy)
            np.testing.assert_array_equal(again.accuracy, kept.accuracy)
            np.testing.assert_array_equal(again.late_loss, kept.late_loss)


def test_a_scheduler_looks_at_clients_with_own_rows():
    """What a trial has on them so far is told as at its end."""
    sweep = points_lib.grid(SMALL | {"algorithms": ("cgsv",), "rounds": 6}, {}, "mean_gain")
    looks = []

    def report(rounds, criterion):
        looks.append(criterion)
        return False

    _, score = sweep_running.score(sweep, "", {}, report)
    assert np.isfinite([*looks, score["criterion"]]).all()
    assert len(looks) > 1


def test_a_share_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"--own-test-share is 1.0, .* below 1"):
        names.configure(**{**SMALL, "own_test_share": 1.0})


@pytest.mark.long
def test_a_sweep_over_partitions_is_the_runs_one_by_one(tmp_path):
    """Widths of own rows, epochs of local steps, and what the yardstick pays for, of each."""
    common = {"clients": 3, "rounds": 2, "seeds": 1, "own_test_share": 0.2, "local_steps": 30}
    asked_for = "standalone,fedsac"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in common.items()]
    both = "uniform,power_law"
    asked = [f"--algorithms={asked_for}", f"--partition={both}", "--steepness=1,3", *flags]
    main.main(["sweep", *asked, f"--out={tmp_path / 'sweep'}", "--quiet"])
    swept = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet").filter(pl.col("point") == 0)
    config = names.configure(algorithms=asked_for, partitions=both.split(","), **common)
    alone = frames.summary_frame(running.run(config).cells)
    columns = ["mean_accuracy", "mean_own_accuracy"]
    for row in alone.iter_rows(named=True):
        (own,) = swept.filter(
            (pl.col("method") == row["method"]) & (pl.col("partition") == row["partition"])
        ).iter_rows(named=True)
        assert own["oracle"] == row["oracle"] == (row["method"] == "fedsac")
        np.testing.assert_allclose(
            [own[c] for c in columns], [row[c] for c in columns], atol=0.02, rtol=0
        )


def test_a_sweep_has_one_schedule_for_all_partitions(tmp_path, capsys):
    """Epochs of local steps follow from the sizes: a rate that counts them would be another's."""
    flags = ["--algorithms=cgsv", "--partition=uniform,power_law", "--beta=1,2", "--rounds=1"]
    flags += ["--seeds=1", "--local-steps=30", "--decay-per=epoch", f"--out={tmp_path / 'sweep'}"]
    assert main.main(["sweep", *flags, "--quiet"]) == 2
    assert "one partition at a time" in capsys.readouterr().err
