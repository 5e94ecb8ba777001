"""Finished runs as one HTML page that needs nothing else: no network, no file beside it.

Whatever comes from a run directory is a stranger's and is escaped; the page's policy names its own
script by a digest, so that no other one could run.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import polars as pl

from cgsv_jax.host import terminal
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results import tables
from cgsv_jax.results.directory import Run
from cgsv_jax.results.tables import Report

# Okabe and Ito's colours, as in the figures; black would not show on a dark page.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "currentColor")
DASHES = ("", "7 3", "2 2")  # a further lap through the colours has another
WIDTH, HEIGHT = 640, 260  # of a chart's drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 10, 40
MOST = 20_000  # points of a chart; of more every so many-eth evaluation is drawn


class Section(NamedTuple):
    """A finished run or sweep, as the page shows it."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    reports: Sequence[Report]
    lines: Sequence[str]  # below them
    run: Run | None  # None of a sweep, which has tables alone


class Line(NamedTuple):
    """A line, or points, of a chart."""

    name: str
    points: Sequence[tuple[float, float, str]]  # x, y, and what is said of the point
    joined: bool = True


def page(sections: Sequence[Section], differ: Sequence[Report]) -> str:
    """The page.

    Args:
      sections: the runs and sweeps, in order.
      differ: tables of what differs between them.
    """
    names = ", ".join(section.name for section in sections)
    links = "".join(
        f'<li><a href="#run-{i}">{_text(section.name)}</a></li>'
        for i, section in enumerate(sections)
    )
    body = [f"<h1>{_text(names)}</h1>"]
    body += [f"<nav><ul>{links}</ul></nav>"] if len(sections) > 1 else []
    body += [f'<div class="wrapped">{_table(report)}</div>' for report in differ]
    body += [part for i, section in enumerate(sections) for part in _section(section, i)]
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(names)}</title>",
            f"<style>{_STYLE}</style></head><body><main>",
            *body,
            f'</main><div id="tip" hidden></div><script>{_SCRIPT}</script></body></html>',
            "",
        ]
    )


def _section(section: Section, place: int) -> Iterable[str]:
    yield f'<section><h2 id="run-{place}">{_text(section.name)}</h2>'
    if section.run is not None:
        yield from _charts(section.run)
    yield from map(_table, section.reports)
    yield from (f"<p>{_text(line)}</p>" for line in section.lines)
    for what, value in (("Configuration", section.config), ("Environment", section.environment)):
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        yield f"<details><summary>{what}</summary><pre>{_text(text)}</pre></details>"
    yield "</section>"


def _text(text: str) -> str:
    return escape(terminal.plain(text))


def _table(report: Report) -> str:
    return f'<div class="scroll">{tables.html(report)}</div>'


# ---------------------------------------------------------------- charts


def _charts(run: Run) -> Iterable[str]:
    """Of every partition: fairness and accuracy over rounds, then accuracy alone and together."""
    for partition in run.summary["partition"].unique(maintain_order=True):
        course = run.fairness.filter(partition=partition)
        methods = course["method"].unique(maintain_order=True).to_list()
        styles = {method: place for place, method in enumerate(methods)}
        over = frames_lib.over(course)
        note = f", mean over {over}" if over else ""
        fair = [_over_rounds(course, method, "fairness", 1) for method in methods]
        known = [line for line in fair if line.points]
        none = [line.name for line in fair if not line.points and line.name != frames_lib.YARDSTICK]
        if known:
            title = f"Fairness over rounds, {partition}{note}"
            yield _chart(title, known, styles, ("round", "fairness"), (-100.0, 100.0))
        if none:
            which = f"{', '.join(none)} on {partition}"
            yield f"<p>fairness is undefined in every round for {_text(which)}</p>"
        accuracies = [_over_rounds(course, method, "mean_accuracy", 100) for method in methods]
        title = f"Mean test accuracy over rounds, {partition}{note}"
        yield _chart(title, accuracies, styles, ("round", "accuracy, %"))
        clients = run.clients.filter(partition=partition)
        alone = [_alone_and_together(clients, method) for method in methods]
        if any(line.points for line in alone):
            title = f"Accuracy alone and together, {partition}, a point per client{note}"
            yield _chart(title, alone, styles, ("alone, %", "together, %"))


def _over_rounds(course: pl.DataFrame, method: str, name: str, factor: float) -> Line:
    means = (
        frames_lib.while_all_run(course.filter(method=method))
        .group_by("round")
        .agg(pl.col(name).cast(pl.Float64).mean() * factor)
        .drop_nulls()
        .sort("round")
    )
    means = means.gather_every(max(1, len(means) * course["method"].n_unique() // MOST))
    points = [(r, y, f"{method}, round {r}: {tables.number(y)}") for r, y in means.iter_rows()]
    return Line(method, points)


def _alone_and_together(clients: pl.DataFrame, method: str) -> Line:
    if method == frames_lib.YARDSTICK:
        return Line(method, [])
    apart = frames_lib.told_apart(clients)
    sides = ("standalone_accuracy", "accuracy")
    means = (
        clients.filter(method=method)
        .group_by(apart, maintain_order=True)
        .agg(pl.col(side).cast(pl.Float64).mean() * 100 for side in sides)
        .drop_nulls()
    )
    points = []
    for row in means.head(MOST).iter_rows(named=True):
        x, y = (row[side] for side in sides)
        who = f"{method}, client {row['client']}"
        points.append((x, y, f"{who}: {tables.number(x)} % alone, {tables.number(y)} % together"))
    return Line(method, points, joined=False)


def _chart(
    title: str,
    lines: Sequence[Line],
    styles: Mapping[str, int],
    axes: tuple[str, str],
    span: tuple[float, float] | None = None,
) -> str:
    """A drawing whose points say their values.

    Args:
      title: above it.
      lines: what is drawn.
      styles: the number of every line's colour, by its name.
      axes: names of x and y.
      span: of y; default: that of the points.
    """
    lines = [line for line in lines if line.points]
    every = [point for line in lines for point in line.points]
    if not every:
        return ""
    ends = min(x for x, *_ in every), max(x for x, *_ in every)
    x_ticks = [tick for tick in _ticks(*ends) if tick <= ends[1]]
    first, last = min(x_ticks[0], ends[0]), max(ends[1], x_ticks[0] + 1e-9)
    y_ticks = _ticks(*(span or (min(y for _, y, _ in every), max(y for _, y, _ in every))))

    def at(x: float, y: float) -> tuple[str, str]:
        across = (x - first) / (last - first)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        left = LEFT + across * (WIDTH - LEFT - RIGHT)
        top = HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return f"{left:.1f}", f"{top:.1f}"

    def style(line: Line) -> tuple[str, str]:
        lap, colour = divmod(styles[line.name], len(COLOURS))
        return COLOURS[colour], DASHES[lap % len(DASHES)]

    drawn = []
    for tick in y_ticks:
        (x, y), (end, _) = at(first, tick), at(last, tick)
        zero = ' class="zero"' if tick == 0 else ""
        drawn.append(f'<line{zero} x1="{x}" y1="{y}" x2="{end}" y2="{y}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y}" class="y">{tick:g}</text>')
    for tick in x_ticks:
        x, y = at(tick, y_ticks[0])
        drawn.append(f'<text x="{x}" y="{float(y) + 15:.1f}" class="x">{tick:g}</text>')
    drawn.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" class="x">{_text(axes[0])}</text>')
    for line in lines:
        colour, dash = style(line)
        places = [at(x, y) for x, y, _ in line.points]
        drawn.append(f'<g style="color: {colour}">')
        if line.joined and len(places) > 1:
            path = " ".join(",".join(place) for place in places)
            drawn.append(f'<polyline points="{path}" stroke-dasharray="{dash}"/>')
        drawn += [
            f'<circle cx="{x}" cy="{y}" r="{2.2 if line.joined else 4}">'
            f"<title>{_text(said)}</title></circle>"
            for (x, y), (*_, said) in zip(places, line.points, strict=True)
        ]
        drawn.append("</g>")
    legend = "".join(
        f'<li><svg width="26" height="10" aria-hidden="true" style="color: {colour}">'
        f'<line x1="0" x2="26" y1="5" y2="5" stroke-dasharray="{dash}"/></svg>{_text(name)}</li>'
        for name, (colour, dash) in ((line.name, style(line)) for line in lines)
    )
    return (
        f"<figure><figcaption>{_text(title)}</figcaption>"
        f'<p class="axis">{_text(axes[1])}</p>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_text(title)}">{"".join(drawn)}</svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around a span, some five of them.

    >>> _ticks(3, 60)
    [0.0, 20.0, 40.0, 60.0]
    """
    wide = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
    size = 10.0 ** math.floor(math.log10(wide / 4))
    step = next(size * n for n in (1, 2, 5, 10) if wide / (size * n) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


# ---------------------------------------------------------------- style and script

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --fore: #1b1b1b; --faint: #666; --rule: #ddd;
  --raised: #f4f4f4; --link: #00588f }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --fore: #e8e8e8; --faint: #a5a5a5;
  --rule: #3a3d42; --raised: #202327; --link: #7cc0f0 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--fore);
  font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 16px; overflow-wrap: anywhere }
h1 { font-size: 1.4em } h2 { font-size: 1.2em; border-bottom: 1px solid var(--rule);
  padding-top: 1em }
a { color: var(--link) }
.scroll { overflow-x: auto; margin: 1.2em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; font-weight: 600; padding: 4px 0; white-space: nowrap }
th, td { padding: 3px 10px 3px 0; white-space: nowrap; vertical-align: bottom }
.wrapped td { vertical-align: top }
.wrapped td + td { white-space: normal; min-width: 9em; max-width: 24em;
  text-align: left !important }
.wrapped th { text-align: left !important }
th { border-bottom: 1px solid var(--faint) } td { border-bottom: 1px solid var(--rule) }
th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid var(--link) }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
small, .axis { color: var(--faint) } .axis { margin: 0; font-size: 12px }
figure { margin: 1.2em 0; max-width: 760px } figcaption { font-weight: 600 }
svg text { font-size: 12px }
svg.chart { width: 100%; height: auto; display: block }
svg text { fill: var(--faint) } svg .x { text-anchor: middle }
svg .y { text-anchor: end; dominant-baseline: middle }
svg.chart > line { stroke: var(--rule) } svg.chart > line.zero { stroke: var(--faint) }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8 }
.legend line { stroke: currentColor; stroke-width: 2.5 }
svg circle { fill: currentColor; stroke: transparent; stroke-width: 8 }
svg circle:hover { stroke: currentColor; stroke-opacity: .3 }
@media (max-width: 600px) { svg text { font-size: 20px } }
.legend { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap;
  gap: 2px 16px; font-size: 13px }
.legend svg { margin-right: 5px }
pre { overflow: auto; max-height: 420px; background: var(--raised); padding: 10px;
  font-size: 12px; overflow-wrap: normal }
#tip { position: fixed; background: var(--fore); color: var(--back); padding: 2px 7px;
  border-radius: 3px; font-size: 13px; pointer-events: none; max-width: 90vw }
"""

_SCRIPT = """
"use strict";
const value = cell => {
  const text = cell.textContent.replaceAll(",", "").trim();
  const number = parseFloat(text);
  return [Number.isNaN(number) ? null : number, text];
};
const order = (a, b, sign) => {
  if (a[0] === null || b[0] === null) {
    if (a[0] !== b[0]) return a[0] === null ? 1 : -1;  // what is no number comes last
    return sign * a[1].localeCompare(b[1]);
  }
  return sign * (a[0] - b[0]);
};
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => order(value(a.cells[place]), value(b.cells[place]), sign));
      table.tBodies[0].append(...rows);
    });
  });
}
const tip = document.getElementById("tip");
for (const point of document.querySelectorAll("svg.chart circle")) {
  const said = point.querySelector("title").textContent;
  point.addEventListener("pointerenter", () => {
    tip.textContent = said;
    tip.hidden = false;
    const box = point.getBoundingClientRect();
    const left = Math.min(box.left, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, box.top - tip.offsetHeight - 8)}px`;
  });
  point.addEventListener("pointerleave", () => { tip.hidden = true; });
}
"""
