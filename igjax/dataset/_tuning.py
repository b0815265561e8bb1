"""How many examples at once, and in how many chunks a program: what is the fastest, by trying."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from igjax._trees import Tree
from igjax.dataset._batches import AHEAD
from igjax.dataset._compiler import Compiler, Tile
from igjax.dataset._programs import Programs
from igjax.dataset._scheduler import HELD, PROMISED

_MOST = 2**10  # examples at once, to try
_LONGEST = 2**8  # examples of a tile on a device, if a chunk has no more
_TIMES = 4  # as many are tried next
_BETTER = 0.97  # of the time per example, for more to be better
_ROUNDS = 16  # of programs that the examples should make, at least: the last ones are not full
_TRYING = 0.3  # seconds, to time a program
_SHARE = 0.5  # of a device's memory, that all may take
_IN_ALL = 4  # times the first program, that an example takes: 64 gradients, of which 16 come first


class Tuning(NamedTuple):
    """What a run decides by.

    Attributes:
      long: seconds, for a program: beside it, what the host does is nothing.
      few: programs, of which so few are as long as they are: another compilation does not pay.
      blocks: of the store, at least so many for each process, if there are as many examples.
      flush_every: seconds, until blocks that are not full yet are written as they are.
    """

    long: float = 0.1
    few: int = 128
    blocks: int = 16
    flush_every: float = 60.0


class Trial:
    """Examples of which a few are tried, to choose how to do them all.

    Args:
      programs: from a tile to the programs for it.
      given: what one example, the largest, is given; NumPy arrays.
      compiler: for the devices.
      shapes: how many shapes of examples there are, each with programs of its own.
      length: the number of examples; None if nobody knows.
      tuning: what to decide by.
    """

    def __init__(
        self,
        programs: Callable[[Tile], Programs],
        given: Tree,
        compiler: Compiler,
        shapes: int,
        length: int | None,
        tuning: Tuning,
    ):
        self._programs, self._given, self._compiler = programs, given, compiler
        self._shapes, self._tuning = shapes, tuning
        # Examples for a device.
        share = None if length is None else length / (compiler.devices * jax.process_count())
        self._share = float("inf") if share is None else share

    def fastest(self) -> int:
        """Returns the number of examples at once that takes the least time for each.

        More are tried only where what that may gain, of the examples that there are, is more than
        what it costs to compile the next program.
        """
        most = min(_MOST, self._in_a_round)
        best, least, size = 1, float("inf"), 1
        while size == 1 or (size <= most and self._room(size)):
            if size == 1 and most < _TIMES:
                break  # there is nothing to choose
            seconds = _seconds(self._of(size), self._given)
            each = seconds / size
            if each > _BETTER * least:
                break
            best, least = size, each
            gain = (1 - 1 / _TIMES) * _IN_ALL * each * self._share
            if seconds > self._tuning.long or gain < self._of(size).compiling:
                break
            size *= _TIMES
        return best

    def chunks(self, batch_size: int) -> int:
        """Returns how many chunks of ``batch_size`` examples make a program that is long enough."""
        most = int(min(_LONGEST, self._in_a_round)) // batch_size
        if most <= 1 or self._share <= self._tuning.few * batch_size:
            return 1
        long = int(self._tuning.long / _seconds(self._of(batch_size), self._given))
        return max(1, min(most, long, self._room(batch_size)))

    def _of(self, size: int) -> Programs:
        return self._programs(Tile(1, size * self._compiler.devices))

    def _room(self, size: int) -> int:
        """Returns how many chunks of so many examples a device has the memory for."""
        needed = self._of(size).memory
        tile = HELD * needed.work + (AHEAD + 2 + PROMISED) * needed.args
        free = _SHARE * self._compiler.free_memory() - needed.step
        return max(0, int(free // (tile * self._shapes)))

    @property
    def _in_a_round(self) -> float:
        """Returns how many examples of a shape a device may have, so that there are rounds."""
        return self._share // (_ROUNDS * self._shapes)


def _seconds(programs: Programs, given: Tree) -> float:
    """Measures how long the first program takes for a chunk, at least."""
    tile = programs.tile
    placed = programs.put(jax.tree.map(lambda a: np.broadcast_to(a, (*tile, *a.shape)), given))
    jax.block_until_ready(programs.begin(tile.chunks, placed))
    times: list[float] = []
    while sum(times) < _TRYING:
        start = time.perf_counter()
        jax.block_until_ready(programs.begin(tile.chunks, placed))
        times.append(time.perf_counter() - start)
    return min(times) / tile.chunks
