"""Continuous batching: examples come in as others are done, and every program runs full.

Examples need different numbers of steps. Each is begun together with those that came with it; if
it has no steps, that is all. What is not done then waits for a place in a group of examples that go
on together; when one is done, another takes its place. There are two groups. While one is looked
at, and results and new examples pass between host and device, the other one runs. The last chunks
of a group are left out if they have no example; when no more come, those that are left move to the
first ones.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from igjax.dataset._batches import Batch, ReadAhead
from igjax.dataset._check import Shape
from igjax.dataset._compiler import Tile
from igjax.dataset._programs import Programs
from igjax.dataset._source import Refused
from igjax.dataset._stages import Returned, as_returned

GROUPS = 2
# Tiles that there are at a time. Of work: each group's before and after a step, and as many that
# wait. Of results: of each group, and of what it was filled from.
HELD = 3 * GROUPS
PROMISED = 2 * GROUPS
_NOBODY = -1  # the index of an example in a place that has none


class Results(NamedTuple):
    """Attributions of some examples. All arrays are NumPy's, and have these along the first axis.

    Attributes:
      indices: which examples they are.
      returned: what the attribution returned for them.
    """

    indices: NDArray[np.int64]
    returned: Returned


class Tally:
    """How full the programs ran: places in them, and those whose example needed the step."""

    def __init__(self) -> None:
        self.places = 0
        self.used = 0

    def add(self, busy: NDArray[np.bool_], tile: Tile) -> int:
        """Counts a step of the examples in these places. Returns how many chunks it takes."""
        chunks = tile.chunks_of(busy)
        self.places += chunks * tile.examples
        self.used += int(np.count_nonzero(busy))
        return chunks

    @property
    def utilization(self) -> float:
        """Returns the share of the places that had one."""
        return self.used / self.places if self.places else 1.0


class _Group:
    """Examples that go on together.

    Attributes:
      indices: which example is in which place.
      work: on them; of no use while there are none.
      flags: on the device: what is done.
    """

    def __init__(self, indices: NDArray[np.int64], work: Any, flags: Any):
        self.indices, self.work, self.flags = indices, work, flags

    def retire(self, programs: Programs) -> Iterator["_Promised"]:
        """Gives up the places of what is done, for a promise of its results."""
        done = np.asarray(self.flags).ravel() & self.busy
        self.flags = np.zeros_like(done)  # what comes to these places is not done
        if done.any():
            yield _Promised(self.indices[done], np.flatnonzero(done), programs.result(self.work))
            self.indices = np.where(done, _NOBODY, self.indices)

    @property
    def busy(self) -> NDArray[np.bool_]:
        """Tells which places have an example."""
        return self.indices != _NOBODY


class _Promised:
    """Results that the device is about to have."""

    def __init__(self, indices: NDArray[np.int64], rows: NDArray[np.intp], results: Any):
        self._indices, self._rows, self._results = indices, rows, results
        for leaf in jax.tree.leaves(results):
            leaf.copy_to_host_async()

    def results(self) -> Results:
        """Waits for them."""
        host = jax.tree.map(self._own, self._results)
        return Results(self._indices, as_returned(host))

    def _own(self, leaf: jax.Array) -> NDArray[Any]:
        return np.asarray(leaf).reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])[self._rows]


class _Lane:
    """What goes on with the examples of one shape."""

    def __init__(self, programs: Programs, tally: Tally):
        self.begun: collections.deque[_Group] = collections.deque()
        self._programs, self._tile, self._tally = programs, programs.tile, tally
        self._groups = [self._empty() for _ in range(GROUPS)]

    def _empty(self) -> _Group:
        size = self._tile.size
        return _Group(np.full(size, _NOBODY), None, np.zeros(size, bool))

    def begin(self, batch: Batch) -> None:
        """Begins new examples."""
        chunks = self._tally.add(batch.indices != _NOBODY, self._tile)
        self.begun.append(_Group(batch.indices, *self._programs.begin(chunks, batch.given)))

    @property
    def idle(self) -> bool:
        """Tells whether there is nothing to do."""
        return not self.begun and not any(group.busy.any() for group in self._groups)

    @property
    def supplied(self) -> bool:
        """Tells whether there are examples for all places that get free soon."""
        return len(self.begun) >= GROUPS

    def turn(self, *, ended: bool) -> Iterator[_Promised]:
        """Takes one step of each group, and yields what is done.

        A group that is not full waits for more examples, unless there are none: the last ones have
        come, or those that have are on other devices.
        """
        for group in self._groups:
            yield from group.retire(self._programs)
            yield from self._fill(group)
            if ended and not self.begun and self._scattered(group):
                self._gather(group)
            if group.busy.all() or (group.busy.any() and (ended or self.supplied)):
                chunks = self._tally.add(group.busy, self._tile)
                group.work, group.flags = self._programs.step(chunks, group.work)

    def _scattered(self, group: _Group) -> bool:
        """Tells whether the examples of ``group`` are in more chunks than they need."""
        devices = range(self._programs.devices)
        most = max(np.count_nonzero(group.busy[self._own(device)]) for device in devices)
        per_chunk = self._tile.examples // len(devices)
        return self._tile.chunks_of(group.busy) > -(-int(most) // per_chunk)

    def _gather(self, group: _Group) -> None:
        """Moves the examples of ``group`` to its first chunks."""
        gathered = self._empty()
        gathered.work = self._programs.nothing()
        self._move(group, gathered)
        group.indices, group.work = gathered.indices, gathered.work

    def _fill(self, group: _Group) -> Iterator[_Promised]:
        """Gives the free places of ``group`` to what waits for one."""
        while self.begun and not group.busy.all():
            begun = self.begun[0]
            yield from begun.retire(self._programs)
            if not begun.busy.any():
                self.begun.popleft()
            elif not group.busy.any():
                group.indices, group.work = begun.indices, begun.work
                self.begun.popleft()
            elif not self._move(begun, group):
                return  # what is left is on other devices

    def _move(self, begun: _Group, group: _Group) -> bool:
        """Moves examples to free places on the same device. Returns whether there were any.

        Places that stay free get a copy of some example: steps of all zeros, which nobody has
        given, might never end.
        """
        rows, taken = np.zeros(self._tile.size, np.int32), ~group.busy
        moved = 0
        for device in range(self._programs.devices):
            own = self._own(device)
            free, there = np.flatnonzero(~group.busy[own]), np.flatnonzero(begun.busy[own])
            count = min(free.size, there.size)
            places, from_rows = own[free[:count]], there[:count]
            group.indices[places] = begun.indices[own[from_rows]]
            begun.indices[own[from_rows]] = _NOBODY
            rows[places] = from_rows
            moved += count
        if moved:
            group.work = self._programs.admit(group.work, begun.work, rows, taken)
        return moved > 0

    def _own(self, device: int) -> NDArray[np.intp]:
        return self._tile.of_device(device, self._programs.devices)


def attributed(
    reader: ReadAhead,
    programs_of: Callable[[Batch], Programs],
    tally: Tally,
) -> Iterator[Results | Refused]:
    """Yields the results of all examples, as they come, and the examples that are refused.

    Args:
      reader: of batches and of what is refused.
      programs_of: from a batch to the programs for it.
      tally: where to count how full the programs run.
    """
    lanes: dict[Shape, _Lane] = {}
    ended = waiting = False
    broken: Exception | None = None
    while not (ended and all(lane.idle for lane in lanes.values())):
        while not ended and not any(lane.supplied for lane in lanes.values()):
            if not (reader.ready() or waiting or all(lane.idle for lane in lanes.values())):
                break
            try:
                item = next(reader, None)
            except Exception as error:  # what has come before is finished first
                item, broken = None, error
            if isinstance(item, Batch):
                if item.shape not in lanes:
                    lanes[item.shape] = _Lane(programs_of(item), tally)
                lanes[item.shape].begin(item)
                waiting = False
            elif isinstance(item, Refused):
                yield item
            else:
                ended = True
        before = tally.places
        promised = [p for lane in lanes.values() for p in lane.turn(ended=ended)]
        waiting = tally.places == before and not promised  # until there is more to do
        for promise in promised:
            yield promise.results()
    if broken:
        raise broken
