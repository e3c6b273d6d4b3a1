"""``scattervae label`` on toy stars, and the columns that `encode` then writes."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from cli.toys import write_parquet
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.labels.model import fit_labels, label_stars, save_label_model
from scattervae.science.labels.prediction import LabelPrediction
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import LABELS, labels_of, load_model
from science.labels.label_toys import QUICK
from toy import toy_model, toy_recipe, toy_sky

SKY = toy_sky(400)
NAMES = ("teff", "logg", "fe_h", "alpha_m", "a_k")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model with labels, and the stars."""
    folder = tmp_path_factory.mktemp("labelled")
    write_parquet(folder / "stars.parquet", SKY.spectra, SKY.labels)
    model = toy_model(SKY, toy_recipe(epochs=30))
    model.save(folder / "model")
    labels = fit_labels(model, SKY.spectra, TargetLabels.of(SKY.labels), QUICK)
    save_label_model(labels, folder / "model" / LABELS)
    return folder


def test_the_command_leaves_the_same_labels_as_the_library(cli, labelled, tmp_path):
    shutil.copytree(labelled / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / LABELS)
    run = cli("label", tmp_path / "model", labelled / "stars.parquet", "--json")
    assert run.code == 0, run.err
    assert run.json["n_stars"] > 300
    assert run.json["out"] == str(tmp_path / "model" / LABELS)
    assert load_model(tmp_path / "model").digest == load_model(labelled / "model").digest


def test_labels_that_are_named_alone_are_learnt_and_no_others_flagged(cli, labelled, tmp_path):
    shutil.copytree(labelled / "model", tmp_path / "model")
    run = cli("label", tmp_path / "model", labelled / "stars.parquet", "--only", "logg, a_k", "--json")
    assert run.json["labels"] == ["logg", "a_k"]
    table = catalogue(load_model(tmp_path / "model"), SKY.spectra)
    assert {"logg", "a_k_low_95", "logg_a_k_corr"} <= set(table.column_names)
    assert not {"teff", "fe_h", "alpha_m"} & set(table.column_names)
    assert table.schema.field("a_k").metadata[b"unit"] == b"mag"
    assert "teff" not in table.schema.field("label_flags").metadata[b"description"].decode()


def test_a_label_that_there_is_not_is_refused(cli, labelled, tmp_path):
    shutil.copytree(labelled / "model", tmp_path / "model")
    run = cli("label", tmp_path / "model", labelled / "stars.parquet", "--only", "logg,age")
    assert run.err.splitlines()[-1].startswith("scattervae: error: no label age: choose of teff, logg")


def test_the_catalogue_gains_labels_with_intervals_reliability_and_flags(cli, labelled, tmp_path):
    assert (
        cli("encode", labelled / "model", labelled / "stars.parquet", "--out", tmp_path / "c.parquet").code
        == 0
    )
    table = pq.read_table(tmp_path / "c.parquet")
    model = load_model(labelled / "model")
    predicted = label_stars(model, labels_of(model), SKY.spectra)
    names = labels_of(model).names
    for name, column in predicted.columns().items():
        is_rank = name.endswith(("reliability", "width_rank"))  # steps of one star in 341, over BY_CHI2
        np.testing.assert_allclose(table[name], column, rtol=1e-5, atol=0.03 if is_rank else 1e-4)
        assert table.schema.field(name).metadata[b"description"]
    np.testing.assert_array_equal(table["label_flags"].to_numpy(), predicted.flags)
    legend = table.schema.field("label_flags").metadata[b"description"].decode()
    assert legend == LabelPrediction.flag_legend(names)
    assert set(names) == set(NAMES)
    for name in NAMES:
        low, middle, high = (
            table[column].to_numpy() for column in (f"{name}_low_68", name, f"{name}_high_68")
        )
        assert (low <= middle).all()
        assert (middle <= high).all()


def test_a_model_with_labels_is_another_model(labelled):
    plain, with_labels = read_checkpoint(labelled / "model"), load_model(labelled / "model")
    assert plain.digest != with_labels.digest
    assert load_model(labelled / "model").digest == with_labels.digest
    assert labels_of(plain) is None


def test_too_few_labels_are_an_error_of_one_line(cli, labelled, tmp_path):
    write_parquet(tmp_path / "stars.parquet", SKY.spectra)
    run = cli("label", labelled / "model", tmp_path / "stars.parquet")
    assert run.code == 1
    assert run.err.splitlines()[-1].startswith("scattervae: error: 0 usable stars")


def test_a_stars_labels_do_not_depend_on_the_stars_that_come_with_it(labelled):
    model = load_model(labelled / "model")
    together = catalogue(model, SKY.spectra)
    for rows in (slice(0, 1), slice(17, 40)):
        assert catalogue(model, SKY.spectra.take(rows)).equals(
            together.slice(rows.start, rows.stop - rows.start)
        )
