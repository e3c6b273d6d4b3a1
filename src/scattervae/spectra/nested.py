"""Columns within columns: structs, as nested parquet files have them, taken apart."""

import pyarrow as pa


def leaves(schema: pa.Schema) -> list[str]:
    """Dotted names of all columns below structs, in the schema's order."""
    names: list[str] = []
    pending = [(field.name, field.type) for field in reversed(schema)]
    while pending:
        name, kind = pending.pop()
        if pa.types.is_struct(kind):
            pending += [(f"{name}.{field.name}", field.type) for field in reversed(list(kind))]
        else:
            names.append(name)
    return names


def flattened(table: pa.Table) -> pa.Table:
    """The same table with every struct's fields as columns of their own, by their dotted names."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table
