"""The page of `cgsv report`: whole, harmless, and with the numbers of the run."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from cgsv_jax.command import main
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import page as page_lib
from cgsv_jax.results import tables
from tests.test_plots import METHODS, cell, changed, run_of

EVIL = "<script>alert(1)</script>"
ALONE = {"meta", "br"}  # elements without an end


class Reader(HTMLParser):
    """Elements with their attributes, the text in each kind, and whether all of them close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def _page(run, name="run", config=None):
    frames = run._asdict()
    section = page_lib.Section(name, config or {}, {}, tables.reports(frames), ["a line"], run)
    return page_lib.page([section], [])


@pytest.fixture(scope="module")
def run():
    return run_of([cell(method) for method in METHODS])


def test_points_say_their_values(run):
    read = Reader(_page(run))
    said = read.texts["title"]
    own = run.fairness.filter(method="cgsv").group_by("round").agg(pl.col("fairness").mean())
    for round_, value in own.sort("round").iter_rows():
        assert f"cgsv, round {round_}: {value:.1f}" in said
    assert "cgsv, client 4: 80.0 % alone, 80.0 % together" in said
    assert not any(text.startswith("fedavg, round 2: undefined") for text in said)
    assert any("undefined in every round for fedavg" in text for text in read.texts["p"])
    assert len([tag for tag, _ in read.elements if tag == "circle"]) == len(said) - 1
    titles = [text for text in read.texts["figcaption"] if text.startswith(("Fair", "Mean", "Acc"))]
    assert [title.split()[0] for title in titles] == ["Fairness", "Mean", "Accuracy"]
    cells = read.texts["td"]
    for text in tables.reports(run._asdict())[0].cells["fairness"]:
        assert text in cells


def test_a_point_stands_where_its_value_is():
    line = page_lib.Line("m", [(0, -100, "a"), (10, 100, "b"), (5, 0, "c")])
    drawn = Reader(page_lib._chart("t", [line], {"m": 0}, ("x", "y"), (-100.0, 100.0)))
    places = [(float(x["cx"]), float(x["cy"])) for tag, x in drawn.elements if tag == "circle"]
    left, right = page_lib.LEFT, page_lib.WIDTH - page_lib.RIGHT
    top, bottom = page_lib.TOP, page_lib.HEIGHT - page_lib.BOTTOM
    assert places == [(left, bottom), (right, top), ((left + right) / 2, (top + bottom) / 2)]


@pytest.mark.parametrize("ends", [(0, 0), (3, 60), (-100, 100), (0.2, 0.21), (1e-9, 2e-9), (5, 5)])
def test_ticks_are_round_and_hold_the_span(ends):
    ticks = page_lib._ticks(*ends)
    assert ticks[0] <= ends[0] + 1e-9
    assert ticks[-1] >= ends[1] - 1e-9
    assert 2 <= len(ticks) <= 7
    for tick in ticks:
        assert float(f"{tick:.3g}") == pytest.approx(tick, rel=1e-9, abs=1e-15)


def test_names_of_strangers_are_text_and_nothing_is_fetched(run):
    """The policy names the one script that may run, and it is the page's own."""
    names = {"cgsv": EVIL}
    place = pl.lit('"><img src=x onerror=y>')
    odd = changed(run, lambda f: f.with_columns(pl.col("method").replace(names), partition=place))
    text = _page(odd, EVIL, {"plugin": "</pre><script>x</script>", "a": "\x1b]0;x\x07"})
    read = Reader(text)
    tags = {tag for tag, _ in read.elements}
    assert "img" not in tags
    assert [tag for tag, _ in read.elements].count("script") == 1
    (script,) = read.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (x["content"] for tag, x in read.elements if "http-equiv" in x)
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    for _, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
        assert "src" not in attributes
    assert not re.search(r"https?://|url\(|@import", text)
    assert "\x1b" not in text
    assert EVIL in read.texts["h2"][0]


def test_odd_runs_have_a_page_too():
    alone = [cell("standalone", clients=1, seeds=1, rounds=1, every=1)]
    many = [cell("standalone", clients=400), *(cell(f"m{i}", clients=400) for i in range(12))]
    for cells in (alone, [cell("cgsv", rounds=1, every=1)], many):
        text = _page(run_of(cells))
        Reader(text)
        assert len(text) < 2_000_000


def test_the_command_puts_it_into_the_run(tmp_path, capsys):
    folders = [directory_lib.create(tmp_path / name) for name in "ab"]
    for folder, clients in zip(folders, (4, 5), strict=True):
        cells = [cell(method, clients=clients, seeds=1) for method in METHODS]
        timing = {"methods": []}
        directory_lib.write(folder, {"clients": clients}, {}, timing, cells)
    assert main.main(["report", str(folders[0])]) == 0
    assert (folders[0] / "report.html").read_text().startswith("<!doctype html>")
    out = tmp_path / "both.html"
    assert main.main(["report", *map(str, folders), "--out", str(out)]) == 0
    read = Reader(out.read_text())
    assert read.texts["h2"] == ["a", "b"]
    assert read.texts["caption"][0] == "What differs"
    assert read.texts["td"][:3] == ["clients", "4", "5"]
    assert str(out) in capsys.readouterr().out
    assert main.main(["report", str(folders[0]), "--out", str(tmp_path)]) == 2
    assert "which is a folder, it must name a file" in capsys.readouterr().err
    table = folders[0] / "summary.parquet"
    before = table.read_bytes()
    assert main.main(["report", str(folders[0]), "--out", str(table)]) == 2
    assert "it must end in .html or .htm" in " ".join(capsys.readouterr().err.split())
    assert table.read_bytes() == before
    directory_lib.create(folders[0], overwrite=True)
    assert not (folders[0] / "report.html").exists()
