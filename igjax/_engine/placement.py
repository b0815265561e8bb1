"""Nodes that are spread evenly, taken to where they are wanted: a monotone map of [0, 1] to itself.

It goes through given points, so that each panel of the path gets just the share of the nodes that
it is meant to have, and is cubic between them: what it does to an integrand's smoothness is little,
and beside a narrow panel it opens up by degrees.

A placement is an array of ``(3, points)``: t, from 0 to 1; alpha, likewise; and ``dalpha / dt``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def even(points: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the map that leaves everything where it is."""
    at = np.linspace(0.0, 1.0, points)
    return jnp.asarray(np.stack([at, at, np.ones(points)]), dtype)


def through(alpha: jax.Array, masses: jax.Array) -> jax.Array:
    """Returns the map that gives each panel its share of the nodes.

    Args:
      alpha: shape ``(n + 1,)``, from 0 to 1: between which points the panels are. At the end there
        may be empty ones, which begin and end at 1.
      masses: shape ``(n,)``: the panels' shares, of sum 1; 0 where one is empty.

    Source: Fritsch & Butland 1984, "A Method for Constructing Local Monotone Piecewise Cubic
    Interpolants".
    """
    tiny = _tiny(masses)
    count = len(alpha)
    # Beyond the ends, and where a panel is empty, all goes on as beside it: a mass of 0, there.
    before, after = jnp.pad(masses, (1, 0)), jnp.pad(masses, (0, 1))
    width = jnp.diff(alpha)
    left = jnp.pad(width, (1, 0)) / jnp.maximum(before, tiny)
    right = jnp.pad(width, (0, 1)) / jnp.maximum(after, tiny)
    # A harmonic mean, in which the narrower panel counts more.
    first, second = 2.0 * after + before, after + 2.0 * before
    mean = (first + second) / (first / jnp.maximum(left, tiny) + second / jnp.maximum(right, tiny))
    slope = jnp.where((left > 0.0) & (right > 0.0), mean, jnp.maximum(left, right))
    t = jnp.sum(jnp.where(np.tri(count, dtype=bool), before[None], 0.0), axis=1)
    return jnp.stack([t, alpha, slope])


def place(placement: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes nodes to where they are wanted.

    Args:
      placement: the map.
      t: shape ``(n,)``, in [0, 1].

    Returns:
      ``alpha(t)``, and its derivative, by which to multiply the weights.
    """
    piece = jnp.sum(placement[:1, 1:-1] <= t[:, None], axis=1, dtype=jnp.int32)
    start, bottom, first = jnp.take(placement, piece, 1, mode="clip")
    end, top, last = jnp.take(placement, piece + 1, 1, mode="clip")
    length, rise = jnp.maximum(end - start, _tiny(t)), top - bottom
    first, last = first * length, last * length
    square, cube = 3.0 * rise - 2.0 * first - last, first + last - 2.0 * rise
    z = jnp.clip((t - start) / length, 0.0, 1.0)
    alpha = bottom + z * (first + z * (square + z * cube))
    stretch = (first + z * (2.0 * square + z * 3.0 * cube)) / length
    return jnp.clip(alpha, 0.0, 1.0), jnp.maximum(stretch, 0.0)


def _tiny(like: jax.Array) -> float:
    """Returns the smallest number that is no denormal."""
    finfo: Any = jnp.finfo
    return float(finfo(like.dtype).tiny)
