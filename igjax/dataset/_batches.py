"""Examples in batches: read ahead in a thread, stacked and put on the devices."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from igjax.dataset._examples import Examples, Refused, Shape

Tree = Any

AHEAD = 4  # batches read before they are asked for
_LEAVE = 1.0  # seconds, for an item that is being read when the others are no longer wanted


class Batch(NamedTuple):
    """Examples of one shape, as many as a program takes.

    Attributes:
      shape: of each of them.
      indices: shape ``(width,)``: which examples they are; -1 where a row stands for none.
      args: the arguments of the function, each leaf of shape ``(width, ...)``.
    """

    shape: Shape
    indices: NDArray[np.int64]
    args: tuple[Tree, ...]

    @property
    def like(self) -> tuple[Tree, ...]:
        """The arguments of one of them, as shapes."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.args)


class _Filling:
    """A batch that is being filled.

    Args:
      like: examples of its shape.
      width: how many it takes.
    """

    def __init__(self, like: Examples, width: int):
        self._shape, self._indices = like.shape, np.full(width, -1, np.int64)
        self._args = jax.tree.map(lambda a: np.empty((width, *a.shape[1:]), a.dtype), like.args)
        self._filled = 0

    @property
    def room(self) -> int:
        """For how many more."""
        return len(self._indices) - self._filled

    def add(self, some: Examples, own: slice) -> None:
        """Takes those of ``some``, which there is room for."""
        rows = slice(self._filled, self._filled + own.stop - own.start)
        self._indices[rows] = some.numbers[own]
        for here, there in zip(
            jax.tree.leaves(self._args), jax.tree.leaves(some.args), strict=True
        ):
            here[rows] = there[own]
        self._filled = rows.stop

    def batch(self, sharding: jax.sharding.Sharding) -> Batch:
        """What has come; the first again where nothing has."""
        for leaf in jax.tree.leaves(self._args):
            leaf[self._filled :] = leaf[0]
        return Batch(self._shape, self._indices, jax.device_put(self._args, sharding))


def batches(
    items: Iterator[Examples | Refused], width: int, sharding: jax.sharding.Sharding
) -> Iterator[Batch | Refused]:
    """Batches of ``width`` examples in the order that they come, what is refused in between.

    A batch that the last examples do not fill is filled up by repeating one.
    """
    filling: dict[Shape, _Filling] = {}
    for item in items:
        if isinstance(item, Refused):
            yield item
            continue
        first, count = 0, len(item.numbers)
        while first < count:
            if item.shape not in filling:
                filling[item.shape] = _Filling(item, width)
            last = min(count, first + filling[item.shape].room)
            filling[item.shape].add(item, slice(first, last))
            first = last
            if not filling[item.shape].room:
                yield filling.pop(item.shape).batch(sharding)
    for rest in filling.values():
        yield rest.batch(sharding)


class ReadAhead(Iterator[Any]):
    """What an iterator gives, read in a thread before it is asked for.

    What the iterator raises is raised where its next item would have been.
    """

    def __init__(self, items: Iterator[Any], ahead: int = AHEAD):
        self._items = items
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._closed = threading.Event()
        config: Any = jax.config
        self._x64 = bool(config.jax_enable_x64)  # of this thread: another has its own
        self._thread = threading.Thread(target=self._read, name="igjax-read", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        """The next item, when it is there."""
        item, error = self._queue.get()
        return self._given(item, error)

    def ready(self) -> bool:
        """Whether the next item can be had without waiting."""
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
