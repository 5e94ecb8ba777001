"""`cgsv show`: the tables of finished runs and sweeps again, from their files alone."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
from rich.console import Console

from cgsv_jax.command.flags import Show
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as experiment_names
from cgsv_jax.host import files, terminal
from cgsv_jax.results import differences, tables
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.tables import Report
from cgsv_jax.sweep import results as sweep_results


class Shown(NamedTuple):
    """What is known of a finished run or sweep."""

    name: str  # its directory's, all different
    directory: pathlib.Path
    run: directory_lib.Run | None  # None of a sweep
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    reports: Sequence[Report]
    lines: Sequence[str]  # below them
    table: pl.DataFrame  # means over seeds: a row per partition and method, and per point


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
    return Shown(name, path, run, run.config, run.environment, reports, lines, table)


def _sweep(name: str, path: pathlib.Path, console_width: int) -> Shown:
    config, _, points = sweep_results.read(path)
    report, lines = sweep_results.told_again(path)
    environment = directory_lib.read_json(path, "environment.json")
    return Shown(name, path, None, config, environment, [report], lines, points)


def show(args: Show) -> None:
    """Prints them in the terminal's form, as Markdown, as LaTeX, or the means as CSV."""
    forms = [name for name in ("markdown", "latex", "csv") if getattr(args, name)]
    if len(forms) > 1:
        raise ConfigError(f"--{forms[0]} and --{forms[1]} are two forms, one can be printed")
    console = terminal.console()
    every = read(args.runs, console.width)
    if forms == ["csv"]:
        terminal.say(console, csv(every).rstrip("\n"))
        return
    names = [own.name for own in every]
    configs, environments = ([getattr(own, x) for own in every] for x in ("config", "environment"))
    _print(console, differences.report(configs, environments, names), forms)
    for own in every:
        if len(every) > 1:
            heading = {"markdown": f"## {tables.markdown_text(own.name)}\n"}
            heading |= {"latex": rf"\paragraph{{{tables.latex_text(own.name)}}}"}
            terminal.say(console, heading.get("".join(forms), f"\n{own.name}: {own.directory}\n"))
        _print(console, own.reports, forms)
        for line in own.lines:
            text = {"markdown": tables.markdown_text, "latex": tables.latex_text}
            terminal.say(console, text.get("".join(forms), str)(line))


def _print(console: Console, reports: Sequence[Report], forms: Sequence[str]) -> None:
    for report in reports:
        if forms:
            text = {"markdown": tables.markdown_of, "latex": tables.latex}[forms[0]](report)
            terminal.say(console, text + "\n")
        else:
            console.print()
            console.print(report)


def csv(every: Sequence[Shown]) -> str:
    """The means over seeds, a row per run, partition and method, and per point of a sweep."""
    labelled = [own.table.select(pl.lit(own.name).alias("run"), pl.all()) for own in every]
    table = pl.concat(labelled, how="diagonal_relaxed")
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
    joined = (pl.col(name).cast(pl.List(pl.String)).list.join(", ") for name in lists)
    return table.with_columns(joined).write_csv()
