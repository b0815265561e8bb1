"""The plan of a fixed rule: its nodes in tiles, one after the other.

Where the error is to be known, two observers just inside the ends of the path come with them. What
is known of the error is added up: the change from the rule that is embedded, the completeness gap,
what the values of F say, and what may lie between the observers and the outermost nodes. Where both
observers see something else than nodes that all see the same, these may have been in step with the
integrand, as steps of a 64th are with a wave of 64 periods: then nothing is known of the error, and
all may be wrong.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igjax._engine import notes, values
from igjax._engine.chunks import Found, chunked_sum
from igjax._engine.integration import Integration, Plan, Planner, Problem
from igjax._engine.observers import ALARM, ALARM_OF_WHOLE, BETWEEN_OBSERVER, DISTANCE
from igjax._engine.report import Account, Reason, relative
from igjax._precision import tree_dtype
from igjax._quadrature.gauss import Floats
from igjax._sharding import NodeSharding, add_up, put_together, vary_like
from igjax._trees import Tree
from igjax.quadrature import Rule


def planner(rule: Rule, *, has_report: bool) -> Planner:
    """Returns the planner of a sound rule, which knows an error only where there is a report."""
    rule = rule if has_report else rule._replace(embedded_weights=None)
    watched = _watched(rule, reported=has_report)
    return Planner(watched.nodes.size, False, functools.partial(_plan, watched))


class _Watched(NamedTuple):
    """A rule, and what is needed to know its error.

    Attributes:
      nodes: those of the rule, and around them the observers, if there are any.
      rows: of weights: of the rule; of the one embedded in it; for each end, of the difference
        between what its observer sees and what the nodes let expect; and for each, of that between
        its outermost nodes.
      ways: from the observers to the outermost nodes; empty if there are none.
      shift: of the rule's first node, in steps, if they are equally far apart, else None.
      reported: whether anybody asks for the error.
    """

    nodes: Any
    rows: list[Any]
    ways: tuple[float, ...]
    shift: float | None
    reported: bool


def _watched(rule: Rule, *, reported: bool) -> _Watched:
    nodes, *rows = (row for row in rule if row is not None)
    if len(rows) == 1 or not isinstance(nodes, np.ndarray) or nodes.size < 3:
        return _Watched(nodes, rows, (), None, reported)
    shift = _shift_of_equal_steps(nodes)
    ends = np.array([DISTANCE, 1.0 - DISTANCE])
    ways = np.maximum([nodes[0] - ends[0], ends[1] - nodes[-1]], 0.0)
    if not ways.any():  # a closed rule is there itself
        return _Watched(nodes, rows, (), shift, reported)
    apart = [nodes[1] - nodes[0], nodes[-1] - nodes[-2]]
    more = np.zeros((4, nodes.size + 2))
    for side, (way, step) in enumerate(zip(ways, apart, strict=True)):
        difference, change = (row[:: 1 - 2 * side] for row in more[side::2])
        further = way / step if step else 0.0
        difference[:3] = 1.0, -(1.0 + further), further
        change[1:3] = 1.0, -1.0
    watched = [np.pad(row, 1) for row in rows]
    around = np.concatenate([ends[:1], nodes, ends[1:]])
    return _Watched(around, [*watched, *more], tuple(ways), shift, reported)


def _at_ends(lengths: list[jax.Array], ways: tuple[float, ...], size: jax.Array) -> jax.Array:
    """Returns the error that is possible by what is seen at both ends, for each output.

    Args:
      lengths: of the differences at both ends, and of the changes there.
      ways: from the observers to the outermost nodes.
      size: the L1 norm of the attributions.
    """
    differences, changes = jnp.stack(lengths[:2]), jnp.stack(lengths[2:])
    between = sum(way * length for way, length in zip(ways, lengths[:2], strict=True))
    seen_by_none = (differences > ALARM * changes) & (differences > ALARM_OF_WHOLE * size[None])
    in_step = jnp.where(jnp.all(seen_by_none, axis=0), jnp.max(differences, axis=0), 0.0)
    return BETWEEN_OBSERVER * between + in_step


def _shift_of_equal_steps(nodes: Floats) -> float | None:
    """Returns the place of the first node, in steps, if the nodes are equally far apart."""
    even = nodes[0] + np.arange(nodes.size) / nodes.size
    return float(nodes[0] * nodes.size) if np.allclose(nodes, even, rtol=0.0, atol=1e-9) else None


def _plan(rule: _Watched, batch_size: int | None, _: int, dtype: jax.typing.DTypeLike) -> Plan:
    rows = jnp.stack([jnp.asarray(row, dtype) for row in rule.rows])
    integration = functools.partial(_integration, rule, batch_size)
    return Plan(jnp.asarray(rule.nodes, dtype), rows, integration)


def _integration(
    rule: _Watched,
    batch_size: int | None,
    problem: Problem,
    nodes: jax.Array,
    weights: jax.Array,
    sharding: NodeSharding | None,
) -> Integration:
    """Returns how it is gone through, with this device's part of its nodes and weights."""
    integrand, count, dtype = problem.integrand, rule.nodes.size, tree_dtype(problem.x)
    shift = None if problem.values is None else rule.shift

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
        fine, *others = (add_up(integrand.attributions(row), sharding) for row in rows)
        size = problem.norm(fine)
        finite = jnp.all(jnp.isfinite(notes.flat(size, dtype)))
        if others:
            coarse, *at_ends = others
            error = distance(fine, coarse)
            if rule.ways:
                lengths = [notes.flat(problem.norm(row), dtype) for row in at_ends]
                error += _at_ends(lengths, rule.ways, notes.flat(size, dtype))
            if problem.values is not None:
                error += values.gap(problem, fine)
            if shift is not None:
                seen = put_together(kept, sharding)[:count]
                seen = jnp.moveaxis(seen[1:-1] if rule.ways else seen, 0, 2)
                error += values.between_nodes(problem, seen, seen.shape[2], shift)
            error += problem.floor * notes.flat(size, dtype)
            finite &= jnp.all(jnp.isfinite(error))
            error = jax.tree.map(relative, notes.like_outputs(error, size), size)
        else:
            # If nobody asks, no NaN is made, which jax_debug_nans would find.
            unknown = jnp.nan if rule.reported else 0.0
            error = jax.tree.map(lambda size: jnp.full_like(size, unknown), size)
        reason = jnp.where(finite, jnp.int32(Reason.CONVERGED), jnp.int32(Reason.NOT_FINITE))
        return fine, Account(error, jnp.asarray(count, jnp.int32), reason)

    def distance(one: Tree, other: Tree) -> jax.Array:
        return notes.flat(problem.norm(jax.tree.map(jnp.subtract, one, other)), dtype)

    return Integration(
        begin=total.begin,
        look=lambda found: found,
        tiles=total.chunks,
        step=total.step,
        go_on=total.step,
        stopped=lambda _: jnp.asarray(False),
        result=result,
    )
