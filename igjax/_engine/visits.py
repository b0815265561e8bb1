"""Sums over nodes that are chosen on the way, until a policy says that it is enough."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp

from igjax._engine.chunks import contract, no_sum
from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._sharding import vary_like
from igjax._trees import Tree

Carry = tuple[Tree, tuple[jax.Array, Tree]]  # sums, whether to stop, and a policy's state


class Policy(NamedTuple):
    """Which nodes to visit, and when to stop. Its decisions are constants to derivatives.

    Attributes:
      start: its state before the first tile, a pytree of arrays.
      visit: from its state and what it is told of a tile to the tile's nodes, of shape ``(size,)``;
        the weights of the sums, ``(rows, size)``; and whether the sums begin afresh.
      observe: from the values at the nodes, each leaf of shape ``(size, ...)``, and what is told of
        the tile, to arrays that it wants to note.
      note: from its state, what ``observe`` saw, and what is told of the tile, to its next state.
      judge: from the sums, its state, and what is told of the tile, to whether to stop and its next
        state.
    """

    start: Tree
    visit: Callable[[Tree, Tree], tuple[jax.Array, jax.Array, jax.Array]]
    observe: Callable[[Tree, Tree], Tree]
    note: Callable[[Tree, Tree, Tree], Tree]
    judge: Callable[[Tree, Tree, Tree], tuple[jax.Array, Tree]]


class Visits(NamedTuple):
    """What goes from tile to tile. When it has stopped, nothing changes any more.

    A step takes what there is, and a pair: what the policy is told of the tile, and whether to ask
    it to judge after that.

    Attributes:
      start: what there is before the first tile.
      step: a step that evaluates the nodes only where some example of a ``vmap`` needs them.
        Reverse-mode differentiation evaluates them again.
      go_on: a step that evaluates them whatever there is.
    """

    start: Carry
    step: Callable[[Carry, tuple[Tree, jax.Array]], Carry]
    go_on: Callable[[Carry, tuple[Tree, jax.Array]], Carry]


def visits(
    fun: Callable[[jax.Array], Tree], zero: Callable[[], Tree], first: Tree, policy: Policy
) -> Visits:
    """Sets out the sums of ``chunks.weighted_sum``, over the nodes that a policy visits.

    Args:
      fun: as for ``weighted_sum``.
      zero: likewise.
      first: what the policy is told of the first tile.
      policy: which nodes to visit, and when to stop.
    """

    @with_fast_convolutions
    def evaluate(tile: Tree, nodes: jax.Array, weights: jax.Array) -> tuple[Tree, Tree]:
        values = jax.vmap(fun)(nodes)
        return contract(weights, values), policy.observe(values, tile)

    @with_fast_convolutions
    def only_sum(_: Tree, nodes: jax.Array, weights: jax.Array) -> tuple[Tree, Tree]:
        return contract(weights, jax.vmap(fun)(nodes)), unseen

    def judge(sums: Tree, state: Tree, tile: Tree) -> tuple[jax.Array, Tree]:
        stop, state = policy.judge(sums, state, tile)
        # The same, but differing between devices where ``stop`` does: in a shard_map a type.
        return stop, jax.tree.map(lambda leaf: leaf + jnp.zeros_like(stop, leaf.dtype), state)

    nodes, weights, _ = policy.visit(policy.start, first)
    nothing = no_sum(zero(), weights)
    shapes = jax.eval_shape(evaluate, first, nodes, weights)[1]
    unseen = vary_like(nothing, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
    judged = judge(nothing, policy.note(policy.start, unseen, first), first)
    start = jax.tree.map(  # of the type that it will have
        lambda later, start: jnp.zeros_like(later) + start, judged, (False, policy.start)
    )

    # Outside of the branch: so that only a flag is kept for reverse mode, and not what the branch
    # closes over (all the weights of a network, once for every tile).
    @jax.checkpoint
    def evaluate_if(running: jax.Array, *visited: Tree) -> tuple[Tree, Tree]:
        return jax.lax.cond(running, evaluate, lambda *_: (nothing, unseen), *visited)

    def step_by(
        evaluated: Callable[..., tuple[Tree, Tree]], carry: Carry, told: tuple[Tree, jax.Array]
    ) -> Carry:
        sums, (stopped, state) = carry
        tile, look = told
        nodes, weights, afresh = policy.visit(state, tile)
        fresh, seen = evaluated(stopped, tile, nodes, weights)
        sums = jax.tree.map(lambda old, new: jnp.where(afresh, new, old + new), sums, fresh)
        noted = policy.note(state, jax.lax.stop_gradient(seen), tile)
        keep = lambda _, state, __: (stopped, state)
        given = jax.lax.stop_gradient((sums, noted, tile))
        carried = sums, jax.lax.cond(look, judge, keep, *given)
        return jax.tree.map(lambda old, new: jnp.where(stopped, old, new), carry, carried)

    return Visits(
        (nothing, start),
        functools.partial(step_by, lambda stopped, *visited: evaluate_if(~_all(stopped), *visited)),
        functools.partial(step_by, lambda _, *visited: only_sum(*visited)),
    )


@jax.custom_batching.custom_vmap
def _all(flag: jax.Array) -> jax.Array:
    return flag


@_all.def_vmap
def _all_of_batch(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[Any, bool]:
    """Makes one flag for a whole batch: a branch on it stays one, and is not taken both ways."""
    del axis_size
    return (_all(jnp.all(flag, axis=0)) if in_batched[0] else _all(flag)), False
