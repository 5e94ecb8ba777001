"""What `cgsv sweep` shows and writes; its flags are in cli.py."""

import pathlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cgsv_jax import checkpoint, results, searching, sweep_plots, sweep_results, sweeping, terminal
from cgsv_jax import config as config_lib
from cgsv_jax.config import ConfigError
from cgsv_jax.results import YARDSTICK, Outcome
from cgsv_jax.runs import Look
from cgsv_jax.searching import Range
from cgsv_jax.sweeping import LISTS, Plan, Run, Sweep

_SECONDS_BETWEEN_LINES = 2.0  # of progress, where there is no terminal to redraw
_SECONDS_BETWEEN_PARTS = 5.0  # what a kill may cost; a file per run would be many
_OF_RAY = ("address", "cpus_per_trial", "gpus_per_trial", "scheduler")
_WHERE = ("on", *_OF_RAY, "together", "quiet")


# (console, directory, settings, every, work) -> a context of what was computed, see cli.py
Kept = Callable[..., AbstractContextManager[tuple[Any, Any]]]


class Search(NamedTuple):
    """A search whose settings are not known before it runs."""

    asked: dict[str, Any]
    spaces: dict[str, Any]  # name -> Range, or values
    how: str
    trials: int
    seed: int
    scheduler: str
    best: str
    judge: str


def command(flags: Mapping[str, Any], own: Mapping[str, Any], kept: Kept) -> None:
    """Runs a sweep.

    Args:
      flags: what the settings are made of: fields of Config and Method; those that can be swept as
        tuples of values or a Range.
      own: the flags of the sweep itself.
      kept: computes something long, saved as it goes and gone on with.

    Raises:
      ConfigError, ValueError: one sentence for each thing that cannot be.
    """
    _check(flags, own)
    ray = None
    if own.get("on", "local") == "ray":
        from cgsv_jax import ray_sweep as ray  # its own libraries are optional

        ray.check()
        ray.share_the_device()
    versions = results.environment()["versions"]
    directory = config = None
    if "resume" in own:
        if sweep_results.is_sweep(own["resume"]):
            Console(quiet=own.get("quiet", False), highlight=False).print(
                f"the sweep in {own['resume']} is finished, there is nothing to go on with",
                markup=False,
                soft_wrap=True,
            )
            return
        directory, config = sweep_results.open_again(own["resume"], versions)
    elif "config" in own:
        config = results.read_config(own["config"], terminal.complain)
    wanted = _from_file(config) if config is not None else _from_flags(flags, own)
    console = Console(quiet=own.get("quiet", False), highlight=False)
    if isinstance(wanted, Search):
        _search(console, wanted, own, directory, ray)
    else:
        _grid(console, wanted, own, directory, ray, kept)


def _check(flags: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """What the flags say of each other, before anything is read."""
    problems = []
    for source in ("config", "resume"):
        if source not in own:
            continue
        allowed = {source, "out", "overwrite", *_WHERE} - (
            {"out", "overwrite"} if source == "resume" else set()
        )
        idle = [name for name in (*flags, *own) if name not in allowed]
        if idle:
            names = ", ".join(config_lib.flag(name) for name in idle)
            problems.append(f"--{source} is a whole sweep, it cannot be combined with {names}")
    problems += config_lib.known("on", own.get("on", "local"), ("local", "ray"))
    problems += config_lib.known("scheduler", own.get("scheduler", "none"), searching.SCHEDULERS)
    if "search" in own:
        problems += config_lib.known("search", own["search"], searching.SEARCHES)
    elif not {"config", "resume"} & set(own):
        for name in ("trials", "search_seed"):
            if name in own:
                problems.append(f"--{name.replace('_', '-')} does nothing without --search")
        for name, value in flags.items():
            if isinstance(value, Range):
                problems.append(f"{config_lib.flag(name)} is a range, it needs --search")
    for name, least in (("trials", 1), ("search_seed", 0), ("together", 1), ("cpus_per_trial", 1)):
        if name in own:
            problems += config_lib.at_least(name, own[name], least)
    if "gpus_per_trial" in own:
        problems += config_lib.number(
            "gpus_per_trial", own["gpus_per_trial"], 0, 64, open_high=True
        )
    if own.get("scheduler", "none") != "none" and "search" not in own:
        problems += [] if {"config", "resume"} & set(own) else ["--scheduler needs --search"]
    if own.get("on", "local") != "ray":
        idle = [name for name in _OF_RAY if name in own and own[name] != "none"]
        idle += ["search"] if own.get("search") == "optuna" else []
        problems += [f"{config_lib.flag(name)} needs --on ray" for name in idle]
    if problems:
        raise ConfigError("\n".join(problems))


def _from_flags(flags: Mapping[str, Any], own: Mapping[str, Any]) -> Sweep | Search:
    asked, spaces = {}, {}
    for name, value in flags.items():
        several = name in sweeping.SWEEPABLE
        if not several:
            asked[name] = value
        elif isinstance(value, Range | tuple):
            spaces[name] = value
        else:
            spaces[name] = (value,)
    criteria = own.get("best", "fairness"), own.get("judge", "test")
    if "search" not in own:
        return sweeping.sweep(asked, spaces, *criteria)
    fixed = {n: v[0] for n, v in spaces.items() if isinstance(v, tuple) and len(v) == 1}
    spaces = {n: v for n, v in spaces.items() if n not in fixed}
    trials, seed = own.get("trials", 20), own.get("search_seed", 0)
    points = searching.draw(spaces, trials, seed)
    drawn = sweeping.of_points(asked | fixed, _axes_of(points), points, *criteria)
    scheduler = own.get("scheduler", "none")
    if own["search"] == "random" and scheduler == "none":
        return drawn
    # What was drawn at random was judged; what will be drawn is of the same ranges.
    asked = drawn.asked
    return Search(asked, spaces, own["search"], trials, seed, scheduler, *criteria)


def _axes_of(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple]:
    names = sorted(points[0]) if points else ()
    return {name: tuple(dict.fromkeys(point[name] for point in points)) for name in names}


def _from_file(config: Mapping[str, Any]) -> Sweep | Search:
    if "search" not in config:
        return sweeping.described(config)
    try:
        values = dict(config["search"])
        values["asked"] = sweeping.unplain(values["asked"])
        values["spaces"] = {
            name: Range(**space) if isinstance(space, dict) else tuple(space)
            for name, space in values["spaces"].items()
        }
        return Search(**values)
    except (TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"this is no sweep's config: {error!r}") from error


def _directory(own: Mapping[str, Any], dataset: str, known: pathlib.Path | None) -> pathlib.Path:
    if known is not None:
        return known
    if "out" in own:
        return results.create(own["out"], own.get("overwrite", False))
    number = 1
    while (path := pathlib.Path("runs") / f"sweep-{dataset}-{number:03d}").exists():
        number += 1
    return results.create(path)


# ---------------------------------------------------------------- a sweep of known settings


def _grid(
    console: Console,
    sweep: Sweep,
    own: Mapping[str, Any],
    directory: pathlib.Path | None,
    ray: Any,
    kept: Kept,
) -> None:
    started = time.perf_counter()
    again = directory is not None
    directory = _directory(own, sweep.settings[0].config.dataset, directory)
    with results.held(directory):
        runs = sweeping.runs_of(sweep)
        keys = {run: sweeping.key_of(run, sweep.judge) for run in runs}
        known = sweep_results.parts(directory) if again else {}
        ends = {run: known[key] for run, key in keys.items() if key in known}
        missing = [run for run in runs if run not in ends]
        together = own.get("together")
        begun = checkpoint.begun_with(directory) if again and ray is None else None
        if begun is not None and begun.get("runs") is not None:
            # The call that was running is one of a plan of these.
            planned = set(begun["runs"])
            missing = [run for run in runs if keys[run] in planned]
            together = begun["together"]
        plan = sweeping.plan(missing, sweep.judge, together=together)
        environment = results.environment()
        described = sweeping.describe(sweep)
        sweep_results.begin(directory, described, environment)
        _announce(console, sweep, plan, len(ends), ray is not None)
        keep, flush = _keeper(directory, keys)
        watcher = _Watcher(console, plan)

        def finish(done: Mapping[Run, Outcome], spent: Sequence[Mapping[str, Any]]) -> None:
            flush()
            timing = {"total_seconds": time.perf_counter() - started, "programs": spent}
            every = ends | done
            _finish(console, sweep, every, directory, described, environment, timing)

        if ray is not None:
            options = _ray_options(own, directory)
            try:
                with watcher:
                    done = ray.execute(described, runs, plan, options, watcher.through, keep)
            except KeyboardInterrupt as stopped:
                raise KeyboardInterrupt(_go_on(directory, own)) from stopped
            finally:
                flush()
            finish(done, [])
            return

        def work(keeper: Any, see: Callable[[Look], None]) -> Any:
            def save(*what: Any) -> None:
                flush()  # what is through first: the checkpoint counts on it
                keeper.save(*what)

            try:
                with watcher as watch:
                    return sweeping.execute(
                        plan,
                        lambda look: (see(look), watch(look)),
                        keep,
                        None if keeper is None else keeper._replace(save=save),
                    )
            except KeyboardInterrupt as stopped:
                raise KeyboardInterrupt(_go_on(directory, own)) from stopped
            finally:
                flush()

        def settings() -> dict[str, Any]:
            planned = [keys[run] for run in missing]
            return {"sweep": described, "runs": planned, "together": together}

        every = max((s.config.checkpoint_every or 0 for s in sweep.settings), default=0) or None
        with kept(console, directory, settings, every, work) as ((done, clocks), _):
            portions = [p.name for p in plan.programs for _ in p.portions]
            spent = [
                {"program": n, "compile_seconds": c.compiling, "run_seconds": c.running}
                for n, c in zip(portions, clocks, strict=True)
            ]
            finish(done, spent)


def _go_on(directory: pathlib.Path, own: Mapping[str, Any]) -> str:
    words = ["cgsv", "sweep", "--resume", str(directory)]
    for name in ("on", "address", "cpus_per_trial", "gpus_per_trial"):
        words += [config_lib.flag(name), str(own[name])] if name in own else []
    return f"interrupted; go on with: {shlex.join(words)}"


def _keeper(
    directory: pathlib.Path, keys: Mapping[Run, str]
) -> tuple[Callable[[Mapping[Run, Outcome]], None], Callable[[], None]]:
    """Keeps what is through in files, every few seconds; and writes what is left."""
    waiting: dict[str, Outcome] = {}
    last = [time.monotonic()]

    def flush() -> None:
        sweep_results.add_part(directory, waiting)
        waiting.clear()
        last[0] = time.monotonic()

    def keep(done: Mapping[Run, Outcome]) -> None:
        waiting.update({keys[run]: end for run, end in done.items()})
        if time.monotonic() - last[0] > _SECONDS_BETWEEN_PARTS:
            flush()

    return keep, flush


def _ray_options(own: Mapping[str, Any], directory: pathlib.Path) -> dict[str, Any]:
    return {
        "directory": str(directory.absolute()),
        "address": own.get("address"),
        "cpus": own.get("cpus_per_trial", 1),
        "gpus": own.get("gpus_per_trial"),
        "together": own.get("together"),
    }


def _finish(
    console: Console,
    sweep: Sweep,
    ends: Mapping[Run, Outcome],
    directory: pathlib.Path,
    described: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> None:
    """Tables, figures, and what a person wants to know."""
    table = sweep_results.frame(sweeping.rows(sweep, ends), sweep.axes)
    own = sweep_results.judged(table, tuple(sweep.axes), sweep.best)
    command_line = None
    best = own.best
    if best is not None:
        command_line = _command_line(sweep, best)
        own = own._replace(best=best | {"command": command_line})
    sweep_results.write(directory, described, environment, timing, table, own)
    folder = sweep_results.figures_of(directory)
    figures = sweep_plots.draw(table, sweep.axes, sweep.best, best, folder)
    _report(console, sweep, table, own)
    if command_line is not None:
        console.print(command_line, markup=False, soft_wrap=True)
    seconds = timing["total_seconds"]
    compiling = sum(program["compile_seconds"] for program in timing["programs"])
    spent = f", {compiling:.1f} s of them compiling" if timing["programs"] else ""
    console.print(f"\n{seconds:.1f} s in all{spent}")
    console.print(
        f"results: {directory}  ({len(figures)} figures in {folder})", markup=False, soft_wrap=True
    )


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
    console.print(results.report(shown, f"Settings by {sweep.best.replace('_', ' ')}", lines))
    if own.best is None:
        console.print(f"{sweep.best} is undefined in every setting: there is no best one")
        for reason in table["fairness_undefined"].drop_nulls().unique().sort()[:3]:
            console.print(f"undefined: {reason}", markup=False)
        return
    values = {name: own.best[name] for name in sweep.axes if name in own.best}
    named = sweeping.in_words(values) or "the only setting"
    console.print(f"best: {own.best['method']} with {named}", markup=False, soft_wrap=True)
    if own.near:
        others = "another setting is" if own.near == 1 else f"{own.near} other settings are"
        console.print(f"{others} within one standard error of it")


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
    order = (*LISTS, *sweeping.SWEEPABLE)
    for name in sorted(asked, key=lambda n: order.index(n) if n in order else len(order)):
        value = asked[name]
        if value is True:
            words.append(config_lib.flag(name))
        elif isinstance(value, tuple) or name in LISTS:
            several = value if isinstance(value, tuple) else (value,)
            # One seed is a list of it: a number says how many there are.
            alone = "," if name == "seeds" and len(several) == 1 and value is several else ""
            words += [config_lib.flag(name), ",".join(map(str, several)) + alone]
        elif value is not False:
            words += [config_lib.flag(name), sweeping.shown(value)]
    return shlex.join(words)


# ---------------------------------------------------------------- a search, on Ray


def _search(
    console: Console,
    search: Search,
    own: Mapping[str, Any],
    directory: pathlib.Path | None,
    ray: Any,
) -> None:
    if ray is None:
        raise ConfigError("this sweep is a search that needs --on ray")
    started = time.perf_counter()
    dataset = search.asked.get("dataset", "digits")
    directory = _directory(own, dataset, directory)
    environment = results.environment()
    config = {"search": search._asdict() | {
        "spaces": {n: s._asdict() if isinstance(s, Range) else s for n, s in search.spaces.items()}
    }}  # fmt: skip
    sweep_results.begin(directory, config, environment)
    told = [
        trial | {"values": sweeping.unplain(trial["values"])}
        for trial in sweep_results.trials(directory)
    ]
    ends = sweep_results.parts(directory)
    console.print(
        f"search: {search.how}, {search.trials} trials of all seeds and partitions, "
        f"by {search.best}, scheduler {search.scheduler}, {len(told)} done before"
    )
    for name, space in search.spaces.items():
        console.print(f"{name:>14}  {_space(space)}", markup=False)
    seen = _Trials(console, search.trials, len(told))
    try:
        with seen as watch:
            options = _ray_options(own, directory)
            told, done = ray.search(search, told, ends, options, watch)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(_go_on(directory, own)) from stopped
    ends |= done
    complete = [sweeping.unplain(trial["values"]) for trial in told if trial["state"] == "finished"]
    stopped = len(told) - len(complete)
    if stopped:
        console.print(f"{stopped} trials were ended early; they are in config.json")
    if not complete:
        raise ConfigError("no trial came to its end")
    sweep = sweeping.of_points(
        search.asked, _axes_of(complete), complete, search.best, search.judge
    )
    keyed = {run: ends[sweeping.key_of(run, sweep.judge)] for run in sweeping.runs_of(sweep)}
    timing = {"total_seconds": time.perf_counter() - started, "programs": []}
    described = sweeping.describe(sweep) | {"trials": told}
    _finish(console, sweep, keyed, directory, described, environment, timing)


def _space(space: Any) -> str:
    if not isinstance(space, Range):
        return ", ".join(map(sweeping.shown, space))
    return f"{space.low:g} to {space.high:g}" + (", by magnitude" if space.log else "")


# ---------------------------------------------------------------- what is seen


def _announce(console: Console, sweep: Sweep, plan: Plan, known: int, on_ray: bool = False) -> None:
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
        text = ", ".join(map(sweeping.shown, values[:12]))
        lines[name.replace("_", " ")] = text + (f", ... ({len(values)})" if values[12:] else "")
    fixed = {k: v for k, v in sweep.asked.items() if k not in LISTS}
    lines |= {"fixed": sweeping.in_words(fixed)} if fixed else {}
    if YARDSTICK not in sweep.shown:
        lines["yardstick"] = "standalone, once per training setting, partition and seed"
    if sweep.judge == "validation":
        lines["judged on"] = "the server's validation rows"
    wide = max(map(len, lines))
    for name, text in lines.items():
        console.print(f"{name:>{wide}}  {text}", markup=False)
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
    notes += ["calls as on this machine; trials go by their own"] if on_ray else []
    notes += [f"{known:,} further runs are through already"] if known else []
    if rows:
        console.print(results.report(pl.DataFrame(rows), "Plan", notes))
    else:
        console.print(notes[-1])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _bytes(number: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


class _Watcher:
    """One bar for the whole sweep in a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, console: Console, plan: Plan):
        self.console = console
        self.portions = [p for p in plan.programs for _ in p.portions]
        self.total = plan.rounds
        self.before = [0]
        for program in plan.programs:
            for portion in program.portions:
                padded = program.size * -(-len(portion.runs) // program.size)
                self.before.append(self.before[-1] + sweeping.rounds_of(program) * padded)
        self.next_line = 0.0
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds of all runs  {task.fields[pace]}  left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal or console.quiet,
            transient=True,
        )
        self.task = self.bar.add_task("start", total=self.total, pace="", state="")

    def __enter__(self) -> Callable[[Look], None]:
        self.bar.start()
        return self.see

    def __exit__(self, *exception: Any) -> None:
        self.bar.stop()

    def see(self, look: Look) -> None:
        """Shows one look at the sweep."""
        done = self.before[look.batch] + look.done
        self._show(self.portions[look.batch].name, done, look.pace, look.compiling)

    def _show(self, name: str, done: int, rate: float, compiling: bool) -> None:
        state = "compiling" if compiling else ""
        pace = f"{rate:.3g}/s" if rate else ""
        self.bar.update(self.task, description=name, completed=done, pace=pace, state=state)
        if self.console.is_terminal:
            return
        last = done == self.total
        if compiling or last or time.monotonic() > self.next_line:
            left = f", {(self.total - done) / rate:.0f} s left" if rate else ""
            told = f"{name}: compiling" if compiling else f"{name}: {pace}{left}"
            line = f"{done:,}/{self.total:,} rounds of all runs, {told}"
            self.console.print(line, markup=False, soft_wrap=True)
            self.next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

    def through(self, done: int, seconds: float) -> None:
        """Shows that so many rounds of all runs are through, wherever they were."""
        self._show("ray", done, done / max(seconds, 1e-9), False)


class _Trials:
    """The same for trials of a search."""

    def __init__(self, console: Console, total: int, done: int):
        self.console, self.total, self.done = console, total, done
        self.bar = Bar(
            TextColumn("search"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials  {task.fields[state]}"),
            console=console,
            disable=not console.is_terminal or console.quiet,
            transient=True,
        )
        self.task = self.bar.add_task("search", total=total, completed=done, state="starting")

    def __enter__(self) -> Callable[[Mapping[str, Any]], None]:
        self.bar.start()
        return self.see

    def __exit__(self, *exception: Any) -> None:
        self.bar.stop()

    def see(self, trial: Mapping[str, Any]) -> None:
        """Shows a trial that came to an end."""
        self.done += 1
        value = trial["criterion"]
        text = f"{sweeping.in_words(trial['values'])}: {trial['state']}"
        text += ", undefined" if value is None else f", {value:.4g}"
        self.bar.update(self.task, completed=self.done, state=text)
        if not self.console.is_terminal:
            self.console.print(f"{self.done}/{self.total} trials, {text}", markup=False)
