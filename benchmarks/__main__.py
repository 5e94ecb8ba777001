"""The whole table: every question in turn, as Markdown and as JSON.

    python -m benchmarks [--scale smoke|full] [--only name,...] [--json FILE]

Questions are asked one after another. Each waits until the load of the machine is at most 1, for
three minutes; where it is not, what follows is not called measured, and the row says so. MNIST
comes from TFDS_DATA_DIR where it is there; FedJAX from an environment of its own, made on demand.
"""

import argparse
import importlib
import json
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence

import jax

from benchmarks import common, table
from cgsv_jax.experiment import timing

QUESTIONS = (
    "local_training",
    "evaluation",
    "server_step",
    "methods",
    "exact_shapley",
    "whole_round",
    "fedjax_rounds",
    "sweeps",
    "sweep_command",
    "padding",
    "population",
    "compile_time",
    "gpu_rounds",
)


def rows_of(name: str) -> Callable[[str], list[table.Row]]:
    """The function of a question; its module is imported when it is asked."""
    return importlib.import_module(f"benchmarks.{name}").rows


def environment() -> dict[str, object]:
    """What the numbers depend on."""
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind} x {jax.device_count()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": common.torch_version(),
        "matrix_rate": timing.matrix_rate(),
        "copy_rate": timing.copy_rate(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; the exit code is 1 where a question could not be answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=("smoke", "full"), default="full")
    parser.add_argument("--only", default=",".join(QUESTIONS), help="names, comma-separated")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    unknown = sorted(set(names) - set(QUESTIONS))
    if unknown:
        parser.error(f"no question {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    where = environment()
    rates = f"{where['matrix_rate'] / 1e9:.0f} GFLOP/s, {where['copy_rate'] / 1e9:.0f} GB/s"
    versions = f"jax {where['jax']}, torch {where['torch']}, Python {where['python']}"
    print(f"{where['device']}, {versions}; {rates} at the start.")
    print("Seconds and ratios are medians (quartiles).\n")
    print(table.HEADER, flush=True)
    found, failed = [], []
    for name in names:
        clock = time.perf_counter()
        try:
            answers = common.answered(rows_of(name), options.scale)
        except Exception as error:  # one question's failure is no reason to lose the others
            failed.append(name)
            print(f"| {name} | | | | not measured | | | | | | {_first_line(error)} |", flush=True)
            continue
        took = time.perf_counter() - clock
        print("\n".join(map(table.markdown, answers)), flush=True)
        print(f"{name}: {took:.0f} s", file=sys.stderr)
        found += [{"question": name, **table.json_of(row)} for row in answers]
    if options.json:
        text = json.dumps({"environment": where, "rows": found, "failed": failed}, indent=1)
        options.json.write_text(text + "\n")
    return 1 if failed else 0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


if __name__ == "__main__":
    raise SystemExit(main())
