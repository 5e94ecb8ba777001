"""`cg.compare` and what it gives: the same numbers as by hand, shown in every way."""

import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgsv_jax as cg
from cgsv_jax import experiment
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core.ranges import Interval
from cgsv_jax.experiment import comparing, names
from cgsv_jax.results import directory, figures
from cgsv_jax.rules.spec import Number, Spec

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 20).astype(np.int32)
INPUTS = (np.eye(3)[LABELS] + RNG.normal(0, 0.6, (60, 3))).astype(np.float32)
DATA = cg.Dataset(INPUTS, LABELS, INPUTS[::2], LABELS[::2])
CLIENTS = cg.partition.from_lists([[0, 1], [2, 20, 21], [22, 40, 41, 42], range(3, 19)])
ASKED = {"rounds": 4, "seeds": 2, "eval_every": 2, "quiet": True}


def linear():
    def init(key):
        return {"kernel": 0.1 * jax.random.normal(key, (3, 3)), "bias": jnp.zeros(3)}

    return cg.Model(init, lambda params, inputs, key=None: inputs @ params["kernel"])


MODEL = linear()


@pytest.fixture(scope="module")
def result():
    methods = {
        "cgsv": cg.cgsv(),  # a name that there is already, which is another's here
        "by name": "cgsv",
        "released": cg.cgsv_released,  # a function of tensors, and of numbers that have a default
    }
    return cg.compare(DATA, CLIENTS, MODEL, methods, **ASKED)


def leaves(cell):
    return jax.tree.leaves((cell.record, cell.evaluation, cell.answers))


def test_it_is_what_one_would_do_by_hand(result):
    numbers = {"learning_rate": 0.1, "decay": 1.0, "batch_size": 32, "epochs": 1, "gamma": 0.5}
    asked = {name: value for name, value in ASKED.items() if name != "quiet"}
    config = names.configure(algorithms=("standalone", "cgsv"), clients=4, **asked, **numbers)
    by_hand = experiment.run(config, dealt=(experiment.given(config, DATA, CLIENTS, MODEL),))
    cells = {cell.method: cell for cell in result.cells}
    assert [*cells] == ["standalone", "cgsv", "by name", "released"]
    for own, other in zip(("standalone", "by name"), by_hand.cells, strict=True):
        assert cells[own].method == own
        for x, y in zip(leaves(cells[own]), leaves(other), strict=True):
            np.testing.assert_array_equal(x, y)
    for x, y in zip(leaves(cells["cgsv"]), leaves(cells["by name"]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)  # the numbers are in the program
    assert not np.array_equal(cells["released"].record.quota, cells["cgsv"].record.quota)


def test_it_is_shown_in_a_line_each(result):
    lines = repr(result).splitlines()
    assert lines[0] == (
        "Result(2 seeds, 4 rounds, Task(given: 4 clients of inputs float32 [60, 3], "
        "30 test examples, 12 parameters))"
    )
    mean = result.cells[3].evaluation.accuracy[:, -1].mean()
    assert lines[4].startswith(f"  released on given: accuracy {100 * mean:.1f} %")
    assert len(lines) == 5
    assert lines[1].endswith("fairness yardstick")
    table = result.table().cells
    shown = dict(zip(table["method"], table["fairness"], strict=True))
    for line, method in zip(lines[1:], shown, strict=True):  # no number that the table withholds
        assert line.endswith(f"fairness {shown[method]}")
    for cell, line in zip(result.cells, map(repr, result.cells), strict=True):
        assert line.startswith(f"Cell({cell.method} on given: 2 seeds, 4 rounds, 4 clients, ")
        assert "\n" not in line
    yardstick = 100 * result.cells[0].evaluation.accuracy[:, -1].mean()
    assert repr(result.cells[0]).endswith(f"accuracy {yardstick:.1f} %)")


class Cells(html.parser.HTMLParser):
    """The texts of every row of a table."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def test_its_table_is_one_in_a_terminal_and_in_a_notebook(result):
    report = result.table()
    shown = repr(report)
    assert "\x1b" not in shown
    cells = [["–" if text is None else text for text in row] for row in report.cells.rows()]
    assert Cells(report._repr_html_()).rows == [report.cells.columns, *cells]
    bundle = result._repr_mimebundle_(include=None, exclude=None)
    assert bundle == {"text/html": report._repr_html_(), "text/plain": repr(result)}
    for method in ("standalone", "by name", "released"):
        assert any(line.strip().startswith(method) for line in shown.splitlines())


def test_a_name_is_no_code_in_a_notebook(result):
    report = result.table()._replace(title="<b>x</b>", lines=["a < b"])
    assert "<b>" not in report._repr_html_()
    assert "a &lt; b" in report._repr_html_()


def test_what_is_saved_is_read_again(result, tmp_path):
    where = result.save(tmp_path / "run")
    run = directory.read(where)
    for name, frame in result.frames.items():
        assert frame.equals(getattr(run, name))
    assert run.config["dataset"] == "given"
    named = [(method["name"], method["algorithm"]) for method in run.config["methods"]]
    assert named[2:] == [("by name", "cgsv"), ("released", "given_3")]
    of_digits = {**run.config, "dataset": "digits"}
    with pytest.raises(ConfigError, match=r"given from Python \(cgsv, released\), which no file"):
        resolve.from_dict(of_digits, names.TABLES)
    with pytest.raises(ValueError, match="holds a run"):
        result.save(where)
    assert result.save(where, overwrite=True) == where


@pytest.mark.long
def test_its_figures_are_those_of_its_directory(result, tmp_path):
    drawn = {path.stem: path for path in figures.draw([result.save(tmp_path / "run")])}
    made = result.figures()
    assert made.keys() == drawn.keys()
    how = {"dpi": figures.DPI, "metadata": figures.METADATA["png"]}
    for name, path in drawn.items():
        with figures._fixed():
            made[name].savefig(tmp_path / path.name, **how)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.long
def test_a_data_set_by_name_and_out(tmp_path):
    asked = {"rounds": 1, "seeds": [3], "epochs": 1, "partition": "uniform", "out": tmp_path / "a"}
    seen = []
    made = cg.compare("digits", 3, methods="fedavg", **asked, watch=seen.append)
    assert made.config.batch_size == 16  # of digits
    assert seen[-1].round == 1
    assert directory.read(tmp_path / "a").config["partitions"] == ["uniform"]
    again = experiment.run(experiment.read(tmp_path / "a"))
    for one, other in zip(made.cells, again.cells, strict=True):
        assert all(map(np.array_equal, leaves(one), leaves(other)))
    with pytest.raises(ValueError, match="holds a run"):  # before anything is computed
        cg.compare("digits", 3, methods="fedavg", **asked, watch=lambda seen: 1 / 0)


@pytest.mark.long
def test_a_declaration_has_its_numbers():
    past = Number(0.9, Interval(0, 1), "weight of the past", "past")
    spec = Spec(lambda past: cg.cgsv(alpha=past), {"past": past})
    asked = {**ASKED, "seeds": 1}
    result = cg.compare(DATA, CLIENTS, MODEL, {"mine": spec}, **asked, past=0.25)
    assert result.config.methods[1].past == 0.25
    by_name = cg.compare(DATA, CLIENTS, MODEL, "cgsv", **asked, alpha=0.25)
    pair = (each.cells[1].record.reputation for each in (result, by_name))
    np.testing.assert_allclose(*pair, atol=1e-6)


REFUSED = {
    "no clients": (("digits", CLIENTS), {}, "clients must be a cg.Clients where data are arrays"),
    "a number": ((DATA, 4), {}, r"cg\.partition\.dirichlet"),
    "own model": (("digits", 3, MODEL), {}, "model must be a name where data is one"),
    "no data": (((INPUTS, LABELS), CLIENTS), {}, "data is a tuple, it must be a name or a cg.Data"),
    "label": ((DATA, CLIENTS), {"methods": {"a\nb": "cgsv"}}, "called by up to 40 characters"),
    "space": ((DATA, CLIENTS), {"methods": {"a ": "cgsv"}}, "no space at an end"),
    "path": ((DATA, CLIENTS), {"methods": {"../a": "cgsv"}}, "with no / or"),
    "another's": (
        (DATA, CLIENTS),
        {"methods": {"cgsv": "fedavg", "fedavg": "cgsv"}},
        "methods holds 'cgsv', which is fedavg: it must not be called as another method is",
    ),
    "yardstick": (
        (DATA, CLIENTS),
        {"methods": {"standalone": "cgsv"}},
        r"methods\['standalone'\] must be 'standalone'",
    ),
    "no method": ((DATA, CLIENTS), {"methods": {"a": 3}}, r"methods\['a'\] is a int, it must be"),
    "needs": ((DATA, CLIENTS), {"methods": {"a": lambda x: x}}, r"needs x, which nobody says"),
    "unknown": ((DATA, CLIENTS), {"methods": {"a": "cgvs"}}, "cgvs.*cgsv"),
    "option": ((DATA, CLIENTS), {"learning_rat": 1}, "learning_rate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case):
    arguments, options, sentence = REFUSED[case]
    with pytest.raises(ConfigError, match=sentence):
        cg.compare(*arguments, **options)


@pytest.mark.parametrize(
    ("methods", "asked", "called"),
    [
        ("fedavg,cgsv[beta=5.0]", {}, ["standalone", "fedavg", "cgsv[beta=5]"]),
        (["cgsv"], {"contribution": "shapley"}, ["standalone", "cgsv[contribution=shapley]"]),
        ({"mine": "cgsv[beta=5]"}, {"contribution": "shapley"}, ["standalone", "mine"]),
    ],
)
def test_names_alone_say_what_the_methods_are(methods, asked, called):
    config = comparing._configured(methods, {"clients": 3, **asked}, False)
    assert [method.name for method in config.methods] == called
    with pytest.raises(ConfigError, match="which reads as a method with options of its own"):
        comparing._configured({"cgsv[beta=2]": "cgsv[beta=5]"}, {"clients": 3}, False)


def test_a_file_says_again_what_methods_are_called():
    methods = {"CGSV, five": "cgsv[beta=5]", "\u03b2=2": "cgsv[beta=2]", "cgsv": "cgsv[beta=3]"}
    config = comparing._configured(methods, {"clients": 3}, False)
    assert [method.name for method in config.methods] == ["standalone", *methods]
    values = json.loads(json.dumps(resolve.to_dict(config)))
    assert resolve.from_dict(values, names.TABLES) == config
