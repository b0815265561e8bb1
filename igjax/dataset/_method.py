"""What is done with each example: the attribution, its programs, and its fingerprints."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from igjax import _tolerance, quadrature
from igjax._inputs import resolve_baseline
from igjax._report import Report
from igjax._stepwise import Stepwise, stepwise
from igjax._transform import Settings
from igjax.dataset import _fingerprint
from igjax.dataset._batches import AHEAD
from igjax.dataset._engine import HELD, PROMISED
from igjax.dataset._programs import Compiler, Programs, Tile

Tree = Any

_MOST = 2**14  # gradients at once, to try
_LONGEST = 2**8  # examples of a tile on a device, if a chunk has no more
_TIMES = 4  # as many are tried next
_BETTER = 0.97  # of the time per gradient, for more to be better
_LONG = 0.1  # seconds, for a program: beside it, what the host does is nothing
_ROUNDS = 16  # of programs that the examples should make, at least: the last ones are not full
_TRYING = 0.3  # seconds, to time a program
_SHARE = 0.5  # of a device's memory, that all may take


class Method:
    """An attribution of examples.

    Args:
      fun: a function of one example to a scalar.
      settings: of ``integrated_grad``.
      compiler: for the devices.
      lanes: how many shapes of examples there are, each with programs of its own.
    """

    def __init__(
        self, fun: Callable[..., Any], settings: Settings, compiler: Compiler, lanes: int = 1
    ):
        self.compiler, self._lanes = compiler, lanes
        self._fun, self._settings = fun, settings
        self._programs: dict[Any, Programs] = {}

    @property
    def _nodes(self) -> int:
        """How many gradients of an example there are to evaluate at once."""
        rule = self._settings.rule
        if isinstance(rule, quadrature.Tolerance):
            return min(_tolerance.DEFAULT_BATCH, rule.max_evals)
        return int(rule.nodes.size)

    def tile(self, batch_size: int, chunks: int) -> Tile:
        """The examples of a program: chunks of ``batch_size`` gradients at once on each device."""
        return Tile(chunks, max(1, batch_size // self._nodes) * self.compiler.devices)

    def programs(self, args: tuple[Tree, ...], batch_size: int, chunks: int = 1) -> Programs:
        """For examples like ``args``, in such tiles."""
        tile, at_once = self.tile(batch_size, chunks), min(batch_size, self._nodes)
        key = tile, at_once, str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), args))
        if key not in self._programs:
            self._programs[key] = Programs(self._parts(at_once), args, tile, self.compiler)
        return self._programs[key]

    def _parts(self, batch_size: int) -> Stepwise:
        return stepwise(self._fun, self._settings._replace(batch_size=batch_size))

    def results(self, args: tuple[Tree, ...]) -> tuple[Tree, Report]:
        """Shapes and dtypes of attributions and report."""
        parts = self._parts(self._nodes)
        return jax.eval_shape(lambda *args: parts.finish(parts.begin(*args)[0]), *args)

    def fingerprints(self, args: tuple[Tree, ...]) -> dict[str, Any]:
        """What of it has to be the same for a run to go on with what another began."""
        settings, rule = self._settings, self._settings.rule

        def along(x: Tree, alpha: jax.Array) -> Tree:
            return settings.path(resolve_baseline(settings.baseline, x), x, alpha)

        if isinstance(rule, quadrature.Tolerance):
            asked: dict[str, Any] = {
                "rtol": float(rule.rtol),
                "atol": float(rule.atol),
                "max_evals": int(rule.max_evals),
            }
        else:
            digest = hashlib.blake2b(rule.nodes.tobytes() + rule.weights.tobytes(), digest_size=8)
            asked = {"nodes": int(rule.nodes.size), "digest": digest.hexdigest()}
        dtype = jax.tree.leaves(args[0])[0].dtype
        return {
            "function": _fingerprint.of_function(self._fun, *args),
            "path_and_baseline": _fingerprint.of_function(
                along, args[0], jax.ShapeDtypeStruct((), dtype)
            ),
            "rule": asked,
            "multiply_by_inputs": settings.multiply_by_inputs,
        }

    def fastest(self, args: tuple[Tree, ...], length: int | None) -> int:
        """The number of gradients at once that takes the least time for each, by trying.

        Args:
          args: of an example, NumPy arrays.
          length: the number of examples, if it is known.
        """
        most = min(_MOST, self._nodes * self._in_a_round(length))
        best, least = self._nodes, float("inf")
        while best > 1 and not self._room(args, best):
            best //= 2
        batch_size = best
        while batch_size <= most and self._room(args, batch_size):
            seconds = _seconds(self.programs(args, batch_size), args)
            if seconds / batch_size > _BETTER * least:
                break
            best, least, batch_size = batch_size, seconds / batch_size, _TIMES * batch_size
            if seconds > _LONG:
                break
        return best

    def chunks(self, args: tuple[Tree, ...], batch_size: int, length: int | None) -> int:
        """How many chunks of ``batch_size`` gradients make a program that is long enough.

        Args:
          args: of an example, NumPy arrays.
          batch_size: the number of gradients at once.
          length: the number of examples, if it is known.
        """
        chunk = self.tile(batch_size, 1).size // self.compiler.devices
        most = min(_LONGEST, self._in_a_round(length)) // chunk
        if most <= 1:
            return 1
        room = self._room(args, batch_size)
        long = int(_LONG / _seconds(self.programs(args, batch_size), args))
        return max(1, min(most, long, room))

    def _room(self, args: tuple[Tree, ...], batch_size: int) -> int:
        """For how many chunks of so many gradients at once a device has the memory."""
        needed = self.programs(args, batch_size).memory
        tile = HELD * needed.work + (AHEAD + 2 + PROMISED) * needed.args
        free = _SHARE * self.compiler.free_memory() - needed.step
        return max(0, int(free // (tile * self._lanes)))

    def _in_a_round(self, length: int | None) -> int:
        """How many examples of one shape a device may have at a time, so that there are rounds."""
        if length is None:
            return _MOST
        devices = self.compiler.devices * jax.process_count()
        return length // (_ROUNDS * devices * self._lanes)


def _seconds(programs: Programs, args: tuple[Tree, ...]) -> float:
    """How long the first step of a chunk takes, at least."""
    tile = programs.tile
    placed = programs.put(jax.tree.map(lambda a: np.broadcast_to(a, (*tile, *a.shape)), args))
    jax.block_until_ready(programs.begin(tile.chunks, placed))
    times: list[float] = []
    while sum(times) < _TRYING:
        start = time.perf_counter()
        jax.block_until_ready(programs.begin(tile.chunks, placed))
        times.append(time.perf_counter() - start)
    return min(times) / tile.chunks
