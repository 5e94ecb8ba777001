"""What the README, the pages and the docstrings show is what happens."""

import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import declared
import pytest
import test_architecture
import yaml

import cgsv_jax
from cgsv_jax.command import flags
from cgsv_jax.core import attacks
from cgsv_jax.experiment.names import TABLES
from cgsv_jax.results import frames
from cgsv_jax.rules.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = [
    m.name
    for m in pkgutil.walk_packages(cgsv_jax.__path__, "cgsv_jax.")
    if not m.name.endswith("__main__")
]
PAGES = sorted(DOCS.rglob("*.md"))
WITH_LINKS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("experiments", "benchmarks")),
    *PAGES,
]
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]*)(#[^)\s]*)?\)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(path):
    return path.read_text(encoding="utf-8")


def anchors_of(path):
    """What headings are called in addresses."""
    plain = re.sub(r"^```.*?^```", "", text_of(path), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed


def test_readme_examples():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted >= 5
    assert not result.failed


@pytest.mark.long
def test_the_first_command_prints_what_is_shown(tmp_path):
    """Line by line; numbers may differ by machine, words and columns may not."""
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-m", "cgsv_jax", "compare"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)

    def plain(text):
        return [re.sub(r"[\d.]+", "0", line.rstrip()) for line in text.splitlines()]

    printed = [line for line in plain(done.stdout) if " 0/0 rounds" not in line]
    for page in (ROOT / "README.md", DOCS / "first-run.md"):
        shown = plain(re.search(r"```text\n(.*?)\n```", text_of(page), re.S)[1])
        assert printed[printed.index(shown[0]) :] == shown


@pytest.mark.long  # they train; the README's are quick ones
@pytest.mark.parametrize("page", [p for p in PAGES if ">>> " in text_of(p)], ids=lambda p: p.stem)
def test_examples_of_pages(page):
    assert not doctest.testfile(str(page), module_relative=False).failed


def test_readme_fits_a_page():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 160


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """In a copy of the repository; pages that are made when the site is built have tests below."""
    for target, anchor in LINK.findall(text_of(page)):
        path = (page.parent / target).resolve() if target else page
        if DOCS / "reference" in path.parents:
            assert path.name in ("methods.md", "measures.md", "rules.md", "flags.md"), target
            continue
        assert path.exists(), f"{page.name} names {target}"
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors_of(path), f"{page.name} names {target}{anchor}"


def test_named_tests_exist():
    """Every test that a page or the README names."""
    sources = {p.stem: text_of(p) for p in (ROOT / "tests").glob("test_*.py")}
    named = {n for p in WITH_LINKS for n in re.findall(r"`(test_\w+)`", text_of(p))}
    assert len(named) > 20
    columns = {column for table in frames.COLUMNS.values() for column in table}
    for name in named - columns - {*cgsv_jax.Dataset._fields}:
        assert name in sources or any(f"def {name}(" in s for s in sources.values()), name


def test_every_page_is_in_the_navigation():
    """Once, and nothing is there that is not a page."""

    def leaves(node):
        if isinstance(node, str):
            return [node]
        return [
            leaf
            for each in (node.values() if isinstance(node, dict) else node)
            for leaf in leaves(each)
        ]

    class Loader(yaml.SafeLoader):
        """Knows the tags with which mkdocs names Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    listed = leaves(yaml.load(text_of(ROOT / "mkdocs.yml"), Loader)["nav"])
    there = {p.relative_to(DOCS).as_posix() for p in PAGES}
    there |= {f"tutorials/{p.stem}.md" for p in (DOCS / "tutorials").glob("*.py")}
    made = {f"reference/{name}.md" for name in ("methods", "measures", "rules", "flags")}
    assert sorted(listed) == sorted(there | made)


def test_every_public_name_is_there():
    assert all(hasattr(cgsv_jax, name) for name in cgsv_jax.__all__)


def test_every_public_name_is_documented():
    """By a directive of the pages of the reference, for its module or for it."""
    shown, members = {}, re.compile(r"^::: (\S+)(?:\n +options: \{members: \[(.*?)\]\})?", re.M)
    for page in (DOCS / "api").glob("*.md"):
        for module, names in members.findall(text_of(page)):
            shown[module] = names.split(", ") if names else None
    for name in set(cgsv_jax.__all__) - {"METHODS", "Hyper"}:
        thing = getattr(cgsv_jax, name)
        if inspect.ismodule(thing):
            assert any(f"{each}.".startswith(f"{thing.__name__}.") for each in shown), name
        elif not thing.__module__.startswith("cgsv_jax.rules.methods."):  # made of declarations
            assert thing.__module__ in shown, f"{name}, of {thing.__module__}, is on no page"
            assert thing.__name__ in (shown[thing.__module__] or [thing.__name__]), name


def test_the_import_law_on_the_page_is_the_one_that_is_held():
    """`docs/design.md` against the table of test_architecture."""
    rows = re.findall(r"^\| \[?`(\w+)`.*\| .*? \| ?(.*?) ?\|$", text_of(DOCS / "design.md"), re.M)
    told = {name: set(re.findall(r"`(\w+)`", below)) for name, below in rows}
    assert told == {k: v for k, v in test_architecture.BELOW.items() if not k.startswith("_")}


def test_the_job_goes_on_where_it_was_stopped(tmp_path):
    """The job of docs/clusters.md, run by a shell, beside a scheduler that is two small scripts."""
    job = re.search(r"```sh\n(#!/bin/bash\n.*?)```", text_of(DOCS / "clusters.md"), re.S)[1]
    (tmp_path / "job").write_text(job)
    log = tmp_path / "log"
    # The first time it is told to stop, the second time it gets through.
    once = "[ -d runs/mnist-7 ] && exit 0; mkdir -p runs/mnist-7; exit 143"
    fakes = {
        "srun": f'echo "$@" >> {log}; {once}',
        "scontrol": f'echo scontrol "$@" >> {log}',
    }
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "DATA": "/d"}
    codes = [
        subprocess.run(["bash", "job"], cwd=tmp_path, env=environment, check=False).returncode
        for _ in range(2)
    ]
    assert codes == [143, 0]
    first, requeued, second = log.read_text().splitlines()
    assert requeued == "scontrol requeue 7"
    assert second == "cgsv compare --resume runs/mnist-7"
    assert first.endswith("--out runs/mnist-7")
    # The words are flags of the command, which is not run.
    code = "from cgsv_jax.command import main; import sys; main._answered = lambda *_: 0\n"
    code += "sys.exit(main.main(sys.argv[2:]))"
    for line in (first, second):
        subprocess.run([sys.executable, "-c", code, *line.split()], check=True)


def test_links_on_an_index_are_absolute():
    """The README as an index gets it, by the substitutions that pyproject.toml gives the build."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = text_of(ROOT / hook["fragments"][0]["path"])
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    repository = PROJECT["project"]["urls"]["Repository"]
    links = re.findall(r"(!?)\[[^\[\]]*\]\(([^)\s]+)\)", text)
    assert len(links) > 20
    for picture, link in links:
        assert link.startswith(("https://", "#")), link
        tail = link.partition("/main/")[2]
        if tail:
            assert (ROOT / tail.partition("#")[0]).exists(), link
            raw = repository.replace("//github.com", "//raw.githubusercontent.com")
            assert link.startswith(raw if picture else f"{repository}/blob"), link


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_call_what_exists(path):
    """Scripts, modules, extras, jobs and versions of Python that a workflow names."""
    workflow = yaml.safe_load(text_of(path))
    extras = PROJECT["project"]["optional-dependencies"]
    classifiers = PROJECT["project"]["classifiers"]
    assert {True, "name", "jobs", "permissions"} <= set(workflow)  # YAML reads `on` as a truth
    jobs = workflow["jobs"]
    commands = []
    for job in jobs.values():
        assert job["runs-on"]
        needed = job.get("needs", [])
        assert {needed} <= set(jobs) if isinstance(needed, str) else set(needed) <= set(jobs)
        for python in job.get("strategy", {}).get("matrix", {}).get("python", []):
            assert f"Programming Language :: Python :: {python}" in classifiers
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")
            commands += [step["run"]] if "run" in step else []
    known = {"pip", "python", "ruff", "basedpyright", "mkdocs", "twine", "cgsv"}
    for command in commands:
        word = command.split()[0]
        if word.startswith(".ci/"):
            assert os.access(ROOT / word, os.X_OK), command
        else:
            assert word in known, command
        for group in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(group.split(",")) <= set(extras), command


def test_the_workflows_try_the_pythons_that_a_newcomer_has():
    """The versions of all matrices are those of `.ci/newcomer.py`."""
    tested = set()
    for path in WORKFLOWS:
        for job in yaml.safe_load(text_of(path))["jobs"].values():
            tested |= set(job.get("strategy", {}).get("matrix", {}).get("python", []))
    assert tested == set(newcomer().PYTHONS)


def newcomer():
    """The module `.ci/newcomer.py`."""
    spec = importlib.util.spec_from_file_location("newcomer", ROOT / ".ci" / "newcomer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_newcomer_does_what_the_readme_says(tmp_path):
    """The steps have both commands as they stand in the README, and every tutorial."""
    steps = {step.name: step for step in newcomer().steps(tmp_path / "clone", tmp_path)}
    readme = text_of(ROOT / "README.md")
    for name in ("first command", "second command"):
        assert f"```sh\n{steps[name].command}\n```" in readme
    assert "cgsv compare" in steps["first command"].command
    assert "pytest" in steps["second command"].command
    tutorials = {f"tutorial {p.stem}" for p in (DOCS / "tutorials").glob("*.py")}
    assert tutorials == {name for name in steps if name.startswith("tutorial")}


def test_versions_agree():
    """Of the package, its metadata and its citation."""
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    versions = {str(citation["version"]), PROJECT["project"]["version"], cgsv_jax.__version__}
    assert len(versions) == 1
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Repository"]
    assert re.search(r"version = \{(.*?)\}", text_of(DOCS / "citing.md"))[1] in versions


def test_every_column_is_explained():
    """Of every table that a run leaves, under the table's heading or among those that all have."""
    text = text_of(DOCS / "files.md")
    everywhere, *parts = re.split(r"^##+ ", text[text.index("## Columns") :], flags=re.M)[1:]
    told = {part.partition(".")[0].strip("`"): part for part in parts}
    for name, columns in frames.COLUMNS.items():
        for column in columns:
            assert f"`{column}`" in everywhere + told[name], f"{name}.{column}"


def test_the_table_of_attacks_is_all_of_them_with_their_defaults():
    text = text_of(DOCS / "participation.md")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]*) ?\|$", text, re.M)
    shown = {name: f"{s.default:g}" if s.unit else "" for name, s in attacks.STRENGTHS.items()}
    assert dict(rows) == shown | {attacks.REPLICATION: ""}
    assert len(rows) == len(attacks.ATTACKS)


def rows_of(text):
    """The cells of every row of the tables in a text, without their headings' rules."""
    lines = re.findall(r"^\| (.*) \|$", text, re.M)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_every_method_is_found_in_a_minute(tiny):
    """In the table of choosing.md, under what it reads; in one row of methods.md with its cost."""
    head, *rows = rows_of(text_of(DOCS / "choosing.md").partition("\n## ")[0])
    assert head[1:] == [
        "the server sees uploads alone",
        "it holds validation rows",
        "it knows what each reaches alone †",
    ]
    places = {}
    for row in rows:
        for place, cell in enumerate(row[1:]):
            for name in re.findall(r"`(\w+)`", cell):  # a variant in brackets is a second place
                places.setdefault(name, []).append(place)
    assert set(METHODS) == set(places)
    options = declared.Options(network=tiny.network(), rounds=2)
    for name in METHODS:
        needs = declared.METHODS[name](declared.Hyper(), options).needs
        assert places[name] == [2 if needs.alone else int(needs.validation)], name
    text = text_of(DOCS / "methods.md").partition("\n## Aggregations")[0]
    told = [name for row in rows_of(text) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(METHODS) == sorted(told)


@pytest.mark.parametrize("page", ["choosing", "fears", "fidelity", "measures", "methods"])
def test_flags_that_a_page_names_are_there(page):
    there = set()
    for action in flags.training_actions(TABLES):
        there |= {f"--{name}".replace("_", "-") for name in action.flags}
    code = " ".join(re.findall(r"`([^`]*)`", text_of(DOCS / f"{page}.md")))
    told = set(re.findall(r"--[a-z0-9-]+", code))
    assert told
    assert not told - there
