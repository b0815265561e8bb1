"""The precision of paths and sums: float32 at least, float64 where the inputs are."""

from typing import Any

import jax
import jax.numpy as jnp

from igjax._trees import Tree


def sum_dtype(*dtypes: Any) -> Any:
    """Returns the dtype to add up values of ``dtypes`` in: float32 at least, so bf16 sums hold."""
    # Not jnp.promote_types: it refuses under jax_numpy_dtype_promotion="strict".
    return max((jnp.float32, *dtypes), key=lambda dtype: jnp.dtype(dtype).itemsize)


def tree_dtype(tree: Tree) -> Any:
    """Returns the dtype to follow a path in whose points are like ``tree``."""
    return sum_dtype(*(leaf.dtype for leaf in jax.tree.leaves(tree)))


def cast(tree: Tree, dtype: Any) -> Tree:
    """Returns ``tree`` with every leaf in ``dtype``."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def as_sums(values: Tree) -> Tree:
    """Returns ``values`` in the precision of sums."""
    return jax.tree.map(lambda value: value.astype(sum_dtype(value.dtype)), values)
