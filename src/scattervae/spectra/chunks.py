"""Stars in pieces of a fixed size, however they arrive."""

from collections.abc import Iterable, Iterator

from scattervae.spectra.spectra import Spectra


def rechunk(chunks: Iterable[Spectra], rows: int) -> Iterator[Spectra]:
    """The same stars in the same order, `rows` at a time; the last piece holds what is left.

    Sums and matrix products over these pieces do not depend on how the stars arrived.
    """
    if rows < 1:
        raise ValueError(f"rows = {rows}; a piece holds at least one star")
    waiting: list[Spectra] = []
    n_waiting = 0
    for chunk in chunks:
        waiting.append(chunk)
        n_waiting += len(chunk)
        if n_waiting >= rows:
            joined = Spectra.concatenate(waiting)
            for start in range(0, n_waiting - rows + 1, rows):
                yield joined.take(slice(start, start + rows))
            n_left = n_waiting % rows
            waiting = [joined.take(slice(n_waiting - n_left, n_waiting))] if n_left else []
            n_waiting = n_left
    if n_waiting:
        yield Spectra.concatenate(waiting)
