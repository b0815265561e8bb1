"""Examples in batches: read ahead in a thread, stacked and put on the devices."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from igjax.dataset._check import Examples, Given, Shape
from igjax.dataset._compiler import Tile
from igjax.dataset._interrupts import Interrupted
from igjax.dataset._source import Refused

AHEAD = 2  # batches read before they are asked for
_PATIENCE = 0.1  # seconds, that a device waits for examples to fill a batch
_LEAVE = 1.0  # seconds, for an item that is being read when the others are no longer wanted
_LOOK = 0.1  # seconds, until one who waits for an item looks whether there is something else


class Batch(NamedTuple):
    """Examples of one shape, as many as a program takes.

    Attributes:
      shape: of each of them.
      indices: shape ``(tile.size,)``: which examples they are; -1 where a row stands for none.
      given: what the attribution is called with, each leaf of shape ``(*tile, ...)``.
    """

    shape: Shape
    indices: NDArray[np.int64]
    given: Given

    @property
    def like(self) -> Given:
        """Returns the shapes of what one of them is given."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), self.given)


class _Filling:
    """A batch that is being filled.

    Args:
      like: examples of its shape.
      tile: what it is to fill.
    """

    def __init__(self, like: Examples, tile: Tile):
        self._shape, self._tile = like.shape, tile
        self._indices = np.full(tile.size, -1, np.int64)
        self._given = jax.tree.map(
            lambda a: np.empty((tile.size, *a.shape[1:]), a.dtype), like.given
        )
        self._filled = 0
        self._since = time.monotonic()

    @property
    def room(self) -> int:
        """Returns how many more examples fit."""
        return len(self._indices) - self._filled

    @property
    def late(self) -> bool:
        """Tells whether those who wait for it have waited long enough."""
        return time.monotonic() - self._since > _PATIENCE

    def add(self, some: Examples, own: slice) -> None:
        """Takes those of ``some``, which there is room for."""
        rows = slice(self._filled, self._filled + own.stop - own.start)
        self._indices[rows] = some.numbers[own]
        for here, there in zip(
            jax.tree.leaves(self._given), jax.tree.leaves(some.given), strict=True
        ):
            here[rows] = there[own]
        self._filled = rows.stop

    def batch(self, sharding: jax.sharding.Sharding) -> Batch:
        """Returns what has come; the first again where nothing has."""
        for leaf in jax.tree.leaves(self._given):
            leaf[self._filled :] = leaf[0]
        given = jax.tree.map(lambda a: a.reshape(*self._tile, *a.shape[1:]), self._given)
        return Batch(self._shape, self._indices, jax.device_put(given, sharding))


def batches(
    items: Iterator[Examples | Refused],
    tile: Tile,
    sharding: jax.sharding.Sharding,
    awaited: Callable[[], bool],
) -> Iterator[Batch | Refused]:
    """Yields batches that fill a tile, in the order of the examples; what is refused between them.

    A batch that does not fill, since its examples are the last ones or come slowly, is filled up by
    repeating one.

    Args:
      items: the examples.
      tile: of a batch.
      sharding: where it is to go.
      awaited: whether there is nothing else to do than to wait for it.
    """
    filling: dict[Shape, _Filling] = {}
    broken: Exception | None = None
    try:
        for item in items:
            if isinstance(item, Refused):
                yield item
            else:
                yield from _filled(filling, item, tile, sharding)
            late = [shape for shape, batch in filling.items() if batch.late] if awaited() else []
            for shape in late:
                yield filling.pop(shape).batch(sharding)
    except Exception as error:  # what has come before is not lost
        broken = error
    for rest in filling.values():
        yield rest.batch(sharding)
    if broken:
        raise broken


def _filled(
    filling: dict[Shape, _Filling], some: Examples, tile: Tile, sharding: jax.sharding.Sharding
) -> Iterator[Batch]:
    """Puts ``some`` into the batch of their shape, and gives those that this fills."""
    first, count = 0, len(some.numbers)
    while first < count:
        if some.shape not in filling:
            filling[some.shape] = _Filling(some, tile)
        last = min(count, first + filling[some.shape].room)
        filling[some.shape].add(some, slice(first, last))
        first = last
        if not filling[some.shape].room:
            yield filling.pop(some.shape).batch(sharding)


class ReadAhead(Iterator[Any]):
    """What an iterator gives, read in a thread before it is asked for.

    What the iterator raises is raised where its next item would have been.

    Args:
      reading: makes the iterator, from this.
      check: called now and then by those who wait; they wait until it raises something.
    """

    def __init__(
        self,
        reading: Callable[["ReadAhead"], Iterator[Any]],
        check: Callable[[], None],
        ahead: int = AHEAD,
    ):
        self._awaited, self._check = False, check
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._items = reading(self)
        config: Any = jax.config
        self._x64 = bool(config.jax_enable_x64)  # of this thread: another has its own
        self._thread = threading.Thread(target=self._read, name="igjax-read", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        """Returns the next item, when it is there."""
        self._awaited = True
        while True:
            with contextlib.suppress(queue.Empty):
                item, error = self._queue.get(timeout=_LOOK)
                break
            self._check()
        self._awaited = False
        return self._given(item, error)

    def awaited(self) -> bool:
        """Tells whether the next item is awaited already."""
        return self._awaited

    def wanted(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yields what the iterator is made from, as long as it is wanted.

        Raises:
          Interrupted: when that is no longer so. A thread that goes on while the process ends may
            take it down.
        """
        for item in items:
            if self._closed.is_set():
                raise Interrupted
            yield item

    def ready(self) -> bool:
        """Tells whether the next item can be had without waiting."""
        return not self._queue.empty()

    def close(self) -> None:
        """Stops reading. An item that is being read is not waited for, or not for long."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):  # so that the thread, which then ends, has room
            while True:
                self._queue.get_nowait()
        self._thread.join(_LEAVE)

    def _given(self, item: Any, error: BaseException | None) -> Any:
        if error is None:
            return item
        self._queue.put((None, error))  # for those who ask again
        raise error

    def _read(self) -> None:
        error: BaseException = StopIteration()
        try:
            with jax.enable_x64(self._x64):
                for item in self._items:
                    self._queue.put((item, None))
                    if self._closed.is_set():
                        return
        except BaseException as raised:  # to be raised in the thread that asks
            error = raised
        self._queue.put((None, error))
