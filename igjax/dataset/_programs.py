"""What runs on the devices: an attribution step by step, for many examples side by side.

All arrays have an axis in front for the examples, spread over the devices. Nothing passes between
devices: each keeps the examples that it was given.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from igjax._memory import free_memory
from igjax._report import Report
from igjax._stepwise import Stepwise, Work

Tree = Any

HELD = 4  # batches of examples that there is work on at a time: two that go on, two that wait


class Compiler:
    """Compiles functions of many examples for the devices of a mesh.

    What the functions close over, a network's parameters say, becomes an argument: it is in memory
    once for all programs, and stays sharded as it is. JAX would make it part of each program.

    Args:
      mesh: the devices. Examples are spread over its first axis.
    """

    def __init__(self, mesh: Mesh):
        axis = mesh.axis_names[0]
        # Functions of one example know nothing of a mesh: JAX finds out how to spread them.
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
        self.devices = mesh.shape[axis]  # those that have examples of their own
        self.examples = NamedSharding(mesh, PartitionSpec(axis))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._placed: dict[int, tuple[Any, jax.Array]] = {}
        self.seconds = 0.0  # that compiling has taken, tracing and all

    def compile(
        self, fun: Callable[..., Tree], one: tuple[Tree, ...], width: int, *, donate: bool = False
    ) -> "Program":
        """Compiles ``fun`` for ``width`` examples; see ``lower``."""
        start = time.perf_counter()
        lowered, constants = self.lower(fun, one, width, donate=donate)
        program = Program(lowered.compile(), [self._place(constant) for constant in constants])
        self.seconds += time.perf_counter() - start
        return program

    def lower(
        self, fun: Callable[..., Tree], one: tuple[Tree, ...], width: int, *, donate: bool = False
    ) -> tuple[Any, list[Any]]:
        """``fun`` for ``width`` examples, to be compiled; the devices need not be there.

        Args:
          fun: a function of pytrees whose arrays have the examples along their first axis.
          one: what its arguments are for one of them.
          width: how many there are.
          donate: whether the first argument's memory may be used for the result.

        Returns:
          What ``jax.jit(…).lower`` returns, of a function with one argument more in front; and what
          that is, the constants.
        """

        def many(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = (width, *np.shape(leaf))
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=self.examples)

        args = jax.tree.map(many, one)
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)

        def run(constants: list[jax.Array], *args: Tree) -> Tree:
            leaves = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args))
            return jax.tree.unflatten(jax.tree.structure(shape), leaves)

        program = jax.jit(run, donate_argnums=(1,) if donate else (), out_shardings=self.examples)
        constants = [
            jax.ShapeDtypeStruct(c.shape, c.dtype, sharding=self._place_of(c))
            for c in closed.consts
        ]
        return program.lower(constants, *args), list(closed.consts)

    def free_memory(self) -> int:
        """Of one of the devices, in bytes."""
        return free_memory(self.examples.mesh.devices.flat[0])

    def _place_of(self, constant: Any) -> Any:
        """All devices; where a constant is on all of them already, as it is there."""
        sharding = getattr(constant, "sharding", None)
        here = sharding and sharding.device_set == self._everywhere.device_set
        return sharding if here else self._everywhere

    def _place(self, constant: Any) -> jax.Array:
        """``constant`` on the devices, once for all programs."""
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
        """Its results."""
        return self.compiled(self.constants, *args)


class Programs:
    """What is done with examples of one shape, ``width`` at a time.

    Args:
      parts: of the attribution.
      args: the arguments of one example, arrays or their shapes.
      width: how many examples there are side by side, on all devices together.
      compiler: for the devices.
    """

    def __init__(self, parts: Stepwise, args: tuple[Tree, ...], width: int, compiler: Compiler):
        self.width = width
        self._parts, self._args, self._compiler = parts, args, compiler
        self._work, _ = jax.eval_shape(parts.begin, *args)

    @property
    def memory(self) -> int:
        """What a device needs, in bytes: for the first step, and to hold the work on examples."""
        needed = self._begin.compiled.memory_analysis()
        return int(needed.temp_size_in_bytes + HELD * needed.output_size_in_bytes)

    def put(self, args: tuple[Tree, ...]) -> tuple[Tree, ...]:
        """The arguments of ``width`` examples, on the devices."""
        return jax.device_put(args, self._compiler.examples)

    def begin(self, args: tuple[Tree, ...]) -> tuple[Work, jax.Array]:
        """The work on new examples, after its first step, and flags of what is done."""
        return self._begin(*args)

    def step(self, work: Work) -> tuple[Work, jax.Array]:
        """The work one step on, and flags of what is done. What is given is used up."""
        return self._step(work)

    def admit(
        self, work: Work, staged: Work, rows: NDArray[np.int32], taken: NDArray[np.bool_]
    ) -> Work:
        """``work``, with other examples in place of some. What is given is used up.

        Args:
          work: what examples are to go to.
          staged: what they are to come from.
          rows: shape ``(width,)``: of each place, which row of ``staged`` comes there, counted
            within those of its device.
          taken: shape ``(width,)``: whether one does.
        """
        where = jax.device_put((rows, taken), self._compiler.examples)
        return self._admit(work, staged, *where)

    def finish(self, work: Work) -> tuple[Tree, Report]:
        """Attributions and reports, those of what is not done being what is known so far."""
        return self._finish(work)

    # Each is compiled when it is needed: for a size that is only tried, the first alone; with a
    # fixed rule none to go on with.

    @functools.cached_property
    def _begin(self) -> Program:
        return self._compiler.compile(jax.vmap(self._parts.begin), self._args, self.width)

    @functools.cached_property
    def _finish(self) -> Program:
        return self._compiler.compile(jax.vmap(self._parts.finish), (self._work,), self.width)

    @functools.cached_property
    def _step(self) -> Program:
        step = jax.vmap(self._parts.step)
        return self._compiler.compile(step, (self._work,), self.width, donate=True)

    @functools.cached_property
    def _admit(self) -> Program:
        one = self._work, self._work, np.int32(0), np.bool_(False)
        return self._compiler.compile(self._admitted, one, self.width, donate=True)

    def _admitted(self, work: Work, staged: Work, rows: jax.Array, taken: jax.Array) -> Work:
        devices = self._compiler.devices

        def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
            own = new.reshape(devices, self.width // devices, *new.shape[1:])
            picked = jax.vmap(lambda own, rows: own[rows])(own, rows.reshape(devices, -1))
            wide = taken.reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(wide, picked.reshape(old.shape), old)

        return jax.tree.map(leaf, work, staged)
