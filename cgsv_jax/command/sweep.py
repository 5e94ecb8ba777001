"""`cgsv sweep`: draws points, plans and executes their trials, and tells the draw.

A grid draws all of its points at once, and so does a random search whose scheduler stops none. Any
other search draws in batches. Trials run here or on Ray; what they gave is kept as they end.
"""

import contextlib
import functools
import math
import os
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich.console import Console

from cgsv_jax.command import stopping, train
from cgsv_jax.config import spelling, validate, variants
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import ranges
from cgsv_jax.experiment import checkpoint
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment.execute import NO_KEEPER, Clock, Keeper, Look
from cgsv_jax.experiment.task import DataIdentity
from cgsv_jax.host import files, terminal
from cgsv_jax.host.terminal import say
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.results import tables
from cgsv_jax.results.frames import YARDSTICK, Outcome
from cgsv_jax.sweep import on_ray
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.sweep import search as search_lib
from cgsv_jax.sweep.options import LISTS, Range, sweepable
from cgsv_jax.sweep.plan import Plan, Trial
from cgsv_jax.sweep.points import Sweep
from cgsv_jax.sweep.search import Score, Search, Study

_SECONDS_BETWEEN_PARTS = 5.0  # what a kill may cost; a file per trial would be many
_OF_RAY = ("address", "cpus_per_task", "gpus_per_task")
_WHERE = ("on", *_OF_RAY, "together", "plugin", "quiet", "no_cache")
_OF_SEARCH = ("points", "batch", "search_seed", "scheduler")


class _Job(NamedTuple):
    """A sweep at work in its directory, here or on Ray."""

    console: Console
    flags: Mapping[str, Any]  # of the sweep itself
    session: on_ray.Session | None  # of Ray; None: here
    directory: pathlib.Path
    begun: bool  # whether another process began it
    data: DataIdentity
    known: dict[str, np.ndarray]  # packed outcomes of trials that are through, by key
    keep: Callable[[Mapping[str, np.ndarray]], None]  # adds to them, here and on the disk
    flush: Callable[[], bool]  # puts all of them on the disk; whether it could
    compiled: dict[Any, dict]  # programs that batches share


def command(flags: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Runs a sweep.

    Args:
      flags: what the points are made of: fields of Config and Method; those that can be swept as
        tuples of values or a Range.
      own: the flags of the sweep itself.

    Raises:
      ValueError: one sentence for each thing that cannot be.
      OSError: a file cannot be read or written.
    """
    _check(flags, own)
    if own.get("on", "local") == "ray":
        on_ray.leave_devices(train.must_have_devices)
    if "resume" in own:
        directory, config = directory_lib.resumable(own["resume"], "sweep")
        with directory_lib.held(directory):
            if directory_lib.state_of(directory) == "finished":
                _follow(directory)  # it may have been killed after its tables
                done = "is finished, there is nothing to go on with"
                say(terminal.console(own.get("quiet", False)), f"the sweep in {directory} {done}")
                return
            with files.naming(directory / "config.json"):
                wanted = _from_file(config, own.get("plugin"))
            _compute(own, wanted, directory)
    elif "config" in own:
        file = files.path_of(own["config"], "--config")
        if file.suffix == ".toml":
            raise ConfigError(
                f"--config is {os.fspath(file)!r}, it must be the config.json of a sweep: a .toml "
                "file describes what run and compare do"
            )
        config = files.read_json(file, edited=terminal.complain)
        with files.naming(file):
            wanted = _from_file(config, own.get("plugin"))
        _compute(own, wanted)
    else:
        _compute(own, _from_flags(flags, own))


def _follow(directory: pathlib.Path) -> list[pathlib.Path]:
    """What follows the tables: the figures, as far as they are missing, and an end to all else."""
    from cgsv_jax.sweep import figures  # now: what is refused need not wait for Matplotlib

    with stopping.written(directory):
        drawn = figures.again(directory, missing=True)
    with stopping.clearing(directory):
        sweep_results.clear(directory)
    return drawn


# ---------------------------------------------------------------- what is wanted


def _check(flags: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """What the flags say of each other, before anything is read."""
    complaints = []
    for source, beside in (("config", {"out", "overwrite"}), ("resume", set())):
        idle = [name for name in (*flags, *own) if name not in {source, *beside, *_WHERE}]
        if source in own and idle:
            names = ", ".join(validate.flag(name) for name in idle)
            complaints.append(f"--{source} is a whole sweep, it cannot be combined with {names}")
    complaints += validate.known("on", own.get("on", "local"), ("local", "ray"))
    if own.get("on", "local") != "ray":
        complaints += [f"{validate.flag(name)} needs --on ray" for name in _OF_RAY if name in own]
    if "search" in own:
        complaints += search_lib.complaints(*_search_of(own))
    elif not {"config", "resume"} & set(own):
        idle = [name for name in _OF_SEARCH if own.get(name, "none") != "none"]
        complaints += [f"{validate.flag(name)} needs --search" for name in idle]
        complaints += [
            f"{validate.flag(name)} is a range, it needs --search"
            for name, value in flags.items()
            if isinstance(value, Range)
        ]
    for name in ("together", "cpus_per_task"):
        complaints += validate.at_least(name, own.get(name, 1), 1)
    gpus = ranges.Interval(0, 64, "[)")
    complaints += validate.number("gpus_per_task", own.get("gpus_per_task", 0), gpus)
    if complaints:
        raise ConfigError("\n".join(complaints))


def _search_of(own: Mapping[str, Any]) -> tuple[str, int, int, int, str]:
    defaults = {"points": 20, "batch": 1, "search_seed": 0, "scheduler": "none"}
    return (own["search"], *(own.get(name, value) for name, value in defaults.items()))


def _from_flags(flags: Mapping[str, Any], own: Mapping[str, Any]) -> Sweep | Search:
    tables = names_lib.tables(own.get("plugin"))
    there = sweepable(tables)
    flags = spelling.spelled(flags, tables)
    if isinstance(sets := flags.get("dataset"), tuple):
        flags |= {"dataset": tuple(map(names_lib.located, sets))}
    options = {n: value for n, value in flags.items() if n not in there}
    spaces = {
        name: value if isinstance(value, Range | tuple) else (value,)
        for name, value in flags.items()
        if name not in options
    }
    if tables.plugin is not None:
        options |= {"plugin": tables.plugin.path, "plugin_sha256": tables.plugin.sha256}
    criteria = own.get("best", "fairness"), own.get("eval_split", "test")
    if "search" not in own:
        return points_lib.grid(options, spaces, *criteria)
    options |= {n: v[0] for n, v in spaces.items() if isinstance(v, tuple) and len(v) == 1}
    spaces = {n: v for n, v in spaces.items() if n not in options}
    search = Search(options, spaces, *_search_of(own), *criteria)
    sampled = search_lib.sampled(search)
    if search.how == "random" and search.scheduler == "none":
        return sampled
    return search._replace(options=sampled.options)


def _from_file(config: Mapping[str, Any], plugin: str | None) -> Sweep | Search:
    read = search_lib if "search" in config else points_lib
    return read.described(config, plugin)


# ---------------------------------------------------------------- running it


def _compute(
    flags: Mapping[str, Any], wanted: Sweep | Search, begun: pathlib.Path | None = None
) -> None:
    """Runs a sweep, or the rest of one, which is held."""
    train.must_have_devices()
    train.keep_compiled(flags.get("no_cache", False), flags.get("quiet", False))
    started = time.perf_counter()
    console = terminal.console(flags.get("quiet", False))
    search = wanted if isinstance(wanted, Search) else None
    sweep = wanted if isinstance(wanted, Sweep) else search_lib.sampled(wanted)
    data = plan_lib.data_of(sweep)
    train.warn_of_other_data(flags.get("config"), data)
    environment = environment_lib.environment() | {"data": data}
    known: dict[str, np.ndarray] = {}
    if begun is not None:
        sweep_results.must_go_on(begun, environment)
        known = sweep_results.parts(begun, terminal.complain)
    with contextlib.ExitStack() as stack:
        session = None
        if flags.get("on", "local") == "ray":
            where = flags.get("address"), flags.get("cpus_per_task", 1), flags.get("gpus_per_task")
            session = stack.enter_context(on_ray.session(*where))
        if begun is None:  # refuses what cannot be, before there is a directory
            missing = plan_lib.trials_of(sweep)
            plan_lib.plan(missing, sweep.eval_split, together=flags.get("together"))
        if search and begun is None and session is not None and "batch" not in flags:
            search = search._replace(batch=session.places)
        config = search_lib.describe(search) if search else points_lib.describe(sweep)
        directory = begun
        if directory is None:
            path = flags.get("out") or directory_lib.fresh(
                "sweep", pathlib.Path(sweep.points[0].config.dataset).stem
            )
            directory = directory_lib.create(path, flags.get("overwrite", False))
            stack.enter_context(directory_lib.held(directory))
        directory_lib.begin(directory, config, environment)
        keep, flush = _keeper(directory, known)
        job = _Job(
            *(console, flags, session, directory, begun is not None, data),
            *(known, keep, flush, {}),
        )

        def finish(sweep: Sweep, config: Mapping[str, Any], spent: Sequence, before: float) -> None:
            seconds = before + time.perf_counter() - started
            timing = {"total_seconds": seconds, "programs": spent}
            _finish(job, sweep, config, environment, timing)

        with _stoppable(job):
            if search is None:
                with _computed(job, sweep) as (spent, before):
                    finish(sweep, config, spent, before)
                return
            sweep, scores = _searched(job, search, sweep)
            finish(sweep, points_lib.describe(sweep) | {"scores": scores}, [], 0.0)


@contextlib.contextmanager
def _computed(
    job: _Job, sweep: Sweep, of_search: bool = False
) -> Iterator[tuple[list[dict[str, Any]], float]]:
    """Computes the trials of a sweep that are not through; its checkpoints stay in the body.

    Yields:
      The seconds of every program, and those that earlier processes took.
    """
    content = plan_lib.content_of(job.data)
    keys = plan_lib.keys_of(sweep, content)
    outcomes = sweep_results.through(keys, job.known, terminal.complain)
    for trial in keys.keys() - outcomes.keys():  # what is known of it is another's
        job.known.pop(keys[trial], None)
    planned, together = None, job.flags.get("together")
    described = points_lib.describe(sweep)
    saved = None
    if job.begun and job.session is None:
        saved = checkpoint.begun_with(job.directory)
    if saved is not None and saved.get("sweep") == described:
        planned, together = _planned(saved)
    missing = [
        trial for trial in keys if (keys[trial] in planned if planned else trial not in outcomes)
    ]
    plan = plan_lib.plan(missing, sweep.eval_split, together=together)
    watching = contextlib.nullcontext(lambda *look, **rest: None)
    if not of_search:
        _announce(job, sweep, plan, len(outcomes))
        watching = terminal.watching(job.console, plan.rounds, "rounds of all trials")
    elif not missing:
        yield [], 0.0
        return
    elif saved is not None and planned is None:  # it is of another batch
        directory_lib.remove_checkpoints(job.directory)

    if job.session is not None:
        with watching as watch:
            task = _work(job, job.session, sweep.options, sweep.eval_split)
            on_ray.execute(plan, keys, task, watch, job.keep)
        job.flush()
        yield [], 0.0
        return

    def through(done: Mapping[Trial, Outcome]) -> None:
        job.keep({keys[trial]: sweep_results.packed(own) for trial, own in done.items()})

    before = [0.0]  # seconds of those processes whose clocks the checkpoint has

    def work(keeper: Keeper | None, see: Callable[[Look], None]) -> list[Clock]:
        keeper = keeper or NO_KEEPER

        def save(*what: Any) -> None:
            if job.flush():  # what is through first: the checkpoint counts on it
                keeper.save(*what)

        def restore(*what: Any) -> Any:
            kept = keeper.restore(*what)
            before[:] = [sum(clock.elapsed for clock in kept.clocks)] if kept else [0.0]
            return kept

        with watching as watch:
            look = _looking(plan, see, watch)
            mine = keeper._replace(save=save, restore=restore)
            _, clocks = sweep_running.execute(plan, look, through, mine, job.compiled)
            # What the checkpoint counts on may have been damaged since.
            if lost := [trial for trial in keys if keys[trial] not in job.known]:
                sweep_running.execute(plan_lib.plan(lost, sweep.eval_split), see, through)
            return clocks

    def identity() -> dict[str, Any]:
        trials = [keys[trial] for trial in missing]
        return {"sweep": described, "trials": trials, "together": together, "data": content}

    every = max((p.config.checkpoint_every or 0 for p in sweep.points), default=0) or None
    with stopping.kept(job.console, job.directory, identity, every, work) as (clocks, _):
        job.flush()
        names = [program.name for program in plan.programs for _ in program.portions]
        spent = [
            {"program": n, "compile_seconds": c.compiling, "run_seconds": c.running}
            for n, c in zip(names, clocks, strict=False)
        ]
        yield spent, before[0]


def _planned(saved: Mapping[str, Any]) -> tuple[set[str] | None, int | None]:
    """Which trials stood in the plan of a checkpoint's call, and how many were of a call."""
    planned, together = saved.get("trials"), saved.get("together")
    if not isinstance(planned, list) or validate.at_least("together", together or 1, 1):
        return None, None
    return set(map(str, planned)), together


def _work(
    job: _Job, session: on_ray.Session, options: Mapping[str, Any], eval_split: str
) -> on_ray.Work:
    directory, together = str(job.directory.absolute()), job.flags.get("together")
    return on_ray.Work(directory, job.data, eval_split, dict(options), together, session)


@contextlib.contextmanager
def _stoppable(job: _Job) -> Iterator[None]:
    """Keeps what is through, however the body ends; who stops it is told how to go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        words = ["cgsv", "sweep", "--resume", str(job.directory)]
        for name in ("on", *_OF_RAY):
            words += [validate.flag(name), str(job.flags[name])] if name in job.flags else []
        raise KeyboardInterrupt(f"interrupted; go on with: {shlex.join(words)}") from stopped
    finally:
        job.flush()


def _keeper(
    directory: pathlib.Path, known: dict[str, np.ndarray]
) -> tuple[Callable[[Mapping[str, np.ndarray]], None], Callable[[], bool]]:
    """Keeps what is through in files, every few seconds; and writes what is left, if it can."""
    waiting: dict[str, np.ndarray] = {}
    last, failure = [time.monotonic()], [""]

    def flush() -> bool:
        last[0] = time.monotonic()
        try:
            sweep_results.add_part(directory, waiting)
        except OSError as error:
            if str(error) != failure[0]:  # not the same sentence after every trial
                terminal.complain(f"{error}. The sweep goes on, and tries again.")
            failure[0] = str(error)
            return False
        waiting.clear()
        return True

    def keep(done: Mapping[str, np.ndarray]) -> None:
        known.update(done)
        waiting.update(done)
        if time.monotonic() - last[0] > _SECONDS_BETWEEN_PARTS:
            flush()

    return keep, flush


# ---------------------------------------------------------------- a search


def _searched(job: _Job, search: Search, sample: Sweep) -> tuple[Sweep, list[Score]]:
    """Draws points, runs them and tells the study, until there are as many as are wanted.

    Whoever goes on with it draws the same points again, most of which are through.

    Args:
      job: the sweep at work.
      search: the search.
      sample: points of it, at random.

    Returns:
      The points that came to their end as a sweep, and the scores of all.

    Raises:
      ConfigError: no point came to its end.
    """
    make = search_lib.study if job.session is None else on_ray.study
    study = make(search, sample.points[0].config.rounds)
    scheduled = search.scheduler != "none"
    before = sweep_results.scores(job.directory, terminal.complain) if job.begun else []
    scores: list[Score] = []
    say(
        job.console,
        f"search: {search.how}, {search.points} points, by {search.best}, "
        f"scheduler {search.scheduler}",
    )
    for name, space in search.spaces.items():
        say(job.console, f"{name:>14}  {_space(space)}")
    with terminal.watching(job.console, search.points, "points") as watch:
        while drawn := study.ask(min(search.batch, search.points - len(scores))):
            first, batch = len(scores), _scheduled if scheduled else _batch
            scored = batch(job, search, study, dict(enumerate(drawn, first)), before)
            for number in range(first, first + len(drawn)):
                score = scored[number]
                study.tell(number, score)
                scores.append(score)
                value = score["criterion"]
                text = f"{points_lib.in_words(score['values'])}: {score['state']}, "
                text += "undefined" if value is None else f"{value:.4g}"
                watch("search", len(scores), state=text, now=True)
    finished = [score["values"] for score in scores if score["state"] == "finished"]
    if len(finished) < len(scores):
        stopped = len(scores) - len(finished)
        say(job.console, f"{stopped} points were stopped early; they are in config.json")
    if not finished:
        raise ConfigError("no point came to its end")
    return search_lib.sweep_of(search, finished), scores


def _batch(
    job: _Job,
    search: Search,
    study: Study,
    drawn: Mapping[int, Mapping[str, Any]],
    before: Sequence[Score],
) -> dict[int, Score]:
    """Runs points to their end, as a sweep."""
    with _computed(job, search_lib.sweep_of(search, [*drawn.values()]), of_search=True):
        pass
    scored = {}
    for number, values in drawn.items():
        sweep = search_lib.sweep_of(search, [values])
        keys = plan_lib.keys_of(sweep, plan_lib.content_of(job.data))
        value = sweep_running.criterion(sweep, sweep_results.through(keys, job.known))
        scored[number] = Score(values=dict(values), state="finished", criterion=value, looks=[])
    return scored


def _scheduled(
    job: _Job,
    search: Search,
    study: Study,
    drawn: Mapping[int, Mapping[str, Any]],
    before: Sequence[Score],
) -> dict[int, Score]:
    """Runs points, each of which the scheduler may stop."""
    content, scored = plan_lib.content_of(job.data), {}
    for number, values in drawn.items():
        keys = plan_lib.keys_of(search_lib.sweep_of(search, [values]), content)
        through = set(keys.values()) <= job.known.keys()
        if (score := _score_before(before, values, through)) is not None:
            scored[number] = score
            for look in score["looks"]:
                study.report(number, *look)

    def ended(number: int, rows: Mapping[str, np.ndarray], score: Score) -> None:
        job.keep(rows)
        scored[number] = score
        if job.flush():  # its trials first: a score counts on them
            try:
                sweep_results.add_score(job.directory, score)
            except OSError as error:
                terminal.complain(str(error))

    left = {number: values for number, values in drawn.items() if number not in scored}
    if job.session is not None:
        work = _work(job, job.session, search.options, search.eval_split)
        on_ray.score(left, search, job.known, study, work, ended)
        return scored
    for number, values in left.items():
        sweep = search_lib.sweep_of(search, [values])
        report = functools.partial(study.report, number)
        how = job.flags.get("together"), job.compiled
        ended(number, *sweep_running.score(sweep, content, job.known, report, *how))
    return scored


def _score_before(
    before: Sequence[Score], values: Mapping[str, Any], through: bool
) -> Score | None:
    """The score of a point that an earlier process wrote, where it can be of it.

    Args:
      before: all that earlier processes wrote.
      values: of the point.
      through: whether all of its trials are.
    """
    for score in before:
        numbers = [score["criterion"], *(value for _, value in score["looks"])]
        sound = all(math.isfinite(value or 0) for value in numbers)
        if sound and score["values"] == values and (through or score["state"] == "stopped"):
            own = score["state"], score["criterion"], score["looks"]
            return Score(values=dict(values), state=own[0], criterion=own[1], looks=own[2])
    return None


def _space(space: Range | Sequence[Any]) -> str:
    if not isinstance(space, Range):
        return ", ".join(map(points_lib.shown, space))
    return f"{space.low:g} to {space.high:g}" + (", by magnitude" if space.log else "")


# ---------------------------------------------------------------- what it ends in


def _finish(
    job: _Job,
    sweep: Sweep,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> None:
    """Tables, figures, and what a person wants to know."""
    keys = plan_lib.keys_of(sweep, plan_lib.content_of(job.data))
    outcomes = sweep_results.through(keys, job.known, terminal.complain)
    rows = sweep_running.rows(sweep, outcomes)
    table = sweep_results.frame(rows, sweep.axes)
    first = sweep_results.first_points(table, tuple(sweep.axes), sweep.best)
    rows = sweep_running.with_intervals(rows, sweep, outcomes, first)
    table = sweep_results.frame(rows, sweep.axes)
    ranking = sweep_results.ranking(table, tuple(sweep.axes), sweep.best)
    if (best := ranking.best) is not None:
        ranking = ranking._replace(best=best | {"command": _command_line(sweep, best)})
    with stopping.written(job.directory):
        sweep_results.write(job.directory, config, environment, timing, table, ranking)
    points, lines = sweep_results.report(sweep, table, ranking)
    job.console.print()
    job.console.print(points)
    for line in lines:
        say(job.console, line)
    drawn = _follow(job.directory)
    compiling = sum(program["compile_seconds"] for program in timing["programs"])
    spent = f", {compiling:.1f} s of them compiling" if timing["programs"] else ""
    say(job.console, f"\n{timing['total_seconds']:.1f} s in all{spent}")
    where = f"{len(drawn)} figures in {job.directory / directory_lib.FIGURES}"
    say(job.console, f"results: {job.directory}  ({where})")


def _command_line(sweep: Sweep, best: Mapping[str, Any]) -> str:
    """What runs the best point beside the standalone baseline."""
    point = sweep.points[best["point"]]
    words = ["cgsv", "compare"]
    options = dict(sweep.options) | point.values
    options.pop("plugin_sha256", None)
    method = best["method"]
    options["algorithms"] = (YARDSTICK, method) if method != YARDSTICK else (method,)
    seeds = point.config.seeds
    options["seeds"] = len(seeds) if seeds == tuple(range(len(seeds))) else seeds
    # In one order: a repeated sweep says the same.
    there = names_lib.tables(options.get("plugin"))
    # What other methods of the sweep read would be refused beside these alone.
    mine = [own for own in point.config.methods if own.name in options["algorithms"]]
    read = {name for own in mine for name in own.values.keys() - _in_brackets(own.name)}
    options = {k: v for k, v in options.items() if k in read or k not in there.options}
    order = (*LISTS, "plugin", *sweepable(there))
    for name in sorted(options, key=lambda n: (order.index(n) if n in order else len(order), n)):
        value = options[name]
        if value is True:
            words.append(validate.flag(name))
        elif isinstance(value, tuple) or name in LISTS:
            several = value if isinstance(value, tuple) else (value,)
            # One seed is a list of it: a number says how many there are.
            alone = "," if name == "seeds" and len(several) == 1 and value is several else ""
            words += [validate.flag(name), ",".join(map(str, several)) + alone]
        elif value is not False:
            words += [validate.flag(name), points_lib.shown(value)]
    return shlex.join(words)


def _in_brackets(method: str) -> set[str]:
    """The options that a method says in its own name."""
    try:
        return {name for name, _ in variants.read(method).options}
    except ValueError:  # a name of one's own
        return set()


# ---------------------------------------------------------------- what is seen


def _announce(job: _Job, sweep: Sweep, plan: Plan, known: int) -> None:
    first = sweep.points[0].config
    sizes = {"method": sweep.shown, "partition": first.partitions, "seed": first.seeds}
    sizes |= {"draw": first.draws} if len(first.draws) > 1 else {}
    points = [_count(len(sweep.points), "point"), *(_count(len(x), n) for n, x in sizes.items())]
    lines = {"data set": f"{first.dataset}, model {first.model}", "sweep": " x ".join(points)}
    for name, values in sweep.axes.items():
        text = ", ".join(map(points_lib.shown, values[:12]))
        lines[name.replace("_", " ")] = text + (f", ... ({len(values)})" if values[12:] else "")
    fixed = {k: v for k, v in sweep.options.items() if k not in LISTS}
    lines |= {"fixed": points_lib.in_words(fixed)} if fixed else {}
    if YARDSTICK not in sweep.shown:
        lines["baseline"] = "standalone, once per set of training options, partition and seed"
    wide = max(map(len, lines))
    for name, text in lines.items():
        say(job.console, f"{name:>{wide}}  {text}")
    rows = []
    for program in plan.programs:
        count = sum(len(portion.trials) for portion in program.portions)
        calls = sum(-(-len(portion.trials) // program.size) for portion in program.portions)
        names = dict.fromkeys(n for p in program.portions for n in p.world.partitions)
        rows.append(
            {
                "program": program.name,
                "partitions": ", ".join(names),
                "trials": f"{count:,}",
                "calls": f"{calls:,}",
                "trials per call": f"{program.size:,}",
                "memory per call": _bytes(program.memory),
            }
        )
    notes = [
        f"{_count(plan.num_trials, 'trial')} by {_count(len(rows), 'program')}, each compiled once",
        f"of {_bytes(plan.budget)} of memory",
        *sweep_results.on_validation(sweep),
    ]
    notes += ["calls as on this machine; tasks go by their own"] if job.session else []
    notes += [f"{known:,} further trials are through already"] if known else []
    if rows:
        job.console.print(tables.Report(pl.DataFrame(rows), "Plan", notes))
    else:
        say(job.console, notes[-1])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _looking(
    plan: Plan, see: Callable[[Look], None], watch: Callable[..., None]
) -> Callable[[Look], None]:
    """What is called with a look at a batch, which is a portion of the plan."""
    names, before = [], [0]
    for program in plan.programs:
        for portion in program.portions:
            names.append(program.name)
            padded = program.size * -(-len(portion.trials) // program.size)
            before.append(before[-1] + plan_lib.rounds_of(program) * padded)

    def look(look: Look) -> None:
        see(look)
        done = before[look.batch] + look.done
        state, now = "compiling" if look.compiling else "", look.compiling or done == plan.rounds
        watch(names[look.batch], done, look.pace, state, now)

    return look
