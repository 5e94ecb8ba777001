"""The directory of a sweep: finished when its last step is done, of the data it was begun with.

Whatever a stranger, a bad disk or a kill left in it ends in the right tables or in one sentence.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time

import numpy as np
import pytest

from cgsv_jax.command import main, stopping
from cgsv_jax.command import sweep as sweep_command
from cgsv_jax.experiment import execute, identity, names
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames
from cgsv_jax.sweep import options, plan
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.sweep import search as search_lib

FLAGS = ["--hidden", "8", "--clients", "3", "--epochs", "1", "--rounds", "2", "--seeds", "1"]
FLAGS += ["--eval-rows", "60", "--quiet"]
GRID = ["sweep", *FLAGS, "--beta", "0.5,2", "--alpha", "0.9,0.95"]


def contents(folder):
    """Every file but the seconds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A sweep all of whose runs are through, killed before its tables."""
    out = tmp_path_factory.mktemp("begun") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_results, "write", _interrupted)
        patch.setattr(sweep_command, "_SECONDS_BETWEEN_PARTS", math.inf)
        assert main.main([*GRID, "--out", str(out)]) == 130
    assert {path.name for path in out.iterdir()} == {"config.json", "environment.json", "parts"}
    return out


def _interrupted(*_):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(begun):
    """The same, finished."""
    out = begun.with_name("whole")
    shutil.copytree(begun, out)
    assert main.main(["sweep", "--resume", str(out), "--quiet"]) == 0
    return out


@pytest.fixture
def copy(tmp_path):
    def of(folder):
        return shutil.copytree(folder, tmp_path / "sweep")

    return of


def said(capsys, code, *words):
    """What a command that must end with this code says, on one line of sentences."""
    assert main.main([*map(str, words)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def one_sentence(capsys, *words):
    sentences = said(capsys, 2, *words).splitlines()
    assert len(sentences) == 1
    assert sentences[0].startswith("cgsv: ")
    return sentences[0]


# ---------------------------------------------------------------- finished means finished


def test_what_follows_the_tables_is_done_again(whole, copy, capsys):
    out = copy(whole)
    shutil.rmtree(out / "figures")
    for name in ("parts", "ray/trials", "checkpoint/000000000001", "checkpoint/.000000000002.tmp"):
        (out / name).mkdir(parents=True)
    for name in ("parts/.a.npz.1.tmp", "parts/b.npz", "parts/c.json", ".config.json.1.tmp"):
        (out / name).touch()
    (out / "figures").mkdir()
    (out / "figures" / ".pair-beta-alpha.png.1.tmp").touch()
    for _ in range(2):
        assert "is finished" in said(capsys, 0, "sweep", "--resume", out)
        assert contents(out) == contents(whole)
        assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}


@pytest.mark.parametrize("name", directory_lib.SWEEP_FILES)
def test_all_tables_or_none(name, whole, begun, copy, capsys):
    """A kill between two of them leaves a sweep that goes on, and that nothing else reads."""
    out = copy(whole)
    shutil.copytree(begun / "parts", out / "parts")
    (out / name).unlink()
    assert not sweep_results.is_sweep(out)
    said(capsys, 0, "sweep", "--resume", out, "--quiet")
    assert contents(out) == contents(whole)


def test_who_may_not_write_is_told_that_it_is_finished(whole, copy, capsys, monkeypatch):
    """As on a read-only file system: what cannot be tidied is said, and costs nothing."""
    out = copy(whole)
    (out / ".config.json.1.tmp").touch()

    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "unlink", refused)
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    told = said(capsys, 0, "sweep", "--resume", out)
    assert "Read-only file system" in told
    assert "is finished" in told


def test_seconds_are_those_of_all_processes(begun, copy, monkeypatch):
    """Of programs whose seconds the checkpoint has, the rest of its process counts as well."""
    out, kept = (
        copy(begun),
        execute.Kept(execute.Place(0, 0, 0), (), [], [execute.Clock(60, 20, 100)]),
    )

    @contextlib.contextmanager
    def kept_by(console, directory, identity, every, work):
        keeper = execute.NO_KEEPER._replace(restore=lambda *_: kept)
        yield work(keeper, lambda look: None), []

    monkeypatch.setattr(stopping, "kept", kept_by)
    sweep_command.command({}, {"resume": out, "quiet": True})
    assert 100 < directory_lib.read_json(out, "timing.json")["total_seconds"] < 400


# ---------------------------------------------------------------- parts are judged


def flipped(content, rng):
    place, bit = rng.integers(len(content)), rng.integers(8)
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def test_no_flipped_bit_of_a_part_becomes_a_result(begun, copy):
    out, rng, told = copy(begun), np.random.default_rng(0), []
    (part,) = (out / "parts").glob("*.npz")
    content, known = part.read_bytes(), sweep_results.parts(out)
    assert len(known) == 1 + 4
    for number in range(200):
        part.write_bytes(flipped(content, rng))
        assert sweep_results.parts(out, told.append) == {}
        assert len(told) == number + 1
    part.write_bytes(content)
    assert sweep_results.parts(out).keys() == known.keys()


def other_part(out, change):
    """Replaces the part by a sound one of other numbers."""
    (part,) = (out / "parts").glob("*.npz")
    known = sweep_results.parts(out)
    part.unlink()
    key = sorted(known)[-1]
    sweep_results.add_part(out, known | {key: change(known[key].copy())})


def with_(place, value):
    def change(x):
        x[place] = value
        return x

    return change


_ACCURACY = 5  # the first place after the number of test rows, 60, and 3 x 60 bits in 4 numbers
CHANGES = {  # of 3 clients: at the end bytes, ..., who is honest, and seen
    "one client": lambda x: x[:12],
    "nothing": lambda x: x[:0],
    "another shape": lambda x: x[None],
    "another type": lambda x: x.astype(np.float32),
    "text": lambda x: x.astype(np.str_),
    "no number": with_(0, math.nan),
    "infinity": with_(0, math.inf),
    "other answers": with_(1, 2.0),
    "half an answer": with_(2, 0.5),
    "accuracy 2": with_(_ACCURACY, 2.0),
    "accuracy below 0": with_(_ACCURACY + 1, -0.5),
    "half a byte": with_(-20, 0.5),
    "half honest": with_(-4, 0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_part_that_no_run_gives_is_computed_again(change, begun, copy):
    out, told = copy(begun), []
    other_part(out, change)
    sweep = points_lib.described(directory_lib.read_json(out, "config.json"))
    content = plan.content_of(plan.data_of(sweep))
    keys = {run: plan.key_of(run, "test", content) for run in plan.trials_of(sweep)}
    ends = sweep_results.through(keys, sweep_results.parts(out), told.append)
    assert len(ends) == 4
    assert len(told) == 1


def test_what_counts_for_nothing_is_said_and_computed_again(whole, begun, copy, capsys):
    out = copy(begun)
    other_part(out, CHANGES["one client"])
    (out / "parts" / f"{'0' * 64}.npz").write_bytes(b"nothing")
    told = said(capsys, 0, "sweep", "--resume", out, "--quiet")
    assert "cannot be read: it was changed or damaged" in told
    assert "a trial is computed again" in told
    assert contents(out) == contents(whole)


def test_an_outcome_comes_back_without_a_rounding():
    rng = np.random.default_rng(0)
    fields = {}
    for name, (of, _, most, kind) in sweep_results._HOLDS.items():
        size = {"clients": 5, "evaluated": 3, "late": (4, 3), "one": 1, "own": 3}[of]
        fields[name] = (rng.random(size) * min(most, 1e6)).astype(kind)
    assert (*fields, "rows", "right") == frames.Outcome._fields
    ones = ("server_accuracy", "chosen_round", "oracle")
    end = frames.Outcome(**fields)._replace(**{name: fields[name][0] for name in ones})
    right = rng.random((3, 7)) < 0.5
    accuracy = right.mean(-1).astype(np.float32)
    end = end._replace(accuracy=accuracy, rows=np.int32(7), right=np.packbits(right))
    np.testing.assert_array_equal(frames.answers_of(end).right[0], right)
    again = sweep_results.unpacked(sweep_results.packed(end), 5, 3)
    for before, after in zip(end, again, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_a_loss_that_is_no_number_is_kept():
    """Of a model that is finite: its trial is through, and is not computed again for ever."""
    end = frames.Outcome(
        *(np.full(3, x, np.float32) for x in (0.5, np.nan)),
        *(np.full((2, 3), x, np.float32) for x in (0.5, np.inf)),
        distance=np.full(3, np.inf, np.float32),
        server_accuracy=np.float32(0.5),
        **dict.fromkeys(("share", "present"), np.ones(3)),
        energy=np.full(3, np.nan),
        **dict.fromkeys(("upload_bytes", "download_bytes", "broken"), np.zeros(3, np.int64)),
        reputation=np.ones(3, np.float32),
        **dict.fromkeys(("honest", "honest_seen"), np.ones(3, bool)),
    )
    again = sweep_results.unpacked(sweep_results.packed(end), 3, 3)
    for before, after in zip(end, again, strict=True):
        np.testing.assert_array_equal(before, after)
    for name in ("accuracy", "late_accuracy", "reputation"):
        lost = end._replace(**{name: getattr(end, name) * np.float32(np.nan)})
        with pytest.raises(ValueError, match=f"its {name} is no"):
            sweep_results.unpacked(sweep_results.packed(lost), 3, 3)


def test_a_sweep_of_which_nothing_is_through_has_no_best():
    table = sweep_results.frame([], {"beta": (1.0, 2.0)})
    _, best = sweep_results.ranked(table, ("beta",), "fairness")
    assert best is None


SCORE = {"values": {"beta": 2.0}, "state": "finished", "criterion": 1.0, "looks": [[1, None]]}


@pytest.mark.parametrize(
    "change",
    [
        {"values": {}},
        {"values": {"beta": "2"}},
        {"values": {"beta": 99.0}},
        {"state": "won"},
        {"criterion": "1"},
        {"criterion": math.inf},
        {"criterion": [1]},
        {"looks": None},
        {"looks": [[1, math.inf]]},
        {"looks": [[1.5, 1.0]]},
        {"values": 3},
    ],
)
def test_scores_are_verified(change, tmp_path, capsys):
    """What is not of the point counts for nothing, and so does an end without its trials."""
    sweep_results.add_score(tmp_path, SCORE | change)
    (path,) = (tmp_path / "parts").iterdir()
    scores = sweep_results.scores(tmp_path)
    assert sweep_command._score_before(scores, {"beta": 2.0}, True) is None
    path.unlink()
    sweep_results.add_score(tmp_path, SCORE)
    scores = sweep_results.scores(tmp_path)
    assert sweep_command._score_before(scores, {"beta": 2.0}, False) is None
    want = SCORE | {"looks": [(1, None)]}
    assert sweep_command._score_before(scores, {"beta": 2.0}, True) == want
    sweep_results.add_score(tmp_path, SCORE | {"state": "stopped"})
    scores = sweep_results.scores(tmp_path)
    assert sweep_command._score_before(scores, {"beta": 2.0}, False)["state"] == "stopped"


# ---------------------------------------------------------------- searches go on


SEARCHES = {
    "optuna": ("--search", "optuna", "--batch", "2"),
    "asha": ("--search", "random", "--scheduler", "asha", "--rounds", "9", "--eval-every", "1"),
    "median": ("--search", "optuna", "--scheduler", "median", "--rounds", "4", "--eval-every", "1"),
}


@pytest.mark.parametrize(
    "name", ["optuna", *(pytest.param(own, marks=pytest.mark.long) for own in ("asha", "median"))]
)
def test_a_search_is_stopped_and_goes_on(name, tmp_path, capsys, monkeypatch):
    """Wherever it was: the same points, scores and tables."""
    pytest.importorskip("optuna", reason="needs the extra [search]")
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = ["sweep", *FLAGS, "--learning-rate", "0.0001:1", "--best", "mean_accuracy"]
    words += ["--points", "5", *SEARCHES[name]]
    said(capsys, 0, *words, "--out", whole)
    scores = directory_lib.read_json(whole, "config.json")["scores"]
    assert len(scores) == 5
    if name == "asha":  # most of four decades learn nothing in the first rounds
        assert {score["state"] for score in scores} == {"finished", "stopped"}
    computed, execute, left = [], sweep_running.execute, []

    def stopping(plan, *rest):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        outcomes, clocks = execute(plan, *rest)
        computed.extend(outcomes)
        return outcomes, clocks

    monkeypatch.setattr(sweep_running, "execute", stopping)
    assert f"cgsv sweep --resume {part}" in said(capsys, 130, *words, "--out", part)
    for calls in (1, 1, 99):
        left[:] = range(calls)
        said(capsys, 130 if calls == 1 else 0, "sweep", "--resume", part, "--quiet")
    monkeypatch.undo()
    if name == "optuna":  # of a point that may be stopped no half is kept
        assert len(computed) == len(set(computed))
    assert contents(part) == contents(whole)
    again = tmp_path / "again"  # its points are known now
    said(capsys, 0, "sweep", "--config", whole / "config.json", "--quiet", "--out", again)
    assert (again / "sweep.parquet").read_bytes() == (whole / "sweep.parquet").read_bytes()


# ---------------------------------------------------------------- identity is content


def test_other_data_are_refused(tmp_path, capsys, monkeypatch):
    who = tmp_path / "who.txt"
    who.write_text("0,1\n1,2\n")
    out = tmp_path / "sweep"
    monkeypatch.setattr(sweep_results, "write", _interrupted)
    said(capsys, 130, *GRID, "--attendance", who, "--out", out)
    before = contents(out)
    who.write_text("0,1\n0,2\n")
    sentence = one_sentence(capsys, "sweep", "--resume", out, "--quiet")
    assert "--attendance" in sentence
    assert "start it anew" in sentence
    assert contents(out) == before
    told = said(capsys, 130, "sweep", "--config", out / "config.json", "--out", tmp_path / "x")
    assert "but the file of --attendance holds something else" in told
    who.write_text("0,1\n1,2\n")
    said(capsys, 130, "sweep", "--resume", out, "--quiet")  # up to its tables


def test_a_run_is_known_by_its_rows_not_by_where_they_lie():
    config = names.configure(clients=3, rounds=2)
    run = plan.trial_of(config, config.methods[0], "uniform", 0, 0)
    data = identity.data_identity(config)
    moved = {**data, "sets": {"digits": data["sets"]["digits"] | {"folder": "/x"}}}
    other = {**data, "sets": {"digits": data["sets"]["digits"] | {"rows": "0"}}}
    filed = {**data, "files": {"attendance": "0"}}
    contents = map(plan.content_of, (data, moved, other, filed))
    keys = [plan.key_of(run, "test", content) for content in contents]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    moved = dataclasses.replace(run.config, attendance="/a", data_dir="/b")
    assert plan.key_of(run._replace(config=moved)) == plan.key_of(run)


# ---------------------------------------------------------------- nothing leaves the directory


def edited(out, name, change):
    """Changes a document as a stranger may, who can seal it again."""
    value = json.loads((out / name).read_text())
    value.pop("sha256")
    (out / name).write_bytes(files.document(change(value)))


@pytest.mark.parametrize("name", ["figures", "parts", "ray", "checkpoint"])
def test_links_are_not_followed(name, whole, begun, copy, capsys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "pair-beta-alpha.png").write_bytes(b"mine")
    out = copy(whole if name == "figures" else begun)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).symlink_to(outside)
    commands = [["sweep", "--resume", out, "--quiet"]]
    commands += [["plot", out]] if name == "figures" else []
    for words in commands:
        assert "is a symbolic link" in one_sentence(capsys, *words)
    assert contents(outside) == {"pair-beta-alpha.png": b"mine"}
    assert not (out / "sweep.parquet").exists() or name == "figures"


def renamed(out, axis):
    import polars as pl

    table = pl.read_parquet(out / "sweep.parquet").rename({"beta": axis})
    content = directory_lib.parquet(table)
    (out / "sweep.parquet").write_bytes(content)
    edited(out, "config.json", lambda c: c | {"axes": [{"name": axis, "values": [0.5, 2.0]}]})
    digest = directory_lib.digests({"sweep.parquet": content})
    edited(out, "environment.json", lambda e: e | {"tables": e["tables"] | digest})


def test_axes_are_options(whole, copy, capsys, tmp_path):
    out = copy(whole)
    (out / "figures" / "pair-alpha-x").mkdir()
    renamed(out, "x/../../../outside/evil")
    assert "cannot be swept" in one_sentence(capsys, "plot", out)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


# ---------------------------------------------------------------- a stranger's documents


def put(**values):
    return lambda document: document | values


def without(name):
    return lambda document: {k: v for k, v in document.items() if k != name}


def first_axis(**values):
    def change(config):
        return config | {"axes": [config["axes"][0] | values, *config["axes"][1:]]}

    return change


CONFIGS = {
    "no axes": without("axes"),
    "axes 3": put(axes=3),
    "axes [1]": put(axes=[1]),
    "no values": first_axis(values=None),
    "null values": first_axis(values=[None, None]),
    "other values": first_axis(values=[7, 8]),
    "no best": without("best"),
    "best unknown": put(best="x"),
    "best a list": put(best=["fairness"]),
    "best a text": put(best="fairness_undefined"),
    "other methods": put(shown=["fedavg"]),
    "no methods": put(shown=[]),
    "no points": put(points=[]),
    "a list": lambda config: [config],
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_strangers_config(change, whole, copy, capsys):
    """It is not drawn, and one sentence says why."""
    out = copy(whole)
    edited(out, "config.json", change)
    assert "sweep" in one_sentence(capsys, "plot", out)


@pytest.mark.parametrize("value", [3, "x", [1], {"best": [1]}, {"best": "x"}])
def test_points_are_not_believed(value, whole, copy, capsys):
    """What is best follows from the table."""
    out = copy(whole)
    edited(out, "points.json", lambda _: value)
    (out / "figures" / "pair-beta-alpha.png").unlink()
    said(capsys, 0, "plot", out)
    assert contents(out / "figures") == contents(whole / "figures")


@pytest.mark.parametrize(
    "change",
    [
        put(versions=[1]),
        put(versions="x"),
        put(versions=3),
        put(data=[]),
        put(data={"sets": {"digits": {}}, "files": {}}),
        without("versions"),
        lambda _: 3,
    ],
)
def test_a_strangers_environment(change, begun, copy, capsys):
    out = copy(begun)
    edited(out, "environment.json", change)
    sentence = one_sentence(capsys, "sweep", "--resume", out, "--quiet")
    assert "environment.json cannot be read" in sentence


def point_of(**values):
    def change(config):
        first, *others = config["points"]
        return config | {"points": [first | {"values": first["values"] | values}, *others]}

    return change


LIES = {
    "a point is another": point_of(beta=2.0, alpha=0.95),
    "a point is none of the axes'": point_of(beta=7.0),
    "an option that is none": lambda c: c | {"options": c["options"] | {"out": "/home"}},
    "a method that is not run": put(shown=["fedavg"]),
    "another config": lambda c: c | {"config": c["config"] | {"clients": "x"}},
    "methods that are none": lambda c: c | {"config": c["config"] | {"methods": 3}},
}


@pytest.mark.parametrize("change", LIES.values(), ids=LIES)
def test_a_config_that_lies_is_refused(change, begun, copy, capsys):
    """The table would show a point that was not run."""
    out = copy(begun)
    edited(out, "config.json", change)
    one_sentence(capsys, "sweep", "--resume", out, "--quiet")
    one_sentence(capsys, "sweep", "--config", out / "config.json", "--out", out.parent / "other")
    assert not (out.parent / "other").exists()


SEARCH = {
    "options": {"clients": 3, "rounds": 2, "seeds": 1},
    "spaces": {"beta": {"low": 0.1, "high": 10.0, "log": True, "whole": False}},
    **{"how": "optuna", "points": 3, "batch": 1, "seed": 0, "scheduler": "none"},
    **{"best": "fairness", "eval_split": "test"},
}


@pytest.mark.parametrize(
    "change",
    [
        put(points=10**9),
        put(points="3"),
        put(batch=0),
        put(seed=-1),
        put(how="luck"),
        put(scheduler=None),
        put(best="x"),
        put(eval_split="x"),
        put(options=[]),
        put(options={"nonsense": 1}),
        put(spaces={}),
        put(spaces={"beta": {"low": 3}}),
        put(spaces={"beta": {"low": 0.1, "high": 10**400, "log": True, "whole": False}}),
        put(spaces={"../x": {"low": 0.1, "high": 1.0, "log": False, "whole": False}}),
        put(spaces={"clients": [3, "x"]}),
        without("spaces"),
    ],
)
def test_a_strangers_search(change, tmp_path, capsys, monkeypatch):
    pytest.importorskip("optuna", reason="needs the extra [search]")
    file = tmp_path / "config.json"
    file.write_text(files.json_text(files.sealed({"search": change(SEARCH)})))
    words = ["sweep", "--config", file, "--out", tmp_path / "x", "--quiet"]
    said(capsys, 2, *words)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["config.json", "environment.json", "sweep.parquet"])
def test_a_fifo_is_no_file(name, whole, begun, copy, capsys):
    out = copy(whole if name == "sweep.parquet" else begun)
    (out / name).unlink()
    os.mkfifo(out / name)
    words = ["plot", out] if name == "sweep.parquet" else ["sweep", "--resume", out]
    one_sentence(capsys, *words)


# ---------------------------------------------------------------- paths, and refusals


IMPOSSIBLE = {  # what only shows once the data are there
    "no attendance": ["--attendance", "nofile"],
    "no owners": ["--partition", "by_owner", "--owners", "nofile"],
    "no data": ["--dataset", "mnist", "--data-dir", "nowhere"],
    "more clients than rows": ["--clients", "5000"],
    "dirichlet": ["--partition", "dirichlet", "--min-rows", "1000"],
    "no validation rows": ["--validation-share", "0", "--judge", "validation"],
    "least core": ["--clients", "30", "--contribution", "least_core"],
    "devices": ["--devices", "4000"],
}


@pytest.mark.parametrize("words", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("out", [[], ["--out", "a/b"]], ids=["runs", "out"])
def test_what_is_refused_leaves_nothing(words, out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {flag: value for flag, value in zip(FLAGS[::2], FLAGS[1::2], strict=False)}
    given = [w for f, v in given.items() if f not in words for w in (f, v)]
    said(capsys, 2, "sweep", *given, *words, *out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["a" * 300, "~nosuchuser/x", "", "nowhere", "file"])
@pytest.mark.parametrize("words", [["sweep", "--resume"], ["plot"], ["sweep", "--config"]])
def test_paths_that_cannot_be(words, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    one_sentence(capsys, *words, word)
    assert len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def without_rights(folder):
    """In the body this process may not read a folder; the superuser becomes somebody else."""
    folder.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o700)


def test_who_may_not_read(whole, begun, copy, capsys):
    out = copy(begun)
    with without_rights(out):
        for words in (["sweep", "--resume", out], ["plot", out]):
            assert "Permission denied" in one_sentence(capsys, *words)


def test_too_many_are_refused_at_once(tmp_path, capsys):
    out = tmp_path / "x"
    many = ",".join(map(str, range(10_001)))
    started = time.process_time()
    said(capsys, 2, "sweep", "--dataset", many, "--out", out)
    words = ["sweep", "--search", "random", "--beta", "0.1:0.2", "--out", out, "--trials"]
    assert "at most 100000" in one_sentence(capsys, *words, 2**31 - 1)
    assert len(search_lib.draw({"beta": options.span("0.1:0.100001")}, 100_000)) < 10
    assert "--rounds" in said(capsys, 2, *words, 3, "--rounds", f"1:{'9' * 400}")
    assert time.process_time() - started < 10
    assert not out.exists()


def test_more_than_the_memory_is_refused(tmp_path, capsys, monkeypatch):
    """Runs of all points, and those of one call; before a directory is made."""
    monkeypatch.setattr(files, "host_memory", lambda: 2**30)
    words = ["sweep", *FLAGS, "--out", tmp_path / "x", "--beta", ",".join(map(str, range(1, 40)))]
    words[words.index("--seeds") + 1] = "1000"
    sentence = one_sentence(capsys, *words)
    assert "--beta, --seeds, --partition, --algorithms: the sweep would take 1.1 GiB" in sentence
    assert "for 78,000 trials, there are 1.0 GiB" in sentence
    words = ["sweep", *FLAGS, "--out", tmp_path / "x", "--together", "20"]
    words[words.index("--seeds") + 1], words[words.index("--rounds") + 1] = "20", "500000"
    assert "--together, --clients, --rounds: a call of 20 trials" in said(capsys, 2, *words)
    assert not (tmp_path / "x").exists()
