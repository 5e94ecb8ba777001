"""A FedAvg round in other simulators beside ours.

    python -m benchmarks.peers [--smoke] [--peers fedjax,drjax,...] [--json FILE]
                               [--cases mlp,logistic,tutorial_cnn] [--clients N] [--repeats 5]
                               [--limit 300] [--width W]

Prints a Markdown table, one row per case and peer; a peer that cannot be installed or run has a row
that says why.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

from benchmarks.peers import comparison, environments, work
from cgsv_jax.experiment.timing import Timing

HEADER = (
    "| case | peer | peer, a round | ours, a round | peer / ours | gap: first, last round "
    "| peer's start-up, first round |\n"
    "|---|---|---|---|---|---|---|"
)


def duration(timing: Timing) -> str:
    """Median and quartiles, in milliseconds or seconds."""
    unit, factor = ("s", 1.0) if timing.median >= 1 else ("ms", 1e3)
    digits = 2 if unit == "s" else 0 if timing.median >= 0.1 else 1
    low, mid, high = (
        f"{x * factor:.{digits}f}" for x in (timing.lower, timing.median, timing.upper)
    )
    return f"{mid} {unit} ({low}-{high})"


def row(result: comparison.Comparison) -> str:
    """A line under `HEADER`."""
    version = next(iter(result.versions.values()))
    workers = result.versions.get("workers")  # of a peer that has several kinds
    low, mid, high = (
        f"{x:.2f}" for x in (result.ratio.lower, result.ratio.median, result.ratio.upper)
    )
    cells = (
        result.case.title,
        f"{result.peer} {version}" + (f", {workers}" if workers else ""),
        duration(result.theirs),
        duration(result.ours),
        f"**{mid}** ({low}-{high})",
        f"{result.gap:.0e}, {result.last_gap:.0e}",
        f"{result.startup:.1f} s, {result.first:.2f} s",
    )
    return f"| {' | '.join(cells)} |"


def total(result: comparison.Comparison) -> str:
    """The whole of a published run, as a sentence."""
    theirs, ours = sum(result.theirs.seconds), sum(result.ours.seconds)
    return (
        f"{result.case.title}, {result.case.rounds} rounds in all: {result.peer} {theirs:.1f} s "
        f"(start-up {result.startup:.1f} s apart), ours {ours:.1f} s (first call, which compiles: "
        f"{result.our_first:.1f} s)."
    )


def plain(result: comparison.Comparison) -> dict[str, Any]:
    """Every number, for JSON."""

    def value(x: Any) -> Any:
        return x._asdict() if hasattr(x, "_asdict") else x

    return {name: value(x) for name, x in result._asdict().items()}


def _among(choices: dict) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = sorted(set(names) - set(choices))
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {unknown}, choose among {list(choices)}")
        return names

    return parse


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="tiny cases, numbers meaningless")
    parser.add_argument(
        "--peers", type=_among(environments.PEERS), default=list(environments.PEERS)
    )
    parser.add_argument("--cases", type=_among(work.CASES), default=list(work.CASES))
    parser.add_argument("--clients", type=int, help="fewer of them than the cases have")
    parser.add_argument("--width", type=int, help="clients that ours computes at once")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds of each side")
    parser.add_argument("--limit", type=float, default=300, help="seconds a peer's round may take")
    parser.add_argument("--json", type=Path, help="where to write every number")
    options = parser.parse_args(arguments)
    print(f"Device: {jax.devices()[0]}, {platform.processor() or platform.machine()}, ", end="")
    print(f"{os.cpu_count()} cores; ours: jax {jax.__version__}. Medians (quartiles).\n")
    print(HEADER)
    results, totals = [], []
    names = ("repeats", "smoke", "clients", "limit", "width")
    asked = {name: getattr(options, name) for name in names}
    for case in options.cases:
        for name in options.peers:
            try:
                result = comparison.compare(name, case, **asked)
            except comparison.PeerError as error:
                title, peer = work.CASES[case].title, environments.PEERS[name].title
                print(f"| {title} | {peer} | not measured: {error} | | | | |", flush=True)
                results.append({"case": case, "peer": peer, "error": str(error)})
                continue
            print(row(result), flush=True)
            results.append(plain(result))
            if result.case.rounds:
                totals.append(total(result))
    print("".join(f"\n{line}" for line in totals))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
