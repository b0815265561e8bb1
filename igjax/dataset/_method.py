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
from igjax.dataset._programs import Compiler, Programs

Tree = Any

_MOST = 2**14  # gradients at once, to try
_TIMES = 8  # as many are tried next
_BETTER = 0.95  # of the time per gradient, to go on with more
_OVERHEAD = 1e-3  # seconds, that the host takes to run a program and to look at its results
_LONG = 0.5  # seconds, for a program: more at once would gain nothing
_ROUNDS = 128  # of programs that the examples should make, at least: the last ones are not full
_TRYING = 0.2  # seconds, to time a program
_SHARE = 0.5  # of a device's memory, that a program may take


class Method:
    """An attribution of examples.

    Args:
      fun: a function of one example to a scalar.
      settings: of ``integrated_grad``.
      compiler: for the devices.
    """

    def __init__(self, fun: Callable[..., Any], settings: Settings, compiler: Compiler):
        self.compiler = compiler
        self._fun, self._settings = fun, settings
        self._programs: dict[Any, Programs] = {}

    @property
    def _nodes(self) -> int:
        """How many gradients of an example there are to evaluate at once."""
        rule = self._settings.rule
        if isinstance(rule, quadrature.Tolerance):
            return min(_tolerance.DEFAULT_BATCH, rule.max_evals)
        return int(rule.nodes.size)

    def width(self, batch_size: int) -> int:
        """How many examples are side by side with that many gradients at once on each device."""
        return max(1, batch_size // self._nodes) * self.compiler.devices

    def programs(self, args: tuple[Tree, ...], batch_size: int) -> Programs:
        """For examples like ``args``, with ``batch_size`` gradients at once on each device."""
        width = self.width(batch_size)
        key = width, str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), args))
        if key not in self._programs:
            parts = self._parts(min(batch_size, self._nodes))
            self._programs[key] = Programs(parts, args, width, self.compiler)
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
        devices = self.compiler.devices
        most = _MOST if length is None else self._nodes * length // (_ROUNDS * devices)
        best, least = self._nodes, float("inf")
        while best > 1 and not self._fits(args, best):
            best //= 2
        batch_size = best
        while batch_size <= min(most, _MOST) and self._fits(args, batch_size):
            seconds = _seconds(self.programs(args, batch_size), args)
            took = (seconds + _OVERHEAD) / batch_size
            if took > _BETTER * least:
                break
            best, least, batch_size = batch_size, took, _TIMES * batch_size
            if seconds > _LONG:
                break
        return best

    def _fits(self, args: tuple[Tree, ...], batch_size: int) -> bool:
        """Whether a device has the memory for so many gradients at once."""
        needed = self.programs(args, batch_size).memory
        return needed <= _SHARE * self.compiler.free_memory()


def _seconds(programs: Programs, args: tuple[Tree, ...]) -> float:
    """How long the first step takes, at least."""
    many = jax.tree.map(lambda leaf: np.stack([leaf] * programs.width), args)
    placed = programs.put(many)
    times: list[float] = []
    while sum(times) < _TRYING:
        start = time.perf_counter()
        jax.block_until_ready(programs.begin(placed))
        times.append(time.perf_counter() - start)
    return min(times)
