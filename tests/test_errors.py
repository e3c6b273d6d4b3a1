import inspect

import numpy as np

from scattervae import errors


def test_all_errors_share_one_parent():
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass) if e.__module__ == errors.__name__]
    assert len(found) > 4
    assert all(issubclass(error, errors.ScatterVaeError) for error in found)


def test_counts_in_words():
    assert [errors.counted(n, "star") for n in (0, 1, 2000)] == ["0 stars", "1 star", "2,000 stars"]
    assert errors.counted(2, "spectrum", "spectra") == "2 spectra"
    assert errors.counted(np.int64(1), "star") == "1 star"
