"""What is noted of a node beside its share of the sums: a few numbers for each output.

They are arrays of ``(numbers, outputs, nodes)``. The outputs are all elements of all arrays of the
function's value, one after the other. What is known of value and slope comes first, then the sketch
of what a node contributes. The nodes come last, for a program is compiled faster that goes along a
long axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from igjax._engine.integrand import Seen
from igjax._engine.integration import Problem
from igjax._precision import as_sums, tree_dtype
from igjax._trees import Tree, map_parts

VALUE, SLOPE, KNOWN = range(3)
BUCKETS = 16


def of_node(problem: Problem, seen: Seen) -> jax.Array:
    """Returns F and ``dF / dalpha`` at a node: ``(KNOWN, outputs)``."""
    dtype = tree_dtype(problem.x)
    return jnp.stack([flat(seen.value, dtype), flat(seen.slope, dtype)])


def length(problem: Problem, contribution: Tree) -> jax.Array:
    """Returns the L1 norm of what a node contributes to the attributions, ``(outputs,)``."""
    attributions = problem.integrand.attributions(as_sums(contribution))
    return flat(problem.norm(attributions), tree_dtype(problem.x))


def sketch(problem: Problem, contribution: Tree) -> jax.Array:
    """Sketches what a node contributes to the attributions, ``(BUCKETS, outputs)``.

    A sketch is linear. The elements are spread over buckets in turn, and summed there with signs as
    if by chance: the L1 norm of a difference of sketches is in proportion to the L2 norm of the
    difference, on the whole, and up to 16 elements its L1 norm.

    Source: Charikar, Chen & Farach-Colton 2002, "Finding Frequent Items in Data Streams".
    """
    judged, x = problem.judged, problem.x
    like, dtype = judged(x), tree_dtype(x)
    attributions = problem.integrand.attributions(as_sums(contribution))
    parts = map_parts(judged, x, attributions)
    found = map_parts(functools.partial(_sketch, like), like, parts)
    rows = [leaf.reshape(-1, BUCKETS).astype(dtype) for leaf in jax.tree.leaves(found)]
    return jnp.concatenate(rows).T


def flat(tree: Tree, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns what there is for each output as one array, ``(outputs,)``."""
    return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)])


def like_outputs(row: jax.Array, tree: Tree) -> Tree:
    """Returns one array, ``(outputs,)``, as a pytree like ``tree``: the inverse of ``flat``."""
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        row[end - leaf.size : end].reshape(leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def _sketch(like: Tree, part: Tree) -> jax.Array:
    """Sketches a part like ``like``, or each of a stack of such."""
    start, total = 0, jnp.zeros(())
    for leaf, own in zip(jax.tree.leaves(part), jax.tree.leaves(like), strict=True):
        stack = leaf.reshape(*leaf.shape[: leaf.ndim - own.ndim], own.size)
        total = total.astype(leaf.dtype) + _buckets(stack, start)
        start += own.size
    return total


def _buckets(stack: jax.Array, start: int) -> jax.Array:
    """Sums elements along the last axis, whose numbers begin with ``start``."""
    size, ahead = stack.shape[-1], start % BUCKETS
    number = jnp.arange(start, start + size, dtype=jnp.uint32)
    odd = (number * np.uint32(2654435761) >> np.uint32(31)).astype(stack.dtype)
    sign = (1 - 2 * odd).reshape(*[1] * (stack.ndim - 1), size)
    padding = [(0, 0)] * (stack.ndim - 1) + [(ahead, -(ahead + size) % BUCKETS)]
    padded = jnp.pad(stack * sign, padding)
    return jnp.sum(padded.reshape(*padded.shape[:-1], -1, BUCKETS), axis=-2)
