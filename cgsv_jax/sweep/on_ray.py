"""The trials of a sweep as tasks of Ray: on this machine, or on a cluster.

A task is some trials of one program, or one point of a search, run by the functions that run them
without Ray. Its outcomes come back with its end, and only the driver writes: a cluster needs no
shared folder. A sweep that was stopped goes on from the parts in its directory, whoever made them.

Importing this module does not need Ray; its functions do (extra [ray]).
"""

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import os
import pathlib
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.experiment import identity, names
from cgsv_jax.experiment.task import DataIdentity
from cgsv_jax.host import files
from cgsv_jax.results.directory import RAYS
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.sweep import search as search_lib
from cgsv_jax.sweep.plan import Plan, Trial
from cgsv_jax.sweep.search import Score, Search, Study

RETRIES = 3  # of a task whose process dies
_OBJECT_STORE = 100 * 2**20  # bytes; what goes through it is small
# Few enough that compiling does not matter, so many that little is lost and waited for at the end.
_TASKS_PER_PLACE = 8
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


class Session(NamedTuple):
    """A connection to Ray: what a task takes of it, and how many find place at a time."""

    cpus: int
    gpus: float
    places: int


class Work(NamedTuple):
    """What all tasks of a sweep share."""

    directory: str
    data: DataIdentity
    eval_split: str
    options: dict[str, Any]  # shared by all points
    together: int | None
    session: Session


def leave_devices(ready: Callable[[], None]) -> None:
    """Has JAX look at its devices, whose memory is left to the tasks.

    Args:
      ready: looks, for the first time.

    Raises:
      ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--on ray needs ray, which is not installed: pip install 'ray>=2.40'")
    mine = _PREALLOCATE not in os.environ
    os.environ.setdefault(_PREALLOCATE, "false")
    try:
        ready()
    finally:
        if mine:  # of this process alone, not of those that it starts
            del os.environ[_PREALLOCATE]


@contextlib.contextmanager
def session(address: str | None, cpus: int, gpus: float | None) -> Iterator[Session]:
    """Connects to Ray for the length of a `with`; a Ray that is started here ends with it.

    Args:
      address: of a cluster; None: one is started on this machine.
      cpus: of a task.
      gpus: of a task; None: one where there are some.

    Raises:
      ConfigError: Ray is not there, or has no place for a task.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # without a GPU it sees none
    import ray

    # Ray starts its processes by forking; they execute another program at once.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    started = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        # "local", or Ray would look for one that somebody else has started.
        ray.init(
            address=address or "local",
            logging_level="error",  # pyright: ignore[reportArgumentType]
            log_to_driver=False,
            **({} if address else started),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address is {address!r}, Ray says: {files.reason_of(error)}"
        ) from error
    try:
        there = ray.cluster_resources()
        gpus = (1.0 if there.get("GPU", 0) >= 1 else 0.0) if gpus is None else gpus
        places = [there.get("CPU", 0) // cpus] + ([there.get("GPU", 0) // gpus] if gpus else [])
        if min(places) < 1:
            raise ConfigError(
                f"--cpus-per-task is {cpus}, --gpus-per-task {gpus:g}: Ray has "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
            )
        yield Session(cpus, gpus, int(min(places)))
    finally:
        ray.shutdown()


def execute(
    plan: Plan,
    keys: Mapping[Trial, str],
    work: Work,
    watch: Callable[[str, int, float], None],
    keep: Callable[[Mapping[str, np.ndarray]], None],
) -> None:
    """Runs a plan.

    Args:
      plan: see `plan.plan`; how many trials a call takes is decided where it runs.
      keys: trial -> its key.
      work: what all tasks share.
      watch: (name, rounds done, of them per second), called at the end of every task.
      keep: called with packed outcomes by key.
    """
    started, done = time.monotonic(), 0

    def ended(number: int, rows: Mapping[str, np.ndarray]) -> None:
        nonlocal done
        done += pieces[number][1]
        keep(rows)
        watch("ray", done, done / (time.monotonic() - started))

    pieces = _pieces(plan, work.session.places)
    _each(
        work.session,
        _run_some,
        [([(keys[trial], trial) for trial in piece], work) for piece, _ in pieces],
        ended,
    )


def _each(
    session: Session,
    function: Callable,
    arguments: Sequence[tuple],
    ended: Callable[[int, Any], None],
) -> None:
    """Runs a task per tuple of arguments, and hands (number, result) to `ended` as they end."""
    import ray
    from ray import exceptions

    options = {"num_cpus": session.cpus, "num_gpus": session.gpus, "max_retries": RETRIES}
    task = ray.remote(**options)(function)
    waiting = {task.remote(*own): number for number, own in enumerate(arguments)}
    while waiting:
        (first,), _ = ray.wait(list(waiting), num_returns=1)
        try:
            result = ray.get(first)
        except exceptions.RayTaskError as error:
            raise error.cause from error
        ended(waiting.pop(first), copy.deepcopy(result))  # its arrays lie in memory of Ray's


def _pieces(plan: Plan, places: int) -> list[tuple[list[Trial], int]]:
    """Trials of one program each, with their rounds, in pieces of about equal work."""
    programs = [
        (plan_lib.rounds_of(program), [t for portion in program.portions for t in portion.trials])
        for program in plan.programs
    ]
    work = sum(rounds * len(trials) for rounds, trials in programs)
    target = max(work / (_TASKS_PER_PLACE * places), 1)
    pieces = []
    for rounds, trials in programs:
        count = int(np.clip(-(-rounds * len(trials) // target), 1, len(trials)))
        for part in np.array_split(np.arange(len(trials)), count):
            pieces.append(([trials[i] for i in part], rounds * len(part)))
    return pieces


# ---------------------------------------------------------------- in the process of a task


def _prepare(work: Work) -> None:
    """Sets the process's thread count, memory and compilation cache."""
    os.environ["NPROC"] = str(work.session.cpus)  # the size of XLA's pool of threads
    if 0 < work.session.gpus < 1:  # several processes share one
        fraction = f"{0.9 * work.session.gpus:.2f}"
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
    directory = pathlib.Path(work.directory)
    if directory.is_dir():  # on this machine, or shared; each host its own code
        cache = files.inside(directory, RAYS) / f"compiled-{socket.gethostname()}"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _local(configs: Iterable[Config], work: Work) -> dict[Config, Config]:
    """Configs with the layout and the devices of this machine, which are no part of a key.

    Raises:
      ConfigError: the data are others here than where the driver is.
    """
    configs = set(configs)
    if wrong := identity.other_data(work.data, identity.data_identity(*configs)):
        raise ConfigError("; ".join(wrong))

    def local(config: Config) -> Config:
        layout = config.layout
        if "layout" not in work.options:
            plugin = work.options.get("plugin")
            layout = names.configure(plugin, dataset=config.dataset, model=config.model).layout
        devices = min(config.devices, jax.device_count())
        return dataclasses.replace(config, layout=layout, devices=devices)

    return {config: local(config) for config in configs}


def _run_some(trials: Sequence[tuple[str, Trial]], work: Work) -> dict[str, np.ndarray]:
    """A task: these trials; their outcomes by key."""
    _prepare(work)
    configs = _local((trial.config for _, trial in trials), work)
    keys = {own._replace(config=configs[own.config]): key for key, own in trials}
    plan = plan_lib.plan(list(keys), work.eval_split, together=work.together)
    outcomes, _ = sweep_running.execute(plan)
    return {keys[trial]: sweep_results.packed(own) for trial, own in outcomes.items()}


# ---------------------------------------------------------------- points that may be stopped


class _Judge:
    """A study in a process of its own, which the driver and every task reach."""

    def __init__(self, search: Search, rounds: int):
        self.study = search_lib.study(search, rounds)

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.study, name)(*args)


def study(search: Search, rounds: int) -> Study:
    """As `search.study`, to be called from any process of the session."""
    import ray

    judge = ray.remote(num_cpus=0)(_Judge).remote(search, rounds)
    return Study(*(functools.partial(_ask, judge, name) for name in Study._fields))


def _ask(judge: Any, name: str, *args: Any) -> Any:
    import ray

    return ray.get(judge.call.remote(name, *args))


def score(
    drawn: Mapping[int, Mapping[str, Any]],
    search: Search,
    known: Mapping[str, np.ndarray],
    study: Study,
    work: Work,
    ended: Callable[[int, Mapping[str, np.ndarray], Score], None],
) -> None:
    """Runs points, each of which its scheduler may stop.

    Args:
      drawn: number of a point -> its values.
      search: which draws them.
      known: packed outcomes of trials that are through.
      study: of `study`.
      work: what all tasks share.
      ended: called with a point's number, its packed outcomes by key, and its score.
    """
    numbers, content = list(drawn), plan_lib.content_of(work.data)

    def of_point(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        keys = plan_lib.keys_of(search_lib.sweep_of(search, [values]), content)
        return {key: known[key] for key in keys.values() if key in known}

    _each(
        work.session,
        _score_one,
        [(search, n, drawn[n], of_point(drawn[n]), study, work) for n in numbers],
        lambda place, result: ended(numbers[place], *result),
    )


def _score_one(
    search: Search,
    number: int,
    values: Mapping[str, Any],
    known: Mapping[str, np.ndarray],
    study: Study,
    work: Work,
) -> tuple[dict[str, np.ndarray], Score]:
    """A task: all trials of one point."""
    _prepare(work)
    sweep = search_lib.sweep_of(search, [values])
    (point,) = sweep.points
    (config,) = _local([point.config], work).values()
    sweep = sweep._replace(points=(point._replace(config=config),))
    content, report = plan_lib.content_of(work.data), functools.partial(study.report, number)
    return sweep_running.score(sweep, content, known, report, work.together)
