"""How far a run is: a bar for people, a line now and then for logs."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from igjax._engine.report import Report
from igjax._extras import needs

LOG_EVERY = 30.0  # seconds
_logger = logging.getLogger("igjax")


class Meter:
    """Counts what becomes of examples.

    Args:
      total: the number of examples, or None if nobody knows.
      done: of them, attributed before this run.
      failed: that could not be.
    """

    def __init__(self, total: int | None, done: int, failed: int):
        self.total, self.done, self.failed = total, done, failed
        self.new = self.num_evals = self._reported = self._converged = 0
        self._start = time.monotonic()

    def add(self, report: Report | None, good: NDArray[np.bool_]) -> None:
        """Counts examples that have been attributed; those that are not ``good`` have failed."""
        self.new += good.size
        self.done += int(np.sum(good))
        self.failed += int(np.sum(~good))
        if report is not None:
            self.num_evals += int(np.sum(report.num_evals))
            self._reported += good.size
            self._converged += int(np.sum(report.converged))

    def add_failed(self) -> None:
        """Counts an example that could not be attributed at all."""
        self.new += 1
        self.failed += 1

    @property
    def seen(self) -> int:
        """Returns how many examples something has become of, in earlier runs too."""
        return self.done + self.failed

    @property
    def figures(self) -> str:
        """Says what there is to say beside the number of examples."""
        told = [f"{self._rate():.1f}/s"]
        if self._reported:
            told += [
                f"{self.num_evals / self._reported:.0f} gradients each",
                f"{100 * self._converged / self._reported:.0f} % converged",
            ]
        return ", ".join(told + ([f"{self.failed} failed"] if self.failed else []))

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"{self.seen}{of} examples, {self.figures}"

    def left(self) -> str:
        """Says how long it is going to take, as far as one can."""
        if self.total is None or not self.new:
            return ""
        return f", {(self.total - self.seen) / self._rate():.0f} s left"

    def _rate(self) -> float:
        """Returns how many examples a second there are."""
        return self.new / max(time.monotonic() - self._start, 1e-9)


@contextlib.contextmanager
def shown(meter: Meter, *, show: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call when ``meter`` has changed."""
    if not show:
        yield lambda: None
        return
    needs("rich", "dataset")
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _logging(meter)
        return
    figures = TextColumn("{task.fields[figures]}")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), figures)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("attributing", total=meter.total, completed=meter.seen, figures="")
        yield lambda: bar.update(task, completed=meter.seen, figures=meter.figures)


def _logging(meter: Meter) -> Callable[[], None]:
    last = time.monotonic()

    def log() -> None:
        nonlocal last
        if time.monotonic() - last > LOG_EVERY:
            last = time.monotonic()
            _logger.info("%s%s", meter, meter.left())

    return log
