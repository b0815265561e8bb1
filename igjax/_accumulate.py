"""The engine: weighted sums over nodes, in chunks, of whatever a function returns.

Every method that integrates or averages goes through ``weighted_sum`` or ``sum_until``. This is the
place that knows about chunks and loops; ``_jaxpr.convolutions`` and ``_sharding`` know the rest of
XLA's habits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp

from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._precision import sum_dtype
from igjax._sharding import vary_like

Tree = Any
Evaluate = Callable[..., tuple[Tree, Tree]]  # of a tile, its nodes and its weights
Carry = tuple[Tree, tuple[jax.Array, Tree]]  # sums, whether to stop, and a policy's state


def weighted_sum(
    fun: Callable[[jax.Array], Tree],
    nodes: jax.Array,
    weights: jax.Array,
    zero: Callable[[], Tree],
    batch_size: int | None = None,
) -> Tree:
    """Computes ``sum_k weights[..., k] * fun(nodes[k])`` for every leaf of what ``fun`` returns.

    At most ``batch_size`` nodes are evaluated at once, so that neither memory nor the time to
    compile depends on their number. Reverse-mode differentiation keeps to that too, by evaluating
    each chunk again.

    Args:
      fun: a function of one node, a scalar, to a pytree of arrays.
      nodes: shape ``(n,)``.
      weights: shape ``(..., n)``: each row gives a sum of its own over the same values.
      zero: makes zeros like what ``fun`` returns, laid out over devices as that is.
      batch_size: the number of nodes evaluated at once, at least 1; None: all of them.

    Returns:
      A pytree like ``fun``'s, each leaf of shape ``weights.shape[:-1] + leaf.shape`` and in
      ``sum_dtype(leaf.dtype)``.
    """
    n = nodes.shape[0]
    size = min(batch_size or n, n)
    chunk = with_fast_convolutions(functools.partial(_chunk_sum, fun))
    if size == n:
        return chunk(nodes, weights)

    chunk = jax.checkpoint(chunk)
    first = n % size  # what is left over comes first: no node is padded
    total = chunk(nodes[:first], weights[..., :first]) if first else _no_sum(zero(), nodes, weights)

    def step(total: Tree, chunk_of: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, chunk(*chunk_of)), None

    rest = weights[..., first:].reshape(*weights.shape[:-1], -1, size)
    chunks = (nodes[first:].reshape(-1, size), jnp.moveaxis(rest, -2, 0))
    return jax.lax.scan(step, total, chunks)[0]


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


def sum_until(
    fun: Callable[[jax.Array], Tree],
    zero: Callable[[], Tree],
    tiles: Tree,
    looks: jax.Array,
    policy: Policy,
) -> tuple[Tree, Tree]:
    """Computes the sums of ``weighted_sum`` tile by tile, until a policy says that it is enough.

    The tiles that are left are skipped, unless another example of a ``vmap`` needs them; the sums
    of an example that is done do not change any more. Reverse-mode differentiation evaluates each
    tile again, as ``weighted_sum`` does.

    Args:
      fun: as for ``weighted_sum``.
      zero: as for ``weighted_sum``.
      tiles: what the policy is told of each tile: a pytree of arrays, a leading axis for the tiles.
      looks: shape ``(tiles,)``, bool: whether to ask the policy, after a tile, to judge.
      policy: which nodes to visit, and when to stop.

    Returns:
      The sums, each leaf of shape ``(rows, *leaf.shape)``, and the policy's last state.
    """
    start, step = steps(
        fun, zero, jax.tree.map(lambda leaf: leaf[0], tiles), policy, _unless_stopped
    )
    (sums, (_, state)), _ = jax.lax.scan(
        lambda carry, tile: (step(carry, *tile), None), start, (tiles, looks)
    )
    return sums, state


def steps(
    fun: Callable[[jax.Array], Tree],
    zero: Callable[[], Tree],
    first: Tree,
    policy: Policy,
    evaluation: Callable[[Evaluate, Tree], Callable[..., Tree]] = lambda evaluate, _: (
        lambda _, *visited: evaluate(*visited)
    ),
) -> tuple[Carry, Callable[[Carry, Tree, jax.Array], Carry]]:
    """``sum_until``, for those who go from tile to tile themselves.

    Args:
      fun: as for ``weighted_sum``.
      zero: as for ``weighted_sum``.
      first: what the policy is told of the first tile.
      policy: which nodes to visit, and when to stop.
      evaluation: from the function that evaluates a tile, and zeros like what it returns, to one
        that is told beforehand whether the policy has stopped; by default it evaluates every tile.

    Returns:
      What there is before the first tile: the sums, whether to stop, and the policy's state. And a
      function of that, what the policy is told of a tile, and whether to ask it to judge after
      that, to what there is then. When it has stopped, nothing changes any more.
    """

    @with_fast_convolutions
    def evaluate(tile: Tree, nodes: jax.Array, weights: jax.Array) -> tuple[Tree, Tree]:
        values = jax.vmap(fun)(nodes)
        return _contract(weights, values), policy.observe(values, tile)

    def judge(sums: Tree, state: Tree, tile: Tree) -> tuple[jax.Array, Tree]:
        stop, state = policy.judge(sums, state, tile)
        # The same, but differing between devices where ``stop`` does: in a shard_map a type.
        return stop, jax.tree.map(lambda leaf: leaf + jnp.zeros_like(stop, leaf.dtype), state)

    nodes, weights, _ = policy.visit(policy.start, first)
    no_sum = _no_sum(zero(), nodes, weights)
    shapes = jax.eval_shape(evaluate, first, nodes, weights)[1]
    unseen = vary_like(no_sum, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
    judged = judge(no_sum, policy.note(policy.start, unseen, first), first)
    start = jax.tree.map(  # of the type that it will have
        lambda later, start: jnp.zeros_like(later) + start, judged, (False, policy.start)
    )
    evaluated = evaluation(evaluate, (no_sum, unseen))

    def step(carry: Carry, tile: Tree, look: jax.Array) -> Carry:
        sums, (stopped, state) = carry
        nodes, weights, afresh = policy.visit(state, tile)
        fresh, seen = evaluated(stopped, tile, nodes, weights)
        sums = jax.tree.map(lambda old, new: jnp.where(afresh, new, old + new), sums, fresh)
        noted = policy.note(state, jax.lax.stop_gradient(seen), tile)
        keep = lambda _, state, __: (stopped, state)
        given = jax.lax.stop_gradient((sums, noted, tile))
        carried = sums, jax.lax.cond(look, judge, keep, *given)
        return jax.tree.map(lambda old, new: jnp.where(stopped, old, new), carry, carried)

    return (no_sum, start), step


def _unless_stopped(evaluate: Evaluate, nothing: Tree) -> Callable[..., Tree]:
    """Evaluates a tile if any example of a ``vmap`` still needs it."""

    # Outside of the branch: so that only a flag is kept for reverse mode, and not what the branch
    # closes over (all the weights of a network, once for every tile).
    @jax.checkpoint
    def evaluate_if(running: jax.Array, *visited: Tree) -> Tree:
        return jax.lax.cond(running, evaluate, lambda *_: nothing, *visited)

    return lambda stopped, *visited: evaluate_if(~_all(stopped), *visited)


def _chunk_sum(fun: Callable[[jax.Array], Tree], nodes: jax.Array, weights: jax.Array) -> Tree:
    return _contract(weights, jax.vmap(fun)(nodes))


def _contract(weights: jax.Array, values: Tree) -> Tree:
    def leaf(values: jax.Array) -> jax.Array:
        dtype = sum_dtype(values.dtype)
        # HIGHEST: accelerators would otherwise round both factors to fewer bits.
        return jnp.tensordot(
            weights.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return jax.tree.map(leaf, values)


def _no_sum(zero: Tree, nodes: jax.Array, weights: jax.Array) -> Tree:
    """What ``_chunk_sum`` would return for no nodes, laid out over devices as for these."""

    def leaf(zero: jax.Array) -> jax.Array:
        zero = zero.astype(sum_dtype(zero.dtype)) + jnp.zeros_like(nodes[0], sum_dtype(zero.dtype))
        return jnp.broadcast_to(zero, (*weights.shape[:-1], *zero.shape))

    return jax.tree.map(leaf, zero)


@jax.custom_batching.custom_vmap
def _all(flag: jax.Array) -> jax.Array:
    return flag


@_all.def_vmap
def _all_of_batch(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[Any, bool]:
    """One flag for a whole batch: a branch on it stays one, instead of being taken both ways."""
    del axis_size
    return (_all(jnp.all(flag, axis=0)) if in_batched[0] else _all(flag)), False
