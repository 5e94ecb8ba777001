"""The `cgsv` command: flags in, a run directory and tables out.

What computes, writes and draws is imported by the action that needs it: help is there at once.
"""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from cgsv_jax import data
from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command.flags import Data, Export, List, Plot, Prepare, Report, Show
from cgsv_jax.config import validate
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names
from cgsv_jax.host import files, terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0; 1 when results cannot be written, or what was to be printed could not be; 2 for bad input,
    files that cannot be read among it; 129, 130 or 143 when it was told to stop. With CGSV_DEBUG in
    the environment a refusal shows where it comes from.
    """
    with terminal.guarded() as lost:
        words = sys.argv[1:] if argv is None else list(argv)
        if any(word.partition("=")[0] == "--setting" for word in words):
            terminal.complain("--setting is now called --preset")
        try:
            if words[:1] == ["--version"]:
                return _version()
            tables = names.tables(_plugin_of(words))
        except ConfigError as error:
            terminal.complain(str(error))
            return 2
        actions = flags_lib.training_actions(tables)
        if said := flags_lib.misheard(words, actions):
            terminal.complain(said)
            return 2
        return _answered(_parsed(words, flags_lib.commands(actions)), lost)


def _version() -> int:
    """Versions of what computes, and the devices that JAX finds."""
    from cgsv_jax.command import train
    from cgsv_jax.results import environment

    train.must_have_devices()
    found = environment.versions()
    device = environment.device()
    lines = [f"cgsv_jax {found.pop('cgsv_jax')}"]
    lines += [f"{name} {version}" for name, version in found.items()]
    lines += [f"devices: {device['count']} x {device['platform']} ({device['kind']})"]
    terminal.say(terminal.console(), "\n".join(lines))
    return 0


def _plugin_of(words: Sequence[str]) -> str | None:
    """The file that --plugin names, before the parser knows which flags there are."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--plugin" and following:
            return following
        if word.startswith("--plugin="):
            return word.partition("=")[2]
    return None


def _parsed(words: list[str], commands: Any) -> Any:
    """The command that was asked for; the parser prints help, and what is wrong, and exits."""
    cli = functools.partial(
        tyro.cli,
        commands,
        prog="cgsv",
        description="Fair collaborative learning in JAX: flags in, a run directory and tables out. "
        "`cgsv --version` prints versions and devices.",
    )
    if words != (plain := [terminal.plain(word) for word in words]):
        # The parser repeats what it does not know as it is.
        nowhere = io.StringIO()
        with (
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            contextlib.suppress(SystemExit),
        ):
            return cli(args=words)
        words = plain
    return cli(args=words)


def _answered(command: Any, lost: Callable[[], bool]) -> int:
    """The border: what is wrong with a word or a file is a sentence, and an exit code."""
    from cgsv_jax.command import stopping

    command = command.action if isinstance(command, Data) else command
    action = {
        "compare": _train,
        "run": _train,
        "sweep": _sweep,
        Plot: _plot,
        Show: _show,
        Report: _report,
        Export: _export,
        List: _list,
        Prepare: _prepare,
    }
    try:
        action[getattr(command, "command", type(command))](command)
    except (ValueError, OSError) as error:
        if "CGSV_DEBUG" in os.environ:
            raise
        name = getattr(error, "filename", None)  # of an error of the system's
        reason = str(error) if name is None else f"{name}: {files.reason_of(error)}"
        terminal.complain(reason or repr(error))
        return stopping.BAD_INPUT
    except stopping.Ended as end:
        terminal.complain(str(end))
        return end.code
    except KeyboardInterrupt as stopped:
        terminal.complain(str(stopped) or "interrupted, no results are written")
        return stopping.INTERRUPTED
    return stopping.FAILED if lost() else 0


def _train(args: Any) -> None:
    from cgsv_jax.command import train

    train.train(args)


def _sweep(args: Any) -> None:
    from cgsv_jax.command import sweep as sweep_command

    flags = flags_lib.given(args)
    where = flags_lib.SWEEP | flags_lib.RAY | flags_lib.OUTPUT
    own = {name: flags.pop(name) for name in where if name in flags}
    sweep_command.command(validate.fields_of(flags), own)


def _show(args: Show) -> None:
    from cgsv_jax.command import show

    show.show(args)


def _report(args: Report) -> None:
    from cgsv_jax.command import report

    report.report(args)


def _plot(args: Plot) -> None:
    from cgsv_jax.results import differences, figures
    from cgsv_jax.results import directory as directory_lib
    from cgsv_jax.sweep import figures as sweep_figures
    from cgsv_jax.sweep import results as sweep_results

    formats = figures.known_formats([word.strip() for word in args.format.split(",")])
    if not args.runs:
        raise ConfigError("cgsv plot needs at least one run directory")
    paths = [files.path_of(word, "the run's directory") for word in args.runs]
    sweeps = [path for path in paths if sweep_results.is_sweep(path)]
    runs = [directory_lib.read(path) for path in paths if path not in sweeps]
    several = "figures" if len(paths) > 1 else None
    out = args.out or several
    drawn = figures.draw(runs, out, formats) if runs else []
    for path, name in zip(sweeps, differences.names(sweeps), strict=True):
        own = out and files.path_of(out, "--out") / (name if several else "")
        drawn += sweep_figures.again(path, own, formats=formats)
    console = terminal.console()
    for file in drawn:
        terminal.say(console, str(file))
    if said := differences.sentence([run.config for run in runs]):
        terminal.say(console, f"the runs {said}")


def _export(args: Export) -> None:
    from cgsv_jax.results import saved

    client = int(args.client) if args.client.isdecimal() else args.client
    which = (args.method, args.seed, args.partition, args.partition_seed)
    file = saved.export(args.run, args.out, client, *which)
    terminal.say(terminal.console(), str(file))


def _list(args: List) -> None:
    for line in data.available(args.data_dir):
        train, test = line.num_rows
        shape = " x ".join(map(str, line.input_shape))
        what = f"{line.num_classes} classes  {train:>6} + {test:>5} rows  {line.description}"
        where = f"{'here' if line.present else 'not here'}: {line.where}"
        terminal.say(terminal.console(), f"{line.name:10} {shape:>12}  {what}\n{'':10} {where}")


def _prepare(args: Prepare) -> None:
    folder = data.prepare(args.name, args.data_dir, args.archive)
    terminal.say(terminal.console(), str(folder))
