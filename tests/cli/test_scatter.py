"""``scattervae scatter`` prints what `separate_scatter` gives."""

import numpy as np
import pytest

from cli.toys import write_parquet
from scattervae.gaia import reading
from scattervae.science.scatter.parts import ScatterSettings, separate_scatter
from science.toys import trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scatter")
    sky, model = trained()
    model.save(folder / "model")
    write_parquet(folder / "stars.parquet", sky.spectra, sky.labels)
    return folder


def test_the_command_gives_what_the_library_gives(cli, folder):
    files = (folder / "model", folder / "stars.parquet")
    run = cli("scatter", *files, "--fold", "all", "--figure", folder / "scatter.png", "--json")
    assert run.code == 0, run.err
    spectra = reading.load(folder / "stars.parquet").spectra
    parts = separate_scatter(trained()[1], spectra, settings=ScatterSettings(n_types=1))
    bins = np.flatnonzero(parts.n_stars > 0)
    assert run.json["error_factor"] == parts.separation.error.value[:, bins].tolist()
    assert run.json["own_scatter"] == parts.separation.own.value.tolist()
    assert sum(run.json["n_stars"]) == parts.n_stars.sum()
    assert (folder / "scatter.png").read_bytes().startswith(b"\x89PNG")
    table = cli("scatter", *files, "--fold", "all").out
    assert all(order in table for order in run.json["orders"])


def test_a_fold_with_no_star_and_a_format_that_is_none_are_one_line(cli, folder):
    run = cli("scatter", folder / "model", folder / "stars.parquet", "--figure", folder / "a.jpg")
    assert "give one of .png, .pdf, .svg" in run.error
