"""The engine: weighted sums over nodes, in chunks, of whatever a function returns.

Every method that integrates or averages goes through ``weighted_sum`` or ``sum_until``. This is the
place that knows about chunks and loops; ``_convolutions`` and ``_sharding`` know the rest of XLA's
habits.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp

from igjax._convolutions import with_fast_convolutions
from igjax._precision import sum_dtype

Tree = Any


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


def sum_until(
    done: Callable[[Tree, jax.Array], tuple[jax.Array, Tree]],
    fun: Callable[[jax.Array], Tree],
    nodes: jax.Array,
    weights: jax.Array,
    complete: jax.Array,
    zero: Callable[[], Tree],
) -> tuple[Tree, jax.Array, Tree]:
    """Computes the sums of ``weighted_sum`` tile by tile, until ``done`` says that it is enough.

    The tiles that are left are skipped, unless another example of a ``vmap`` needs them; the sums
    of an example that is done do not change any more. Reverse-mode differentiation evaluates each
    tile again, as ``weighted_sum`` does, and takes what ``done`` said for a constant.

    Args:
      done: a function of the sums so far and of a number in ``complete``; it returns whether to
        stop, and a pytree of arrays, its findings.
      fun: as for ``weighted_sum``.
      nodes: shape ``(tiles, size)``.
      weights: shape ``(tiles, rows, size)``.
      complete: shape ``(tiles,)``, int32: what to tell ``done`` after each tile; where it is
        negative, ``done`` is not asked. The last one must not be.
      zero: as for ``weighted_sum``.

    Returns:
      The sums, each leaf of shape ``(rows, *leaf.shape)``; the last number that ``done`` was told;
      and its findings then.
    """
    tile_sum = with_fast_convolutions(functools.partial(_chunk_sum, fun))
    none = _no_sum(zero(), nodes[0], weights[0])

    # Outside of the branch: so that only a flag is kept for reverse mode, and not what the branch
    # closes over (all the weights of a network, once for every tile).
    @jax.checkpoint
    def evaluate(running: jax.Array, nodes: jax.Array, weights: jax.Array) -> Tree:
        return jax.lax.cond(running, tile_sum, lambda *_: none, nodes, weights)

    def ask(sums: Tree, number: jax.Array) -> tuple[jax.Array, jax.Array, Tree]:
        stop, findings = done(jax.lax.stop_gradient(sums), jnp.maximum(number, 0))
        # The same, but differing between devices where ``stop`` does: in a shard_map a type.
        return jax.tree.map(lambda leaf: jnp.where(stop, leaf, leaf), (stop, number, findings))

    def step(carry: tuple[Tree, Any], tile: Any) -> tuple[tuple[Tree, Any], None]:
        sums, verdict = carry
        nodes, weights, number = tile
        stopped = verdict[0]
        fresh = evaluate(~_all(stopped), nodes, weights)
        sums = jax.tree.map(lambda old, new: jnp.where(stopped, old, old + new), sums, fresh)
        asked = jax.lax.cond(number >= 0, ask, lambda *_: verdict, sums, number)
        verdict = jax.tree.map(lambda old, new: jnp.where(stopped, old, new), verdict, asked)
        return (sums, verdict), None

    unasked = jax.tree.map(jnp.zeros_like, ask(none, complete[-1]))
    (sums, (_, number, findings)), _ = jax.lax.scan(
        step, (none, unasked), (nodes, weights, complete)
    )
    return sums, number, findings


def _chunk_sum(fun: Callable[[jax.Array], Tree], nodes: jax.Array, weights: jax.Array) -> Tree:
    def contract(values: jax.Array) -> jax.Array:
        dtype = sum_dtype(values.dtype)
        # HIGHEST: accelerators would otherwise round both factors to fewer bits.
        return jnp.tensordot(
            weights.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return jax.tree.map(contract, jax.vmap(fun)(nodes))


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
