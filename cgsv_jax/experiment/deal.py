"""From a configuration to tasks: the data, dealt out to clients, and a model."""

import dataclasses
import itertools
import warnings
from typing import Any

import jax
import numpy as np

from cgsv_jax import data as data_lib
from cgsv_jax import models
from cgsv_jax.config import resolve, schema
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.core import attacks, checks, vectors
from cgsv_jax.core import evaluation as evaluation_lib
from cgsv_jax.data import attendance as attendance_lib
from cgsv_jax.data import lists
from cgsv_jax.data import owners as owners_lib
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.experiment import budget, hardware, names
from cgsv_jax.experiment import identity as identity_lib
from cgsv_jax.experiment.task import (
    DataIdentity,
    Task,
    attacks_of,
    counts_of,
    width_asked,
)
from cgsv_jax.host import files as files_lib
from cgsv_jax.types import Clients, Dataset, Model


def tasks(config: Config) -> tuple[Task, ...]:
    """Loads the data once and deals them out, for every partition once per partition seed.

    Returns:
      In the order of the partitions, those of one by their seed. What a seed decides is all that
      is drawn of a task but the test rows: the server's validation rows, which rows of a cap are
      read, who holds what, who cheats and who comes late.

    Raises:
      ConfigError: when the data are not there, cannot be dealt out as asked, or are not what a
        method needs; and when the hardware is not there.
    """
    hardware.devices(config)
    source = config.tables.datasets[config.dataset]
    try:
        full, found = data_lib.identified(**identity_lib.named(config))
        identity = DataIdentity(
            sets={identity_lib.label(config): found}, files=identity_lib.digests(config)
        )
        read: dict[str, Any] = {}  # partition -> what its file says
        if "by_owner" in config.partitions:
            read["by_owner"] = owners_lib.load(config.owners or "", len(full.labels))
        if "from_lists" in config.partitions:
            read["from_lists"] = lists.load(config.lists or "")
        recipe = _recipe(config, full, source.num_classes or _classes_of(full))
        model = models.built(config.tables.models[config.model], recipe)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    schema.refuse(budget.unfit_data(config, full))
    pools: dict[Any, Any] = {}
    dealt, wrong = [], []
    for name, seed in itertools.product(config.partitions, config.draws):
        own = dataclasses.replace(config, partition_seed=seed, partition_seeds=1)
        try:
            data, clients, owners = _deal(own, full, name, read.get(name), pools)
            wrong += checks.complaints(data, clients, model)
            dealt.append((own, name, data, clients, owners))
        except (ValueError, OSError) as error:
            wrong += str(error).splitlines()
    schema.refuse(wrong)
    honest = [
        (
            own,
            _task(own, name, data, clients, model)._replace(identity=identity, recipe=recipe),
            owners,
        )
        for own, name, data, clients, owners in dealt
    ]
    schema.refuse(wrong for _, task, _ in honest for wrong in budget.unfit(config, task))
    return tuple(conducted(*each) for each in honest)


def given(config: Config, data: Dataset, clients: Clients, model: Model | None = None) -> Task:
    """A task of one's own arrays, checked: `run(config, dealt=(given(config, ...),))`.

    The config says how to train; its data set, model and partitions are not looked at, and
    `--clients` must be the number of clients given.

    Args:
      config: see `configure`.
      data: the rows; validation rows are only needed by methods that judge models on them.
      clients: who holds which of the training rows.
      model: the network; default: the config's, for inputs of this shape.

    Raises:
      ConfigError: naming everything that is wrong with the arrays, see `checks.complaints`, and
        what a method of the config cannot do with them.

    Warns:
      UserWarning: numbers of training that nobody asked for are those of a data set.
    """
    hardware.devices(config)
    if config.taken:
        numbers = ", ".join(f"{name} = {value}" for name, value in config.taken)
        warnings.warn(
            f"arrays of your own are trained on with the numbers of {config.dataset}: {numbers}; "
            "what is given to configure is not said here",
            stacklevel=2,
        )
    if config.partition_seeds > 1:
        raise ConfigError(
            f"--partition-seeds is {config.partition_seeds}, it must be 1 for clients that are "
            "given: there is nothing to draw anew"
        )
    own_model, recipe = model is not None, None
    if model is None:
        schema.refuse(checks.complaints(data, clients))  # before their shape and labels are used
        classes = _classes_of(data)
        try:
            recipe = _recipe(config, data, classes)
            model = models.built(config.tables.models[config.model], recipe)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    schema.refuse(checks.complaints(data, clients, model))
    if len(clients.mask) != config.clients:
        raise ConfigError(
            f"--clients is {config.clients}, it must be {len(clients.mask)}, the clients given"
        )
    data, clients = checks.canonical(*jax.tree.map(np.asarray, (data, clients)))
    if data.validation is None:
        data = data._replace(validation=(data.inputs[:0], data.labels[:0]))
    task = _task(config, schema.GIVEN, data, clients, model)
    task = task._replace(own_model=own_model, recipe=recipe)
    schema.refuse(budget.unfit(config, task))
    return conducted(config, task)


def again(
    file: Any, data: Dataset, clients: Clients, model: Model | None = None, plugin: Any = None
) -> tuple[Config, Task]:
    """What a run on arrays from Python needs to be repeated: `run(config, dealt=(task,))`.

    Args:
      file: the config.json of the run, or its directory.
      data: the same rows as then.
      clients: the same clients.
      model: the same network, if that was given.
      plugin: a file of rules of one's own, where the run had one.

    Raises:
      ConfigError: the file is of another kind of run, or these are other arrays; a sentence says
        which.
      ValueError: it cannot be read.
    """
    values = names.document(file)
    config = resolve.from_given(values, names.tables(plugin))
    before = values.get(schema.GIVEN)
    if not isinstance(before, dict):
        raise ConfigError(f"the config lacks the key {schema.GIVEN!r}")
    if ("model" in before) != (model is not None):
        was = "another network was given" if model is None else "the network was the config's"
        raise ConfigError(f"the model is another one than that of the run: {was}")
    task = given(config, data, clients, model)
    schema.refuse(identity_lib.other_arrays(before, identity_lib.described(task)))
    return config, task


def _classes_of(data: Dataset) -> int:
    """One more than the largest label that there is."""
    held = (data.labels, data.test_labels, *(data.validation or ())[1:])
    return max(int(np.max(labels, initial=0)) for labels in held) + 1


def _recipe(config: Config, data: Dataset, num_classes: int) -> dict[str, Any]:
    """What the config's model is built with, as JSON has it."""
    recipe: dict[str, Any] = {"input_shape": list(data.inputs.shape[1:])}
    recipe["num_classes"] = num_classes
    if config.model == "mlp":
        recipe["hidden"] = list(config.hidden)
    if config.model in schema.CONVOLUTIONAL:
        recipe["conv"] = config.conv
    if config.model in schema.OF_TOKENS:  # tokens are numbered without gaps
        recipe["vocabulary"] = int(data.inputs.max()) + 1
    return recipe


def _task(config: Config, name: str, data: Dataset, clients: Clients, model: Model) -> Task:
    """A task whose clients are all honest and there from the first round.

    What each holds out for itself is drawn before anybody cheats: it is tested on labels that no
    attack has touched.
    """
    own_rng = np.random.default_rng([config.partition_seed, 5])
    try:
        clients = partition_lib.hold_out(own_rng, clients, config.own_test_share)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    listed = None
    if config.attendance is not None:
        try:
            listed = attendance_lib.load(config.attendance, counts_of(config)[0])
        except ValueError as error:
            raise ConfigError(str(error)) from error
    network = evaluation_lib.network(
        model,
        data.inputs.shape[1:],
        data.inputs.dtype,
        batch=config.eval_batch,
        width=width_asked(config.layout),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = tuple(t.stop - t.start for t in vectors.tensors(shapes))
    holdings = partition_lib.describe(clients, data.labels)
    return Task(
        name, data, clients, *holdings, model, tensors, network, None,
        attacks=attacks_of(config), attendance=listed, partition_seed=config.partition_seed,
    )  # fmt: skip


def conducted(config: Config, task: Task, owners: np.ndarray | None = None) -> Task:
    """The task with the clients that cheat or come late, and who is evaluated.

    Args:
      config: what is asked of them.
      task: of honest clients that are there from the first round.
      owners: [n] the owner of every training row, where clients are owners.
    """
    clients, cheats = _conduct(config, task)
    clients = _joining(config, clients)
    sizes, classes = partition_lib.describe(clients, task.data.labels)
    chosen = None
    if config.eval_clients is not None and config.eval_clients < len(sizes):
        # Evenly from the fewest rows to the most, both ends included.
        places = np.linspace(0, len(sizes) - 1, config.eval_clients).round().astype(int)
        chosen = np.sort(np.argsort(sizes, kind="stable")[places])
    names: tuple[str, ...] = ()
    if owners is not None:
        names = tuple(owners[np.asarray(clients.rows)[:, 0]].astype(str).tolist())
    return task._replace(
        clients=clients, sizes=sizes, classes=classes, chosen=chosen, cheats=cheats, owners=names
    )


def _conduct(config: Config, task: Task) -> tuple[Clients, tuple[str, ...]]:
    """The partition with the clients that cheat, drawn with the partition's seed."""
    if not task.attacks:
        return task.clients, ()
    params = jax.eval_shape(task.model.init, jax.random.key(0))
    logits = jax.eval_shape(task.model.apply, params, task.data.inputs[:1])
    return attacks.dishonest(
        np.random.default_rng([config.partition_seed, 3]),
        task.clients,
        np.asarray(task.data.labels),
        logits.shape[-1],
        task.attacks,
        config.attackers,
    )


def _joining(config: Config, clients: Clients) -> Clients:
    """The partition with the first round of clients that come late, drawn likewise."""
    if not config.late:
        return clients
    joins = np.zeros(len(clients.mask), np.int32)
    order = np.random.default_rng([config.partition_seed, 4]).permutation(config.clients)
    for text in config.late:
        count, first = schema.late_joiners(text)
        joins[order[:count]] = first
        order = order[count:]
    return clients._replace(joins=joins)


def _deal(
    config: Config, full: Dataset, name: str, read: Any, pools: dict[Any, Any]
) -> tuple[Dataset, Clients, np.ndarray | None]:
    """The data with their pool, who holds what of it, and its rows' owners where these are clients.

    Args:
      config: of one partition seed.
      full: all rows.
      name: of the partition.
      read: what its file says, if it has one.
      pools: the pools that there are already, each a copy of its rows: partitions share one.
    """
    cap = config.rows_per_client and config.rows_per_client * config.clients
    cap = None if name in schema.CHOSEN_ROWS else cap
    listed = np.concatenate([*read, ()]) if name == "from_lists" else None
    key = config.partition_seed, cap, listed is None
    if key not in pools:
        pools[key] = _pool(config, full, cap, listed)
    data, pool = pools[key]
    options: dict[str, Any] = {}
    if name == "class_imbalance":
        classes = config.tables.datasets[config.dataset].num_classes
        options = {"num_classes": classes or _classes_of(full)}
    if name in ("dirichlet", "size_dirichlet"):
        options = {"concentration": config.concentration, "min_rows": config.min_rows}
    if name == "dirichlet":
        options["balanced"] = config.dirichlet_balanced
        options["equal"] = config.dirichlet_equal
    if name == "by_shares":
        options = {"shares": config.shares}
    if name == "k_classes":
        options = {"classes_per_client": config.classes_per_client}
    if name == "by_owner":
        options = {"owners": read[pool], "min_rows": config.min_rows}
    if name == "from_lists":
        options = {"lists": read, "repeated_rows": config.repeated_rows}
    _, rng, _ = _generators(config)
    with files_lib.naming({"by_owner": config.owners, "from_lists": config.lists}.get(name)):
        clients = config.tables.partitions[name](rng, data.labels, config.clients, **options)
    return data, clients, options.get("owners")


def _generators(config: Config) -> list[np.random.Generator]:
    """Of the pool, of who holds what, and of the test rows: none shifts what another draws.

    All draws of a partition are judged on the same test rows, so that no draw differs from another
    by the rows that it met, and an interval over draws takes several of them for no more rows.
    """
    seed = config.partition_seed
    return [np.random.default_rng(own) for own in ([seed, 0], [seed, 1], [0, 2])]


def _pool(
    config: Config, full: Dataset, cap: int | None, listed: np.ndarray | None
) -> tuple[Dataset, np.ndarray]:
    """The data of which the pool is dealt out, and the numbers of its rows in the whole set."""
    split_rng, _, test_rng = _generators(config)
    wrong = []
    if full.validation is not None and config.validation_share > 0:
        wrong.append(
            f"--validation-share is {config.validation_share:g}, it must be 0: "
            f"{config.dataset} has validation rows of its own"
        )
    pool, held_out = partition_lib.split(
        split_rng, len(full.labels), config.validation_share, cap, listed
    )
    if listed is not None:  # they number the rows of the whole training set
        pool = np.arange(len(full.labels))
    validation = full.validation or (full.inputs[held_out], full.labels[held_out])
    if config.clients > len(pool):
        wrong.append(
            f"--clients is {config.clients}, it must be at most {len(pool)}, "
            f"the training rows of {config.dataset}"
        )
    test, rows = slice(None), len(full.test_labels)
    if config.eval_rows is not None:
        if config.eval_rows > rows:
            wrong.append(
                f"--eval-rows is {config.eval_rows}, it must be at most {rows}, "
                f"the test rows of {config.dataset}"
            )
        test = np.sort(test_rng.permutation(rows)[: config.eval_rows])
    schema.refuse(wrong)
    data = full._replace(
        test_inputs=full.test_inputs[test],
        test_labels=full.test_labels[test],
        inputs=full.inputs[pool],
        labels=full.labels[pool],
        validation=validation,
    )
    return data, pool
