"""The engine: weighted sums over nodes, in chunks, of whatever a function returns.

Every method that integrates or averages goes through ``weighted_sum``. It alone knows about
chunking and the habits of XLA.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp

from igjax._precision import sum_dtype

Tree = Any


def weighted_sum(
    fun: Callable[[jax.Array], Tree],
    nodes: jax.Array,
    weights: jax.Array,
    batch_size: int | None = None,
) -> Tree:
    """Computes ``sum_k weights[..., k] * fun(nodes[k])`` for every leaf of what ``fun`` returns.

    At most ``batch_size`` nodes are evaluated at once, so that memory does not depend on their
    number. Reverse-mode differentiation keeps to that too, by evaluating each chunk again; but not
    for convolutions on the CPU, whose chunks XLA then evaluates side by side.

    Args:
      fun: a function of one node, a scalar, to a pytree of arrays.
      nodes: shape ``(n,)``.
      weights: shape ``(..., n)``: each row gives a sum of its own over the same values.
      batch_size: the number of nodes evaluated at once, at least 1; None: all of them.

    Returns:
      A pytree like ``fun``'s, each leaf of shape ``weights.shape[:-1] + leaf.shape`` and in
      ``sum_dtype(leaf.dtype)``.
    """
    n = nodes.shape[0]
    size = min(batch_size or n, n)
    if size == n:
        return _chunk_sum(fun, nodes, weights)

    # The first chunk takes the remainder: no node is padded, and its result, which has the right
    # shapes, shardings and varying axes (as zeros would not), starts the sum.
    first = (n - 1) % size + 1
    chunk = jax.checkpoint(functools.partial(_chunk_sum, fun))
    total = chunk(nodes[:first], weights[..., :first])
    rest = (
        nodes[first:].reshape(-1, size),
        jnp.moveaxis(weights[..., first:].reshape(*weights.shape[:-1], -1, size), -2, 0),
    )

    def step(total: Tree, xs: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, chunk(*xs)), None

    if _loops_are_slow(chunk, nodes[:size], weights[..., :size]):
        for xs in zip(*rest, strict=True):
            total, _ = step(total, (_after(total, xs[0]), xs[1]))
        return total
    return jax.lax.scan(step, total, rest)[0]


def _chunk_sum(fun: Callable[[jax.Array], Tree], nodes: jax.Array, weights: jax.Array) -> Tree:
    def contract(values: jax.Array) -> jax.Array:
        dtype = sum_dtype(values.dtype)
        # HIGHEST: accelerators would otherwise round both factors to fewer bits.
        return jnp.tensordot(
            weights.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return jax.tree.map(contract, jax.vmap(fun)(nodes))


def _after(total: Tree, nodes: jax.Array) -> jax.Array:
    """``nodes``, but not before ``total`` is known, so that chunks are not all in memory at once.

    XLA for the CPU drops ``optimization_barrier`` before it schedules (seen with jax 0.10), so the
    dependence must be one that it can't see through: a zero, whether ``total`` holds NaN or not.
    """
    return nodes + jnp.minimum(_has_nan(jax.lax.stop_gradient(total)).astype(nodes.dtype), 0)


@jax.custom_batching.custom_vmap
def _has_nan(tree: Tree) -> jax.Array:
    # Of all leaves: XLA may know one of them, a linear bias's say, without waiting for it.
    return functools.reduce(
        jnp.logical_or, (jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(tree))
    )


@_has_nan.def_vmap
def _has_nan_anywhere(axis_size: int, in_batched: list[Tree], tree: Tree) -> tuple[Any, Any]:
    """Of a whole batch: so the nodes stay one for all of it, and so does what depends on them."""
    del axis_size, in_batched
    return _has_nan(tree), False


def _loops_are_slow(chunk: Callable[..., Tree], *args: jax.Array) -> bool:
    """Whether a loop over ``chunk`` should be unrolled: on the CPU, if it has convolutions.

    XLA for the CPU hands convolutions to its fast library only outside loops and branches; inside,
    their gradients become scalar code (a CNN of 4 layers, 50 nodes in chunks of 10, 2 cores: 0.15 s
    unrolled and 0.55 s in a scan on jax 0.10.2; 0.11 s and 1.43 s on 0.12.0.1).
    """
    if jax.default_backend() != "cpu":
        return False
    return any(
        eqn.primitive.name == "conv_general_dilated"
        for eqn in _equations(jax.make_jaxpr(chunk)(*args))
    )


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of those inside it (of jit, checkpoint …), but not of loops."""
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name in ("scan", "while", "cond"):
            continue  # what is in a loop of the function's own stays there
        for inner in jax.tree.leaves(list(eqn.params.values())):
            if hasattr(inner, "eqns"):  # a Jaxpr or a ClosedJaxpr
                yield from _equations(inner)
