"""`cgsv run` and `cgsv compare`: a configuration in, a run directory and tables out."""

import functools
import itertools
import os
import pathlib
import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import stopping
from cgsv_jax.config import resolve, schema, validate, variants
from cgsv_jax.config.schema import Config, ConfigError, Method
from cgsv_jax.data import arrays
from cgsv_jax.experiment import (
    bind,
    budget,
    callbacks,
    deal,
    execute,
    identity,
    names,
    profiling,
    progress,
    running,
    tracking,
)
from cgsv_jax.experiment.task import DataIdentity, Task
from cgsv_jax.host import compile_cache, files, terminal
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.results import tables

DRAWS = 3  # of a partition, that a terminal shows one by one
INDENT = 16  # of what is announced


def must_have_devices() -> None:
    """JAX fails in a dozen ways where the hardware that it was told to use is not there."""
    try:
        jax.devices()
    except Exception as error:
        asked = os.environ.get("JAX_PLATFORMS")
        which = f" of JAX_PLATFORMS={asked}, it must name one that is there" if asked else ""
        raise ConfigError(f"JAX finds no device{which} ({files.reason_of(error)})") from error


def _connect(args: Any) -> None:
    """Joins the other processes, if there are any; before JAX looks at its devices."""
    given = {
        name: getattr(args, name) for name in flags_lib.CLUSTER if getattr(args, name) is not None
    }
    if not given:
        return
    if args.coordinator == "auto" and len(given) == 1:
        jax.distributed.initialize()
        return
    numbers = (args.processes, args.process)
    if "coordinator" not in given or not all(type(number) is int for number in numbers):
        raise ConfigError(
            "--coordinator host:port, --processes and --process belong together: an address and "
            f"two whole numbers, got {', '.join(f'--{k} {v}' for k, v in given.items())}"
        )
    if not 0 <= args.process < args.processes:
        raise ConfigError(f"--process is {args.process}, it must be in 0..{args.processes - 1}")
    jax.distributed.initialize(args.coordinator, args.processes, args.process)


def _configuration(args: Any) -> Config:
    beside = flags_lib.OUTPUT | flags_lib.CLUSTER
    asked = {n: value for n, value in flags_lib.given(args).items() if n not in beside}
    if args.config is not None:
        if asked:
            flags = ", ".join(map(validate.flag, asked))
            raise ConfigError(f"--config is a whole experiment, it cannot be combined with {flags}")
        try:
            return names.read(args.config, args.plugin, terminal.complain)
        except ConfigError as wrong:  # of what cannot be read the file is said already
            lines = (f"{args.config}: {line}" for line in str(wrong).splitlines())
            raise ConfigError("\n".join(lines)) from wrong
    if args.command == "run":
        asked.setdefault("algorithms", "cgsv")
        for name in ("algorithms", "partition"):
            several = len(variants.split(asked.get(name, ""))) > 1
            if several or (name, asked.get(name)) == ("algorithms", "all"):
                raise ConfigError(f"--{name} is {asked[name]!r}, run takes one, compare a list")
    return names.configure(args.plugin, **validate.fields_of(asked))


def keep_compiled(no_cache: bool, quiet: bool) -> None:
    """Has compiled programs kept for the next process, unless somebody minds."""
    if not no_cache and (folder := compile_cache.use()) is not None:
        size = compile_cache.MOST >> 30
        said = f"compiled programs are kept for the next time, {size} GiB at most (--no-cache: not)"
        terminal.say(terminal.console(quiet), f"{said}:\n{folder}")


def train(args: Any) -> None:
    """Runs what the flags ask for, from the start or from where it was left."""
    keep_compiled(args.no_cache, args.quiet)
    if args.resume is not None:
        _refuse_beside_resume(args)
        directory, values = directory_lib.resumable(args.resume)
        with directory_lib.held(directory):
            if directory_lib.state_of(directory) == "finished":
                _is_finished(args, directory)
                return
            must_have_devices()
            with files.naming(directory / "config.json"):
                config = resolve.from_dict(values, names.tables(args.plugin, values.get("dataset")))
            tracking.must_have(config.track)
            dealt = deal.tasks(config)
            if wrong := identity.changed_data(directory, dealt[0].identity):
                lines = (f"--resume is {os.fspath(directory)!r}, but {line}" for line in wrong)
                raise ConfigError("\n".join(lines))
            _compute(args, config, directory, dealt)
        return
    together = [f"--{name}" for name in flags_lib.CLUSTER if getattr(args, name) is not None]
    if together and args.checkpoint_every is not None:
        raise ConfigError(_NOT_TOGETHER)
    _connect(args)
    must_have_devices()
    config = _configuration(args)
    tracking.must_have(config.track)
    if jax.process_count() > 1 and config.checkpoint_every is not None:
        raise ConfigError(_NOT_TOGETHER)
    dealt = deal.tasks(config)
    warn_of_other_data(args.config, dealt[0].identity)
    if jax.process_index() > 0:
        running.run(config, dealt=dealt)  # its share of the work; process 0 has all results
        return
    out = args.out or directory_lib.fresh(args.command, pathlib.Path(config.dataset).stem)
    directory = directory_lib.create(out, args.overwrite)
    with directory_lib.held(directory):
        _compute(args, config, directory, dealt)


_NOT_TOGETHER = (
    "--checkpoint-every does nothing with --coordinator: several processes save no checkpoints, "
    "so that such a run cannot be resumed"
)


def _refuse_beside_resume(args: Any) -> None:
    beside = [
        validate.flag(name)
        for name in flags_lib.given(args)
        if name not in ("resume", "plugin", "quiet", "verbose", "profile", "no_cache")
    ]
    if beside:
        raise ConfigError(
            f"--resume goes on with a run as it was begun, it cannot be combined with "
            f"{', '.join(beside)}"
        )


def warn_of_other_data(config: str | None, now: DataIdentity | None) -> None:
    """Where the config of a run or sweep is repeated, and its data are others now."""
    file = pathlib.Path(config or "")
    if file.name != "config.json":
        return
    try:
        wrong = identity.changed_data(files.path_of(file.parent, "--config"), now)
    except ValueError as error:
        wrong = [str(error)]
    for line in wrong:
        terminal.complain(f"--config is {config!r}, but {line}")


def _is_finished(args: Any, directory: pathlib.Path) -> None:
    """Does what follows the tables, in case that the process was killed there."""
    from cgsv_jax.results import figures

    with stopping.written(directory):
        figures.draw([directory], missing=True)
    with stopping.clearing(directory):
        directory_lib.tidy(directory)
        directory_lib.remove_checkpoints(directory)
    to = terminal.console(args.quiet)
    terminal.say(to, f"the run in {directory} is finished, there is nothing to go on with")


def _compute(args: Any, config: Config, directory: pathlib.Path, dealt: tuple[Task, ...]) -> None:
    """Runs what a config says, or the rest of it, and writes a run directory, which is held."""
    environment = environment_lib.environment() | {"data": dealt[0].identity}
    directory_lib.begin(directory, resolve.to_dict(config), environment)
    console = terminal.console(args.quiet)
    _announce(console, config, dealt, args.verbose)

    def work(keeper: execute.Keeper | None, see: Callable[[running.Progress], None]) -> Any:
        about = resolve.to_dict(config)
        trackers = tracking.opened(config.track, directory, about, terminal.complain)
        with progress.watching(console, config) as watch, trackers as track:
            return running.run(config, callbacks.both(see, watch), dealt, keeper, track)

    def computed() -> dict[str, Any]:
        rows = identity.fingerprint(dealt)
        return {"config": resolve.to_dict(config), "rows": rows}

    every = config.checkpoint_every
    with stopping.kept(console, directory, computed, every, work) as (result, earlier):
        with stopping.written(directory):
            frames = running.save(directory, result, earlier)
        everything = functools.partial(tables.reports, frames, console.width)
        for report in everything() if args.verbose else tables.first(frames):
            console.print()
            console.print(report)
        from cgsv_jax.results import figures  # now: what is refused need not wait for Matplotlib

        with stopping.written(directory):
            drawn = figures.draw([directory])
    try:
        _profile(args, console, config, directory, dealt, result.timing)
    except KeyboardInterrupt:
        raise stopping.Ended(
            stopping.INTERRUPTED, f"interrupted, the results are in {directory}"
        ) from None
    if args.verbose or args.profile:
        console.print()
        console.print(tables.seconds(result.timing))
    total = result.timing["total_seconds"]
    compiling = sum(cell["compile_seconds"] for cell in result.timing["methods"])
    terminal.say(console, f"{total:.1f} s in all, {compiling:.1f} s of them compiling")
    where = f"{len(drawn)} figures in {directory / directory_lib.FIGURES}"
    terminal.say(console, f"results: {directory}  ({where})")
    if not args.verbose:
        terminal.say(console, f"{showing(directory)} shows clients, gains, traffic and seconds")


def showing(directory: pathlib.Path) -> str:
    """The command that prints what a directory holds."""
    return f"`cgsv show {shlex.quote(os.fspath(directory))}`"


def _profile(
    args: Any,
    console: Console,
    config: Config,
    directory: pathlib.Path,
    dealt: Sequence[Task],
    timing: dict[str, Any],
) -> None:
    """Times the phases of a round if that is asked for, and adds what it finds to the timing.

    Of several draws of a partition the first stands for all.
    """
    if not args.profile:
        return
    profiles = [
        profiling.profile(bind.bind(config, method, task))
        for task in dealt
        if task.partition_seed == config.partition_seed
        for method in config.methods
    ]
    timing["profiles"] = [profiling.plain(profile) for profile in profiles]
    with stopping.written(directory):
        files.write_files(directory, {"timing.json": files.document(timing)})
    for profile in profiles:
        terminal.say(console, "\n".join(["", *profiling.lines(profile), ""]))


def _announce(
    console: Console, config: Config, dealt: Sequence[Task], verbose: bool = False
) -> None:
    trained = f"E = {config.epochs} local epochs"
    if config.local_steps is not None:
        trained = f"K = {config.local_steps} local steps"
    shown = {
        "data set": config.dataset,
        "model": f"{config.model}, D = {sum(dealt[0].tensors):,} parameters",
        "clients": f"N = {config.clients}",
        "seeds": seeds_text(config.seeds),
        **({"draws": _draws(config)} if config.partition_seeds > 1 else {}),
        "rounds": f"T = {config.rounds}, {trained}, B = {config.batch_size} rows per step",
        "layout": f"clients computed at once: {config.layout}, devices: {config.devices}",
    }
    if config.save_models:
        runs, size = budget.models_kept(config, dealt[0])
        shown["models"] = f"kept in {runs:,} files of {size / 1e6:,.1f} MB in all"
    if arrays.is_file(config.dataset) and config.taken:
        numbers = ", ".join(f"{name} = {value}" for name, value in config.taken)
        shown["taken"] = f"as on digits, since nobody says otherwise: {numbers}"
    if taking := _who_takes_part(config):
        shown["takes part"] = taking
    if config.patience is not None:
        better = "better on validation examples"
        shown["ends early"] = (
            f"a seed after {config.patience} evaluations of which none is {better}"
        )
    if config.track:
        shown["tracked by"] = f"{', '.join(config.track)}, in the folder {directory_lib.TRACKING}"
    for task in dealt[: min(len(config.draws), DRAWS)]:  # in every partition the same
        if task.cheats:
            draw = f", draw {task.partition_seed}" if config.partition_seeds > 1 else ""
            shown[f"dishonest{draw}"] = _who_cheats(task.cheats)
    for name, text in (*shown.items(), *_numbers(config)):
        _say_of(console, name, text)
    for method in config.methods:
        algorithm = bind.bind(config, method, dealt[0]).algorithm(method.hyper())
        for note in algorithm.needs.notes:
            _say_of(console, method.name, note)
    if not all(bind.keeps_answers(config, task) for task in dealt):
        terminal.say(
            console,
            "answers to test examples are not kept, clients times examples are above "
            f"{bind.MOST_ANSWERS:,}: the interval of fairness leaves out the doubt of few examples "
            "(--eval-clients and --eval-rows evaluate fewer)",
        )
    dealing = dealt_with(config)
    for draws in _alike(dealt):
        task, name = draws[0], draws[0].partition
        if config.partition_seeds > 1:
            seeds = ", ".join(str(own.partition_seed) for own in draws)
            name += f", draw{'s' if len(draws) > 1 else ''} {seeds}"
        classes = np.mean([own.classes for own in draws], axis=0)
        how = dealing.get(task.partition, "")
        if verbose:
            if how:
                _say_of(console, name, how)
            console.print()
            console.print(tables.holdings(task.sizes, classes, name))
        else:
            texts = f"{tables.held(task.sizes, classes)} each", how
            _say_of(console, name, "; ".join(filter(None, texts)))
        if task.clients.own_mask is not None:
            own = sorted(task.clients.own_mask.sum(axis=1).tolist())
            ends = " to ".join(dict.fromkeys((f"{own[0]:,}", f"{own[-1]:,}")))
            _say_of(console, "", f"and {ends} more on which it is judged and does not train")
        if task.partition == "class_imbalance":
            _say_of(console, "", "drawn with replacement: clients share examples")


def _numbers(config: Config) -> list[tuple[str, str]]:
    """The numbers of every method; those of training once, where they are the same for all."""
    training = {method.name: _training(method) for method in config.methods}
    dataset, there = config.dataset, config.tables
    what = {method.name: resolve.unsaid(method, dataset, there) for method in config.methods}
    own = {
        method.name: ", ".join(
            f"{letter} = {value:.3g}"
            for name, value in method.options
            if value is not None and (letter := method.declared[name].letter)
        )
        for method in config.methods
    }
    if len(set(training.values())) > 1:
        every = {name: (what[name], training[name], text) for name, text in own.items()}
        return [(name, ", ".join(filter(None, texts))) for name, texts in every.items()]
    texts = {name: ", ".join(filter(None, (what[name], text))) for name, text in own.items()}
    return [
        ("methods" if len(own) > 1 else "method", ", ".join(own)),
        ("training", next(iter(training.values()))),
        *((name, text) for name, text in texts.items() if text),
    ]


def _training(method: Method) -> str:
    """How the clients of a method train."""
    text = f"eta = {method.learning_rate:g}, decay = {method.decay:g} per {method.decay_per}"
    for name in ("optimizer", "optimizer_state"):
        if name in method.values and method.values[name] != method.declared[name].default:
            text += f", {name.replace('_', ' ')} = {method.values[name]}"
    return text


def _say_of(to: Console, name: str, text: str) -> None:
    """A line that says one thing of the run, in as many as the width asks for."""
    indent = INDENT
    if len(name) > indent:  # alone in its line
        terminal.say(to, name)
        name = ""
    wide = max(to.width, 2 * indent) - indent - 2
    whole, apart = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", " = "
    lines = textwrap.wrap(text.replace(apart, whole), wide, break_on_hyphens=False)
    for head, line in zip([name, *[""] * len(lines)], lines, strict=False):
        terminal.say(to, f"{head:>{indent}}  {line.replace(whole, apart)}")


def seeds_text(seeds: Sequence[int]) -> str:
    """Which seeds, and how many where that is all that was asked for."""
    if len(seeds) > 1 and tuple(seeds) == tuple(range(len(seeds))):
        return f"{len(seeds)} seeds: 0 to {len(seeds) - 1}"
    return ", ".join(map(str, seeds))


def dealt_with(config: Config) -> dict[str, str]:
    """The numbers by which partitions deal, by partition."""
    shown: dict[str, str] = {}
    for name, field in schema.FIELDS.items():
        value = getattr(config, name)
        for partition in field.on:
            if partition in config.partitions and value not in (None, ()):
                word = f"{name.replace('_', ' ')} = {_value(value)}"
                if name == "concentration" and _reads(config, "alpha"):
                    word += " (papers' alpha; --alpha is the reputation's)"
                shown[partition] = ", ".join(filter(None, [shown.get(partition, ""), word]))
    return shown


def _value(value: Any) -> str:
    return (
        ",".join(map(variants.shown, value)) if isinstance(value, tuple) else variants.shown(value)
    )


def _reads(config: Config, option: str) -> bool:
    return any(option in method.values for method in config.methods)


def _draws(config: Config) -> str:
    """Which draws of a partition there are."""
    first, last = config.draws[0], config.draws[-1]
    return f"{len(config.draws)} of each partition, with partition seeds {first} to {last}"


def _alike(dealt: Sequence[Task]) -> Iterator[list[Task]]:
    """The draws of a partition whose clients hold equally many rows; at most `DRAWS` such groups.

    Where all clients hold equally many, as many classes too.
    """
    for _, draws in itertools.groupby(dealt, lambda task: task.partition):
        alike: dict[Any, list[Task]] = {}
        for task in draws:
            even = len(np.unique(task.sizes)) == 1
            key = task.sizes.tobytes(), task.classes.tobytes() if even else b""
            alike.setdefault(key, []).append(task)
        yield from itertools.islice(alike.values(), DRAWS)


def _who_takes_part(config: Config) -> str:
    """A sentence, empty where it is everybody."""
    parts = []
    if config.cohort is not None:
        how = "by reputation" if config.cohort_by == "reputation" else "at random"
        parts.append(f"{config.cohort} of {config.clients} clients a round, drawn {how}")
    if config.attendance is not None:
        parts.append(f"the clients listed in {config.attendance}")
    dropout = max(method.dropout for method in config.methods)
    if dropout > 0:
        parts.append(f"each drops out with probability {dropout:g}")
    for text in config.late:
        count, first = schema.late_joiners(text)
        parts.append(f"{count} clients join in round {first}")
    return "; ".join(parts)


def _who_cheats(cheats: Sequence[str]) -> str:
    """The attackers of every attack by number, the first of many."""
    found: dict[str, list[str]] = {}
    for client, name in enumerate(cheats):
        if name:
            found.setdefault(name, []).append(str(client))
    return "; ".join(
        f"{name}: {', '.join(who[:10])}{f' and {len(who) - 10} more' if len(who) > 10 else ''}"
        for name, who in found.items()
    )
