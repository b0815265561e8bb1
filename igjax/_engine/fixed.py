"""The plan of a fixed rule: its nodes in tiles, one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from igjax._engine import notes, values
from igjax._engine.chunks import Found, chunked_sum
from igjax._engine.integration import Integration, Plan, Planner, Problem
from igjax._engine.report import Account, relative
from igjax._precision import tree_dtype
from igjax._sharding import NodeSharding, add_up, put_together, vary_like
from igjax._trees import Tree
from igjax.quadrature import Rule


def planner(rule: Rule, *, has_report: bool) -> Planner:
    """Returns the planner of a sound rule, which knows an error only where there is a report."""
    rule = rule if has_report else rule._replace(embedded_weights=None)
    return Planner(rule.nodes.size, False, functools.partial(_plan, rule))


def _plan(rule: Rule, batch_size: int | None, _: int, dtype: jax.typing.DTypeLike) -> Plan:
    rows = [jnp.asarray(row, dtype) for row in rule[1:] if row is not None]
    integration = functools.partial(_integration, rule, batch_size)
    return Plan(jnp.asarray(rule.nodes, dtype), jnp.stack(rows), integration)


def _integration(
    rule: Rule,
    batch_size: int | None,
    problem: Problem,
    nodes: jax.Array,
    weights: jax.Array,
    sharding: NodeSharding | None,
) -> Integration:
    """Returns how it is gone through, with this device's part of its nodes and weights."""
    integrand, count = problem.integrand, rule.nodes.size
    known = problem.values is not None and rule.embedded_weights is not None
    shift = _shift_of_equal_steps(rule) if known else None
    dtype = tree_dtype(problem.x)

    def at(alpha: jax.Array) -> tuple[Tree, Tree]:
        seen = integrand.at(alpha)
        return seen.contribution, () if shift is None else notes.of_node(problem, seen)

    room: Tree = ()
    if shift is not None:
        outputs = values.at_ends(problem)[0]
        zeros = jnp.zeros((len(nodes), notes.KNOWN, outputs.size), dtype)
        room = vary_like((nodes, outputs), zeros)
    total = chunked_sum(at, nodes, weights, integrand.zero, batch_size, room)

    def result(found: Found) -> tuple[Tree, Account]:
        sums, kept = found
        rows = [jax.tree.map(lambda leaf, k=k: leaf[k], sums) for k in range(len(weights))]
        fine, *coarse = (add_up(integrand.attributions(row), sharding) for row in rows)
        size = problem.norm(fine)
        if coarse:
            change = problem.norm(jax.tree.map(jnp.subtract, fine, *coarse))
            error = notes.flat(change, dtype)
            if known:
                error += values.gap(problem, fine)
            if shift is not None:
                seen = jnp.moveaxis(put_together(kept, sharding)[:count], 0, 2)
                error += values.between_nodes(problem, seen, count, shift)
            error = jax.tree.map(relative, notes.like_outputs(error, change), size)
        else:
            error = jax.tree.map(lambda size: jnp.full_like(size, jnp.nan), size)
        return fine, Account(error, jnp.asarray(count, jnp.int32), jnp.asarray(True))

    return Integration(
        begin=total.begin,
        look=lambda found: found,
        tiles=total.chunks,
        step=total.step,
        go_on=total.step,
        stopped=lambda _: jnp.asarray(False),
        result=result,
    )


def _shift_of_equal_steps(rule: Rule) -> float | None:
    """Returns the place of the first node, in steps, if the nodes are equally far apart."""
    nodes = rule.nodes
    if not isinstance(nodes, np.ndarray) or nodes.size < 3:
        return None
    even = nodes[0] + np.arange(nodes.size) / nodes.size
    return float(nodes[0] * nodes.size) if np.allclose(nodes, even, rtol=0.0, atol=1e-9) else None
