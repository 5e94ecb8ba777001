"""Points that are drawn rather than listed: ranges, random draws, and Optuna's.

A draw follows from the search, its number and the scores of the points before: a search that was
stopped draws the same again. Importing this module does not need Optuna; `study` does.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from cgsv_jax.config import validate
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.host import files
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep.options import SCHEDULERS, SEARCHES, Range, range_of, sweepable
from cgsv_jax.sweep.points import Sweep

# What Optuna is told of a point whose criterion is undefined: worse than any that is defined.
WORST = -1000.0
DIGITS = 6  # of a drawn number: those that the command prints are those that were run
# Draws without a new point after which there are none left: so many, and for every point so many.
_IN_VAIN = 1000, 20


def rounded(value: float, among: Range) -> float | int:
    """The number as it is run and printed, inside its range."""
    if among.whole:
        return int(np.clip(round(value), among.low, among.high))
    return float(np.clip(float(f"{value:.{DIGITS}g}"), among.low, among.high))


def draw(
    spaces: Mapping[str, Range | Sequence[Any]], number: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Points drawn at random, all different; the first are the same however many are drawn.

    The order of the spaces does not count.

    Args:
      spaces: name -> a range, or values of which each is as likely.
      number: how many; fewer come where there are no more different ones.
      seed: of the draws.

    Raises:
      ConfigError: there is nothing to draw from.
    """
    if not spaces:
        raise ConfigError("--search needs something to search: a range such as --beta 0.1:10")
    rng = np.random.default_rng(seed)
    points: dict[tuple, dict[str, Any]] = {}
    in_vain, (least, each) = 0, _IN_VAIN
    while len(points) < number and in_vain < least + each * len(points):
        point = {name: _draw_one(rng, spaces[name]) for name in sorted(spaces)}
        fresh = points.setdefault(tuple(point.values()), point) is point
        in_vain = 0 if fresh else in_vain + 1
    return list(points.values())


def _draw_one(rng: np.random.Generator, space: Range | Sequence[Any]) -> Any:
    u = rng.random()
    if not isinstance(space, Range):
        return space[int(u * len(space))]
    if space.log:
        return rounded(space.low * (space.high / space.low) ** u, space)
    return rounded(space.low + (space.high - space.low) * u, space)


# ---------------------------------------------------------------- a search


class Search(NamedTuple):
    """A sweep whose points are not known before it runs."""

    options: dict[str, Any]  # shared by all points
    spaces: dict[str, Any]  # name -> Range, or values
    how: str  # one of `SEARCHES`
    points: int  # in all
    batch: int  # points that are drawn before the scores of the first of them are there
    seed: int
    scheduler: str  # one of `SCHEDULERS`
    best: str
    eval_split: str


class Score(TypedDict):
    """The criterion of a point, and as its scheduler saw it."""

    values: dict[str, Any]
    state: Literal["finished", "stopped"]
    criterion: float | None  # None: it is undefined
    looks: list[tuple[int, float | None]]  # (rounds, criterion) before the end


def describe(search: Search) -> dict[str, Any]:
    """The search as plain lists, numbers and strings."""
    spaces = {n: s._asdict() if isinstance(s, Range) else s for n, s in search.spaces.items()}
    return {"search": search._asdict() | {"spaces": spaces}}


def described(values: Mapping[str, Any], plugin: str | None = None) -> Search:
    """The inverse of `describe`.

    Args:
      values: what a config.json says.
      plugin: the file that somebody named, if the search needs one: what `values` names is not run.

    Raises:
      ValueError: on what is missing, unknown or out of range.
    """
    typed: Any = TypedDict
    schema = typed("Search", Search.__annotations__)
    try:
        search = Search(**files.judged(values["search"], schema))
        spaces = {
            name: range_of(space) if isinstance(space, dict) else _listed(name, space)
            for name, space in search.spaces.items()
        }
    except ValueError as error:
        raise ConfigError(f"this is no sweep's config: {error}") from error
    search = search._replace(options=names_lib.with_plugin(search.options, plugin))
    there = sweepable(names_lib.tables(plugin))
    wrong = [f"{name[:80]!r} cannot be swept" for name in spaces if name not in there]
    wrong += complaints(search.how, search.points, search.batch, search.seed, search.scheduler)
    if wrong:
        raise ConfigError(f"this is no sweep's config: {wrong[0]}")
    return search._replace(options=points_lib.unplain(search.options), spaces=spaces)


def _listed(name: str, values: Sequence[Any]) -> tuple:
    return tuple(points_lib.value_of(name, value) for value in values)


def complaints(how: str, points: int, batch: int, seed: int, scheduler: str) -> list[str]:
    """A sentence for each number and word of a search that is not allowed."""
    wrong = validate.known("search", how, SEARCHES)
    wrong += validate.known("scheduler", scheduler, SCHEDULERS)
    for name, value, least in (
        ("points", points, 1),
        ("batch", batch, 1),
        ("search_seed", seed, 0),
    ):
        wrong += validate.at_least(name, value, least)
    if not wrong and points > points_lib.MAX_POINTS:
        wrong.append(f"--points is {points}, it must be at most {points_lib.MAX_POINTS}")
    needed = "optuna" if how == "optuna" else "a scheduler" if scheduler != "none" else ""
    if not wrong and needed and importlib.util.find_spec("optuna") is None:
        wrong.append(f"{needed} needs optuna, which is not installed: pip install 'optuna>=4'")
    return wrong


def sampled(search: Search) -> Sweep:
    """As many points as the search runs, drawn at random: its own if `how` is random.

    Raises:
      ConfigError: a point cannot be.
    """
    lists = {n: s for n, s in search.spaces.items() if not isinstance(s, Range)}
    if wrong := [line for n, s in lists.items() for line in validate.distinct(n, s)]:
        raise ConfigError("\n".join(wrong))
    return sweep_of(search, draw(search.spaces, search.points, search.seed))


def sweep_of(search: Search, combinations: Sequence[Mapping[str, Any]]) -> Sweep:
    """A sweep of drawn values.

    Raises:
      ConfigError: a point cannot be.
    """
    names = sorted(combinations[0]) if combinations else ()
    axes = {name: tuple(dict.fromkeys(own[name] for own in combinations)) for name in names}
    split = search.eval_split
    return points_lib.of_values(search.options, axes, combinations, search.best, split)


class Study(NamedTuple):
    """Draws points, and tells which to stop. Points are numbered from 0 as they are drawn."""

    ask: Callable[[int], list[dict[str, Any]]]  # how many -> the values of the next points
    # (number, rounds, criterion so far) -> whether the scheduler stops the point
    report: Callable[[int, int, float | None], bool]
    tell: Callable[[int, Score], None]


def study(search: Search, rounds: int) -> Study:
    """What a search draws from, and by what its scheduler compares.

    Args:
      search: which.
      rounds: T; `asha` compares from a ninth of it on, and lets a third go on.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners = optuna.pruners
    pruner = {
        "none": pruners.NopPruner,
        "asha": functools.partial(
            pruners.SuccessiveHalvingPruner, max(1, rounds // 9), reduction_factor=3
        ),
        "median": functools.partial(pruners.MedianPruner, n_startup_trials=3),
    }[search.scheduler]()
    made = optuna.create_study(direction="maximize", pruner=pruner)
    spaces = {name: _distribution(space) for name, space in search.spaces.items()}
    random = draw(search.spaces, search.points, search.seed) if search.how == "random" else None
    trials: list[optuna.Trial] = []

    def ask(count: int) -> list[dict[str, Any]]:
        first = len(trials)
        if random is not None:
            count = min(count, len(random) - first)
            for own in random[first : first + count]:
                made.enqueue_trial({n: _place(search.spaces[n], v) for n, v in own.items()})
        for number in range(first, first + count):
            seed = np.random.SeedSequence((search.seed, number)).generate_state(1)[0]
            made.sampler = optuna.samplers.TPESampler(seed=int(seed))
            trials.append(made.ask(spaces))
        drawn = [trial.params for trial in trials[first:]]
        return [{n: _value(search.spaces[n], own[n]) for n in search.spaces} for own in drawn]

    def report(number: int, rounds: int, criterion: float | None) -> bool:
        trials[number].report(WORST if criterion is None else criterion, rounds)
        return trials[number].should_prune()

    def tell(number: int, score: Score) -> None:
        if score["state"] == "stopped":
            made.tell(trials[number], state=optuna.trial.TrialState.PRUNED)
        else:
            value = score["criterion"]
            made.tell(trials[number], WORST if value is None else value)

    return Study(ask, report, tell)


def _distribution(space: Range | Sequence[Any]) -> Any:
    from optuna import distributions

    if not isinstance(space, Range):  # by its place: layers are no value of Optuna's
        return distributions.CategoricalDistribution(list(range(len(space))))
    kind: Any = distributions.IntDistribution if space.whole else distributions.FloatDistribution
    return kind(space.low, space.high, log=space.log)


def _place(space: Range | Sequence[Any], value: Any) -> Any:
    return value if isinstance(space, Range) else list(space).index(value)


def _value(space: Range | Sequence[Any], place: Any) -> Any:
    return rounded(place, space) if isinstance(space, Range) else space[place]
