"""`cgsv show`: the tables of finished runs and sweeps again, from their files alone."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl
from rich.console import Console

from cgsv_jax.command.flags import Show
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as experiment_names
from cgsv_jax.host import files, terminal
from cgsv_jax.results import differences, page, tables
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.tables import Report
from cgsv_jax.sweep import results as sweep_results


class Shown(NamedTuple):
    """What is known of a finished run or sweep."""

    section: page.Section  # named by its directory, all differently
    directory: pathlib.Path
    table: pl.DataFrame  # means over seeds: a row per partition and method, and per point


class _Form(NamedTuple):
    """How something is printed for another program."""

    report: Callable[[Report], str]
    text: Callable[[str], str]
    heading: str


_FORMS = {
    "markdown": _Form(tables.markdown_of, tables.markdown_text, "## {}\n"),
    "latex": _Form(tables.latex, tables.latex_text, r"\paragraph{{{}}}"),
}


def read(words: Sequence[str], console_width: int = 80) -> list[Shown]:
    """Finished runs and sweeps.

    Args:
      words: their directories.
      console_width: characters in a line.

    Raises:
      ValueError: one of them is none, is unfinished, or is damaged.
    """
    if not words:
        raise ConfigError("no run directory is given, at least one is needed")
    paths = [files.path_of(word, "the run's directory") for word in words]
    names = differences.names(paths)
    return [
        (_sweep if sweep_results.is_sweep(path) else _run)(name, path, console_width)
        for name, path in zip(names, paths, strict=True)
    ]


def _run(name: str, path: pathlib.Path, console_width: int) -> Shown:
    run = directory_lib.read(path)
    with files.reading(path):
        reports = [
            *tables.holdings_of(run.clients),
            *tables.reports(run._asdict(), console_width),
            tables.seconds(run.timing),
        ]
        table = frames_lib.fairness_table(run.summary)
    said = resolve.unsaid_of(run.config, experiment_names.TABLES)
    lines = [f"{method} is {what}" for method, what in said.items()]
    return Shown(page.Section(name, run.config, run.environment, reports, lines, run), path, table)


def _sweep(name: str, path: pathlib.Path, console_width: int) -> Shown:
    config, table, points = sweep_results.read(path)
    report, lines = sweep_results.told_again(path, config, table, points)
    environment = directory_lib.read_json(path, "environment.json")
    return Shown(page.Section(name, config, environment, [report], lines, None), path, points)


def differ(every: Sequence[Shown]) -> list[Report]:
    """See `differences.report`."""
    sections = [own.section for own in every]
    configs, environments = [x.config for x in sections], [x.environment for x in sections]
    return differences.report(configs, environments, [x.name for x in sections])


def show(args: Show) -> None:
    """Prints them in the terminal's form, as Markdown, as LaTeX, or the means as CSV."""
    forms = [name for name in (*_FORMS, "csv") if getattr(args, name)]
    if len(forms) > 1:
        raise ConfigError(f"--{forms[0]} and --{forms[1]} are two forms, one can be printed")
    console = terminal.console()
    every = read(args.runs, console.width)
    if forms == ["csv"]:
        terminal.say(console, csv(every).rstrip("\n"))
        return
    form = _FORMS[forms[0]] if forms else None
    _print(console, differ(every), form)
    for section, directory, _ in every:
        if len(every) > 1:
            heading = f"\n{section.name}: {directory}\n"
            terminal.say(console, form.heading.format(form.text(section.name)) if form else heading)
        _print(console, section.reports, form)
        for line in section.lines:
            terminal.say(console, form.text(line) if form else line)


def _print(console: Console, reports: Sequence[Report], form: _Form | None) -> None:
    for report in reports:
        if form:
            terminal.say(console, form.report(report) + "\n")
        else:
            console.print()
            console.print(report)


def csv(every: Sequence[Shown]) -> str:
    """The means over seeds, a row per run, partition and method, and per point of a sweep."""
    labelled = [own.table.select(pl.lit(own.section.name).alias("run"), pl.all()) for own in every]
    table = pl.concat(labelled, how="diagonal_relaxed")
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
    joined = (pl.col(name).cast(pl.List(pl.String)).list.join(", ") for name in lists)
    return table.with_columns(joined).write_csv()
