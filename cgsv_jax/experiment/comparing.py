"""Methods compared from Python: a configuration from a few words, arrays and rules of one's own."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cgsv_jax.config import resolve, variants
from cgsv_jax.config.schema import GIVEN_METHOD, Config, ConfigError, Method
from cgsv_jax.experiment import deal, names, progress, running, tracking
from cgsv_jax.experiment.running import Progress, Result
from cgsv_jax.host import terminal
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results.frames import YARDSTICK
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm, Clients, Dataset, Model

# How arrays of one's own are trained on where nobody says otherwise: a data set has numbers of its
# own, they have none.
TRAINING: Mapping[str, Any] = {
    "rounds": 50,
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 0.1,
    "decay": 1.0,
}
METHODS = ("fedavg", "cgsv")
_TOLD = ("network", "tensors", "rounds")  # what only the experiment knows of an algorithm's world

Rule = str | Algorithm | Spec | Callable[..., Algorithm]


def compare(
    data: Dataset | str,
    clients: Clients | int,
    model: Model | str | None = None,
    methods: Mapping[str, Rule] | Sequence[str] | str = METHODS,
    *,
    out: Any = None,
    watch: Callable[[Progress], Any] | None = None,
    track: Sequence[str | tracking.Tracker] = (),
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Every method on the same clients, from the same start, with the same seeds.

    The standalone baseline is a part of every comparison, since fairness is measured by it.

    >>> import cgsv_jax as cg
    >>> own = cg.cgsv(gamma=0.5, contribution=cg.contribution.projection())
    >>> result = cg.compare("digits", 3, methods={"mine": own}, rounds=1, seeds=1)
    >>> sorted(result.frames["summary"]["method"])
    ['mine', 'standalone']

    Args:
      data: the rows, or the name of a data set.
      clients: who holds which of the rows; or with a data set's name, how many clients its rows are
        dealt out to (by `partition`, which is class_imbalance unless it is given).
      model: the network, or the name of one; default: the data set's, of arrays an mlp.
      methods: what each is called in tables and figures, and what it is: a name such as "fedavg",
        "cgsv:released" or "cgsv[beta=5]"; an `Algorithm`, for instance `cg.cgsv(...)`; a `Spec`; or
        a function that makes an `Algorithm` of those of `network`, `tensors` and `rounds` that its
        arguments are named after. Or names alone.
      out: a run directory that is to be written, which must be new.
      watch: called between segments, in place of the bar that a terminal and a notebook show; where
        it returns True, the seeds that run end (see `experiment.callbacks`).
      track: who is told the numbers of every evaluation: "tensorboard", "wandb", "mlflow", which
        need `out`, or trackers of one's own (see `experiment.tracking`).
      quiet: whether nothing is shown.
      **options: all that `experiment.configure` takes, for instance `seeds=3`, `rounds=50`,
        `epochs` or `local_steps`, `batch_size`, `learning_rate`, `eval_every`, `partition`,
        `beta`. What is not given is a data set's own; for arrays it is 50 rounds of 1 epoch, steps
        of 32 rows at a learning rate of .1 that does not decay, and what the rules themselves say.

    Returns:
      The result, which shows its table: `table()`, `frames`, `figures()`, `save(directory)`.

    Raises:
      ConfigError: naming everything that is unknown, out of range or does not fit.
    """
    asked = dict(options)
    if "partition" in asked:
        asked["partitions"] = asked.pop("partition")
    own_arrays = not isinstance(data, str)
    if own_arrays != isinstance(clients, Clients):
        raise ConfigError(
            "clients must be a cg.Clients where data are arrays, for instance "
            "cg.partition.dirichlet(np.random.default_rng(0), data.labels, 10), and a number where "
            "data is a name"
        )
    if not own_arrays and isinstance(model, Model):
        raise ConfigError(
            "model must be a name where data is one: for a network of your own hand over arrays, "
            "which cg.data.load gives"
        )
    if isinstance(model, str):
        asked["model"] = model
    asked["clients"] = len(clients.mask) if isinstance(clients, Clients) else clients
    if own_arrays:
        usual = {name: value for name, value in TRAINING.items() if name != "epochs"}
        asked = {**(TRAINING if asked.get("local_steps") is None else usual), **asked}
    else:
        asked = {**asked, "dataset": data}
    asked["track"] = tuple(one for one in track if isinstance(one, str))
    config = _configured(methods, asked, own_arrays)
    dealt = None
    if isinstance(data, Dataset) and isinstance(clients, Clients):
        dealt = (deal.given(config, data, clients, model if isinstance(model, Model) else None),)
    elif own_arrays:
        raise ConfigError(
            f"data is a {type(data).__name__}, it must be a name or a cg.Dataset(inputs, labels, "
            "test_inputs, test_labels)"
        )
    tracking.must_have(config.track)
    if config.track and out is None:
        raise ConfigError(
            f"track is {', '.join(config.track)}, which needs a run directory: out must name it"
        )
    directory = None if out is None else directory_lib.create(out)
    own = tuple(one for one in track if not isinstance(one, str))
    with contextlib.ExitStack() as stack:
        if directory is not None:
            stack.enter_context(directory_lib.held(directory))
            about = resolve.to_dict(config)
            own += stack.enter_context(
                tracking.opened(config.track, directory, about, terminal.complain)
            )
        result = _watched(config, dealt, watch, own, quiet)
        if directory is not None:
            running.save(directory, result)
    return result


def _watched(
    config: Config,
    dealt: Any,
    watch: Callable[[Progress], Any] | None,
    track: Sequence[tracking.Tracker],
    quiet: bool,
) -> Result:
    if watch is not None:
        return running.run(config, watch, dealt, track=track)
    console = terminal.console(stderr=True)
    # Of a script whose output goes into a file nobody waits for the lines.
    console.quiet = quiet or not (console.is_terminal or console.is_jupyter)
    with progress.watching(console, config) as look:
        return running.run(config, look, dealt, track=track)


def _configured(
    methods: Mapping[str, Rule] | Sequence[str] | str, asked: dict[str, Any], own_arrays: bool
) -> Config:
    """The configuration, whose methods are called as somebody wants them to be called."""
    if isinstance(methods, str):
        methods = variants.split(methods)
    if not isinstance(methods, Mapping):
        methods = {name: name for name in methods}
    methods = {YARDSTICK: YARDSTICK} | dict(methods)
    _refuse_labels(methods)
    own = {_own_name(i): _spec(n, m) for i, (n, m) in enumerate(methods.items()) if _is_own(m)}
    texts = {
        label: _own_name(i) if _is_own(m) else m for i, (label, m) in enumerate(methods.items())
    }
    asked["algorithms"] = tuple(dict.fromkeys(texts.values()))
    asked |= {"methods": own} if own else {}
    config = names.configure(**asked)
    if own_arrays and config.taken:
        # Of numbers that rules declare theirs are meant, and not those of some data set.
        rules = {name: config.tables.options.get(name) for name, _ in config.taken}
        asked |= {name: option.default for name, option in rules.items() if option is not None}
        config = names.configure(**asked)
    known: dict[Any, Method] = dict(zip(asked["algorithms"], config.methods, strict=True))
    for label, text in texts.items():
        if _is_own(methods[label]) or label == text or label == known[text].algorithm:
            continue
        if label in config.tables.algorithms:
            raise ConfigError(
                f"methods holds {label!r}, which is {text}: it must not be called as another "
                "method is"
            )
    # A name alone is what the method is, choices that hold for all among it.
    called = tuple(
        known[text] if label == text else dataclasses.replace(known[text], name=label)
        for label, text in texts.items()
    )
    return dataclasses.replace(config, methods=called)


def _is_own(method: Any) -> bool:
    return not isinstance(method, str)


def _own_name(number: int) -> str:
    """A method of one's own among those that have names."""
    return f"{GIVEN_METHOD}{number}"


def _spec(label: str, method: Any) -> Spec:
    """The declaration of a method of one's own.

    Raises:
      ConfigError: it is none.
    """
    if isinstance(method, Spec):
        return method
    if isinstance(method, Algorithm):
        return Spec(lambda: method)
    if not callable(method):
        raise ConfigError(
            f"methods[{label!r}] is a {type(method).__name__}, it must be a name, a cg.Algorithm "
            "such as cg.cgsv(), a Spec, or a function that makes a cg.Algorithm"
        )
    parameters = inspect.signature(method).parameters
    needed = [
        name
        for name, own in parameters.items()
        if own.default is own.empty and own.kind not in (own.VAR_KEYWORD, own.VAR_POSITIONAL)
    ]
    if unknown := [name for name in needed if name not in _TOLD]:
        raise ConfigError(
            f"methods[{label!r}] needs {', '.join(unknown)}, which nobody says: it must be a "
            f"function of {', '.join(_TOLD)} or of nothing, a Spec, or a cg.Algorithm"
        )
    return Spec(method, given=tuple(name for name in _TOLD if name in parameters))


def _refuse_labels(methods: Mapping[Any, Any]) -> None:
    for label, method in methods.items():
        if method == label:  # judged as a method
            continue
        if isinstance(label, str) and label.isprintable() and set(label) & set("[]:"):
            raise ConfigError(
                f"methods holds {label!r}, which reads as a method with options of its own: it "
                "must be another name"
            )
        if not variants.is_label(label, ()):
            raise ConfigError(
                f"methods holds {label!r}, it must be called by up to {variants.LONGEST_LABEL} "
                "characters, with no / or \\, no hidden one, no space at an end and no dot as the "
                "first"
            )
    if methods[YARDSTICK] != YARDSTICK:
        raise ConfigError(
            f"methods[{YARDSTICK!r}] must be {YARDSTICK!r}, by which fairness is measured"
        )
