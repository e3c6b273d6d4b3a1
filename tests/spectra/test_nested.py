import pyarrow as pa

from scattervae.spectra.nested import flattened, leaves


def test_structs_are_taken_apart_however_deep():
    inner = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([[0.5], None])], ["n", "values"])
    table = pa.table(
        {"source_id": [7, 8], "bp": pa.StructArray.from_arrays([inner, pa.array([3, 4])], ["spec", "m"])}
    )
    flat = flattened(table)
    assert leaves(table.schema) == flat.column_names == ["source_id", "bp.spec.n", "bp.spec.values", "bp.m"]
    assert flat["bp.spec.values"].to_pylist() == [[0.5], None]
    assert flattened(flat).equals(flat)
