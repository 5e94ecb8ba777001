"""What a person sees of a run while it lasts."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cgsv_jax.config.schema import Config
from cgsv_jax.experiment import bind, running
from cgsv_jax.host import terminal

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def watching(console: "Console", config: Config) -> Iterator[Callable[[running.Progress], None]]:
    """Shows how far the rounds of all methods are, while the body lasts."""
    total = sum(bind.rounds_of(config, method) for method in config.methods)
    total *= bind.runs_of_each(config)
    seeds = len(config.seeds)
    # Rounds of the methods before this one, and its own; which it is, and its latest accuracies.
    finished, own, latest, state = 0, 0, (), ""

    def look(p: running.Progress) -> None:
        nonlocal finished, own, latest, state
        if (here := (p.partition, p.partition_seed, p.method)) != latest:
            finished, own, latest, state = finished + own, p.rounds, here, ""
        draw = f" {p.partition_seed}" if len(config.draws) > 1 else ""
        name, done = f"{p.partition}{draw} {p.method}", finished + p.round
        each = f"rounds ({p.rounds // seeds:,} × {seeds} seeds)" if seeds > 1 else "rounds"
        part = p.round, p.rounds, each
        if p.compiling:
            watch(name, done, state="compiling", now=True, part=part)
            return
        if p.accuracy is not None:  # not every segment ends in an evaluation
            mean, most = 100 * p.accuracy.mean(), 100 * p.accuracy.max()
            state = f"accuracy {mean:.1f} %, best {most:.1f} %"
        watch(name, done, p.rounds_per_second, state, now=p.round == p.rounds, part=part)

    with terminal.watching(console, total, "rounds") as watch:
        yield look
