"""What was printed is printed again from the files, in every form, and read back."""

import io
import re
import shutil

import polars as pl
import pytest
from rich.console import Console

from cgsv_jax.command import main
from cgsv_jax.host import files
from cgsv_jax.results import differences, tables
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames as frames_lib

SIZES = ["--hidden", "8", "--clients", "4", "--epochs", "1", "--rounds", "3", "--seeds", "2"]
SMALL = [*SIZES, "--algorithms", "standalone,fedavg,cgsv"]
EVIL = r"\input{x}&%$#_{}~^<script>|`*"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that printed everything, another of twice the beta, and what the first printed."""
    folder = tmp_path_factory.mktemp("show")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", said := io.StringIO())
        assert main.main(["compare", *SMALL, "--verbose", "--out", str(folder / "a")]) == 0
    shutil.copytree(folder / "a", folder / "b")
    config = directory_lib.read_json(folder / "b", "config.json")
    config["methods"][2]["beta"] = 2.0
    files.write_files(folder / "b", {"config.json": files.document(config)})
    return folder, said.getvalue()


def _show(capsys, *words):
    capsys.readouterr()
    assert main.main(["show", *map(str, words)]) == 0
    return capsys.readouterr().out


def _tables(text):
    """What each client holds, which is printed before the run, and what is printed after it."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    held = lines[lines.index("What each client holds") : lines.index(" rows in all")]
    return held, lines[lines.index("Fairness and accuracy") :]


def test_what_a_run_printed_is_printed_again(runs, capsys):
    folder, said = runs
    (held, before), (again_held, again) = map(_tables, (said, _show(capsys, folder / "a")))
    assert held == again_held
    assert before.startswith(again)
    rest = before.removeprefix(again).strip().splitlines()
    assert [line.split()[0] for line in rest] == [re.match(r"[\d.]+", rest[0])[0], "results:"]
    for title in ("Gains", "Clients of", "Seconds"):
        assert title in again


@pytest.mark.long
def test_a_run_prints_one_screen_and_says_where_the_rest_is(tmp_path, capsys):
    """The defaults of compare, in fewer rounds: 40 lines of 80 characters."""
    out = tmp_path / "run"
    assert main.main(["compare", "--rounds", "2", "--hidden", "8", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if " rounds (" not in line]
    assert len(lines) <= 40
    assert max(len(line) for line in lines if str(out) not in line) <= 80
    titles = [line for line in lines if " on class_imbalance" in line]
    assert [" ".join(title.split()) for title in titles] == [
        "Fairness and accuracy on class_imbalance"
    ]
    assert lines[-1].startswith(f"`cgsv show {out}` shows")


def test_several_say_first_what_differs(runs, capsys):
    folder, _ = runs
    text = _show(capsys, folder / "a", folder / "b")
    head, *_ = text.split("\na: ")
    rows = [line.split() for line in head.splitlines()]
    assert "What differs" in head
    assert ["cgsv:", "beta", "1", "2"] in rows
    assert not any(row[:1] == ["rounds"] for row in rows)
    same = _show(capsys, folder / "a", folder / "a")
    assert "these were asked for the same" in same
    assert "a-2: " in same


def test_csv_is_read_back_by_polars(runs, capsys):
    folder, _ = runs
    table = pl.read_csv(io.StringIO(_show(capsys, folder / "a", folder / "b", "--csv")))
    assert table["run"].to_list() == ["a"] * 3 + ["b"] * 3
    want = frames_lib.fairness_table(directory_lib.read(folder / "a").summary)
    for name in ("mean_accuracy", "fairness", "fairness_sd", "mean_gain", "energy"):
        assert table[name][:3].to_list() == want[name].to_list()
    assert table["method"][:3].to_list() == want["method"].to_list()


def _balanced(text):
    """Whether braces outside of `\\{` and `\\}` close in order, and environments with them."""
    depth, stack = 0, []
    for token in re.findall(r"\\begin\{\w+\}|\\end\{\w+\}|\\.|[{}]", text):
        if token.startswith(r"\begin{"):
            stack.append(token[7:-1])
        elif token.startswith(r"\end{"):
            assert stack.pop() == token[5:-1]
        elif token in "{}":
            depth += 1 if token == "{" else -1
            assert depth >= 0
    return depth == 0 and not stack


def test_latex_has_booktabs_and_nothing_unescaped(runs, capsys):
    folder, _ = runs
    text = _show(capsys, folder / "a", "--latex")
    assert _balanced(text)
    assert r"class\_imbalance" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}")
    evil = tables.Report(pl.DataFrame({EVIL: [EVIL, "[1ex]\n%x"], "n": ["1", "–"]}), EVIL, [EVIL])
    made = tables.latex(evil)
    assert _balanced(made)
    known = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}"
    bare = re.sub(known, "", made)
    assert r"\input" not in bare
    assert not re.search(r"(?<!\\)[%$#_~^<>|]", bare)
    rows = made.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows.splitlines() if "&" in row] == [1] * 3


def test_markdown_is_text_and_tables(runs, capsys):
    folder, _ = runs
    text = _show(capsys, folder / "a", "--markdown")
    assert "| method | fairness | accuracy: mean (max), % | gain | spread |" in text
    evil = tables.markdown_of(tables.Report(pl.DataFrame({"a": [EVIL]}), EVIL, [EVIL]))
    assert "<script>" not in evil.replace(r"\<script>", "")
    row = evil.splitlines()[4]
    assert "&lt;script>" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 2


def test_a_sweep_is_shown_as_it_ended(tmp_path, capsys):
    out = tmp_path / "sweep"
    assert (
        main.main(
            ["sweep", *SIZES, "--beta", "0.5,1", "--best", "mean_accuracy", "--out", str(out)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    again = _show(capsys, out)
    assert again in printed
    assert again.splitlines()[-1].startswith("cgsv compare ")
    table = pl.read_csv(io.StringIO(_show(capsys, out, "--csv")))
    points = pl.read_parquet(out / "points.parquet")
    assert table.select("beta", "criterion").equals(points.select("beta", "criterion"))
    for form in ("--markdown", "--latex"):
        assert "Points by mean accuracy" in _show(capsys, out, form)
    shutil.copytree(out, twin := tmp_path / "other" / "sweep")
    figures = tmp_path / "figures"
    assert main.main(["plot", str(out), str(twin), "--out", str(figures)]) == 0
    drawn = sorted(file.relative_to(figures).as_posix() for file in figures.rglob("*.png"))
    assert drawn == ["sweep-2/line-beta.png", "sweep/line-beta.png"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no run directory is given"),
        (["nothing"], "nothing is no run directory: it is not there"),
        (["a", "--latex", "--csv"], "--latex and --csv are two forms"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(words, sentence, runs, capsys, monkeypatch):
    monkeypatch.chdir(runs[0])
    assert main.main(["show", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_what_a_name_does_not_say_is_a_line(runs, capsys, tmp_path):
    """As of a run of before variants, whose methods were called by their algorithms alone."""
    assert " is cgsv" not in _show(capsys, runs[0] / "b")  # a number of all
    shutil.copytree(runs[0] / "a", tmp_path / "c")
    config = directory_lib.read_json(tmp_path / "c", "config.json")
    config["methods"][2]["mask_ties"] = "all"
    files.write_files(tmp_path / "c", {"config.json": files.document(config)})
    assert "\ncgsv is cgsv[mask_ties=all]\n" in _show(capsys, tmp_path / "c")
    assert main.main(["report", str(tmp_path / "c")]) == 0
    assert "<p>cgsv is cgsv[mask_ties=all]</p>" in (tmp_path / "c" / "report.html").read_text()


def test_what_differs():
    method = {"name": "cgsv", "algorithm": "cgsv", "beta": 1.0, "alpha": 0.95}
    one = {"clients": 5, "seeds": [0, 1], "sha256": "x", "methods": [method]}
    two = {"clients": 10, "seeds": [0, 1], "methods": [method | {"beta": 2.0}, {"name": "eci"}]}
    assert differences.of([one, two]) == {
        "clients": ["5", "10"],
        "methods": ["cgsv", "cgsv, eci"],
        "cgsv: beta": ["1", "2"],
    }
    assert differences.labels([one, two], "ab") == [
        "a (clients 5, methods cgsv)",
        "b (clients 10, methods cgsv, eci)",
    ]
    assert differences.labels([one, one], "ab") == ["a", "b"]
    swept = {"axes": [{"name": "beta", "values": [1, 2]}], "points": [], "config": one}
    assert differences.of([one, swept])["swept"] == ["–", "beta 1, 2"]


def test_clients_that_are_alike_are_a_line(runs):
    clients = directory_lib.read(runs[0] / "a").clients
    (report,) = tables.clients_after(clients, 200)
    assert not any("fedavg" in name for name in report.cells.columns if "tuned" not in name)
    own = clients.filter(method="fedavg")
    assert own.group_by("seed").agg(pl.col("accuracy").n_unique())["accuracy"].to_list() == [1, 1]
    text = f"all clients alike, accuracy in %: fedavg {100 * own['accuracy'].mean():.1f}"
    assert report.lines.count(text) == 1
    only = tables.clients_after(clients.filter(pl.col("method").is_in(["standalone", "fedavg"])))
    assert [(table.cells.width, table.lines) for table in only] == [(0, [text])]
    Console(file=io.StringIO()).print(*only)


def test_figures_come_in_the_formats_that_help_names(runs, tmp_path, capsys):
    out = tmp_path / "figures"
    both = [str(runs[0] / name) for name in ("a", "b")]
    assert main.main(["plot", *both, "--out", str(out), "--format", "pdf, svg"]) == 0
    assert {path.suffix for path in out.rglob("*.*")} == {".pdf", ".svg"}
    assert "the runs differ in cgsv: beta (1; 2)" in capsys.readouterr().out
    assert main.main(["plot", both[0], "--format", "jpg"]) == 2
    allowed = ", ".join(directory_lib.FIGURE_FORMATS)
    assert f"--format is 'jpg', it must be of {allowed}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["plot", "--help"])
    assert f"of the files: {allowed}" in capsys.readouterr().out
