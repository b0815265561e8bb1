"""Results on their way to the store: gathered block by block, and written in a thread."""

import collections
import concurrent.futures
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igjax.dataset._format import FAILURE_BYTES
from igjax.dataset._store import DONE, FAILED, PENDING, Store

_WRITES = 4  # blocks that wait to be written, until more results have to wait


class Blocks:
    """What is not in the store yet.

    Args:
      store: where it is to go.
      begun: blocks that are in the store in part, by number.
      flush_every: seconds, until blocks that are not full yet are written as they are.
    """

    def __init__(
        self, store: Store, begun: Mapping[int, dict[str, NDArray[Any]]], flush_every: float
    ):
        self._store, self._flush_every = store, flush_every
        self._open = dict(begun)
        self._changed: set[int] = set()
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "igjax-write")  # one: in order
        self._writes: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._flushed = time.monotonic()

    def put(self, indices: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Takes results of some examples: of each field that there is something for.

        Raises:
          OSError: if what came before could not be written.
        """
        for number in np.unique(indices // self._store.block):
            of_block = indices // self._store.block == number
            rows = indices[of_block] % self._store.block
            block = self._block(int(number))
            block["made_with"][rows] = self._store.making
            for name, value in values.items():
                block[name][rows] = value[of_block]
            self._changed.add(int(number))
            if np.all(block["status"] != PENDING):
                self._write(int(number), self._open.pop(int(number)))
        if time.monotonic() - self._flushed > self._flush_every:
            self.flush()

    def done(self, indices: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> None:
        """Takes results of examples that have been attributed."""
        self.put(indices, {**values, "status": np.full(len(indices), DONE, np.uint8)})

    def failed(self, index: int, reason: str, values: Mapping[str, NDArray[Any]]) -> None:
        """Takes what is known of an example that could not be attributed, and why it could not."""
        text = np.zeros((1, FAILURE_BYTES), np.uint8)
        cut = reason.encode(errors="backslashreplace")[:FAILURE_BYTES]
        whole = cut.decode(errors="ignore").encode()  # no half letter
        encoded = np.frombuffer(whole, np.uint8)
        text[0, : len(encoded)] = encoded
        status = np.full(1, FAILED, np.uint8)
        self.put(np.array([index]), {**values, "status": status, "failure": text})

    def flush(self) -> None:
        """Writes what there is, of blocks that are not full too."""
        for number in sorted(self._changed):
            block = self._open[number]
            self._write(number, {name: value.copy() for name, value in block.items()})
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what there is, and waits until it is written. Once more does no harm.

        Raises:
          OSError: if something could not be.
        """
        self.flush()
        while self._writes:
            self._writes.popleft().result()
        self._writer.shutdown()

    def abandon(self) -> None:
        """Writes no more."""
        self._writer.shutdown(cancel_futures=True)

    def _block(self, number: int) -> dict[str, NDArray[Any]]:
        if number not in self._open:
            self._open[number] = self._store.empty_block(number)
        return self._open[number]

    def _write(self, number: int, block: dict[str, NDArray[Any]]) -> None:
        self._changed.discard(number)
        self._writes.append(self._writer.submit(self._store.write, number, block))
        while self._writes and (len(self._writes) > _WRITES or self._writes[0].done()):
            self._writes.popleft().result()
