"""Numbers of a run for TensorBoard, Weights & Biases and MLflow, while it computes.

A tracker is two functions. Those below write under a folder of their own, from which everything is
written anew when a run is gone on with: what an earlier process computed is shown once more, so
that no step is missing and none is there twice. A tracker of one's own is handed to
`experiment.run(track=...)`:

>>> import cgsv_jax as cg
>>> tracker = cg.tracking.Tracker(log=lambda run, step, numbers: print(run.method, step))
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment.bind import Bound
from cgsv_jax.experiment.execute import Seen
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames
from cgsv_jax.types import Evaluation

Show = Callable[[int, int, np.ndarray, Seen, np.ndarray], None]

CLIENTS = 30  # of more clients no single one is tracked


class Run(NamedTuple):
    """Whose numbers these are: one seed of a method on one draw of a partition."""

    partition: str
    method: str
    partition_seed: int
    seed: int

    @property
    def name(self) -> str:
        """With slashes, by which the trackers' own pages group them."""
        return f"{self.partition}/{self.method}/draw {self.partition_seed}/seed {self.seed}"


class Tracker(NamedTuple):
    """Where numbers go while they come."""

    log: Callable[[Run, int, Mapping[str, float]], None]  # the step is the rounds completed
    finish: Callable[[], None] = lambda: None


def numbers_of(
    evaluation: Evaluation,
    reputation: np.ndarray,
    alone: np.ndarray | None = None,
    chosen: np.ndarray | None = None,
) -> dict[str, float]:
    """What is tracked of one evaluation of one run: accuracies as shares, fairness as everywhere.

    Args:
      evaluation: of one moment, leaves [K] or [].
      reputation: [N] of the same round.
      alone: [2, K] accuracies and losses of the standalone baseline; None: not known.
      chosen: [K] numbers of the clients that are evaluated; None: all N.
    """
    accuracy, loss = np.asarray(evaluation.accuracy), np.asarray(evaluation.loss)
    found = {
        "accuracy/mean": accuracy.mean(dtype=np.float64),
        "accuracy/max": accuracy.max(),
        "accuracy/min": accuracy.min(),
        "accuracy/server": evaluation.server_accuracy,
        "test_loss/mean": loss.mean(dtype=np.float64),
    }
    if evaluation.validation_accuracy is not None:
        found["accuracy/validation"] = np.mean(evaluation.validation_accuracy, dtype=np.float64)
    if evaluation.own_accuracy is not None:
        found["accuracy/own"] = frames.known_mean(evaluation.own_accuracy)
    if alone is not None:
        judged = frames.judged(alone, np.stack([accuracy, loss])[None])
        found |= {name: judged[name][0] for name in frames.JUDGED}
    if len(reputation) <= CLIENTS:
        numbers = range(len(accuracy)) if chosen is None else chosen
        found |= {f"accuracy/client_{n}": x for n, x in zip(numbers, accuracy, strict=True)}
        found |= {f"reputation/client_{n}": x for n, x in enumerate(reputation)}
    return {name: float(x) for name, x in found.items() if np.isfinite(x)}


def following(bounds: Sequence[Bound], trackers: Sequence[Tracker]) -> Show:
    """Hands every evaluation to the trackers, once for each run; see `execute.execute`.

    Fairness is against the evaluation of the standalone baseline that counts so far: its end, where
    it runs before the others.
    """
    if not trackers:
        return lambda *seen: None
    behind: dict[tuple[int, int], int] = {}  # rounds that were shown of a chunk
    ends_alone: dict[tuple[str, int, int], np.ndarray] = {}

    def show(batch: int, chunk: int, seeds: np.ndarray, seen: Seen, ends: np.ndarray) -> None:
        bound, (record, evaluation, counted) = bounds[batch], seen
        first = behind.get((batch, chunk), 0)
        behind[batch, chunk] = first + record.reputation.shape[1]
        rounds = np.asarray(evaluation.round)
        for place, at in np.argwhere(rounds > 0):  # after the end of a run there is none
            step, last = int(rounds[place, at]), int(ends[place])
            if 0 < last < step:
                continue
            task = bound.task
            run = Run(task.partition, bound.name, task.partition_seed, int(seeds[place]))
            one = jax.tree.map(lambda x, p=place, a=at: x[p, a], evaluation)
            where = run.partition, run.partition_seed, run.seed
            if run.method == frames.YARDSTICK and (
                counted is None or counted.round[place] in (step, 0)
            ):
                ends_alone[where] = np.stack([one.accuracy, one.loss])
            alone = None if run.method == frames.YARDSTICK else ends_alone.get(where)
            reputation = np.asarray(record.reputation)[place, step - first - 1]
            numbers = numbers_of(one, reputation, alone, task.chosen)
            for tracker in trackers:
                tracker.log(run, step, numbers)

    return show


# ---------------------------------------------------------------- where they go


def must_have(names: Sequence[str]) -> None:
    """Refuses trackers whose package is not there, before anything is computed.

    Raises:
      ConfigError: which is missing, and how to have it.
    """
    lacking = {name: package for name, package in PACKAGES.items() if name in names}
    lines = [
        f"--track {name} needs {package}, which is not installed: pip install {package} "
        f"(or the extra [{name}])"
        for name, package in lacking.items()
        if importlib.util.find_spec(package) is None
    ]
    if lines:
        raise ConfigError("\n".join(lines))


@contextlib.contextmanager
def opened(
    names: Sequence[str],
    directory: files.Path,
    about: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Iterator[tuple[Tracker, ...]]:
    """The trackers of a run directory, each with a folder there; they are finished at the end.

    Nothing that goes wrong in them ends a run: it is said once, and that tracker follows no more.

    Args:
      names: of TRACKERS.
      directory: the run directory, which is held.
      about: what their pages say of the experiment.
      warn: called with a sentence.
    """
    made = []
    for name in dict.fromkeys(names):
        folder = files.inside(directory, directory_lib.TRACKING, name)

        def build(name: str = name, folder: pathlib.Path = folder) -> Tracker:
            files.remove(folder)
            folder.mkdir(parents=True)
            return TRACKERS[name](folder, about)

        made.append(guarded(name, build, warn))
    try:
        yield tuple(made)
    finally:
        for tracker in made:
            tracker.finish()


def guarded(name: str, build: Callable[[], Tracker], warn: Callable[[str], None]) -> Tracker:
    """A tracker whose first failure is said, and its last.

    Args:
      name: of the tracker.
      build: makes it, when it is first needed.
      warn: called with a sentence.
    """
    tracker: Tracker | None = None
    failed = False

    def tried(call: Callable[[], Any]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            call()
        except Exception as error:  # whatever a stranger's package raises
            failed = True
            warn(f"{name} is given up ({files.reason_of(error)}); the run goes on without it")

    def log(run: Run, step: int, numbers: Mapping[str, float]) -> None:
        def call() -> None:
            nonlocal tracker
            tracker = build() if tracker is None else tracker
            tracker.log(run, step, numbers)

        tried(call)

    def finish() -> None:
        if tracker is not None:
            tried(tracker.finish)

    return Tracker(log, finish)


def tensorboard(folder: files.Path, about: Mapping[str, Any] | None = None) -> Tracker:
    """Event files that `tensorboard --logdir FOLDER` shows, a run of its own for every seed.

    Args:
      folder: where; parents are made as needed.
      about: shown as text.
    """
    from tensorboardX import SummaryWriter

    writers: dict[Run, Any] = {}

    def log(run: Run, step: int, numbers: Mapping[str, float]) -> None:
        for other in [own for own in writers if own[:3] != run[:3]]:  # a thread each
            writers.pop(other).close()
        if run not in writers:
            writers[run] = SummaryWriter(os.path.join(folder, run.name))
            if about:
                writers[run].add_text("config", f"    {files.json_text(about)}")
        for name, value in numbers.items():
            writers[run].add_scalar(name, value, step)
        writers[run].flush()

    def finish() -> None:
        for writer in writers.values():
            writer.close()

    return Tracker(log, finish)


def wandb(folder: files.Path, about: Mapping[str, Any] | None = None) -> Tracker:
    """Runs of Weights & Biases, one for every seed, in the group of their directory.

    Offline, unless WANDB_MODE says otherwise; `wandb sync` uploads them. WANDB_PROJECT names the
    project.

    Args:
      folder: where offline runs lie.
      about: their config.
    """
    import wandb as library  # pyright: ignore[reportMissingImports]

    path = pathlib.Path(folder).absolute()
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    offline = mode == "offline"  # where a run has no past that could be found
    runs: dict[Run, Any] = {}

    def begun(run: Run) -> Any:
        # By its name a run that is gone on with is found again, and steps that it has are ignored.
        quiet = library.Settings(silent=True, console="off", disable_git=True, save_code=False)
        return library.init(
            project=os.environ.get("WANDB_PROJECT", "cgsv_jax"),
            dir=path,
            name=run.name,
            group=path.parent.parent.name,
            config={**(about or {}), **run._asdict()},
            mode=mode,
            settings=quiet,
            reinit="create_new",
            id=None if offline else files.digest_of([str(path), *run])[:16],
            resume=None if offline else "allow",
        )

    def log(run: Run, step: int, numbers: Mapping[str, float]) -> None:
        for other in [own for own in runs if own[:3] != run[:3]]:
            runs.pop(other).finish()
        if run not in runs:
            runs[run] = begun(run)
        runs[run].log(dict(numbers), step=step)

    def finish() -> None:
        for own in runs.values():
            own.finish()

    return Tracker(log, finish)


def mlflow(folder: files.Path, about: Mapping[str, Any] | None = None) -> Tracker:
    """Runs of MLflow, one for every seed, in an experiment that has the name of their directory.

    In the file mlflow.db, unless MLFLOW_TRACKING_URI says otherwise;
    `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows them.

    Args:
      folder: where mlflow.db lies.
      about: their parameters.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow.entities import Metric, Param, RunStatus, RunTag  # pyright: ignore[reportMissingImports]
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    path = pathlib.Path(folder).absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    title, started = path.parent.parent.name, {}
    mark = files.digest_of(str(path))[:16]  # of this directory, whatever else has its name

    @functools.cache
    def experiment() -> str:
        found = client.get_experiment_by_name(title)
        if found is None:
            return client.create_experiment(title, artifact_location=path.as_uri())
        before = client.search_runs([found.experiment_id], f"tags.cgsv_jax = '{mark}'")
        for own in before:  # of an earlier process: what it had is shown again
            client.delete_run(own.info.run_id)
        return found.experiment_id

    def begun(run: Run) -> str:
        tags = {"cgsv_jax": mark}
        made = client.create_run(experiment(), run_name=run.name, tags=tags).info.run_id
        known = {**(about or {}), **run._asdict()}
        params = [Param(key, str(value)[:500]) for key, value in known.items()]
        client.log_batch(made, params=params, tags=[RunTag(k, v) for k, v in tags.items()])
        return made

    def log(run: Run, step: int, numbers: Mapping[str, float]) -> None:
        if run not in started:
            started[run] = begun(run)
        now = int(1000 * time.time())
        client.log_batch(started[run], [Metric(n, x, now, step) for n, x in numbers.items()])

    def finish() -> None:
        for own in started.values():
            client.set_terminated(own, RunStatus.to_string(RunStatus.FINISHED))

    return Tracker(log, finish)


# By the names of `schema.TRACKERS`: what makes them, and what they need.
TRACKERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
