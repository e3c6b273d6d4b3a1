"""The shape of the package: six rooms, one direction, no module that cannot be read at once."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scattervae

PACKAGE = Path(scattervae.__file__).parent
ROOMS = ("spectra", "gaia", "model", "science", "show", "cli")
MODULES = sorted(PACKAGE.rglob("*.py"))
RETIRED = re.compile(
    r"told|tell|telling|heard|hear|ears|mouth|voice|learnt|lesson|pace|contest|trial|quotients|fate|worse|sealed?|"
    r"settled?|aside|composed?|labelling|portions?|pieces?|waves?|ours|stands|intake|companions?"
)
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}


def name_of(path: Path) -> tuple[str, ...]:
    """A module's dotted name without the package's, as a tuple: ("model", "train")."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path: Path) -> Iterator[tuple[str, ...]]:
    """What a module imports of the package, wherever in it the import stands, as `name_of` would have it."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join((*(("scattervae", *start) if node.level else ()), *filter(None, [node.module])))
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "scattervae":
                yield tuple(rest)


def room_of(name: tuple[str, ...]) -> str | None:
    return name[0] if name and name[0] in ROOMS else None


def backward_imports(path: Path) -> list[str]:
    name = name_of(path)
    if name in ((), ("__main__",)):  # the door: it offers names of all rooms, and loads none at import
        return []
    own = room_of(name)
    allowed = ROOMS[: ROOMS.index(own) + 1] if own else ()
    return [
        ".".join(name)
        for name in imports_of(path)
        if room_of(name) is not None and room_of(name) not in allowed
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(name_of(path)) or "scattervae")
def test_a_module_imports_from_its_own_room_from_rooms_before_it_and_from_the_top_level(path):
    assert backward_imports(path) == []


def test_the_direction_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    for name, text in {
        "seeds.py": "def f():\n    import scattervae.model.training\n",
        "spectra/store.py": "from scattervae.gaia import facts\nfrom scattervae import errors, model\n",
        "gaia/files/avro.py": "from ...science.catalogue import Catalogue\nfrom ..facts import UNIT\n",
        "cli/main.py": "from scattervae.spectra.store import SpectrumStore\nimport scattervae.show.style\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {str(path.relative_to(tmp_path)): backward_imports(path) for path in tmp_path.rglob("*.py")}
    assert found == {
        "seeds.py": ["model.training"],
        "spectra/store.py": ["gaia.facts", "model"],
        "gaia/files/avro.py": ["science.catalogue.Catalogue"],
        "cli/main.py": [],
    }


def offered(package: tuple[str, ...]) -> list[str]:
    """The modules and folders that a room, or a folder of one, offers to other rooms."""
    tree = ast.parse(PACKAGE.joinpath(*package, "__init__.py").read_text(encoding="utf-8"))
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node)
    ]
    return ast.literal_eval(lists[0]) if lists else []


def is_module(name: tuple[str, ...]) -> bool:
    place = PACKAGE.joinpath(*name)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def imports_past(path: Path) -> list[str]:
    """What a module imports of another room that the room does not offer."""
    own, past = room_of(name_of(path)), []
    for name in imports_of(path):
        if room_of(name) in (None, own):
            continue
        module = next(name[:n] for n in range(len(name), 0, -1) if is_module(name[:n]))
        if any(module[n] not in offered(module[:n]) for n in range(1, len(module))):
            past.append(".".join(module))
    return past


def test_nobody_imports_past_what_a_room_offers():
    assert {".".join(name_of(path)): imports_past(path) for path in MODULES if imports_past(path)} == {}


def test_what_a_room_offers_is_there_and_asked_for():
    """A name that no other room imports is not offered: the list is what the room's neighbours stand on."""
    asked = {
        name[:n]
        for path in MODULES
        for name in imports_of(path)
        if room_of(name) not in (None, room_of(name_of(path)))
        for n in range(2, len(name) + 1)
    }
    folders = [name_of(path) for path in MODULES if path.name == "__init__.py" and room_of(name_of(path))]
    for package in folders:
        if package != ("cli",):  # which offers a function, to ``python -m scattervae``
            assert {(*package, name) for name in offered(package)} <= asked
            assert all(is_module((*package, name)) for name in offered(package))


def test_an_import_past_a_room_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    for name, text in {
        "gaia/__init__.py": '__all__ = ["files", "ingest"]\n',
        "gaia/ingest.py": "",
        "gaia/hidden.py": "",
        "gaia/files/__init__.py": '__all__ = ["reading"]\n',
        "gaia/files/reading.py": "",
        "gaia/files/avro.py": "from scattervae.gaia.hidden import f\n",
        "cli/a.py": "from scattervae.gaia.ingest import f\nfrom scattervae.gaia.files import reading, avro\n",
        "cli/b.py": "from scattervae.gaia import hidden\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {str(path.relative_to(tmp_path)): imports_past(path) for path in tmp_path.rglob("*.py")}
    assert {name: past for name, past in found.items() if past} == {
        "cli/a.py": ["gaia.files.avro"],
        "cli/b.py": ["gaia.hidden"],
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(name_of(path)) or "scattervae")
def test_a_module_can_be_read_at_once_and_its_name_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert not VAGUE & set(name_of(path))
    assert ast.get_docstring(ast.parse(text))


def test_the_rooms_that_exist_are_the_rooms_that_are_named():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.rglob("*.py"))}
    assert folders <= set(ROOMS)


def test_the_library_never_prints_nor_draws_from_global_state():
    """Print belongs to the command line; chance to `seeds` (ruff's NPY and T20 cannot see torch's)."""
    for path in MODULES:
        if room_of(name_of(path)) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call != "print", path
                assert not call.startswith("np.random.") or call == "np.random.default_rng", f"{path}: {call}"
                if call in ("torch.randn", "torch.rand", "torch.randperm", "torch.randint"):
                    assert "generator" in {keyword.arg for keyword in node.keywords}, f"{path}: {call}"


def test_every_name_the_package_offers_is_there():
    assert all(getattr(scattervae, name) is not None for name in getattr(scattervae, "__all__", ()))


def test_importing_the_package_loads_no_heavy_library():
    heavy = ["torch", "matplotlib", "gaiaxpy", "astropy", "pandas", "scipy"]
    code = f"import sys, scattervae; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def retired_words(source: str) -> set[str]:
    """Retired words in the names that a module defines: a file's own `tell` is Python's."""
    names = {
        node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name | ast.arg | ast.FunctionDef | ast.ClassDef)
        and not str(getattr(node, "name", "")).startswith("test_")
    } - {"tell"}
    words = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return set(filter(RETIRED.fullmatch, words))


@pytest.mark.parametrize("folder", ["src", "tests", "studies", "benchmarks", "torture"])
def test_no_name_has_a_word_that_the_field_does_not_use(folder):
    """Functions are verbs of the field and values its nouns; of stars together the architecture page has the words."""
    root = Path(__file__).parents[1] / folder
    found = {str(path): retired_words(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}
    assert {path: words for path, words in found.items() if words} == {}


def test_a_retired_word_would_be_noticed():
    assert retired_words("n_told = 1\ndef tell(): ...\nclass RunPiece: ...\n") == {"told", "piece"}


def test_the_page_has_five_words_for_some_stars_together():
    page = (Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md").read_text(
        encoding="utf-8"
    )
    table = page.partition("## Words for some stars together")[2].partition("\n## ")[0]
    words = re.findall(r"^\| ([a-z ]+) \|", table, re.MULTILINE)[1:]
    assert words == ["partition", "row group", "chunk", "window", "batch"]
