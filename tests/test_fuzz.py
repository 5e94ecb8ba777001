"""Whatever is asked for ends as a configuration or as one clear error; never as anything else.

Derandomised: the same examples every time, so that what fails here fails everywhere.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import tempfile
import time

import numpy as np
import pytest
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import main, train
from cgsv_jax.config import defaults, resolve, schema, validate
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.data import builders
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment import plugins
from cgsv_jax.host import terminal
from cgsv_jax.results import (
    directory,
    figures,  # noqa: F401 (Matplotlib writes to HOME as it is imported, which is ours by then)
)
from cgsv_jax.rules import spec as spec_lib

TABLES = names_lib.TABLES


def steady(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------- what may be asked for


def word(names):
    return st.sampled_from(sorted(names))


def number(low, high):
    return st.floats(low, high) | st.integers(math.ceil(low), math.floor(high))


WHOLE = st.integers(1, 10**6)
CHOICES = {
    name: option.allowed
    for name, option in TABLES.options.items()
    if isinstance(option, spec_lib.Choice)
}
NAMES = st.builds(
    lambda base, own, preset: base + own + preset,
    word(TABLES.algorithms),
    st.sampled_from(["", "", "", "[beta=2]", "[mask_ties=all,learning_rate=0.5]", "[bta=1]", "["]),
    st.sampled_from(["", ":paper", ":released"]),
)
RIGHT = {
    "dataset": word(TABLES.datasets),
    "model": word(TABLES.models),
    "preset": word(defaults.PRESETS),
    "algorithms": NAMES | st.lists(NAMES, min_size=1, max_size=4, unique=True) | st.just("all"),
    "partitions": word(TABLES.partitions)
    | st.lists(word(TABLES.partitions), min_size=1, unique=True),
    "seeds": st.integers(1, 50) | st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True),
    "seed": st.integers(0, 2**32 - 1),
    "hidden": st.lists(st.integers(1, 100), max_size=3),
    "layout": st.sampled_from(["auto", "one", "all", "balanced", "3", 3]),
    "data_dir": st.just("somewhere"),
    "owners": st.just("owners.npy"),
    "lists": st.just("lists.json"),
    "repeated_rows": st.booleans(),
    "dirichlet_balanced": st.booleans(),
    "dirichlet_equal": st.booleans(),
    "save_models": st.booleans(),
    "shares": st.lists(number(0.01, 100), min_size=1, max_size=4),
    "classes_per_client": st.integers(1, 10),
    "conv": word(TABLES.convs),
    "precision": word(TABLES.precisions),
    "concentration": number(0.01, 100),
    "validation_share": st.floats(0, 0.9),
    "partition_seed": st.integers(0, 1000),
    "partition_seeds": st.integers(1, 3),
    "learning_rate": number(1e-5, 10),
    "decay": st.floats(0.1, 1),
    "gamma": number(1e-5, 1e5),
    "gamma_decay": st.floats(0.1, 1),
    "alpha": number(0, 1),
    "beta": number(0, 100) | st.just(math.inf),
    "floor": number(0, 1),
    "norm_epsilon": number(0, 1),
    "cosine_epsilon": number(0, 1),
    "q": number(0, 20),
    "kappa": number(0, 1),
    "recovery": number(0, 1),
    "removal": st.floats(0, 0.99),
    "tolerance": number(0, 1),
    "optimizer": word(TABLES.optimizers),
    "contribution": word(TABLES.contributions),
    "aggregation": word(TABLES.aggregations),
    "reward": word(TABLES.rewards),
    "game": word(TABLES.games),
    "patience": st.integers(1, 3),
    "local_steps": st.integers(1, 9),
    "own_test_share": st.floats(0, 0.9),
    "track": st.lists(st.sampled_from(schema.TRACKERS), max_size=2, unique=True),
    "cohort": st.integers(1, 3),
    "cohort_by": word(schema.FIELDS["cohort_by"].kind.allowed),
    "attendance": st.just("attendance.npy"),
    "dropout": st.floats(0, 0.9),
    "late": st.lists(st.sampled_from(["1:2", "2:0"]), max_size=2),
    "attacks": st.lists(
        st.sampled_from(["sign_flip:1", "scaled:2:10", "free_rider_ace:1", "sybils:2:0"]),
        max_size=2,
        unique=True,
    ),
    "attackers": st.just([]),
    "normalise_scores": st.booleans(),
    "relative_floor": st.booleans(),
    "scale_values": st.booleans(),
    **{name: word(allowed) for name, allowed in CHOICES.items()},
}
FIELDS = [*(f.name for f in dataclasses.fields(Config)), *TABLES.options]
# A plugin that cannot be is refused by itself: only its code knows which options there are.
OPTIONS = sorted({*RIGHT, *FIELDS} - {"methods", "tables", "taken", "plugin", "plugin_sha256"})

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31 - 1, 2**31, 2**32, 10**30, -(10**30), 10**400]),
    st.builds(pow, st.just(10), st.just(5000)),  # no int of so many digits can be printed
    st.floats(),
    st.sampled_from([-0.0, 1e-60, 1e39, 1e300, math.nan, math.inf, -math.inf]),
    st.text(max_size=8),
    st.sampled_from(["", "²", "٣", "9" * 5000, "a\0b", "\ud800", "../..", "inf", "nan", "1e5"]),
    st.sampled_from(sorted({*TABLES.datasets, *TABLES.models, *TABLES.algorithms, "all", "one"})),
    st.binary(max_size=4),
)
ODD = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
        ),
        max_leaves=5,
    ),
    st.sampled_from([(), [[]], [{}], {1, 2}, range(3), range(10**12), np.int64(3), np.eye(2)]),
    st.sampled_from([np.float32(0.5), np.array([1, 2]), np.array(3), object(), float, np.nan]),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 10**30, 10**4000, -0.0, 1e39, math.nan, math.inf])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@st.composite
def asked(draw):
    """Some options with values that may be right or odd, seldom one that does not exist."""
    names = draw(st.lists(st.sampled_from(OPTIONS), max_size=6, unique=True))
    share = draw(st.sampled_from([0, 0.3, 1]))  # all right, mixed, all odd
    values = {}
    for name in names:
        odd = draw(st.floats(0, 1)) < share
        values[name] = draw(ODD if odd else RIGHT.get(name, WHOLE))
        on = schema.FIELDS[name].on if name in schema.FIELDS else ()
        if on and share < 1:  # or it would nearly always be idle
            values.setdefault("partitions", on[0])
    if draw(st.integers(0, 20)) == 0:
        values[draw(st.sampled_from(["nonsense", "name", "methods", "Clients", "beta_"]))] = draw(
            ODD
        )
    return values


# ---------------------------------------------------------------- what may come of it


def judge(make):
    """The Config, after its way through a file; or None where it was refused in clear words."""
    try:
        config = make()
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(
            line.startswith(("--", *plugins.FIELDS))  # a dictionary is of rules of one's own
            or " key " in line
            or "is no option" in line
            or "it must be" in line
            for line in lines
        ), lines
        assert len(set(lines)) == len(lines)
        return None
    assert isinstance(config, Config)
    text = json.dumps(resolve.to_dict(config), allow_nan=False)
    assert resolve.from_dict(json.loads(text), TABLES) == config
    for method in config.methods:
        numbers = {name: np.float32(x) for name, x in method.hyper().items()}
        assert not np.isnan(list(numbers.values())).any()
        assert np.isfinite([x for name, x in numbers.items() if name != "beta"]).all()
    return config


@steady(2000)
@given(asked())
def test_keywords(values):
    judge(lambda: names_lib.configure(**values))


@steady(300)
@given(st.lists(st.sampled_from(OPTIONS), min_size=1, unique=True))
def test_everything_wrong_is_named_at_once(names):
    """An object is no value of any option."""
    with pytest.raises(ConfigError) as caught:
        names_lib.configure(**{name: object() for name in names})
    flags = {validate.flag(name) for name in names}
    named = {line.split()[0] for line in str(caught.value).splitlines()}
    assert named >= flags


@st.composite
def documents(draw):
    """A valid document with some values replaced, some keys taken away, and some added."""
    fresh = names_lib.configure(algorithms=("cgsv", "fedavg", "cgsv:released"), seeds=(1, 2))
    values = resolve.to_dict(fresh)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.sampled_from([values, *(m for m in values["methods"])]))
        key = draw(st.sampled_from([*place, "nonsense"]))
        action = draw(st.sampled_from(["odd", "odd", "right", "drop"]))
        if action == "drop":
            place.pop(key, None)
        else:
            place[key] = draw(RIGHT.get(key, WHOLE) if action == "right" else JSON)
        if not isinstance(values.get("methods"), list) or not all(
            isinstance(m, dict) for m in values["methods"]
        ):
            break
    return values


@steady(2000)
@given(documents() | JSON)
def test_documents(values):
    judge(lambda: resolve.from_dict(values, TABLES))


def test_the_examples_are_of_both_kinds():
    """Neither all refused nor all accepted: a fuzz of one kind would show nothing."""
    outcomes = []

    @steady(300)
    @given(asked())
    def collect(values):
        outcomes.append(judge(lambda: names_lib.configure(**values)) is not None)

    collect()
    assert 0.1 < np.mean(outcomes) < 0.9


# ---------------------------------------------------------------- commands, up to their directory

_ACTIONS = flags_lib.training_actions(TABLES)
_RUN, _COMPARE, _SWEEP = (action.record for action in _ACTIONS)
COMMANDS = {
    ("run",): _RUN,
    ("compare",): _COMPARE,
    ("sweep",): _SWEEP,
    ("plot",): flags_lib.Plot,
    ("data", "list"): flags_lib.List,
    ("data", "prepare"): flags_lib.Prepare,
}
WAITING = {"coordinator"}  # for other processes
RENAMED = {"partition": "partitions", "attack": "attacks"}
PATHS = (
    *("nowhere", "folder", "file", "fifo", "endless", "loop", "file/x", ".", "/", "/dev/full"),
    *(
        "a" * 300,
        "a/" * 3000,
        "~nosuchuser/x",
        "~",
        "\x1b[2Jx",
        "x\ny",
        "\x9b31m",
        "\udcff",
        "é\u202e",
    ),
    *("[/b]", "$x$", "", " ", "-", "--", "-x"),
)
WORDS = st.one_of(
    st.sampled_from(["", ",", "1", "0", "-1", "3,4", "1,1", "1,,x", "nan", "inf", "-inf", "1e999"]),
    st.sampled_from(["0.5", "1e-60", "²", "9" * 5000, "all", "sgd", "digits", "cgsv:", "a:b:c"]),
    st.sampled_from(["0.1:10", "1:10:log", "2:1", "1:" + "9" * 400, "0:inf", "::", "64x32", "x"]),
    st.sampled_from(["true", "false", "random", "halton", "validation", "fairness", "asha"]),
    st.sampled_from(PATHS),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0"), max_size=6),
    st.sampled_from(sorted({*TABLES.algorithms, *TABLES.partitions, *TABLES.contributions})),
)


def typed(value):
    """A right value as somebody would type it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@st.composite
def commands(draw):
    """Words of a command: some of all its flags, with values that may be right or odd."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    fields = dataclasses.fields(COMMANDS[name])
    words = [*name]
    for field in fields:
        if field.default is dataclasses.MISSING:  # it has no flag
            words += draw(st.lists(st.sampled_from(PATHS) | WORDS, max_size=2))
    flags = [f for f in fields if f.default is not dataclasses.MISSING and f.name not in WAITING]
    share = draw(st.sampled_from([0, 0, 0.3, 1]))  # all right, mixed, all odd
    for field in draw(st.lists(st.sampled_from(flags), max_size=5, unique_by=lambda f: f.name)):
        words.append("--" + field.name.replace("_", "-"))
        if field.default is False:
            continue
        values = RIGHT.get(RENAMED.get(field.name, field.name), WHOLE).map(typed)
        if name == ("sweep",):
            values = st.lists(values, min_size=1, max_size=2).map(",".join)
        words.append(draw(WORDS if draw(st.floats(0, 1)) < share else values))
    return words


class Accepted(Exception):
    """Its directory is there: it would be run now."""


def ended(words):
    """How a command ends in a folder with some odd things, and what it printed and left."""
    printed = io.StringIO()
    create = directory.create

    def accepted(*arguments):
        create(*arguments)
        raise Accepted

    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        folder = pathlib.Path(name)
        (folder / "folder").mkdir()
        (folder / "file").write_text("{}")
        os.mkfifo(folder / "fifo")
        (folder / "endless").symlink_to("/dev/zero")
        (folder / "loop").symlink_to("loop")
        before = sorted(folder.rglob("*"))
        patch.setattr(directory, "create", accepted)
        patch.setattr(builders, "builder", lambda *_: 1 / 0)  # it would download
        patch.delenv("TFDS_DATA_DIR", raising=False)  # a real set takes half a minute to decode
        patch.setenv("HOME", name)
        patch.setenv("CGSV_CACHE_DIR", name)
        try:
            code = main.main(words)
        except SystemExit as exit_:  # the parser's own
            code = exit_.code
        except Accepted:
            return "accepted", printed.getvalue(), []
        return code, printed.getvalue(), sorted({*folder.rglob("*")} ^ {*before})


def judged(words):
    """Whether it was accepted; refused, it is a sentence and leaves nothing."""
    started = time.monotonic()
    code, said, left = ended(words)
    assert time.monotonic() - started < 20, words
    assert said == terminal.plain(said)
    assert not left, left
    if code == "accepted":
        return True
    assert code == 2 or (code == 0 and words[:2] == ["data", "list"]), (code, said)
    assert said.strip()
    return False


@steady(300)
@given(commands())
def test_commands(words):
    judged(words)


@pytest.mark.nightly
def test_many_commands():
    """Most are refused; that some hundred would be run shows that not all are."""
    accepted = []

    @steady(3000)
    @given(commands())
    def collect(words):
        accepted.append(judged(words))

    collect()
    assert len(accepted) >= 3000
    assert 100 <= sum(accepted) <= 2000


# ---------------------------------------------------------------- whole commands

NUMBERS = {  # of few digits, so that a failure can be typed again
    "gamma": (0.01, 0.5, 3.0),
    "gamma_decay": (0.1, 1.0),
    "alpha": (0.0, 0.5, 1.0),
    "beta": (0.0, 0.5, 30.0, math.inf),
    "floor": (0.0, 1e-3, 0.9),
    "norm_epsilon": (0.0, 1e-7, 10.0),
    "cosine_epsilon": (0.0, 1e-10, 10.0),
    "q": (0.0, 1.0, 30.0),
    "kappa": (0.0, 1.0),
    "recovery": (0.0, 1.0),
    "removal": (0.0, 0.5, 0.99),
    "removal_imbalanced": (0.0, 0.9),
    "clip": (1e-6, 0.01, 100.0),
    "growth": (0.0, 1.0, 50.0),
    "tolerance": (0.0, 0.5),
    "permutations": (1, 7),
    "finetune_rounds": (1, 2),
    "dropout": (0.0, 0.5),
    "learning_rate": (1e-6, 0.1, 1e6),  # nothing is learnt, something, everything breaks
    "decay": (0.1, 1.0),
}
NUMBERS |= {  # of the others the default, or one that is in range
    name: (1 if option.default is None else option.default,)
    for name, option in TABLES.options.items()
    if isinstance(option, spec_lib.Number | spec_lib.Count) and name not in NUMBERS
}
TABLE_OF = {
    "optimizer": TABLES.optimizers,
    "contribution": TABLES.contributions,
    "aggregation": TABLES.aggregations,
    "reward": TABLES.rewards,
    "game": TABLES.games,
    **{name: TABLES.parts[name] for name in spec_lib.OF_MEASURES},
    **CHOICES,
}
PARTITIONS = tuple(name for name in TABLES.partitions if name not in schema.NEEDS)
PRESENCE = {
    "--cohort": ("1", "2"),
    "--late": ("1:1", "1:2"),
    "--attack": (
        *("sign_flip:1", "scaled:1:1e30", "gaussian_noise:1", "random_labels:1:0.4"),
        *("free_rider_replay_delayed:1:8", "free_rider_patient:1:0.2", "free_rider_partial:1"),
    ),
}
BREAKING = {  # what only shows once the data are there
    "--clients": ("5000", "x"),
    "--devices": ("4000",),
    "--eval-rows": ("400000",),
    "--validation-share": ("0.9999",),
    "--hidden": ("70000,70000",),
    "--owners": ("/nowhere.npy",),
    "--lists": ("/nowhere.json",),
    "--shares": ("1,2", "x"),
    "--classes-per-client": ("11", "0"),
    "--model": ("cifar_cnn", "text_cnn"),
    "--rounds": ("0", "2.5"),
    "--synthetic-rows": ("3", "2147483647"),
    "--learning-rate": ("1e39", "nan"),
}


def whole_command(seed):
    """Flags of a tiny run: methods, and options that some of them read; one in four breaks it."""
    rng = np.random.default_rng(seed)

    def pick(values):
        return list(values)[rng.integers(len(values))]

    rows = str(pick((40, 200)))
    flags = {"--synthetic-rows": rows, "--dataset": "synthetic"} if rng.random() < 0.5 else {}
    flags |= {
        "--clients": str(rng.integers(2, 5)),
        "--rounds": str(rng.integers(1, 4)),
        "--epochs": str(rng.integers(1, 3)),
        "--batch-size": str(pick((1, 16, 1000)) if flags else 64),
        "--hidden": pick(("", "1", "4,3")),
        "--seeds": pick(("1", "2", "7")),
        "--partition": pick(PARTITIONS),
        "--layout": pick(("auto", "all", "one", "3")),
        "--eval-every": str(rng.integers(1, 5)),
    }
    # Every method has its turn, so that all are among the cases whatever their number.
    names = [list(TABLES.algorithms)[seed % len(TABLES.algorithms)], pick(TABLES.algorithms)]
    flags["--algorithms"] = ",".join(dict.fromkeys([*names, *(["standalone"] * (seed % 2))]))
    read = schema.TRAINING | spec_lib.every_option(
        [TABLES.algorithms[name] for name in names], TABLES.parts
    )
    for name in rng.permutation(sorted(read))[:4]:
        chosen = {flag[2:].replace("-", "_"): value for flag, value in flags.items()}
        reading = [names_lib.configure(algorithms=method).methods[0] for method in names]
        specs = [TABLES.algorithms[method] for method in names]
        if not any(name in method.values for method in reading):  # another option is needed
            whens = [w for s in specs for w in spec_lib.switches(s, name, chosen, TABLES.parts)]
            switch = whens[0].options[0] if whens else "optimizer"
            if switch in chosen:
                continue
            words = whens[0].words if whens else ("momentum", "adam")
            flags["--" + switch.replace("_", "-")] = pick(words or ("0.5",))
        flag = "--" + name.replace("_", "-")
        if name in TABLE_OF or name in NUMBERS:
            flags[flag] = str(pick(TABLE_OF.get(name, NUMBERS.get(name))))
        elif rng.random() < 0.5:
            flags[flag] = None  # a switch
    if rng.random() < 0.3:
        flag = pick(PRESENCE)
        flags[flag] = pick(PRESENCE[flag])
    if rng.random() < 0.25:
        flag = pick(BREAKING)
        flags[flag] = pick(BREAKING[flag])
    return [word for flag, value in flags.items() for word in (flag, value) if word is not None]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2 * len(TABLES.algorithms)))
def test_a_whole_command_ends_with_a_run_or_a_sentence(seed, tmp_path, capsys):
    """Exit code 0 and a whole run directory, or exit code 2, a sentence and no file at all."""
    words = whole_command(seed)
    out = tmp_path / "run"
    try:
        code = main.main(["compare", *words, "--out", str(out)])
    except SystemExit as exit_:  # the parser's own errors
        code = exit_.code
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    if code == 0:
        read = directory.read(out)
        assert resolve.from_dict(read.config, TABLES).methods
        assert {path.name for path in out.iterdir()} == {*directory.FILES, "figures"}
        assert len(list((out / "figures").iterdir())) == len(directory.FIGURE_KINDS)
        for name in ("accuracy", "reputation", "share"):
            assert read.rounds[name].drop_nulls().is_between(0, 1).all()
        assert read.rounds["reputation"].null_count() == 0
        assert said.err == ""
    else:
        assert code == 2, words
        assert said.err.strip()
        assert list(tmp_path.iterdir()) == []


def test_whole_commands_are_of_all_methods_and_both_kinds():
    """What the long test would run, judged without running it."""
    outcomes, names = [], set()
    for seed in range(2 * len(TABLES.algorithms)):
        words = whole_command(seed)
        names |= set(words[words.index("--algorithms") + 1].split(","))
        parsed = tyro.cli(flags_lib.commands(_ACTIONS), args=["compare", *words], prog="cgsv")
        outcomes.append(judge(lambda p=parsed: train._configuration(p)) is not None)
    assert names == set(TABLES.algorithms)
    assert sum(outcomes) >= 16
    assert not all(outcomes)
