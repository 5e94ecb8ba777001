"""What `cgsv sweep` shows and writes; its flags are in cli.py."""

import contextlib
import math
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypedDict

import numpy as np
import polars as pl
from rich.console import Console

from cgsv_jax.config import validate
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import ranges
from cgsv_jax.experiment import checkpoint
from cgsv_jax.experiment.execute import Clock, Keeper, Look
from cgsv_jax.host import files, terminal
from cgsv_jax.host.terminal import say
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.results import tables
from cgsv_jax.results.frames import YARDSTICK, Outcome
from cgsv_jax.sweep import figures as sweep_figures
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.sweep import search as search_lib
from cgsv_jax.sweep import settings as settings_lib
from cgsv_jax.sweep.plan import Plan, Run
from cgsv_jax.sweep.search import Range
from cgsv_jax.sweep.settings import LISTS, Sweep

_SECONDS_BETWEEN_PARTS = 5.0  # what a kill may cost; a file per run would be many
_OF_RAY = ("address", "cpus_per_trial", "gpus_per_trial", "scheduler")
_WHERE = ("on", *_OF_RAY, "together", "quiet")


class Border(NamedTuple):
    """What the command does for whoever computes something long, see cli.py."""

    ready: Callable[[], None]  # refuses where JAX has no device
    beside: Callable[[str | None, Any], None]  # warns of other data than those beside a config
    # (console, directory, settings, every, work) -> a context of what was computed
    kept: Callable[..., AbstractContextManager[tuple[Any, Any]]]
    written: Callable[[pathlib.Path], AbstractContextManager[None]]  # in it, results are written


class Search(NamedTuple):
    """A search whose settings are not known before it runs."""

    asked: dict[str, Any]
    spaces: dict[str, dict | list | Any]  # name -> Range, or values
    how: str
    trials: int
    seed: int
    scheduler: str
    best: str
    judge: str


class _Job(NamedTuple):
    """What a sweep is run by, whatever it is."""

    console: Console
    own: Mapping[str, Any]  # the flags of the sweep itself
    begun: pathlib.Path | None  # the directory of a sweep that is gone on with; it is held
    ray: Any  # ray_sweep, where that runs it
    border: Border


def command(flags: Mapping[str, Any], own: Mapping[str, Any], border: Border) -> None:
    """Runs a sweep.

    Args:
      flags: what the settings are made of: fields of Config and Method; those that can be swept as
        tuples of values or a Range.
      own: the flags of the sweep itself.
      border: of the command.

    Raises:
      ValueError: one sentence for each thing that cannot be.
      OSError: a file cannot be read or written.
    """
    _check(flags, own)
    ray = None
    if own.get("on", "local") == "ray":
        from cgsv_jax.sweep import on_ray as ray  # its own libraries are optional

        ray.check()
        ray.share_the_device()
    console = terminal.console(own.get("quiet", False))

    def go(wanted: Sweep | Search, begun: pathlib.Path | None = None) -> None:
        border.ready()
        run = _search if isinstance(wanted, Search) else _grid
        run(_Job(console, own, begun, ray, border), wanted)

    if "resume" in own:
        directory, config = sweep_results.open_again(own["resume"])
        with directory_lib.held(directory):
            if not sweep_results.is_sweep(directory):
                with files.naming(directory / "config.json"):
                    wanted = _from_file(config, own)
                go(wanted, directory)
                return
            _follow(border, directory)  # it may have been killed after its tables
            done = "is finished, there is nothing to go on with"
            say(console, f"the sweep in {directory} {done}")
    elif "config" in own:
        file = files.path_of(own["config"], "--config")
        config = files.read_json(file, edited=terminal.complain)
        with files.naming(file):
            wanted = _from_file(config, own)
        go(wanted)
    else:
        go(_from_flags(flags, own))


def _follow(border: Border, directory: pathlib.Path) -> list[pathlib.Path]:
    """What follows the tables: the figures, as far as they are missing, and an end to all else."""
    with border.written(directory):
        drawn = sweep_figures.again(directory, missing=True)
    try:
        with directory_lib.writing(directory):
            sweep_results.clear(directory)
    except OSError as error:  # nothing is missing, there is too much
        terminal.complain(str(error))
    return drawn


def _check(flags: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """What the flags say of each other, before anything is read."""
    complaints = []
    for source in ("config", "resume"):
        if source not in own:
            continue
        allowed = {source, "out", "overwrite", *_WHERE} - (
            {"out", "overwrite"} if source == "resume" else set()
        )
        idle = [name for name in (*flags, *own) if name not in allowed]
        if idle:
            names = ", ".join(validate.flag(name) for name in idle)
            complaints.append(f"--{source} is a whole sweep, it cannot be combined with {names}")
    complaints += validate.known("on", own.get("on", "local"), ("local", "ray"))
    complaints += validate.known("scheduler", own.get("scheduler", "none"), search_lib.SCHEDULERS)
    if "search" in own:
        complaints += validate.known("search", own["search"], search_lib.SEARCHES)
    elif not {"config", "resume"} & set(own):
        for name in ("trials", "search_seed"):
            if name in own:
                complaints.append(f"--{name.replace('_', '-')} does nothing without --search")
        for name, value in flags.items():
            if isinstance(value, Range):
                complaints.append(f"{validate.flag(name)} is a range, it needs --search")
    for name, least in (("trials", 1), ("search_seed", 0), ("together", 1), ("cpus_per_trial", 1)):
        if name in own:
            wrong = validate.at_least(name, own[name], least)
            if name == "trials" and not wrong and own[name] > settings_lib.MAX_SETTINGS:
                wrong = [f"--trials is {own[name]}, it must be at most {settings_lib.MAX_SETTINGS}"]
            complaints += wrong
    if "gpus_per_trial" in own:
        allowed = ranges.Interval(0, 64, "[)")
        complaints += validate.number("gpus_per_trial", own["gpus_per_trial"], allowed)
    if own.get("scheduler", "none") != "none" and "search" not in own:
        complaints += [] if {"config", "resume"} & set(own) else ["--scheduler needs --search"]
    if own.get("on", "local") != "ray":
        idle = [name for name in _OF_RAY if name in own and own[name] != "none"]
        idle += ["search"] if own.get("search") == "optuna" else []
        complaints += [f"{validate.flag(name)} needs --on ray" for name in idle]
    if complaints:
        raise ConfigError("\n".join(complaints))


def _from_flags(flags: Mapping[str, Any], own: Mapping[str, Any]) -> Sweep | Search:
    asked, spaces = {}, {}
    for name, value in flags.items():
        several = name in settings_lib.SWEEPABLE
        if not several:
            asked[name] = value
        elif isinstance(value, Range | tuple):
            spaces[name] = value
        else:
            spaces[name] = (value,)
    criteria = own.get("best", "fairness"), own.get("judge", "test")
    if "search" not in own:
        return settings_lib.sweep(asked, spaces, *criteria)
    asked |= {n: v[0] for n, v in spaces.items() if isinstance(v, tuple) and len(v) == 1}
    spaces = {n: v for n, v in spaces.items() if n not in asked}
    how = own["search"], own.get("trials", 20), own.get("search_seed", 0)
    search = Search(asked, spaces, *how, own.get("scheduler", "none"), *criteria)
    drawn = _drawn(search)
    if search.how == "random" and search.scheduler == "none":
        return drawn
    return search._replace(asked=drawn.asked)


def _drawn(search: Search) -> Sweep:
    """What a random search runs; what another one will draw is of the same ranges.

    Raises:
      ConfigError: a setting cannot be.
    """
    lists = {n: s for n, s in search.spaces.items() if not isinstance(s, Range)}
    if wrong := [line for n, s in lists.items() for line in validate.distinct(n, s)]:
        raise ConfigError("\n".join(wrong))
    points = search_lib.draw(search.spaces, search.trials, search.seed)
    return settings_lib.of_points(search.asked, _axes_of(points), points, search.best, search.judge)


def _axes_of(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple]:
    names = sorted(points[0]) if points else ()
    return {name: tuple(dict.fromkeys(point[name] for point in points)) for name in names}


def _from_file(config: Mapping[str, Any], own: Mapping[str, Any]) -> Sweep | Search:
    if "search" not in config:
        return settings_lib.described(config)
    try:
        search = Search(**files.judged(config["search"], TypedDict("_", Search.__annotations__)))
        spaces = {
            name: search_lib.range_of(space)
            if isinstance(space, dict)
            else tuple(settings_lib.value_of(name, value) for value in space)
            for name, space in search.spaces.items()
        }
    except ValueError as error:
        raise ConfigError(f"this is no sweep's config: {error}") from error
    search = search._replace(asked=settings_lib.unplain(search.asked), spaces=spaces)
    how = {"search": search.how, "trials": search.trials, "search_seed": search.seed}
    _check({}, how | {"scheduler": search.scheduler, "on": own.get("on", "local")})
    if odd := [name for name in spaces if name not in settings_lib.SWEEPABLE]:
        raise ConfigError(f"this is no sweep's config: {odd[0][:80]!r} cannot be swept")
    _drawn(search)
    return search


@contextlib.contextmanager
def _directory(
    job: _Job, dataset: str, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> Iterator[pathlib.Path]:
    """The directory of a sweep that was planned, begun and held; made unless it is gone on with."""
    with contextlib.ExitStack() as stack:
        directory = job.begun
        if directory is None:
            own = job.own
            path = own["out"] if "out" in own else directory_lib.fresh("sweep", dataset)
            directory = directory_lib.create(path, own.get("overwrite", False))
            stack.enter_context(directory_lib.held(directory))
        directory_lib.begin(directory, config, environment)
        yield directory


# ---------------------------------------------------------------- a sweep of known settings


def _grid(job: _Job, sweep: Sweep) -> None:
    started = time.perf_counter()
    data = plan_lib.data_of(sweep)
    job.border.beside(job.own.get("config"), data)
    environment = environment_lib.environment() | {"data": data}
    described, content = settings_lib.describe(sweep), plan_lib.content_of(data)
    runs = plan_lib.runs_of(sweep)
    keys = {run: plan_lib.key_of(run, sweep.judge, content) for run in runs}
    ends: dict[Run, Outcome] = {}
    planned, together = None, job.own.get("together")
    if job.begun is not None:
        sweep_results.must_go_on(job.begun, environment)
        known = sweep_results.parts(job.begun, terminal.complain)
        ends = sweep_results.through(keys, known, terminal.complain)
        if job.ray is None:
            planned, together = _planned(job.begun, described, together)
    missing = [run for run in runs if (keys[run] in planned if planned else run not in ends)]
    plan = plan_lib.plan(missing, sweep.judge, together=together)
    with _directory(job, sweep.settings[0].config.dataset, described, environment) as directory:
        _announce(job, sweep, plan, len(ends))
        keep, flush = _keeper(directory)

        def through(done: Mapping[Run, Outcome]) -> None:
            ends.update(done)
            keep({keys[run]: sweep_results.packed(end) for run, end in done.items()})

        def finish(clocks: Sequence[Clock] = (), before: float = 0.0) -> None:
            flush()
            names = [program.name for program in plan.programs for _ in program.portions]
            spent = [
                {"program": n, "compile_seconds": c.compiling, "run_seconds": c.running}
                for n, c in zip(names, clocks, strict=False)
            ]
            seconds = before + time.perf_counter() - started
            timing = {"total_seconds": seconds, "programs": spent}
            _finish(job, sweep, ends, directory, described, environment, timing)

        if job.ray is not None:
            with _stoppable(job, directory, flush), _watching(job.console, plan) as watch:
                options = _ray_options(job.own, directory, data)
                job.ray.execute(described, runs, plan, options, watch, through)
            finish()
            return

        before = [0.0]  # seconds of those processes whose clocks the checkpoint has

        def work(keeper: Keeper, see: Callable[[Look], None]) -> list[Clock]:
            def save(*what: Any) -> None:
                if flush():  # what is through first: the checkpoint counts on it
                    keeper.save(*what)

            def restore(*what: Any) -> Any:
                kept = keeper.restore(*what)
                before[:] = [sum(clock.elapsed for clock in kept.clocks)] if kept else [0.0]
                return kept

            with _stoppable(job, directory, flush), _watching(job.console, plan) as watch:
                look = _looking(plan, see, watch)
                mine = keeper._replace(save=save, restore=restore)
                _, clocks = sweep_running.execute(plan, look, through, mine)
                # What the checkpoint counts on may have been damaged since.
                if lost := [run for run in runs if run not in ends]:
                    sweep_running.execute(plan_lib.plan(lost, sweep.judge), see, through)
                return clocks

        def settings() -> dict[str, Any]:
            planned = [keys[run] for run in missing]
            return {"sweep": described, "runs": planned, "together": together, "data": content}

        every = max((s.config.checkpoint_every or 0 for s in sweep.settings), default=0) or None
        with job.border.kept(job.console, directory, settings, every, work) as (clocks, _):
            finish(clocks, before[0])


def _planned(
    directory: pathlib.Path, described: Mapping[str, Any], together: int | None
) -> tuple[set[str] | None, int | None]:
    """Which runs stood in the plan of the call that was running, and how many were of a call."""
    saved = checkpoint.begun_with(directory)
    if saved is None or saved.get("sweep") != described:
        return None, together
    planned, together = saved.get("runs"), saved.get("together")
    if not isinstance(planned, list) or validate.at_least("together", together or 1, 1):
        return None, None
    return set(map(str, planned)), together


@contextlib.contextmanager
def _stoppable(job: _Job, directory: pathlib.Path, flush: Callable[[], bool]) -> Iterator[None]:
    """Keeps what is through, however the body ends; who stops it is told how to go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        words = ["cgsv", "sweep", "--resume", str(directory)]
        for name in ("on", "address", "cpus_per_trial", "gpus_per_trial"):
            words += [validate.flag(name), str(job.own[name])] if name in job.own else []
        raise KeyboardInterrupt(f"interrupted; go on with: {shlex.join(words)}") from stopped
    finally:
        flush()


def _keeper(
    directory: pathlib.Path,
) -> tuple[Callable[[Mapping[str, np.ndarray]], None], Callable[[], bool]]:
    """Keeps what is through in files, every few seconds; and writes what is left, if it can."""
    waiting: dict[str, np.ndarray] = {}
    last, failure = [time.monotonic()], [""]

    def flush() -> bool:
        last[0] = time.monotonic()
        try:
            sweep_results.add_part(directory, waiting)
        except OSError as error:
            if str(error) != failure[0]:  # not the same sentence after every run
                terminal.complain(f"{error}. The sweep goes on, and tries again.")
            failure[0] = str(error)
            return False
        waiting.clear()
        return True

    def keep(done: Mapping[str, np.ndarray]) -> None:
        waiting.update(done)
        if time.monotonic() - last[0] > _SECONDS_BETWEEN_PARTS:
            flush()

    return keep, flush


def _ray_options(own: Mapping[str, Any], directory: pathlib.Path, data: Any) -> dict[str, Any]:
    return {
        "directory": str(directory.absolute()),
        "address": own.get("address"),
        "cpus": own.get("cpus_per_trial", 1),
        "gpus": own.get("gpus_per_trial"),
        "together": own.get("together"),
        "data": data,
    }


def _finish(
    job: _Job,
    sweep: Sweep,
    ends: Mapping[Run, Outcome],
    directory: pathlib.Path,
    described: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> None:
    """Tables, figures, and what a person wants to know."""
    table = sweep_results.frame(sweep_running.rows(sweep, ends), sweep.axes)
    own = sweep_results.judged(table, tuple(sweep.axes), sweep.best)
    if own.best is not None:
        own = own._replace(best=own.best | {"command": _command_line(sweep, own.best)})
    with job.border.written(directory):
        sweep_results.write(directory, described, environment, timing, table, own)
    _report(job.console, sweep, table, own)
    drawn = _follow(job.border, directory)
    seconds = timing["total_seconds"]
    compiling = sum(program["compile_seconds"] for program in timing["programs"])
    spent = f", {compiling:.1f} s of them compiling" if timing["programs"] else ""
    say(job.console, f"\n{seconds:.1f} s in all{spent}")
    where = f"{len(drawn)} figures in {directory / directory_lib.FIGURES}"
    say(job.console, f"results: {directory}  ({where})")


def _report(console: Console, sweep: Sweep, table: pl.DataFrame, own: sweep_results.Judged) -> None:
    seeds, partitions = table["seed"].n_unique(), table["partition"].n_unique()
    over = [f"{seeds} seeds"] if seeds > 1 else []
    over += [f"{partitions} partitions"] if partitions > 1 else []
    lines = ["per partition: fairness (accuracy, %)"] if partitions > 1 else []
    lines += [f"means over {' and '.join(over)}"] if over else []
    lines += ["accuracies on the server's validation rows"] if sweep.judge == "validation" else []
    shown = sweep_results.shown_settings(own, tuple(sweep.axes), sweep.best)
    count = own.table["rank"].n_unique()
    if count > len(shown):
        lines.append(f"{count} settings in all, see settings.parquet")
    console.print(tables.report(shown, f"Settings by {sweep.best.replace('_', ' ')}", lines))
    if own.best is None:
        say(console, f"{sweep.best} is undefined in every setting: there is no best one")
        for reason in table["fairness_undefined"].drop_nulls().unique().sort()[:3]:
            say(console, f"undefined: {reason}")
        return
    values = {name: own.best[name] for name in sweep.axes if name in own.best}
    named = settings_lib.in_words(values) or "the only setting"
    say(console, f"best: {own.best['method']} with {named}")
    if own.near:
        others = "another setting is" if own.near == 1 else f"{own.near} other settings are"
        say(console, f"{others} within one standard error of it")
    say(console, own.best["command"])


def _command_line(sweep: Sweep, best: Mapping[str, Any]) -> str:
    """What runs the best setting beside the yardstick."""
    setting = sweep.settings[best["point"]]
    words = ["cgsv", "compare"]
    asked = dict(sweep.asked) | setting.values
    method = best["method"]
    asked["algorithms"] = (YARDSTICK, method) if method != YARDSTICK else (method,)
    seeds = setting.config.seeds
    asked["seeds"] = len(seeds) if seeds == tuple(range(len(seeds))) else seeds
    # In one order, whoever asked: a repeated sweep says the same.
    order = (*LISTS, *settings_lib.SWEEPABLE)
    for name in sorted(asked, key=lambda n: order.index(n) if n in order else len(order)):
        value = asked[name]
        if value is True:
            words.append(validate.flag(name))
        elif isinstance(value, tuple) or name in LISTS:
            several = value if isinstance(value, tuple) else (value,)
            # One seed is a list of it: a number says how many there are.
            alone = "," if name == "seeds" and len(several) == 1 and value is several else ""
            words += [validate.flag(name), ",".join(map(str, several)) + alone]
        elif value is not False:
            words += [validate.flag(name), settings_lib.shown(value)]
    return shlex.join(words)


# ---------------------------------------------------------------- a search, on Ray


def _search(job: _Job, search: Search) -> None:
    if job.ray is None:
        raise ConfigError("this sweep is a search that needs --on ray")
    started = time.perf_counter()
    drawn = _drawn(search)
    data = plan_lib.data_of(drawn)
    job.border.beside(job.own.get("config"), data)
    environment, content = environment_lib.environment() | {"data": data}, plan_lib.content_of(data)
    config = {"search": search._asdict() | {
        "spaces": {n: s._asdict() if isinstance(s, Range) else s for n, s in search.spaces.items()}
    }}  # fmt: skip
    ends: dict[str, np.ndarray] = {}
    told: list[dict[str, Any]] = []
    if job.begun is None:
        plan_lib.plan(plan_lib.runs_of(drawn), search.judge)  # refuses what cannot be
    else:
        sweep_results.must_go_on(job.begun, environment)
        ends = sweep_results.parts(job.begun, terminal.complain)
        told = _told(search, job.begun, ends, content)
    with _directory(job, drawn.settings[0].config.dataset, config, environment) as directory:
        say(
            job.console,
            f"search: {search.how}, {search.trials} trials of all seeds and partitions, "
            f"by {search.best}, scheduler {search.scheduler}, {len(told)} done before",
        )
        for name, space in search.spaces.items():
            say(job.console, f"{name:>14}  {_space(space)}")
        keep, flush = _keeper(directory)

        def ended(trial: Mapping[str, Any], number: int) -> None:
            if flush():  # its runs first: a trial counts on them
                try:
                    sweep_results.add_trial(directory, trial)
                except OSError as error:
                    terminal.complain(str(error))
            value = trial["criterion"]
            text = f"{settings_lib.in_words(trial['values'])}: {trial['state']}"
            text += ", undefined" if value is None else f", {value:.4g}"
            show(number, f"{number}/{search.trials} trials, {text}", "search", state=text, now=True)

        bar = terminal.progress(job.console, search.trials, "trials", len(told))
        with _stoppable(job, directory, flush), bar as show:
            options = _ray_options(job.own, directory, data)
            told, ends = job.ray.search(search, told, ends, options, keep, ended)
        complete = [trial["values"] for trial in told if trial["state"] == "finished"]
        if stopped := len(told) - len(complete):
            say(job.console, f"{stopped} trials were ended early; they are in config.json")
        if not complete:
            raise ConfigError("no trial came to its end")
        sweep, keyed = _of(search, complete, content)
        timing = {"total_seconds": time.perf_counter() - started, "programs": []}
        described = settings_lib.describe(sweep) | {"trials": told}
        found = sweep_results.through(keyed, ends, terminal.complain)
        _finish(job, sweep, found, directory, described, environment, timing)


def _of(
    search: Search, points: Sequence[Mapping[str, Any]], content: str
) -> tuple[Sweep, dict[Run, str]]:
    """Points of a search as a sweep, and the keys of its runs."""
    axes = _axes_of(points)
    sweep = settings_lib.of_points(search.asked, axes, points, search.best, search.judge)
    runs = plan_lib.runs_of(sweep)
    return sweep, {run: plan_lib.key_of(run, sweep.judge, content) for run in runs}


def _told(
    search: Search, directory: pathlib.Path, known: Mapping[str, np.ndarray], content: str
) -> list[dict[str, Any]]:
    """The trials of before; what is none of this search, or lacks a run, is run again."""
    told = []
    for trial in sweep_results.trials(directory, terminal.complain):
        values = settings_lib.unplain(trial["values"])
        fits = values.keys() == search.spaces.keys() and math.isfinite(trial["criterion"] or 0)
        fits = fits and all(search_lib.holds(search.spaces[n], v) for n, v in values.items())
        if fits and trial["state"] == "finished":
            _, keys = _of(search, [values], content)
            fits = len(sweep_results.through(keys, known, terminal.complain)) == len(keys)
        if fits:
            told.append(trial | {"values": values})
        else:
            terminal.complain("a trial is run again: what is known of it is not of this search")
    return told


def _space(space: Any) -> str:
    if not isinstance(space, Range):
        return ", ".join(map(settings_lib.shown, space))
    return f"{space.low:g} to {space.high:g}" + (", by magnitude" if space.log else "")


# ---------------------------------------------------------------- what is seen


def _announce(job: _Job, sweep: Sweep, plan: Plan, known: int) -> None:
    first = sweep.settings[0].config
    lines = {
        "data set": f"{first.dataset}, model {first.model}",
        "settings": " x ".join(
            (
                f"{len(sweep.settings):,}",
                _count(len(sweep.shown), "method"),
                _count(len(first.partitions), "partition"),
                _count(len(first.seeds), "seed"),
            )
        ),
    }
    for name, values in sweep.axes.items():
        text = ", ".join(map(settings_lib.shown, values[:12]))
        lines[name.replace("_", " ")] = text + (f", ... ({len(values)})" if values[12:] else "")
    fixed = {k: v for k, v in sweep.asked.items() if k not in LISTS}
    lines |= {"fixed": settings_lib.in_words(fixed)} if fixed else {}
    if YARDSTICK not in sweep.shown:
        lines["yardstick"] = "standalone, once per training setting, partition and seed"
    if sweep.judge == "validation":
        lines["judged on"] = "the server's validation rows"
    wide = max(map(len, lines))
    for name, text in lines.items():
        say(job.console, f"{name:>{wide}}  {text}")
    rows = []
    for program in plan.programs:
        count = sum(len(portion.runs) for portion in program.portions)
        calls = sum(-(-len(portion.runs) // program.size) for portion in program.portions)
        names = dict.fromkeys(n for p in program.portions for n in p.world.partitions)
        rows.append(
            {
                "program": program.name,
                "partitions": ", ".join(names),
                "runs": f"{count:,}",
                "calls": f"{calls:,}",
                "runs per call": f"{program.size:,}",
                "memory per call": _bytes(program.memory),
            }
        )
    notes = [
        f"{_count(plan.num_runs, 'run')} by {_count(len(rows), 'program')}, each compiled once",
        f"of {_bytes(plan.budget)} of memory",
    ]
    notes += ["calls as on this machine; trials go by their own"] if job.ray else []
    notes += [f"{known:,} further runs are through already"] if known else []
    if rows:
        job.console.print(tables.report(pl.DataFrame(rows), "Plan", notes))
    else:
        say(job.console, notes[-1])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _bytes(number: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


# (name of what runs, rounds of all runs that are through, of them per second, compiling)
Watch = Callable[[str, int, float, bool], None]


@contextlib.contextmanager
def _watching(console: Console, plan: Plan) -> Iterator[Watch]:
    """Shows how far the rounds of all runs are, while the body lasts."""
    with terminal.progress(console, plan.rounds, "rounds of all runs") as show:

        def watch(name: str, done: int, rate: float, compiling: bool = False) -> None:
            pace = f"{rate:.3g}/s" if rate else ""
            left = f", {(plan.rounds - done) / rate:.0f} s left" if rate else ""
            state = "compiling" if compiling else ""
            line = f"{done:,}/{plan.rounds:,} rounds of all runs, {name}: {state or pace + left}"
            show(done, line, name, pace, state, now=compiling or done == plan.rounds)

        yield watch


def _looking(plan: Plan, see: Callable[[Look], None], watch: Watch) -> Callable[[Look], None]:
    """What is called with a look at a batch, which is a portion of the plan."""
    names, before = [], [0]
    for program in plan.programs:
        for portion in program.portions:
            names.append(program.name)
            padded = program.size * -(-len(portion.runs) // program.size)
            before.append(before[-1] + plan_lib.rounds_of(program) * padded)

    def look(look: Look) -> None:
        see(look)
        done = before[look.batch] + look.done
        watch(names[look.batch], done, look.pace, look.compiling)

    return look
