"""What the precision of local training does to scores, fairness and accuracy; scores are float32.

    python -m benchmarks.precision [--scale smoke|full]

Digits under class imbalance, cgsv and standalone, everything but `--precision` equal. "psi, round
1" is the largest difference of a client's score from the float32 run's after one round from the
same start: later rounds start from models that differ. A CPU multiplies float32 as it is whatever
"default" and "tensorfloat32" say, so that these rows differ from float32 on accelerators only.
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np

from cgsv_jax.core import local, metrics
from cgsv_jax.experiment import names, running

# Rounds, seeds, precisions; the first is what the others are compared with.
EVERY = ("float32", *(name for name in local.PRECISIONS if name != "float32"))
SCALES = {"smoke": (2, 1, ("float32", "bfloat16")), "full": (60, 5, EVERY)}


def table_of(scale: str = "full") -> str:
    """A Markdown table, a row per precision."""
    rounds, seeds, precisions = SCALES[scale]
    lines = [
        "| precision | fairness | mean accuracy, % | psi, round 1 |",
        "|---|---|---|---|",
    ]
    exact = None
    for precision in precisions:
        config = names.configure(
            partitions="class_imbalance",
            algorithms=("standalone", "cgsv"),
            rounds=rounds,
            seeds=seeds,
            eval_every=rounds,
            precision=precision,
        )
        alone, cgsv = running.run(config).cells
        fairness = [
            float(metrics.fairness(a[-1], c[-1]))
            for a, c in zip(alone.evaluation.accuracy, cgsv.evaluation.accuracy, strict=True)
        ]
        defined = [f for f in fairness if np.isfinite(f)]
        mean = 100 * cgsv.evaluation.accuracy[:, -1].mean(axis=1)
        score = cgsv.record.score[:, 0]
        exact = score if exact is None else exact
        shown = f"{np.mean(defined):.1f} ± {np.std(defined):.1f}" if defined else "undefined"
        lines.append(
            f"| {precision} | {shown} ({len(defined)} of {seeds} seeds) "
            f"| {mean.mean():.2f} ± {mean.std():.2f} | {np.abs(score - exact).max():.1e} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    options = parser.parse_args(argv)
    rounds, seeds, _ = SCALES[options.scale]
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {rounds} rounds, {seeds} seeds\n"
    )
    print(table_of(options.scale))


if __name__ == "__main__":
    main()
