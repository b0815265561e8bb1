"""What runs on the devices: an attribution step by step, for many examples.

A program takes a tile of examples: chunks that it works through one after the other, and in each as
many examples as the devices do at once. So each chunk may be as small as is good for the device,
and the program as long as is good for the host. All arrays have two axes in front, for the chunks
and for the examples of one, which are spread over the devices. Nothing passes between devices: each
keeps the examples that it was given.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._memory import free_memory
from igjax._report import Report
from igjax._stepwise import Stepwise, Work

Tree = Any


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
        """Of how many examples there is place."""
        return self.chunks * self.examples

    def of_device(self, device: int, devices: int) -> NDArray[np.intp]:
        """The places of one of the devices."""
        return np.arange(self.size).reshape(self.chunks, devices, -1)[:, device].ravel()

    def chunks_of(self, places: NDArray[np.bool_]) -> int:
        """How many chunks, of the first ones, some places are in."""
        return int(np.max(np.flatnonzero(places), initial=-1)) // self.examples + 1


def in_chunks(fun: Callable[..., Tree]) -> Callable[..., Tree]:
    """``fun``, a function of the examples of a chunk, with one chunk after the other.

    The result takes the number of chunks, of the first ones, and the arguments of all; for chunks
    that are left out it returns zeros.
    """
    fast = with_fast_convolutions(fun)  # in loops XLA needs help with them

    def run(count: jax.Array, *args: Tree) -> Tree:
        def chunk(number: jax.Array, results: Tree) -> Tree:
            def of_chunk(leaf: jax.Array) -> jax.Array:
                return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)

            def with_new(old: jax.Array, new: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_index_in_dim(old, new, number, 0)

            return jax.tree.map(with_new, results, fast(*jax.tree.map(of_chunk, args)))

        shapes = jax.eval_shape(jax.vmap(fun), *args)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, count, chunk, nothing)

    return run


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
        self.examples = NamedSharding(mesh, PartitionSpec(None, axis))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._placed: dict[int, tuple[Any, jax.Array]] = {}
        self.seconds = 0.0  # that compiling has taken, tracing and all

    def many(self, one: Tree, tile: Tile) -> Tree:
        """A tile of what there is one of: shapes, and how it is spread over the devices."""

        def leaf(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*tile, *leaf.shape), leaf.dtype, sharding=self.examples)

        return jax.tree.map(leaf, one)

    @property
    def number(self) -> jax.ShapeDtypeStruct:
        """A number, on all devices."""
        return jax.ShapeDtypeStruct((), np.int32, sharding=self._everywhere)

    def compile(
        self, fun: Callable[..., Tree], args: tuple[Tree, ...], *, donate: bool = False
    ) -> "Program":
        """Compiles ``fun``; see ``lower``."""
        start = time.perf_counter()
        lowered, constants = self.lower(fun, args, donate=donate)
        program = Program(lowered.compile(), [self._place(constant) for constant in constants])
        self.seconds += time.perf_counter() - start
        return program

    def lower(
        self, fun: Callable[..., Tree], args: tuple[Tree, ...], *, donate: bool = False
    ) -> tuple[Any, list[Any]]:
        """``fun``, to be compiled; the devices need not be there.

        Args:
          fun: a function that returns tiles.
          args: of what shape its arguments are, and where.
          donate: whether the first argument's memory may be used for the result.

        Returns:
          What ``jax.jit(…).lower`` returns, of a function with one argument more in front; and what
          that is, the constants.
        """
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


class Memory(NamedTuple):
    """What is needed on a device, in bytes.

    Attributes:
      step: for the first step, beside what it takes and returns.
      work: for the work on a tile.
      args: for a tile of arguments.
    """

    step: int
    work: int
    args: int


class Programs:
    """What is done with examples of one shape, a tile at a time.

    Each program is compiled when it is needed: for a size that is only tried, the first alone; with
    a fixed rule none to go on with.

    Args:
      parts: of the attribution.
      args: the arguments of one example, arrays or their shapes.
      tile: of the examples.
      compiler: for the devices.

    Attributes:
      tile: likewise.
      devices: how many have examples of their own.
      definitions: of each program the function, and the shapes of its arguments.
    """

    def __init__(self, parts: Stepwise, args: tuple[Tree, ...], tile: Tile, compiler: Compiler):
        self.tile, self.devices = tile, compiler.devices
        self._compiler, self._compiled = compiler, dict[str, Program]()
        self._work = work = compiler.many(jax.eval_shape(parts.begin, *args)[0], tile)
        where = compiler.many((np.int32(0), np.bool_(False)), tile)
        self.definitions: dict[str, tuple[Callable[..., Tree], tuple[Tree, ...]]] = {
            "begin": (
                in_chunks(jax.vmap(parts.begin)),
                (compiler.number, *compiler.many(args, tile)),
            ),
            "step": (in_chunks(jax.vmap(parts.step)), (compiler.number, work)),
            "admit": (self._admitted, (work, work, *where)),
            "finish": (jax.vmap(jax.vmap(parts.finish)), (work,)),
        }

    @property
    def memory(self) -> "Memory":
        """What a device needs."""
        needed = self.program("begin").compiled.memory_analysis()
        args = jax.tree.leaves(self.definitions["begin"][1])
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in args)
        return Memory(
            int(needed.temp_size_in_bytes), int(needed.output_size_in_bytes), size // self.devices
        )

    def put(self, args: tuple[Tree, ...]) -> tuple[Tree, ...]:
        """A tile of arguments, on the devices."""
        return jax.device_put(args, self._compiler.examples)

    def begin(self, chunks: int, args: tuple[Tree, ...]) -> tuple[Work, jax.Array]:
        """The work on new examples, after its first step, and flags of what is done.

        Args:
          chunks: the number of chunks that have some, the first ones.
          args: the tile of arguments.
        """
        return self.program("begin")(np.int32(chunks), *args)

    def step(self, chunks: int, work: Work) -> tuple[Work, jax.Array]:
        """The work one step on, and flags of what is done, in the first chunks."""
        return self.program("step")(np.int32(chunks), work)

    def admit(
        self, work: Work, staged: Work, rows: NDArray[np.int32], taken: NDArray[np.bool_]
    ) -> Work:
        """``work``, with other examples in place of some. What is given is used up.

        Args:
          work: what examples are to go to.
          staged: what they are to come from.
          rows: of each place, which row of ``staged`` comes there, counted within those of its
            device.
          taken: of each place, whether one does.
        """
        where: Tree = rows.reshape(self.tile), taken.reshape(self.tile)
        where = jax.device_put(where, self._compiler.examples)
        return self.program("admit")(work, staged, *where)

    def finish(self, work: Work) -> tuple[Tree, Report]:
        """Attributions and reports, those of what is not done being what is known so far."""
        return self.program("finish")(work)

    def nothing(self) -> Work:
        """Work on no example."""
        return jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), self._work
        )

    def program(self, name: str) -> Program:
        """That of ``definitions``, compiled."""
        if name not in self._compiled:
            fun, args = self.definitions[name]
            self._compiled[name] = self._compiler.compile(fun, args, donate=name == "admit")
        return self._compiled[name]

    def _admitted(self, work: Work, staged: Work, rows: jax.Array, taken: jax.Array) -> Work:
        chunks, examples = self.tile
        own_rows = self._by_device(rows)

        def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
            picked = jax.vmap(lambda own, rows: own[rows])(self._by_device(new), own_rows)
            apart = picked.reshape(self.devices, chunks, examples // self.devices, *new.shape[2:])
            together = jnp.moveaxis(apart, 0, 1).reshape(chunks, examples, *new.shape[2:])
            return jnp.where(taken.reshape(self.tile + (1,) * (old.ndim - 2)), together, old)

        return jax.tree.map(leaf, work, staged)

    def _by_device(self, leaf: jax.Array) -> jax.Array:
        """From a tile to the rows of each device, shape ``(devices, rows of it, ...)``."""
        (chunks, examples), one = self.tile, leaf.shape[2:]
        apart = leaf.reshape(chunks, self.devices, examples // self.devices, *one)
        rows = self.tile.size // self.devices
        return jnp.moveaxis(apart, 1, 0).reshape(self.devices, rows, *one)
