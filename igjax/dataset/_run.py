"""A process's part of a run: from examples to a store, whatever happens on the way."""

import contextlib
import dataclasses
import logging
import signal
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _interrupts, _progress
from igjax.dataset._batches import Batch, ReadAhead, batches
from igjax.dataset._blocks import Blocks
from igjax.dataset._engine import Results, Tally, attributed
from igjax.dataset._examples import Check, Examples, Refused, Rows, Source
from igjax.dataset._format import Field
from igjax.dataset._layout import LENGTH, finite, rows
from igjax.dataset._method import Method
from igjax.dataset._programs import Programs
from igjax.dataset._share import share_of
from igjax.dataset._store import Store

_logger = logging.getLogger("igjax")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What has become of a dataset, as far as this process knows.

    Attributes:
      out: where the store is.
      examples: how many there are in its share; of a stream, how many have been seen.
      done: how many have been attributed, in earlier runs too.
      failed: how many could not be.
      new: how many of either are of this run.
      num_evals: gradients that the attributions of this run needed.
      utilization: the share of the places in the programs that had an example in need of a step.
      seconds: that this run took, compilation and all.
      setup_seconds: of them, to get ready: to trace and compile, to find the fastest batch size, to
        take fingerprints, to see what is in the store.
    """

    out: str
    examples: int
    done: int
    failed: int
    new: int
    num_evals: int
    utilization: float
    seconds: float
    setup_seconds: float


class Run:
    """This process's part of a run.

    Args:
      store: where the results go.
      method: what is done with each example.
      check: what each has to be like.
      source: of the examples.
      arrays: of the store.
    """

    def __init__(
        self,
        store: Store,
        method: Method,
        check: Check,
        source: Source,
        arrays: Mapping[str, Field],
    ):
        self._store, self._method, self._check = store, method, check
        self._source, self._arrays = source, arrays
        self._share = share_of(store)
        self._blocks = Blocks(store, self._share.begun)
        total = None if store.attributes["length"] is None else self._share.examples
        self._meter = _progress.Meter(total, self._share.done, self._share.failed)
        self._tally = Tally()
        self._lengths: dict[int, int] = {}  # of examples that are padded, and on their way
        self._seen = 0  # examples that the source has given

    def work(self, *, progress: bool, stop_at_errors: bool) -> None:
        """Does what is left to do."""
        attributes = self._store.attributes
        batch_size, chunks = int(attributes["batch_size"]), int(attributes["chunks_per_program"])
        tile, sharding = self._method.tile(batch_size, chunks), self._method.compiler.examples
        reader = ReadAhead(
            lambda awaited: batches(self._examples(tile.size), tile, sharding, awaited)
        )

        def programs_of(batch: Batch) -> Programs:
            return self._method.programs(batch.like, batch_size, chunks)

        items = attributed(reader, programs_of, self._tally)
        refused: Refused | None = None
        with (
            contextlib.closing(reader),
            _progress.shown(self._meter, show=progress) as show,
            _interrupts.noted() as came,
        ):
            try:
                for item in items:
                    refused = self._take(item) or refused
                    show()
                    if came() or (refused and stop_at_errors):
                        break
                else:
                    self._measure_stream()
            except OSError:  # from writing: there is no use in trying again
                self._blocks.abandon()
                raise
            except BaseException:
                self._blocks.close()
                raise
            self._blocks.close()
            signal_number = came()
        if refused and stop_at_errors:
            raise ValueError(f"example {refused.number}: {refused.reason}") from refused.error
        if signal_number is not None:
            self._leave(signal_number)

    def summary(self, seconds: float, setup_seconds: float) -> Summary:
        """What has become of it."""
        meter = self._meter
        return Summary(
            out=self._store.out,
            examples=meter.seen if meter.total is None else meter.total,
            done=meter.done,
            failed=meter.failed,
            new=meter.new,
            num_evals=meter.num_evals,
            utilization=self._tally.utilization,
            seconds=seconds,
            setup_seconds=setup_seconds,
        )

    def _examples(self, at_once: int) -> Iterator[Examples | Refused]:
        """Those to be done, read and checked. In the reader's thread."""
        if self._source.length is None and self._store.attributes["length"] is not None:
            return  # a stream that has been read to its end
        for given in self._source.read(self._wants, at_once):
            for item in self._check(given) if isinstance(given, Rows) else [given]:
                if isinstance(item, Examples) and self._check.buckets:
                    self._lengths.update(dict.fromkeys(item.numbers.tolist(), item.length))
                yield item

    def _wants(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        self._seen = max(self._seen, int(numbers[-1]) + 1)
        return self._share.wants(numbers)

    def _take(self, item: Results | Refused) -> Refused | None:
        """Puts what has come where it belongs; gives back the last that was refused."""
        if isinstance(item, Refused):
            self._meter.add_failed()
            self._blocks.failed(item.number, item.reason, {})
            return item
        good, values = finite(item), rows(item, self._arrays)
        if self._check.buckets:
            lengths = [self._lengths.pop(int(index)) for index in item.indices]
            values[LENGTH] = np.array(lengths, np.int32)
        self._meter.add(item.report, good)
        self._blocks.done(item.indices[good], {n: value[good] for n, value in values.items()})
        refused = None
        for row in np.flatnonzero(~good):
            value = item.report.value[row]
            reason = (
                "its attributions are not finite."
                if np.isfinite(value)
                else f"the function's value is not finite: {value}."
            )
            refused = Refused(int(item.indices[row]), reason)
            own = {name: value[row : row + 1] for name, value in values.items()}
            self._blocks.failed(refused.number, reason, own)
        return refused

    def _measure_stream(self) -> None:
        """Now that the source has ended, its length is known."""
        if self._store.attributes["length"] is None:
            self._store.resize(self._seen)
            self._store.note(length=self._seen)

    def _leave(self, number: signal.Signals) -> None:
        """After a signal: says what is to be said, and does what the signal asks for."""
        message = f"{self._meter}. They are in {self._store.out}: the same call goes on from there."
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        _logger.warning("%s: %s", number.name, message)
        signal.raise_signal(number)
