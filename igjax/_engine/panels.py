"""The path between the nodes, panel by panel: how much may be hidden there."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igjax._engine.notes import KNOWN, SLOPE, VALUE

LEAST = 0.2  # density anywhere, of a mean of 1
# Nobody knows what is beyond the outermost node. An integrand may go on to rise like the inverse of
# the distance from the end, as that of a norm does, down to the resolution of float32.
_FLOOR = 2e-8


class Panels(NamedTuple):
    """What is known of the path at some points: its ends, and nodes in any order.

    Attributes:
      nodes: their number.
      alpha: of the points, ``(n,)``. First of the baseline, then of the nodes; the rest is 1.
      notes: of the points, ``(KNOWN + BUCKETS, outputs, n)``. Of the ends F is known, and no more.
    """

    nodes: jax.Array
    alpha: jax.Array
    notes: jax.Array


def of_nodes(
    alpha: jax.Array, notes: jax.Array, ends: tuple[jax.Array, jax.Array], room: int
) -> Panels:
    """Returns what is known at some nodes, with room for more.

    Args:
      alpha: of the nodes.
      notes: of the nodes.
      ends: F(x') and F(x), ``(outputs,)``.
      room: for so many more.
    """
    nothing = jnp.zeros((len(notes) - 1, notes.shape[1], 1), notes.dtype)
    start, end = (jnp.concatenate([value[None, :, None], nothing]) for value in ends)  # VALUE first
    return Panels(
        jnp.asarray(len(alpha), jnp.int32),
        jnp.pad(alpha, (1, room + 1), constant_values=(0.0, 1.0)),
        jnp.concatenate([start, notes, jnp.repeat(end, room + 1, axis=2)], axis=2),
    )


def with_nodes(panels: Panels, alpha: jax.Array, notes: jax.Array, counts: jax.Array) -> Panels:
    """Adds nodes to those that are there, if they count."""

    def put(known: jax.Array, new: jax.Array) -> jax.Array:
        put = jax.lax.dynamic_update_slice_in_dim(known, new, panels.nodes + 1, known.ndim - 1)
        return jax.lax.select(counts, put, known)

    nodes = panels.nodes + len(alpha) * counts.astype(jnp.int32)
    return Panels(nodes, put(panels.alpha, alpha), put(panels.notes, notes))


class Areas(NamedTuple):
    """What may be hidden in the panels.

    Attributes:
      ends: between which points they are, ``(n,)``; the last ones may be empty.
      areas: what may be hidden, for each output, ``(outputs, n - 1)``.
      whole: all there is, ``(outputs,)``.
      changes: of the contributions from point to point, ``(outputs, n - 1)``.
    """

    ends: jax.Array
    areas: jax.Array
    whole: jax.Array
    changes: jax.Array


def areas(panels: Panels, *, complete: bool) -> Areas:
    """Estimates how much the integral over each panel may differ from what its nodes say.

    Args:
      panels: what is known.
      complete: whether what the nodes contribute sums to the slope of F.
    """
    order = jnp.argsort(panels.alpha)
    points, notes = (jnp.take(known, order, -1, mode="clip") for known in panels[1:])
    widths = jnp.diff(points)[None]
    number = jnp.arange(widths.size, dtype=jnp.int32)[None]
    changes = jnp.sum(jnp.abs(jnp.diff(notes[KNOWN:], axis=2)), axis=0)
    first, last = number == 0, number == panels.nodes
    length = _mean(jnp.sum(jnp.abs(notes[KNOWN:]), axis=0), first, last)
    # Panels after the last are empty.
    beyond = jnp.maximum(jnp.log(widths / _FLOOR), 1.0) * length
    hidden = widths / 2.0 * jnp.where(first | last, beyond, changes)
    whole = jnp.sum(widths * length, axis=1)
    if complete:
        told = widths * _mean(notes[SLOPE], first, last)
        apart = jnp.abs(jnp.diff(notes[VALUE], axis=1) - told)
        hidden, whole = jnp.maximum(hidden, apart), whole + jnp.sum(apart, axis=1)
    return Areas(points, hidden, whole, changes)


def _mean(of_points: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """Returns the mean of both sides of each panel: of the outermost, what is inside."""
    left, right = of_points[:, :-1], of_points[:, 1:]
    return (jnp.where(first, right, left) + jnp.where(last, left, right)) / 2.0


def masses(found: Areas, smooth: jax.Array) -> jax.Array:
    """Returns the share of the nodes that each panel is to have, ``(n - 1,)``, of sum 1.

    It grows as the root of what may be hidden there. Outputs of all sizes count the same.

    Args:
      found: in the panels.
      smooth: whether panels share with those beside them.
    """
    widths = jnp.diff(found.ends)
    roots = jnp.sqrt(found.areas)
    total = jnp.sum(roots, axis=1, keepdims=True)
    shares = jnp.where(total == 0.0, widths[None], roots / jnp.where(total == 0.0, 1.0, total))
    wanted, full = jnp.mean(shares, axis=0), (widths > 0.0).astype(widths.dtype)
    # By number, not by place: next to a narrow panel is often another one.
    number = np.arange(len(widths))
    near = np.exp(-0.5 * (number[:, None] - number) ** 2)
    own = [jnp.asarray(kernel, widths.dtype) for kernel in (np.eye(len(widths)), near)]
    kernel = jax.lax.select_n(smooth, *own) * full[None]
    spread = full * jnp.sum(kernel * wanted[None], axis=1)
    spread = spread / (jnp.sum(kernel, axis=1) + (1.0 - full))
    return (1.0 - LEAST) * spread / jnp.sum(spread) + LEAST * widths
