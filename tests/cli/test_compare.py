"""``scattervae compare`` prints what `compare_sets` gives."""

import numpy as np
import pytest

from cli.toys import write_parquet
from scattervae.gaia import reading
from scattervae.science.relative.differences import compare_sets
from science.toys import trained


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A trained toy model, and its stars in two files: the hot ones and the others."""
    folder = tmp_path_factory.mktemp("sets")
    sky, model = trained()
    model.save(folder / "model")
    hot = sky.labels["teff"] > np.median(sky.labels["teff"])
    for name, rows in (("hot", hot), ("cool", ~hot)):
        write_parquet(folder / f"{name}.parquet", sky.spectra.take(rows), sky.labels.take(rows))
    return folder, model


def test_the_command_gives_what_the_library_gives(cli, sets):
    folder, model = sets
    run = cli("compare", folder / "model", folder / "hot.parquet", folder / "cool.parquet", "--json")
    assert run.code == 0, run.err
    a, b = (reading.load(folder / f"{name}.parquet") for name in ("hot", "cool"))
    found = compare_sets(model, (a.spectra, b.spectra), (a.labels, b.labels))
    assert run.json["latents"]["difference"] == found.latents.means.difference.tolist()
    assert run.json["latents"]["q_value"] == found.latents.means.q_value.tolist()
    assert run.json["coefficients"]["found"] == found.coefficients.found.tolist()
    assert (run.json["n_a"], run.json["matched"]) == (found.latents.means.n_a, None)
    assert any(run.json["latents"]["found"])  # latents of the toy sky are made of its labels


def test_matched_sets_are_balanced_and_the_table_marks_findings(cli, sets):
    folder, _ = sets
    files = (folder / "model", folder / "hot.parquet", folder / "cool.parquet")
    matched = cli("compare", *files, "--match", "logg,fe_h", "--json").json["matched"]
    assert matched["covariates"] == ["logg", "fe_h"]
    assert np.abs(matched["after"]).max() < 0.1
    run = cli("compare", *files, "--match", "logg,fe_h")
    assert f"{matched['n_pairs']:,} pairs" in run.out
    assert "latent 1" in run.out
    assert "finding" in run.out


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        ("hot.parquet", (), "both"),
        ("cool.parquet", ("--match", "mass"), "no covariate mass; choose of teff"),
    ],
)
def test_what_cannot_be_compared_is_one_line(cli, sets, second, options, message):
    folder, _ = sets
    run = cli("compare", folder / "model", folder / "hot.parquet", folder / second, *options)
    assert message in run.error
