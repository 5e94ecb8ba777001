"""The declarations of rules as functions of all numbers and all choices, for tests of many rules.

`METHODS[name](hyper, options)` is the method with those of the numbers and choices that it reads;
so are the other tables. A field that nobody has declared is an error.
"""

import collections
import functools

from cgsv_jax.config import schema
from cgsv_jax.experiment import names
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Number

TABLES = names.TABLES
_NUMBERS = {
    flag: option.default
    for flag, option in TABLES.options.items()
    if isinstance(option, Number) and not option.instead_of
}
_CHOICES = {
    flag: option.default
    for flag, option in TABLES.options.items()
    if not isinstance(option, Number) and flag not in schema.TRAINING
}
_GIVEN = {"tensors": (), "rounds": 0, "network": None}

Hyper = collections.namedtuple("Hyper", _NUMBERS, defaults=_NUMBERS.values())
# `removes` says whether the switched number `removal` counts.
_WHOLE = _CHOICES | _GIVEN | {"removes": False}
Options = collections.namedtuple("Options", _WHOLE, defaults=_WHOLE.values())


def made(spec, hyper=None, options=None):
    """The rule of a declaration."""
    chosen = (options or Options())._asdict()
    values = (hyper or Hyper())._asdict()
    given = {name: chosen.pop(name) for name in _GIVEN}
    removes = chosen.pop("removes")
    # A method that is another's declaration with other parts is those, where nobody says otherwise.
    own = spec_lib.defaults_of(spec, {}, TABLES.parts)
    parts = [name for name in own if name in ("contribution", *spec_lib.OF_MEASURES)]
    chosen |= {name: own[name] for name in parts if chosen[name] == _CHOICES[name]}
    reads = spec_lib.options_of(spec, chosen, TABLES.parts)
    off = [n for n, o in reads.items() if isinstance(o, Number) and o.switch and not removes]
    values = {name: value for name, value in values.items() if name not in off}
    return spec_lib.made(spec, values | chosen, given, TABLES.parts)


def _functions(table):
    return {name: functools.partial(made, spec) for name, spec in table.items()}


METHODS = _functions(TABLES.algorithms)
CONTRIBUTIONS = _functions(TABLES.contributions)
AGGREGATIONS = _functions(TABLES.aggregations)
REWARDS = _functions(TABLES.rewards)
GAMES = _functions(TABLES.games)
# method -> the options that it reads, whatever its parts are
READS = {
    name: set(spec_lib.every_option([spec], TABLES.parts))
    for name, spec in TABLES.algorithms.items()
}
# Measures of a game, and of these the ones that draw orders, or leave them early.
_PARTS = {name: spec for name, spec in TABLES.contributions.items() if "game" in spec.parts}
SOLUTIONS = {
    name: lambda game, hyper=None, options=None, spec=spec: made(
        spec._replace(parts={"game": spec_lib.Spec(lambda: game)}), hyper, options
    )
    for name, spec in _PARTS.items()
}
SAMPLED = tuple(name for name, spec in _PARTS.items() if "permutations" in spec.options)
TRUNCATED = tuple(name for name, spec in _PARTS.items() if "tolerance" in spec.options)
