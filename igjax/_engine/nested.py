"""Gregory's rules of 1, 2, 4 … nodes, which contain one another, and the order to visit them in.

Everything is arithmetic on the ranks of the nodes among those of the finest rule, so that neither
tables nor programs grow with their number.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igjax._quadrature import gregory
from igjax._quadrature.gauss import Floats


class Nested(NamedTuple):
    """Nested rules. Level ``l`` is that of ``2**l`` nodes.

    They are visited tile by tile: the first has all the nodes of the level of its size, those after
    it the new ones of the next level, from the left to the right, and so on.

    Attributes:
      size: of a tile, a power of 2.
      levels: their number. The finest rule has ``2 ** (levels - 1)`` nodes, no fewer than a tile.
    """

    size: int
    levels: int

    @property
    def nodes(self) -> int:
        """Returns how many the finest rule has."""
        return int(2 ** (self.levels - 1))

    @property
    def tiles(self) -> int:
        """Returns how many tiles they are."""
        return self.nodes // self.size

    def step(self, level: Any) -> Any:
        """Returns how many ranks apart the nodes of a level's rule are."""
        return self.nodes >> level

    def first(self, level: Any) -> Any:
        """Returns the rank of the first node of a level's rule."""
        # A rule is every second node of the next one: from the second on, where that is an even
        # level, whose shift is a third.
        seconds = sum(self.step(even) for even in range(0, self.levels, 2))
        return seconds & (self.step(level) - 1)

    def ranks(self, tile: jax.Array, lanes: jax.Array) -> jax.Array:
        """Returns the ranks of a tile's nodes, which increase with the lane."""
        opening = tile == 0
        doublings = jnp.where(opening, 0, 32 - jax.lax.clz(tile))
        level = doublings + (self.size.bit_length() - 1)
        before = jnp.where(opening, 0, (1 << doublings) >> 1)
        index = (tile - before) * self.size + lanes
        index = jnp.where(opening, index, 2 * index + (level & 1))
        return self.first(level) + self.step(level) * index

    def slots(self, level: jax.Array) -> jax.Array:
        """Returns the ranks of the nodes of a level's rule; goes round after them."""
        index = jnp.arange(self.nodes, dtype=jnp.int32)
        return (self.first(level) + self.step(level) * index) & (self.nodes - 1)

    def places(self, ranks: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        """Returns where nodes are in [0, 1]."""
        return (ranks.astype(dtype) + shift(self.levels - 1)) / self.nodes

    def weights(self, ranks: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
        """Returns the weights of nodes in all the rules, of shape ``(levels, number of nodes)``."""
        levels = np.arange(self.levels, dtype=np.int32)[:, None]
        ahead = ranks[None] - jnp.asarray(self.first(levels))
        index = ahead >> jnp.asarray(levels[::-1])
        left = jnp.asarray((1 << levels) - 1) - index
        held = (ahead >= 0) & (ahead & jnp.asarray(self.step(levels) - 1) == 0)
        place = jnp.minimum(index, 4) + 4 - jnp.minimum(left, 4)
        # Not by an index: on a mesh with explicit axes that needs to be told of them.
        here = held[:, None] & (place[:, None] == np.arange(9, dtype=np.int32)[None, :, None])
        return jnp.sum(jnp.where(here, jnp.asarray(self._table(), dtype)[..., None], 0.0), axis=1)

    def _table(self) -> Floats:
        """Returns the weights of each level: the first 4, the one between, and the last 4.

        Of fewer nodes, each is where its distance from both ends puts it.
        """
        table = np.ones((self.levels, 9))
        for level, row in enumerate(table):
            count = 2**level
            first, last = gregory.corrections(count, shift(level))
            ahead, behind = np.arange(first.size), count - 1 - np.arange(last.size)
            for number, added in ((ahead, first), (behind, last)):
                row[np.minimum(number, 4) + 4 - np.minimum(count - 1 - number, 4)] += added
        return table / 2.0 ** np.arange(self.levels)[:, None]


def shift(level: Any) -> Any:
    """Returns the place of the first node of a level's rule, in its own steps."""
    return gregory.SHIFT + (level & 1) * (1.0 - 2.0 * gregory.SHIFT)
