import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.spectra.chunks import rechunk
from scattervae.spectra.spectra import Spectra
from toy import toy_sky

STARS = toy_sky(60).spectra


def in_chunks(stars: Spectra, sizes: list[int]) -> list[Spectra]:
    """The stars in pieces of these sizes, one after the other; what is left makes the last piece."""
    ends = np.cumsum(sizes).clip(max=len(stars)).tolist()
    return [stars.take(slice(a, b)) for a, b in zip([0, *ends], [*ends, len(stars)], strict=True)]


@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 70), st.integers(0, 60))
def test_pieces_hold_the_same_stars_in_order_and_have_the_same_size(sizes, rows, n_stars):
    stars = STARS.take(slice(0, n_stars))
    pieces = list(rechunk(iter(in_chunks(stars, sizes)), rows))
    full, rest = divmod(n_stars, rows)
    assert [len(piece) for piece in pieces] == [rows] * full + [rest] * (rest > 0)
    if pieces:
        joined = Spectra.concatenate(pieces)
        np.testing.assert_array_equal(joined.source_id, stars.source_id)
        np.testing.assert_array_equal(joined.coeffs, stars.coeffs)
        np.testing.assert_array_equal(joined.g_flux, stars.g_flux)


def test_nothing_gives_nothing():
    assert list(rechunk([], 5)) == []
    assert list(rechunk([STARS.take(slice(0, 0))], 5)) == []


def test_pieces_come_as_soon_as_they_are_full():
    """No more chunks are read than a piece needs: memory stays bounded on 219 million stars."""
    read = []

    def chunks():
        for chunk in in_chunks(STARS, [10] * 5):
            read.append(len(chunk))
            yield chunk

    next(rechunk(chunks(), 15))
    assert read == [10, 10]


@pytest.mark.parametrize("rows", [0, -1])
def test_pieces_without_stars_are_a_slip(rows):
    with pytest.raises(ValueError, match="rows"):
        list(rechunk([STARS], rows))
