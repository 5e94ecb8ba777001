"""What tests/test_devices.py runs in a process of its own, where there are eight CPU devices.

    python tests/on_devices.py equal|traffic|resumed

Prints one JSON object.
"""

import json
import pathlib
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import layout, simulation
from cgsv_jax.experiment import bind, checkpoint, deal, execute, names, running
from cgsv_jax.results import directory

METHODS = (*names.TABLES.algorithms, "cgsv:released")
# Methods that hand clients each other's whole updates, or rebuild and judge their models: what they
# are takes every row to every device; so does `witness`, which compares pairs of uploads. And
# SCAFFOLD keeps a variate [D] of each client, and states of rules are not laid over devices.
GATHERING = {"iafl", "rank", "cffl", "eci", "fedave", "fair_yet_equal", "witness", "scaffold"}


def apart(x, y):
    """Largest difference; what is NaN (what a method does not measure) is so on both sides."""
    x, y = np.float64(x), np.float64(y)  # None is NaN
    gap = np.abs(x - y)
    assert (np.isnan(x) == np.isnan(y)).all()
    return float(np.where(np.isnan(gap), 0.0, gap).max())


def equal():
    """Largest difference of every quantity between one device and eight, by method."""
    # 13 ragged clients on 8 devices: two rows each, and rows that only fill up.
    asked = {"clients": 13, "rounds": 2, "seeds": 1, "save_models": True}
    one = running.run(names.configure(**asked, algorithms=METHODS, devices=1)).cells
    many = running.run(names.configure(**asked, algorithms=METHODS, layout="2")).cells
    (few,) = running.run(names.configure(**asked, algorithms="cgsv", eval_clients=5)).cells
    seen = {}
    for a, b in zip(one, many, strict=True):
        pairs = [*zip(a.record._fields, a.record, b.record, strict=True)]
        ends = a.evaluation._asdict(), b.evaluation._asdict()
        pairs += [(name, x, ends[1][name]) for name, x in ends[0].items() if x is not None]
        # But for a few of thousands of entries, which rounding may let into a mask or not.
        gaps = [np.sort(np.abs(x - y))[..., :-8] for x, y in zip(a.models, b.models, strict=True)]
        pairs += [("server's model", gaps[0], 0), ("clients' models", gaps[1], 0)]
        pairs += [("test_loss of every row", a.answers.loss, b.answers.loss)]
        pairs += [("accuracy by rows", *(x.answers.right.mean(-1) for x in (a, b)))]
        if a.method == few.method:
            chosen = a.evaluation.accuracy[..., few.evaluated]
            pairs += [("few_accuracy", chosen, few.evaluation.accuracy)]
            pairs += [("few_reputation", a.record.reputation, few.record.reputation)]
        seen[a.method] = {name: apart(x, y) for name, x, y in pairs}
        seen[a.method]["least_norm"] = float(a.record.norm.min())
    # Five of them a round, some of whom drop out, two of whom cheat.
    asked |= {"cohort": 5, "dropout": 0.2, "attacks": ["sign_flip:2"], "rounds": 3}
    one = running.run(names.configure(**asked, algorithms=("fedavg", "cgsv"), devices=1))
    many = running.run(names.configure(**asked, algorithms=("fedavg", "cgsv"), layout="2"))
    for a, b in zip(one.cells, many.cells, strict=True):
        assert np.array_equal(a.record.present, b.record.present)
        assert 0 < a.record.present.sum() < 15
        pairs = zip(a.record._fields, a.record, b.record, strict=True)
        gaps = {n: np.nan_to_num(np.abs(np.float64(x) - np.float64(y))).max() for n, x, y in pairs}
        gaps["accuracy"] = np.abs(a.evaluation.accuracy - b.evaluation.accuracy).max()
        gaps["least_norm"] = a.record.norm[a.record.present].min()
        seen[f"{a.method} in cohorts"] = {name: float(gap) for name, gap in gaps.items()}
    return {"devices": jax.device_count(), "methods": seen}


def traffic():
    """Elements of each method's largest all-gather, all-to-all and permute, and D."""
    methods = [name for name in METHODS if name not in GATHERING]
    config = names.configure(clients=13, algorithms=methods, seeds=1, eval_clients=5)
    (task,) = deal.tasks(config)
    seen = {}
    for method in config.methods:
        bound = bind.bind(config, method, task)
        federation = bound.federation(method.hyper())
        # Without the answers to every test row, which are brought together because they are wanted.
        settings = federation.settings._replace(rounds=2, answers=False)
        key = jax.random.key(0)
        sharded, whole = layout.over_rows(settings.mesh), layout.everywhere(settings.mesh)
        federation = federation._replace(settings=settings)

        def program(state, data, clients, chosen, federation=federation, key=key):
            return simulation.advance(key, state, data, clients, federation, chosen=chosen)

        start = jax.jit(
            lambda federation=federation, key=key: simulation.init(key, config.clients, federation)
        )
        state = start()
        assert state.clients.sharding.is_equivalent_to(sharded, 2)
        data = jax.device_put(bound.data, whole)
        rest = jax.device_put((task.clients, jnp.asarray(task.chosen)), whole)
        compiled = jax.jit(program, donate_argnums=0).lower(state, data, *rest).compile()
        moved = re.findall(
            r"= (\(?[a-z0-9]+\[[^=]*?) (all-gather|all-to-all|collective-permute)(?:-start)?\(",
            compiled.as_text(),
        )
        largest = {"all-gather": 0, "all-to-all": 0, "collective-permute": 0}
        for shapes, kind in moved:
            for shape in re.findall(r"\[([\d,]*)\]", shapes):
                elements = int(np.prod([int(n) for n in shape.split(",") if n], initial=1))
                largest[kind] = max(largest[kind], elements)
        reduced = "all-reduce" in compiled.as_text()
        seen[method.name] = {"largest": largest, "reduces": reduced}
    return {"D": sum(task.tensors), "methods": seen}


def resumed(clients=13):
    """Bytes in which runs that went on from a checkpoint differ from one that never stopped."""
    asked = {"clients": clients, "rounds": 3, "seeds": 2, "layout": "2", "checkpoint_every": 1}
    asked |= {"select": "validation"}
    config = names.configure(**asked, algorithms="rffl", optimizer="adam")
    differing, stopped = 0, 0
    with tempfile.TemporaryDirectory() as folder:

        def run(name, stop=lambda: False):
            path = pathlib.Path(folder) / name
            path.mkdir(exist_ok=True)
            kept = checkpoint.of_run(path, dict, 1, stop)
            found = running.run(config, keeper=kept.keeper).cells
            last = checkpoint.read_manifest(directory.checkpoints(path)[-1])
            kept = [(c.record, c.evaluation, c.answers, c.counts) for c in found]
            return kept, last["arrays"]

        whole, state = run("whole")
        for after in (2, 4):  # in either seed
            asked = []
            try:
                run(
                    str(after),
                    lambda asked=asked, after=after: asked.append(1) or len(asked) == after,
                )
            except execute.Stopped:
                stopped += 1
            again, last = run(str(after))
            pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True)
            differing += sum(int((x.view(np.uint8) != y.view(np.uint8)).sum()) for x, y in pairs)
            differing += last != state
    return {"devices": jax.device_count(), "stopped": stopped, "differing": int(differing)}


if __name__ == "__main__":
    what = {"equal": equal, "traffic": traffic, "resumed": resumed}
    what["resumed, sixteen"] = lambda: resumed(16)
    print(json.dumps(what[sys.argv[1]]()))
