"""Chooses the training numbers of the data set `digits` on validation rows, and prints the table.

Digits has no published hyper-parameters. The learning rate is the one with the best mean standalone
accuracy, because fairness is a correlation with standalone accuracy and needs models that learn;
Gamma is then the one with the best mean client accuracy under cgsv. Of several values within one
standard error of the best, the smallest is taken. Accuracies are on the validation rows that no
client holds; the test set is not read.

    python -m experiments.digits_defaults --scale small
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax import experiment, simulation, sweep
from cgsv_jax.types import Hyper

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
GAMMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SCALES = {"smoke": (2, 1), "small": (60, 5), "full": (60, 20)}  # rounds, seeds


def validation_accuracy(config: experiment.Config, hyper: Hyper) -> np.ndarray:
    """Final accuracy on validation rows [S, H, N] of the config's only method."""
    (problem,), (method,) = experiment.problems(config), config.methods
    inputs, labels = problem.data.validation
    data = problem.data._replace(test_inputs=inputs, test_labels=labels, validation=None)

    def final(key, hyper, data, clients):
        parts = experiment.parts(config, method, problem, hyper)
        settings = experiment.settings(config, problem)._replace(eval_every=config.rounds)
        return simulation.run(key, data, clients, settings=settings, **parts)[2].accuracy[-1]

    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds, jnp.uint32))
    grid = jax.jit(lambda *args: sweep.grid(final, *args, width=1))
    return np.asarray(grid(keys, hyper, data, problem.clients))


def sweep_one(name: str, values: tuple[float, ...], **asked: object) -> float:
    """Prints validation accuracy for every value of one hyper-parameter; returns the best."""
    config = experiment.configure(dataset="digits", **asked)
    count = len(values)
    hyper = jax.tree.map(lambda x: jnp.full(count, x, jnp.float32), config.methods[0].hyper())
    hyper = hyper._replace(**{name: jnp.asarray(values, jnp.float32)})
    accuracy = 100 * validation_accuracy(config, hyper).mean(axis=2)  # [S, H]
    print(f"\n| {name} | mean validation accuracy of {config.methods[0].name}, % | sd over seeds |")
    print("|---|---|---|")
    for i, value in enumerate(values):
        spread = accuracy[:, i].std(ddof=1) if len(accuracy) > 1 else float("nan")
        print(f"| {value:g} | {accuracy[:, i].mean():.2f} | {spread:.2f} |")
    mean, best = accuracy.mean(axis=0), int(accuracy.mean(axis=0).argmax())
    error = accuracy[:, best].std(ddof=1) / len(accuracy) ** 0.5 if len(accuracy) > 1 else 0.0
    return min(v for v, m in zip(values, mean, strict=True) if m >= mean[best] - error)


def main(argv: list[str] | None = None) -> None:
    """Runs both sweeps at the chosen scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="small")
    rounds, seeds = SCALES[parser.parse_args(argv).scale]
    common = {"rounds": rounds, "seeds": seeds}
    rate = sweep_one("learning_rate", LEARNING_RATES, algorithms="standalone", **common)
    gamma = sweep_one("gamma", GAMMAS, algorithms="cgsv", learning_rate=rate, **common)
    config = experiment.configure(dataset="digits", **common)
    used = dataclasses.asdict(config.methods[0])
    print(f"\nchosen: learning_rate {rate:g}, gamma {gamma:g}")
    print(f"in use: learning_rate {used['learning_rate']:g}, gamma {used['gamma']:g}")
    print(f"{seeds} seeds, {rounds} rounds, {jax.devices()[0].device_kind}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
