"""One description of an experiment: complete, exact, and judged in one place."""

import dataclasses
import inspect
import json
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax import data
from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import main
from cgsv_jax.config import defaults, resolve, schema, validate
from cgsv_jax.config.fields import Name, Path, Several, Word
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.rules.spec import Choice, Count, Number, Truth

TABLES = names_lib.TABLES


def test_defaults_are_complete():
    config = names_lib.configure()
    assert (config.dataset, config.clients) == ("digits", 10)
    assert config.partitions == ("class_imbalance",)
    assert config.seeds == (0, 1, 2)
    assert [m.name for m in config.methods] == list(defaults.DEFAULTS["algorithms"])
    assert config.layout in (
        *schema.LAYOUTS,
        "4",
    )  # nothing that a later run could read otherwise
    assert json.loads(json.dumps(resolve.to_dict(config)))["conv"] == "auto"  # a form's name


@pytest.mark.parametrize("dataset", TABLES.datasets)
def test_every_data_set_has_numbers(dataset):
    config = names_lib.configure(dataset=dataset)
    assert config.rounds == data.DATASETS[dataset].training["rounds"]


def test_the_two_settings_are_the_option_table():
    paper, released = (
        names_lib.configure(dataset="mnist", algorithms=f"cgsv:{s}").methods[0]
        for s in ("paper", "released")
    )
    table = {
        "mask_scope": ("vector", "tensor"),
        "mask_count": ("floor", "ceil"),
        "mask_ties": ("position", "all"),
        "norm_epsilon": (0, 1e-7),
        "cosine_epsilon": (0, 1e-10),
        "floor": (1e-3, 1e-3),
        "first_weights": ("size", "size"),
        "decay_per": ("round", "epoch"),
        "beta": (1, 1),
        "learning_rate": (0.15, 1e-3),
        "decay": (0.977, 0.955),
    }
    for name, values in table.items():
        assert (getattr(paper, name), getattr(released, name)) == values, name
    same = paper.values.keys() - set(table)
    assert same
    assert all(getattr(paper, name) == getattr(released, name) for name in same)
    assert paper.values.keys() == released.values.keys()


def test_steady_is_paper_with_a_gamma_that_decays():
    paper, steady = names_lib.configure(algorithms=("cgsv:paper", "cgsv:steady")).methods
    differing = {n for n, value in steady.values.items() if value != paper.values[n]}
    assert differing == {"gamma_decay"}
    assert (paper.gamma_decay, steady.gamma_decay) == (1.0, 0.97)


def test_a_config_without_a_decay_of_gamma_has_none():
    """As it was written before there was one."""
    config = names_lib.configure(algorithms=("standalone", "cgsv", "cffl:steady"))
    written = resolve.to_dict(config)
    for method in written["methods"]:
        method.pop("gamma_decay", None)
    read = resolve.from_dict(written, names_lib.TABLES)
    assert [m.get("gamma_decay") for m in read.methods] == [None, 1.0, None]


def test_a_given_value_wins_over_the_setting():
    paper, released = names_lib.configure(
        algorithms=("cgsv", "cgsv:released"), beta=3.0, mask_ties="position"
    ).methods
    assert paper.beta == released.beta == 3
    assert released.mask_ties == "position"
    assert released.mask_scope == "tensor"


def test_a_method_holds_what_it_reads_and_what_is_traced_is_a_number():
    (method,) = names_lib.configure(algorithms="cffl").methods
    assert "clip" in method.values
    assert "gamma" not in method.values  # cut entry by entry
    (method,) = names_lib.configure(algorithms="cffl", clip_by="norm").methods
    assert ("clip" in method.values, method.gamma) == (False, 0.5)
    with pytest.raises(AttributeError, match="a method has no 'kappa'"):
        method.kappa  # noqa: B018
    assert method.hyper().keys() | method.words().keys() == method.values.keys() - {
        *("removal_imbalanced", "dropout")  # in place of another, and switched off
    }
    assert "dropout" in names_lib.configure(dropout=0.1).methods[0].hyper()


def test_the_config_of_an_earlier_version_is_read():
    """It holds all options in every method; those that a method does not read say nothing."""
    config = names_lib.configure(algorithms=("iafl", "cffl", "fedavg", "cgsv"), beta=math.inf)
    values = json.loads(json.dumps(resolve.to_dict(config)))
    every = {name: option.default for name, option in TABLES.options.items()}
    every |= {"beta": "inf", "removal_imbalanced": None}
    values["methods"] = [every | method for method in values["methods"]]
    assert resolve.from_dict(values, TABLES) == config
    # Whatever came later is not there at all.
    before = {name: value for name, value in values.items() if name not in schema.EARLIER}
    for method in before["methods"]:
        for name in schema.earlier_of(method["algorithm"]):
            method.pop(name, None)
    assert len(before) == len(values) - len(schema.EARLIER)
    assert resolve.from_dict(before, TABLES) == config
    # Only of the method that could not be told otherwise: of another, a file lacks it.
    before["methods"][-1].pop("aggregation")
    with pytest.raises(schema.ConfigError, match="a method of the config lacks the key 'aggregat"):
        resolve.from_dict(before, TABLES)


def test_the_declared_optimizers_are_those_there_are():
    assert schema.TRAINING["optimizer"].allowed == tuple(TABLES.optimizers)


def test_a_preset_was_called_a_setting(capsys):
    with pytest.warns(DeprecationWarning, match="setting is now called preset"):
        (former,) = names_lib.configure(algorithms="cgsv", setting="released").methods
    (method,) = names_lib.configure(algorithms="cgsv", preset="released").methods
    assert former == method
    assert main.main(["run", "--setting", "relased"]) == 2
    said = capsys.readouterr().err
    assert "cgsv: --setting is now called --preset\n" in said
    assert "--preset is 'relased', it must be one of paper, released" in said


def test_written_and_read_back():
    config = names_lib.configure(
        algorithms=("cgsv", "cgsv:released", "fedavg"), beta=math.inf, seeds=(5, 9), hidden=(8, 4)
    )
    text = json.dumps(resolve.to_dict(config), allow_nan=False)
    assert resolve.from_dict(json.loads(text), TABLES) == config


def test_unknown_and_missing_keys_are_named():
    values = resolve.to_dict(names_lib.configure())
    with pytest.raises(ConfigError, match="'round' is no key of the config, did you mean 'rounds'"):
        resolve.from_dict(values | {"round": 3}, TABLES)
    del values["epochs"]
    with pytest.raises(ConfigError, match="the config lacks the key 'epochs'"):
        resolve.from_dict(values, TABLES)
    values = resolve.to_dict(names_lib.configure())
    del values["methods"][-1]["beta"]
    with pytest.raises(ConfigError, match="a method of the config lacks the key 'beta'"):
        resolve.from_dict(values, TABLES)
    for broken in ([], None, "x", {"methods": 3}):
        with pytest.raises(ConfigError):
            resolve.from_dict(broken, TABLES)


BAD = [
    (
        {"partitions": "dirichlet", "dirichlet_balanced": True, "dirichlet_equal": True},
        r"--dirichlet-balanced and --dirichlet-equal are two rules",
    ),
    ({"clients": 0}, r"--clients is 0, .* from 1"),
    ({"rounds": 2.5}, r"--rounds is 2.5, .* whole number"),
    ({"batch_size": -1}, r"--batch-size is -1"),
    ({"beta": -1.0}, r"--beta is -1.0, .* at least 0, infinity allowed"),
    ({"beta": math.nan}, r"--beta is nan"),
    ({"gamma": 0.0}, r"--gamma is 0.0, .* above 0"),
    ({"alpha": 1.5}, r"--alpha is 1.5, .* at least 0 and at most 1"),
    ({"alpha": math.nan}, r"--alpha is nan"),
    ({"learning_rate": 0}, r"--learning-rate is 0, .* above 0"),
    ({"dataset": "mnst"}, r"--dataset is 'mnst', .*\(did you mean mnist"),
    ({"model": "mnist_cn"}, r"--model is 'mnist_cn', .*\(did you mean mnist_cnn"),
    ({"algorithms": "fedavgg"}, r"--algorithms is 'fedavgg', .*\(did you mean fedavg"),
    ({"algorithms": "cgsv:relased"}, r"'relased', .*\(did you mean released"),
    ({"partitions": "powerlaw"}, r"--partition is 'powerlaw', .*\(did you mean power_law"),
    ({"partitions": "by_owner"}, r"--partition by_owner needs --owners, a file"),
    ({"partitions": "from_lists"}, r"--partition from_lists needs --lists, a file"),
    ({"partitions": "by_shares"}, r"--partition by_shares needs --shares, a number per client"),
    ({"partitions": "by_shares", "shares": (1, 2), "clients": 3}, r"--shares names 2, .* the 3"),
    (
        {"partitions": "by_shares", "shares": (1, 0)},
        r"--shares holds 0, .* a number above 0",
    ),
    ({"partitions": "by_shares", "shares": "x"}, r"--shares holds 'x', it must be a number"),
    ({"partitions": "by_shares", "shares": range(1, 10**12)}, r"--shares names too many"),
    ({"partitions": "k_classes", "classes_per_client": 0}, r"--classes-per-client is 0"),
    ({"lists": "a\0b"}, r"--lists is 'a\\x00b', it must be the name of a file"),
    ({"repeated_rows": 1}, r"--repeated-rows is 1, it must be true or false"),
    ({"mask_scope": "layer"}, r"--mask-scope is 'layer', it must be one of vector, tensor"),
    ({"seeds": (1, 1)}, r"--seeds names something twice"),
    ({"partitions": ["a\x85b"] * 2}, r"--partition names something twice: 'a\\x85b', 'a\\x85b'\n"),
    ({"seeds": 0}, r"--seeds is 0"),
    ({"seeds": (-1,)}, r"--seeds holds -1"),
    ({"layout": "two"}, r"--layout is 'two'"),
    ({"layout": "0"}, r"--layout is '0'"),
    ({"hidden": (0,)}, r"--hidden holds 0"),
    ({"nonsense": 1}, r"'nonsense' is no option"),
    ({"optimizer_state": "keep"}, r"--optimizer-state is 'keep', it must be one of persist, rest"),
    ({"dataset": "sst", "model": "mlp"}, r"--dataset sst is words, it needs --model text_cnn"),
    ({"model": "text_cnn"}, r"--model text_cnn reads words, it needs --dataset sst or mr"),
    ({"validation_share": 1.0}, r"--validation-share is 1.0, .* below 1"),
    ({"clients": 10**30}, r"--clients is 10{30}, it must be a whole number from 1 to 2147483647"),
    ({"rounds": 2**20, "epochs": 2**11}, r"--rounds times --epochs is 2147483648, .* at most"),
    (
        {"algorithms": "eci", "clients": 2**21, "permutations": 2**10},
        r"--permutations times --clients is 2147483648, it must be at most 2147483647",
    ),
    ({"learning_rate": 1e39}, r"--learning-rate is 1e\+39, which is no number in float32"),
    ({"gamma": 1e-60}, r"--gamma is 1e-60, which is no number in float32"),
    ({"layout": "²"}, r"--layout is '²'"),
    ({"model": ["mlp"]}, r"--model is \['mlp'\], it must be one of"),
    ({"seeds": ([1], [1])}, r"--seeds holds \[1\]"),
    ({"seeds": range(10**12)}, r"--seeds names too many, it must name at most 10000"),
    ({"hidden": (8,) * 101}, r"--hidden has too many layers"),
    ({"hidden": b"ab"}, r"--hidden holds b'ab', it must be a whole number"),
    ({"data_dir": "a\0b"}, r"--data-dir is 'a\\x00b', it must be the name of a file"),
    ({"owners": "\udcff.npy"}, r"--owners is '\\udcff.npy', it must be the name of a file"),
]


@pytest.mark.parametrize(("asked", "sentence"), BAD, ids=lambda x: str(x)[:40])
def test_bad_values_are_named(asked, sentence):
    with pytest.raises(ConfigError, match=sentence):
        names_lib.configure(**asked)


def test_all_problems_come_together():
    with pytest.raises(ConfigError) as caught:
        names_lib.configure(clients=0, alpha=2.0, mask_scope="x")
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(
        ConfigError
    ) as caught:  # of every kind: unknown, no name, idle, contradictory
        names_lib.configure(
            nonsense=1, dataset="mnst", algorithms="cgsv:x", synthetic_rows=5, concentration=1.0,
            clients=2, eval_clients=3, alpha="high",
        )  # fmt: skip
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        *("'nonsense'", "--dataset", "--eval-clients", "--algorithms", "--alpha"),
        "--concentration",  # but not --synthetic-rows, which the data set that was meant may have
    ]


def test_all_problems_of_a_file_come_together():
    values = resolve.to_dict(names_lib.configure(algorithms=("cgsv", "fedavg")))
    del values["epochs"], values["methods"][0]["beta"]
    values |= {"seeds": 3, "clients": "10", "partitions": ["uniform", "uniform"], "extra": 1}
    values["methods"][1] |= {"gamma": math.inf, "normalise_scores": 1}
    with pytest.raises(ConfigError) as caught:
        resolve.from_dict(values, TABLES)
    text = str(caught.value)
    for sentence in (
        *("'extra' is no key", "lacks the key 'epochs'", "seeds is 3 in the config"),
        *("lacks the key 'beta'", "--clients is '10'", "--partition names something twice"),
        *("--gamma is inf", "--normalise-scores is 1"),
    ):
        assert sentence in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("name", ["fedavg", "../cgsv", "cgsv/..", "cgsv:x", "cgsv:", "", None, []])
def test_a_method_is_named_after_what_it_runs(name):
    """The name stands in tables and files, so a config.json cannot bring another."""
    values = resolve.to_dict(names_lib.configure(algorithms="cgsv:released"))
    resolve.from_dict(values, TABLES)
    values["methods"][0]["name"] = name
    with pytest.raises(ConfigError, match=r"--algorithms is .*must be"):
        resolve.from_dict(values, TABLES)


def test_a_number_that_cannot_be_printed_is_named_all_the_same():
    with pytest.raises(ConfigError, match=r"--beta is .*no number in float32"):
        names_lib.configure(beta=10**5000)


def test_numpy_numbers_are_numbers():
    config = names_lib.configure(
        clients=np.int64(5), beta=np.float32(0.5), seeds=np.arange(2), algorithms=np.array(["cgsv"])
    )
    assert (config.clients, config.methods[0].beta, config.seeds) == (5, 0.5, (0, 1))
    assert type(config.clients) is int


@pytest.mark.parametrize(
    "asked",
    [
        {"algorithms": "fedavg", "beta": 2.0},
        {"model": "mnist_cnn", "dataset": "mnist", "hidden": (4,)},
        {"concentration": 1.0},
        {"min_rows": 2},
        {"synthetic_rows": 5},
        {"reward": "share", "mask_ties": "all"},
        {"aggregation": "size", "first_weights": "uniform"},
        {"contribution": "projection", "cosine_epsilon": 1e-3},
        {"algorithms": "fedavg", "optimizer_state": "restart"},
    ],
    ids=str,
)
def test_an_option_that_would_do_nothing_is_refused(asked):
    with pytest.raises(ConfigError, match="does nothing here: it needs --"):
        names_lib.configure(**asked)


def test_layout_follows_the_backend():
    assert resolve.resolve(TABLES, "cpu").layout == "4"
    assert resolve.resolve(TABLES, "cpu", dataset="mnist").layout == "one"
    assert resolve.resolve(TABLES, "cpu", dataset="sst").layout == "one"
    assert resolve.resolve(TABLES, "gpu").layout == "balanced"
    assert resolve.resolve(TABLES, "gpu", layout=3).layout == "3"
    assert resolve.resolve(TABLES, "gpu", devices=4).devices == 4


def test_the_text_sets_train_with_adam():
    """The released code's numbers; what is given wins."""
    numbers = {"sst": (256, 1e-4), "mr": (128, 5e-5)}
    for name, (batch, rate) in numbers.items():
        config = names_lib.configure(dataset=name)
        assert (config.model, config.rounds, config.epochs) == ("text_cnn", 200, 3)
        assert config.batch_size == batch
        for m in config.methods:
            assert (m.optimizer, m.optimizer_state) == ("adam", "persist")
            assert (m.learning_rate, m.decay) == (rate, 0.977)
        assert (m.algorithm, m.gamma, m.alpha) == ("cgsv", 1, 0.95)
    sgd = names_lib.configure(dataset="mr", optimizer="sgd").methods[0]
    assert sgd.optimizer == "sgd"
    with pytest.raises(ConfigError, match="--optimizer-state does nothing here"):
        names_lib.configure(dataset="mr", optimizer="sgd", optimizer_state="restart")


def test_the_optimizers_whose_state_matters():
    """The configuration knows them by name, since it builds no optimizer."""
    params = {"w": jnp.zeros(2)}
    with_numbers = {n for n, o in TABLES.optimizers.items() if jax.tree.leaves(o(0.1).init(params))}
    assert set(schema.TRAINING["optimizer_state"].when.words) == with_numbers


def test_the_models_whose_convolution_has_forms():
    """The configuration knows them by name, since it imports no model."""
    takes = {n for n, b in TABLES.models.items() if "conv" in inspect.signature(b).parameters}
    assert set(schema.CONVOLUTIONAL) == takes


FIELDS = schema.FIELDS
KINDS = {
    **{int: Count, float: Number, bool: Truth, str: (Name, Choice, Word, Path)},
    **{tuple: Several, int | None: Count, str | None: Path},
}


@pytest.mark.parametrize("name", FIELDS)
def test_what_a_field_is_declared_as_is_what_it_is(name):
    """Its annotation, its default, the words that it is for and the names in its help exist."""
    field = FIELDS[name]
    kind = field.kind
    (annotated,) = (f.type for f in dataclasses.fields(schema.Config) if f.name == name)
    assert isinstance(kind, KINDS.get(annotated) or KINDS[typing.get_origin(annotated)])
    assert not field.optional or kind.default is None
    if kind.default is not None:
        assert validate.judged(name, kind.default, kind, TABLES) == []
    assert set(field.on) <= set(TABLES.partitions)
    if field.when is not None:
        (other,) = field.when.options
        assert set(field.when.words) <= set(getattr(TABLES, FIELDS[other].kind.table))
    assert not field.needed or field.on


def test_every_field_has_a_flag_and_every_flag_of_a_config_a_field():
    flags = [flags_lib.of_group(group, TABLES) for group in schema.GROUPS]
    named = [validate.RENAMED.get(name, name) for group in flags for name in group]
    assert sorted(named) == sorted({*FIELDS, *schema.TRAINING, "seed"})
    others = {field.name for field in dataclasses.fields(schema.Config)} - {*FIELDS}
    assert others == {"methods", "plugin", "plugin_sha256", "taken", "tables"}
    assert not [f for group in flags for f in group.values() if "{" in f.help or not f.help]
