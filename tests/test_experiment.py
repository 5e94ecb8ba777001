"""From a Config to results: segments, seeds, partitions, files, and the same thing twice."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax import models
from cgsv_jax.command import main
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import grid, local, simulation
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.data import partition
from cgsv_jax.experiment import (
    bind,
    budget,
    checkpoint,
    deal,
    execute,
    hardware,
    identity,
    profiling,
    programs,
    running,
)
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames, tables
from cgsv_jax.rules import contribution, methods
from cgsv_jax.rules.spec import Spec
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.types import Contribution, Examples, Needs

SMALL = {"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 6, "seeds": 2}


@pytest.fixture(scope="module")
def compared():
    """Two partitions, four methods, two seeds; six rounds in three segments."""
    seen = []
    config = names_lib.configure(
        **SMALL,
        partitions=("power_law", "class_imbalance"),
        algorithms=("standalone", "fedavg", "cgsv", "cgsv:released"),
        eval_every=2,
    )
    return config, running.run(config, seen.append), seen


def _cell(result, method, dealt="power_law"):
    (cell,) = [c for c in result.cells if (c.method, c.partition) == (method, dealt)]
    return cell


def test_a_cell_for_every_partition_and_method(compared):
    config, result, _ = compared
    names = {(c.partition, c.method) for c in result.cells}
    assert names == {(p, m.name) for p in config.partitions for m in config.methods}
    for cell in result.cells:
        assert cell.record.score.shape == (2, 6, 4)  # [S, T, N]
        assert cell.evaluation.accuracy.shape == (2, 3, 4)  # [S, K, N]
        assert cell.evaluation.round[0].tolist() == [2, 4, 6]
        assert np.isfinite(cell.evaluation.accuracy).all()


def test_answers_are_those_of_the_last_evaluation(compared):
    """Of every seed, client and test example; nothing else is kept of them."""
    config, result, _ = compared
    rows = len(result.tasks[0].data.test_labels)
    for cell in result.cells:
        assert cell.answers.right.shape == (2, config.clients, rows)
        assert cell.counts is cell.evaluation.answers is None
        ends = jax.tree.map(lambda x: x[:, -1], cell.evaluation)
        np.testing.assert_allclose(cell.answers.right.mean(-1), ends.accuracy, rtol=1e-6)
        np.testing.assert_allclose(cell.answers.loss.mean(-1), ends.loss, rtol=1e-5)


def test_methods_share_partition_start_and_orders(compared):
    _, result, _ = compared
    losses = [_cell(result, m).record.loss for m in ("standalone", "fedavg", "cgsv")]
    # The first round's local training is the same whatever the server does with it.
    for other in losses[1:]:
        np.testing.assert_array_equal(losses[0][:, 0], other[:, 0])
        assert (losses[0][:, 1] != other[:, 1]).any()
    assert (losses[0][0] != losses[0][1]).any()  # but seeds differ


def test_the_two_settings_differ(compared):
    _, result, _ = compared
    paper, released = _cell(result, "cgsv").record, _cell(result, "cgsv:released").record
    d = _cell(result, "cgsv").num_parameters
    assert paper.quota.max() == d
    assert released.quota.max() < d  # every tensor loses an entry


def test_segments_equal_one_program(compared):
    """The host's segments change nothing: tolerance 0 would need the same program."""
    config, result, _ = compared
    (task, _), method = deal.tasks(config), config.methods[2]

    def whole(key, data, clients):
        federation = bind.bind(config, method, task).federation(method.hyper())
        return simulation.run(key, data, clients, federation)

    data = task.data._replace(validation=None)
    _, record, evaluation = jax.jit(whole)(jax.random.key(1), data, task.clients)
    cell = _cell(result, "cgsv")
    # Six rounds of float32 in another compilation: 1e-5 is 100 roundings of a number near 1.
    np.testing.assert_allclose(record.reputation, cell.record.reputation[1], atol=1e-5)
    np.testing.assert_allclose(evaluation.loss, cell.evaluation.loss[1], atol=1e-4)


def test_progress_is_seen_truthfully(compared):
    _, result, seen = compared
    own = [p for p in seen if (p.partition, p.method) == ("power_law", "cgsv")]
    # Two seeds of six rounds, one after the other as on every CPU.
    assert [p.round for p in own] == [0, 2, 4, 6, 8, 10, 12]
    assert {p.rounds for p in own} == {12}
    assert [p.compiling for p in own] == [True] + [False] * 6
    cell = _cell(result, "cgsv")
    for last, accuracy in zip((own[3], own[-1]), cell.evaluation.accuracy[:, -1], strict=True):
        np.testing.assert_allclose(last.accuracy, accuracy, rtol=1e-6)
    assert own[-1].rounds_per_second > 0


def test_the_same_config_gives_the_same_bytes(tmp_path):
    config = names_lib.configure(**SMALL, algorithms="cgsv")
    written = []
    for name in ("one", "two"):
        directory = directory_lib.create(tmp_path / name)
        # What was written is enough to repeat the run.
        if written:
            values = files.read_json(tmp_path / "one" / "config.json")
            config = resolve.from_dict(values, names_lib.TABLES)
        running.save(directory, running.run(config))
        written.append({p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()})
    one, two = written
    assert set(one) == set(two)
    assert "timing.json" in one
    for name in set(one) - {"timing.json"}:
        assert one[name] == two[name], name
    assert str(tmp_path) not in one["config.json"].decode()


def test_layouts_agree_in_a_whole_experiment():
    runs = [
        running.run(names_lib.configure(**SMALL, algorithms="cgsv", layout=layout)).cells[0]
        for layout in ("one", "all", "3")
    ]
    for other in runs[1:]:
        np.testing.assert_allclose(
            runs[0].evaluation.loss, other.evaluation.loss, atol=1e-4
        )  # as above


def test_three_seeds_by_three_betas_in_one_program():
    """Acceptance: one compiled grid agrees with the nine separate runs."""
    config = names_lib.configure(**(SMALL | {"seeds": 3}), algorithms="cgsv", alpha=0.5)
    (task,), (method,) = deal.tasks(config), config.methods
    data, clients = task.data._replace(validation=None), task.clients
    bound, traces = bind.bind(config, method, task), []

    def run(key, hyper, data, clients):
        traces.append(1)
        return simulation.run(key, data, clients, bound.federation(hyper))

    betas = [0.5, 20.0, jnp.inf]
    hyper = jax.tree.map(lambda x: jnp.full(3, x, jnp.float32), method.hyper())
    hyper = hyper | {"beta": jnp.array(betas)}
    keys = jax.vmap(jax.random.key)(jnp.arange(3, dtype=jnp.uint32))
    _, record, evaluation = jax.jit(lambda *args: grid.grid(run, *args))(keys, hyper, data, clients)
    assert len(traces) == 1
    assert len({tuple(q) for q in np.asarray(record.quota[0, :, -1]).tolist()}) == 3
    for j, beta in enumerate(betas):
        single = running.run(
            dataclasses.replace(config, methods=(method.replace(beta=beta),))
        ).cells[0]
        # Widths differ, so bits do; quotas may move by one where D x ratio is near an integer.
        np.testing.assert_allclose(
            evaluation.loss[:, j], single.evaluation.loss, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(record.reputation[:, j], single.record.reputation, atol=1e-5)
        assert np.abs(record.quota[:, j] - single.record.quota).max() <= 1


def test_what_clients_reach_alone_is_what_the_yardstick_reaches():
    """Of the same seed, on validation rows; cut into segments.

    The method's own rounds then start from scratch: by size they are the same rounds, where
    kappa = 1 lets nobody's p matter.
    """
    asked = SMALL | {"seeds": (3,), "kappa": 1.0, "algorithms": ("iafl",)}
    asked |= {"eval_rows": None, "validation_share": 0.2, "rounds": 3}
    config = names_lib.configure(**asked, contribution_by="accuracy")
    (task,), (method,) = deal.tasks(config), config.methods
    inputs, labels = task.data.validation
    judged = task._replace(data=task.data._replace(test_inputs=inputs, test_labels=labels))
    alone_config = dataclasses.replace(
        config, methods=names_lib.configure(algorithms="standalone").methods
    )
    (alone,) = running.run(alone_config, dealt=(judged,)).cells
    assert [s.alone for s in budget.segments_of(bind.bind(config, method, task))].count(True) == 3
    (cell,) = running.run(config).cells
    reached = np.float64(alone.evaluation.accuracy[:, -1])
    assert np.ptp(reached) > 0.02
    np.testing.assert_allclose(
        cell.record.reputation, np.tile((reached / reached.sum())[:, None], (1, 3, 1)), rtol=1e-5
    )
    (other,) = running.run(names_lib.configure(**asked)).cells
    np.testing.assert_allclose(cell.evaluation.accuracy, other.evaluation.accuracy, atol=1e-6)
    np.testing.assert_array_equal(cell.record.loss, other.record.loss)
    assert [own.oracle for own in (cell, other, alone)] == [True, False, False]


@pytest.mark.parametrize("name", ["q_ffl", "rank", "rffl", "fedavg_finetuned"])
@pytest.mark.long
def test_every_kind_of_method_can_be_profiled(name):
    """One that wants losses before training, one that judges models, one with states of its own."""
    config = names_lib.configure(**SMALL, algorithms=name)
    (task,), (method,) = deal.tasks(config), config.methods
    found = profiling.profile(bind.bind(config, method, task), repeats=1)
    assert found.peak_memory > 0


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.05},
        {"decay": 0.5},
        {"decay_per": "epoch"},
        {"optimizer": "adam"},
        {"optimizer": "momentum"},
        {"optimizer": "adam", "optimizer_state": "restart"},
        {"batch_size": 8},
        {"epochs": 1},
        {"epochs": None, "local_steps": 3},
    ],
    ids=str,
)
def test_every_training_option_reaches_the_clients(change):
    def loss(**asked):
        config = names_lib.configure(**(SMALL | {"epochs": 2} | asked), algorithms="standalone")
        (task,), (method,) = deal.tasks(config), config.methods
        trainer = bind.bind(config, method, task).trainer(method.hyper())
        model, clients = task.model, task.clients
        examples = Examples(task.data.inputs, clients.rows[0], task.data.labels[clients.rows[0]])
        epochs = bind.epochs_of(config, task)
        order = local.draw_order(jax.random.key(0), clients.mask[0], epochs)
        params = model.init(jax.random.key(1))
        return trainer.update(
            jax.random.key(2), params, trainer.init(params), examples, order, jnp.int32(3)
        )[2]

    assert loss() != loss(**change)


@pytest.mark.long
def test_local_steps_that_are_epochs_are_epochs():
    """Of clients of equal sizes, K = E b steps are E epochs, to the last bit."""
    asked = SMALL | {"seeds": 1, "rows_per_client": 40, "batch_size": 16, "partitions": "uniform"}
    asked |= {"rounds": 3, "epochs": 2, "algorithms": ("standalone", "cgsv")}
    asked |= {"decay_per": "epoch", "decay": 0.5}
    whole = running.run(names_lib.configure(**asked))
    asked |= {"epochs": None, "local_steps": 6}  # 40 rows are 3 steps
    steps = running.run(names_lib.configure(**asked))
    assert {*whole.cells[0].sizes.tolist()} == {40}
    for one, other in zip(whole.cells, steps.cells, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.record, other.record)
        np.testing.assert_array_equal(one.evaluation.accuracy, other.evaluation.accuracy)


@pytest.mark.long
def test_local_steps_are_everybodys_and_alike_in_every_layout():
    """Whoever has few rows starts over, whoever has many stops: all are as busy as the others."""
    asked = SMALL | {"partitions": "power_law", "local_steps": 7, "algorithms": "cgsv", "seeds": 1}
    del asked["epochs"]
    cells = []
    for layout in ("one", "all", "2"):
        config = names_lib.configure(**asked, layout=layout)
        (task,), (method,) = deal.tasks(config), config.methods
        bound = bind.bind(config, method, task)
        assert bound.steps.tolist() == [7] * 4
        assert bound.settings.epochs == max(-(-7 // -(-n // config.batch_size)) for n in task.sizes)
        cells += running.run(config).cells
    for other in cells[1:]:
        # Sums of a step in another order: 42 steps in float32, on losses of order 1.
        np.testing.assert_allclose(cells[0].record.loss, other.record.loss, rtol=0, atol=1e-4)


@pytest.mark.long
def test_local_steps_are_resumed_bit_for_bit(tmp_path):
    asked = SMALL | {"partitions": "power_law", "epochs": None, "local_steps": 7, "seeds": 1}
    config = names_lib.configure(**asked, optimizer="momentum", algorithms="cgsv", eval_every=2)
    config = dataclasses.replace(config, checkpoint_every=2)
    looks = []

    def keeper(stop):
        about = {"config": resolve.to_dict(config)}
        return checkpoint.of_run(tmp_path, lambda: about, 1, stop).keeper

    whole = running.run(config)
    with pytest.raises(execute.Stopped):
        running.run(config, looks.append, keeper=keeper(lambda: len(looks) > 2))
    resumed = running.run(config, keeper=keeper(lambda: False))
    for a, b in zip(whole.cells, resumed.cells, strict=True):
        jax.tree.map(np.testing.assert_array_equal, (a.record, a.answers), (b.record, b.answers))


def test_epochs_beside_local_steps_are_refused():
    with pytest.raises(ConfigError, match="--epochs does nothing here: --local-steps says"):
        names_lib.configure(epochs=1, local_steps=5)
    with pytest.raises(ConfigError, match="--local-steps is 0, it must be"):
        names_lib.configure(local_steps=0)
    with pytest.raises(ConfigError, match="--rounds times --local-steps is 2147483648"):
        names_lib.configure(rounds=2**20, local_steps=2**11)


def test_what_cannot_be_dealt_is_named():
    with pytest.raises(ConfigError, match="--clients is 5000, it must be at most 1298"):
        deal.tasks(names_lib.configure(clients=5000))
    with pytest.raises(ConfigError, match="mnist_cnn"):
        deal.tasks(names_lib.configure(model="mnist_cnn"))


def test_validation_rows_are_nobodys():
    (task,) = deal.tasks(names_lib.configure())
    validation = {row.tobytes() for row in task.data.validation[0]}
    assert not validation & {row.tobytes() for row in task.data.inputs}


# What a partition needs beside a data set, and how it is asked for.
DEALT = {
    "by_shares": {"shares": (4, 3, 2, 1)},
    "k_classes": {"classes_per_client": 3},
    "size_dirichlet": {"concentration": 5.0, "min_rows": 50},
    "dirichlet": {"concentration": 5.0, "min_rows": 50, "dirichlet_balanced": True},
}


@pytest.mark.parametrize("name", sorted({*partition.PARTITIONS} - {"by_owner", "from_lists"}))
def test_every_partition_can_be_asked_for(name):
    """It is dealt as the function deals the pool, with the options asked for."""
    asked = DEALT.get(name, {})
    (task,) = deal.tasks(names_lib.configure(**SMALL, **asked, partitions=name))
    options = {option.removeprefix("dirichlet_"): value for option, value in asked.items()}
    options |= {"num_classes": 10} if name == "class_imbalance" else {}
    made = partition.PARTITIONS[name](np.random.default_rng([0, 1]), task.data.labels, 4, **options)
    np.testing.assert_array_equal(task.clients.rows, made.rows)
    np.testing.assert_array_equal(task.clients.mask, made.mask)
    assert task.owners == ()


def test_as_many_clients_as_shares():
    assert names_lib.configure(partitions="by_shares", shares=(0.4, 0.3, 0.3)).clients == 3
    assert names_lib.configure().clients == 10


def test_lists_of_a_partition_are_the_partition(compared, tmp_path):
    """The same rows by their numbers in the training set: the same runs, bit for bit."""
    _, result, _ = compared
    pool, held_out = partition.split(np.random.default_rng([0, 0]), 1442, 0.1)
    dealt = partition.take(result.tasks[0].clients, pool)
    rows = [own[mask] for own, mask in zip(dealt.rows, dealt.mask, strict=True)]
    np.savez(tmp_path / "rows.npz", *rows)
    asked = dict(SMALL, partitions="from_lists", lists=str(tmp_path / "rows.npz"))
    again = running.run(names_lib.configure(**asked, algorithms="cgsv", eval_every=2))
    mine, theirs = _cell(again, "cgsv", "from_lists"), _cell(result, "cgsv")
    jax.tree.map(np.testing.assert_array_equal, mine.record, theirs.record)
    jax.tree.map(np.testing.assert_array_equal, mine.evaluation, theirs.evaluation)
    data = again.tasks[0].data
    np.testing.assert_array_equal(data.validation[1], result.tasks[0].data.validation[1])
    np.testing.assert_array_equal(data.inputs[held_out], data.validation[0])


@pytest.mark.parametrize(
    ("lists", "asked", "message"),
    [
        ([[1], [2]], {}, "num_clients must be 2, the number of lists, got 4"),
        ([[1], [2], [3], [1442]], {}, "client 3 holds row 1442, rows are numbered from 0 to 1441"),
        ([[1], [2], [3], [2]], {}, "row 2 is held by clients 1 and 3"),
        ([[1], [2], [3], []], {}, "client 3 has no rows"),
        ([range(1300), [1301], [1302], [1303]], {}, "holds out 144 rows, but only 139 of the 1442"),
        ([[1], [2], [3], [4]], {"rows_per_client": 5}, "--rows-per-client does nothing here"),
        ([[1], [2], [3], [4]], {"min_rows": 5}, "--min-rows does nothing here"),
    ],
)
def test_lists_that_cannot_be_dealt(lists, asked, message, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([list(rows) for rows in lists]))
    path = str(tmp_path / "rows.json")
    with pytest.raises(ConfigError, match=message):
        deal.tasks(names_lib.configure(**SMALL, partitions="from_lists", lists=path, **asked))


def test_rows_may_be_listed_again_where_that_is_meant(tmp_path):
    (tmp_path / "rows.txt").write_text("1,1,2\n2\n3\n4\n")
    asked = dict(SMALL, partitions="from_lists", lists=str(tmp_path / "rows.txt"))
    (task,) = deal.tasks(names_lib.configure(**asked, repeated_rows=True))
    assert task.sizes.tolist() == [3, 1, 1, 1]


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """Thirty owners of digits' rows, by name."""
    path = tmp_path_factory.mktemp("owners") / "writers.npy"
    names = np.array([f"writer {i}" for i in range(30)])[np.arange(1442) % 30]
    np.save(path, names)
    return str(path), names


def test_which_owner_a_client_is(writers):
    """The owner of all its rows; of a client that poses as several, of every copy."""
    path, names = writers
    asked = dict(SMALL, partitions=("by_owner", "uniform"), owners=path, attacks=["replication:3"])
    task, other = deal.tasks(names_lib.configure(**asked))
    pool, _ = partition.split(np.random.default_rng([0, 0]), 1442, 0.1)
    dealt = partition.take(task.clients, pool)
    assert len(task.owners) == len(dealt.rows) == 6
    for rows, mask, owner in zip(dealt.rows, dealt.mask, task.owners, strict=True):
        assert set(names[rows[mask]]) == {owner}
    assert len(set(task.owners)) == 4
    assert other.owners == ()
    renamed = task._replace(owners=tuple(name.upper() for name in task.owners))
    assert identity.fingerprint([renamed]) != identity.fingerprint([task])


def test_owners_stand_in_the_clients_table(writers, tmp_path):
    asked = dict(SMALL, rounds=1, seeds=1, algorithms="standalone", partitions="by_owner")
    result = running.run(names_lib.configure(**asked, owners=writers[0]))
    running.save(directory_lib.create(tmp_path / "run"), result)
    clients = directory_lib.read(tmp_path / "run").clients
    assert clients["owner"].to_list() == [*result.tasks[0].owners]
    assert set(clients["owner"]) < {f"writer {i}" for i in range(30)}


@pytest.mark.parametrize(
    ("rounds", "every", "length"), [(60, 3, 3), (5, 2, 2), (200, 1, 10), (1, 1, 1), (7, 100, 7)]
)
def test_segment_length(rounds, every, length):
    assert execute.segment_length(rounds, every) == length


# ---------------------------------------------------------------- rules of one's own


def _on_validation_rows():
    """A measure that nobody here has heard of: how many validation rows there are, and of what."""

    def update(key, upload, aggregate, weights, state):
        _, labels = upload.validation
        return jnp.where(upload.present, labels.size + jnp.mean(labels), 0.0), state

    needs = Needs(validation=True, valuations=lambda num_clients: 2**num_clients)
    return Contribution(lambda num_clients, num_parameters: (), update, needs)


def test_a_registered_measure_is_given_the_rows_it_needs(monkeypatch, tmp_path):
    """One line of a table: the command runs it, and its rounds are priced by what it says."""
    monkeypatch.setitem(contribution.CONTRIBUTIONS, "own", Spec(_on_validation_rows))
    asked = {**SMALL, "rounds": 2, "seeds": 1, "algorithms": "cgsv"}
    words = [f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}"
             for name, v in asked.items()]  # fmt: skip
    out = tmp_path / "run"
    assert main.main(["run", *words, "--contribution", "own", "--quiet", "--out", str(out)]) == 0
    config = names_lib.configure(**asked, contribution="own")
    (task,), (method,) = deal.tasks(config), config.methods
    labels = task.data.validation[1]
    scores = directory_lib.read(out).rounds["score"].to_numpy()
    np.testing.assert_allclose(scores, labels.size + labels.mean(), rtol=1e-6)
    bare = names_lib.configure(**asked, contribution="own", validation_share=0.0)
    with pytest.raises(ConfigError, match=r"cgsv\[contribution=own\] judges models on the server"):
        deal.tasks(bare)
    (exact,) = names_lib.configure(**asked, contribution="shapley", game="accuracy").methods
    seconds = [budget.seconds_per_round(bind.bind(config, m, task)) for m in (method, exact)]
    assert seconds[0] == seconds[1]  # both 2^N evaluations


def test_a_registered_method_is_given_what_it_needs(monkeypatch):
    """A method of one's own that reads validation rows and losses, in an experiment."""

    def build():
        inner = methods.fedavg()

        def update(key, upload, state):
            download, standing, state = inner.update(key, upload, state)
            score = upload.start_loss + upload.validation[1].size
            return download, standing._replace(score=jnp.where(upload.present, score, 0.0)), state

        return inner._replace(update=update, needs=Needs(validation=True, start_loss=True))

    monkeypatch.setitem(methods.METHODS, "own", Spec(build))
    config = names_lib.configure(**{**SMALL, "rounds": 1, "seeds": 1}, algorithms="own")
    (task,) = deal.tasks(config)
    (cell,) = running.run(config, dealt=(task,)).cells
    rows = len(task.data.validation[1])
    assert ((cell.record.score > rows) & (cell.record.score < rows + 10)).all()


# ---------------------------------------------------------------- a budget for evaluation


def test_a_budget_changes_what_is_seen_and_nothing_else(compared):
    """The same training; accuracies of the chosen clients, which are the extremes and one between.

    On fewer rows an accuracy is a multiple of one over their number.
    """
    _, whole, _ = compared
    asked = {**SMALL, "algorithms": ("standalone", "cgsv"), "eval_every": 2}
    asked |= {"partitions": ("power_law",)}
    result = running.run(names_lib.configure(**asked, eval_clients=3, eval_rows=50))
    for method in ("standalone", "cgsv"):
        cell, full = _cell(result, method), _cell(whole, method)
        for a, b in zip(cell.record, full.record, strict=True):
            np.testing.assert_array_equal(a, b)
        assert cell.evaluation.accuracy.shape == (2, 3, 3)
        order = np.argsort(cell.sizes)
        assert cell.evaluated.tolist() == sorted([order[0], order[2], order[3]])
        counts = 50 * cell.evaluation.accuracy
        np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    summary = frames.summary_frame(result.cells)
    assert summary["clients"].to_list() == [4] * 4
    assert summary["evaluated"].to_list() == [3] * 4
    assert summary.filter(method="cgsv")["fairness"].null_count() == 0
    clients = frames.clients_frame(result.cells)
    (left_out,) = set(range(4)) - set(_cell(result, "cgsv").evaluated.tolist())
    gone = clients.filter(client=left_out)
    assert gone["accuracy"].null_count() == gone["standalone_accuracy"].null_count() == 4
    assert clients["accuracy"].null_count() == 4
    assert clients["reputation"].null_count() == 0
    for own in summary.partition_by("partition"):
        assert "over the 3 of 4 clients that were evaluated" in tables.fairness(own).lines


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"eval_clients": 5}, "--eval-clients is 5, it must be at most --clients, 4"),
        ({"eval_rows": 10_000}, "--eval-rows is 10000, it must be at most 355"),
        ({"devices": 3}, "--devices is 3, it must be at most 1"),
        ({"precision": "half"}, "--precision is 'half'"),
        ({"conv": "lax"}, "--conv does nothing here"),
        ({"layout": "wide"}, "--layout is 'wide'"),
    ],
)
def test_what_the_hardware_cannot_do_is_said(asked, message):
    with pytest.raises(ConfigError, match=message):
        running.run(names_lib.configure(**{**SMALL, **asked}))


@pytest.mark.parametrize("layout", ["balanced", "all", "3"])
def test_every_layout_has_a_width_that_fits(layout):
    """Chunks that waste at most a tenth, and models under evaluation that fit the memory."""
    asked = {**SMALL, "clients": 40, "partitions": ("power_law",)}
    config = names_lib.configure(**asked, layout=layout)
    (task,), (method, *_) = deal.tasks(config), config.methods
    bound = bind.bind(config, method, task)
    settings, steps = bound.laid_out(), bound.steps
    assert steps.tolist() == [-(-size // 16) for size in task.sizes]
    if layout == "balanced":
        assert layout_lib.waste(steps, settings.width) <= layout_lib.WASTE
        assert layout_lib.waste(steps, None) > layout_lib.WASTE
    assert 1 <= settings.eval_width <= 40


@pytest.mark.parametrize("training", [True, False])
def test_a_width_fits_half_of_the_memory_and_a_gpu_has_a_widest(monkeypatch, training):
    """By the scratch of a whole chunk, of which a wider one would not fit."""
    model = models.mlp((8, 8, 1), 10, hidden=(32,))
    batch = jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.float32)
    widest = layout_lib.WIDEST_ON_GPU
    whole = hardware.scratch(model, batch, training, widest)
    assert whole > 0
    monkeypatch.setattr(hardware, "memory", lambda: 2 * (whole * 20 // widest))
    assert 15 <= hardware.fitting(model, batch, 500, training) <= 20
    assert hardware.fitting(model, batch, 3, training) == 3
    monkeypatch.setattr(hardware, "memory", lambda: 1)
    assert hardware.fitting(model, batch, 500, training) == 1
    monkeypatch.setattr(hardware, "memory", lambda: 1_000 * whole)
    assert hardware.fitting(model, batch, 500, training) == 500
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert hardware.fitting(model, batch, 500, training) == widest
    assert hardware.fitting(model, batch, 3, training) == 3


def test_seeds_do_not_share_memory_on_a_cpu(compared):
    """One after another: the matrices of one seed at a time, in programs of one seed."""
    config, _, _ = compared
    (task, _) = deal.tasks(config)
    bound = bind.bind(config, config.methods[2], task)
    assert programs._together(bound) == [(0,), (1,)]
    made = programs.programs(bound)
    state = execute.state_of(made, execute.Chunk(np.zeros(1, np.uint32), made.hyper))
    assert state.clients.shape == (1, 4, sum(task.tensors))


def test_a_method_sends_what_its_traffic_counts():
    """The head of one's own under fedper and the body under lg_fedavg are in no message."""
    methods = ["cgsv", "scaffold", "fedper", "lg_fedavg"]
    config = names_lib.configure(**SMALL, algorithms=methods)
    (task,) = deal.tasks(config)
    body, head = 64 * 8 + 8, 8 * 10 + 10
    found = [bind.bind(config, method, task).messages for method in config.methods]
    wanted = [(body + head, 1, 0), (body + head, 2, 1), (body, 1, 0), (head, 1, 0)]
    assert [tuple(own) for own in found] == wanted
    # And what a run, and a sweep, write down are those bytes.
    asked = SMALL | {"rounds": 2, "seeds": 1, "algorithms": ["scaffold"]}
    sent = 2 * 4 * 2 * (body + head)
    (row,) = frames.summary_frame(running.run(names_lib.configure(**asked)).cells).to_dicts()
    assert (row["upload_bytes"], row["download_bytes"]) == (sent, sent)
    sweep = points_lib.grid(asked, {"server_rate": (1.0,)})
    outcomes, _ = sweep_running.execute(plan_lib.plan(plan_lib.trials_of(sweep)))
    scaffold = [own for trial, own in outcomes.items() if trial.method.algorithm == "scaffold"]
    for outcome in scaffold:
        np.testing.assert_array_equal(outcome.upload_bytes, sent)
    assert scaffold


# ---------------------------------------------------------------- where the time goes


def test_a_profile_times_the_phases_of_a_round():
    config = names_lib.configure(**SMALL, algorithms="cgsv", eval_clients=2, eval_every=3)
    (task,), (method,) = deal.tasks(config), config.methods
    bound = bind.bind(config, method, task)
    profile = profiling.profile(bound, repeats=1)
    training, server, evaluation = profile.phases
    assert [phase.name for phase in profile.phases] == ["training", "server", "evaluation"]
    # 64-8-10 on rows: a product is 2 rows in out; backwards twice that, but for the first layer's
    # inputs. XLA counts the rest too (bias, relu, softmax), which is less than half as much here.
    steps, rows = bound.steps.sum(), 16
    forward = 2 * (64 * 8 + 8 * 10)
    backward = 2 * (64 * 8 + 2 * 8 * 10)
    needed = steps * rows * (forward + backward)
    assert needed < training.flops < 1.5 * needed
    tested = 3 * len(task.data.test_labels) * forward
    assert tested < evaluation.flops < 1.5 * tested
    assert server.bytes == 4 * 4 * 4 * sum(task.tensors)  # four matrices of four clients
    assert evaluation.per_run == 1 / 3
    assert profile.waste >= 1
    for phase in profile.phases:
        assert phase.seconds.median > 0
        assert phase.floor > 0
        assert phase.compile_seconds > 0
    text = "\n".join(profiling.lines(profile))
    for word in ("GFLOP/s", "of floor", "steps computed / needed", "peak memory"):
        assert word in text
    assert json.loads(json.dumps(profiling.plain(profile)))["phases"][0]["name"] == "training"


def test_methods_that_differ_in_numbers_share_programs():
    """And are bit for bit what each is alone."""
    asked = {**SMALL, "rounds": 2, "seeds": 1, "eval_rows": 40}
    names = ("cgsv", "cgsv:steady", "cgsv:released")
    together = running.run(names_lib.configure(algorithms=names, **asked))
    seconds = {own["method"]: own["compile_seconds"] for own in together.timing["methods"]}
    assert seconds["cgsv:steady"] == 0 < min(seconds["cgsv"], seconds["cgsv:released"])
    for cell in together.cells:
        (alone,) = running.run(names_lib.configure(algorithms=cell.method, **asked)).cells
        both = ((own.record, own.evaluation) for own in (cell, alone))
        for one, other in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_a_process_has_a_peak_of_its_own():
    """However large the one was that started it, as benchmarks start theirs."""
    own = "from cgsv_jax.experiment import timing; print(timing.peak_memory())"
    large = f"""
import subprocess, sys
held = bytearray(1 << 30)
held[::4096] = b"1" * len(held[::4096])  # each page
print(subprocess.run([sys.executable, "-c", {own!r}], capture_output=True, text=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True)
    assert 1 << 26 < int(done.stdout) < 1 << 30, done.stderr
