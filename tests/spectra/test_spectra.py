import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import DataError
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.spectra.spectra import (
    UNUSABLE,
    Basis,
    Correlations,
    Flag,
    GFluxSource,
    Spectra,
    flag_counts,
    rechunk,
    repeats,
)
from toy import DR3, SMALL, SPOILED, spoiled, toy_sky

STARS = toy_sky(12).spectra


def with_cell(name: str, row: int, column: int, value: float) -> Spectra:
    """The toy stars with one number of `coeffs` or `errors` replaced, flagged anew."""
    arrays = {"coeffs": STARS.coeffs.copy(), "errors": STARS.errors.copy()}
    arrays[name][row, column] = value
    return Spectra.of(STARS.source_id, **arrays, basis=STARS.basis, g_flux=STARS.g_flux)


def correlations_of(n: int, basis: Basis, seed: int = 0) -> Correlations:
    draws = np.random.default_rng(seed)
    bp, rp = (
        draws.uniform(-1, 1, (n, k * (k - 1) // 2)).astype(np.float32) for k in (basis.n_bp, basis.n_rp)
    )
    return Correlations(bp=bp, rp=rp)


def same(one: Spectra, other: Spectra) -> bool:
    """True where all columns are equal, NaN to NaN."""
    names = ("source_id", "coeffs", "errors", "flags", "g_flux", "g_flux_source", "n_relevant_bases")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    for s in (one, other):
        assert (s.correlations is None) == (one.correlations is None)
    if one.correlations is not None and other.correlations is not None:
        pairs += [(one.correlations.bp, other.correlations.bp), (one.correlations.rp, other.correlations.rp)]
    return one.basis == other.basis and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs
    )


def test_good_stars_carry_no_flag():
    assert not STARS.flags.any()
    assert STARS.usable.all()
    assert (STARS.g_flux_source == GFluxSource.TABLE).all()


def test_each_flag_comes_from_its_cause_and_reaches_no_other_star():
    flags = spoiled(STARS).flags
    assert flags.tolist() == [int(flag) for flag in SPOILED] + [0] * (len(STARS) - len(SPOILED))


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("coeffs", np.nan, Flag.BAD_COEFFS),
        ("coeffs", np.inf, Flag.BAD_COEFFS),
        ("coeffs", -np.inf, Flag.BAD_COEFFS),
        ("errors", np.nan, Flag.BAD_ERRORS),
        ("errors", np.inf, Flag.BAD_ERRORS),
        ("errors", 0.0, Flag.BAD_ERRORS),
        ("errors", -1.0, Flag.BAD_ERRORS),
    ],
)
@pytest.mark.parametrize("column", [0, 5, 6, 10])
def test_one_bad_number_in_either_band_flags_its_star(name, value, flag, column):
    flags = with_cell(name, 3, column, value).flags
    assert flags[3] == flag
    assert np.delete(flags, 3).tolist() == [0] * (len(STARS) - 1)


@pytest.mark.parametrize("g_flux", [np.nan, 0.0, -3.0, np.inf, None])
def test_without_a_positive_finite_g_flux_it_is_unknown(g_flux):
    g = None if g_flux is None else np.full(len(STARS), g_flux)
    stars = Spectra.of(STARS.source_id, STARS.coeffs, STARS.errors, basis=SMALL, g_flux=g)
    assert (stars.flags == Flag.NO_G_FLUX).all()
    assert np.isnan(stars.g_flux).all()
    assert (stars.g_flux_source == GFluxSource.NONE).all()


def test_inferred_and_blended_stars_are_used_and_every_other_flag_forbids_it():
    for flag in Flag:
        bits = np.full(len(STARS), flag, dtype=np.uint16)
        assert STARS.with_flags(bits).usable.any() == (flag in {Flag.INFERRED, Flag.BLENDED})
        assert flag.meaning
    assert not (Flag.INFERRED | Flag.BLENDED) & UNUSABLE


def test_with_flags_adds_to_what_is_there():
    stars = spoiled(STARS).with_flags(np.full(len(STARS), Flag.INFERRED, dtype=np.uint16))
    assert stars.flags.tolist() == (spoiled(STARS).flags | 64).tolist()


def test_flags_are_counted_by_name():
    assert flag_counts(np.array([0, 1, 3, 64], dtype=np.uint16)) == {
        "MISSING_BP": 2,
        "MISSING_RP": 1,
        "INFERRED": 1,
    }


def test_with_g_flux_fills_only_what_is_unknown():
    g_flux = STARS.g_flux.copy()
    g_flux[:4] = np.nan
    stars = Spectra.of(STARS.source_id, STARS.coeffs, STARS.errors, basis=SMALL, g_flux=g_flux)
    offered = np.full(len(stars), 7.0)
    offered[1:4] = [np.nan, 0.0, np.inf]
    filled = stars.with_g_flux(offered, GFluxSource.COEFFICIENTS)
    np.testing.assert_array_equal(filled.g_flux, [7.0, np.nan, np.nan, np.nan, *STARS.g_flux[4:]])
    assert filled.g_flux_source.tolist() == [2, 0, 0, 0] + [1] * 8
    assert filled.flags.tolist() == [0, 16, 16, 16] + [0] * 8


def test_with_g_flux_leaves_other_flags():
    stars = spoiled(STARS)
    filled = stars.with_g_flux(np.full(len(stars), 7.0), GFluxSource.COEFFICIENTS)
    assert filled.flags.tolist() == np.where(stars.flags == Flag.NO_G_FLUX, 0, stars.flags).tolist()


@given(st.data())
def test_concatenating_what_was_taken_gives_the_same_stars(data):
    stars = spoiled(STARS)
    if data.draw(st.booleans()):
        stars = Spectra.of(
            stars.source_id,
            stars.coeffs,
            stars.errors,
            basis=SMALL,
            g_flux=stars.g_flux,
            correlations=correlations_of(len(stars), SMALL),
        )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stars)), max_size=4)))
    parts = [stars.take(slice(a, b)) for a, b in zip([0, *cuts], [*cuts, len(stars)], strict=True)]
    assert same(Spectra.concatenate(parts), stars)
    assert same(Spectra.concatenate(iter(parts), len(stars)), stars)
    order = np.array(data.draw(st.permutations(range(len(stars)))))
    assert same(stars.take(order).take(np.argsort(order)), stars)
    assert same(stars.take(stars.usable), stars.take(np.flatnonzero(stars.usable)))


def test_correlations_are_kept_only_where_every_part_has_them():
    with_them = Spectra.of(
        STARS.source_id, STARS.coeffs, STARS.errors, basis=SMALL, correlations=correlations_of(12, SMALL)
    )
    assert Spectra.concatenate([with_them, with_them]).correlations is not None
    assert Spectra.concatenate([with_them, STARS]).correlations is None


def test_repeats_are_rows_whose_source_id_came_before():
    ids = np.array([5, 3, 5, 3, 9, 5], dtype=np.int64)
    assert repeats(ids).tolist() == [False, False, True, True, False, True]


def test_arrays_that_do_not_fit_the_basis_are_refused_in_one_line():
    with pytest.raises(DataError, match=r"12 source_ids .* \(12, 11\).*expected \(12, 110\)") as caught:
        Spectra.of(STARS.source_id, STARS.coeffs, STARS.errors, basis=DR3)
    assert "\n" not in str(caught.value)


def test_correlations_that_do_not_fit_the_basis_are_refused_in_one_line():
    with pytest.raises(DataError, match="correlations") as caught:
        Spectra.of(
            STARS.source_id,
            STARS.coeffs,
            STARS.errors,
            basis=SMALL,
            correlations=correlations_of(12, Basis(6, 6)),
        )
    assert "\n" not in str(caught.value)


def basis_cases() -> list[tuple[Basis, Basis, bool]]:
    named = Basis(6, 5, 1, 2)
    return [
        (SMALL, SMALL, True),
        (SMALL, Basis(5, 6), False),
        (SMALL, named, True),
        (Basis(6, 5, bp_id=1), named, True),
        (Basis(6, 5, bp_id=3), named, False),
        (Basis(6, 5, rp_id=3), named, False),
        (Basis(51, 55), Basis(55, 55), False),
    ]


@pytest.mark.parametrize(("one", "other", "expected"), basis_cases())
def test_bases_agree_where_sizes_are_equal_and_no_given_id_differs(one, other, expected):
    assert one.agrees_with(other) == other.agrees_with(one) == expected


def test_a_basis_says_what_it_is():
    assert str(Basis(51, 55, rp_id=7)) == "51 BP + 55 RP (basis 7) coefficients"
    assert (DR3.n_coeffs, DR3.bp, DR3.rp) == (110, slice(0, 55), slice(55, 110))


def with_basis(basis: Basis) -> Spectra:
    return Spectra.of(STARS.source_id, STARS.coeffs, STARS.errors, basis=basis)


def test_spectra_of_bases_that_disagree_are_not_joined():
    with pytest.raises(DataError, match=r"basis 1.*basis 2"):
        Spectra.concatenate([with_basis(Basis(6, 5, bp_id=1)), with_basis(Basis(6, 5, bp_id=2))])


def test_spectra_without_ids_are_not_taken_for_those_of_any_basis():
    unnamed, one = with_basis(SMALL), with_basis(Basis(6, 5, bp_id=1))
    with pytest.raises(DataError, match=r"6 BP \+ 5 RP .* 6 BP \(basis 1\)"):
        Spectra.concatenate([unnamed, one])
    assert Spectra.concatenate([unnamed, unnamed]).basis == SMALL


def test_a_band_that_no_star_has_takes_the_id_of_others():
    without_bp, both = with_basis(Basis(6, 5, rp_id=2)), with_basis(Basis(6, 5, bp_id=1, rp_id=2))
    assert Spectra.concatenate([without_bp, both]).basis == both.basis


def test_sampled_spectra_are_taken_row_by_row():
    flux = np.arange(12.0).reshape(3, 4)
    stars = SampledSpectra(
        source_id=np.array([1, 2, 3]),
        flux=flux,
        errors=flux + 1,
        grid_nm=np.linspace(336.0, 1020.0, 4),
        g_flux=np.array([1.0, 2.0, 3.0]),
        flags=np.array([0, 4, 0], dtype=np.uint16),
    )
    last = stars.take(np.array([False, False, True]))
    assert len(last) == 1
    assert (last.source_id[0], last.flux[0, 0], last.errors[0, 3], last.g_flux[0]) == (3, 8.0, 12.0, 3.0)
    np.testing.assert_array_equal(last.grid_nm, stars.grid_nm)


SIXTY = toy_sky(60).spectra


def in_chunks(stars: Spectra, sizes: list[int]) -> list[Spectra]:
    """The stars in chunks of these sizes, one after the other; what is left makes the last chunk."""
    ends = np.cumsum(sizes).clip(max=len(stars)).tolist()
    return [stars.take(slice(a, b)) for a, b in zip([0, *ends], [*ends, len(stars)], strict=True)]


@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 70), st.integers(0, 60))
def test_pieces_hold_the_same_stars_in_order_and_have_the_same_size(sizes, rows, n_stars):
    stars = SIXTY.take(slice(0, n_stars))
    chunks = list(rechunk(iter(in_chunks(stars, sizes)), rows))
    full, rest = divmod(n_stars, rows)
    assert [len(chunk) for chunk in chunks] == [rows] * full + [rest] * (rest > 0)
    if chunks:
        joined = Spectra.concatenate(chunks)
        np.testing.assert_array_equal(joined.source_id, stars.source_id)
        np.testing.assert_array_equal(joined.coeffs, stars.coeffs)
        np.testing.assert_array_equal(joined.g_flux, stars.g_flux)


def test_pieces_of_one_chunk_are_not_copied():
    assert all(np.shares_memory(chunk.coeffs, SIXTY.coeffs) for chunk in rechunk([SIXTY], 7))


def test_nothing_gives_nothing():
    assert list(rechunk([], 5)) == []
    assert list(rechunk([SIXTY.take(slice(0, 0))], 5)) == []


def test_pieces_come_as_soon_as_they_are_full():
    """No more chunks are read than a chunk needs: memory stays bounded on 219 million stars."""
    read = []

    def chunks():
        for chunk in in_chunks(SIXTY, [10] * 5):
            read.append(len(chunk))
            yield chunk

    next(rechunk(chunks(), 15))
    assert read == [10, 10]


@pytest.mark.parametrize("rows", [0, -1])
def test_pieces_without_stars_are_a_slip(rows):
    with pytest.raises(ValueError, match="rows"):
        list(rechunk([SIXTY], rows))
