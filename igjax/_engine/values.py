"""What the values of F say about an error.

F at the nodes comes with the gradients. Over each panel between two nodes it changes by the
integral of its slope: where the nodes on both sides say otherwise, there is something between them.
In the sum over all panels, which is the completeness gap, such errors cancel.

What may be rounding of the values says nothing.
"""

import jax
import jax.numpy as jnp

from igjax._engine.integration import Problem
from igjax._engine.notes import SLOPE, VALUE, flat
from igjax._engine.report import completeness_gap
from igjax._jaxpr.rounding import eps
from igjax._precision import tree_dtype
from igjax._trees import Tree

# Of a value, in units of its last place, that a network's rounding may come to: in the gap, and in
# a panel, of which there are many.
ROUNDINGS, ROUNDINGS_OF_PANEL = 8, 4

# The next value of a parabola through three at equal steps, where there is no fourth.
PARABOLA = [3.0, -3.0, 1.0]


def at_ends(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """Returns F(x') and F(x), for each output."""
    if problem.values is None:
        raise ValueError("the attributions are not meant to sum to a difference of values.")
    value, baseline_value = problem.values
    dtype = tree_dtype(problem.x)
    return flat(baseline_value, dtype), flat(value, dtype)


def gap(problem: Problem, attributions: Tree) -> jax.Array:
    """Returns the size of the completeness gap, ``(outputs,)``."""
    start, end = at_ends(problem)
    assert problem.values is not None
    found = completeness_gap(problem.x, attributions, *problem.values)
    rounding = ROUNDINGS * _eps(problem) * (jnp.abs(start) + jnp.abs(end))
    return jnp.maximum(jnp.abs(flat(found, start.dtype)) - rounding, 0.0)


def between_nodes(
    problem: Problem, known: jax.Array, count: jax.Array | int, shift: jax.Array | float
) -> jax.Array:
    """Returns how much is between the nodes that they do not see, ``(outputs,)``.

    Errors of many panels add up as if by chance: the root of the sum of their squares.

    Args:
      problem: what is integrated.
      known: as for ``mismatches``.
      count: likewise.
      shift: likewise.
    """
    start, end = at_ends(problem)
    found = mismatches(known, (start, end), count, shift)
    rounding = ROUNDINGS_OF_PANEL * _eps(problem) * jnp.maximum(jnp.abs(start), jnp.abs(end))
    return jnp.sqrt(jnp.sum(jnp.maximum(jnp.abs(found) - rounding[:, None], 0.0) ** 2, axis=1))


def _eps(problem: Problem) -> float:
    """Returns the largest distance from 1 to the next number of the dtypes of F."""
    return max(eps(leaf.dtype) for leaf in jax.tree.leaves(problem.values))


def mismatches(
    known: jax.Array,
    ends: tuple[jax.Array, jax.Array],
    count: jax.Array | int,
    shift: jax.Array | float,
) -> jax.Array:
    """Computes by how much F changes over each panel of equal steps, less what its slopes say.

    The slopes of the four nodes around a panel give the change by the cubic through them, those of
    the nearest ones, in a line, the changes beyond the outermost nodes.

    Args:
      known: F at the nodes and its derivative, ``(KNOWN, outputs, n)``.
      ends: F(x') and F(x), ``(outputs,)``.
      count: of the nodes, at least 3; what comes after them does not count.
      shift: of the first node from 0, in steps.

    Returns:
      Shape ``(outputs, n + 1)``: before the first node, between them, zeros where there are no
      nodes, and after the last node.
    """
    step = 1.0 / jnp.asarray(count, known.dtype)
    values, slopes = known[VALUE], step * known[SLOPE]
    three = jax.lax.dynamic_slice_in_dim(known, count - 3, 3, axis=2)[..., ::-1]
    first, last = slopes[:, :3], step * three[SLOPE]
    slopes = jnp.pad(slopes, [(0, 0), (1, 1)])
    number = jnp.arange(slopes.shape[1], dtype=jnp.int32)[None]
    slopes = jnp.where(number == 0, _by(first, PARABOLA), slopes)
    slopes = jnp.where(number == count + 1, _by(last, PARABOLA), slopes)
    inner = slopes[:, 1:-2] + slopes[:, 2:-1]
    change = (13.0 * inner - slopes[:, :-3] - slopes[:, 3:]) / 24.0
    between = jnp.diff(values, axis=1) - change
    between = jnp.where(number[:, :-3] < count - 1, between, 0.0)
    at_start = values[:, :1] - ends[0][:, None] - _to_end(first, shift)
    at_end = ends[1][:, None] - three[VALUE, :, :1] - _to_end(last, 1.0 - shift)
    return jnp.concatenate([at_start, between, at_end], axis=1)


def _to_end(slopes: jax.Array, distance: jax.Array | float) -> jax.Array:
    """Returns the change, by slopes in steps, from an end to the node so many steps from it."""
    half = distance / 2.0
    return distance * (_by(slopes, [1.0, 0.0, 0.0]) + half * _by(slopes, [1.0, -1.0, 0.0]))


def _by(three: jax.Array, weights: list[float]) -> jax.Array:
    """Returns the weighted sum of three columns, as one column."""
    return jnp.sum(three * jnp.asarray([weights], three.dtype), axis=1, keepdims=True)
