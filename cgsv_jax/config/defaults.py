"""What an experiment is when nobody says otherwise, and where the numbers come from."""

import dataclasses
from typing import Any

from cgsv_jax.config.schema import Config, Tables

# MNIST and CIFAR-10 have the released code's numbers (rounds, epochs, batch, Gamma). MNIST's
# learning rate is that of its argument file: with the 1e-3 that its main file sets, what does not
# rescale uploads hardly learns, and fairness would correlate untrained models.
# Digits has no published numbers: experiments/digits_defaults.py chooses them on validation rows.
# SST and MR have the released code's numbers, Adam included.
# Synthetic has digits' numbers and is for timing.
# `clip` and `growth` are CFFL's (commit 5c8f854), whose digits have those of its MNIST.
TRAINING: dict[str, dict[str, Any]] = {
    "digits": {
        "rounds": 60,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
    "mnist": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.15,
        "decay": 0.977,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
    "cifar10": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.015,
        "decay": 0.977,
        "gamma": 0.15,
        "clip": 0.001,
        "growth": 0.0,
    },
    "sst": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "decay": 0.977,
        "gamma": 1.0,
        "clip": 0.001,
        "growth": 0.0,
        "optimizer": "adam",
    },
    "mr": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 5e-5,
        "decay": 0.977,
        "gamma": 1.0,
        "clip": 0.001,
        "growth": 0.0,
        "optimizer": "adam",
    },
    "synthetic": {
        "rounds": 30,
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
}

# The two presets of the option table. `paper` is what the text says, `released` what the released
# PyTorch code (commit 7376663) does; every line is a flag of its own.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "mask_scope": "vector",
        "mask_count": "floor",
        "mask_ties": "position",
        "norm_epsilon": 0.0,
        "cosine_epsilon": 0.0,
        "floor": 1e-3,
        "first_weights": "size",
        "decay_per": "round",
        "beta": 1.0,
    },
    "released": {
        "mask_scope": "tensor",
        "mask_count": "ceil",
        "mask_ties": "all",
        "norm_epsilon": 1e-7,
        "cosine_epsilon": 1e-10,
        "floor": 1e-3,
        "first_weights": "size",
        "decay_per": "epoch",
        "beta": 1.0,
    },
}
# What the released code sets for a data set where it differs from TRAINING.
RELEASED_TRAINING: dict[str, dict[str, Any]] = {"mnist": {"learning_rate": 1e-3, "decay": 0.955}}

# What an experiment is when nobody says otherwise, beside the fields' own defaults.
DEFAULTS: dict[str, Any] = {
    "dataset": "digits",
    "preset": "paper",
    "algorithms": ("standalone", "fedavg", "cgsv"),
    "clients": 10,
    "partitions": ("power_law",),
    "seeds": 3,
}


def default_of(name: str, tables: Tables) -> tuple[Any, dict[str, Any]]:
    """An option's value where nobody gives it, None if there is no general one, and other values.

    Returns:
      The value, and data set, preset, method or part of one -> the value that it has instead.
    """
    fields = {f.name: f.default for f in dataclasses.fields(Config)}
    fields |= {flag: option.default for flag, option in tables.options.items()}
    fields = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    base, others = (fields | DEFAULTS).get(name), {}
    rules = tables.algorithms, *tables.parts.values()
    for table in (TRAINING, PRESETS, *({w: s.defaults for w, s in own.items()} for own in rules)):
        own = {who: values[name] for who, values in table.items() if name in values}
        if table in (TRAINING, PRESETS) and len(own) == len(table):  # no general one, or they agree
            base = next(iter(own.values())) if len(set(own.values())) == 1 else None
        others |= own
    return base, {who: value for who, value in others.items() if value != base}
