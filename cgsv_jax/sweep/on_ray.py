"""The same sweep as trials of Ray Tune: on this machine, or on a cluster.

A trial is one process that runs some runs of one program, or one setting of a search, by the same
functions as a sweep without Ray. What it finds out comes back with its reports, and only the driver
writes: a cluster needs no shared folder. Ray's own files are never read back; a sweep that was
stopped goes on from the parts in its directory, whoever made them.

Importing this module does not need Ray; its functions do (extra [ray]).
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import pathlib
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import identity, names
from cgsv_jax.experiment.execute import Look
from cgsv_jax.experiment.task import counts_of
from cgsv_jax.host import files
from cgsv_jax.results.directory import RAYS
from cgsv_jax.results.frames import YARDSTICK, Outcome
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.sweep import search as search_lib
from cgsv_jax.sweep import settings
from cgsv_jax.sweep.plan import Plan, Run
from cgsv_jax.sweep.search import Range
from cgsv_jax.sweep.settings import Sweep

RETRIES = 3  # of a trial whose process dies
# What a search is told of a setting whose criterion is undefined: worse than any that is defined.
WORST = -1000.0
_OBJECT_STORE = 100 * 2**20  # bytes; what goes through it is small
_SECONDS_BETWEEN_REPORTS = 2.0
# Work of a trial: about so many trials per place, so that the last ones are not waited for long.
_TRIALS_PER_PLACE = 2


def share_the_device() -> None:
    """In the driver, before JAX looks at its devices: their memory is for the trials."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    if name not in os.environ:
        os.environ[name] = "false"
        _SET.append(name)


_NAME = __name__
_SET: list[str] = []  # variables of the environment that trials are not to inherit
_LISTENING: list[Callable[[dict], None]] = []


def listen(report: dict[str, Any]) -> None:
    """Hands a trial's report to whoever waits for it.

    Tune copies its callbacks to a file, which one that holds a terminal would not survive: so the
    callback finds the listener here instead of holding it.
    """
    for see in _LISTENING:
        see(report)


def check() -> None:
    """Whether the extra is there.

    Raises:
      ConfigError: it is not.
    """
    missing = [name for name in ("ray", "optuna") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--on ray needs {' and '.join(missing)}, which is not installed: "
            "pip install 'cgsv_jax[ray]'"
        )


class Session(NamedTuple):
    """A connection to Ray: what a trial takes of it, and how many find place at a time."""

    cpus: int
    gpus: float
    places: int


@contextlib.contextmanager
def _session(options: Mapping[str, Any]) -> Iterator[Session]:
    """Connects to Ray for the length of a `with`; one that is started here ends with it."""
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"),  # results come back through reports
        ("TUNE_DISABLE_SIGINT_HANDLER", "1"),  # an interruption is ours to explain
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1"),  # a trial without a GPU sees none
        ("RAY_AIR_NEW_OUTPUT", "0"),
    ):
        os.environ.setdefault(name, value)
    import ray

    # Ray starts its processes by forking; they execute another program at once.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    while _SET:  # for this process alone
        os.environ.pop(_SET.pop(), None)
    address = options["address"]
    started = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        # "local", or Ray would look for one that somebody else has started.
        ray.init(
            address=address or "local",
            logging_level="error",
            log_to_driver=False,
            **({} if address else started),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        sentence = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"--address is {address!r}, Ray says: {sentence}") from error
    try:
        there = ray.cluster_resources()
        gpus, cpus = options["gpus"], options["cpus"]
        gpus = (1.0 if there.get("GPU", 0) >= 1 else 0.0) if gpus is None else gpus
        places = [there.get("CPU", 0) // cpus] + ([there.get("GPU", 0) // gpus] if gpus else [])
        if min(places) < 1:
            raise ConfigError(
                f"--cpus-per-trial is {cpus}, --gpus-per-trial {gpus:g}: Ray has "
                f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
            )
        yield Session(cpus, gpus, int(min(places)))
    finally:
        ray.shutdown()
        shutil.rmtree(_folder(options), ignore_errors=True)


def _folder(options: Mapping[str, Any]) -> pathlib.Path:
    """Where Ray's own files are while it runs."""
    return files.inside(options["directory"], RAYS)


def _fit(
    session: Session,
    options: Mapping[str, Any],
    trainable: Callable,
    see: Callable[[dict], None],
    space: Any,
    **tune_config: Any,
) -> None:
    """Runs trials until there are none left, and hands their reports to `see`.

    Raises:
      RuntimeError: when a trial failed in spite of being started again.
    """
    from ray import tune

    class Reports(tune.Callback):
        """Hands every report on, in the driver; Tune asks for a class."""

        def on_trial_result(self, iteration, trials, trial, result, **rest):
            importlib.import_module(_NAME).listen(result | {"trial": trial.trial_id})

        def on_trial_complete(self, iteration, trials, trial, **rest):
            last = (trial.last_result or {}) | {"trial": trial.trial_id, "ended": True}
            importlib.import_module(_NAME).listen(last)

    _LISTENING[:] = [see]
    folder = _folder(options)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": session.cpus, "gpu": session.gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(**tune_config),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Reports()],
            verbose=0,
        ),
    )
    errors = [str(error) for error in tuner.fit().errors]
    shutil.rmtree(folder / "trials", ignore_errors=True)
    if errors:
        raise RuntimeError(f"{len(errors)} trials failed, the first with: {errors[0]}")


def _prepare(options: Mapping[str, Any]) -> None:
    """In a trial's process, before it computes: its threads, and a memory of compiled code."""
    os.environ["NPROC"] = str(options["cpus"])  # the size of XLA's pool of threads
    if 0 < (options["gpus"] or 0) < 1:  # several processes share one
        fraction = f"{0.9 * options['gpus']:.2f}"
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", fraction)
    directory = pathlib.Path(options["directory"])
    if directory.is_dir():  # on this machine, or shared; each host its own code
        cache = _folder(options) / f"compiled-{socket.gethostname()}"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _run_here(
    runs: Sequence[Run],
    asked: Mapping[str, Any],
    judge: str,
    options: Mapping[str, Any],
    keep: Callable[[dict[Run, Outcome]], None] = lambda done: None,
    looking: Callable[[Plan, dict[Run, Run]], Callable[[Look], None]] | None = None,
) -> dict[Run, Outcome]:
    """Runs of a sweep in this process, with the devices and the layout of this machine.

    The driver may be another kind of machine; neither is a part of what a run is. The data are.

    Raises:
      ConfigError: the data are others here than where the driver is.
    """
    here = {}
    if not runs:
        return {}
    there = identity.data_identity(*(run.config for run in runs))
    if wrong := identity.other_data(options["data"], there):
        raise ConfigError("; ".join(wrong))
    for run in runs:
        config = run.config
        layout = config.layout
        if "layout" not in asked:
            layout = names.configure(dataset=config.dataset, model=config.model).layout
        devices = min(config.devices, jax.device_count())
        config = dataclasses.replace(config, layout=layout, devices=devices)
        here[run._replace(config=config)] = run
    plan = plan_lib.plan(list(here), judge, together=options["together"])
    watch = looking(plan, here) if looking else lambda look: None

    def kept(done: Mapping[Run, Outcome]) -> None:
        keep({here[run]: end for run, end in done.items()})

    ends, _ = sweep_running.execute(plan, watch, kept)
    return {here[run]: end for run, end in ends.items()}


# ---------------------------------------------------------------- the runs of known settings


def execute(
    described: Mapping[str, Any],
    runs: Sequence[Run],
    plan: Plan,
    options: Mapping[str, Any],
    watch: Callable[[str, int, float], None],
    through: Callable[[Mapping[Run, Outcome]], None],
) -> None:
    """Runs what a plan holds as trials.

    Args:
      described: the sweep, as `sweeping.describe` gives it.
      runs: all of its runs, in the order of `sweeping.runs_of`.
      plan: what is to be run of them.
      options: directory, address, cpus, gpus, together, data.
      watch: (name, rounds done, of them per second), called at every report.
      through: called with the ends of runs, of each run of the plan once.
    """
    numbers = {run: number for number, run in enumerate(runs)}
    left = {
        run: plan_lib.rounds_of(program)
        for program in plan.programs
        for portion in program.portions
        for run in portion.runs
    }
    if not left:
        return
    started, whole = time.monotonic(), sum(left.values())

    def see(report: Mapping[str, Any]) -> None:
        done = {}
        for number, end in report.get("rows", ()):
            if (run := runs[number]) in left:
                done[run] = sweep_results.unpacked(end, *counts_of(run.config))
                del left[run]
        through(done)
        done = whole - sum(left.values())
        watch("ray", done, done / (time.monotonic() - started))

    def trial(own: Mapping[str, Any]) -> None:
        _run_some(described, own["runs"], options)

    with _session(options) as session:
        from ray import tune

        portions = [[numbers[run] for run in own] for own in _split(plan, session.places)]
        _fit(session, options, trial, see, {"runs": tune.grid_search(portions)})
    if left:
        raise RuntimeError(f"{len(left)} runs did not come back")


def _split(plan: Plan, places: int) -> list[list[Run]]:
    """Runs of one program each, in pieces of about equal work."""
    work = sum(
        plan_lib.rounds_of(program) * len(portion.runs)
        for program in plan.programs
        for portion in program.portions
    )
    target = max(work / (_TRIALS_PER_PLACE * places), 1)
    pieces = []
    for program in plan.programs:
        own = [run for portion in program.portions for run in portion.runs]
        count = int(np.clip(-(-plan_lib.rounds_of(program) * len(own) // target), 1, len(own)))
        pieces += [[own[i] for i in part] for part in np.array_split(np.arange(len(own)), count)]
    return pieces


def _run_some(
    described: Mapping[str, Any], numbers: Sequence[int], options: Mapping[str, Any]
) -> None:
    """A trial: these runs, reported as they end."""
    from ray import tune

    _prepare(options)
    sweep = settings.described(dict(described))
    runs = plan_lib.runs_of(sweep)
    place = {runs[number]: number for number in numbers}
    # After the death of a process, what it had reported is in the directory, if that is here.
    content = plan_lib.content_of(options["data"])
    keys = {run: plan_lib.key_of(run, sweep.judge, content) for run in place}
    known = sweep_results.parts(options["directory"])
    ends = sweep_results.through(keys, known)
    waiting = [(place[run], known[keys[run]].tolist()) for run in ends]
    last = [time.monotonic()]

    def report() -> None:
        tune.report({"rows": list(waiting)})
        waiting.clear()
        last[0] = time.monotonic()

    def keep(done: Mapping[Run, Outcome]) -> None:
        waiting.extend((place[run], _plain(end)) for run, end in done.items())
        if time.monotonic() - last[0] > _SECONDS_BETWEEN_REPORTS:
            report()

    left = [run for run in place if run not in ends]
    _run_here(left, sweep.asked, sweep.judge, options, keep)
    report()


def _plain(end: Outcome) -> list[float]:
    return sweep_results.packed(end).tolist()


# ---------------------------------------------------------------- a search


def search(
    wanted: Any,
    told: Sequence[Mapping[str, Any]],
    known: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    keep: Callable[[Mapping[str, np.ndarray]], None],
    watch: Callable[[Mapping[str, Any], int], None],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Trials of one setting each, all its seeds and partitions in one program.

    Args:
      wanted: a sweep_cli.Search.
      told: trials that came to an end before.
      known: runs that are through, by their keys, as `sweep_results.parts` reads them.
      options: as in `execute`.
      keep: called with runs that are through, before their trial is.
      watch: called with every trial that comes to an end, and how many there are now.

    Returns:
      All trials, those of before included, and the runs that are through.
    """
    told, ends = [dict(trial) for trial in told], dict(known)
    left = wanted.trials - len(told)
    if left < 1:
        return told, ends
    ended: set[str] = set()

    def see(report: Mapping[str, Any]) -> None:
        rows = {key: np.asarray(end) for key, end in report.get("rows", ()) if key not in ends}
        ends.update(rows)
        keep(rows)
        finished = report.get("finished", False)
        if "values" not in report or not (finished or report.get("ended")):
            return
        if report["trial"] in ended:
            return
        ended.add(report["trial"])
        trial = {
            "values": report["values"],
            "state": "finished" if finished else "stopped",
            "criterion": report["criterion"],
            "rounds": report["rounds"],
        }
        told.append(trial)
        watch(trial, len(told))

    base = {"asked": wanted.asked, "best": wanted.best, "judge": wanted.judge}

    with _session(options) as session:
        common = _common_runs(wanted, ends, options)
        if common:
            plan = plan_lib.plan([run for _, run in common], wanted.judge)
            pieces = [[(key, run) for key, run in common if run in part]
                      for part in _split(plan, session.places)]  # fmt: skip

            def yardstick(own: Mapping[str, Any]) -> None:
                _run_common(pieces[own["piece"]], wanted.asked, wanted.judge, options)

            from ray import tune

            space = {"piece": tune.grid_search(list(range(len(pieces))))}
            _fit(session, options, yardstick, see, space)
        shared = {key: end.tolist() for key, end in ends.items()}

        def trial(point: Mapping[str, Any]) -> None:
            values = point["point"] if wanted.how == "random" else _values(wanted.spaces, point)
            _judge_one(base, values, shared, wanted.scheduler != "none", options)

        space, how = _how(wanted, told, left)
        _fit(session, options, trial, see, space, **how, **_scheduling(wanted, session.places))
    return told, ends


def _common_runs(
    wanted: Any, ends: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> list[tuple[str, Run]]:
    """Runs that all settings share and that are not through: the yardstick's, mostly."""
    points = search_lib.draw(wanted.spaces, 2, wanted.seed)
    sweeps = [
        settings.of_points(wanted.asked, {}, [point], wanted.best, wanted.judge) for point in points
    ]
    first, *others = [plan_lib.runs_of(sweep) for sweep in sweeps]
    both = [
        run
        for run in first
        if run.method.algorithm == YARDSTICK and all(run in own for own in others)
    ]
    content = plan_lib.content_of(options["data"])
    keyed = [(plan_lib.key_of(run, wanted.judge, content), run) for run in both]
    return [(key, run) for key, run in keyed if key not in ends]


def _run_common(
    pieces: Sequence[tuple[str, Run]],
    asked: Mapping[str, Any],
    judge: str,
    options: Mapping[str, Any],
) -> None:
    from ray import tune

    _prepare(options)
    ends = _run_here([run for _, run in pieces], asked, judge, options)
    tune.report({"rows": [(key, _plain(ends[run])) for key, run in pieces]})


def _how(wanted: Any, told: Sequence[Mapping], left: int) -> tuple[Any, dict[str, Any]]:
    """What Tune draws settings from, and how it is told of those that were judged before."""
    from ray import tune

    if wanted.how == "random":
        before = [trial["values"] for trial in told]
        points = search_lib.draw(wanted.spaces, wanted.trials, wanted.seed)
        points = [point for point in points if point not in before]
        return {"point": tune.grid_search(points)}, {}
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = optuna.distributions

    def distribution(space: Range | Sequence[Any]) -> Any:
        if not isinstance(space, Range):  # by its place: layers are no value of Optuna's
            return distributions.CategoricalDistribution(list(range(len(space))))
        kind = distributions.IntDistribution if space.whole else distributions.FloatDistribution
        return kind(space.low, space.high, log=space.log)

    def point(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: values[name] if isinstance(space, Range) else list(space).index(values[name])
            for name, space in wanted.spaces.items()
        }

    # Of a trial that was ended early its last value is told: it was among the bad ones.
    before = [
        (point(trial["values"]), WORST if trial["criterion"] is None else trial["criterion"])
        for trial in told
    ]
    algorithm = OptunaSearch(
        {name: distribution(space) for name, space in wanted.spaces.items()},
        metric="objective",
        mode="max",
        # Going on must not draw the first ones again.
        seed=wanted.seed + len(told),
        points_to_evaluate=[point for point, _ in before] or None,
        evaluated_rewards=[value for _, value in before] or None,
    )
    return None, {"search_alg": algorithm, "num_samples": left}


def _values(spaces: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of Optuna's as values that are run."""
    return {
        name: search_lib.rounded(point[name], space)
        if isinstance(space, Range)
        else space[point[name]]
        for name, space in spaces.items()
    }


def _scheduling(wanted: Any, places: int) -> dict[str, Any]:
    from ray.tune import schedulers

    common = {"metric": "objective", "mode": "max", "time_attr": "rounds"}
    tune_config = {"max_concurrent_trials": places}
    if wanted.scheduler == "asha":
        rounds = wanted.asked.get("rounds") or settings.of_points(
            wanted.asked, {}, search_lib.draw(wanted.spaces, 1, wanted.seed)
        ).settings[0].config.rounds  # fmt: skip
        grace = max(1, rounds // 9)
        tune_config["scheduler"] = schedulers.ASHAScheduler(
            **common, max_t=rounds + 1, grace_period=grace, reduction_factor=3
        )
    if wanted.scheduler == "median":
        tune_config["scheduler"] = schedulers.MedianStoppingRule(
            **common, grace_period=1, min_samples_required=3
        )
    return tune_config


def _judge_one(
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    shared: Mapping[str, list[float]],
    looks: bool,
    options: Mapping[str, Any],
) -> None:
    """A trial: all runs of one setting, its criterion reported as it goes on."""
    from ray import tune

    _prepare(options)
    sweep = settings.of_points(
        base["asked"], {name: (value,) for name, value in values.items()}, [values],
        base["best"], base["judge"],
    )  # fmt: skip
    runs = plan_lib.runs_of(sweep)
    content = plan_lib.content_of(options["data"])
    keys = {run: plan_lib.key_of(run, sweep.judge, content) for run in runs}
    ends = sweep_results.through(keys, shared)
    left = [run for run in runs if run not in ends]
    yardsticks = [run for run in left if run.method.algorithm == YARDSTICK]
    where = sweep.asked, sweep.judge
    ends |= _run_here(yardsticks, *where, options)
    left = [run for run in left if run not in ends]

    def looking(plan: Plan, here: dict[Run, Run]) -> Callable[[Look], None]:
        made = sweep_running.batches(plan)
        single = len(made) == 1 and len(made[0][0].chunks) == 1

        def watch(look: Look) -> None:
            batch, own = made[look.batch]
            rounds = look.done // len(batch.chunks[0].seeds)
            # What follows the last look is the end itself.
            if not (looks and single) or look.evaluation is None or rounds >= batch.rounds:
                return
            now = {here[run]: _so_far(look, place) for place, run in enumerate(own)}
            tune.report(_told(sweep, ends | now) | {"values": dict(values), "rounds": rounds})

        return watch

    # All at once in one program, so that a look is one at the setting and not at one seed.
    whole = {**options, "together": options["together"] or max(len(left), 1)}
    ends |= _run_here(left, *where, whole, looking=looking)
    rows = [(key, _plain(ends[run])) for run, key in keys.items() if key not in shared]
    last = {"values": dict(values), "rounds": sweep.settings[0].config.rounds}
    tune.report(_told(sweep, ends) | last | {"finished": True, "rows": rows})


def _so_far(look: Look, place: int) -> Outcome:
    """A run in its course, by its latest evaluation."""
    seen = look.evaluation
    accuracy, distance = (np.asarray(x)[place, -1] for x in (seen.accuracy, seen.distance))
    nothing = np.zeros(accuracy.shape)
    server = np.asarray(seen.server_accuracy)[place, -1]
    honest = np.ones(accuracy.shape, bool)  # who cheats counts when the run is through
    return Outcome(accuracy, distance, server, *(nothing,) * 7, honest, honest)


def _told(sweep: Sweep, ends: Mapping[Run, Outcome]) -> dict[str, Any]:
    """The criterion of a setting: of its best method, as in the tables."""
    table = sweep_results.frame(sweep_running.rows(sweep, ends), sweep.axes)
    best = sweep_results.judged(table, tuple(sweep.axes), sweep.best).best
    value = None if best is None else best["criterion"]
    return {"criterion": value, "objective": WORST if value is None else value}
