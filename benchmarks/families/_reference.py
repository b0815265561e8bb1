"""The truth: many Gauss–Legendre nodes in float64, dense where a member may be steep."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.families._kind import Kind, Member
from igjax import quadrature

_PANELS = 512  # of equal length, beside those that are graded
_FEWER = 300  # panels, to see how much that changes
_FINEST = 34  # halvings of a panel towards where it may be steep
_FINEST_AT_ZERO = 70
_CHUNK = 512  # nodes at once
# To see where a member is steep that nobody knew of: how many pieces of the path are looked at, how
# much of all changes their ends have to miss, and how many of them count.
_PIECES, _MISSED, _MOST_JUMPS = 4096, 1e-4, 24


class Truth(NamedTuple):
    """What the attributions are.

    Attributes:
      attributions: like the input, float64.
      uncertainty: how much fewer panels change them, relative L1.
    """

    attributions: NDArray[np.float64]
    uncertainty: float


def truth(kind: Kind, member: Member) -> Truth:
    """Computes the integrated gradients of a member, as the float64 function has them."""
    with jax.enable_x64(True):
        params, x, baseline = jax.tree.map(_double, tuple(member))
        along = functools.partial(_along(kind.exact or kind.fun), params, x, baseline)
        places = (0.0, 1.0, *kind.steep(member), *_jumps(along))
        fine, coarse = (
            np.asarray(_program(kind.exact or kind.fun)(params, x, baseline, *_nodes(n, places)))
            for n in (_PANELS, _FEWER)
        )
    size = np.abs(fine).sum()
    return Truth(fine, float(np.abs(fine - coarse).sum() / size) if size else 0.0)


def _jumps(along: Callable[[NDArray[Any]], tuple[Any, Any]]) -> NDArray[np.float64]:
    """Finds where F changes by much more than its slopes say, as in a network that has learnt to.

    Args:
      along: from places on the path to F and its slope there.
    """
    at = np.linspace(0.0, 1.0, _PIECES + 1)
    values, slopes = map(np.asarray, along(at))
    changes = np.diff(values)
    missed = np.abs(changes - (slopes[1:] + slopes[:-1]) / 2 / _PIECES)
    largest = np.argsort(missed)[::-1][:_MOST_JUMPS]
    largest = largest[missed[largest] > _MISSED * np.abs(changes).sum()]
    if not largest.size:
        return np.zeros(0)
    left, right = at[largest], at[largest + 1]
    for _ in range(_FINEST):
        middle = (left + right) / 2
        every = np.concatenate([left, middle, right])
        # Always as many: so one program does for all.
        padded = np.pad(every, (0, 3 * _MOST_JUMPS - every.size))
        start, half, end = np.asarray(along(padded)[0])[: every.size].reshape(3, -1)
        first = np.abs(half - start) > np.abs(end - half)
        left, right = np.where(first, left, middle), np.where(first, middle, right)
    return (left + right) / 2


@functools.cache
def _along(fun: Callable[[Any, Any], Any]) -> Callable[..., tuple[Any, Any]]:
    """Returns F and its slope, of parameters, an input, a baseline and places on the path."""

    @jax.jit
    def along(params: Any, x: Any, baseline: Any, places: Any) -> tuple[jax.Array, jax.Array]:
        def at(alpha: jax.Array) -> Any:
            of = lambda alpha: fun(params, baseline + alpha * (x - baseline))
            return jax.jvp(of, (alpha,), (jnp.ones_like(alpha),))

        return jax.lax.map(at, places, batch_size=_CHUNK)

    return along


def _double(leaf: Any) -> NDArray[Any]:
    return np.asarray(leaf, np.float64)


def _nodes(panels: int, places: tuple[float, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns nodes and weights, in rows of a chunk each."""
    steps = 2.0 ** -np.arange(1.0, _FINEST, 0.5)
    edges = [np.linspace(0.0, 1.0, panels + 1)]
    edges += [place + sign * steps for place in places for sign in (-1.0, 1.0)]
    # Next to 0 floats are dense, and a recurrent network may be steep there as nowhere else.
    edges.append(2.0 ** -np.arange(1.0, _FINEST_AT_ZERO))
    cuts = np.unique(np.clip(np.concatenate(edges), 0.0, 1.0))
    rule, widths = quadrature.gauss_legendre(8), np.diff(cuts)[:, None]
    nodes = (cuts[:-1, None] + widths * rule.nodes).ravel()
    weights = (widths * rule.weights).ravel()
    padding = (0, -len(nodes) % _CHUNK)
    return np.pad(nodes, padding).reshape(-1, _CHUNK), np.pad(weights, padding).reshape(-1, _CHUNK)


@functools.cache
def _program(fun: Callable[[Any, Any], Any]) -> Callable[..., jax.Array]:
    @jax.jit
    def integrated(
        params: Any, x: jax.Array, baseline: jax.Array, nodes: jax.Array, weights: jax.Array
    ) -> jax.Array:
        def gradient(alpha: jax.Array) -> jax.Array:
            return jax.grad(fun, argnums=1)(params, baseline + alpha * (x - baseline))

        def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + jnp.tensordot(chunk[1], jax.vmap(gradient)(chunk[0]), 1), None

        return jax.lax.scan(add, jnp.zeros_like(x), (nodes, weights))[0] * (x - baseline)

    return integrated
