"""Rules of one's own, from a file outside the package and from Python."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import main
from cgsv_jax.config import resolve, schema
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment import running
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.rules.spec import Spec, Truth

# A method with a number, a choice, a need for validation rows and a state of its own.
RULES = """
import jax.numpy as jnp
import cgsv_jax as cg
from cgsv_jax.rules.spec import Choice, Interval, Number, Spec


def counted(unit):
    def update(key, upload, aggregate, weights, state):
        state = state + upload.present  # rounds in which a client was there
        rows = upload.validation[1].size if unit == "rows" else 1
        return jnp.where(upload.present, rows * state, 0.0), state

    return cg.Contribution(
        lambda num_clients, _: jnp.zeros(num_clients), update, cg.Needs(validation=True)
    )


def tally(zeal, unit="rows"):
    reputation = cg.reputation.moving_average(counted(unit), zeal)
    return cg.compose(reputation, cg.aggregation.by_size(), cg.reward.sparsify(2.0))


METHODS = {
    "tally": Spec(
        tally,
        {
            "zeal": Number(0.25, Interval(0, 1), "weight of the past in tally", "zeal"),
            "unit": Choice("rows", ("rows", "rounds"), "what tally counts in"),
        },
    )
}
"""
SMALL = ["--dataset", "digits", "--clients", "3", "--rounds", "3", "--epochs", "1", "--hidden", "4"]
SMALL += ["--eval-rows", "40", "--seeds", "1", "--quiet"]
ASKED = {"clients": 3, "rounds": 3, "epochs": 1, "hidden": (4,), "eval_rows": 40, "seeds": 1}


@pytest.fixture
def rules(tmp_path):
    file = tmp_path / "my_rules.py"
    file.write_text(RULES)
    return file


def test_a_method_from_a_file(rules, tmp_path, capsys):
    """Compared, its number and word in the config, repeated; its score is rows times rounds."""
    out, again = tmp_path / "run", tmp_path / "again"
    words = [*SMALL, "--plugin", str(rules), "--algorithms", "standalone,tally", "--zeal", "0.5"]
    assert main.main(["compare", *words, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    (tally,) = (method for method in config["methods"] if method["algorithm"] == "tally")
    assert (tally["zeal"], tally["unit"]) == (0.5, "rows")
    assert config["plugin"] == str(rules)
    assert len(config["plugin_sha256"]) == 64
    rounds = directory_lib.read(out).rounds
    score = rounds.filter(rounds["method"] == "tally")["score"].to_numpy().reshape(3, 3)
    held = names_lib.configure(plugin=rules, algorithms="tally", **ASKED)
    np.testing.assert_array_equal(score, score[0, 0] * np.array([[1], [2], [3]]) * np.ones(3))
    assert score[0, 0] > 100
    assert held.methods[0].hyper()["zeal"] == 0.25
    repeat = ["compare", "--config", str(out / "config.json"), "--out", str(again), "--quiet"]
    assert main.main(repeat) == 2  # nobody has named the file this time
    assert "--plugin is missing: no code is executed only because" in capsys.readouterr().err
    assert main.main([*repeat, "--plugin", str(rules)]) == 0
    assert (again / "rounds.parquet").read_bytes() == (out / "rounds.parquet").read_bytes()
    assert main.main(["plot", str(out), "--out", str(tmp_path / "figures")]) == 0
    rules.write_text(RULES + "\n# another file\n")
    assert main.main([*repeat, "--plugin", str(rules), "--overwrite"]) == 2
    assert "its SHA-256 is another" in capsys.readouterr().err


def test_its_options_are_in_the_help(rules, capsys):
    for command in ("run", "compare", "sweep"):
        with pytest.raises(SystemExit):
            main.main([command, "--plugin", str(rules), "--help"])
        text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        assert "weight of the past in tally (default: 0.25)" in text
        assert "what tally counts in: rows, rounds (default: rows)" in text
    with pytest.raises(SystemExit):
        main.main(["run", "--help"])
    assert "zeal" not in capsys.readouterr().out


@pytest.mark.long
def test_a_sweep_over_its_number(rules, tmp_path, capsys):
    out, again = tmp_path / "sweep", tmp_path / "again"
    words = [*SMALL, "--plugin", str(rules), "--algorithms", "tally", "--zeal", "0.25,0.75"]
    assert main.main(["sweep", *words, "--out", str(out)]) == 0
    table = pl.read_parquet(out / "sweep.parquet")
    assert sorted(set(table["zeal"].drop_nulls())) == [0.25, 0.75]
    repeat = ["sweep", "--config", str(out / "config.json"), "--out", str(again), "--quiet"]
    assert main.main(repeat) == 2
    assert "--plugin is missing" in capsys.readouterr().err
    assert main.main([*repeat, "--plugin", str(rules)]) == 0
    assert (again / "sweep.parquet").read_bytes() == (out / "sweep.parquet").read_bytes()
    assert main.main(["plot", str(out), "--out", str(tmp_path / "figures")]) == 0


@pytest.mark.long
def test_a_killed_run_goes_on_with_the_same_file(rules, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    many = ["150" if word == "3" and SMALL[i - 1] == "--rounds" else word
            for i, word in enumerate(SMALL)]  # fmt: skip
    words = ["run", *many, "--plugin", str(rules), "--algorithms", "tally"]
    words += ["--checkpoint-every", "1", "--eval-every", "1"]
    command = [sys.executable, "-m", "cgsv_jax", *words, "--out", str(out)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    while not list(out.glob("checkpoint/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "rounds.parquet").exists()
    resume = ["run", "--resume", str(out), "--quiet"]
    assert main.main(resume) == 2
    assert "--plugin is missing" in capsys.readouterr().err
    kept = rules.read_text()
    rules.write_text(kept + "\n")
    assert main.main([*resume, "--plugin", str(rules)]) == 2
    assert "its SHA-256 is another" in capsys.readouterr().err
    rules.write_text(kept)
    assert main.main([*resume, "--plugin", str(rules)]) == 0
    assert main.main([*words, "--out", str(whole)]) == 0
    assert (out / "rounds.parquet").read_bytes() == (whole / "rounds.parquet").read_bytes()


def test_the_same_from_python(rules):
    """Tables as arguments; those of the package stay as they are."""
    tables = names_lib.tables(rules)
    own = {"tally": tables.algorithms["tally"]}
    config = names_lib.configure(methods=own, algorithms="tally", zeal=0.5, unit="rounds", **ASKED)
    assert "tally" not in names_lib.TABLES.algorithms
    assert config.plugin is None
    (cell,) = running.run(config).cells
    np.testing.assert_array_equal(cell.record.score[0], np.array([[1], [2], [3]]) * np.ones(3))
    file = names_lib.configure(plugin=rules, algorithms="tally", zeal=0.5, **ASKED)
    values = json.loads(json.dumps(resolve.to_dict(file)))
    assert resolve.from_dict(values, tables) == file
    with pytest.raises(ConfigError, match="--plugin is missing"):
        resolve.from_dict(values, names_lib.TABLES)
    with pytest.raises(ConfigError, match="--zeal is 2, it must be a number at least 0"):
        names_lib.configure(plugin=rules, algorithms="tally", zeal=2)
    with pytest.raises(ConfigError, match="--zeal does nothing here: it needs --algorithms tally"):
        names_lib.configure(plugin=rules, algorithms="cgsv", zeal=0.5)
    with pytest.raises(ConfigError, match="'zeal' is no option"):
        names_lib.configure(zeal=0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("METHODS = {'cgsv': Spec(print)}", "METHODS holds 'cgsv', which there is already"),
        ("METHODS = {'own': print}", r"METHODS\['own'\] is no Spec"),
        ("METHODS = {'../own': Spec(print)}", "a name must be letters, digits and _"),
        ("METHODS = [1]", "METHODS is no dictionary"),
        ("PARTITIONS = {'own': 3}", r"PARTITIONS\['own'\] is no function"),
        ("DATASETS = {'own': print}", r"DATASETS\['own'\] is no Source"),
        ("METHODS = {'own': Spec(print, {'beta': Truth(True, '')})}", "the option 'beta' is ano"),
        ("METHODS = {'own': Spec(print, {'rounds': Truth(True, '')})}", "'rounds' has a name"),
        (
            "CONTRIBUTIONS = {'own': Spec(print, parts={'contribution': 'cosine'})}",
            r"\['own'\] has a part that it may be itself \(of measures: quotient_of, echo_of, ",
        ),
        (
            "REWARDS = {'own': Spec(print, parts={'contribution': 'own'})}\n"
            "CONTRIBUTIONS = {'own': Spec(print, parts={'echo_of': 'cosine', 'reward': 'own'})}",
            r"REWARDS\['own'\] has a part that it may be itself$",
        ),
        (
            "METHODS = {'own': Spec(print, parts={'mine': Spec(print, parts={'my_of': 'x'})})}",
            r"METHODS\['own'\] has a part 'my_of', it must be one of contribution, aggregation, ",
        ),
        ("x = 1", "it must define one of METHODS, CONTRIBUTIONS"),
        ("1 / 0", "which cannot be run: ZeroDivisionError"),
        ("def", "which cannot be run: SyntaxError"),
        (None, "--plugin is "),
    ],
)
def test_a_plugin_that_cannot_be_is_refused(text, complaint, tmp_path):
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text("from cgsv_jax.rules.spec import Spec, Truth\n" + text)
    with pytest.raises(ConfigError, match=complaint):
        names_lib.configure(plugin=file)


def test_a_measure_of_measures_from_a_file(tmp_path):
    """It may be the part of those before it, and none of those that may be its own."""
    file = tmp_path / "own.py"
    file.write_text(
        "from cgsv_jax.rules.spec import Spec\n"
        "CONTRIBUTIONS = {'own': Spec(lambda echo_of: echo_of, parts={'echo_of': 's2_wef'})}"
    )
    config = names_lib.configure(
        plugin=file,
        algorithms="cgsv",
        contribution="quotient",
        quotient_of="own",
        s2_wef_of="class_cosine",
    )
    (method,) = config.methods
    words = {name: method.values[name] for name in ("quotient_of", "echo_of", "s2_wef_of")}
    assert words == {"quotient_of": "own", "echo_of": "s2_wef", "s2_wef_of": "class_cosine"}
    with pytest.raises(ConfigError, match="--echo-of is 'own', it must be one of cosine"):
        names_lib.configure(plugin=file, contribution="echo", echo_of="own")


# A data set, a partition and a model.
WORLD = """
import numpy as np
import cgsv_jax as cg
from cgsv_jax import data, models

EPOCHS = {"rounds": 2, "epochs": 1, "batch_size": 8, "learning_rate": 0.1, "decay": 0.9}
SERVER = {"gamma": 0.3, "clip": 0.01, "growth": 1.0}


def circles():
    angles = np.linspace(0, 6, 120, dtype=np.float32)
    labels = (np.arange(120) % 3).astype(np.int32)
    rows = np.stack([np.sin(angles), np.cos(angles)], 1) * (1 + labels[:, None])
    return cg.Dataset(rows[:90], labels[:90], rows[90:], labels[90:])


def in_turn(rng, labels, num_clients):
    return cg.partition.uniform(np.random.default_rng(0), labels, num_clients)


def narrow(shape, num_classes):
    return models.mlp(shape, num_classes, hidden=(3,))


SOURCE = data.Source(
    circles, (2,), 3, "narrow", None, 0.1, "rings", (90, 30), training=EPOCHS | SERVER
)
DATASETS, PARTITIONS, MODELS = {"circles": SOURCE}, {"in_turn": in_turn}, {"narrow": narrow}
"""


def test_no_option_is_called_like_a_flag_of_the_command():
    """Or like a field of a config or a method: one of the two would never be heard."""
    groups = [flags_lib.CLUSTER, flags_lib.SWEEP, flags_lib.RAY, flags_lib.OUTPUT]
    groups += [flags_lib.of_group(group, names_lib.TABLES) for group in schema.GROUPS]
    named = {name for group in groups for name in group} - schema.TRAINING.keys()
    for name in named | {"partition", "algorithms", "preset", "values", "name"}:
        own = {"mine": Spec(print, {name: Truth(True, "")})}
        with pytest.raises(ConfigError, match=f"the option '{name}' has a name that is taken"):
            names_lib.tables(methods=own)


def test_data_partition_and_model_of_ones_own(tmp_path, capsys):
    file, out = tmp_path / "world.py", tmp_path / "out"
    file.write_text(WORLD)
    words = ["run", "--plugin", str(file), "--dataset", "circles", "--partition", "in_turn"]
    words += ["--clients", "3", "--seeds", "1", "--quiet", "--out", str(out)]
    assert main.main(words) == 0, capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    assert [config[name] for name in ("dataset", "model", "rounds")] == ["circles", "narrow", 2]
    assert config["partitions"] == ["in_turn"]
    assert {method["gamma"] for method in config["methods"] if "gamma" in method} == {0.3}
    (data,) = json.loads((out / "environment.json").read_text())["data"]["sets"]
    assert data == "circles"
    clients = pl.read_parquet(out / "clients.parquet")
    assert clients["rows"].unique().to_list() == [27]  # 90 rows less a tenth, among three
    file.write_text(WORLD.replace('"clip": 0.01, ', ""))
    with pytest.raises(ConfigError, match="lacks clip in its training"):
        names_lib.configure(plugin=file)


def test_an_installed_package_offers_rules(rules, tmp_path, monkeypatch):
    """An entry point stands for the file of its module, which is judged like any other."""
    (tmp_path / "offered_rules.py").write_text(pathlib.Path(rules).read_text())
    info = tmp_path / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cgsv_jax.rules]\noffered = offered_rules\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = names_lib.configure(plugin="offered", algorithms="tally", **ASKED)
    assert config.plugin == str(tmp_path / "offered_rules.py")
    assert config.methods[0].zeal == 0.25
    with pytest.raises(ConfigError, match="--plugin is 'nobody'"):
        names_lib.configure(plugin="nobody")


OWN_RULES = pathlib.Path(__file__).parent.parent / "docs" / "own-rules.md"


def test_the_example_of_the_page(tmp_path):
    """A dozen lines, with a measure and a method of one's own, as they stand there."""
    text = re.search(r"```python\n(# my_rules.py\n.*?)```", OWN_RULES.read_text(), re.S).group(1)
    file = tmp_path / "my_rules.py"
    file.write_text(text)
    assert sum(bool(line.strip()) for line in text.splitlines()) == 11  # and the name of the file
    asked = {**ASKED, "algorithms": ("patient", "cgsv"), "contribution": "by_loss"}
    config = names_lib.configure(plugin=file, memory=0.5, **asked)
    patient, cgsv = running.run(config).cells
    np.testing.assert_allclose(patient.record.score, patient.record.loss, rtol=1e-6)
    np.testing.assert_allclose(cgsv.record.score, cgsv.record.loss, rtol=1e-6)
