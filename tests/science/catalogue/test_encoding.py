"""The catalogue's rows against the library's parts, closed forms, and themselves in other company."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from scattervae.errors import DataError
from scattervae.model.loss import loss_terms
from scattervae.model.recipe import Recipe
from scattervae.science.calibration.calibrated import with_scatter_factor
from scattervae.science.catalogue.encoding import catalogue, catalogue_schema, chunks_of, rows_of
from scattervae.spectra.columns import stored_of
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Basis, Flag
from scattervae.spectra.store import SpectrumStore
from spectra.stores import write_store
from toy import DR3, SPOILED, spoiled, toy_best, toy_recipe, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)
DR3_SKY = toy_sky(300, basis=DR3)
PAPER_SIZED = untrained_model(DR3_SKY.spectra, Recipe(name="paper_sized"))


def test_columns_match_torch_distributions():
    table = catalogue(MODEL, SKY.spectra)
    inputs = MODEL.normalization.apply(SKY.spectra)
    posterior = MODEL.encode(SKY.spectra)
    predicted = MODEL.reconstruct(posterior.mean)
    sigma = (inputs.errors.double() ** 2 + predicted.scatter.double() ** 2).sqrt()
    x, mean = inputs.x.double(), predicted.mean.double()
    constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
    expected = {
        "log_likelihood": Normal(mean, sigma).log_prob(x).sum(-1) + constant,
        "reduced_chi2": ((x - mean) / sigma).square().mean(-1),
        "reduced_chi2_without_scatter": ((x - mean) / inputs.errors).square().mean(-1),
        "kl": kl_divergence(Normal(posterior.mean, posterior.sd), Normal(0.0, 1.0)).sum(-1),
        "mean_log10_scatter_bp": predicted.scatter[:, :6].log10().mean(-1),
        "mean_log10_scatter_rp": predicted.scatter[:, 6:].log10().mean(-1),
        "latent_2_mean": posterior.mean[:, 1],
        "latent_3_sd": posterior.sd[:, 2],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name].to_numpy(), values.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(table["source_id"].to_numpy(), SKY.spectra.source_id)


def test_the_likelihood_is_that_of_the_loss():
    table = catalogue(PAPER_SIZED, DR3_SKY.spectra)
    inputs = PAPER_SIZED.normalization.apply(DR3_SKY.spectra)
    answer = PAPER_SIZED.predict(inputs)
    terms = loss_terms(inputs.x, inputs.errors, *answer)
    np.testing.assert_allclose(table["log_likelihood"].to_numpy(), -terms.nll, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        table["kl"].to_numpy(), terms.kl, rtol=1e-4
    )  # a small difference of large terms


@pytest.mark.parametrize("used", [NormalizationSettings(), NormalizationSettings(n_bp=3)])
def test_the_latents_are_those_of_the_normalised_coefficients(used):
    """The catalogue normalises in float32, the model's own method in float64."""
    recipe = toy_recipe().model_copy(update={"normalization": used})
    model = untrained_model(SKY.spectra, recipe)
    table = catalogue(model, spoiled(SKY.spectra))
    posterior = model.encode(spoiled(SKY.spectra))
    for k in range(3):
        for name, values in (("mean", posterior.mean), ("sd", posterior.sd)):
            found = table[f"latent_{k + 1}_{name}"].to_numpy()
            np.testing.assert_allclose(found, values[:, k], rtol=1e-5, atol=3e-6)


def test_stars_that_cannot_be_encoded_keep_their_row_and_say_why():
    table = catalogue(MODEL, spoiled(SKY.spectra))
    np.testing.assert_array_equal(table["quality_flags"].to_numpy()[:7], [int(flag) for flag in SPOILED])
    for field in catalogue_schema(MODEL):
        if field.type == pa.float32():
            column = table[field.name].to_numpy()
            assert np.isnan(column[:5]).all(), field.name
            assert np.isfinite(column[5:]).all(), field.name  # a duplicate is a star like any other
    untouched = catalogue(MODEL, SKY.spectra)["latent_1_mean"].to_numpy()
    np.testing.assert_array_equal(table["latent_1_mean"].to_numpy()[7:], untouched[7:])


WHOLE = catalogue(PAPER_SIZED, DR3_SKY.spectra)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 299), min_size=1, max_size=300, unique=True))
def test_a_stars_bits_do_not_depend_on_the_stars_that_come_with_it(rows):
    part = catalogue(PAPER_SIZED, DR3_SKY.spectra.take(np.array(rows)))
    assert part.combine_chunks() == WHOLE.take(rows).combine_chunks()


def test_a_stars_bits_do_not_depend_on_its_batch_or_on_the_threads():
    many = DR3_SKY.spectra.take(np.arange(9000) % 300)  # three batches, the last one not full
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        table = catalogue(PAPER_SIZED, many)
    finally:
        torch.set_num_threads(before)
    assert table.combine_chunks() == WHOLE.take(np.arange(9000) % 300).combine_chunks()


def test_a_file_and_the_store_it_is_ingested_to_give_the_same_bits(tmp_path):
    """Stores keep float32, so stars from elsewhere are rounded to it as well."""
    write_store(tmp_path / "store", DR3_SKY.spectra, rows_a_partition=40)
    chunks = chunks_of(PAPER_SIZED, SpectrumStore(tmp_path / "store"))
    table = pa.Table.from_batches([rows for _, rows in rows_of(PAPER_SIZED, chunks, threads=2)])
    assert table.sort_by("source_id").combine_chunks() == WHOLE.sort_by("source_id").combine_chunks()
    assert catalogue(PAPER_SIZED, stored_of(DR3_SKY.spectra)).combine_chunks() == WHOLE.combine_chunks()


def test_every_column_has_a_description():
    schema = catalogue(MODEL, SKY.spectra).schema
    assert schema.equals(catalogue_schema(MODEL), check_metadata=True)
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.field("kl").metadata[b"unit"] == b"nat"
    assert MODEL.digest.encode() in schema.metadata[b"scattervae.catalogue"]


def test_no_stars_give_no_rows():
    for none in (SKY.spectra.take([]), stored_of(SKY.spectra.take([]))):
        table = catalogue(MODEL, none)
        assert (len(table), table.schema) == (0, catalogue_schema(MODEL))


def test_spectra_of_another_basis_are_refused_in_one_line(tmp_path):
    other = toy_sky(20, basis=Basis(7, 5)).spectra
    write_store(tmp_path / "store", other)
    for stars in ([other], SpectrumStore(tmp_path / "store")):
        with pytest.raises(DataError, match="7 BP") as error:
            list(chunks_of(MODEL, stars))
        assert "\n" not in str(error.value)


def test_batch_size_changes_latents_by_less_than_1e_5():
    small, large = (
        torch.cat([e.posterior.mean for e in MODEL.encode_batches([SKY.spectra], batch=size)])
        for size in (7, 512)
    )
    torch.testing.assert_close(small, large, rtol=0, atol=1e-5)


SEEING = untrained_model(SKY.spectra, toy_best())
for weights in SEEING.network.parameters():  # away from the prior, where it begins
    torch.nn.init.normal_(weights, std=0.2, generator=torch.Generator().manual_seed(0))


def test_correlated_latents_have_columns_of_their_correlations():
    table = catalogue(SEEING, SKY.spectra)
    covariance = SEEING.encode(SKY.spectra).covariance.double().numpy()
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    for j, k in ((2, 1), (3, 1), (3, 2)):
        expected = covariance[:, j - 1, k - 1] / (sd[:, j - 1] * sd[:, k - 1])
        np.testing.assert_allclose(table[f"latent_{j}_{k}_corr"], expected, atol=1e-5)
    assert not [name for name in catalogue_schema(MODEL).names if name.endswith("_corr")]


def test_where_errors_are_seen_a_star_with_gaps_is_encoded_from_what_it_has():
    stars, kinds = spoiled(SKY.spectra), list(SPOILED)
    table = catalogue(SEEING, stars)
    encoded = np.isfinite(table["latent_1_mean"].to_numpy())
    for row, flag in enumerate(stars.flags):
        assert encoded[row] == (not flag & Flag.NO_G_FLUX), kinds
    inputs = SEEING.normalization.apply(stars, gaps=True)
    predicted = SEEING.reconstruct(SEEING.encode(stars).mean)
    for row in np.flatnonzero(encoded):
        known = inputs.errors[row].isfinite()
        sigma = (inputs.errors[row, known].double() ** 2 + predicted.scatter[row, known].double() ** 2).sqrt()
        normal = Normal(predicted.mean[row, known].double(), sigma)
        x = inputs.x[row, known].double()
        expected = normal.log_prob(x).sum() + 0.5 * known.sum() * math.log(2 * math.pi)
        assert table["log_likelihood"][row].as_py() == pytest.approx(expected.item(), rel=1e-3, abs=1e-2)
        chi2 = ((x - normal.mean) / sigma).square().mean()
        assert table["reduced_chi2"][row].as_py() == pytest.approx(chi2.item(), rel=1e-3)


def test_the_notes_say_whether_the_model_was_calibrated():
    """Without a calibration there is no column of scores, and a reader must not take that for a fault."""
    calibrated = with_scatter_factor(MODEL, torch.ones(MODEL.network.n_coeffs))
    found = [json.loads(catalogue_schema(m).metadata[b"scattervae.catalogue"]) for m in (MODEL, calibrated)]
    assert [notes["calibrated"] for notes in found] == [False, True]
