"""The names that an experiment may use, and the configuration made of them."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from cgsv_jax import data as data_lib
from cgsv_jax import models
from cgsv_jax.config import resolve, schema, validate
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.core import attacks, local
from cgsv_jax.data import arrays
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.experiment import plugins
from cgsv_jax.host import files
from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.rules.contribution import CONTRIBUTIONS, GAMES
from cgsv_jax.rules.methods import METHODS
from cgsv_jax.rules.reward import REWARDS

# name -> learning rate -> optax transformation
OPTIMIZERS = {
    "sgd": optax.sgd,
    "clipped_sgd": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}

# What rules of one's own are given as; a plugin spells them in capitals.
OWN = tuple(name.lower() for name in plugins.FIELDS)

TABLES = schema.Tables(
    datasets=data_lib.DATASETS,
    models=models.MODELS,
    partitions=partition_lib.PARTITIONS,
    algorithms=METHODS,
    contributions=CONTRIBUTIONS,
    aggregations=AGGREGATIONS,
    rewards=REWARDS,
    optimizers=OPTIMIZERS,
    precisions=local.PRECISIONS,
    convs=models.FORMS,
    games=GAMES,
    attacks=attacks.ATTACKS,
    strengths=attacks.STRENGTHS,
)


def tables(plugin: Any = None, dataset: Any = None, **own: Mapping[str, Any]) -> schema.Tables:
    """The names that there are, with those of a plugin and one's own.

    Args:
      plugin: a file that defines tables, see `plugins`.
      dataset: of an experiment; a .npz file is a data set of one's own under its absolute path.
      **own: any of `OWN`: name -> declaration or, of partitions and models, function; of
        data sets, `data.Source`.

    Raises:
      ConfigError: what is no declaration, or a name that there is already.
    """
    found = TABLES if plugin is None else _with_file(*plugins.read(plugin))
    if arrays.is_file(dataset):
        path = located(dataset)
        mine = {**found.datasets, path: data_lib.of_file(path)}
        found = dataclasses.replace(found, datasets=mine)
    return plugins.merged(found, {name.upper(): own[name] for name in own}) if own else found


def located(dataset: Any) -> Any:
    """A data set's name; of a file the path from where this process is."""
    return validate.absolute("dataset", dataset) if arrays.is_file(dataset) else dataset


@functools.lru_cache(maxsize=4)
def _with_file(path: str, content: bytes) -> schema.Tables:
    # Once for all points of a sweep.
    return plugins.loaded(path, content, TABLES)


def with_plugin(options: Mapping[str, Any], plugin: Any) -> dict[str, Any]:
    """Options from a file, which may need a plugin: only one that somebody names is executed.

    Raises:
      ConfigError: they need one, and nobody names it.
    """
    needed = options.get("plugin")
    if needed is not None and plugin is None:
        raise ConfigError(resolve.missing_plugin(needed))
    return {**options, **({"plugin": plugin} if needed is not None else {})}


def read(file: Any, plugin: Any = None, edited: Callable[[str], None] = warnings.warn) -> Config:
    """The configuration that a file holds: `run(read(file))` repeats a run.

    Args:
      file: the config.json of a run, or its directory; or a .toml file, which says no more than
        somebody asks for, in the words of `configure`.
      plugin: a file of rules of one's own, where the run had one; it must be the same.
      edited: told, in a sentence, that a config.json was changed since it was written.

    Raises:
      ConfigError: on what is missing, unknown or out of range, and where the run was on arrays
        from Python: then `deal.again` takes them.
      ValueError: it cannot be read.
    """
    path = files.path_of(file, "--config")
    if path.suffix == ".toml":
        return configure(**validate.fields_of(with_plugin(files.read_toml(path), plugin)))
    values = document(path, edited)
    return resolve.from_dict(values, tables(plugin, values.get("dataset")))


def document(file: Any, edited: Callable[[str], None] = warnings.warn) -> dict[str, Any]:
    """What a config.json says, unjudged, of which a run directory may be named in its place."""
    path = files.path_of(file, "--config")
    inside = path / "config.json" if files.kind(path) == "folder" else path
    return files.read_json(inside, edited=edited)


def configure(
    plugin: Any = None, plugin_sha256: str | None = None, named: bool = True, **asked: Any
) -> Config:
    """A complete configuration; see `config.resolve` for the names.

    Args:
      plugin: a file of rules of one's own, see `plugins`.
      plugin_sha256: what the digest of its content must be, if that is known.
      named: as `config.resolve` has it.
      **asked: options by name; and any of `OWN`, a dictionary of rules of one's own. In `methods`
        a declaration is a method of one's own, a dictionary a variant of one that there is:
        `{"mine": {"algorithm": "cgsv", "contribution": "shapley", "beta": 5}}`.

    >>> configure(dataset="digits", clients=5, algorithms=["cgsv"], beta=2.0).methods[0].beta
    2.0
    """
    if "setting" in asked:
        warnings.warn("setting is now called preset", DeprecationWarning, stacklevel=2)
        asked["preset"] = asked.pop("setting")
    if asked.get("devices") is None:
        asked["devices"] = jax.device_count()
    own = {name: asked.pop(name) for name in OWN if isinstance(asked.get(name), Mapping)}
    methods = own.pop("methods", {})
    asked |= {"methods": variants} if (variants := _those(methods, True)) else {}
    own |= {"methods": rules} if (rules := _those(methods, False)) else {}
    if "dataset" in asked:
        asked["dataset"] = located(asked["dataset"])
    there = tables(plugin, asked.get("dataset"), **own)
    if plugin_sha256 is not None:
        resolve.refuse_other_plugin(plugin, plugin_sha256, there)
    return resolve.resolve(there, jax.default_backend(), named, **asked)


def _those(methods: Mapping[str, Any], described: bool) -> dict[str, Any]:
    """The methods that are described by a dictionary, or those that are not."""
    return {k: value for k, value in methods.items() if isinstance(value, Mapping) == described}
