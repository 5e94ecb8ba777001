"""The yardstick computes what this package computes, and every benchmark runs at smoke scale."""

import importlib
import importlib.util
import json
import math
import multiprocessing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from benchmarks import agreement, common, gpu_rounds, table
from benchmarks.pytorch.work import Work, shortened, shuffled
from benchmarks.pytorch.worker import WorkerError, worker
from cgsv_jax import models
from cgsv_jax.experiment import timing
from cgsv_jax.models import words

pytestmark = pytest.mark.long

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the yardstick needs PyTorch (extra [bench])"
)
TRACE = Path(__file__).parent / "data" / "mnist_cnn_compact.npz"


@pytest.fixture(scope="module")
def ask():
    with worker(threads=1) as ask:
        yield ask


def mlp_work(**changes):
    work = common.random_work(
        "mlp", [9, 20, 13, 4], batch_size=8, learning_rate=0.1, epochs=2, alpha=0.6
    )
    return work._replace(**changes)


# ---------------------------------------------------------------- the table


def row(ratio=None, **changes):
    return table.Row("work", "yardstick", None, None, ratio, 2.0)._replace(**changes)


def test_a_target_is_a_least_or_a_most():
    three = timing.summary([3.0, 3.0])
    assert row(three).reached is True
    assert row(three, at_most=True).reached is False
    assert row(None).reached is None
    assert row(three, target=None).reached is None


def test_a_busy_machine_measures_nothing():
    """The load before decides: what a benchmark itself makes of the machine stands after it."""
    three = timing.summary([3.0, 3.0])
    busy, idle = row(three, load=(1.01, 0.5)), row(three, load=(1.0, 2.5))
    assert idle.measured
    assert idle.reached is True
    assert not busy.measured
    assert busy.reached is None
    assert "| not measured |" in table.markdown(busy)
    assert "**" not in table.markdown(busy)
    assert "1.01 to 0.50: not idle" in table.markdown(busy)
    assert "1.00 to 2.50 |" in table.markdown(idle)
    assert "| yes |" in table.markdown(idle)
    assert table.json_of(busy)["measured"] is False
    assert table.json_of(busy)["ratio"]["median"] == 3  # but what was seen is kept


def test_a_question_waits_for_an_idle_machine(monkeypatch):
    """Others' work is waited for; that of the question before is not others'."""
    average, naps, slept = [2.0], [], []
    others = [1.5, 1.2, 0.1]

    def busy(seconds):
        slept.append(seconds)
        return 100 * others.pop(0) / 4

    monkeypatch.setattr(psutil, "cpu_percent", busy)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(common.os, "getloadavg", lambda: (average[0], 0, 0))
    monkeypatch.setattr(common.time, "sleep", naps.append)
    (found,) = common.answered(lambda scale: [row(timing.summary([3.0, 3.0]))], "full")
    assert found.load == pytest.approx((0.1, 2.0))
    assert (len(naps), slept) == (2, [common.ASLEEP] * 3)
    average[0] = 0.9  # nobody needs to be asked
    (found,) = common.answered(lambda scale: [row(timing.summary([3.0, 3.0]))], "full")
    assert found.load == (0.9, 0.9)
    average[0] = 4.0
    others.append(3.5)
    (found,) = common.answered(lambda scale: [row(timing.summary([3.0, 3.0]))], "smoke")
    assert found.load == pytest.approx((3.5, 4.0))
    assert not found.measured
    assert len(naps) == 2


def test_a_row_survives_markdown_and_json():
    seconds = timing.summary([0.25, 0.5, 0.75])
    full = row(timing.summary([1.0, 1.5, 1.75]), ours=seconds, theirs=seconds, floor=0.125)
    line = table.markdown(full)
    assert line.count("|") == table.HEADER.splitlines()[0].count("|")
    assert ">= 2" in line
    assert "**no**" in line
    assert "**1.50**" in line
    assert "4.0" in line  # ours / floor
    assert "not measured" in table.markdown(row())
    read = json.loads(json.dumps(table.json_of(full)))
    assert read["reached"] is False
    assert timing.Timing(**read["ours"])._replace(seconds=seconds.seconds) == seconds
    assert read["ours"]["seconds"] == [0.25, 0.5, 0.75]


# ---------------------------------------------------------------- what is compared


def text_work(**changes):
    work = common.random_work(
        "text_cnn", [9, 14], batch_size=8, learning_rate=1e-3, optimizer="adam", vocabulary=50
    )
    return work._replace(**changes)


def test_random_sentences_are_as_long_as_those_of_sst():
    work = common.random_work(
        "text_cnn", [900], batch_size=8, learning_rate=1e-3, vocabulary=50, test_rows=1
    )
    some, (count, length) = work.inputs != 0, work.inputs.shape
    assert (work.inputs.dtype, work.inputs.min(), work.inputs.max()) == (np.int32, 0, 49)
    assert (np.diff(some.astype(int), axis=1) <= 0).all()  # padding is behind the words
    assert some[:, 0].all()
    # Cut to whole words, half a word less; five standard errors of the mean.
    assert abs(some.sum(1).mean() + 0.5 - length / 3) < 5 * length / 6 / count**0.5


def test_the_text_networks_arithmetic_is_that_of_its_products():
    """XLA's count of the plain form, on sentences without padding; the rest of it is small."""
    tokens = np.random.default_rng(0).integers(1, 50, (8, 56)).astype(np.int32)
    work = text_work(inputs=tokens, test_inputs=tokens)
    params = models.params_from_torch(work.start)

    def loss(params):
        kernel = jnp.concatenate([params[f"conv{i}"]["kernel"] for i in (1, 2, 3)], axis=-1)
        pooled = words.plain_max(tokens, params["embed"], kernel)
        return (jax.nn.relu(pooled) @ params["fc1"]["kernel"]).sum()

    forward, step = (timing.cost(f, params)[0] / 8 for f in (loss, jax.grad(loss)))
    assert common.forward_flops(work) == pytest.approx(forward, rel=0.01)
    assert common.step_flops(work) == pytest.approx(step, rel=0.01)
    half = np.where(np.arange(56) < 29, tokens, 0)  # 27 windows instead of 54
    assert common.forward_flops(work._replace(test_inputs=half)) == pytest.approx(
        forward / 2, rel=0.01
    )


def test_a_shortened_work_visits_the_same_rows():
    work = mlp_work()
    short = shortened(work, clients=3, steps=1)
    for t in range(2):
        for i in range(3):
            visits = work.orders[t, i, 0]
            rows = work.rows[i, visits[visits >= 0][: work.batch_size]]
            slots = short.orders[t, i, 0]
            slots = slots[slots >= 0]
            assert len(slots) == len(rows) > 0
            assert slots.max() < short.sizes[i]
            np.testing.assert_array_equal(short.inputs[short.rows[i, slots]], work.inputs[rows])


def test_pytorchs_order_is_a_permutation_that_keeps_tensors_whole():
    work = mlp_work()
    side = common.ours(work)
    flat = np.concatenate([x.ravel() for x in work.start.values()])
    state = common.start(work, side)
    assert sorted(side.positions) == list(range(flat.size))
    np.testing.assert_array_equal(np.asarray(state.server)[side.positions], flat)


@needs_torch
@pytest.mark.parametrize("setting", ["paper", "released"])
def test_sides_agree(ask, setting):
    assert "agree" in common.agree(ask, mlp_work(setting=setting), ("sequential", "stacked"))


@needs_torch
def test_sides_agree_on_sentences(ask):
    """Clients that are trained one after another by Adam, and by plain descent all at once."""
    assert "agree" in common.agree(ask, text_work())
    plain = text_work(optimizer="sgd", learning_rate=0.1)
    assert "agree" in common.agree(ask, plain, ("stacked",))


@needs_torch
@pytest.mark.parametrize("changes", [{"optimizer": "sgd"}, {"learning_rate": 1.1e-3}], ids=list)
def test_disagreement_on_sentences_stops_a_benchmark(ask, changes):
    def tampered(question, *args, **kwargs):
        if question == "start":
            args = (args[0], args[1]._replace(**changes))
        return ask(question, *args, **kwargs)

    with pytest.raises(RuntimeError, match="local training"):
        common.agree(tampered, text_work(), precisions=("float32",))


@needs_torch
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"learning_rate": 0.11}, "local training"),
        ({"gamma": 0.51}, "aggregate"),
        ({"alpha": 0.5}, "reputations"),  # cancels in round 0, so a second round is compared
        ({"beta": 30.0}, "ratios"),
        ({"setting": "released"}, "entries are received"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else x.split()[0],
)
@pytest.mark.parametrize("kind", ["sequential", "stacked"])
def test_disagreement_stops_a_benchmark(ask, changes, what, kind):
    def tampered(question, *args, **kwargs):
        if question == "start":
            args = (args[0], args[1]._replace(**changes))
        return ask(question, *args, **kwargs)

    with pytest.raises(RuntimeError, match=what):
        common.agree(tampered, mlp_work(), (kind,), precisions=("float32",))


@needs_torch
def test_a_compiled_step_is_the_same_step(ask):
    # One client, one chunk: every shape is compiled anew.
    work = common.random_work("mlp", [9], batch_size=8, learning_rate=0.1)
    common.agree(ask, work, ("stacked",), precisions=("float32",), compile=True)


@needs_torch
def test_sequential_is_the_released_code(ask):
    """Round by round; only the order in which threads and kernels sum may differ."""
    with np.load(TRACE, allow_pickle=False) as archive:
        trace = dict(archive)
    settings = dict(pair.split("=") for pair in trace["settings"])
    sizes, (mean, std) = trace["sizes"], trace["input_mean_std"]
    images = np.concatenate([trace[f"images/{i}"] for i in range(len(sizes))])
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    images = ((images.astype(np.float32) / 255 - mean) / std).astype(np.float32)[..., None]
    labels = np.concatenate([trace[f"labels/{i}"] for i in range(len(sizes))]).astype(np.int32)
    starts = np.cumsum([0, *sizes[:-1]])
    slots = np.arange(sizes.max())
    mask = slots < sizes[:, None]
    work = Work(
        network="mnist_cnn",
        start={str(n): trace[f"init/{n}"] for n in trace["param_names"]},
        inputs=images,
        labels=labels,
        rows=np.where(mask, starts[:, None] + slots, 0).astype(np.int32),
        sizes=sizes,
        orders=trace["batch_order"].astype(np.int32),
        test_inputs=images[:1],
        test_labels=labels[:1],
        batch_size=int(settings["batch"]),
        learning_rate=float(settings["lr"]),
        decay=float(settings["decay"]),
        epochs=int(settings["epochs"]),
        gamma=float(settings["gamma"]),
        alpha=float(settings["alpha"]),
        beta=float(settings["beta"]),
        setting="released",
    )
    ask("start", "sequential", work)
    edges = np.cumsum([x.size for x in work.start.values()])[:-1]
    for t in range(len(work.orders)):
        ask("train", round=t)
        ask("serve")
        seen = ask("look", "score", "reputation", "ratio", "rewards", "server", "clients")
        for mine, recorded in (("score", "cosine"), ("reputation",) * 2, ("ratio",) * 2):
            np.testing.assert_allclose(seen[mine], trace[recorded][t], rtol=0, atol=1e-5)
        received = np.stack(
            [np.count_nonzero(v, axis=1) for v in np.split(seen["rewards"], edges, axis=1)], axis=1
        )
        np.testing.assert_allclose(received, trace["reward_nonzero"][t], atol=1)
        sampled = seen["server"][trace["coordinates"]]
        np.testing.assert_allclose(sampled, trace["server_sample"][t], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the process


@needs_torch
def test_an_error_in_the_worker_is_an_error_here(ask):
    with pytest.raises(WorkerError, match="float32 or default"):
        ask("start", "sequential", mlp_work(), precision="half")
    with pytest.raises(WorkerError, match="cgsv, sgd and given orders"):
        ask("start", "stacked", mlp_work(method="fedavg"))
    with pytest.raises(WorkerError, match="cgsv, sgd and given orders"):
        ask("start", "stacked", mlp_work(optimizer="adam"))
    ask("start", "sequential", mlp_work())  # and it goes on answering
    assert ask("look", "server")["server"].shape == (4810,)


@needs_torch
def test_a_dead_worker_does_not_hang():
    before = set(multiprocessing.active_children())
    with worker(threads=1) as ask:
        (process,) = set(multiprocessing.active_children()) - before
        process.kill()
        with pytest.raises(WorkerError, match="ended"):
            ask("start", "sequential", mlp_work())


# ---------------------------------------------------------------- the benchmarks


@pytest.mark.nightly
@needs_torch
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("local_training", 2),
        ("evaluation", 3),
        ("server_step", 3),
        ("whole_round", 1),
        ("gpu_rounds", 2),
    ],
)
def test_smoke_of_a_benchmark(name, count):
    """Its sides agree, or it raises; what a stopwatch says of so little work is no claim."""
    rows = importlib.import_module(f"benchmarks.{name}").rows("smoke")
    assert len(rows) == count
    for measured in rows:
        assert math.isfinite(measured.ratio.median)
        json.dumps(table.json_of(measured))
    assert len(table.show(rows).splitlines()) == count + 2


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_without_a_gpu_its_rows_say_so():
    rows = gpu_rounds.rows("full")
    assert {r.ratio for r in rows} == {None}
    assert all("no GPU" in r.note for r in rows)
    targets = {r.work + r.against: r.target for r in rows}
    assert sorted(filter(None, targets.values())) == [1.5, 1.5, 1.5, 1.5, 10, 10, 50]


@needs_torch
def test_the_methods_agree_over_seeds(capsys):
    agreement.main(["--scale", "smoke"])
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("|")[2].strip(): line.split("|") for line in lines[2:5]}
    assert set(cells) == set(agreement.METHODS)
    assert [c.strip() for c in cells["fedavg"][3:5]] == ["undefined"] * 2


def test_differences_of_means_are_noticed():
    near, far = np.array([90.0, 90.1, 90.2]), np.array([80.0, 80.1, 80.2])
    undefined = np.full(3, np.nan)
    assert agreement.alike(near, near + 0.05)
    assert not agreement.alike(near, far)
    assert agreement.alike(undefined, undefined)
    assert not agreement.alike(undefined, near)
    assert shuffled(np.random.default_rng(0), np.array([2, 1]), 1, 1).shape == (1, 2, 1, 2)
