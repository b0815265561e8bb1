"""Integration by a fixed rule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from igjax._accumulate import weighted_sum
from igjax._path_integral import Integrand
from igjax._precision import tree_dtype
from igjax._report import Account, relative
from igjax._sharding import NodeSharding, add_up, spread
from igjax.quadrature import Rule

Tree = Any


def integrate(
    integrand_at: Callable[[jax.Array], Integrand],
    rule: Rule,
    x: Tree,
    norm: Callable[[Tree], Tree],
    batch_size: int | None,
    sharding: NodeSharding | None,
) -> tuple[Tree, Account]:
    """Attributions by ``rule``, and an account of how good they are.

    Args:
      integrand_at: from nodes to the integrand where they are: on many devices, each has its own.
      rule: a sound rule.
      x: the input.
      norm: of attributions, for each output: errors are measured by it.
      batch_size: the number of nodes that a device evaluates at once, or None for all.
      sharding: the devices that share the nodes, or None.
    """
    dtype = tree_dtype(x)

    def attributions(nodes: jax.Array, weights: jax.Array) -> list[Tree]:
        integrand = integrand_at(nodes)
        sums = weighted_sum(integrand.at, nodes, weights, integrand.zero, batch_size)
        rows = (jax.tree.map(lambda leaf, k=k: leaf[k], sums) for k in range(len(weights)))
        return [add_up(integrand.attributions(row), sharding) for row in rows]

    weights = [jnp.asarray(row, dtype) for row in rule[1:] if row is not None]
    fine, *coarse = spread(
        attributions, jnp.asarray(rule.nodes, dtype), jnp.stack(weights), sharding
    )
    size = norm(fine)
    if coarse:
        change = norm(jax.tree.map(jnp.subtract, fine, *coarse))
        error = jax.tree.map(relative, change, size)
    else:
        error = jax.tree.map(lambda size: jnp.full_like(size, jnp.nan), size)
    num_evals = jnp.asarray(rule.nodes.size, jnp.int32)
    return fine, Account(error, num_evals, jnp.asarray(True))
