"""Numbers as the archive writes them: the fewest digits that give them back."""

import numpy as np
import orjson

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def array(values: np.ndarray) -> bytes:
    """``[a,b,...]``."""
    return orjson.dumps(values, option=_NUMPY)


def column(values: np.ndarray) -> list[bytes]:
    """One text a number."""
    return orjson.dumps(np.ascontiguousarray(values), option=_NUMPY)[1:-1].split(b",") if len(values) else []


def java(value: np.float32) -> str:
    """A float as Java writes it: below a thousandth with an exponent, ``5.521873E-4``."""
    if value == 0 or abs(value) >= 1e-3:
        return np.format_float_positional(value, unique=True, trim="0")
    mantissa, _, exponent = np.format_float_scientific(value, unique=True, trim="0").partition("e")
    return f"{mantissa}E{int(exponent)}"
