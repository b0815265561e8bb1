"""Functions of many examples, laid out in tiles, and compiled for the devices of a mesh."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from igjax._engine.memory import free_memory
from igjax._jaxpr.program import trace
from igjax._trees import Tree


class Tile(NamedTuple):
    """The examples of a program, and how they are laid out.

    Attributes:
      chunks: that are worked through one after the other.
      examples: of a chunk, on all devices together.
    """

    chunks: int
    examples: int

    @property
    def size(self) -> int:
        """Returns how many examples there is place for."""
        return self.chunks * self.examples

    def of_device(self, device: int, devices: int) -> NDArray[np.intp]:
        """Returns the places of one of the devices."""
        return np.arange(self.size).reshape(self.chunks, devices, -1)[:, device].ravel()

    def chunks_of(self, places: NDArray[np.bool_]) -> int:
        """Returns how many chunks, of the first ones, some places are in."""
        return int(np.max(np.flatnonzero(places), initial=-1)) // self.examples + 1


class Compiler:
    """Compiles functions of many examples for the devices of a mesh.

    What the functions close over, a network's parameters say, becomes an argument: it is in memory
    once for all programs, and stays sharded as it is. JAX would make it part of each program.

    Args:
      mesh: the devices. Examples are spread over its first axis.
      between: what to call when a program is compiled, which may have taken long.
    """

    def __init__(self, mesh: Mesh, between: Callable[[], None] = lambda: None):
        self._between = between
        axis = mesh.axis_names[0]
        # Functions of one example know nothing of a mesh: JAX finds out how to spread them.
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
        self.devices = mesh.shape[axis]  # those that have examples of their own
        self.examples = NamedSharding(mesh, PartitionSpec(None, axis))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._placed: dict[int, tuple[Any, jax.Array]] = {}
        self.seconds = 0.0  # that compiling has taken, tracing and all

    def many(self, one: Tree, tile: Tile) -> Tree:
        """Returns a tile of what there is one of: shapes, and how it is spread over the devices."""

        def leaf(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*tile, *leaf.shape), leaf.dtype, sharding=self.examples)

        return jax.tree.map(leaf, one)

    @property
    def number(self) -> jax.ShapeDtypeStruct:
        """Returns the shape of a number, on all devices."""
        return jax.ShapeDtypeStruct((), np.int32, sharding=self._everywhere)

    def compile(
        self, fun: Callable[..., Tree], args: tuple[Tree, ...], *, donate: bool = False
    ) -> "Program":
        """Compiles ``fun``; see ``lower``."""
        start = time.perf_counter()
        lowered, constants = self.lower(fun, args, donate=donate)
        program = Program(lowered.compile(), [self._place(constant) for constant in constants])
        self.seconds += time.perf_counter() - start
        self._between()
        return program

    def lower(
        self, fun: Callable[..., Tree], args: tuple[Tree, ...], *, donate: bool = False
    ) -> tuple[Any, list[Any]]:
        """Prepares ``fun`` to be compiled; the devices need not be there.

        Args:
          fun: a function that returns tiles.
          args: of what shape its arguments are, and where.
          donate: whether the first argument's memory may be used for the result.

        Returns:
          What ``jax.jit(…).lower`` returns, of a function with one argument more in front; and what
          that is, the constants.
        """
        traced = trace(fun, *args)
        program = jax.jit(
            traced.given, donate_argnums=(1,) if donate else (), out_shardings=self.examples
        )
        constants = [
            jax.ShapeDtypeStruct(c.shape, c.dtype, sharding=self._place_of(c))
            for c in traced.constants
        ]
        return program.lower(constants, *args), traced.constants

    def free_memory(self) -> int:
        """Returns that of one of the devices, in bytes."""
        return free_memory(self.examples.mesh.devices.flat[0])

    def _place_of(self, constant: Any) -> Any:
        """Returns all devices; where a constant is on all of them already, as it is there."""
        sharding = getattr(constant, "sharding", None)
        here = sharding and sharding.device_set == self._everywhere.device_set
        return sharding if here else self._everywhere

    def _place(self, constant: Any) -> jax.Array:
        """Puts ``constant`` on the devices, once for all programs."""
        if id(constant) not in self._placed:
            placed = jax.device_put(constant, self._place_of(constant))
            self._placed[id(constant)] = constant, placed  # the first, so that its id stays taken
        return self._placed[id(constant)][1]


class Program(NamedTuple):
    """A compiled function of many examples.

    Attributes:
      compiled: a function of constants and what it is to be called with.
      constants: the first of them.
    """

    compiled: Any
    constants: list[jax.Array]

    def __call__(self, *args: Tree) -> Tree:
        """Returns its results."""
        return self.compiled(self.constants, *args)
