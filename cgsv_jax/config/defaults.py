"""What an experiment is when nobody says otherwise, and where the numbers come from."""

from typing import Any

from cgsv_jax.config.schema import FIELDS, Tables

# `paper` is what the text says, `released` what the released PyTorch code (commit 7376663) does,
# `steady` the text with a Gamma that decays, this project's own (see rules/rescale.py). Every line
# is a flag of its own.
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
# By `python -m experiments.digits_defaults`.
PRESETS["steady"] = {**PRESETS["paper"], "gamma_decay": 0.97}
# What the released code sets for a data set where it differs from `data.DATASETS`.
RELEASED_TRAINING: dict[str, dict[str, Any]] = {"mnist": {"learning_rate": 1e-3, "decay": 0.955}}

# What an experiment is when nobody says otherwise, beside the fields' own defaults. Under class
# imbalance clients differ, alone by 79 points and together by several, so that fairness is a
# statement about them; under a power law with ten clients all end within a few test rows.
DEFAULTS: dict[str, Any] = {
    "dataset": "digits",
    "preset": "paper",
    "algorithms": ("standalone", "fedavg", "fedavg_finetuned", "cgsv", "cgsv:steady"),
    "clients": 10,
    "partitions": ("class_imbalance",),
    "seeds": 3,
}


def default_of(name: str, tables: Tables) -> tuple[Any, dict[str, Any]]:
    """An option's value where nobody gives it, and other values.

    Returns:
      The value, of the usual data set and preset, and data set, preset, method or part of one ->
      the value that it has instead.
    """
    field, option = FIELDS.get(name), tables.options.get(name)
    declared = option or (field and field.kind)
    base = DEFAULTS.get(name, declared and declared.default)
    of_sets = {who: source.training for who, source in tables.datasets.items()}
    others = {}
    for usual, table in ((DEFAULTS["dataset"], of_sets), (DEFAULTS["preset"], PRESETS)):
        own = {who: values[name] for who, values in table.items() if name in values}
        base = own.get(usual, base)
        others |= own
    for table in (tables.algorithms, *tables.parts.values()):
        others |= {who: s.defaults[name] for who, s in table.items() if name in s.defaults}
    return base, {who: value for who, value in others.items() if value != base}
