"""What the documentation shows runs: shell blocks of the pages, and the examples of the public names, on toy stars.

A page's commands run in their order, in a folder that has the files that pages speak of. A block below a comment
``<!-- not run: REASON -->`` does not; below ``<!-- not run (WORD, WORD): REASON -->`` lines with one of these do not.
"""

import doctest
import gzip
import inspect
import re
import shlex
import shutil
from functools import partial
from glob import glob
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table

import scattervae as sv
from cli.toys import archive_columns, with_ids, write_csv
from scattervae.science.binaries import BinaryColumns, with_binaries
from scattervae.science.calibration import fit
from scattervae.science.catalogue.encoding import EncodedStars, catalogue_schema
from scattervae.science.generation import (
    GeneratedSpectra,
    from_prior,
    generate,
    generated_table,
    with_errors,
)
from scattervae.science.labels.model import fit_labels
from scattervae.science.lists import ROW, SEPARATION
from scattervae.science.outliers import find_outliers
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from scattervae.spectra.tables import StarTable
from science.labels.label_toys import QUICK
from toy import DR3, toy_sky, with_own_g

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
N_STARS = 220
NAMED = [5853498713190525696, 4345775217221821312]
"""Stars that pages speak of."""
PLACEHOLDERS = {"SOURCE_ID": str(NAMED[1])}
SOURCES = "GaiaSource_000000-786431.csv"
SLOW = {
    "README",
    "calibration",
    "cluster",
    "commands",
    "covariance",
    "crossmatch",
    "generate",
    "labels",
    "outliers",
}
"""Pages whose commands take several seconds on toy stars: calibrations, LSDB, flows, fits of two stars."""
OTHERS = {"pip", "make", "python"}
"""Begin lines that are no command of ours: installation, and studies that have tests of their own."""
BLOCK = re.compile(
    r"(<!-- not run(?: \(([^)\n]*)\))?: [^\n]* -->\n *)?```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE
)
RETURNED = (EncodedStars, GeneratedSpectra, StarTable)
"""Classes of what public functions return, which pages show as well."""


def shell_lines(page):
    """The words of each line of a page's shell blocks that is to be run."""
    for comment, skipped, lines in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in lines.replace("\\\n", " ").splitlines() if skipped or not comment else ():
            words = shlex.split(line, comments=True)
            if words and words[0] not in OTHERS and not set(words) & set(skipped.split(", ")):
                yield words


RUN = {
    page: lines
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in page.parts and (lines := list(shell_lines(page)))
}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A folder with the files, the store, the model and the tables that pages speak of."""
    folder = tmp_path_factory.mktemp("newcomer")
    sky = toy_sky(6000, basis=DR3)
    alike = np.abs(np.log10(sky.spectra.g_flux / 7.5e4)) < 0.19  # G from 13 to 14
    fold = sv.folds(sky.spectra.source_id)
    chosen = zip((fold.validation, fold.test, fold.train), (105, 55, N_STARS - 160), strict=True)
    rows = np.concatenate([np.flatnonzero(alike & some)[:n] for some, n in chosen])  # 100 and 50 are needed
    ids = np.concatenate([sky.spectra.source_id[rows[:-2]], NAMED])
    stars = with_ids(with_own_g(sky.spectra.take(rows)), ids)
    labels = StellarLabels(ids, sky.labels.values[rows], sky.labels.errors[rows])
    zipped = gzip.compress(write_csv(folder / "stars.csv", stars, labels).read_bytes())
    table = Table(archive_columns(stars, labels))
    rng = np.random.default_rng(1)
    sources = Table(
        {"source_id": ids, "ra": rng.uniform(45.1, 45.4, N_STARS), "dec": rng.uniform(0.1, 0.4, N_STARS)}
    )
    sources["phot_g_mean_flux"] = stars.g_flux
    for name in ("stars", "gaia/xp_continuous_mean_spectrum/Xp", "xp/Xp", "XpContinuousMeanSpectrum_0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.csv.gz").write_bytes(zipped)
    for name in ("gaia/gaia_source", "gaia_source"):
        (folder / name).mkdir(parents=True)
        sources.write(folder / name / SOURCES)
    for name in ("my_stars", "field", "rich"):
        table.write(folder / f"{name}.parquet")
    others = table.copy()
    others["source_id"] += 1
    others.write(folder / "poor.parquet")
    table[:5].write(folder / "nebulae.fits")
    table[:5].write(folder / "carbon_stars.fits")
    sources["gaiaedr3_source_id"] = ids
    sources[:20]["ra", "dec", "gaiaedr3_source_id"].write(folder / "allstar.csv")
    for name in ("targets", "my_list"):
        sources[:20]["ra", "dec"].write(folder / f"{name}.fits")
    known = [column for name in LABEL_NAMES for column in (name, f"{name}_err")]
    table[["source_id", *known]].write(folder / "apogee_labels.csv")
    (folder / "carbon_stars.txt").write_text("\n".join(map(str, NAMED)) + "\n")
    for name in ("XP_CONTINUOUS_RAW", "other"):
        shutil.copy(folder / "stars.csv", folder / f"{name}.csv")
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            if name := re.search(r'^name = "(\w+)"', block, re.MULTILINE):
                (folder / f"{name[1]}.toml").write_text(block)
    sv.load_model("best", calibrated=False).save(folder / "model")
    sv.ingest(folder / "stars.csv.gz", folder / "store", sources=folder / "gaia_source" / SOURCES)
    model = sv.load_model(folder / "model")
    sv.write_catalogue(model, sv.SpectrumStore(folder / "store"), folder / "catalogue.parquet")
    sv.encode_store(model, sv.SpectrumStore(folder / "store"), folder / "latents")
    return folder


@pytest.fixture
def here(newcomer, tmp_path, monkeypatch):
    """A copy of the newcomer's folder, and we are in it."""
    shutil.copytree(newcomer, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    quick = sv.load_recipe
    monkeypatch.setattr("scattervae.model.recipe.load_recipe", lambda name: in_one_epoch(quick(name)))
    quick_labels = partial(fit_labels, settings=QUICK)
    monkeypatch.setattr("scattervae.science.labels.model.fit_labels", quick_labels)
    monkeypatch.setattr(fit, "CalibrationSettings", QuickCalibration)
    yield tmp_path / "here"
    plt.close("all")


class QuickCalibration(fit.CalibrationSettings):
    """So few simulated stars that a calibration takes seconds; how good it is, other tests ask."""

    n_score: int = 2000


def in_one_epoch(recipe):
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 1})})


def run_line(words, cli):
    """One line as a shell has it: placeholders, wildcards, and what is made again."""
    words = [PLACEHOLDERS.get(word, word) for word in words[1:]]
    words = words[: words.index(">")] if ">" in words else words
    if words[0] in ("train", "ingest"):
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    words = [found for word in words for found in (sorted(glob(word)) if "*" in word else [word])]
    done = cli(*words)
    assert done.code == 0, f"{shlex.join(words)}: {done.err}"


@pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame")  # nested-pandas under pandas 3
@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")  # set by LSDB for older pandas
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in SLOW), id=page.stem) for page in RUN],
)
def test_shell_blocks_run(page, here, cli):
    for words in RUN[page]:
        assert words[0] == "scattervae", (
            f"{shlex.join(words)}: say in a comment above the block why it is not run"
        )
        run_line(words, cli)


PATTERNS = {
    r"latent_\d+_(mean|sd)": r"latent_K_\1",
    r"latent_\d+_\d+_corr": "latent_J_K_corr",
    r"(teff|logg|fe_h|alpha_m|a_k)_(teff|logg|fe_h|alpha_m|a_k)_corr": "LABEL_LABEL_corr",
    r"(teff|logg|fe_h|alpha_m|a_k)_((low|high)_\d+|reliability)": r"LABEL_\2",
}
"""Names of columns as the page of what is written has them."""


def undescribed(section, table):
    """Columns of a table that a section of the page of what is written does not have."""
    page = (DOCS / "reference" / "outputs.md").read_text("utf-8")
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for pattern, name in PATTERNS.items():
        table = [re.sub(f"^{pattern}$", name, column) for column in table]
    return [column for column in table if f"`{column}`" not in text]


def test_every_column_of_every_table_is_described():
    model = sv.load_model("best")
    spectra = toy_sky(100, basis=DR3).spectra
    plain = sv.load_model("best", calibrated=False)
    odd = find_outliers(plain, [spectra])
    binaries = with_binaries(odd, BinaryColumns(spectra.source_id, *np.zeros((4, 100))))
    made = generate(model, from_prior(model, 2), np.full(2, 1e4))
    made = with_errors(model, made, np.ones((2, 110)))
    alike = sv.similar(plain, spectra, spectra.source_id[:1].tolist(), number=3)
    assert undescribed("Catalogue", catalogue_schema(model).names) == []
    assert undescribed("Odd stars", binaries.column_names) == []
    assert undescribed("Similar stars", alike.column_names) == []
    assert undescribed("Crossmatch", [ROW, SEPARATION]) == []
    assert undescribed("Generated spectra", generated_table(model, made, made.flux()).column_names) == []


PUBLIC = {name: getattr(sv, name) for name in sv.__all__ if name != "__version__"}


def methods(cls):
    """The public methods that a class has of its own."""
    return [
        getattr(value, "__func__", value)
        for name, value in vars(cls).items()
        if not name.startswith("_") and inspect.isfunction(getattr(value, "__func__", value))
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(name, here):
    public = PUBLIC[name]
    shown = [public, *(methods(public) if inspect.isclass(public) else ())]
    tests = [
        doctest.DocTestParser().get_doctest(inspect.getdoc(one) or "", {}, one.__qualname__, None, 0)
        for one in shown
    ]
    assert tests[0].examples
    for test in tests:
        said = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert runner.run(test, out=said.append).failed == 0, "".join(said)
