"""What runs on the devices: the stages of an attribution, for many examples.

A program takes a tile of examples: chunks that it works through one after the other, and in each as
many examples as the devices do at once. So each chunk may be as small as is good for the device,
and the program as long as is good for the host. All arrays have two axes in front, for the chunks
and for the examples of one, which are spread over the devices. Nothing passes between devices: each
keeps the examples that it was given.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._trees import Tree
from igjax.dataset._compiler import Compiler, Program, Tile
from igjax.dataset._stages import Stages, shapes


def in_chunks(fun: Callable[..., Tree], returned: Tree) -> Callable[..., Tree]:
    """Returns a function of the examples of many chunks from one of those of a chunk.

    It takes the number of chunks, of the first ones, and the arguments of all, and works through
    one chunk after the other; for chunks that are left out it returns zeros.

    Args:
      fun: a function of the examples of a chunk.
      returned: what it returns for all chunks, as shapes.
    """
    fast = with_fast_convolutions(fun)  # in loops XLA needs help with them

    def run(count: jax.Array, *args: Tree) -> Tree:
        def chunk(number: jax.Array, results: Tree) -> Tree:
            def of_chunk(leaf: jax.Array) -> jax.Array:
                return jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)

            def with_new(old: jax.Array, new: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_index_in_dim(old, new, number, 0)

            return jax.tree.map(with_new, results, fast(*jax.tree.map(of_chunk, args)))

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), returned)
        return jax.lax.fori_loop(0, count, chunk, nothing)

    return run


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

    Each program is compiled when it is needed: for a size that is only tried, the first alone; for
    what is done when it is begun, none to go on with.

    Args:
      stages: of the attribution.
      given: what one example is given, arrays or their shapes.
      tile: of the examples.
      compiler: for the devices.

    Attributes:
      tile: likewise.
      devices: how many have examples of their own.
      definitions: of each program the function, and the shapes of its arguments.
    """

    def __init__(self, stages: Stages, given: Tree, tile: Tile, compiler: Compiler):
        self.tile, self.devices = tile, compiler.devices
        self._compiler, self._compiled = compiler, dict[str, Program]()
        self._seconds: dict[str, float] = {}
        work, flag = stages.work, shapes(stages.done)
        self._work = many = compiler.many(work, tile)
        with_flag = compiler.many((work, flag), tile)
        where = compiler.many((np.int32(0), np.bool_(False)), tile)

        def begin(given: Tree) -> tuple[Tree, jax.Array]:
            work = stages.begin(given)
            return work, stages.done(work)

        def step(work: Tree) -> tuple[Tree, jax.Array]:
            work = stages.step(work)
            return work, stages.done(work)

        self.definitions: dict[str, tuple[Callable[..., Tree], tuple[Tree, ...]]] = {
            "begin": (
                in_chunks(jax.vmap(begin), with_flag),
                (compiler.number, compiler.many(given, tile)),
            ),
            "step": (in_chunks(jax.vmap(step), with_flag), (compiler.number, many)),
            "admit": (self._admitted, (many, many, *where)),
            "result": (jax.vmap(jax.vmap(stages.result)), (many,)),
        }

    @property
    def memory(self) -> "Memory":
        """Returns what a device needs."""
        needed = self.program("begin").compiled.memory_analysis()
        given = jax.tree.leaves(self.definitions["begin"][1])
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in given)
        return Memory(
            int(needed.temp_size_in_bytes), int(needed.output_size_in_bytes), size // self.devices
        )

    @property
    def compiling(self) -> float:
        """Returns the seconds that it took to compile the first program."""
        self.program("begin")
        return self._seconds["begin"]

    def put(self, given: Tree) -> Tree:
        """Puts a tile of what examples are given on the devices."""
        return jax.device_put(given, self._compiler.examples)

    def begin(self, chunks: int, given: Tree) -> tuple[Tree, jax.Array]:
        """Begins new examples: returns the work on them, and flags of what is done.

        Args:
          chunks: the number of chunks that have some, the first ones.
          given: the tile of what they are given.
        """
        return self.program("begin")(np.int32(chunks), given)

    def step(self, chunks: int, work: Tree) -> tuple[Tree, jax.Array]:
        """Returns the work one step on, and flags of what is done, in the first chunks."""
        return self.program("step")(np.int32(chunks), work)

    def admit(
        self, work: Tree, staged: Tree, rows: NDArray[np.int32], taken: NDArray[np.bool_]
    ) -> Tree:
        """Returns ``work`` with other examples in place of some. What is given is used up.

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

    def result(self, work: Tree) -> Tree:
        """Returns what the attribution does; for what is not done, what is known so far."""
        return self.program("result")(work)

    def nothing(self) -> Tree:
        """Returns work on no example."""
        return jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), self._work
        )

    def program(self, name: str) -> Program:
        """Returns that of ``definitions``, compiled."""
        if name not in self._compiled:
            fun, args = self.definitions[name]
            before = self._compiler.seconds
            self._compiled[name] = self._compiler.compile(fun, args, donate=name == "admit")
            self._seconds[name] = self._compiler.seconds - before
        return self._compiled[name]

    def _admitted(self, work: Tree, staged: Tree, rows: jax.Array, taken: jax.Array) -> Tree:
        chunks, examples = self.tile
        own_rows = self._by_device(rows)

        def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
            picked = jax.vmap(lambda own, rows: own[rows])(self._by_device(new), own_rows)
            apart = picked.reshape(self.devices, chunks, examples // self.devices, *new.shape[2:])
            together = jnp.moveaxis(apart, 0, 1).reshape(chunks, examples, *new.shape[2:])
            return jnp.where(taken.reshape(self.tile + (1,) * (old.ndim - 2)), together, old)

        return jax.tree.map(leaf, work, staged)

    def _by_device(self, leaf: jax.Array) -> jax.Array:
        """Takes a tile to the rows of each device, shape ``(devices, rows of it, ...)``."""
        (chunks, examples), one = self.tile, leaf.shape[2:]
        apart = leaf.reshape(chunks, self.devices, examples // self.devices, *one)
        rows = self.tile.size // self.devices
        return jnp.moveaxis(apart, 1, 0).reshape(self.devices, rows, *one)
