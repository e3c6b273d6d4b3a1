"""Python's way to all that the commands do: the same numbers to the bit, from anything that holds stars."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

import scattervae as sv
from cli.toys import archive_columns, write_csv
from scattervae.errors import CheckpointError
from scattervae.spectra.spectra import Flag
from toy import DR3, toy_sky

SKY = toy_sky(7, basis=DR3)
IDS = SKY.spectra.source_id


@pytest.fixture(scope="module")
def best():
    return sv.load_model("best")


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("python") / "stars.csv", SKY.spectra)


def test_numbers_are_those_of_the_commands_to_the_bit(cli, best, stars, store, model, folder, tmp_path):
    out = {name: tmp_path / f"{name}.parquet" for name in ("encoded", "own", "generated")}
    assert cli("encode", "best", stars, "--out", out["encoded"]).code == 0
    encoded = best.encode(str(stars))
    encoded.write(out["own"])
    assert out["own"].read_bytes() == out["encoded"].read_bytes()
    rows = pq.read_table(out["encoded"])
    pd.testing.assert_frame_equal(encoded.to_pandas(), rows.to_pandas(), check_exact=True)
    for k in range(best.n_latent):
        np.testing.assert_array_equal(encoded.latents[:, k], rows[f"latent_{k + 1}_mean"])
        np.testing.assert_array_equal(encoded.latent_sd[:, k], rows[f"latent_{k + 1}_sd"])
    labels = best.labels(stars)
    for name in ("teff", "logg_low_68", "fe_h_reliability", "label_flags", "quality_flags"):
        np.testing.assert_array_equal(labels[name], rows[name])

    given = ("-n", 3, "--g-mag", 12, "--seed", 4, "--flux", "--out", out["generated"])
    assert cli("generate", "best", *given).code == 0
    made, rows = best.generate(3, g_mag=12.0, seed=4), pq.read_table(out["generated"])
    decoded = best.decode(np.stack(rows["latent"].to_numpy()), g_mag=12.0)
    for spectra in (made, decoded):
        for values, band, name in (
            (spectra.coefficients, spectra.basis.bp, "bp_coefficients"),
            (spectra.scatter, spectra.basis.rp, "rp_coefficient_scatter"),
            (spectra.flux().flux, slice(None), "flux"),
        ):
            np.testing.assert_array_equal(values[:, band].astype("f4"), np.stack(rows[name].to_numpy()))

    scores = cli("evaluate", model, store, "--no-coverage", "--json").json["models"]["model"]
    found = sv.evaluate(sv.load_model(model), store)
    assert (found.negative_elbo, found.n_stars) == (scores["negative_elbo"], scores["n_stars"])
    trained = sv.train(store, str(folder / "toy.toml"), progress=False)
    assert trained.digest == sv.load_model(model).digest


def test_anything_that_holds_stars_is_read(dr3, stars):
    quick = sv.load_model(dr3 / "model")
    expected = quick.encode(stars).latents
    columns = archive_columns(SKY.spectra)
    frame = pd.DataFrame({name: list(values) for name, values in columns.items()})
    arrow = pa.table({name: values.tolist() for name, values in Table(columns).items()})
    loaded = sv.read(stars)
    for given in (loaded, loaded.spectra, str(stars), Table(columns), frame, polars.DataFrame(arrow), arrow):
        np.testing.assert_array_equal(quick.encode(given).latents, expected)
    both = sv.read([stars, str(stars)])
    again = (both.spectra.flags & np.uint16(Flag.DUPLICATE)) > 0
    assert again.tolist() == [False] * len(IDS) + [True] * len(IDS)


def test_source_ids_are_fetched(monkeypatch, stars):
    asked = []

    def fetch(source_id, out, services):
        asked.append(source_id.tolist())
        out.write_bytes(__import__("gzip").compress(stars.read_bytes()))

    monkeypatch.setattr("scattervae.gaia.archive.ids.fetch_ids", fetch)
    one = int(IDS[0])
    for given in (one, str(one), [one, int(IDS[1])], IDS[:2], pd.Series(IDS[:2])):
        assert len(sv.read(given)) == len(IDS)
    assert asked == [[one], [one], *([IDS[:2].tolist()] * 3)]


def test_stars_have_a_length_slices_and_an_order(stars):
    read = sv.read(stars)
    assert len(read) == len(IDS)
    assert read[1].spectra.source_id.tolist() == [IDS[1]]
    assert read[-2:].spectra.source_id.tolist() == IDS[-2:].tolist()
    assert read[IDS[3] == IDS].labels.source_id.tolist() == [IDS[3]]
    assert [int(star.spectra.source_id[0]) for star in read] == IDS.tolist()
    with pytest.raises(IndexError):
        read[len(IDS)]


def test_values_are_shown_in_a_line_and_in_notebooks(best, stars):
    read = sv.read(stars)
    assert "calibrated; predicts teff, logg, fe_h, alpha_m" in repr(best)
    encoded = best.encode(read)
    for value in (best, read, read.spectra, encoded, best.labels(read), best.generate(2)):
        assert len(repr(value)) < 400
        assert "\n" not in repr(value)
        assert "&lt;" in value._repr_html_()
    assert "<table" in encoded._repr_html_()


def test_an_astropy_table_has_units_and_descriptions(best, stars):
    table = best.encode(stars).to_astropy()
    assert table["teff"].unit == "K"
    assert table["kl"].info.description.endswith("[nat]")
    assert table["source_id"].dtype == np.int64
    assert table["quality_flags"].dtype.kind == "i"
    assert table.meta["scattervae.catalogue"]["model"] == best.digest
    assert len(table) == len(IDS)


def test_flux_on_wavelengths_of_ones_own(best):
    made = best.decode(np.zeros(best.n_latent))
    own, usual = made.flux(np.array([400.0, 500.0, 900.0])), made.flux()
    rows = np.searchsorted(usual.grid_nm, own.grid_nm)
    np.testing.assert_allclose(own.flux, usual.flux[:, rows], rtol=1e-3)
    np.testing.assert_allclose(own.errors, usual.errors[:, rows], rtol=1e-3)


def test_a_model_is_saved_with_all_that_was_fitted(best, stars, tmp_path):
    best.save(str(tmp_path / "copy"))
    copy = sv.load_model(str(tmp_path / "copy"))
    assert copy.digest == best.digest
    np.testing.assert_array_equal(copy.labels(stars)["teff"], best.labels(stars)["teff"])


def test_figures_are_drawn(best, stars):
    assert sv.plot_star(best, stars).axes
    assert sv.plot_latents("best", sv.read(stars)).axes
    plt.close("all")


WRONG = {
    "best.encode(3.5)": "DataError: a float is no table",
    "best.encode(None)": "DataError: a NoneType is no table",
    "sv.read('https://example.org/a.csv')": "DataError: https://example.org/a.csv: an address",
    "sv.read([])": "DataError: no file is given",
    "best.decode([[1.0, 2.0]])": "DataError: latents of shape (1, 2); expected 8 numbers a row",
    "best.decode('zero')": "DataError: latents and G are numbers",
    "best.labels(stars)['speed']": "DataError: no column speed; there are source_id, teff",
    "sv.evaluate(best, stars, fold='tset')": "DataError: fold 'tset': there are test, validation, train, all",
    "sv.evaluate('bets', stars)": "CheckpointError: bets: no such folder",
    "sv.train(stars, 5)": "RecipeError: a int is no recipe",
    "sv.train(stars, 'bets')": "RecipeError: bets",
    "sv.train(stars, device='tpu')": "RecipeError: device tpu: not to be had here",
    "sv.load_model(5)": "CheckpointError: a int is no model; give a folder or a name",
    "sv.plot_star(best, 3.5)": "DataError: a float is no table",
    "best.encode(stars).write('c.txt')": "DataError: c.txt: no form of table is called .txt",
}
SCRIPT = """
import sys
import scattervae as sv
from scattervae.errors import ScatterVaeError
stars, best = sys.argv[1], sv.load_model("best")
for call in sys.argv[2:]:
    try:
        eval(call)
    except ScatterVaeError as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_what_is_wrong_ends_in_one_line(stars):
    """In a process of its own: here types are checked before the package sees them."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(stars), *WRONG], check=True, capture_output=True, text=True
    )
    lines = run.stdout.splitlines()
    assert [line[: len(wanted)] for line, wanted in zip(lines, WRONG.values(), strict=True)] == [
        *WRONG.values()
    ]


def test_a_model_without_labels_says_how_it_gets_some(model, store):
    with pytest.raises(CheckpointError, match="predicts no labels; `scattervae label` adds them"):
        sv.load_model(model).labels(store)


def test_the_package_itself_loads_nothing_large():
    code = "import sys, scattervae; assert not {'torch', 'numpy', 'pandas', 'astropy', 'rich'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
