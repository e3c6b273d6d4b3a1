"""How values and progress look to people: one line of what a value holds, bars where there is a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

stderr = Console(stderr=True)
_SECONDS_A_LINE = 60.0


class Shown:
    """A value that notebooks show as they would print it."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


class LineAMinute(Progress):
    """Progress where there is no terminal, such as in a batch job's log: one line a minute."""

    def __init__(self, unit: str) -> None:
        super().__init__(disable=True)
        self._unit = unit
        self._next = time.monotonic() + _SECONDS_A_LINE

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._show(task_id)

    def advance(self, task_id: TaskID, advance: int | float = 1) -> None:
        super().advance(task_id, advance)
        self._show(task_id)

    def _show(self, task_id: TaskID) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS_A_LINE
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f" of {task.total:,.0f}"
        stderr.print(f"{task.description}: {task.completed:,.0f}{total} {self._unit}", highlight=False)


@contextmanager
def progress_bar(unit: str, *columns: str) -> Iterator[Progress]:
    """A progress bar on stderr, with these fields of the task shown behind it; a line a minute without a terminal."""
    if not stderr.is_terminal:
        yield LineAMinute(unit)
        return
    fields = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in columns]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        *fields,
        console=stderr,
    ) as progress:
        yield progress


@contextmanager
def epoch_bar(epochs: int) -> Iterator[Callable[[Any], None]]:
    """A progress bar over epochs with the bound and the divergence of their records behind it."""
    with progress_bar("epochs", "terms") as bar:
        task = bar.add_task("training", total=epochs, terms="")

        def show(record: Any) -> None:
            terms = f"-ELBO {record.negative_elbo:.1f}, KL {record.kl:.2f} nats"
            bar.update(task, completed=record.epoch, terms=terms)

        yield show
