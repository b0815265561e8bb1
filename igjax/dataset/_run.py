"""A process's part of a run: from examples to a store, whatever happens on the way."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _progress, _unchanged
from igjax.dataset._batches import Batch, ReadAhead, batches
from igjax.dataset._blocks import Blocks
from igjax.dataset._check import Check, Examples
from igjax.dataset._format import Field
from igjax.dataset._interrupts import Interrupted, Signals
from igjax.dataset._layout import flaws, rows
from igjax.dataset._method import Method
from igjax.dataset._opening import note_what_it_is_made_with
from igjax.dataset._programs import Programs
from igjax.dataset._scheduler import Results, Tally, attributed
from igjax.dataset._share import share_of
from igjax.dataset._source import Refused, Rows, Source
from igjax.dataset._store import PENDING, Store

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
      num_evals: gradients that the attributions of this run needed; None where they come without
        a ``Report``.
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
    num_evals: int | None
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
      flush_every: seconds, until what is done is written.
    """

    def __init__(
        self,
        store: Store,
        method: Method,
        check: Check,
        source: Source,
        arrays: Mapping[str, Field],
        flush_every: float,
    ):
        self._store, self._method, self._check = store, method, check
        self._source, self._arrays = source, arrays
        self._share = share_of(store)
        self._blocks = Blocks(store, self._share.begun, flush_every)
        total = None if store.attributes["length"] is None else self._share.examples
        self._meter = _progress.Meter(total, self._share.done, self._share.failed)
        self._tally = Tally()
        self._reported = method.returned(check.like).report is not None
        # Of examples on their way: lengths of what is padded, hashes, and what is not finite.
        self._lengths: dict[int, dict[str, int]] = {}
        self._fingerprints: dict[int, int] = {}
        self._flaws: dict[int, str] = {}
        self._seen = 0  # examples that the source has given

    def work(self, signals: Signals, *, progress: bool, stop_at_errors: bool) -> None:
        """Does what is left to do.

        Raises:
          Interrupted: if a signal has come, when what is done has been written.
          ValueError: if examples are not those that results are of; and see above.
        """
        if self._source.length is not None:  # a stream is looked at as it comes
            _unchanged.check_source(self._store.out, self._source, self._check, self._share)
        if self._store.attributes["length"] is None or np.any(self._share.status == PENDING):
            note_what_it_is_made_with(self._store)
        attributes = self._store.attributes
        batch_size, chunks = attributes["batch_size"], attributes["chunks_per_program"]
        tile, sharding = self._method.tile(batch_size, chunks), self._method.compiler.examples

        def reading(reader: ReadAhead) -> Iterator[Batch | Refused]:
            items = reader.wanted(self._examples(tile.size))
            return batches(items, tile, sharding, reader.awaited)

        def programs_of(batch: Batch) -> Programs:
            return self._method.programs(batch.like, tile)

        reader = ReadAhead(reading, signals.check)
        items = attributed(reader, programs_of, self._tally)
        refused: Refused | None = None
        with (
            contextlib.closing(reader),
            _progress.shown(self._meter, show=progress) as show,
            signals.held(),
        ):
            try:
                for item in items:
                    refused = self._take(item) or refused
                    show()
                    signals.check()
                    if refused and stop_at_errors:
                        break
                else:
                    self._blocks.close()  # what is still being written needs the room that there is
                    self._measure_stream()
            except Interrupted:
                _logger.warning("A signal has come: what is done is written, and then all ends.")
                self._blocks.close()
                raise Interrupted(self._left()) from None
            except OSError:  # from writing: there is no use in trying again
                self._blocks.abandon()
                raise
            except BaseException:
                self._blocks.close()
                raise
            self._blocks.close()
        if signals.came is not None:
            raise Interrupted(self._left())
        if refused and stop_at_errors:
            raise ValueError(f"example {refused.number}: {refused.reason}") from refused.error

    def summary(self, seconds: float, setup_seconds: float) -> Summary:
        """Returns what has become of it."""
        meter = self._meter
        return Summary(
            out=self._store.out,
            examples=meter.seen if meter.total is None else meter.total,
            done=meter.done,
            failed=meter.failed,
            new=meter.new,
            num_evals=meter.num_evals if self._reported else None,
            utilization=self._tally.utilization,
            seconds=seconds,
            setup_seconds=setup_seconds,
        )

    def _examples(self, at_once: int) -> Iterator[Examples | Refused]:
        """Yields those to be done, read and checked. In the reader's thread."""
        for given in self._source.read(self._reads, at_once):
            self._check_seen(at_end=False)
            _unchanged.check_rows(self._store.out, given, self._check, self._share)
            numbers = given.numbers if isinstance(given, Rows) else np.array([given.number])
            if not self._share.wants(numbers).all():
                continue
            for item in self._check(given) if isinstance(given, Rows) else [given]:
                if isinstance(item, Examples):
                    own = item.numbers.tolist()
                    if item.lengths:
                        self._lengths.update(dict.fromkeys(own, item.lengths))
                    self._fingerprints.update(zip(own, item.fingerprints.tolist(), strict=True))
                    self._flaws.update(item.flaws)
                yield item

    def _reads(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tells which examples are to be read: of a stream all, which come anyway."""
        self._seen = max(self._seen, int(numbers[-1]) + 1)
        return self._share.wants(numbers) | (self._source.length is None)

    def _take(self, item: Results | Refused) -> Refused | None:
        """Puts what has come where it belongs; gives back the last that was refused."""
        if isinstance(item, Refused):
            self._meter.add_failed()
            self._blocks.failed(item.number, item.reason, {})
            return item
        values, reasons = rows(item, self._arrays), flaws(item)
        for name, field in self._check.ragged.fields.items():
            lengths = [self._lengths[int(index)][name] for index in item.indices]
            values[field] = np.array(lengths, np.int32)
        fingerprints = [self._fingerprints.pop(index) for index in item.indices.tolist()]
        values["fingerprint"] = np.array(fingerprints, np.uint64)
        good = np.array([reason is None for reason in reasons], bool)
        self._meter.add(item.returned.report, good)
        self._blocks.done(item.indices[good], {n: value[good] for n, value in values.items()})
        refused = None
        for row, number, reason in zip(
            range(len(good)), item.indices.tolist(), reasons, strict=True
        ):
            self._lengths.pop(number, None)
            flaw = self._flaws.pop(number, None)  # which is the reason, if there is one
            if reason is not None:
                refused = Refused(number, flaw or reason)
                own = {name: value[row : row + 1] for name, value in values.items()}
                self._blocks.failed(number, refused.reason, own)
        return refused

    def _measure_stream(self) -> None:
        """Writes down the length of a source that has ended.

        Raises:
          ValueError: if it is not the one that has been written down.
        """
        if self._store.attributes["length"] is None:
            self._store.resize(self._seen)
            self._store.note(length=self._seen)
        elif self._source.length is None:
            self._check_seen(at_end=True)

    def _check_seen(self, *, at_end: bool) -> None:
        """Raises ValueError if a stream is not as long as it was."""
        length = self._store.attributes["length"]
        if length is not None and (self._seen > length or (at_end and self._seen < length)):
            found = self._seen if at_end else f"more than {length}"
            raise ValueError(
                f"{self._store.out} was made with other data: the source gives {found} examples, "
                f"and gave {length}. Call with what it was made with, or give another out."
            )

    def _left(self) -> str:
        """Says what somebody has who ends it now."""
        return f"{self._meter}. They are in {self._store.out}: the same call goes on from there."
