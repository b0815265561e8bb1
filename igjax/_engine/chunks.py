"""Functions of many nodes, in chunks: weighted sums, means, maps, and walks from node to node.

A node is a pytree of arrays: an alpha, or a key, a baseline and an alpha together. At most
``batch_size`` nodes are evaluated at once, so that neither memory nor the time to compile depends
on their number. Reverse-mode differentiation keeps to that too, by evaluating each chunk again.

This is the place that knows about chunks and loops; ``_jaxpr.convolutions`` and ``_sharding`` know
the rest of XLA's habits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igjax._jaxpr.convolutions import with_fast_convolutions
from igjax._precision import as_sums, sum_dtype
from igjax._sharding import NodeSharding, add_up, put_together, spread, vary_like
from igjax._trees import Tree

Found = tuple[Tree, Tree]  # a sum over nodes, and what is kept of each


class Sum(NamedTuple):
    """A weighted sum in chunks, and what is kept of each node.

    Attributes:
      begin: makes what there is of what is left over by chunks of equal size.
      chunks: what ``step`` is told of each: a pytree of arrays, a leading axis for the chunks.
      step: from what there is, and what is told of the next chunk, to what there is then.
    """

    begin: Callable[[], Found]
    chunks: Tree
    step: Callable[[Found, Tree], Found]


def chunked_sum(
    fun: Callable[[Tree], Found],
    nodes: Tree,
    weights: jax.Array,
    zero: Callable[[], Tree],
    batch_size: int | None = None,
    room: Tree = (),
) -> Sum:
    """Sets out the sum of ``weighted_sum``, for those who go from chunk to chunk themselves.

    Args:
      fun: of one node, to what is summed and to what is kept of it.
      nodes: as for ``weighted_sum``.
      weights: likewise.
      zero: makes zeros like what is summed.
      batch_size: as for ``weighted_sum``.
      room: zeros like what is kept, with the nodes along the first axis of each array.
    """
    size = batch_size or _count(nodes)
    chunk = _evaluated(functools.partial(_chunk_sum, fun), nodes, size)
    left_over, chunks = _in_chunks(nodes, weights, size)
    first = _count(left_over) if left_over else 0
    starts = first + size * jnp.arange(_count(chunks), dtype=jnp.int32)

    def put(kept: Tree, new: Tree, start: jax.Array | int) -> Tree:
        at = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(at, kept, new)

    def begin() -> Found:
        if not left_over:
            return no_sum(zero(), weights), room
        total, kept = chunk(*left_over)
        return total, put(vary_like(kept, room), kept, 0)

    def step(found: Found, told: tuple[jax.Array, tuple[Tree, jax.Array]]) -> Found:
        start, chunk_of = told
        total, kept = chunk(*chunk_of)
        return jax.tree.map(jnp.add, found[0], total), put(found[1], kept, start)

    return Sum(begin, (starts, chunks), step)


def weighted_sum(
    fun: Callable[[Tree], Tree],
    nodes: Tree,
    weights: jax.Array,
    zero: Callable[[], Tree],
    batch_size: int | None = None,
    sharding: NodeSharding | None = None,
) -> Tree:
    """Computes ``sum_k weights[..., k] * fun(nodes[k])`` for every leaf of what ``fun`` returns.

    Args:
      fun: a function of one node to a pytree of arrays.
      nodes: pytree of arrays, with the nodes along the first axis of each.
      weights: shape ``(..., n)``: each row gives a sum of its own over the same values.
      zero: makes zeros like what ``fun`` returns, laid out over devices as that is.
      batch_size: the number of nodes evaluated at once, on each device, at least 1; None: all.
      sharding: the devices that share the nodes, or None.

    Returns:
      A pytree like ``fun``'s, each leaf of shape ``weights.shape[:-1] + leaf.shape`` and in
      ``sum_dtype(leaf.dtype)``.
    """

    def on_device(nodes: Tree, weights: jax.Array) -> Tree:
        total = chunked_sum(lambda node: (fun(node), ()), nodes, weights, zero, batch_size)
        return add_up(fold(total.step, total.begin(), total.chunks)[0], sharding)

    return spread(on_device, nodes, weights, sharding, axis=0)


class Mean(NamedTuple):
    """A mean over nodes that were drawn at random.

    Attributes:
      mean: like what was averaged, in the precision of sums.
      standard_error: likewise: of the mean, if the draws are independent; NaN for a single node.
    """

    mean: Tree
    standard_error: Tree


class _Moments(NamedTuple):
    """What is known of some values: their number, mean, and squares of the distance from it."""

    number: jax.Array
    mean: Tree
    squares: Tree


def mean(
    fun: Callable[[Tree], Tree],
    nodes: Tree,
    zero: Callable[[], Tree],
    batch_size: int | None = None,
    sharding: NodeSharding | None = None,
) -> Mean:
    """Computes the mean of ``fun`` over nodes, and how far off it may be as an expectation.

    Args:
      fun: as for ``weighted_sum``.
      nodes: likewise.
      zero: likewise.
      batch_size: likewise.
      sharding: likewise.

    Source: the moments of chunks are put together as in Chan, Golub & LeVeque 1979, "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances".
    """

    def on_device(nodes: Tree, counted: jax.Array) -> _Moments:
        size = batch_size or _count(nodes)
        chunk = _evaluated(functools.partial(_moments, fun), nodes, size)
        left_over, chunks = _in_chunks(nodes, counted, size)
        none = no_sum((jnp.zeros(()), *(zero(),) * 2), counted)
        begun = chunk(*left_over) if left_over else _Moments(*none)
        return _over_devices(
            fold(lambda known, c: _together(known, chunk(*c)), begun, chunks), sharding
        )

    n = _count(nodes)
    _, average, squares = spread(on_device, nodes, jnp.ones((n,), jnp.float32), sharding, axis=0)

    def standard_error(square: jax.Array) -> jax.Array:
        if n == 1:
            return jnp.full_like(square, jnp.nan)
        # The root has no derivative at 0, where nothing varies.
        still = square == 0.0
        return jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, square) / (n * (n - 1))))

    return Mean(average, jax.tree.map(standard_error, squares))


def _moments(fun: Callable[[Tree], Tree], nodes: Tree, counted: jax.Array) -> _Moments:
    """Computes the moments of ``fun`` at nodes; what counts 0 is padding."""
    values = as_sums(jax.vmap(fun)(nodes))
    count = jnp.sum(counted)
    average = contract(counted / jnp.maximum(count, 1.0), values)
    apart = jax.tree.map(lambda v, m: jnp.square(v - m[None]), values, average)
    return _Moments(count, average, contract(counted, apart))


def _together(one: _Moments, other: _Moments) -> _Moments:
    count = one.number + other.number
    share = other.number / jnp.maximum(count, 1.0)
    apart = jax.tree.map(jnp.subtract, other.mean, one.mean)

    def squares(one_square: jax.Array, other_square: jax.Array, apart: jax.Array) -> jax.Array:
        between = (one.number * share).astype(apart.dtype) * jnp.square(apart)
        return one_square + other_square + between

    return _Moments(
        count,
        jax.tree.map(lambda m, d: m + share.astype(d.dtype) * d, one.mean, apart),
        jax.tree.map(squares, one.squares, other.squares, apart),
    )


def _over_devices(own: _Moments, sharding: NodeSharding | None) -> _Moments:
    """Puts together the moments that the devices have."""
    if sharding is None:
        return own
    count = add_up(own.number, sharding)
    scaled = lambda leaf: leaf * (own.number / jnp.maximum(count, 1.0)).astype(leaf.dtype)
    average = add_up(jax.tree.map(scaled, own.mean), sharding)

    def squares(square: jax.Array, own_mean: jax.Array, average: jax.Array) -> jax.Array:
        return square + own.number.astype(square.dtype) * jnp.square(own_mean - average)

    return _Moments(
        count, average, add_up(jax.tree.map(squares, own.squares, own.mean, average), sharding)
    )


def mapped(
    fun: Callable[[Tree], Tree],
    nodes: Tree,
    batch_size: int | None = None,
    sharding: NodeSharding | None = None,
) -> Tree:
    """Computes ``fun`` at every node, each leaf with the nodes along its first axis.

    Args:
      fun: as for ``weighted_sum``.
      nodes: likewise.
      batch_size: likewise.
      sharding: likewise.
    """

    def on_device(nodes: Tree, counted: jax.Array) -> Tree:
        size = batch_size or _count(nodes)
        chunk = _evaluated(jax.vmap(fun), nodes, size)
        left_over, chunks = _in_chunks(nodes, counted, size)
        parts = [chunk(left_over[0])] if left_over else []
        if _count(chunks):
            _, rest = jax.lax.scan(lambda _, c: (None, chunk(c[0])), None, chunks)
            parts += [jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rest)]
        values = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        return put_together(values, sharding)

    n = _count(nodes)
    values = spread(on_device, nodes, jnp.ones((n,), jnp.float32), sharding, axis=0)
    return jax.tree.map(lambda leaf: leaf[:n], values)


def walk(step: Callable[[Tree, Tree], Tree], start: Tree, nodes: Tree) -> Tree:
    """Goes from node to node: ``state = step(state, node)`` for each in order.

    Args:
      step: from what there is and a node to what there is then, of the same shapes and dtypes.
        Reverse-mode differentiation evaluates each step again, from what there was before it.
      start: what there is before the first node.
      nodes: as for ``weighted_sum``.

    Returns:
      What there is after the last node.
    """
    return fold(jax.checkpoint(with_fast_convolutions(step)), start, nodes)


def fold(step: Callable[[Tree, Tree], Tree], start: Tree, items: Tree) -> Tree:
    """Returns ``step(… step(step(start, items[0]), items[1]) …)``; without items, ``start``."""
    if not _count(items):
        return start
    return jax.lax.scan(lambda state, item: (step(state, item), None), start, items)[0]


def no_sum(zero: Tree, weights: jax.Array) -> Tree:
    """Returns the weighted sum over no node, laid out over devices as one with these weights."""
    nothing = jnp.sum(jnp.zeros_like(weights))

    def leaf(zero: jax.Array) -> jax.Array:
        precise = as_sums(zero) + nothing.astype(sum_dtype(zero.dtype))
        return jnp.broadcast_to(precise, (*weights.shape[:-1], *zero.shape))

    return jax.tree.map(leaf, zero)


def contract(weights: jax.Array, values: Tree) -> Tree:
    """Sums ``values``, whose arrays have the nodes along the first axis, by each row of weights."""

    def leaf(values: jax.Array) -> jax.Array:
        dtype = sum_dtype(values.dtype)
        # HIGHEST: accelerators would otherwise round both factors to fewer bits.
        return jnp.tensordot(
            weights.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return jax.tree.map(leaf, values)


def _chunk_sum(fun: Callable[[Tree], Found], nodes: Tree, weights: jax.Array) -> Found:
    summed, kept = jax.vmap(fun)(nodes)
    return contract(weights, summed), jax.lax.stop_gradient(kept)


def _evaluated(chunk: Callable[..., Tree], nodes: Tree, size: int) -> Callable[..., Tree]:
    """Returns ``chunk`` as XLA likes it; of several, reverse mode evaluates each again."""
    fast = with_fast_convolutions(chunk)
    return jax.checkpoint(fast) if size < _count(nodes) else fast


def _count(nodes: Tree) -> int:
    leaf: Any = jax.tree.leaves(nodes)[0]
    return int(leaf.shape[0])


def _in_chunks(
    nodes: Tree, weights: jax.Array, size: int
) -> tuple[tuple[Tree, jax.Array] | None, tuple[Tree, jax.Array]]:
    """Sets out nodes, and their weights, in chunks of ``size``, along a new axis in front.

    Returns:
      What is left over by them, which comes first, so that no node is padded; or None. If all is
      one chunk, it is that. And the chunks.
    """
    n = _count(nodes)
    first = n if size >= n else n % size
    left_over = jax.tree.map(lambda leaf: leaf[:first], nodes), weights[..., :first]
    rest = weights[..., first:].reshape(*weights.shape[:-1], -1, min(size, n))
    chunks = jax.tree.map(
        lambda leaf: leaf[first:].reshape(-1, min(size, n), *leaf.shape[1:]), nodes
    )
    return left_over if first else None, (chunks, jnp.moveaxis(rest, -2, 0))
