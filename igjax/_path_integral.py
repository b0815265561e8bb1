"""The integral of a derivative along a path, by a quadrature rule: the mathematics of the library.

attributions_i = sum_k w_k dF/dx_i(path(alpha_k)) dpath_i/dalpha(alpha_k)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from igjax import paths
from igjax._accumulate import weighted_sum
from igjax._inputs import matching, same_structure
from igjax._precision import cast, tree_dtype
from igjax.quadrature import Rule

Tree = Any


def path_integrals(
    derivative: Callable[[Tree], Tree],
    baseline: Tree,
    x: Tree,
    *,
    path: paths.Path,
    rule: Rule,
    multiply_by_inputs: bool,
    batch_size: int | None,
) -> tuple[Tree, Tree | None]:
    """Integrates ``derivative`` along the path from ``baseline`` to ``x``.

    Args:
      derivative: from a point like ``x`` to the gradient there, a pytree like ``x``; or to the
        Jacobian, a pytree of such, whose arrays have the output's axes in front of the point's.
      baseline: the baseline, like ``x`` and in its dtypes.
      x: the input, a pytree of floating-point arrays.
      path: the path.
      rule: a sound rule.
      multiply_by_inputs: whether to multiply by ``dpath/dalpha``.
      batch_size: the number of nodes evaluated at once, or None for all.

    Returns:
      The integral by ``rule`` and, or None, that by the rule embedded in it; both like what
      ``derivative`` returns, in the precision of sums.
    """
    dtype = tree_dtype(x)
    start, end = cast(baseline, dtype), cast(x, dtype)
    straight = path is paths.straight_line

    def integrand(alpha: jax.Array) -> Tree:
        if straight or not multiply_by_inputs:
            return derivative(matching(path(start, end, alpha), x, "path's point"))
        point, velocity = jax.jvp(
            lambda alpha: path(start, end, alpha), (alpha,), (jnp.ones_like(alpha),)
        )
        return _multiply(derivative(matching(point, x, "path's point")), velocity)

    weights = [jnp.asarray(row, dtype) for row in rule[1:] if row is not None]
    sums = weighted_sum(integrand, jnp.asarray(rule.nodes, dtype), jnp.stack(weights), batch_size)
    if straight and multiply_by_inputs:
        # The direction is the same at every node: it is applied once, to the sums.
        sums = _multiply(sums, jax.tree.map(jnp.subtract, end, start))
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k], sums) for k in range(len(weights))]
    return rows[0], rows[1] if len(rows) > 1 else None


def _multiply(derivative: Tree, velocity: Tree) -> Tree:
    """Every part of ``derivative`` that is like ``velocity``, times ``velocity``."""

    def leaf(derivative: jax.Array, velocity: jax.Array) -> jax.Array:
        in_front = tuple(range(derivative.ndim - velocity.ndim))
        return derivative.astype(velocity.dtype) * jnp.expand_dims(velocity, in_front)

    return map_parts(lambda part: jax.tree.map(leaf, part, velocity), velocity, derivative)


def map_parts(fun: Callable[..., Any], x: Tree, *trees: Tree) -> Tree:
    """Applies ``fun`` to every part of ``trees`` that has the structure of ``x``.

    The first of ``trees`` is a gradient, itself such a part, or a Jacobian, a pytree of such parts;
    the others are likewise, or pytrees like the output.
    """
    return jax.tree.map(fun, *trees, is_leaf=lambda node: same_structure(node, x))
