"""``scattervae outliers`` on toy stars: the same numbers as the library, a reference that is kept, a gallery."""

import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

import scattervae as sv
from cli.toys import write_csv
from scattervae.science.binaries import find_binaries
from scattervae.science.catalogue.encoding import catalogue_schema
from scattervae.science.catalogue.one_file import identity_of
from scattervae.science.outliers import REFERENCE, OutlierReference, find_outliers
from scattervae.science.star_parts import CATALOGUE_COLUMNS, StarParts
from toy import DR3, toy_sky


def test_the_command_gives_the_librarys_table(cli, folder, tmp_path):
    run = cli(
        "outliers", folder / "model", folder / "stars.parquet", "--out", tmp_path / "odd.parquet", "--json"
    )
    assert run.code == 0, run.err
    model, stars = sv.load_model(folder / "model"), sv.load(folder / "stars.parquet").spectra
    table = pq.read_table(tmp_path / "odd.parquet")
    expected = find_outliers(model, [stars]).to_pandas()
    pd.testing.assert_frame_equal(table.to_pandas(), expected, check_exact=True)
    assert run.json["reference"] == "the stars themselves"
    assert run.json["n_reference"] == len(table)
    assert run.json["oddest"][0]["source_id"] == str(table["source_id"][0])
    assert (
        cli("outliers", folder / "model", folder / "stars.parquet", "--out", tmp_path / "odd.parquet").code
        == 0
    )
    assert (
        cli("outliers", folder / "model", folder / "stars.parquet", "--out", tmp_path / "odd.fits").code == 0
    )
    fits = Table.read(tmp_path / "odd.fits")
    assert fits["source_id"].tolist() == table["source_id"].to_pylist()
    assert str(fits["worst_wavelength"].unit) == "nm"


def test_a_reference_is_kept_in_the_models_folder(cli, folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    assert cli("outliers", tmp_path / "model", folder / "store", "--fit").code == 0
    assert (tmp_path / "model" / REFERENCE).is_file()
    run = cli("outliers", tmp_path / "model", folder / "stars.parquet", "--out", tmp_path / "a.csv", "--json")
    assert run.json["reference"] == "the model model"
    other = cli(
        "outliers", tmp_path / "model", folder / "stars.parquet", "--out", tmp_path / "b.csv", "--reference",
        folder / "store", "--json",
    )  # fmt: skip
    assert other.json["oddest"] == run.json["oddest"]
    assert sv.load_model(tmp_path / "model").digest == sv.load_model(folder / "model").digest


def test_a_catalogue_has_the_same_scores_to_the_bit_where_the_model_has_a_reference(cli, folder, tmp_path):
    own, stars = shutil.copytree(folder / "model", tmp_path / "model"), folder / "stars.parquet"
    for run in (
        cli("encode", own, stars, "--out", tmp_path / "plain.parquet"),
        cli("outliers", own, folder / "store", "--fit"),
        cli("outliers", own, stars, "--out", tmp_path / "odd.parquet"),
        cli("encode", own, stars, "--out", tmp_path / "catalogue.parquet"),
        cli("encode", own, folder / "store", "--out", tmp_path / "hats"),
    ):
        assert run.code == 0, run.err
    table, plain = (pq.read_table(tmp_path / name) for name in ("catalogue.parquet", "plain.parquet"))
    columns = ["outlier_score", "outlier_reasons"]
    assert table.drop_columns([*columns, *CATALOGUE_COLUMNS]).equals(plain)
    odd = pq.read_table(tmp_path / "odd.parquet").to_pandas().set_index("source_id")[columns]
    for found in (table, pq.read_table(tmp_path / "hats" / "dataset", schema=None)):
        rows = found.to_pandas().drop_duplicates("source_id").set_index("source_id")
        assert (rows["outlier_score"].isna() == rows["latent_1_mean"].isna()).all()
        pd.testing.assert_frame_equal(rows.loc[odd.index, columns], odd, check_exact=True)
    assert (odd["outlier_reasons"] != "").any()
    assert table.schema.field("outlier_score").metadata[b"unit"] == b"dex"
    model, spectra = sv.load_model(own), sv.load(stars).spectra
    np.testing.assert_array_equal(
        model.encode(spectra).column("outlier_score"), table["outlier_score"].to_numpy()
    )


def test_a_catalogue_is_a_reference_as_its_stars_are(cli, folder, tmp_path):
    """Catalogues have float32, so windows in G begin a star sooner or later, and shares differ by some ranks."""
    own, stars = shutil.copytree(folder / "model", tmp_path / "model"), folder / "stars.parquet"
    assert cli("outliers", own, folder / "store", "--fit").code == 0
    expected, shares = StarParts.of_ordinary(sv.load_model(own), folder / "store"), {}
    for name, reference in (
        ("store", folder / "store"),
        ("hats", tmp_path / "hats"),
        ("file", tmp_path / "c.parquet"),
    ):
        if name != "store":
            assert cli("encode", own, folder / "store", "--out", reference).code == 0
        run = cli(
            "outliers", own, stars, "--reference", reference, "--out", tmp_path / f"{name}.csv", "--json"
        )
        assert run.code == 0, run.err
        assert (run.json["reference"], run.json["n_reference"]) == (str(reference), len(expected))
        found = StarParts.of_ordinary(sv.load_model(own), reference)
        for column in ("source_id", "g_mag", "latents", "sd", "fits"):
            np.testing.assert_allclose(
                getattr(found, column), getattr(expected, column), rtol=1e-6, atol=1e-6
            )
        shares[name] = 10 ** -pd.read_csv(tmp_path / f"{name}.csv").set_index("source_id")["outlier_score"]
    for name in ("hats", "file"):
        assert (shares[name] - shares["store"]).abs().mean() < 2 / len(expected)


def test_a_catalogue_of_another_model_or_without_its_parts_is_refused(cli, folder, tmp_path):
    stars, plain = folder / "stars.parquet", tmp_path / "plain.parquet"
    assert cli("encode", folder / "model", stars, "--out", plain).code == 0
    given = (stars, "--out", tmp_path / "odd.csv", "--reference", plain)
    lacking = cli("outliers", folder / "model", *given).error
    assert lacking.startswith(f"{plain}: lacks g_mag, worst_residual")
    assert lacking.endswith("give the spectra")
    model = sv.load_model(folder / "model")
    table = pq.read_table(plain)
    about = table.schema.metadata[b"scattervae.catalogue"].replace(model.digest.encode(), b"another")
    pq.write_table(table.replace_schema_metadata({b"scattervae.catalogue": about}), plain)
    refused = cli("outliers", folder / "model", *given).error
    assert refused.startswith(
        f"{plain}: a catalogue of model another, this one is {model.digest}; encode it again"
    )


def test_a_catalogue_is_not_resumed_with_another_reference(cli, folder, tmp_path):
    own = shutil.copytree(folder / "model", tmp_path / "model")
    model, identities = sv.load_model(own), []
    for number in (200, 250):
        parts = StarParts.of(model, [sv.load(folder / "store").spectra.take(slice(0, number))])
        OutlierReference.fit(model, parts).save(own)
        fitted = sv.load_model(own)
        identities.append(identity_of(fitted, catalogue_schema(fitted), "stars"))
    assert identities[0]["columns"] != identities[1]["columns"]
    assert identities[0]["model"] == identities[1]["model"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "neither --out nor --fit"),
        (("--fit", "--reference", "STARS"), "leave --reference out"),
        (("--fit", "--gallery", "a.html"), "give --out with it"),
        (("--out", "odd.parquet", "--gallery", "a.gif"), "a gallery is .html, .png, .pdf or .svg"),
        (("--out", "odd.txt"), "no form of table is called .txt"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(cli, folder, options, error):
    stars = folder / "stars.parquet"
    given = [stars if option == "STARS" else option for option in options]
    assert error in cli("outliers", folder / "model", stars, *given).error


def test_the_packages_model_keeps_no_other_reference(cli, folder):
    assert cli("outliers", "best", folder / "stars.parquet", "--fit").error.startswith(
        "best: comes with the package"
    )


def test_a_gallery_shows_the_oddest(cli, tmp_path):
    stars = write_csv(tmp_path / "stars.csv", toy_sky(250, basis=DR3).spectra)
    for suffix in (".html", ".png"):
        run = cli(
            "outliers", "best", stars, "--out", tmp_path / "odd.parquet", "--gallery",
            tmp_path / f"odd{suffix}", "--top", 3,
        )  # fmt: skip
        assert run.code == 0, run.err
        assert f"wrote {tmp_path / f'odd{suffix}'}" in run.out
    page = (tmp_path / "odd.html").read_text()
    oddest = pq.read_table(tmp_path / "odd.parquet")["source_id"].to_pylist()[:3]
    assert all(f"Gaia source {star}" in page for star in oddest)
    assert page.count("<article>") == 3
    assert "<script" not in page
    assert (tmp_path / "odd.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_star_is_fitted_on_request(cli, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("scattervae.science.binaries._STEPS", 3)
    run = cli(
        "outliers",
        folder / "model",
        folder / "stars.parquet",
        "--binaries",
        "--out",
        tmp_path / "odd.parquet",
    )
    assert run.code == 0, run.err
    table = pq.read_table(tmp_path / "odd.parquet").to_pandas()
    model, stars = sv.load_model(folder / "model"), sv.load(folder / "stars.parquet").spectra
    expected = find_binaries(model, [stars])
    known = dict(zip(expected.source_id.tolist(), expected.probability, strict=True))
    np.testing.assert_allclose(
        table["binary_probability"], [known[one] for one in table["source_id"]], rtol=1e-6
    )
    assert table["second_share"].between(0, 0.5).all()
