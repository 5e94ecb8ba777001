"""What is saved is whole, what is read is judged, and who goes on computes the same bits."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cgsv_jax.command import main
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import bind, budget, checkpoint, deal, execute, identity, names, running
from cgsv_jax.host import files as files_lib
from cgsv_jax.results import directory as directory_lib

ROOT = Path(__file__).parents[1]
SMALL = {"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 3, "seeds": 1}
ASKED = {**SMALL, "algorithms": ("cgsv", "fedavg"), "eval_every": 2, "checkpoint_every": 1}


def kept_by(directory, config, *, every=1, stop=lambda: False, warn=None, **other):
    """The checkpoints of a config's run, as the command makes them."""
    identity = {"config": resolve.to_dict(config), "rows": "abc", **other}
    warn = warn if warn is not None else [].append
    return checkpoint.of_run(directory, lambda: identity, every, stop, warn)


def run(directory, config, after=None, **options):
    """Runs, or goes on; with `after`, stops after so many segments."""
    segments = []

    def look(progress):
        if not progress.compiling:
            segments.append(progress)

    stop = (lambda: len(segments) >= after) if after else (lambda: False)
    kept = kept_by(directory, config, stop=stop, **options)
    return running.run(config, look, keeper=kept.keeper), kept


def stopped(directory, config, after, **options):
    with pytest.raises(execute.Stopped):
        run(directory, config, after=after, **options)
    return directory_lib.checkpoints(directory)


def equal(one, two):
    for a, b in zip(one.cells, two.cells, strict=True):
        for x, y in zip((*a.record, *a.evaluation), (*b.record, *b.evaluation), strict=True):
            np.testing.assert_array_equal(x, y)
        jax.tree.map(np.testing.assert_array_equal, (a.answers, a.counts), (b.answers, b.counts))


@pytest.fixture(scope="module")
def config():
    return names.configure(**ASKED)


@pytest.fixture(scope="module")
def whole(config):
    return running.run(config)


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    """A run directory that stopped in its second method, with two checkpoints."""
    directory = tmp_path_factory.mktemp("saved") / "run"
    directory.mkdir()
    first, second = stopped(directory, config, 4)
    assert (first.name, second.name) == ("000000000003", "000000000004")
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


# ---------------------------------------------------------------- saved and restored


STATEFUL = [
    {"algorithms": "cgsv", "optimizer": "adam"},
    {"algorithms": "iafl", "optimizer": "momentum", "recovery": 0.5},
    {"algorithms": "iafl", "contribution_by": "accuracy", "rounds": 2},
    {"algorithms": ("rffl", "shapfed_wa")},
    {"algorithms": "fedavg_finetuned", "finetune_rounds": 2},
    {"algorithms": "cffl", "eval_clients": 2, "seeds": 2},
    {"algorithms": "cgsv", "select": "validation", "rounds": 5, "eval_every": 1, "seeds": 2},
]


@pytest.mark.parametrize("asked", STATEFUL, ids=str)
@pytest.mark.long
def test_who_goes_on_computes_the_same_bits(asked, tmp_path):
    config = names.configure(**{**ASKED, "rounds": 4, **asked})
    whole, _ = run(tmp_path, config)
    last = directory_lib.checkpoints(tmp_path)[-1]
    state = checkpoint.read_manifest(last)["arrays"]
    assert len(directory_lib.checkpoints(tmp_path)) == checkpoint.KEEP
    directory_lib.remove_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())
    stopped(tmp_path, config, 3)
    again, _ = run(tmp_path, config)
    equal(whole, again)
    # Names, shapes and digests of the last state and of all that was seen.
    assert checkpoint.read_manifest(directory_lib.checkpoints(tmp_path)[-1])["arrays"] == state


def test_what_is_finished_is_neither_compiled_nor_computed_again(config, tmp_path, monkeypatch):
    first, _ = run(tmp_path, config)

    def refused(*args, **kwargs):
        raise AssertionError("a segment is compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refused)
    again, _ = run(tmp_path, config)
    equal(first, again)
    for one, other in zip(first.timing["methods"], again.timing["methods"], strict=True):
        assert one == other
    with pytest.raises(AssertionError, match="a segment is compiled"):  # it would have been seen
        running.run(config)


def test_without_a_number_of_rounds_it_is_a_minute(config, tmp_path, monkeypatch):
    kept = kept_by(tmp_path, config, every=None)
    assert not kept.keeper.due(10, 1)
    now = time.monotonic()
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now + checkpoint.SECONDS + 1)
    assert kept.keeper.due(10, 1)
    _, kept = run(tmp_path, config, every=None)
    assert not (tmp_path / directory_lib.CHECKPOINT).exists()


def test_saving_takes_a_tenth_of_the_time_at_most(config, saved, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    def slowly(*args):
        clock[0] += 20.0
        return tmp_path / directory_lib.CHECKPOINT / "000000000001"

    monkeypatch.setattr(checkpoint, "write", slowly)
    keeper = kept_by(tmp_path, config, every=None).keeper
    clock[0] = 61.0
    assert keeper.due(1, 1)
    keeper.save([], 1, None)
    clock[0] += 179.0
    assert not keeper.due(2, 1)
    clock[0] += 2.0
    assert keeper.due(2, 1)


def test_rounds_that_may_be_lost(config, tmp_path):
    keeper = kept_by(tmp_path, config, every=5).keeper
    assert [keeper.due(*x) for x in ((3, 2), (3, 3), (5, 1), (5, 0), (0, 9))] == [
        *(False, True, True, True, False)
    ]


# ---------------------------------------------------------------- refused


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _largest(folder):
    files = [p for p in (folder / checkpoint.ARRAYS).rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _manifest(change):
    """Changes a manifest, and gives it the digest that it would have."""

    def damage(folder):
        path = folder / checkpoint.MANIFEST
        manifest = json.loads(path.read_text())
        del manifest[files_lib.SEAL]
        change(manifest)
        path.write_text(json.dumps(files_lib.sealed(manifest)))

    return damage


def _of_state(manifest):
    return next(x for x in manifest["arrays"] if x["name"].endswith("clients"))


def _nested(depth, key=None):
    """A manifest, or something in it, of lists within lists."""

    def damage(folder):
        path = folder / checkpoint.MANIFEST
        path.write_text("[" * depth + "]" * depth)

    def inner(manifest):
        value = []
        for _ in range(depth):
            value = [value]
        manifest[key]["deep"] = value

    return damage if key is None else _manifest(inner)


def _fifo(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    os.mkfifo(path)


def _huge(path):
    """As large as the manifest says, and of no size that these runs have."""
    (path / "arrays" / "more").touch()
    os.truncate(path / "arrays" / "more", 1 << 40)
    _manifest(lambda m: m["files"].update(more=[1 << 40, "0" * 64]))(path)


UNREAD = "manifest.json cannot be read"
DAMAGE = {
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), UNREAD),
    "manifest truncated": (lambda f: _truncate(f / "manifest.json"), UNREAD),
    "manifest empty": (lambda f: (f / "manifest.json").write_text(""), UNREAD),
    "manifest no text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), UNREAD),
    "manifest changed": (
        lambda f: (f / "manifest.json").write_text(
            (f / "manifest.json").read_text().replace('"done": 4', '"done": 3')
        ),
        "manifest.json cannot be read: it was changed or damaged",
    ),
    "manifest foreign": (_manifest(lambda m: m.clear()), "not that of a cgsv_jax"),
    "manifest nested": (_nested(100_000), "nested too deeply"),
    "identity nested": (
        _nested(90, "identity"),
        "of another experiment: deep is [[[[[[[...]]]]]]]",
    ),
    "environment nested": (_nested(400, "environment"), "nested too deeply"),
    "manifest a fifo": (lambda f: _fifo(f / "manifest.json"), "no regular file"),
    "a fifo": (_fifo, "manifest.json cannot be read: Not a directory"),
    "a data file a fifo": (lambda f: _fifo(_largest(f)), "neither a file nor a folder"),
    "arrays a fifo": (lambda f: _fifo(f / "arrays"), "is missing"),
    "a data file truncated": (lambda f: _truncate(_largest(f)), "is damaged"),
    "a data file flipped": (lambda f: _flip(_largest(f)), "is damaged"),
    "a data file missing": (lambda f: _largest(f).unlink(), "is missing"),
    "a file too many": (
        lambda f: (f / "arrays" / "more").write_text("x"),
        "arrays/more is not of it",
    ),
    "a file too large": (_huge, "arrays cannot be read: its arrays hold 1,099,511,"),
    "arrays missing": (lambda f: shutil.rmtree(f / "arrays"), "is missing"),
    "a link in it": (lambda f: _link(_largest(f)), "neither a file nor a folder"),
    "a link": (_link, "symbolic link"),
    "a linked manifest": (lambda f: _link(f / "manifest.json"), "symbolic link"),
    "linked arrays": (lambda f: _link(f / "arrays"), "symbolic link"),
    "a later format": (_manifest(lambda m: m.update(format=99)), "it has format 99, this version"),
    "another version": (
        _manifest(lambda m: m["environment"]["versions"].update(cgsv_jax="9.9")),
        "saved by version '9.9' of cgsv_jax",
    ),
    "another method": (
        _manifest(lambda m: m["identity"]["config"]["methods"][0].update(alpha=0.5)),
        "of another experiment: config.methods[0].alpha is 0.5 there and 0.95 here",
    ),
    "other rows": (
        _manifest(lambda m: m["identity"].update(rows="xyz")),
        "of another experiment: rows is 'xyz' there and 'abc' here",
    ),
    "grouped otherwise": (_manifest(lambda m: m.update(plan="")), "grouped or cut otherwise"),
    "an array less": (_manifest(lambda m: m["arrays"].pop(0)), "it holds other arrays"),
    "another shape": (
        _manifest(lambda m: _of_state(m).update(shape=[1, 4, 7])),
        "these runs have float32 [1, 4, 610]",
    ),
    "another shape of what was seen": (
        _manifest(lambda m: m["arrays"][0].update(shape=[1, 3, 10**12])),
        "these runs have float32 [1, 3, 4]",
    ),
    "another type": (
        _manifest(lambda m: _of_state(m).update(dtype="float64")),
        "is float64 [1, 4, 610], these runs have float32",
    ),
    "another array": (
        _manifest(lambda m: _of_state(m).update(sha256="0")),
        "its array ['state'].clients is damaged",
    ),
    "between two segments": (_manifest(lambda m: m.update(place=[1, 0, 9])), "no segment ends at"),
    "no such place": (_manifest(lambda m: m.update(place=[7, 0, 1])), "there is no Place"),
    "seconds of another place": (_manifest(lambda m: m["clocks"].pop()), "the seconds of 1 batch"),
}


@pytest.fixture(scope="module")
def asked(config):
    """What a run asks of its checkpoints: its plan, and the function of what it expects."""
    found = []

    def restore(*arguments):
        found.extend(arguments)
        raise execute.Stopped

    with contextlib.suppress(execute.Stopped):
        running.run(config, keeper=execute.NO_KEEPER._replace(restore=restore))
    return found


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_the_one_before_serves_where_the_last_is_damaged(damage, reason, copy, config, asked):
    first, last = directory_lib.checkpoints(copy)
    damage(last)
    warned = []
    kept = kept_by(copy, config, warn=warned.append).keeper.restore(*asked)
    (sentence,) = warned
    assert sentence.startswith(f"{last} is refused: ")
    assert reason in sentence
    assert len(sentence) < 1000
    assert "\n" not in sentence
    assert kept.place == execute.Place(0, 0, 3)
    assert first.exists()


# What the digest of a manifest does not tell, since everybody can make one.
ODD = [
    *(("place", x) for x in (None, 3, "abc", [], [1, 0], [1, 0, 1, 0], ["a", "b", "c"])),
    *(("place", x) for x in ([1, 0, None], [1, 0, 1.5], [-1, 0, 1], [1, 0, 10**400])),
    *(("place", x) for x in ([True, 0, 1], {"batch": 1}, [[1], 0, 1])),
    *(("clocks", x) for x in (None, [1], ["a"], [[1, 2]], [[1, 2, 3, 4]], [[1, 2, -3]])),
    *(("clocks", x) for x in ([["a", "b", "c"]], [None], {"a": 1}, [[1, 2, 1e300]])),
    *(("arrays", x) for x in (None, [1], ["a"], [{}], [[]], {"a": 1}, [{"name": "x"}])),
    *(("files", x) for x in (None, [], {"a": 1}, {"a": [1]}, {"a": ["b", "c"]})),
    *(("identity", x) for x in (None, [], "x")),
    *(("environment", x) for x in (None, {}, {"versions": [1]}, {"versions": None})),
    *(("earlier", x) for x in (None, {}, [1], ["x"])),
    *(("plan", x) for x in (None, 3)),
    *(("done", x) for x in (None, "x", 1.5, -1, True, 10**30)),
    ("more", 1),
]
ODD_ARRAY = [
    *(("name", 3), ("shape", None), ("shape", "abc"), ("shape", [1, "x"]), ("shape", [1, -3])),
    *(("dtype", 3), ("dtype", None), ("sha256", 1), ("more", 1)),
]


@pytest.mark.parametrize(
    ("key", "value", "of_array"),
    [(*x, False) for x in ODD] + [(*x, True) for x in ODD_ARRAY],
    ids=lambda x: str(x)[:20],
)
def test_what_no_manifest_holds(key, value, of_array, saved, tmp_path):
    _, last = directory_lib.checkpoints(saved)
    path = tmp_path / last.name
    path.mkdir()
    shutil.copy(last / checkpoint.MANIFEST, path)
    checkpoint.read_manifest(path)
    _manifest(lambda m: (m["arrays"][0] if of_array else m).update({key: value}))(path)
    with pytest.raises(ValueError, match=UNREAD) as caught:
        checkpoint.read_manifest(path)
    assert len(str(caught.value)) < 500


@pytest.mark.long
def test_a_refused_checkpoint_is_not_counted_among_the_two(copy, config, whole):
    """And the one before is the last one then."""
    _, last = directory_lib.checkpoints(copy)
    _flip(_largest(last))
    result, _ = run(copy, config)
    equal(result, whole)
    assert [p.name for p in directory_lib.checkpoints(copy)] == ["000000000005", "000000000006"]


def test_with_nothing_left_all_reasons_are_given(copy, config):
    first, last = directory_lib.checkpoints(copy)
    _flip(_largest(first))
    (last / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        run(copy, config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert re.search(r"000000000004 is refused: .*manifest.json cannot be read", lines[0])
    assert re.search(r"000000000003 is refused: its file arrays/.* is damaged", lines[1])
    assert "without" in lines[2]
    directory_lib.remove_checkpoints(copy)
    run(copy, config)


def test_orbax_is_not_trusted(copy, config, monkeypatch):
    """Values that it changes, and arrays that it lacks, are seen."""
    original = checkpoint._get

    def other(path, shapes):
        found = original(path, shapes)
        name = max(found, key=lambda n: found[n].size)
        found[name] = found[name] + 1
        return found

    monkeypatch.setattr(checkpoint, "_get", other)
    with pytest.raises(ConfigError, match=r"its array \['state'\]\S* is damaged"):
        run(copy, config)
    monkeypatch.undo()
    (_, last) = directory_lib.checkpoints(copy)
    shapes = {"000000": jax.ShapeDtypeStruct((1,), np.float32)}
    with pytest.raises(ValueError, match="orbax has other arrays"):
        checkpoint._get(last / checkpoint.ARRAYS, shapes)


def test_another_environment_is_warned_of_and_noted(copy, config, whole):
    for path in directory_lib.checkpoints(copy):
        _manifest(lambda m: m["environment"]["versions"].update(jax="0.9"))(path)
    warned = []
    kept = kept_by(copy, config, warn=warned.append)
    result = running.run(config, keeper=kept.keeper)
    equal(result, whole)
    (sentence,) = warned
    assert "the last bits may differ: versions.jax is '0.9' there" in sentence
    (earlier,) = kept.earlier()
    assert earlier["versions"]["jax"] == "0.9"
    running.save(copy, result, kept.earlier())
    assert directory_lib.read(copy).environment["earlier"] == [earlier]
    # And whoever goes on from there still knows.
    assert checkpoint.read_manifest(directory_lib.checkpoints(copy)[-1])["earlier"] == [earlier]


def test_a_linked_folder_is_not_followed(copy, config, tmp_path):
    folder = copy / directory_lib.CHECKPOINT
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    before = sorted((tmp_path / "outside").rglob("*"))
    with pytest.raises(ConfigError, match="symbolic link"):
        run(copy, config)
    with pytest.raises(ValueError, match="symbolic link"):
        directory_lib.remove_checkpoints(copy)
    with pytest.raises(ValueError, match="symbolic link"):
        directory_lib.create(copy, overwrite=True)
    with pytest.raises(ValueError, match="symbolic link"):
        checkpoint.write(copy, [], 9, execute.Kept(execute.Place(0, 0, 1), (), [], []), {})
    assert sorted((tmp_path / "outside").rglob("*")) == before


def test_no_file_is_a_pickle(saved):
    for path in saved.rglob("*"):
        if path.is_file():
            start = path.read_bytes()[:2]
            assert not (start[:1] == b"\x80" and start[1:] in b"\x02\x03\x04\x05"), path
    for path in (ROOT / "cgsv_jax").rglob("*.py"):
        assert not re.search(
            r"\bpickle\b.*import|import.*\bpickle\b|allow_pickle=True", path.read_text()
        )


# ---------------------------------------------------------------- the command

FLAGS = ["--hidden", "8", "--clients", "4", "--epochs", "1", "--seeds", "1", "--eval-every", "2"]
COMPARE = ["compare", *FLAGS, "--algorithms", "cgsv,fedavg"]


LIMITED = """
import resource, sys
from cgsv_jax.command import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main.main(sys.argv[2:]))
"""


def start(*argv, limit=None):
    """The command in a process of its own; `limit` is the largest file it may write."""
    command = ["-m", "cgsv_jax"] if limit is None else ["-c", LIMITED, limit]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    # Programs that the tests have compiled; a read-only cache would do.
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    return subprocess.Popen(
        [sys.executable, *map(str, command), *map(str, argv)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_of(directory):
    return {
        p.relative_to(directory).as_posix(): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file() and p.name != "timing.json"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    argv = [*COMPARE, "--rounds", "6", "--checkpoint-every", "1", "--out", str(out), "--quiet"]
    assert main.main(argv) == 0
    assert not (out / directory_lib.CHECKPOINT).exists()
    return out


def wait_for(process, condition, seconds=200):
    for _ in range(seconds * 50):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it takes too long")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.long
def test_a_signal_saves_and_says_how_to_go_on(number, finished, tmp_path, capsys):
    out = tmp_path / "a run"
    argv = [*COMPARE, "--rounds", "6", "--checkpoint-every", "1", "--out", out]
    process = start(*argv)
    wait_for(process, lambda: directory_lib.checkpoints(out))
    process.send_signal(number)
    printed, complained = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert "Traceback" not in complained
    first, *rest = complained.splitlines()
    assert re.search(r"stopping after round \d of 6 of this method, and saving; once more", first)
    match = re.fullmatch(r"cgsv: stopped; go on after (\d+) rounds with: (.*)", rest[-1])
    assert match[2] == f"cgsv run --resume '{out}'"
    assert int(match[1]) == checkpoint.read_manifest(directory_lib.checkpoints(out)[-1])["done"]
    assert "Fairness" not in printed
    with pytest.raises(ValueError, match=r"lacks timing.json, .*: `cgsv run --resume"):
        directory_lib.read(out)

    # A new run may not take its place unasked, and what cannot accompany --resume is named.
    assert main.main([str(x) for x in argv]) == 2
    assert "holds an unfinished run: go on with `cgsv run --resume" in capsys.readouterr().err
    assert main.main(["run", "--resume", str(out), "--rounds", "9", "--overwrite"]) == 2
    assert "cannot be combined with --rounds, --overwrite" in capsys.readouterr().err.replace(
        "--overwrite, --rounds", "--rounds, --overwrite"
    )
    with directory_lib.held(out):  # as another process would
        assert main.main(["run", "--resume", str(out)]) == 2
    assert "is in use" in capsys.readouterr().err

    assert main.main(["compare", "--resume", str(out)]) == 0
    assert f"going on after {match[1]} of 12 rounds" in capsys.readouterr().out
    assert files_of(out) == files_of(finished)
    assert main.main(["run", "--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_twice_is_at_once(tmp_path):
    """Even while a program runs: one segment of minutes."""
    out = tmp_path / "run"
    # A process that is compiling, or computing its only segment, cannot look at a flag.
    argv = [*COMPARE, "--rounds", "20000", "--eval-every", "20000", "--out", out]
    process = start(*argv)
    wait_for(process, lambda: (out / "config.json").exists())
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert "stopping after" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, complained = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 128 + signal.SIGTERM
    assert f"stopped at once; go on with: cgsv run --resume {out}" in complained


def test_killed_before_the_first_checkpoint(finished, tmp_path):
    out = tmp_path / "run"
    process = start(*COMPARE, "--rounds", "6", "--checkpoint-every", "1", "--out", out)
    wait_for(process, lambda: (out / "config.json").exists())
    process.kill()
    process.communicate()
    (out / ".rounds.parquet.1.tmp").write_text("half")  # had it come so far
    assert main.main(["run", "--resume", str(out), "--quiet"]) == 0
    assert files_of(out) == files_of(finished)


def test_a_full_disk_stops_nothing(finished, tmp_path, capsys):
    """Neither checkpoints nor results find room: the run says so, and can go on all the same."""
    out = tmp_path / "run"
    argv = [*COMPARE, "--rounds", "6", "--checkpoint-every", "1", "--out", out]
    limit = (finished / "config.json").stat().st_size  # of all files, it alone finds room
    process = start(*argv, limit=limit)
    _, complained = process.communicate(timeout=300)
    assert process.returncode == 1, complained
    assert "Traceback" not in complained
    lines = complained.splitlines()
    assert re.match(
        r"cgsv: the checkpoint of 1 rounds cannot be saved \(.*File too large", lines[0]
    )
    assert "there is none yet" in lines[0]
    assert len(lines) == 2  # the same reason is not given after every round
    assert re.search(r"run cannot be written to: File too large; .*--resume", lines[-1])
    assert not list(out.rglob("*tmp*"))
    assert main.main(["run", "--resume", str(out), "--quiet"]) == 0
    assert files_of(out) == files_of(finished)


def test_the_last_good_one_is_named_when_the_next_cannot_be_saved(config, saved, copy, monkeypatch):
    warned, whole = [], checkpoint._put

    def full(path, arrays):
        whole(path, dict(list(arrays.items())[:3]))
        raise ValueError("No space left on device\nand much more")

    monkeypatch.setattr(checkpoint, "_put", full)
    kept = kept_by(copy, config, warn=warned.append)
    with contextlib.suppress(execute.Stopped):
        running.run(config, keeper=kept.keeper._replace(stop=lambda: len(warned) > 0))
    (sentence,) = warned
    assert sentence.startswith(
        "the checkpoint of 5 rounds cannot be saved (No space left on device); "
        "the last good one holds 4"
    )
    assert kept.latest() == 4
    assert [p.name for p in directory_lib.checkpoints(copy, temporary=True)] == [
        "000000000003",
        "000000000004",
    ]
    monkeypatch.undo()
    equal(run(copy, config)[0], running.run(config))


RESUME = {
    "not there": (lambda d: d / "nowhere", "it is not there"),
    "a file": (lambda d: (d / "f", (d / "f").write_text(""))[0], "which is a file"),
    "empty": (lambda d: d, "it holds no config.json"),
    "damaged": (lambda d: (d, (d / "config.json").write_text("{"))[0], "cannot be read"),
    "no config": (lambda d: (d, (d / "config.json").write_text("{}"))[0], "lacks the key"),
    "a link": (lambda d: (d, (d / "config.json").symlink_to("/etc/hosts"))[0], "symbolic link"),
    "linked figures": (
        lambda d: (d, (d / "config.json").write_text("{}"), (d / "figures").symlink_to("/tmp"))[0],
        "symbolic link",
    ),
}


@pytest.mark.parametrize(("make", "reason"), RESUME.values(), ids=RESUME)
def test_what_cannot_be_gone_on_with(make, reason, tmp_path, capsys):
    assert main.main(["run", "--resume", str(make(tmp_path))]) == 2
    assert reason in capsys.readouterr().err


def test_several_processes_save_nothing(capsys):
    argv = ["run", "--checkpoint-every", "2", "--coordinator", "localhost:1"]
    assert main.main(argv) == 2
    assert "several processes save no checkpoints" in capsys.readouterr().err
    assert main.main(["run", "--resume", "x", "--coordinator", "localhost:1"]) == 2
    assert "cannot be combined with --coordinator" in capsys.readouterr().err


def test_an_impossible_run_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert main.main(["run", *FLAGS, "--devices", "9", "--out", str(out)]) == 2
    assert "--devices is 9" in capsys.readouterr().err
    assert not out.exists()


def test_overwriting_an_unfinished_run(copy):
    directory_lib.begin(copy, {})
    (copy / directory_lib.CHECKPOINT / "notes").write_text("somebody's")
    assert directory_lib.state_of(copy) == "begun"
    directory_lib.create(copy, overwrite=True)
    assert [p.relative_to(copy).as_posix() for p in copy.rglob("*")] == [
        "checkpoint",
        "checkpoint/notes",
    ]


def test_overwriting_takes_nothing_from_a_process_that_runs(copy):
    directory_lib.begin(copy, {})
    with directory_lib.held(copy), pytest.raises(ValueError, match="is in use"):
        directory_lib.create(copy, overwrite=True)
    assert len(directory_lib.checkpoints(copy)) == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_directory_that_another_process_has_removed_is_not_held(copy, monkeypatch, again):
    """Between opening it and locking it: the lock would be on what nobody sees, or sees no more."""

    def lock(handle, how):
        shutil.rmtree(copy)
        if again:
            copy.mkdir()

    monkeypatch.setattr(directory_lib.fcntl, "flock", lock)
    with pytest.raises(directory_lib.InUse, match="removed"), directory_lib.held(copy):
        pass


# ---------------------------------------------------------------- how runs are cut


def test_cuts_follow_from_the_config_alone():
    """About twenty segments, but none of which may take long, and none longer than asked."""
    asked = {"dataset": "synthetic", "algorithms": "cgsv", "rounds": 200}
    config = names.configure(**asked, clients=10, epochs=1)
    (task,), (method,) = deal.tasks(config), config.methods
    bound = bind.bind(config, method, task)
    assert budget.seconds_per_round(bound) < 1
    assert budget.segments_of(bound) == execute.segments(200, 10)
    shorter = names.configure(**asked, clients=10, epochs=1, checkpoint_every=4)
    assert budget.segments_of(bind.bind(shorter, method, task)) == execute.segments(200, 10, 4)
    # Ten times the rows and a hundred epochs of a large network.
    long = names.configure(
        **asked, clients=10, epochs=100, synthetic_rows=100_000, hidden=(1000, 1000)
    )
    (task,) = deal.tasks(long)
    bound = bind.bind(long, method, task)
    seconds = budget.seconds_per_round(bound)
    assert seconds > budget.SECONDS
    assert {cut[:2] for cut in budget.segments_of(bound)} == {(1, 0), (1, 1)}
    # 64 (or so) inputs, 1000, 1000, 10: three times a product of 2 rows in out.
    width = np.prod(task.data.inputs.shape[1:])
    needed = 3 * 2 * 90_000 * 100 * (width * 1000 + 1000 * 1000 + 1000 * 10) / budget.RATE
    assert needed < seconds < 2 * needed


def test_a_fingerprint_is_of_rows_and_holders(config):
    dealt = deal.tasks(config)
    assert identity.fingerprint(dealt) == identity.fingerprint(deal.tasks(config))
    (task,) = dealt
    inputs = task.data.inputs.copy()
    inputs[3] += 1e-6
    data = task.data._replace(inputs=inputs)
    assert identity.fingerprint((task._replace(data=data),)) != identity.fingerprint(dealt)


@pytest.mark.long
def test_saving_a_large_array_takes_two_more_of_it():
    """In a process of its own, whose peak is its own: orbax copies, and holds what it encodes."""
    program = """
import pathlib, tempfile
import numpy as np
import orbax.checkpoint
from cgsv_jax.experiment import checkpoint, timing

array = np.random.default_rng(0).random((1, 25_000, 2_000), np.float32)
before = timing.peak_memory()
with tempfile.TemporaryDirectory() as folder:
    checkpoint._put(pathlib.Path(folder) / "arrays", {"000000": array})
print((timing.peak_memory() - before) / array.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.5  # encoded whole it is 2.9
