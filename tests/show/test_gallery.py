"""The gallery of odd stars says what each is odd in, and where the reference has no star of its G."""

import pyarrow as pa

from scattervae.science.outliers import OUTSIDE, PARTS, find_outliers
from scattervae.show.gallery import render_gallery
from toy import DR3, toy_model, toy_recipe, toy_sky


def test_reasons_are_given_with_their_excess_and_a_foreign_g_without():
    sky = toy_sky(150, basis=DR3)
    model = toy_model(sky, toy_recipe(epochs=1))
    table = find_outliers(model, [sky.spectra]).slice(0, 1)
    brighter = next(iter(OUTSIDE))
    column = table.schema.get_field_index("outlier_reasons")
    table = table.set_column(column, "outlier_reasons", pa.array([f"{brighter}; likelihood"]))
    star = sky.spectra.take(sky.spectra.source_id == table["source_id"][0].as_py())
    page = render_gallery(model, star, table)
    assert f"<li>{brighter}: {OUTSIDE[brighter]}</li>" in page
    assert f"<li>likelihood ({table['likelihood'][0].as_py():.1f}): {PARTS['likelihood']}</li>" in page
