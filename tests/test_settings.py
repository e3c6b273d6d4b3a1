import math

import pytest
from pydantic import PositiveFloat, ValidationError

from scattervae.settings import Settings


class Example(Settings):
    reach: PositiveFloat = 3.0


def test_settings_cannot_change():
    example = Example()
    with pytest.raises(ValidationError, match="frozen"):
        example.reach = 4.0


@pytest.mark.parametrize("given", [{"reech": 3.0}, {"reach": -1.0}, {"reach": "far"}])
def test_an_unknown_name_or_a_value_out_of_range_is_refused(given):
    with pytest.raises(ValidationError):
        Example.model_validate(given)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_number_must_be_finite(value):
    with pytest.raises(ValidationError, match="finite"):
        Example(reach=value)
