"""Partitions drawn anew: several draws in one run are as many runs, dealt, kept and shown apart."""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from traced import counted

from cgsv_jax.command import main
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import budget, checkpoint, deal, execute, names, running
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import figures, frames, tables
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running

DRAWS = (5, 6, 7)
# All that a partition seed decides: rows, who is evaluated, cheats, or comes late.
SMALL = {
    **{"dataset": "digits", "hidden": (8,), "clients": 5, "epochs": 1, "rounds": 3, "seeds": 2},
    **{"eval_rows": 100, "eval_clients": 4, "attacks": ("sign_flip:1",), "late": ("1:1",)},
    **{"partitions": ("power_law", "dirichlet"), "algorithms": ("standalone", "cgsv")},
}


@pytest.fixture(scope="module")
def config():
    return names.configure(**SMALL, partition_seed=5, partition_seeds=3)


@pytest.fixture(scope="module")
def drawn(config):
    """Three draws of two partitions in one run, and how often a whole program was traced."""
    with pytest.MonkeyPatch.context() as patch:
        traces = counted(patch)
        result = running.run(config)
    return result, len(traces)


@pytest.fixture(scope="module")
def apart():
    """The same draws, each in a run of its own."""
    return [running.run(names.configure(**SMALL, partition_seed=seed)) for seed in DRAWS]


# ---------------------------------------------------------------- what is computed


def test_several_draws_are_as_many_runs_to_the_last_bit(drawn, apart):
    result, _ = drawn
    whole = frames.frames_of(result.cells)
    parts = [frames.frames_of(run.cells) for run in apart]
    for name, table in whole.items():
        keys = [name for name in frames.KEYS if name in table.columns]
        joint = [*frames.INTERVALS]  # these are of all runs together
        one, other = table, pl.concat(part[name] for part in parts)
        one, other = (
            x.sort(keys, maintain_order=True).drop(joint, strict=False) for x in (one, other)
        )
        assert one.equals(other, null_equal=True)
    # They do differ: a draw is no copy of another.
    ends = whole["summary"].filter(method="cgsv").group_by("partition", "partition_seed")
    assert ends.agg(pl.col("mean_accuracy").sum())["mean_accuracy"].n_unique() == 6


def test_the_interval_knows_of_draws(drawn, apart):
    of = "fairness_width_by_partitions"
    widths = frames.summary_frame(drawn[0].cells).filter(method="cgsv")[of]
    assert (widths > 0).all()
    assert len(widths) == 2 * 3 * 2
    assert frames.summary_frame(apart[0].cells)[of].null_count() == 2 * 2 * 2


def test_the_order_of_the_rows(drawn):
    """Partition, method, draw, seed: whoever averages finds what belongs together side by side."""
    summary = frames.summary_frame(drawn[0].cells)
    each = SMALL["partitions"], SMALL["algorithms"], DRAWS, (0, 1)
    assert summary.select(*frames.KEYS).rows() == [*itertools.product(*each)]
    timed = [(x["partition"], x["method"], x["partition_seed"]) for x in drawn[0].timing["methods"]]
    assert timed == [*itertools.product(*each[:3])]


def test_draws_of_one_shape_are_compiled_once(drawn):
    """Power law gives every draw the same sizes, Dirichlet does not; a trace is a segment's."""
    result, traces = drawn
    seconds = {}
    for own in result.timing["methods"]:
        key = own["partition"], own["method"]
        seconds.setdefault(key, []).append(own["compile_seconds"])
    for (partition, _), own in seconds.items():
        assert own[0] > 0
        assert (own[1:] == [0, 0]) == (partition == "power_law")
    widths = {task.clients.mask.shape for task in result.tasks if task.partition == "dirichlet"}
    assert len(widths) == 3
    # Segments of one length: one program of every method on power law, three on Dirichlet.
    assert traces == 2 * (1 + 3)


def test_pools_are_shared_by_partitions_and_not_by_draws(drawn):
    tasks = {(task.partition, task.partition_seed): task for task in drawn[0].tasks}
    assert [*tasks] == [*itertools.product(SMALL["partitions"], DRAWS)]
    for seed in DRAWS:
        one, other = (tasks[name, seed].data for name in SMALL["partitions"])
        assert one is other
    pools = [tasks["power_law", seed].data for seed in DRAWS]
    assert len({pool.labels.tobytes() for pool in pools}) == 3
    # One draw of test rows serves all, so that an interval resamples them for all at once.
    assert len({pool.test_inputs.tobytes() for pool in pools}) == 1
    assert len(pools[0].test_labels) == SMALL["eval_rows"]
    assert len({pool.validation[1].tobytes() for pool in pools}) == 3
    assert len({tasks["power_law", seed].cheats for seed in DRAWS}) > 1


@pytest.mark.long
def test_a_run_of_several_draws_goes_on_where_it_was_stopped(drawn, config, tmp_path):
    """Stopped in the second draw of the second method, between two rounds."""
    seen = []

    def keeper():
        def identity():
            return {"config": resolve.to_dict(config), "rows": ""}

        def stop():
            return bool(seen) and (seen[-1].method, seen[-1].partition_seed) == ("cgsv", 6)

        return checkpoint.of_run(tmp_path, identity, 1, stop).keeper

    with pytest.raises(execute.Stopped):
        running.run(config, seen.append, keeper=keeper())
    assert (seen[-1].partition, seen[-1].round) == ("power_law", 1)
    rest = []
    again = running.run(config, rest.append, keeper=keeper()._replace(stop=lambda: False))
    assert (rest[0].partition, rest[0].method) == ("power_law", "standalone")  # seen, not run
    before = [x for x in rest if x.partition == "power_law" and x.method == "standalone"]
    assert not any(look.compiling for look in before)
    one, other = (frames.frames_of(x.cells) for x in (drawn[0], again))
    assert all(one[name].equals(other[name], null_equal=True) for name in one)


# ---------------------------------------------------------------- what is refused


def test_what_has_nothing_to_draw_is_refused(tmp_path):
    (tmp_path / "rows.txt").write_text("1,2\n3\n4\n")
    asked = {"clients": 3, "lists": str(tmp_path / "rows.txt"), "partition_seeds": 3}
    message = "--partition-seeds is 3, it must be 1 with --partition from_lists"
    with pytest.raises(ConfigError, match=message):
        names.configure(**asked, partitions=("uniform", "from_lists"))
    names.configure(**asked | {"partition_seeds": 1}, partitions=("uniform", "from_lists"))
    data = deal.tasks(names.configure(**SMALL))[0]
    config = names.configure(**SMALL, partition_seeds=2)
    with pytest.raises(ConfigError, match="it must be 1 for clients that are given"):
        deal.given(config, data.data, data.clients)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", 10_001, None])
def test_how_many_draws_there_may_be(value):
    if value is None:
        assert names.configure(partition_seeds=None).partition_seeds == 1
        return
    with pytest.raises(ConfigError, match=r"--partition-seeds is .*, it must be a whole number"):
        names.configure(partition_seeds=value)


def test_pools_that_no_memory_holds_are_refused(monkeypatch):
    config = names.configure(dataset="digits", partition_seeds=1000)
    monkeypatch.setattr(budget.files_lib, "host_memory", lambda: 1 << 28)
    with pytest.raises(ConfigError, match=r"--partition-seeds: the data would take .* pools of"):
        deal.tasks(config)


def test_a_config_of_an_earlier_version_is_of_one_draw(config):
    values = resolve.to_dict(config)
    assert values["partition_seeds"] == 3
    assert resolve.from_dict(values, names.TABLES) == config
    del values["partition_seeds"]
    assert resolve.from_dict(values, names.TABLES).draws == range(5, 6)


# ---------------------------------------------------------------- sweeps


def test_a_sweep_runs_every_point_on_every_draw(drawn):
    """The same trials as over an axis of partition seeds; the numbers are those of a run."""
    asked = SMALL | {"partitions": ("power_law",), "partition_seed": 5, "seeds": 1}
    sweep = points_lib.grid(asked | {"partition_seeds": 3}, {"beta": (0.5, 1.0)})
    trials = plan_lib.trials_of(sweep)
    assert len(trials) == (1 + 2) * 3
    axes = {"beta": (0.5, 1.0), "partition_seed": DRAWS}
    over_axis = points_lib.grid({k: v for k, v in asked.items() if k != "partition_seed"}, axes)
    assert {*trials} == {*plan_lib.trials_of(over_axis)}
    with pytest.MonkeyPatch.context() as patch:
        traces = counted(patch)
        ends, _ = sweep_running.execute(plan_lib.plan(trials))
    assert len(traces) == 2  # programs, for nine trials
    table = sweep_results.frame(sweep_running.rows(sweep, ends), sweep.axes)
    assert table.select("point", "partition_seed").rows() == [
        (point, seed) for point in (0, 1) for _ in sweep.shown for seed in DRAWS
    ]
    of_run = frames.summary_frame(drawn[0].cells)
    of_run = of_run.filter(partition="power_law", method="cgsv", seed=0)
    own = table.filter(point=1, method="cgsv")  # beta 1 is the default
    np.testing.assert_allclose(own["mean_accuracy"], of_run["mean_accuracy"], atol=0.02)
    ranking = sweep_results.ranking(table, ["beta"], "mean_accuracy")
    assert set(ranking.table["seeds"]) == set(ranking.table["draws"]) == {3}
    assert sweep_results.over(table) == "3 draws of the partition"
    text = files.json_text(points_lib.describe(sweep))
    assert points_lib.described(json.loads(text)) == sweep


def test_draws_are_no_axis_and_none_beside_one():
    with pytest.raises(ConfigError, match="--partition-seeds cannot be swept"):
        points_lib.grid({}, {"partition_seeds": (1, 2)})
    with pytest.raises(ConfigError, match="every value is a draw already"):
        points_lib.grid({"partition_seeds": 2}, {"partition_seed": (0, 9)})


# ---------------------------------------------------------------- what is shown


def test_who_is_whom_in_several_draws(drawn):
    """Means over draws only where a client's number means the same in each of them."""
    clients = frames.clients_frame(drawn[0].cells)
    dirichlet = clients.filter(partition="dirichlet")
    assert frames.told_apart(dirichlet) == ["partition_seed", "client"]
    shown = tables.clients_of(dirichlet)
    assert shown["draw"].to_list() == [seed for seed in map(str, DRAWS) for _ in range(5)]
    assert shown["rows"].to_list() == [
        str(rows) for task in drawn[0].tasks if task.partition == "dirichlet" for rows in task.sizes
    ]
    # Who cheats is drawn too, so that even equal sizes tell nothing of who is whom.
    power_law = clients.filter(partition="power_law")
    assert frames.told_apart(power_law) == ["partition_seed", "client"]
    honest = power_law.with_columns(attack=pl.lit(None, pl.String))
    assert frames.told_apart(honest) == ["client"]
    shown = tables.clients_of(honest)
    assert "draw" not in shown.columns
    means = honest.filter(method="cgsv").group_by("client", maintain_order=True)
    means = means.agg(pl.col("reputation").cast(pl.Float64).mean())["reputation"]
    assert shown["cgsv reputation"].to_list() == [f"{value:.4f}" for value in means]
    assert frames.told_apart(dirichlet.filter(partition_seed=6)) == ["client"]


def test_what_a_mean_is_over_is_said(drawn):
    summary = frames.summary_frame(drawn[0].cells).filter(partition="power_law")
    assert frames.over(summary) == "2 seeds on each of 3 draws of the partition"
    assert frames.over(summary.filter(seed=0)) == "3 draws of the partition"
    assert frames.over(summary.filter(partition_seed=6)) == "2 seeds"
    assert frames.over(summary.filter(partition_seed=6, seed=0)) == ""
    assert "mean over 2 seeds on each of 3 draws" in " ".join(tables.fairness(summary).lines)
    row = tables.seconds(drawn[0].timing).cells.row(0, named=True)
    own = drawn[0].timing["methods"][:3]
    seconds = sum(x["run_seconds"] for x in own)
    assert row["run, s"] == tables.number(seconds)
    rounds = 3 * 3 * 2 / seconds
    assert row["rounds per s"] == tables.number(rounds, digits=None)


def test_a_line_is_of_one_client_or_of_equals(drawn, tmp_path):
    """15 clients of three draws of Dirichlet, five of power law without cheats."""
    directory = directory_lib.create(tmp_path / "run")
    running.save(directory, drawn[0])
    run = directory_lib.read(directory)
    (axes, *_) = figures.reputation(run, "dirichlet").axes
    assert len(axes.lines) == 5 * 3 + 1
    title = figures.accuracy(run, "dirichlet").get_suptitle()
    assert title == "Test accuracy, dirichlet, clients of 3 draws, mean over 2 seeds"
    honest = run.clients.with_columns(attack=pl.lit(None, pl.String))
    (axes, *_) = figures.reputation(run._replace(clients=honest), "power_law").axes
    assert len(axes.lines) == 5 + 1
    kinds = len(directory_lib.FIGURE_KINDS)
    assert len(figures.draw([run])) == 2 * kinds


def test_the_command_says_which_draws_there_are(tmp_path, capsys):
    asked = ["--clients", "4", "--rounds", "2", "--epochs", "1", "--hidden", "4", "--seeds", "1"]
    asked += ["--partition", "power_law,dirichlet", "--partition-seeds", "2"]
    asked += ["--attack", "sign_flip:1", "--algorithms", "cgsv"]
    assert main.main(["compare", *asked, "--verbose", "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of each partition, with partition seeds 0 to 1" in said
    assert "dishonest, draw 0" in said
    assert "What each client holds (power_law, draws 0, 1)" in said
    assert "What each client holds (dirichlet, draw 1)" in said
    run = directory_lib.read(tmp_path / "run")
    assert run.config["partition_seeds"] == 2
    assert run.summary["partition_seed"].to_list() == [0, 1, 0, 1]
    # Repeated from its config it is the same.
    again = ["compare", "--config", str(tmp_path / "run" / "config.json"), "--quiet"]
    assert main.main([*again, "--out", str(tmp_path / "again")]) == 0
    assert directory_lib.read(tmp_path / "again").rounds.equals(run.rounds, null_equal=True)
