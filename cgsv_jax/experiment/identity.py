"""Which data an experiment means, by content."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cgsv_jax import data as data_lib
from cgsv_jax.config import schema, validate
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.experiment import hardware
from cgsv_jax.experiment.hardware import Memory
from cgsv_jax.experiment.task import DataIdentity, Task
from cgsv_jax.host import files as files_lib
from cgsv_jax.results import directory as directory_lib


def data_identity(*configs: Config) -> DataIdentity:
    """Which data the configs mean, as they are now; those of a sweep name the same files.

    `deal.tasks` says the same of one config in `Task.identity`, and has read them anyway.

    Raises:
      ConfigError: when the data are not there.
    """
    sets: dict[str, data_lib.Identity] = {}
    try:
        for config in configs:
            if label(config) not in sets:
                sets[label(config)] = data_lib.identified(**named(config))[1]
        return DataIdentity(sets=sets, files=digests(configs[0]))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def other_data(before: DataIdentity, now: DataIdentity) -> list[str]:
    """A sentence for each data set and file that is not what it was; where they lie is no matter.

    Args:
      before: as some environment.json has it.
      now: what the same config means.
    """
    wrong = []
    for name, found in now["sets"].items():
        was = before["sets"].get(name, found)
        if was["rows"] != found["rows"]:
            if name == found["folder"]:
                wrong.append(f"{name} holds other rows than it held")
                continue
            folders = [x["folder"] or "its package" for x in (found, was)]
            wrong.append(f"{name} in {folders[0]} has other rows than {folders[1]} had")
    for name in schema.FILES:
        if before["files"].get(name) != now["files"].get(name):
            wrong.append(f"the file of {validate.flag(name)} holds something else than it held")
    return wrong


def changed_data(directory: Any, now: DataIdentity | None) -> list[str]:
    """`other_data` than the environment.json of a directory names; nothing where there is no name.

    Raises:
      ValueError: it cannot be read.
    """
    if not directory_lib.is_there(directory, "environment.json"):
        return []
    before = directory_lib.read_json(directory, "environment.json").get("data")
    if before is None or now is None:  # of an earlier version, or of arrays of one's own
        return []
    with files_lib.reading(files_lib.inside(directory, "environment.json")):
        return other_data(files_lib.judged(before, DataIdentity), now)


def named(config: Config) -> dict[str, Any]:
    """The data set of a config, as `data.load` is asked for it."""
    options = {}
    if config.dataset == "synthetic":
        options = {"num_rows": config.synthetic_rows}
        each = 4 * math.prod(config.tables.datasets[config.dataset].input_shape)
        times = 3  # as drawn, as dealt out, and on the device
        rows = Memory(times * each * config.synthetic_rows, "the rows", ("--synthetic-rows",))
        schema.refuse(hardware.beyond("the data", [rows], files_lib.host_memory()))
    found = {"name": config.dataset, "data_dir": config.data_dir}
    return {**found, "sources": config.tables.datasets, **options}


def label(config: Config) -> str:
    """A data set's name, and the size of one that is made."""
    synthetic = config.dataset == "synthetic"
    return f"synthetic of {config.synthetic_rows} rows" if synthetic else config.dataset


def digests(config: Config) -> dict[str, str]:
    """The digest of every file that the config names."""
    chosen = {name: getattr(config, name) for name in schema.FILES}
    return {
        name: files_lib.digest_of_file(path) for name, path in chosen.items() if path is not None
    }


def fingerprint(dealt: Sequence[Task]) -> str:
    """A digest of all rows and who holds them: a config names files, which may have changed."""
    arrays = []
    for task in dealt:
        leaves = (task.data, task.clients, task.chosen, task.attendance)
        names = (task.cheats, task.owners)
        arrays += [*jax.tree.leaves(leaves), *(np.asarray(x, np.str_) for x in names)]
    return files_lib.digest_of_arrays(arrays)


def described(task: Task) -> dict[str, Any]:
    """What is known of arrays that no file holds: shapes and types, and digests of their content.

    That of the model is of its program: of what initialises it and of what it computes, as lowered.
    """
    arrays = {
        name: f"{x.dtype} {list(x.shape)}"
        for part in (task.data, task.clients)
        for path, x in jax.tree_util.tree_flatten_with_path(part)[0]
        for name in [f"{type(part).__name__}{jax.tree_util.keystr(path)}"]
    }
    found = {
        "arrays": arrays,
        "digest": fingerprint([task]),
        "rows": files_lib.digest_of_arrays(jax.tree.leaves(task.data)),
        "partition": files_lib.digest_of_arrays(jax.tree.leaves(task.clients)),
    }
    if task.own_model:
        key, row = jax.random.key(0), task.data.inputs[:1]
        params = jax.eval_shape(task.model.init, key)
        programs = [
            jax.jit(task.model.init).lower(key).as_text(),
            jax.jit(task.model.apply).lower(params, row, key).as_text(),
        ]
        digest = hashlib.sha256("".join(programs).encode()).hexdigest()
        found["model"] = {"parameters": sum(task.tensors), "digest": digest}
    return found


def other_arrays(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each array, and the model, that is not what it was; see `described`.

    Args:
      before: as a config.json has it.
      now: of the arrays that somebody hands over.
    """
    shapes, found = before.get("arrays"), now["arrays"]
    shapes = shapes if isinstance(shapes, dict) else {}
    wrong = [
        f"{name} is {found.get(name, 'nothing')}, in the run it was {shapes.get(name, 'nothing')}"
        for name in {**shapes, **found}
        if shapes.get(name) != found.get(name)
    ]
    if not wrong and before.get("digest") != now["digest"]:
        # An earlier version kept no digests of the two.
        parts = [part for part in ("rows", "partition") if before.get(part) != now[part]]
        what = " and ".join(f"the {part}" for part in parts) or "who is evaluated or takes part"
        wrong = [f"other arrays than those of the run: {what} differ, by SHA-256"]
    if before.get("model") != now.get("model"):
        wrong.append(
            "the model is another one than that of the run, by SHA-256 of its program as JAX "
            "lowers it, which another version of JAX may do otherwise"
        )
    return wrong
