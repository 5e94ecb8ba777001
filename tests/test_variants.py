"""A method with options of its own: what it is called, what it runs with, and where that stands."""

import io
import json
import math

import numpy as np
import polars as pl
import pytest
from declared import TABLES
from hypothesis import given, settings
from hypothesis import strategies as st

from cgsv_jax import experiment
from cgsv_jax.command import main, train
from cgsv_jax.config import resolve, validate, variants
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import bind, deal, names, running
from cgsv_jax.results import directory, tables
from cgsv_jax.rules.spec import Choice, Count, Number
from cgsv_jax.sweep import points

SMALL = {"clients": 3, "rounds": 2, "epochs": 1, "hidden": (4,), "seeds": 1}
VARIANT = "cgsv[contribution=shapley,beta=5,mask_ties=position]:released"
WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
NUMBERS = st.floats(allow_nan=False) | st.integers() | st.booleans() | WORDS


def named(**asked):
    return [method.name for method in names.configure(clients=3, **asked).methods]


def refused(**asked):
    with pytest.raises(ConfigError) as caught:
        names.configure(clients=3, **asked)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------- written and read


@given(WORDS, st.dictionaries(WORDS, NUMBERS, max_size=4), st.none() | WORDS)
def test_what_is_written_is_read(algorithm, values, preset):
    text = variants.written(algorithm, values, preset)
    found = variants.read(text)
    assert (found.algorithm, found.preset) == (algorithm, preset)
    assert dict(found.options) == {name: variants.shown(value) for name, value in values.items()}
    assert "".join(variants.breakable(text)) == text
    assert variants.split(f"{text}, {text},fedavg") == (text, text, "fedavg")


@given(st.floats(allow_nan=False))
def test_a_number_is_written_to_the_last_bit(value):
    option = TABLES.options["beta"]
    assert variants.value_of(option, variants.shown(value)) == value


@given(st.text(alphabet="cgsv[]=,:1 \n", max_size=20))
def test_whatever_is_written_is_read_or_refused(text):
    try:
        found = variants.read(text)
    except ValueError as error:
        assert "it must" in str(error)  # noqa: PT017
    else:
        values = dict(found.options)
        again = variants.read(variants.written(found.algorithm, values, found.preset))
        assert dict(again.options) == values


@st.composite
def some(draw):
    """Options of cgsv, each with a value that is allowed, and a preset."""
    (method,) = names.configure(algorithms="cgsv").methods
    chosen = draw(st.lists(st.sampled_from(sorted(method.values)), unique=True, max_size=4))
    values = {}
    for name in set(chosen) - {"removal", "removal_imbalanced", "dropout"}:
        option = method.declared[name]
        if isinstance(option, Choice):
            values[name] = draw(st.sampled_from(option.allowed))
        elif isinstance(option, Number):
            values[name] = draw(st.sampled_from([0.5, 0.25, 0.1 + 0.2]))
        elif not isinstance(option, Count):
            values[name] = draw(st.booleans())
    return values, draw(st.sampled_from(["paper", "released", "steady"]))


@settings(deadline=None, max_examples=50)
@given(some())
def test_a_name_is_what_the_method_is(drawn):
    """Both ways: a variant is what its flags are, and its name, asked for, is the variant."""
    values, preset = drawn
    text = variants.written("cgsv", values, preset)
    try:
        (method,) = names.configure(algorithms=(text,)).methods
    except ConfigError as error:  # a choice that the others leave nothing to do
        assert "does nothing here" in str(error)  # noqa: PT017
        return
    by_flags = names.configure(algorithms="cgsv", preset=preset, **values)
    assert by_flags.methods[0].options == method.options
    config = names.configure(algorithms=(method.name,))
    assert config.methods == (method,)
    own = {"mine": {"algorithm": "cgsv", "preset": preset, **values}}
    mine = names.configure(algorithms=("mine",), methods=own)
    assert mine.methods[0].options == method.options
    meaning = resolve.meaning(mine.methods[0], mine.dataset, mine.tables)
    (again,) = names.configure(algorithms=(meaning,)).methods
    assert again.options == method.options


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"algorithms": f"cgsv,{VARIANT},fedavg"}, ["cgsv", VARIANT, "fedavg"]),
        ({"algorithms": "cgsv[ Mask-Ties = ALL , beta=5.0 ]"}, ["cgsv[beta=5,mask_ties=all]"]),
        ({"algorithms": ["cgsv[beta=inf]", "cgsv[beta=1]"]}, ["cgsv[beta=inf]", "cgsv"]),
        ({"algorithms": "cgsv[contribution=cosine]"}, ["cgsv"]),  # as it would be
        ({"algorithms": "cgsv,fedavg", "beta": 5.0}, ["cgsv", "fedavg"]),  # a number of all
        # What is usual is said where all others have something else.
        ({"algorithms": "cgsv,cgsv[beta=1]", "beta": 5.0}, ["cgsv", "cgsv[beta=1]"]),
        ({"algorithms": "cgsv,rffl[beta=5]", "beta": 5.0}, ["cgsv", "rffl"]),
        ({"algorithms": "cgsv,cgsv[contribution=cosine]", "contribution": "shapley"},
         ["cgsv[contribution=shapley]", "cgsv[contribution=cosine]"]),
        (
            {"algorithms": "standalone,cgsv,rffl", "contribution": "shapley", "game": "accuracy"},
            ["standalone", "cgsv[contribution=shapley,game=accuracy]", "rffl"],
        ),
        ({"algorithms": "standalone,cgsv,cffl", "preset": "steady"},
         ["standalone", "cgsv:steady", "cffl"]),  # cffl reads no decay of Gamma
        ({"algorithms": "cgsv:paper,cgsv", "preset": "released"}, ["cgsv:paper", "cgsv:released"]),
        ({"algorithms": "standalone,fedavg", "optimizer": "adam"}, ["standalone", "fedavg"]),
        ({"algorithms": "fedavg,fedavg[optimizer=adam,learning_rate=0.01]"},
         ["fedavg", "fedavg[learning_rate=0.01,optimizer=adam]"]),
        ({"algorithms": "cgsv[normalise_scores=true]"}, ["cgsv[normalise_scores=true]"]),
        ({"methods": {"mine": {"algorithm": "cgsv", "beta": 5}}}, ["standalone", "mine"]),
        ({"methods": {"mine": {"algorithm": "cgsv"}}, "algorithms": ["cgsv", "mine"], "beta": 2.0},
         ["cgsv", "mine"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_stands_in_the_name(asked, found):
    assert named(**asked) == found


def test_choices_of_all_points_are_told_by_the_sweep():
    asked = {"clients": 3, "rounds": 2, "algorithms": ("cgsv", "cgsv[mask_ties=all]")}
    sweep = points.grid(asked | {"contribution": "shapley"}, {"beta": (1.0, 2.0)})
    assert sweep.shown == ("cgsv", "cgsv[mask_ties=all]")
    for point in sweep.points:
        assert [m.name for m in point.config.methods] == ["standalone", *sweep.shown]
    with pytest.raises(ConfigError) as caught:
        points.grid(asked, {"mask_ties": ("all", "position")})
    assert str(caught.value) == (
        "--mask-ties takes several values, it must not stand in 'cgsv[mask_ties=all]', where it is "
        "the same at all of them"
    )


@pytest.mark.parametrize(
    ("asked", "sentences"),
    [
        (
            {"algorithms": "cgsv[beta=-1]"},
            [
                "--beta is -1.0, it must be a number at least 0, infinity allowed "
                "(in cgsv[beta=-1])"
            ],
        ),
        (
            {"algorithms": "cgsv[bta=1]"},
            ["--algorithms holds 'cgsv[bta=1]': 'bta' is no option, did you mean 'beta'?"],
        ),
        (
            {"algorithms": "fedavg[optimizer_state=restart]"},
            [
                "--optimizer-state does nothing here: it needs --optimizer momentum or adam "
                "(in fedavg[optimizer_state=restart])"
            ],
        ),
        (
            {"algorithms": "fedavg[beta=1],cgsv"},
            [
                "--beta does nothing here: it needs --algorithms size_weighted or random_reward or "
                "rffl or eci or fedave or cgsv or witness (in fedavg[beta=1])"
            ],
        ),
        (
            {"algorithms": "cgsv[beta=5],fedavg", "beta": 3.0},
            [
                "--beta does nothing here: every method that reads it has one of its own, it must "
                "be left out"
            ],
        ),
        (
            {"algorithms": "cgsv,cgsv[beta=1.0]"},
            [
                "--algorithms holds 'cgsv' and 'cgsv[beta=1.0]', it must hold each method once: "
                "both are cgsv"
            ],
        ),
        (
            {"algorithms": "cgsv,cgsv[beta=5]", "beta": 5.0},
            [
                "--algorithms holds 'cgsv' and 'cgsv[beta=5]', it must hold each method once: "
                "both are cgsv"
            ],
        ),
        (
            {"algorithms": "cgsv[beta=5"},
            [
                "--algorithms is 'cgsv[beta=5', it must be a method, method:preset or "
                "method[option=value,...]:preset"
            ],
        ),
        (
            {"algorithms": "cgsv[beta]"},
            ["--algorithms is 'cgsv[beta]', in brackets it must hold option=value, commas between"],
        ),
        (
            {"algorithms": "cgsv[beta=1,beta=2]"},
            [
                "--algorithms is 'cgsv[beta=1,beta=2]', it must name an option once, beta is there "
                "twice"
            ],
        ),
        (
            {"methods": {"cgsv": {"algorithm": "cgsv"}}},
            [
                "the key 'cgsv' of methods is no name of one's own: it must be up to 40 letters, "
                "digits, _, . and -, and no algorithm's"
            ],
        ),
        (
            {"methods": {"mine": {"beta": 1}}, "algorithms": "cgsv"},
            ["the key 'mine' of methods is no method: it must be an object with an algorithm"],
        ),
        (
            {"methods": {"mine": {"algorithm": "cgsv"}}, "algorithms": "cgsv"},
            ["methods holds 'mine', it must be one of --algorithms"],
        ),
        (
            {"seed": 42, "seeds": 3},
            ["--seed is one seed and --seeds are several, it must be one of them"],
        ),
        ({"seed": -1}, ["--seed is -1, it must be a whole number from 0"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(asked, sentences):
    assert refused(**asked) == sentences


# ---------------------------------------------------------------- files


def test_a_config_keeps_variants_and_holds_their_names_true():
    config = names.configure(
        algorithms=("standalone", VARIANT, "mine"),
        methods={"mine": {"algorithm": "fedavg", "decay": 0.5}},
    )
    values = json.loads(json.dumps(resolve.to_dict(config)))
    assert resolve.from_dict(values, TABLES) == config
    for name, sentence in (
        ("cgsv[beta=4]", "it must be named after its options: its beta is 5.0"),
        ("cgsv[clip=4]", "it must be named after its options: it reads no clip"),
        ("cgsv[beta=5]:x", "whose preset is 'x', it must be one of"),
        ("fedavg[beta=5]", "a method that runs cgsv must be named cgsv, "),
        ("a:b", "or a name of one's own"),
        ("fedavg", "or a name of one's own"),
        (" b", "or a name of one's own"),
        ("b\n", "or a name of one's own"),
        ("b" * 41, "or a name of one's own"),
    ):
        values["methods"][1]["name"] = name
        with pytest.raises(ConfigError, match="--algorithms is ") as caught:
            resolve.from_dict(values, TABLES)
        assert sentence in str(caught.value)
    values["methods"][1]["name"] = "cgsv"  # as earlier versions called whatever it was
    assert resolve.from_dict(values, TABLES).methods[1].options == config.methods[1].options


def test_what_a_name_leaves_unsaid_is_said():
    """A config.json of earlier versions called a method by its algorithm whatever it chose."""
    asked = {"clients": 3, "beta": 5.0, "learning_rate": 0.25}
    asked |= {"methods": {"mine": {"algorithm": "cgsv", "mask_ties": "all"}}}
    algorithms = ("standalone", "fedavg", VARIANT.replace("beta=5,", ""), "cgsv", "mine")
    config = names.configure(algorithms=algorithms, **asked)
    mine = "cgsv[learning_rate=0.25,beta=5,mask_ties=all]"
    values = json.loads(json.dumps(resolve.to_dict(config)))
    assert resolve.unsaid_of(values, TABLES) == {"mine": mine}  # and no number of all
    values["methods"] = [values["methods"][i] for i in (0, 1, 2)]
    values["methods"][2]["name"] = "cgsv"  # as earlier
    said = resolve.unsaid_of(values, TABLES)
    assert list(said) == ["cgsv"]
    assert "contribution=shapley" in said["cgsv"]
    assert said["cgsv"].endswith(":released")
    again = resolve.from_dict(values, TABLES)
    announced = dict(train._numbers(again))["cgsv"]
    assert announced.startswith(f"{said['cgsv']}, ")
    for wrong in ({"name": 3}, {"name": "cgsv", "algorithm": []}, 3, None, {}):
        assert resolve.unsaid_of(values | {"methods": [wrong]}, TABLES) == {}
    for wrong in (3, None, {"a": 1}):
        assert resolve.unsaid_of(values | {"methods": wrong}, TABLES) == {}
    rule = {**values["methods"][2], "algorithm": "given_1"}
    assert resolve.unsaid_of(values | {"methods": [rule], "dataset": "given"}, TABLES) == {}


TOML = """
partition = ["uniform"]
clients = 3
rounds = 2
epochs = 1
hidden = [4]
seed = 7

[methods.mine]
algorithm = "cgsv"
contribution = "shapley"
beta = inf
preset = "released"
"""


def test_a_file_of_a_person_names_methods(tmp_path, capsys):
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    config = experiment.read(file)
    assert ([m.name for m in config.methods], config.seeds) == (["standalone", "mine"], (7,))
    assert config.methods[1].beta == math.inf
    assert resolve.meaning(config.methods[1], config.dataset, config.tables) == (
        "cgsv[contribution=shapley,beta=inf]:released"
    )
    for text, sentence in (
        ("beta = 2\n[methods.mine]\nalgorithm = 'cgsv'\nbeta = 3", "--beta does nothing here"),
        ("rouns = 2", "'rouns' is no option, did you mean 'rounds'?"),
        ("rounds = ", "cannot be read: "),
        ("plugin = 'x.py'", "--plugin is missing"),
    ):
        file.write_text(text)
        assert main.main(["run", "--config", str(file)]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert str(file) in said
    assert main.main(["sweep", "--config", str(file)]) == 2
    assert "it must be the config.json of a sweep" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_with_variants_goes_on_and_is_repeated(tmp_path, capsys):
    """Begun, as if killed before its first checkpoint; every table is that of a whole run."""
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    out = tmp_path / "whole"
    assert main.main(["compare", "--config", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mine  cgsv[contribution=shapley,beta=inf]:released" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert [row["method"] for row in summary] == ["standalone", "mine"]
    begun = directory.create(tmp_path / "begun")
    directory.begin(begun, resolve.to_dict(experiment.read(file)))
    assert main.main(["run", "--resume", str(begun), "--quiet"]) == 0
    for name in ("config.json", "rounds.parquet", "clients.parquet", "summary.parquet"):
        assert (begun / name).read_bytes() == (out / name).read_bytes()


# ---------------------------------------------------------------- numbers


@pytest.mark.long
def test_a_variant_computes_what_its_flags_do():
    """Bit for bit, and by the same programs as methods that differ in numbers alone."""
    config = names.configure(**SMALL, partitions="uniform", algorithms=f"cgsv[beta=2],{VARIANT}")
    alone = names.configure(
        **SMALL, partitions="uniform", algorithms="cgsv", contribution="shapley", beta=5.0,
        mask_ties="position", preset="released",
    )  # fmt: skip
    assert alone.methods[0].name == VARIANT.replace("beta=5,", "")
    variant, flags = (running.run(own).cells[-1] for own in (config, alone))
    for name, values in variant.record._asdict().items():
        np.testing.assert_array_equal(values, getattr(flags.record, name))


def test_methods_that_differ_in_numbers_alone_share_their_programs():
    asked = SMALL | {"partitions": "uniform", "algorithms": "cgsv,cgsv[beta=2],cgsv[mask_ties=all]"}
    config = names.configure(**asked)
    (task,) = deal.tasks(config)
    plain, number, choice = (bind.bind(config, method, task).rules for method in config.methods)
    assert plain == number != choice


# ---------------------------------------------------------------- what is shown


def test_a_long_name_breaks_between_its_options():
    name = "cgsv[contribution=sign_agreement,mask_ties=all,beta=5]:released"
    cells = pl.DataFrame({"method": [name, "fedavg"], f"{name} accuracy, %": ["12.3", "4.5"]})
    console = tables.Console(width=50, file=io.StringIO(), markup=False)
    console.print(tables.Report(cells))
    lines = console.file.getvalue().splitlines()
    assert [line.split() for line in lines if line.strip(" ─")] == [
        ["cgsv"],
        ["[contribution="],
        ["sign_agreement,"],
        ["mask_ties=all,"],
        ["beta=5]"],
        [":released"],
        ["method", "accuracy,", "%"],
        ["cgsv[contribution="],
        ["sign_agreement,mask_ties=all,"],
        ["beta=5]:released", "12.3"],
        ["fedavg", "4.5"],
    ]


def test_seeds_and_partitions_say_what_they_are():
    assert names.configure(seed=42).seeds == (42,)
    assert train.seeds_text((42,)) == "42"
    assert train.seeds_text(tuple(range(42))) == "42 seeds: 0 to 41"
    assert train.seeds_text((0,)) == "0"
    assert train.seeds_text((5, 9)) == "5, 9"
    config = names.configure(partitions=("uniform", "dirichlet"), alpha=0.1)
    shown = train.dealt_with(config)
    assert shown["dirichlet"].startswith(
        "concentration = 0.5 (papers' alpha; --alpha is the reputation's)"
    )
    config = names.configure(partitions="k_classes", algorithms="fedavg", classes_per_client=3)
    assert train.dealt_with(config) == {"k_classes": "classes per client = 3"}
    config = names.configure(partitions="size_dirichlet", algorithms="fedavg", concentration=0.2)
    assert train.dealt_with(config) == {"size_dirichlet": "concentration = 0.2, min rows = 1"}


def test_a_flag_of_every_option_stands_in_brackets():
    """What a method reads is what it may be told in brackets, in the flag's words."""
    for method in names.configure(algorithms=("cgsv", "cffl", "fedavg")).methods:
        for name, value in method.options:
            if value is not None:
                text = variants.written(method.algorithm, {name: value})
                (again,) = names.configure(algorithms=(text,)).methods
                assert again.name == method.name, validate.flag(name)
