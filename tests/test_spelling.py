"""Names as people write them, and the sentences for words that are no flags."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgsv_jax import data
from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import main
from cgsv_jax.config import defaults, schema, spelling
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.host import words
from cgsv_jax.rules.spec import Choice

TABLES = names_lib.TABLES
ACTIONS = flags_lib.training_actions(TABLES)
NAMES = {
    "dataset": tuple(TABLES.datasets),
    "model": tuple(TABLES.models),
    "partitions": tuple(TABLES.partitions),
    "algorithms": tuple(TABLES.algorithms),
    "precision": tuple(TABLES.precisions),
    "conv": tuple(TABLES.convs),
    "preset": tuple(defaults.PRESETS),
    "cohort_by": schema.FIELDS["cohort_by"].kind.allowed,
    **{name: o.allowed for name, o in TABLES.options.items() if isinstance(o, Choice)},
}
derandomised = settings(derandomize=True, database=None, deadline=None, max_examples=300)


@st.composite
def respelled(draw, word):
    """A word with letters in any case, and hyphens in place of some underscores."""
    kinds = [{c, c.upper(), *("-" if c == "_" else "")} for c in word]
    return "".join(draw(st.sampled_from(sorted(kind))) for kind in kinds)


@derandomised
@given(st.data(), st.sampled_from([(o, n) for o, names in NAMES.items() for n in names]))
def test_case_and_hyphens_change_nothing(drawn, option):
    name, word = option
    written = drawn.draw(respelled(word))
    assert spelling.spelled({name: written}, TABLES) == {name: word}
    assert spelling.spelled({name: [word, written]}, TABLES) == {name: [word, word]}


@derandomised
@given(st.sampled_from(sorted(NAMES)), st.text(max_size=12) | st.integers() | st.none())
def test_any_other_word_stays_as_it_is(name, word):
    folded = {n.replace("-", "_").casefold() for n in (*NAMES[name], "all", "iid")}
    found = spelling.spelled({name: word}, TABLES)[name]
    if not (isinstance(word, str) and word.replace("-", "_").casefold() in folded):
        assert found == word


def test_no_two_names_of_a_table_are_alike():
    for names in NAMES.values():
        assert len({n.replace("-", "_").casefold() for n in names}) == len(names)


def test_names_that_differ_in_case_alone_are_both_there():
    assert words.meant("Mine", ["mine", "Mine"]) == "Mine"
    assert words.meant("MINE", ["mine", "Mine"]) == "MINE"


def test_the_whole_config_is_the_same():
    said = names_lib.configure(
        dataset="Synthetic",
        model="MLP",
        partitions=["IID", "Power-Law"],
        algorithms=("CGSV:Released", "FedAvg"),
        contribution="Leave-One-Out",
        attacks=["Sign-Flip:1"],
        preset="Steady",
    )
    meant = names_lib.configure(
        dataset="synthetic",
        model="mlp",
        partitions=("uniform", "power_law"),
        algorithms=("cgsv:released", "fedavg"),
        contribution="leave_one_out",
        attacks=("sign_flip:1",),
        preset="steady",
    )
    assert said == meant
    assert names_lib.configure(algorithms="ALL") == names_lib.configure(algorithms="all")


def test_a_partition_of_ones_own_may_be_called_iid():
    def mine(rng, labels, num_clients):
        raise NotImplementedError

    own = names_lib.tables(partitions={"iid": mine})
    assert spelling.spelled({"partitions": "IID"}, own) == {"partitions": "iid"}


def test_python_and_the_command_load_by_any_spelling(capsys):
    assert data.load("Digits").labels.shape == (1442,)
    assert main.main(["data", "prepare", "DIGITS"]) == 2
    assert "data set digits is built in" in capsys.readouterr().err


SAID = {
    "sweep --beta 0.5 1 2": "several values are joined by commas: --beta 0.5,1,2",
    "sweep --beta 0.5, 1": "several values are joined by commas: --beta 0.5,1",
    "compare --algorithms cgsv fedavg": "joined by commas: --algorithms cgsv,fedavg",
    "compare --seeds 1 2": "joined by commas: --seeds 1,2",
    "run --beta -1 2": "--beta takes one value, a sweep several: cgsv sweep --beta -1,2",
    "run --out a b": "--out takes one value",
    "run --lr 0.1 0.2": "--lr takes one value, a sweep several: cgsv sweep --lr 0.1,0.2",
    "run --gpu": "there is no --gpu: JAX chooses the device: JAX_PLATFORMS=cuda",
    "compare --method cgsv": "there is no --method: it is called --algorithms",
    "run --local_epochs=2": "there is no --local-epochs: it is called --epochs",
    "run --dirichlet-alpha 0.1": "it is called --concentration",
}


@pytest.mark.parametrize(("said", "sentence"), SAID.items(), ids=SAID)
def test_words_that_people_try(said, sentence, capsys):
    assert main.main(said.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("cgsv: ")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "said",
    [
        "compare --beta 0.5 --overwrite --seeds 1,2",
        "sweep --beta 0.5,1 --relative-floor true,false",
        "plot a b c",
        "data prepare mr",
        "run --beta=0.5",
        "",
        "--out a b",
    ],
)
def test_right_words_are_left_alone(said):
    assert flags_lib.misheard(said.split(), ACTIONS) == ""


def test_what_people_try_is_no_flag_and_what_is_proposed_is_one():
    for action in ACTIONS:
        assert not {name.replace("_", "-") for name in action.flags} & flags_lib._TRIED.keys()


def test_lr_is_the_learning_rate(capsys):
    assert main.main(["run", "--lr", "-1"]) == 2
    assert "--learning-rate is -1" in capsys.readouterr().err


def test_version_names_what_computes(capsys):
    assert main.main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("cgsv_jax ")
    assert f"\njax {jax.__version__}\n" in said
    assert f"devices: {jax.device_count()} x {jax.devices()[0].platform} (" in said


def test_version_where_there_is_no_device(capsys, monkeypatch):
    def devices():
        raise RuntimeError("no plugin")

    monkeypatch.setattr(jax, "devices", devices)
    assert main.main(["--version"]) == 2
    assert "JAX finds no device" in capsys.readouterr().err


def test_a_wrong_word_is_named_as_it_was_written():
    with pytest.raises(ConfigError, match=r"--dataset is 'DIGITZ'.*did you mean digits"):
        names_lib.configure(dataset="DIGITZ")
