"""Shares, bins and groups of coverage, against counts by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_of, g_mag_of
from scattervae.model.network import Reconstruction
from scattervae.science.calibration import coverage
from scattervae.science.calibration.coverage import (
    N_BINS,
    N_GROUPS,
    DrawnStars,
    Pits,
    Share,
    coverage_table,
    order_groups,
    pit,
    pits,
    tabulated,
)
from scattervae.science.calibration.widths import faint_coverage
from scattervae.spectra.columns import xp_colour
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis, Flag, Spectra
from science.calibration.linear import N, linear_model, stars_of, with_widths
from toy import DR3, spoiled, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)


def even(n, c, *, ratio=2.0, seed=0):
    """Transforms of coefficients whose scatter is so many times their error."""
    values = torch.rand(n, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Pits(values, values, values, values, values, torch.full_like(values, ratio))


def test_the_edges_are_those_of_one_and_two_sigma():
    inside = norm.cdf([-0.999, 0.999, -1.999, 1.999])
    outside = norm.cdf([-1.001, 1.001])
    share = Share.of(np.array([[*inside, *outside, np.nan]]))
    assert share[:3] == (pytest.approx(2 / 6), pytest.approx(1.0), 6)
    assert np.isnan(share.one_error)  # of one star
    assert Share.of(np.array([[np.nan]])).n == 0


def test_errors_of_shares_are_those_of_resampled_stars():
    """Coefficients of a star go together: with half of them alike, the error is larger than a binomial's."""
    generator = np.random.default_rng(0)
    values = generator.uniform(size=(150, 40))
    values[:, :20] = values[:, :1]
    values[:30, 30:] = np.nan
    share = Share.of(values)
    drawn = [Share.of(values[generator.integers(0, 150, 150)]) for _ in range(400)]
    for name in ("one", "two"):
        spread = np.std([getattr(one, name) for one in drawn])
        assert getattr(share, f"{name}_error") == pytest.approx(spread, rel=0.15)
    assert share.one_error > 2 * np.sqrt(share.one * (1 - share.one) / share.n)


def test_even_transforms_are_covered_in_every_row():
    n = 4000
    g = np.linspace(9.0, 12.99, n)
    table = tabulated(even(n, 11), MODEL.normalization, g, np.linspace(-1, 2, n))
    assert table.n_stars == n
    assert [row.name for row in table.by("G")] == ["9-10", "10-11", "11-12", "12-13"]
    assert sum(row.n_stars for row in table.by("G")) == sum(row.n_stars for row in table.by("colour")) == n
    for row in table.rows:
        assert row.hidden.one == pytest.approx(0.6827, abs=0.025)
        assert row.drawn.two == pytest.approx(0.9545, abs=0.012)
        assert row.others.n == (row.drawn.n if row.by == "order" else 0)
    assert len(table.drawn_counts) == N_BINS
    assert sum(table.drawn_counts) == n * 11


def test_pooled_are_the_coefficients_whose_median_scatter_exceeds_their_error():
    transforms = even(200, 11)
    transforms.scatter_over_error[:, 4:] = 0.5
    transforms.scatter_over_error[:90, 3] = 0.5  # fewer than half of the stars
    transforms.drawn[:, 4:] = 0.5
    (row,) = tabulated(transforms, MODEL.normalization, np.full(200, 10.5), np.zeros(200)).by("all")
    assert row.n_pooled == 4
    assert row.drawn.n == 800
    assert row.others == (1.0, 1.0, 1400, 0.0, 0.0)


def test_orders_are_counted_from_one_in_each_band():
    normalization = Normalization(DR3, np.arange(110), np.zeros(110), np.ones(110), 1, 1)
    groups = dict(order_groups(normalization))
    assert list(groups)[:3] == ["BP 1-5", "BP 6-10", "BP 11-20"]
    assert groups["RP 51-55"].tolist() == [105, 106, 107, 108, 109]
    assert sorted(np.concatenate(list(groups.values()))) == list(range(110))


def test_magnitude_and_colour():
    coeffs = np.ones((3, 4))
    coeffs[:, 0] = 100.0, 1.0, -1.0
    flux = np.array([g_flux_of(12.0), g_flux_of(15.5), 1.0])
    stars = Spectra.of(np.arange(1, 4), coeffs, coeffs**2, basis=Basis(2, 2), g_flux=flux)
    np.testing.assert_allclose(g_mag_of(stars.g_flux)[:2], [12.0, 15.5])
    np.testing.assert_allclose(xp_colour(stars.coeffs, 2), [-5.0, 0.0, np.nan])


def test_table_of_a_model_leaves_unusable_stars_out_and_same_seed_same_table():
    drawn = DrawnStars.of(MODEL, spoiled(SKY.spectra))
    table = coverage_table(MODEL, drawn)
    assert table.n_stars == 294
    assert table == coverage_table(MODEL, drawn)
    assert table.by("all")[0].hidden.n > 0


def test_of_many_stars_some_are_drawn(monkeypatch):
    monkeypatch.setattr(coverage, "MOST_STARS", 50)
    stars = SKY.spectra.with_flags(np.arange(300).astype(np.uint16) % 2 * np.uint16(Flag.BAD_COEFFS))
    drawn = DrawnStars.of(MODEL, stars)
    assert len(drawn.spectra) == len(drawn.inputs) == 50
    assert drawn.spectra.usable.all()
    row = {star: row for row, star in enumerate(stars.source_id.tolist())}
    assert (np.diff([row[star] for star in drawn.spectra.source_id.tolist()]) > 0).all()
    assert coverage_table(MODEL, drawn).n_stars == faint_coverage(MODEL, drawn.inputs)[3.0].n == 50


def test_no_usable_star_is_an_error_of_one_line():
    with pytest.raises(DataError, match="none of 3 stars is usable: nothing to measure coverage on"):
        DrawnStars.of(MODEL, spoiled(SKY.spectra).take(slice(0, 3)))


@pytest.fixture(scope="module")
def transforms():
    model = linear_model()
    return pits(model, stars_of(model, 3000), n_rounds=N_GROUPS)


def test_transforms_are_scipys():
    x, errors, mean, scatter = (torch.rand(4, 3) + k for k in range(4))
    found = pit(Inputs(x, errors), Reconstruction(mean, scatter))
    expected = norm.cdf(x.numpy(), mean.numpy(), (errors**2 + scatter**2).sqrt().numpy())
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_hidden_coefficients_of_simulated_stars_are_covered_within_one_per_cent(transforms):
    share = Share.of(transforms.hidden.numpy())
    assert share.n == 3000 * N
    assert share.one == pytest.approx(0.6827, abs=0.01)
    assert share.two == pytest.approx(0.9545, abs=0.01)


def test_at_a_draw_they_are_uniform_and_at_the_mean_they_are_not(transforms):
    share = Share.of(transforms.drawn.numpy())
    assert share.one == pytest.approx(0.6827, abs=0.01)
    assert share.two == pytest.approx(0.9545, abs=0.01)
    assert kstest(transforms.drawn[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert Share.of(transforms.at_mean.numpy()).one > 0.70  # two latents of eleven coefficients were fitted
    assert Share.of(transforms.without_scatter.numpy()).one < 0.65


def test_a_scatter_half_as_wide_shows():
    stars = stars_of(linear_model(scatter=0.4), 1500)
    found = Share.of(pits(linear_model(scatter=0.2), stars, n_rounds=N_GROUPS).hidden.numpy())
    assert found.one < 0.62


def test_an_encoder_too_sure_of_itself_changes_nothing(transforms):
    """Decoder and scatter are tested, not the encoder: posteriors are found anew."""
    model = with_widths(linear_model(), 0.3)
    found = pits(model, stars_of(model, 3000), n_rounds=1)
    assert Share.of(found.drawn.numpy()).one == pytest.approx(0.6827, abs=0.01)


def test_one_round_hides_about_a_tenth_of_each_star():
    model = linear_model()
    hidden = pits(model, stars_of(model, 50)).hidden.isfinite().sum(dim=1)
    assert set(hidden.tolist()) <= {math.ceil(N / N_GROUPS), N // N_GROUPS}


def test_missing_coefficients_have_no_transform():
    model = linear_model()
    stars = stars_of(model, 40)
    stars.x[:, 3], stars.errors[:, 3] = 0.0, torch.inf
    found = pits(model, stars, n_rounds=N_GROUPS)
    for values in (found.hidden, found.drawn, found.at_mean):
        assert values[:, 3].isnan().all()
        assert values[:, :3].isfinite().all()
