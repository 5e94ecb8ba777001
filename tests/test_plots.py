"""The figures say what they show, show what was run, and are the same every time."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import pytest
from matplotlib import image

from cgsv_jax.results import differences
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import figures as figures_lib
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.types import Evaluation, Record


def cell(method, partition="power_law", clients=5, seeds=2, rounds=6, every=2, sizes=None):
    """Accuracies grow with the client's number, except under fedavg."""
    shape = (seeds, rounds, clients)
    rng = np.random.default_rng(len(method))
    level = np.full(clients, 0.9) if method == "fedavg" else np.linspace(0.4, 0.8, clients)
    growth = np.linspace(0.5, 1, rounds)[:, None]
    accuracy = np.broadcast_to(level * growth, shape).astype(np.float32)
    index = np.unique([*range(every - 1, rounds, every), rounds - 1])
    ones = np.ones(shape, np.float32)
    quota = np.broadcast_to(np.linspace(40, 100, clients).astype(np.int32), shape)
    reputation = (rng.uniform(0.5, 1, shape) / clients).astype(np.float32)
    record = Record(ones, reputation, ones, quota, ones > 0, ones, ones, ones, ones < 0)
    evaluation = Evaluation(
        round=np.tile(index + 1, (seeds, 1)).astype(np.int32),
        accuracy=accuracy[:, index],
        loss=1 - accuracy[:, index],
        distance=1 - accuracy[:, index],
        server_accuracy=accuracy[:, index, -1],
        server_loss=accuracy[:, index, 0],
    )
    sizes = np.arange(10, 10 + clients) if sizes is None else sizes
    classes = np.arange(clients) % 10 + 1
    held = (np.arange(10) < classes[:, None]).astype(np.int32)
    held[:, 0] += sizes - classes
    what = partition, method, tuple(range(seeds)), sizes, classes, 100, record, evaluation
    return frames_lib.Cell(*what, held=held)


def run_of(cells):
    return directory_lib.Run({}, {}, {}, **frames_lib.frames_of(cells))


def changed(run, change):
    """The run with other tables of its methods."""
    names = "rounds", "clients", "fairness", "summary"
    return run._replace(**{name: change(getattr(run, name)) for name in names})


METHODS = ("standalone", "fedavg", "cgsv")


@pytest.fixture(scope="module")
def run():
    return run_of([cell(method) for method in METHODS])


@pytest.fixture(scope="module")
def crowd():
    return run_of([cell(method, clients=400, seeds=1) for method in METHODS])


def panels(figure):
    """The axes without the colour bar."""
    return [axes for axes in figure.axes if axes.get_xlabel()]


def uppers(figure):
    """Those of fairness over rounds, which stand above a panel."""
    return [axes for axes in figure.axes if axes.get_title() and not axes.get_xlabel()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


LABELS = {
    "fairness_rounds": ("round", "accuracy, %"),
    "accuracy": ("round", "test accuracy, %"),
    "reputation": ("round", "reputation (sums to 1)"),
    "share": ("round", "share of entries received, %"),
    "fairness": ("standalone test accuracy, %", "final test accuracy, %"),
    "holdings": ("class", "client"),
}


def test_the_kinds_are_those_that_results_clears_away():
    assert set(figures_lib.KINDS) == set(directory_lib.FIGURE_KINDS) == set(LABELS)
    assert set(figures_lib.METADATA) == set(directory_lib.FIGURE_FORMATS)


OTHERWISE = ("fairness_rounds", "holdings")  # no panel per method, or two


@pytest.mark.parametrize("kind", [kind for kind in figures_lib.KINDS if kind not in OTHERWISE])
def test_axes_are_labelled_with_units(run, kind):
    figure = figures_lib.KINDS[kind](run, "power_law")
    axes = panels(figure)
    x, y = LABELS[kind]
    assert [a.get_xlabel() for a in axes] == [x] * len(axes)
    assert axes[0].get_ylabel() == y
    shown = {"fairness": ("cgsv",), "share": ("standalone", "fedavg", "cgsv")}.get(kind, METHODS)
    assert [a.get_title().splitlines()[0] for a in axes] == list(shown)
    assert [a.get_ylabel() for a in figure.axes if a not in axes] == ["rows held"]
    assert "power_law" in figure.get_suptitle()
    assert len({a.get_ylim() for a in axes}) == 1  # one scale, or panels do not compare


def test_who_holds_what_is_the_table_of_holdings(run, crowd):
    """Every number is written where there is room; what nobody holds is left out."""
    for case in (run, crowd):
        table = case.holdings
        figure = figures_lib.holdings(case, "power_law")
        (axes,) = panels(figure)
        assert (axes.get_xlabel(), axes.get_ylabel()) == LABELS["holdings"]
        (drawn,) = axes.images
        array = drawn.get_array()
        found = {(c, label): int(array[c, label]) for c, label in np.argwhere(~array.mask).tolist()}
        wanted = {row[2:4]: row[4] for row in table.iter_rows()}
        assert found == wanted
        assert sum(found.values()) == case.clients.unique("client")["rows"].sum()
        if case is run:
            assert {t.get_position(): int(t.get_text()) for t in axes.texts} == {
                (label, client): count for (client, label), count in wanted.items()
            }
        else:
            assert not axes.texts


def test_who_holds_what_names_who_cheats_and_shows_every_draw():
    one = cell("cgsv")._replace(cheats=("", "sign_flip", "", "", ""))
    (axes,) = panels(figures_lib.holdings(run_of([one]), "power_law"))
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1 sign_flip", "2", "3", "4"]
    two = run_of([one, one._replace(partition_seed=3, held=one.held[:, ::-1])])
    first, second = panels(figures_lib.holdings(two, "power_law"))
    assert [first.get_title(), second.get_title()] == ["draw 0", "draw 3"]
    a, b = (axes.images[0].get_array().filled(0) for axes in (first, second))
    np.testing.assert_array_equal(a, b[:, ::-1])
    assert [t.get_text() for t in first.get_yticklabels()] == list("01234")


def test_a_run_of_an_earlier_version_says_nothing_of_holdings(tmp_path):
    old = run_of([cell("cgsv")._replace(held=None)])
    assert len(old.holdings) == 0
    names = [file.name for file in figures_lib.draw([old], tmp_path)]
    assert sorted(names) == sorted(f"{k}-power_law.png" for k in LABELS if k != "holdings")


@pytest.mark.parametrize("kind", figures_lib.KINDS)
def test_legend_and_labels_cover_no_panel(run, crowd, kind):
    for case in (run, crowd):
        figure = figures_lib.KINDS[kind](case, "power_law")
        figure.canvas.draw()
        boxes = [a.get_window_extent() for a in panels(figure)]
        boxes += [a.get_window_extent() for a in uppers(figure)]
        others = [a.xaxis.label.get_window_extent() for a in panels(figure)]
        others += [a.title.get_window_extent() for a in figure.axes if a.get_title()]
        others += [entry.get_window_extent() for entry in figure.legends]
        others += [figure._suptitle.get_window_extent()]
        for i, one in enumerate(others):
            assert one.x0 >= 0
            assert one.y0 >= 0
            assert one.x1 <= figure.bbox.x1
            assert one.y1 <= figure.bbox.y1
            assert not any(one.overlaps(box) for box in boxes)
            assert not any(one.overlaps(other) for other in others[i + 1 :])


def test_accuracy_draws_every_client_and_the_server(run):
    figure = figures_lib.accuracy(run, "power_law")
    *clients, server = panels(figure)[2].lines
    assert len(clients) == 5
    np.testing.assert_array_equal(clients[0].get_xdata(), [2, 4, 6])  # where it was evaluated
    np.testing.assert_allclose(clients[0].get_ydata()[-1], 0.4, rtol=1e-6)
    np.testing.assert_allclose(clients[-1].get_ydata()[-1], 0.8, rtol=1e-6)
    np.testing.assert_allclose(server.get_ydata()[-1], 0.8, rtol=1e-6)
    assert server.get_linestyle() == "--"
    assert legend(figure) == ["server"]
    brightness = [np.mean(line.get_color()[:3]) for line in clients]
    assert brightness == sorted(brightness, reverse=True)  # those that hold most are darkest
    axes = panels(figure)[0]
    assert axes.yaxis.get_major_formatter()(0.5, None) == "50"


def test_lines_are_means_over_seeds(run):
    axes = panels(figures_lib.reputation(run, "power_law"))[2]
    mean = (
        run.rounds.filter(method="cgsv", client=0)
        .group_by("round")
        .agg(pl.col("reputation").mean())
    )
    np.testing.assert_allclose(
        axes.lines[0].get_ydata(), mean.sort("round")["reputation"], rtol=1e-6
    )
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), 0.2)  # 1 / number of clients


def test_share_is_in_percent_of_all_entries(run):
    axes = panels(figures_lib.share(run, "power_law"))[2]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 0.4)
    assert axes.get_ylim()[0] < 0 < 1 < axes.get_ylim()[1]


def test_fairness_is_in_the_title(run):
    """With what it rests on; a method without one is a line, unless there is no other."""
    figure = figures_lib.fairness(run, "power_law")
    (cgsv,) = panels(figure)
    assert cgsv.get_title() == "cgsv\nfairness 100.0 [100.0, 100.0]\nspread 14.1 points"
    said = " ".join(figure.get_suptitle().split())
    assert said.endswith("undefined for fedavg: all clients end with the same accuracy")
    (fedavg,) = panels(figures_lib.fairness(run_of([cell(m) for m in METHODS[:2]]), "power_law"))
    title = " ".join(fedavg.get_title().split())
    assert title == "fedavg fairness undefined: all clients end with the same accuracy"
    points = cgsv.collections[-1].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.linspace(0.4, 0.8, 5), rtol=1e-6)
    np.testing.assert_allclose(points[:, 1], np.linspace(0.4, 0.8, 5), rtol=1e-6)
    assert cgsv.get_xlim() == cgsv.get_ylim()


def turning(late, seeds=2, evaluations=8):
    """Standalone and a method whose clients stand in the order `late` at the last but one."""
    alone = cell("standalone", seeds=seeds, rounds=2 * evaluations)
    own = alone._replace(method="cgsv")
    accuracy = own.evaluation.accuracy.copy()
    accuracy[:, -2] = late
    return [alone, own._replace(evaluation=own.evaluation._replace(accuracy=accuracy))]


def test_fairness_over_rounds_is_that_of_its_table(run):
    figure = figures_lib.fairness_rounds(run, "power_law")
    (cgsv,) = uppers(figure)
    assert cgsv.get_ylabel() == "fairness"
    assert cgsv.get_ylim() == (-108, 108)
    assert cgsv.get_title() == "cgsv\nfairness 100.0 [100.0, 100.0]\nspread 14.1 points"
    assert "undefined for fedavg: all clients end with" in figure.get_suptitle()
    assert legend(figure) == [
        *("by loss", "by accuracy", "mean accuracy", "standalone"),
        "last quarter of the evaluations",
    ]
    assert "power_law" in figure.get_suptitle()
    own = run.fairness.filter(method="cgsv")
    lines = [line for line in cgsv.lines if len(line.get_xdata()) == 3]
    assert len(lines) == 2 * 3  # by loss and by accuracy: two runs, their mean
    for line, seed in zip(lines[3:5], (0, 1), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [2, 4, 6])
        np.testing.assert_allclose(line.get_ydata(), own.filter(seed=seed)["fairness"])
    accuracy = [line for line in panels(figure)[0].lines if len(line.get_xdata()) == 3]
    means = own.group_by("round", maintain_order=True).agg(pl.col("mean_accuracy").mean())
    np.testing.assert_allclose(accuracy[2].get_ydata(), means["mean_accuracy"], rtol=1e-6)
    alone = run.fairness.filter(method="standalone", seed=0)["mean_accuracy"]
    np.testing.assert_allclose(accuracy[3].get_ydata(), alone, rtol=1e-6)


def test_the_last_quarter_is_shaded_from_halfway():
    for every, evaluations, begin in ((2, 8, 13), (2, 3, 5), (2, 1, None)):
        made = cell("cgsv", rounds=every * evaluations, every=every)
        figure = figures_lib.fairness_rounds(run_of([cell("standalone"), made]), "power_law")
        shades = [patch.get_x() for patch in uppers(figure)[0].patches]
        assert shades == ([] if begin is None else [begin])


def test_what_is_undefined_in_a_round_is_a_gap():
    run = run_of(turning(np.full(5, 0.5), seeds=1))
    upper = uppers(figures_lib.fairness_rounds(run, "power_law"))[0]
    line, lonely = upper.lines[3:5]
    assert np.isnan(line.get_ydata()).tolist() == [False] * 6 + [True, False]
    assert lonely.get_marker() == "o"  # the last point, which no line reaches
    assert lonely.get_xdata().tolist() == [16]
    assert "cgsv\nfairness 100.0*" in upper.get_title()


def test_doubts_stand_in_titles_and_are_explained_once():
    """In every figure that shows a fairness, of what is in it alone."""
    made = turning(np.linspace(0.8, 0.4, 5))
    run = run_of([*made, cell("fedavg", rounds=16)])
    for kind in ("fairness_rounds", "fairness"):
        figure = figures_lib.KINDS[kind](run, "power_law")
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert titles[0].startswith("cgsv\nfairness 100.0* [100.0, 100.0]\n")
        said = " ".join(figure.get_suptitle().splitlines()[1:])
        assert said.endswith("* its sign changes over the last quarter, or it is lost there")
    compared = figures_lib.comparison([run.summary], ["run"])
    assert [text.get_text() for text in compared.axes[0].texts] == [
        *("yardstick", "100.0*", "undefined"),
    ]
    assert compared.get_suptitle().splitlines()[1].startswith("* its sign")
    unsure = run.summary.with_columns(
        fairness_low=pl.when(pl.col("fairness").is_not_null()).then(-50.0), fairness_high=100.0
    )
    figure = figures_lib.fairness(run._replace(summary=unsure), "power_law")
    title = figure.axes[0].get_title()
    assert title.startswith("cgsv\nfairness ±?* [-50.0, 100.0]\n")
    assert "±? its interval contains both signs" in figure.get_suptitle().splitlines()
    told = run.summary.with_columns(oracle=pl.col("method") == "cgsv")
    figure = figures_lib.fairness(run._replace(summary=told), "power_law")
    assert figure.axes[0].get_title().startswith("cgsv\nfairness 100.0*† [100.0, 100.0]\n")
    assert "† oracle, an input is the standalone accuracy" in figure.get_suptitle()


def test_many_clients_are_bands(crowd):
    figure = figures_lib.accuracy(crowd, "power_law")
    assert legend(figure) == [
        "median client",
        "5 to 95 % of clients",
        "25 to 75 % of clients",
        "mean of the tenth with fewest rows",
        "mean of the tenth with most rows",
        "server",
    ]
    axes = panels(figure)[2]
    median, fewest, most, _ = axes.lines
    assert median.get_ydata()[-1] == pytest.approx(0.6)
    assert fewest.get_ydata()[-1] == pytest.approx(0.4 + 0.4 * 19.5 / 399)
    assert most.get_ydata()[-1] == pytest.approx(0.8 - 0.4 * 19.5 / 399)
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert low == pytest.approx((0.4 + 0.4 * 0.05) * 0.6, rel=1e-5)  # at round 2
    assert high == pytest.approx(0.4 + 0.4 * 0.95)
    points = panels(figures_lib.fairness(crowd, "power_law"))[0].collections[-1].get_offsets()
    assert len(points) == 400


def test_what_no_round_changes_is_a_line_of_text(run):
    """Reputations that stay, and shares that are the same for all; all others are drawn."""
    still = run.rounds.with_columns(
        pl.when(pl.col("method") == "fedavg").then(1.0).otherwise("share").alias("share"),
        pl.when(pl.col("method") != "cgsv").then(0.2).otherwise("reputation").alias("reputation"),
    )
    run = run._replace(rounds=still)
    figure = figures_lib.reputation(run, "power_law")
    assert [axes.get_title() for axes in panels(figure)] == ["cgsv"]
    said = " ".join(figure.get_suptitle().split())
    assert said.endswith("the same in every round: standalone, fedavg 20 %")
    figure = figures_lib.share(run, "power_law")
    assert [axes.get_title() for axes in panels(figure)] == ["standalone", "cgsv"]
    assert figure.get_suptitle().splitlines()[-1] == "the same in every round: fedavg 100 %"


def test_the_last_accuracies_stand_beside_the_lines(run):
    """One number where all clients end alike."""
    texts = [
        [text.get_text() for text in axes.texts]
        for axes in panels(figures_lib.accuracy(run, "power_law"))
    ]
    assert texts == [["80.0", "40.0"], ["90.0"], ["80.0", "40.0"]]


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (13, 3)])
def test_four_panels_are_two_by_two(number, columns):
    made = run_of([cell(f"m{i}", seeds=1) for i in range(number)])
    axes = panels(figures_lib.accuracy(made, "power_law"))
    assert len(axes) == number
    assert {a.get_subplotspec().get_gridspec().ncols for a in axes} == {columns}


def test_equal_rows_are_coloured_by_classes():
    even = run_of([cell(m, "uniform", sizes=np.full(5, 10)) for m in METHODS])
    figure = figures_lib.accuracy(even, "uniform")
    assert figure.axes[-1].get_ylabel() == "classes held"


def test_odd_runs_are_drawn_too():
    one_round = run_of([cell("cgsv", rounds=1, seeds=1, every=1)])
    assert (
        "no standalone run" in panels(figures_lib.fairness(one_round, "power_law"))[0].get_title()
    )
    line = panels(figures_lib.accuracy(one_round, "power_law"))[0].lines[0]
    assert line.get_marker() == "o"  # a line through one point is invisible
    alone = run_of([cell("standalone", clients=1, sizes=np.array([3]))])
    for kind in figures_lib.KINDS.values():
        kind(one_round, "power_law").canvas.draw()
        kind(alone, "power_law").canvas.draw()
    broken = cell("cgsv")
    nothing = np.full_like(broken.evaluation.accuracy, np.nan)
    broken = broken._replace(evaluation=broken.evaluation._replace(accuracy=nothing))
    for kind in figures_lib.KINDS.values():
        kind(run_of([cell("standalone"), broken]), "power_law").canvas.draw()


def test_comparison():
    cells = [cell(m, p) for p in ("power_law", "uniform") for m in METHODS]
    runs = [run_of(cells), run_of(cells[:3])]
    figure = figures_lib.comparison([run.summary for run in runs], ["first", "second"])
    assert legend(figure) == ["first", "second"]
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["fairness\n(100 × Pearson)", "mean test accuracy, %"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["power_law", "uniform"]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["yardstick", "undefined", "100.0"] * 2
    assert figure.axes[2].texts[0].get_text() == "60.0"
    points = [c.lines[0].get_xydata()[0] for c in figure.axes[2].containers]
    np.testing.assert_allclose(points[2][1], 60, rtol=1e-5)
    assert len({tuple(point) for point in points}) == 6  # side by side


def test_draw_writes_images(tmp_path, run):
    files = figures_lib.draw([run], tmp_path)
    assert [file.name for file in files] == [f"{kind}-power_law.png" for kind in figures_lib.KINDS]
    for file in files:
        pixels = image.imread(file)
        assert min(pixels.shape[:2]) > 300
        assert pixels[..., :3].std() > 0.01
        assert b"Software" not in file.read_bytes()


@pytest.mark.parametrize("name", directory_lib.FIGURE_FORMATS)
def test_equal_runs_are_equal_bytes(tmp_path, run, name):
    figures = {"fairness": lambda: figures_lib.fairness(run, "power_law")}
    first, second = (figures_lib.save(figures, tmp_path / x, [name], "run")[0] for x in "ab")
    assert first.suffix == f".{name}"
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5_000
    # Within one second a date would not tell the two apart.
    assert not any(word in first.read_bytes() for word in (b"CreationDate", b"<dc:date>"))


def test_draw_goes_to_the_runs_own_folder(tmp_path):
    directory = directory_lib.create(tmp_path / "run")
    directory_lib.write(directory, {}, {}, {}, [cell("cgsv", p) for p in ("a", "b")])
    files = figures_lib.draw([directory])
    assert {file.parent for file in files} == {directory / directory_lib.FIGURES}
    assert len(files) == 12
    directory_lib.create(directory, overwrite=True)
    assert not any(file.exists() for file in files)


@pytest.mark.parametrize(
    "name", ["../../evil", "/evil", "a/../../../evil", "x/y", "a\\b", "a\nb", "c:evil", "x" * 300]
)
def test_a_name_in_a_run_cannot_lead_out_of_it(tmp_path, name):
    """A run directory may come from anybody."""
    directory = directory_lib.create(tmp_path / "deep" / "run")
    directory_lib.write(directory, {}, {}, {}, [cell("cgsv", name)])
    before = sorted(tmp_path.rglob("*"))
    for out in (None, tmp_path / "out"):
        with pytest.raises(ValueError, match=r"is no name|which is no name"):
            figures_lib.draw([directory], out)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/evil").exists()


def test_a_link_in_a_run_does_not_lead_out_of_it(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    directory = directory_lib.create(tmp_path / "run")
    directory_lib.write(directory, {}, {}, {}, [cell("cgsv")])
    (directory / "figures").mkdir()
    (directory / "figures" / "accuracy-power_law.png").symlink_to(mine / "notes")
    with pytest.raises(ValueError, match=r"accuracy-power_law\.png is a symbolic link"):
        figures_lib.draw([directory])
    (directory / "figures" / "accuracy-power_law.png").unlink()
    assert not list(directory.glob("figures/*"))
    (directory / "figures").rmdir()
    (directory / "figures").symlink_to(mine)
    with pytest.raises(ValueError, match="figures is a symbolic link"):
        figures_lib.draw([directory])
    assert [path.name for path in mine.iterdir()] == ["notes"]
    assert (mine / "notes").read_text() == "mine"


def test_a_users_settings_and_names_do_not_reach_the_figures(tmp_path, run):
    """With usetex and without LaTeX, or with a formula for a name, drawing would fail."""
    names = {"cgsv": r"bad$\frac$", "fedavg": "\N{SNOWMAN}\N{CJK UNIFIED IDEOGRAPH-6587}"}
    odd = changed(run, lambda frame: frame.with_columns(pl.col("method").replace(names)))
    plain = [file.read_bytes() for file in figures_lib.draw([odd], tmp_path / "plain", ("svg",))]
    users = {"text.usetex": True, "axes.prop_cycle": "cycler('color', ['r'])", "font.size": 30}
    with matplotlib.rc_context(users), warnings.catch_warnings():
        warnings.simplefilter("error")
        files = figures_lib.draw([odd], tmp_path / "users", ("svg",))
        assert matplotlib.rcParams["font.size"] == 30
    assert [file.read_bytes() for file in files] == plain


def test_only_what_is_missing_is_drawn(tmp_path, run):
    first, second, *_ = figures_lib.draw([run], tmp_path)
    second.unlink()
    first.write_text("as it was")
    assert figures_lib.draw([run], tmp_path, missing=True) == [second]
    assert first.read_text() == "as it was"


def test_thousands_of_methods_are_refused(run, tmp_path):
    names = [pl.lit(f"m{i}") for i in range(figures_lib.MOST + 1)]
    many = changed(run, lambda f: pl.concat(f.head(1).with_columns(method=name) for name in names))
    with pytest.raises(ValueError, match=r"holds 501 methods, 500 are drawn"):
        figures_lib.draw([many._replace(directory=tmp_path)])


def test_draw_compares_several_runs(tmp_path):
    runs = []
    for parent in ("x", "y"):
        directory = directory_lib.create(tmp_path / parent / "run")
        directory_lib.write(directory, {}, {}, {}, [cell("standalone", rounds=1, every=1)])
        runs.append(directory)
    files = figures_lib.draw(runs, tmp_path / "out")
    folders = [file.relative_to(tmp_path / "out").parts[0] for file in files]
    assert folders == ["run"] * 6 + ["run-2"] * 6 + ["comparison.png"]


def test_runs_on_other_data_are_not_drawn_into_one_panel(tmp_path):
    """What differs is said, in the labels too."""
    runs = []
    for name in ("digits", "mnist"):
        directory = directory_lib.create(tmp_path / name)
        cells = [cell(method, seeds=1) for method in METHODS]
        directory_lib.write(directory, {"dataset": name, "rounds": 6}, {}, {}, cells)
        runs.append(directory_lib.read(directory))
    configs = [run.config for run in runs]
    made = figures_lib.comparison(
        [run.summary for run in runs],
        differences.labels(configs, ["a", "b"]),
        ["digits", "mnist"],
        differences.sentence(configs),
    )
    titles = [axes.get_title() for axes in made.axes[:2]]
    assert titles == ["digits, power_law", "mnist, power_law"]
    assert legend(made) == ["a (dataset digits)", "b (dataset mnist)"]
    assert "differ in dataset (digits; mnist)" in made.get_suptitle()
    limits = [axes.get_shared_y_axes().get_siblings(axes) for axes in made.axes[:2]]
    assert [len(own) for own in limits] == [1, 1]
    drawn = figures_lib.draw(runs, tmp_path / "out", ("pdf", "svg"))
    assert {file.suffix for file in drawn} == {".pdf", ".svg"}


def test_draw_refuses(tmp_path, run):
    with pytest.raises(ValueError, match=r"^--format is 'png,gif', it must be of png, pdf, svg"):
        figures_lib.draw([run], tmp_path, ("png", "gif"))
    with pytest.raises(ValueError, match="at least one is needed"):
        figures_lib.draw([], tmp_path)
    with pytest.raises(ValueError, match="--out is missing"):
        figures_lib.draw([run])
    with pytest.raises(ValueError, match="no run directory"):
        figures_lib.draw([tmp_path], tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file cannot be written to: "):
        figures_lib.draw([run], tmp_path / "file")
