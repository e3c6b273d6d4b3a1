import inspect

from scattervae import errors


def test_all_errors_share_one_parent():
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass) if e.__module__ == errors.__name__]
    assert len(found) > 4
    assert all(issubclass(error, errors.ScatterVaeError) for error in found)
