"""The plan of a fixed rule: its nodes in tiles, one after the other."""

import functools

import jax
import jax.numpy as jnp

from igjax._engine.chunks import chunked_sum
from igjax._engine.integration import Integration, Plan, Planner, Problem
from igjax._engine.report import Account, relative
from igjax._sharding import NodeSharding, add_up
from igjax._trees import Tree
from igjax.quadrature import Rule


def planner(rule: Rule) -> Planner:
    """Returns the planner of a sound rule."""
    return Planner(rule.nodes.size, False, functools.partial(_plan, rule))


def _plan(rule: Rule, batch_size: int | None, _: int, dtype: jax.typing.DTypeLike) -> Plan:
    rows = [jnp.asarray(row, dtype) for row in rule[1:] if row is not None]
    integration = functools.partial(_integration, rule.nodes.size, batch_size)
    return Plan(jnp.asarray(rule.nodes, dtype), jnp.stack(rows), integration)


def _integration(
    num_evals: int,
    batch_size: int | None,
    problem: Problem,
    nodes: jax.Array,
    weights: jax.Array,
    sharding: NodeSharding | None,
) -> Integration:
    """Returns how it is gone through, with this device's part of its nodes and weights."""
    integrand = problem.integrand
    total = chunked_sum(integrand.at, nodes, weights, integrand.zero, batch_size)

    def result(sums: Tree) -> tuple[Tree, Account]:
        rows = [jax.tree.map(lambda leaf, k=k: leaf[k], sums) for k in range(len(weights))]
        fine, *coarse = (add_up(integrand.attributions(row), sharding) for row in rows)
        size = problem.norm(fine)
        if coarse:
            change = problem.norm(jax.tree.map(jnp.subtract, fine, *coarse))
            error = jax.tree.map(relative, change, size)
        else:
            error = jax.tree.map(lambda size: jnp.full_like(size, jnp.nan), size)
        return fine, Account(error, jnp.asarray(num_evals, jnp.int32), jnp.asarray(True))

    never = lambda _: jnp.asarray(False)
    return Integration(
        total.begin, total.chunks, 0, total.step, total.step, stopped=never, result=result
    )
