"""A sweep is its runs: planned, compiled once, kept, and told apart by what they read."""

import dataclasses
import itertools
import json
import math
import shlex

import jax
import numpy as np
import polars as pl
import pytest
from traced import counted

from cgsv_jax.command import main
from cgsv_jax.command import sweep as command
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import deal, execute, names, running
from cgsv_jax.host import files
from cgsv_jax.results import directory, frames
from cgsv_jax.sweep import figures as sweep_figures
from cgsv_jax.sweep import options, search
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running

SMALL = {
    **{"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 4, "seeds": 2},
    "partitions": ("uniform", "class_imbalance"),
}
FLAGS = ["--hidden", "8", "--clients", "4", "--epochs", "1", "--rounds", "4", "--seeds", "2"]
GRID = {"beta": (0.5, 2.0, math.inf), "alpha": (0.5, 0.95)}


@pytest.fixture(scope="module")
def swept():
    """Six points on two partitions with two seeds; the traces of whole programs counted."""
    sweep = points_lib.grid(SMALL, GRID)
    plan = plan_lib.plan(plan_lib.trials_of(sweep))
    with pytest.MonkeyPatch.context() as patch:
        traces = counted(patch)
        ends, _ = sweep_running.execute(plan)
    return sweep, plan, ends, len(traces)


def _table(sweep, ends):
    return sweep_results.frame(sweep_running.rows(sweep, ends), sweep.axes)


# ---------------------------------------------------------------- which runs there are


def test_the_yardstick_is_run_once(swept):
    """Per training setting, partition and seed: alpha and beta are nothing to it."""
    _, plan, _, _ = swept
    alone, cgsv = plan.programs
    assert (alone.name, cgsv.name) == ("standalone", "cgsv")
    assert [len(p.trials) for p in alone.portions] == [2 * 2]
    assert [len(p.trials) for p in cgsv.portions] == [6 * 2 * 2]
    rates = points_lib.grid(SMALL, {"learning_rate": (0.1, 0.2), "beta": (1.0, 2.0)})
    alone = [r for r in plan_lib.trials_of(rates) if r.method.algorithm == "standalone"]
    assert len(alone) == 2 * 2 * 2
    assert {r.method.learning_rate for r in alone} == {0.1, 0.2}


def test_a_method_is_run_once_for_what_it_does_not_read():
    both = points_lib.grid(SMALL | {"algorithms": ("cgsv", "fedavg")}, {"beta": (1.0, 2.0)})
    counts = [r.method.algorithm for r in plan_lib.trials_of(both)]
    assert {name: counts.count(name) for name in counts} == {
        "standalone": 4, "cgsv": 8, "fedavg": 4,
    }  # fmt: skip
    told = {m.name for s in both.points for m in s.config.methods}
    assert told == {"standalone", "cgsv", "fedavg"}


def test_a_point_of_the_grid_is_a_config_of_its_own(swept):
    sweep, *_ = swept
    for point in sweep.points:
        asked = SMALL | point.values | {"algorithms": ("standalone", "cgsv")}
        assert point.config == names.configure(**asked)


def test_keys_tell_runs_apart_and_stay(swept):
    sweep, *_ = swept
    runs = plan_lib.trials_of(sweep)
    keys = {plan_lib.key_of(run) for run in runs}
    assert len(keys) == len(runs)
    moved = runs[0]._replace(config=dataclasses.replace(runs[0].config, layout="all", devices=2))
    assert plan_lib.key_of(moved) == plan_lib.key_of(runs[0])
    assert plan_lib.key_of(runs[0], "validation") not in keys


def test_a_sweep_is_read_back_from_json(swept):
    sweep, *_ = swept
    text = files.json_text(points_lib.describe(sweep))
    assert points_lib.described(json.loads(text)) == sweep
    shapes = points_lib.grid({"rounds": 2}, {"hidden": ((4,), (8, 4)), "epochs": (1, 2)})
    assert points_lib.described(json.loads(files.json_text(points_lib.describe(shapes)))) == shapes
    with pytest.raises(ConfigError, match="missing"):
        points_lib.described({"dataset": "digits"})


# ---------------------------------------------------------------- which programs


def test_numbers_and_partitions_share_a_program(swept):
    """Two programs for 28 runs; the padding of the shorter partition is all that it costs."""
    _, plan, _, traces = swept
    assert traces == len(plan.programs) == 2
    assert {program.size for program in plan.programs} == {1}  # on a CPU
    assert len({program.slots for program in plan.programs}) == 1


def test_rows_that_somebody_chose_are_a_pool_of_their_own(tmp_path):
    """Beside them the capped pool of the others: every portion's partitions share their rows."""
    (tmp_path / "rows.txt").write_text("1,2\n3\n4\n")
    np.save(tmp_path / "owners.npy", np.arange(1442) % 5)
    asked = SMALL | {
        "clients": 3,
        "algorithms": ("standalone",),
        "partitions": ("uniform", "from_lists", "by_owner", "by_shares"),
        **{"lists": str(tmp_path / "rows.txt"), "owners": str(tmp_path / "owners.npy")},
        **{"shares": (3, 2, 1), "rows_per_client": 10},
    }
    runs = plan_lib.trials_of(points_lib.grid(asked, {}))
    portions = list(plan_lib._portions(runs[0].config, runs))
    assert [p.world.partitions for p, _ in portions] == [
        *(("uniform", "by_shares"), ("from_lists",), ("by_owner",)),
    ]
    rows = [len(task.data.labels) for _, dealt in portions for task in dealt]
    assert rows == [30, 30, 1442, 1442 - 144]
    assert [p.sizes.tolist() for _, (p, *_) in portions[:2]] == [[10, 10, 10], [2, 1, 1]]


@pytest.mark.long
def test_shapes_are_compiled_once_each():
    """Two widths and two partition seeds: pools of equal shape share what is compiled."""
    asked = SMALL | {"seeds": 1, "rounds": 1, "partitions": ("class_imbalance",)}
    sweep = points_lib.grid(
        asked, {"hidden": ((4,), (5,)), "partition_seed": (0, 1), "beta": (0.5, 1.0)}
    )
    plan = plan_lib.plan(plan_lib.trials_of(sweep))
    assert [program.name for program in plan.programs] == [
        *("standalone (hidden 4)", "standalone (hidden 5)"),
        *("cgsv (hidden 4)", "cgsv (hidden 5)"),
    ]
    assert [[len(p.trials) for p in program.portions] for program in plan.programs] == [
        *([1, 1], [1, 1]),
        *([2, 2], [2, 2]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        traces = counted(patch)
        ends, _ = sweep_running.execute(plan)
    assert len(traces) == 4
    table = _table(sweep, ends)
    assert table.height == 8
    # The pools do differ.
    apart = table.group_by("partition_seed").agg(pl.col("mean_accuracy").sum())
    assert apart["mean_accuracy"].n_unique() == 2


@pytest.mark.parametrize(
    ("runs_in_memory", "size", "calls"), [(100, 24, 1), (23.5, 12, 2), (5.5, 5, 5), (0.5, 1, 24)]
)
def test_chunks_where_memory_is_short(swept, runs_in_memory, size, calls):
    """Equal ones, so that one program serves all; as many as half of the memory holds."""
    sweep, *_ = swept
    runs = plan_lib.trials_of(sweep)
    whole = plan_lib.plan(runs, backend="gpu", budget=2**60)
    each = whole.programs[1].memory / 24
    plan = plan_lib.plan(runs, backend="gpu", budget=int(2 * runs_in_memory * each))
    program = plan.programs[1]
    assert program.size == size
    assert len(sweep_running.batches(plan)[1][0].chunks) == calls
    assert {len(c.seeds) for c in sweep_running.batches(plan)[1][0].chunks} == {size}
    assert plan.rounds >= 4 * plan.num_trials
    assert program.memory == size * each


@pytest.mark.parametrize(("width", "together"), [(None, 9), (1, 24)])
@pytest.mark.long
def test_chunks_change_nothing(swept, width, together):
    """Vmapped or in turn, and the last call filled up, against a run per call.

    Four rounds in another compilation: a tipped test row is 1 / 360 of a client's accuracy and
    1 / 1440 of the mean's.
    """
    sweep, _, ends, _ = swept
    runs = [run for run in plan_lib.trials_of(sweep) if run.method.algorithm == "cgsv"]
    plan = plan_lib.plan(runs, together=together, width=width, backend="gpu")
    again, _ = sweep_running.execute(plan)
    for run in runs:
        np.testing.assert_allclose(again[run].accuracy, ends[run].accuracy, atol=1.5 / 360)
        np.testing.assert_allclose(again[run].share, ends[run].share, atol=1.5 / 610)
        np.testing.assert_array_equal(again[run].upload_bytes, ends[run].upload_bytes)


def test_the_sweep_is_its_separate_runs(swept):
    """Whole rows of the table, against `cgsv compare` of two of the points.

    The same rounds from the same start: on the layout of one run per call they are the same
    program up to the padding of slots, and what is left is float noise.
    """
    sweep, _, ends, _ = swept
    table = _table(sweep, ends)
    for values in ({"beta": 0.5, "alpha": 0.5}, {"beta": math.inf, "alpha": 0.95}):
        config = names.configure(**SMALL | values, algorithms=("standalone", "cgsv"))
        want = frames.summary_frame(running.run(config).cells).filter(method="cgsv")
        got = table.filter(**values).select(*frames.SUMMARY_COLUMNS)
        for name in frames.SUMMARY_COLUMNS:
            if name in frames.INTERVALS:  # of the answers to test rows, which no sweep keeps
                continue
            if got[name].dtype != pl.Float64:
                assert got[name].to_list() == want[name].to_list(), name
                continue
            a, b = (np.array(x[name].to_list(), float) for x in (got, want))
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)


def test_programs_lower_for_an_accelerator(swept):
    """What a GPU or TPU would run: all runs at once, every partition in one program."""
    sweep, *_ = swept
    plan = plan_lib.plan(plan_lib.trials_of(sweep), backend="tpu", budget=2**40)
    batch, _ = sweep_running.batches(plan)[1]
    made = batch.build()
    (chunk,) = batch.chunks
    state = execute.state_of(made, chunk)
    lowered = jax.jit(lambda *args: made.segment(2, *args)).trace(
        chunk.seeds, chunk.hyper, state, made.shared
    )
    assert lowered.lower(lowering_platforms=("tpu",)).as_text()


def test_other_rows_to_judge_on(swept):
    """Validation rows give other accuracies, and touch no run: the same entries are received."""
    sweep, _, ends, _ = swept
    runs = [run for run in plan_lib.trials_of(sweep) if run.partition == "uniform"][:1]
    (end,) = sweep_running.execute(plan_lib.plan(runs, "validation"))[0].values()
    number = len(deal.tasks(sweep.points[0].config)[0].data.validation[1])
    rows = end.accuracy.astype(np.float64) * number
    np.testing.assert_allclose(rows, rows.round(), atol=1e-3)
    assert (end.accuracy != ends[runs[0]].accuracy).any()
    np.testing.assert_allclose(end.share, ends[runs[0]].share, atol=1.5 / 610)
    none = points_lib.grid(SMALL | {"validation_share": 0.0}, {})
    with pytest.raises(ConfigError, match="--eval-split validation needs validation rows"):
        plan_lib.plan(plan_lib.trials_of(none), "validation")


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("swept_values", "best", "words"),
    [
        ({"beta": (1.0, -1.0), "gamma": (0.0, 0.5)}, "fairness", ["--beta is -1.0", "--gamma is"]),
        ({"beta": (1.0, 1.0)}, "fairness", ["names something twice"]),
        ({"layout": ("one", "all")}, "fairness", ["--layout cannot be swept"]),
        ({"beta": (1.0,)}, "fairnes", ["did you mean fairness?"]),
        (
            {"reward": ("sparsify", "scale"), "mask_scope": ("vector", "tensor")},
            "fairness",
            ["--mask-scope does nothing here", "with reward scale"],
        ),
        ({"alpha": tuple(np.linspace(0, 1, 400)), "beta": tuple(range(400))}, "fairness", ["most"]),
    ],
)
def test_all_that_is_wrong_in_one_message(swept_values, best, words):
    with pytest.raises(ConfigError) as error:
        points_lib.grid({}, swept_values, best)
    for word in words:
        assert word in str(error.value)


def test_data_that_cannot_be_dealt_is_named_before_anything_runs():
    sweep = points_lib.grid({"rounds": 1}, {"clients": (5, 5000)})
    with pytest.raises(ConfigError, match="--clients is 5000"):
        plan_lib.plan(plan_lib.trials_of(sweep))


def _rows(values):
    """(point, seed) -> fairness, as rows of two points' tables."""
    base = dict.fromkeys(frames.SUMMARY_COLUMNS)
    return [
        base
        | {"point": point, "beta": float(point), "partition": "uniform", "method": "cgsv"}
        | {"seed": seed, "fairness": value, "mean_accuracy": 0.5 + accuracy}
        for (point, seed), (value, accuracy) in values.items()
    ]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({(0, 0): (50.0, 0), (1, 0): (60.0, 0)}, 1),
        # Defined in every seed comes before a better one that is not.
        ({(0, 0): (50.0, 0), (0, 1): (50.0, 0), (1, 0): (90.0, 0), (1, 1): (None, 0)}, 0),
        # Of equal ones the more accurate, then the first.
        ({(0, 0): (50.0, 0), (1, 0): (50.0, 0.1)}, 1),
        ({(0, 0): (50.0, 0), (1, 0): (50.0, 0)}, 0),
        ({(0, 0): (None, 0), (1, 0): (None, 0)}, None),
    ],
)
def test_the_best_point(values, best):
    axes = {"beta": (0.0, 1.0)}
    table = sweep_results.frame(_rows(values), axes)
    own = sweep_results.ranking(table, ("beta",), "fairness")
    assert (None if own.best is None else own.best["point"]) == best
    assert own.table.filter("best")["point"].to_list() == ([] if best is None else [best])
    assert len(sweep_results.shown_points(own, ("beta",), "fairness")) == 2


def test_a_settled_fairness_comes_before_a_higher_one():
    """One trial of point 1 changes its sign late; of the criterion accuracy that says nothing."""
    rows = _rows({(p, s): (50.0 + 40 * p, p / 10) for p in (0, 1) for s in (0, 1)})
    for row, unsettled in zip(rows, (False, None, False, True), strict=True):
        row["unsettled"] = unsettled
    table = sweep_results.frame(rows, {"beta": ()})
    own = sweep_results.ranking(table, ("beta",), "fairness")
    assert own.best["point"] == 0
    shown = sweep_results.shown_points(own, ("beta",), "fairness")
    assert shown["fairness (accuracy, %)"].to_list() == ["50.0 (50.0)", "90.0* (60.0)"]
    assert sweep_results.doubts_of_best(own) == []
    assert sweep_results.ranking(table, ("beta",), "mean_accuracy").best["point"] == 1
    # Where nothing is settled the best says so.
    (alone,) = (own for (point,), own in table.group_by("point") if point == 1)
    assert sweep_results.doubts_of_best(sweep_results.ranking(alone, ("beta",), "fairness")) == [
        "its fairness on uniform changes its sign, or is lost, over the last quarter in 1 of 2 runs"
    ]


def test_a_best_point_of_either_sign_says_so():
    table = sweep_results.frame(
        _rows({(0, seed): (value, 0) for seed, value in enumerate((-40.0, 20.0, 50.0))}), {}
    )
    own = sweep_results.ranking(table, (), "fairness")
    assert sweep_results.doubts_of_best(own) == [
        "its fairness on uniform may have either sign: its interval is [-40.0, 50.0]"
    ]
    assert sweep_results.shown_points(own, (), "fairness")["fairness (accuracy, %)"][0][:2] == "±?"


def test_a_best_point_that_the_yardstick_paid_says_so():
    rows = _rows({(0, 0): (99.0, 0), (1, 0): (50.0, 0)})
    rows[0]["oracle"] = True
    own = sweep_results.ranking(sweep_results.frame(rows, {"beta": ()}), ("beta",), "fairness")
    assert own.best["point"] == 0
    assert sweep_results.doubts_of_best(own) == [
        "its fairness on uniform is so by construction in part: an input is the standalone "
        "accuracy that fairness compares with"
    ]
    shown = sweep_results.shown_points(own, ("beta",), "fairness")
    assert shown["fairness (accuracy, %)"].to_list() == ["99.0† (50.0)", "50.0 (50.0)"]


@pytest.mark.parametrize("name", ["clients", "preset", "hidden"])
def test_names_that_a_table_has_already(name):
    """Swept options may be called like a column of the summary, or be no numbers."""
    values = {"clients": (4, 5), "preset": ("paper", "released"), "hidden": ("4", "8x4")}[name]
    rows = _rows({(0, 0): (50.0, 0), (1, 0): (60.0, 0)})
    rows = [row | {name: values[row["point"]]} for row in rows]
    table = sweep_results.frame(rows, {name: values})
    own = sweep_results.ranking(table, (name,), "fairness")
    assert own.best[name] == values[1]
    assert own.table[name].to_list() == list(values[::-1])
    shown = sweep_results.shown_points(own, (name,), "fairness")
    assert shown[name].to_list() == list(map(str, values[::-1]))


def test_points_within_one_standard_error():
    values = {(s, seed): (50.0 - s + 4 * seed, 0) for s in (0, 1, 3) for seed in (0, 1)}
    table = sweep_results.frame(_rows(values), {"beta": ()})
    # The best's seeds are 50 and 54: their mean's standard error is 2.
    assert sweep_results.ranking(table, ("beta",), "fairness").near == 1


def test_figures(swept, tmp_path):
    sweep, _, ends, _ = swept
    table = _table(sweep, ends)
    best = {"beta": 0.5, "alpha": 0.5, "method": "cgsv"}
    for criterion in ("fairness", "mean_accuracy"):
        (file,) = sweep_figures.draw(table, sweep.axes, criterion, best, tmp_path / criterion)
        assert file.name == "pair-alpha-beta.png" or file.name == "pair-beta-alpha.png"
        again = sweep_figures.draw(table, sweep.axes, criterion, best, tmp_path / "again")
        assert again[0].read_bytes() == file.read_bytes()
    few = table.filter(pl.col("alpha") == 0.5, pl.col("beta") < math.inf)
    (file,) = sweep_figures.draw(few, sweep.axes, "fairness", None, tmp_path)
    assert file.name == "line-beta.png"
    holes = table.filter((pl.col("alpha") == 0.5) | (pl.col("beta") == 2.0))
    holes = holes.filter(pl.col("beta") < math.inf)
    (other,) = sweep_figures.draw(holes, sweep.axes, "fairness", best, tmp_path)
    # What --overwrite clears away goes by these names.
    kinds = {drawn.name.split("-")[0] for drawn in (file, other)}
    assert kinds == set(directory.SWEEP_FIGURE_KINDS)


def test_a_map_says_what_it_is_a_mean_over_and_exaggerates_nothing(tmp_path):
    """Every cell has its deviation; colours span what fairness could be."""
    rows = _rows(
        {(point, seed): (70.0 + point + 2 * seed, 0) for point in range(8) for seed in (0, 1)}
    )
    swept = [
        dict(zip("abc", bits, strict=True)) for bits in itertools.product((1.0, 2.0), repeat=3)
    ]
    axes = {name: (1.0, 2.0) for name in "abc"}
    table = sweep_results.frame([row | swept[row["point"]] for row in rows], axes)
    compared = sweep_results.compared(table)
    figure = sweep_figures.pair(compared, "a", "b", "fairness", None, ["c"])
    assert figure.get_suptitle() == "Fairness, mean over 2 seeds and c"
    (image,) = figure.axes[0].images
    assert image.get_clim() == (0, 100)
    own = compared.filter(pl.col("a") == 1.0, pl.col("b") == 1.0)["fairness"]
    text = f"{own.mean():.1f}\n± {own.std():.1f}"
    assert text in [each.get_text() for each in figure.axes[0].texts]
    none = compared.with_columns(
        fairness=pl.when(pl.col("a") == 1.0).then(None).otherwise("fairness")
    )
    line = sweep_figures.line(none, "a", "fairness")
    assert [each.get_text() for each in line.axes[0].texts] == ["undefined"]


# ---------------------------------------------------------------- ranges


def test_ranges():
    assert options.span("0.1:10").log
    assert not options.span("0.1:10:linear").log
    assert options.span("1:5", whole=True).whole
    for word in ("2:1", "0:1:log", "1:2:3", "a:b", "1:inf"):
        with pytest.raises(ValueError, match=r".+"):
            options.span(word)


def test_draws_are_inside_and_stay():
    spaces = {"beta": options.span("0.1:10"), "epochs": options.span("1:3", whole=True),
              "mask_ties": ("all", "position")}  # fmt: skip
    points = search.draw(spaces, 30, seed=3)
    assert points[:10] == search.draw(spaces, 10, seed=3)
    assert points[:10] != search.draw(spaces, 10, seed=4)
    assert len(points) == 30
    assert all(0.1 <= p["beta"] <= 10 and 1 <= p["epochs"] <= 3 for p in points)
    # As many below 1 as above, give or take: 30 coins of which 26 agree are one in 10^4.
    assert 4 < sum(p["beta"] < 1 for p in points) < 26
    assert len(search.draw({"epochs": spaces["epochs"]}, 30)) == 3


# ---------------------------------------------------------------- the command


def _files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_command_twice(tmp_path, capsys):
    out, again = tmp_path / "one", tmp_path / "two"
    argv = ["sweep", *FLAGS, "--beta", "0.5,inf", "--alpha", "0.9,0.95"]
    assert main.main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("trials by 2 programs", "rounds of all trials", "Points by fairness", "memory",
                  "cgsv compare", "--algorithms standalone,cgsv"):  # fmt: skip
        assert words in printed
    repeat = ["sweep", "--config", str(out / "config.json"), "--quiet", "--out", str(again)]
    assert main.main(repeat) == 0
    assert capsys.readouterr().out == ""
    one, two = _files(out), _files(again)
    assert set(one) == set(two) == {
        *("config.json", "environment.json", "timing.json", "sweep.parquet"),
        *("points.parquet", "points.json", "figures/pair-beta-alpha.png"),
    }  # fmt: skip
    assert {name for name in one if one[name] != two[name]} <= {"timing.json"}
    config, table, points = sweep_results.read(out)
    assert table.height == 4 * 2
    assert table.columns[:3] == ["point", "beta", "alpha"]
    assert points.filter("best").height in (0, 1)
    assert len(config["points"]) == 4
    assert main.main([*argv, "--out", str(out)]) == 2  # holds a run
    figure = out / "figures" / "pair-beta-alpha.png"
    figure.unlink()
    assert main.main(["plot", str(out)]) == 0
    assert figure.read_bytes() == one["figures/pair-beta-alpha.png"]
    # What is said to run the best point does.
    best = json.loads(one["points.json"])["best"]
    words = [*shlex.split(best["command"])[1:], "--quiet", "--out", str(tmp_path / "best")]
    assert main.main(words) == 0
    alone = directory.read(tmp_path / "best").summary.filter(method="cgsv")
    assert alone["fairness"].mean() == pytest.approx(best["criterion"], abs=1e-3)


def test_what_runs_the_best_point_holds_what_its_method_reads():
    """An option of another method of the sweep would be refused there."""
    asked = {"algorithms": ("witness", "cgsv[beta=3]", "rffl"), "rounds": 2, "beta": 2.0}
    sweep = points_lib.grid(asked | {"penalty": 1.0}, {"echo_rounds": (1, 2), "alpha": (0.5, 0.9)})
    lines = {
        "witness": "--alpha 0.5 --beta 2 --echo-rounds 2 --penalty 1",
        "cgsv[beta=3]": "--alpha 0.5",
        "rffl": "--alpha 0.5 --beta 2",
        "standalone": "",
    }
    for method, words in lines.items():
        line = command._command_line(sweep, {"point": 2, "method": method})
        said = shlex.split(line)
        assert set(words.split()) <= set(said)
        methods = (method,) if method == "standalone" else ("standalone", method)
        assert said[2:4] == ["--algorithms", ",".join(methods)]
        ours = {"--alpha", "--beta", "--echo-rounds", "--penalty"}
        assert ours & set(said) == ours & set(words.split())


def test_going_on_after_a_stop(tmp_path, capsys, monkeypatch):
    """Only what is missing is run, and the tables are those of a sweep that was not stopped."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    argv = ["sweep", *FLAGS, "--beta", "0.5,2", "--quiet"]
    assert main.main([*argv, "--out", str(whole)]) == 0
    execute, seen = sweep_running.execute, []

    def stopping(plan, watch, keep, keeper=None, compiled=None):
        def kept(done):
            keep(done)
            seen.extend(done)
            if len(seen) == 3:
                raise KeyboardInterrupt

        return execute(plan, watch, kept, keeper)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_running, "execute", stopping)
        assert main.main([*argv, "--out", str(part)]) == 130
    assert f"cgsv sweep --resume {part}" in capsys.readouterr().err
    assert len(sweep_results.parts(part)) == 3
    assert not (part / "sweep.parquet").exists()
    with monkeypatch.context() as patch:
        seen.clear()
        patch.setattr(
            sweep_running, "execute",
            lambda plan, *rest: (seen.append(plan.num_trials), execute(plan, *rest))[1],
        )  # fmt: skip
        assert main.main(["sweep", "--resume", str(part), "--quiet"]) == 0
    assert seen == [2 + 2 * 2 - 3]
    one, two = _files(whole), _files(part)
    assert set(one) == set(two)
    assert {name for name in one if one[name] != two[name]} <= {"timing.json"}
    assert main.main(["sweep", "--resume", str(part)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_random_search_without_ray(tmp_path):
    out = tmp_path / "s"
    argv = ["sweep", *FLAGS, "--seeds", "1", "--rounds", "1", "--beta", "0.1:10", "--search",
            "random", "--trials", "3", "--best", "mean_accuracy", "--quiet"]  # fmt: skip
    assert main.main([*argv, "--out", str(out)]) == 0
    config, table, points = sweep_results.read(out)
    assert table["beta"].n_unique() == points.height == len(config["points"]) == 3
    assert (out / "figures" / "line-beta.png").exists()


BAD = {
    "--beta x,1": "--beta is 'x'",
    "--beta 1:2": "--beta is a range, it needs --search",
    "--trials 3": "--points needs --search",
    "--search random": "needs something to search",
    "--search random --beta ,": "--beta is empty",
    "--search random --beta 1,1": "--beta names something twice",
    "--beta 0.5,2,0.50": "--beta names something twice",
    "--hidden 8,4x4,8": "--hidden names something twice",
    "--scheduler asha": "--scheduler needs --search",
    "--on mars": "--on is 'mars'",
    "--together 0": "--together is 0",
    "--judge train": "--eval-split is 'train'",
    "--eval-split validation --select validation": "the rows that chose the round would judge it",
    "--eval-split validation --select last,validation": "cannot be combined with --select",
    "--resume /nowhere": "it must be a sweep's",
    "--resume /nowhere --beta 1": "cannot be combined with --beta",
    "--config /nowhere/config.json": "/nowhere/config.json cannot be read",
    "--hidden 8xa": "--hidden",
    "--relative-floor maybe": "--relative-floor is 'maybe'",
    "--algorithms fedavg --beta 1,2": "does nothing here",
}


@pytest.mark.parametrize(("flags", "sentence"), BAD.items(), ids=BAD)
def test_bad_input_is_a_sentence_and_writes_nothing(flags, sentence, tmp_path, capsys):
    out = tmp_path / "out"
    assert main.main(["sweep", *flags.split(), *(["--out", str(out)] if "--resume" not in flags
                                                else [])]) == 2  # fmt: skip
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()
