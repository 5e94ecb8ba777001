"""What a run takes of the memory is told before anything is made, and is about what it takes."""

import time

import jax
import numpy as np
import pytest

from cgsv_jax.command import main
from cgsv_jax.core import vectors
from cgsv_jax.data import partition
from cgsv_jax.experiment import bind, budget, deal, execute, names, programs
from cgsv_jax.host import files

HAS = 24 * 2**30


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One of 24 GiB, in an empty folder."""
    monkeypatch.setattr(files, "host_memory", lambda: HAS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TOO_MUCH = {
    "matrices": (
        "run --algorithm fedavg --clients 1000 --hidden 500000 --partition uniform --rounds 1",
        ("--clients, --hidden: ", "139.7 GiB"),
    ),
    "states of an optimizer": (
        "run --optimizer adam --hidden 9000000 --clients 3 --rounds 1",
        ("--clients, --hidden, --optimizer: cgsv would take 75.4 GiB",),
    ),
    "one who poses as many": ("run --attack replication:2000000000", ("--clients, --attack, ",)),
    "what an attacker remembers": (
        "run --attack free_rider_replay:1 --hidden 9000000 --clients 3 --rounds 1",
        ("--clients, --hidden: cgsv would take 60.",),
    ),
    "rounds": (
        "compare --algorithms standalone,fedavg,cgsv --rounds 2000000000 --epochs 1 --eval-every 1"
        " --checkpoint-every 1",
        ("--clients, --rounds, --seeds, --algorithms, --partition: ", "180,000,000,000 rows"),
    ),
    "seeds": (
        "run --rounds 100000 --seeds 1000 --epochs 1",
        ("--seeds", "1,000,000,000 rows of rounds.parquet"),
    ),
    "orders": (
        "run --contribution sampled_shapley --permutations 200000000",
        ("--clients, --permutations: ", "1,800,000,002 coalitions a round"),
    ),
    "rows": (
        "run --dataset synthetic --synthetic-rows 2000000000",
        ("--synthetic-rows: the data would take 715.3 GiB",),
    ),
    "slots": (
        "run --attack replication:3000000 --hidden 1 --clients 3 --rounds 1",
        ("--clients, --attack, --partition: cgsv would take", "for who holds which rows"),
    ),
    "models side by side": (
        "run --layout all --hidden 40000 --clients 1000 --partition uniform --rounds 1",
        ("--clients, --hidden: cgsv would take 67.1 GiB",),
    ),
    "runs side by side": (
        "sweep --beta 1,2,3,4 --hidden 200000 --seeds 100 --rounds 1 --together 1000",
        ("--together, --clients, --hidden: a call of ",),
    ),
    "a setting of a sweep": (
        "sweep --hidden 64,4000000 --clients 100 --rounds 1",
        ("--clients, --hidden: every method would take 111.8 GiB",),
    ),
}


@pytest.mark.parametrize(("words", "says"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_does_not_fit_is_refused_at_once(words, says, machine, capsys):
    started = time.monotonic()
    assert main.main(words.split()) == 2
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err
    for text in (*says, "there are 24.0 GiB"):
        assert text in said
    assert list(machine.iterdir()) == []


def test_slots_are_counted_before_they_are_made(monkeypatch):
    owners = np.repeat(np.arange(1000), [9001, *[1] * 999])
    rng = np.random.default_rng(0)
    labels = np.zeros(10_000, np.int32)
    assert partition.by_owner(rng, labels, 1000, owners).mask.shape == (1000, 9001)
    monkeypatch.setattr(files, "host_memory", lambda: 2**27)
    with pytest.raises(ValueError, match=r"holds 9,001 rows.*1,000 clients would take 0.2 GiB"):
        partition.by_owner(rng, labels, 1000, owners)


def test_what_fits_is_not_refused(machine, monkeypatch):
    """The largest run of the benchmarks: 10,000 clients, 66,250 parameters, three seeds."""
    config = names.configure(
        dataset="synthetic",
        synthetic_rows=12_000,
        clients=10_000,
        hidden=(1540,),
        partitions="uniform",
        rounds=200,
        algorithms="cgsv",
    )
    (task,) = deal.tasks(config)
    assert sum(task.tensors) == 66_230
    (method,) = config.methods
    taken = sum(own.size for own in budget.memory_of(bind.bind(config, method, task)))
    assert 3 < taken / (4 * 10_000 * 66_230) < 3.1


def test_the_estimate_allocates_nothing_and_takes_no_time():
    config = names.configure(dataset="digits", clients=3, algorithms="all", rounds=1)
    (task,) = deal.tasks(config)
    large = names.configure(
        dataset="digits", clients=3, algorithms="all", rounds=1, attacks=("replication:1000000000",)
    )
    before, started = len(jax.live_arrays()), time.monotonic()
    for method in large.methods:
        models, *_ = budget.memory_of(bind.bind(large, method, task))
        assert models.size > 3 * 4 * 10**9 * sum(task.tensors)
    assert time.monotonic() - started < 5  # the first look at each; some milliseconds after
    assert len(jax.live_arrays()) == before


def test_vectors_are_cut_up_without_any_being_made():
    shapes = {"a": jax.ShapeDtypeStruct((2**20, 2**20), np.float32)}
    vectors.unraveler(shapes)
    params = {"b": np.arange(6.0).reshape(2, 3), "a": np.arange(2)}
    back = vectors.unraveler(jax.eval_shape(lambda: params))(vectors.ravel(params))
    jax.tree.map(np.testing.assert_array_equal, back, params)


# What XLA counts for a round, over what is estimated: method, options, least and most.
COUNTED = [
    ("cgsv", {}, 0.6, 0.8),
    ("fedavg", {}, 0.9, 1.1),
    ("standalone", {}, 0.9, 1.1),
    ("fedavg", {"optimizer": "adam"}, 0.9, 1.1),
    ("cgsv", {"optimizer": "momentum"}, 0.7, 0.9),
    ("fedavg", {"layout": "all"}, 0.9, 1.1),
    ("cgsv", {"cohort": 20}, 0.9, 1.2),
    ("cgsv", {"attacks": ("free_rider_replay:3",)}, 0.7, 1.0),
    ("cgsv", {"attacks": ("free_rider_replay_delayed:3",)}, 0.8, 1.1),
    ("cgsv", {"attacks": ("free_rider_ace:3",)}, 0.8, 1.1),
    ("cffl", {}, 0.7, 1.0),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "options", "least", "most"), COUNTED)
def test_it_is_about_what_the_compiler_counts(name, options, least, most):
    asked = {"dataset": "synthetic", "synthetic_rows": 2500, "partitions": "uniform", "rounds": 2}
    asked |= {"clients": 200, "hidden": (1500,), "algorithms": name, "epochs": 1, "eval_rows": 60}
    config = names.configure(**asked | options)
    (task,), (method,) = deal.tasks(config), config.methods
    bound = bind.bind(config, method, task)
    made = programs.programs(bound)
    seeds = np.zeros(1, np.uint32)
    state = execute.state_of(made, execute.Chunk(seeds, made.hyper))
    step = jax.jit(lambda *x: made.segment(1, *x), donate_argnums=2)
    counted = step.lower(seeds, made.hyper, state, made.shared).compile().memory_analysis()
    total = counted.temp_size_in_bytes + counted.argument_size_in_bytes
    total += counted.output_size_in_bytes - counted.alias_size_in_bytes
    total -= sum(x.nbytes for x in jax.tree.leaves(made.shared[0]))
    taken = sum(own.size for own in budget.memory_of(bound))
    print(f"{name} {options}: {total / taken:.2f}")
    assert least < total / taken < most
