"""The catalogue against the library's parts, closed forms, and itself in other chunks."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from scattervae.errors import DataError
from scattervae.science import catalogue as module
from scattervae.science.catalogue import catalogue, catalogue_schema, write_catalogue
from scattervae.spectra.flags import Flag
from scattervae.spectra.spectra import Basis
from toy import SPOILED, spoiled, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)


def in_pieces(spectra, rows):
    return [spectra.take(slice(start, start + rows)) for start in range(0, len(spectra), rows)]


def test_columns_match_torch_distributions():
    table = catalogue(MODEL, SKY.spectra)
    inputs = MODEL.normalization.apply(SKY.spectra)
    posterior = MODEL.encode(SKY.spectra)
    told = MODEL.decode(posterior.mean)
    sigma = (inputs.errors.double() ** 2 + told.scatter.double() ** 2).sqrt()
    x, mean = inputs.x.double(), told.mean.double()
    constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
    expected = {
        "log_likelihood": Normal(mean, sigma).log_prob(x).sum(-1) + constant,
        "reduced_chi2": ((x - mean) / sigma).square().mean(-1),
        "reduced_chi2_without_scatter": ((x - mean) / inputs.errors).square().mean(-1),
        "kl": kl_divergence(Normal(posterior.mean, posterior.sd), Normal(0.0, 1.0)).sum(-1),
        "mean_log10_scatter_bp": told.scatter[:, :6].log10().mean(-1),
        "mean_log10_scatter_rp": told.scatter[:, 6:].log10().mean(-1),
        "latent_2_mean": posterior.mean[:, 1],
        "latent_3_sd": posterior.sd[:, 2],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name].to_numpy(), values.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(table["source_id"].to_numpy(), SKY.spectra.source_id)


def test_stars_that_cannot_be_encoded_keep_their_row_and_say_why():
    table = catalogue(MODEL, spoiled(SKY.spectra))
    np.testing.assert_array_equal(table["flags"].to_numpy()[:7], [int(flag) for flag in SPOILED])
    latents = table["latent_1_mean"].to_numpy()
    likelihoods = table["log_likelihood"].to_numpy()
    assert np.isnan(latents[:5]).all()
    assert np.isnan(likelihoods[:5]).all()
    assert np.isfinite(latents[5:]).all()  # a duplicate is a star like any other
    untouched = catalogue(MODEL, SKY.spectra)["latent_1_mean"].to_numpy()
    np.testing.assert_array_equal(latents[7:], untouched[7:])


def test_every_column_has_a_description_and_the_file_names_its_model(tmp_path):
    write_catalogue(MODEL, [SKY.spectra], tmp_path / "c.parquet")
    schema = pq.read_schema(tmp_path / "c.parquet")
    assert schema.equals(catalogue_schema(MODEL), check_metadata=True)
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.field("kl").metadata[b"unit"] == b"nat"
    assert MODEL.digest.encode() in schema.metadata[b"scattervae.catalogue"]
    read = Table.read(tmp_path / "c.parquet", format="parquet")  # astropy, as a user would
    assert len(read) == 300
    assert read["source_id"].dtype == np.int64


@pytest.fixture
def small_groups(monkeypatch):
    """Row groups of two batches of 16 stars, so that 300 stars make ten of them."""
    monkeypatch.setattr(module, "ROWS_A_GROUP", 32)
    batches = MODEL.encode_batches.__func__
    monkeypatch.setattr(
        type(MODEL), "encode_batches", lambda self, chunks, batch=16: batches(self, chunks, batch=batch)
    )


@pytest.mark.usefixtures("small_groups")
def test_same_bytes_whatever_the_chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogues")
    write_catalogue(MODEL, [SKY.spectra], folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()

    @settings(max_examples=8, deadline=None)
    @given(st.integers(1, 320))
    def check(rows):
        write_catalogue(MODEL, in_pieces(SKY.spectra, rows), folder / "pieces.parquet")
        assert (folder / "pieces.parquet").read_bytes() == whole

    check()


@pytest.mark.usefixtures("small_groups")
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path):
    def stop(n_done):
        if n_done > 100:
            raise KeyboardInterrupt

    write_catalogue(MODEL, [SKY.spectra], tmp_path / "whole.parquet", stars_digest="s")
    out = tmp_path / "stopped.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s", progress=stop)
    assert not out.exists()
    summary = write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s")
    assert summary.n_resumed == 128
    assert summary.n_stars == 300
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "stopped.parquet.parts").exists()


@pytest.mark.usefixtures("small_groups")
def test_a_partial_catalogue_of_other_stars_is_not_gone_on_with(tmp_path):
    out = tmp_path / "c.parquet"

    def stop(_n_done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="these", progress=stop)
    assert write_catalogue(MODEL, [SKY.spectra], out, stars_digest="others").n_resumed == 0


def test_summary_counts_stars_and_flags(tmp_path):
    summary = write_catalogue(MODEL, [spoiled(SKY.spectra)], tmp_path / "c.parquet")
    assert (summary.n_stars, summary.n_encoded) == (300, 295)
    assert summary.flags == {str(flag.name): 1 for flag in SPOILED if flag != Flag(0)}


def test_no_stars_give_an_empty_catalogue(tmp_path):
    assert write_catalogue(MODEL, [], tmp_path / "c.parquet").n_stars == 0
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0


def test_spectra_of_another_basis_are_refused_in_one_line():
    other = toy_sky(20, basis=Basis(7, 5)).spectra
    with pytest.raises(DataError, match="7 BP") as error:
        catalogue(MODEL, other)
    assert "\n" not in str(error.value)


def test_batch_size_changes_latents_by_less_than_1e_5():
    small, large = (
        torch.cat([e.posterior.mean for e in MODEL.encode_batches([SKY.spectra], batch=size)])
        for size in (7, 512)
    )
    torch.testing.assert_close(small, large, rtol=0, atol=1e-5)
