"""What the site shows beyond the pages in this folder: made when it is built, never by hand.

Tutorials are scripts in cells (`# %%`, as jupytext and editors have them). The reference of rules
comes from their declarations, that of flags from the command's help. A link that leaves this folder
works in the repository; on the site it leads there, and its pictures come along.
"""

import math
import os
import posixpath
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from mkdocs.structure.files import File

from cgsv_jax.core.ranges import MAX_WHOLE, Interval
from cgsv_jax.experiment import names
from cgsv_jax.rules import methods
from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.rules.contribution import CONTRIBUTIONS, GAMES
from cgsv_jax.rules.reward import REWARDS
from cgsv_jax.rules.spec import options_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

TABLES = {
    "reference/methods.md": (
        "Methods, option by option",
        "Which method is for what stands in [Choosing a method](../choosing.md), what all of them "
        "need and cost in [Methods](../methods.md).",
        methods.METHODS,
    ),
    "reference/measures.md": (
        "Contribution measures and games, option by option",
        "What they have in common and what they cost stands in "
        "[Contribution measures](../measures.md).",
        CONTRIBUTIONS | {f"game: {name}": game for name, game in GAMES.items()},
    ),
    "reference/rules.md": (
        "Aggregations and rewards, option by option",
        "What `--aggregation` and `--reward` name, for the methods that let them be chosen.",
        {f"aggregation: {name}": spec for name, spec in AGGREGATIONS.items()}
        | {f"reward: {name}": spec for name, spec in REWARDS.items()},
    ),
}
OUTSIDE = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:\.\./)+)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the pages that are made, and the pictures that pages take from other folders."""
    for page in [file for file in files if re.fullmatch(r"tutorials/.*\.py", file.src_uri)]:
        files.remove(page)
        uri = page.src_uri.removesuffix(".py") + ".md"
        files.append(File.generated(config, uri, content=of_tutorial(Path(page.abs_src_path))))
    for uri, (title, text, table) in TABLES.items():
        files.append(File.generated(config, uri, content=of_rules(title, text, table)))
    files.append(File.generated(config, "reference/flags.md", content=of_command()))
    for page in files.documentation_pages():
        for match in OUTSIDE.finditer(page.content_string):
            picture, inside = outside(page.src_uri, match)
            if picture and inside and not files.get_file_from_path(f"pictures/{inside.name}"):
                copy = File.generated(config, f"pictures/{inside.name}", abs_src_path=str(inside))
                files.append(copy)
    return files


def on_page_markdown(markdown, page, **_):
    """Turns links that leave this folder into links to the repository, or to a picture's copy."""

    def elsewhere(match):
        picture, inside = outside(page.file.src_uri, match)
        if inside is None:
            return match[0]
        if picture:
            up = posixpath.relpath(f"pictures/{inside.name}", posixpath.dirname(page.file.src_uri))
            return f"![{match[2]}]({up})"
        kind = "tree" if inside.is_dir() else "blob"
        where = inside.relative_to(ROOT).as_posix()
        return f"[{match[2]}]({REPOSITORY}/{kind}/main/{where}{match[5] or ''})"

    markdown = OUTSIDE.sub(elsewhere, markdown)
    return re.sub(r"\]\(((?!https?:)[^)#\s]*)\.py((?:#[^)\s]*)?)\)", r"](\1.md\2)", markdown)


def on_page_content(html, **_):
    """Lets the long names of tests break where their words end."""
    words = r"<code>(test_\w+)</code>"
    return re.sub(words, lambda match: match[0].replace("_", "_<wbr>"), html)


def on_post_page(output, page, **_):
    """Refuses a page that would load something from elsewhere."""
    found = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=\"?https?://[^>]*>", output)
    if remote := [tag for tag in found if 'rel="canonical"' not in tag]:
        raise ValueError(f"{page.file.src_uri} would load {remote[0]}")
    return output


def outside(uri, match):
    """Whether a link shows a picture, and the file that it names if that is not in this folder."""
    docs = ROOT / "docs"
    target = (docs / posixpath.dirname(uri) / match[3] / match[4]).resolve()
    if target.is_relative_to(docs):
        return bool(match[1]), None
    if not target.exists():
        raise FileNotFoundError(f"{uri} names {match[3]}{match[4]}, which does not exist")
    return bool(match[1]), target


def of_tutorial(path):
    """A script in cells as a page: its comments are text, its code is code."""
    blocks = []
    for cell in re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            lines = (line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            blocks.append("\n".join(lines))
        elif body.strip():
            blocks.append(f"```python\n{body.strip()}\n```")
    where = path.relative_to(ROOT).as_posix()
    blocks.append(
        f"[This page as a script]({REPOSITORY}/blob/main/{where}) in cells; "
        f"`jupytext --to notebook {where}` makes a notebook of it. The tests run it."
    )
    return "\n\n".join(blocks) + "\n"


def of_rules(title, text, table):
    """A page with a part per rule: its docstring, and what it can be told."""
    parts = [f"# {title}\n\n{text}"]
    for name, spec in table.items():
        parts.append(f"## `{name}`")
        build = getattr(spec.build, "func", spec.build)
        if build.__name__ != "<lambda>":
            parts.append(
                f"::: {build.__module__}.{build.__qualname__}\n"
                "    options: {show_root_heading: false, show_root_toc_entry: false}"
            )
        parts.append(options(spec))
    return "\n\n".join(parts) + "\n"


def options(spec):
    """A table of all that a rule, with the parts that it has by default, can be told."""
    found = options_of(spec, {}, names.TABLES.parts)
    if not found:
        return "It has no options."
    own = {option.flag or argument for argument, option in spec.options.items()} | {*spec.parts}
    lines = ["| flag | default | may be | what |", "|---|---|---|---|"]
    for flag, option in sorted(found.items(), key=lambda item: item[0] not in own):
        default = spec.defaults.get(flag, option.default)
        allowed = may_be(getattr(option, "allowed", None))
        if default is None or isinstance(default, bool):
            default = {None: "", True: "yes", False: "no"}[default]
        cells = (f"`--{flag.replace('_', '-')}`", str(default), allowed, option.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def may_be(allowed):
    """What an option may be, as it is written in mathematics; truths have no range."""
    if allowed is None:
        return "yes, no"
    if not isinstance(allowed, Interval):
        return ", ".join(allowed)
    kind = "whole, " if allowed.whole else ""
    if allowed.high in (math.inf, MAX_WHOLE):
        return f"{kind}{'above' if allowed.ends[0] == '(' else 'from'} {allowed.low}"
    return f"{kind}{allowed.ends[0]}{allowed.low}, {allowed.high}{allowed.ends[1]}"


def of_command():
    """The help of every command, as it is printed."""
    parts = ["# All flags", "What `--help` prints, made when this page was built."]

    def add(words):
        text = helped(words)
        inner = re.search(r"\{([a-z,]+)\}", text.partition("\n")[0])
        parts.append(f"## `{' '.join(('cgsv', *words))}`\n\n```text\n{text}\n```")
        for word in inner[1].split(",") if inner else ():
            add((*words, word))

    add(())
    return "\n\n".join(parts) + "\n"


def helped(words):
    """What the command prints when it is asked for help."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    asked = [sys.executable, "-m", "cgsv_jax", *words, "--help"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(asked)} ended with {done.returncode}: {done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
