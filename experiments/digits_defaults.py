"""Chooses the training numbers of the data set `digits` on validation rows, and prints the table.

Digits has no published hyper-parameters. The learning rate is the one with the best mean standalone
accuracy, because fairness is a correlation with standalone accuracy and needs models that learn;
Gamma is then the one with the best mean client accuracy under cgsv. Of several values within one
standard error of the best, the smallest is taken. Accuracies are on the validation rows that no
client holds; the test set is not read. Likewise the decay of Gamma that is the preset `steady`, on
the partition of the first command; two more show what it is elsewhere.

    python -m experiments.digits_defaults --scale small
"""

import argparse

import jax

from cgsv_jax.experiment import deal, names
from experiments import common

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
GAMMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
DECAYS = (0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0)
PARTITIONS = ("uniform", "power_law", "class_imbalance")  # the last one decides
SCALES = {"smoke": (2, 1), "small": (60, 5), "full": (60, 20)}  # rounds, seeds


def sweep_one(name: str, values: tuple[float, ...], **asked: object) -> float:
    """Prints validation accuracy for every value of one hyper-parameter; returns the best."""
    config = names.configure(dataset="digits", **asked)
    (task,), (method,) = deal.tasks(config), config.methods
    inputs, labels = task.data.validation
    data = task.data._replace(test_inputs=inputs, test_labels=labels, validation=None)
    _, accuracy = common.over_settings(config, method, task, data, {name: values})
    accuracy = 100 * accuracy.mean(axis=2)  # [S, H]
    where = f"{method.name} on {task.partition}"
    print(f"\n| {name} | mean validation accuracy of {where}, % | sd over seeds |")
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
    scale = {"rounds": rounds, "seeds": seeds}
    scale |= {"partitions": "power_law"}
    rate = sweep_one("learning_rate", LEARNING_RATES, algorithms="standalone", **scale)
    asked = {"algorithms": "cgsv", "learning_rate": rate}
    gamma = sweep_one("gamma", GAMMAS, **asked, **scale)
    asked |= {"gamma": gamma}
    for partition in PARTITIONS:
        asked_there = {**asked, **scale, "partitions": partition}
        decay = sweep_one("gamma_decay", DECAYS, **asked_there)
    (used,) = names.configure(dataset="digits", algorithms="cgsv:steady", **scale).methods
    for what, numbers in (
        ("chosen", (rate, gamma, decay)),
        ("in use", (used.learning_rate, used.gamma, used.gamma_decay)),
    ):
        print("{}: learning_rate {:g}, gamma {:g}, decay of gamma {:g}".format(what, *numbers))
    print(f"{seeds} seeds, {rounds} rounds, {jax.devices()[0].device_kind}, jax {jax.__version__}")


if __name__ == "__main__":
    main()
