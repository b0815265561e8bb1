"""Paths from a baseline to an input: pure functions ``(baseline, x, alpha) -> point``.

A path is at the baseline for ``alpha = 0`` and at the input for ``alpha = 1``, and differentiable
in ``alpha`` between. ``baseline``, ``x`` and the point are pytrees of one structure; ``alpha`` is
a scalar. To add a path, write a function:

    def quadratic(baseline, x, alpha):
        return jax.tree.map(lambda b, x: b + alpha**2 * (x - b), baseline, x)

A path is called in the precision of the sums: inputs of 16 bits come to it as float32, and the
points go to the attributed function in the inputs' own dtype. Of pytrees it sees the floats alone:
for integers, bools and random keys there is None.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igjax._blur import check_axes, gaussian_blur
from igjax._inputs import (
    as_attributed,
    as_real,
    as_reals,
    check_function,
    check_number,
    matching,
    resolve_baseline,
)
from igjax._precision import cast, tree_dtype
from igjax._trees import Tree, floats, same_structure, thinned

__all__ = [
    "Path",
    "PathCheck",
    "blur",
    "check",
    "latent",
    "polyline",
    "reparametrize",
    "straight_line",
]

Path = Callable[[Tree, Tree, jax.Array], Tree]


def check_path(path: Path) -> None:
    """Raises TypeError unless ``path`` can be called."""
    if not callable(path):
        raise TypeError(
            "path must be a function (baseline, x, alpha) -> point, such as "
            f"igjax.paths.straight_line; got {path!r}."
        )


def straight_line(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
    """Follows the straight line ``baseline + alpha * (x - baseline)``, as in integrated gradients.

    Args:
      baseline: the starting point, a pytree of arrays.
      x: the end point, a pytree like ``baseline``.
      alpha: how far along, a scalar from 0 to 1.

    Returns:
      The point, a pytree like ``x``.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import paths
      >>> paths.straight_line(jnp.zeros(2), jnp.array([4.0, 8.0]), 0.25)
      Array([1., 2.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, section 3.
    """
    return jax.tree.map(lambda b, x: b + alpha * (x - b), baseline, x)


def polyline(points: Tree) -> Path:
    """Makes a path of straight pieces, from the baseline through ``points`` to the input.

    With k waypoints each of the k + 1 pieces takes an equal part of [0, 1]. The direction jumps at
    the waypoints; to integrate with full accuracy, give each piece nodes of its own:
    ``rule=quadrature.composite(quadrature.gauss_legendre(16), k + 1)``.

    Args:
      points: the waypoints between the ends, a pytree like the input, with one more axis, of size
        k, in front of every leaf.

    Returns:
      A path.

    Raises:
      TypeError: if ``points`` are not of real numbers.
      ValueError: if there are none; when the path is followed, if they do not match the input.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import paths
      >>> path = paths.polyline(jnp.array([[0.0, 1.0]]))  # first up, then right
      >>> path(jnp.array([0.0, 0.0]), jnp.array([1.0, 1.0]), 0.75)
      Array([0.5, 1. ], dtype=float32)
    """
    points = as_reals("polyline: points", points)

    def path(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
        corners = thinned(points, x)
        pieces = _count_waypoints(corners, x) + 1
        piece = jnp.clip(jnp.floor(alpha * pieces), 0, pieces - 1).astype(jnp.int32)
        rest = alpha * pieces - piece.astype(jnp.result_type(alpha))
        # The two corners that the point is between, picked by products: unlike an index they work
        # on sharded arrays too, whatever their mesh.
        at = jax.nn.one_hot(jnp.stack([piece, piece + 1]), pieces + 1, dtype=rest.dtype)
        shares = (1 - rest) * at[0] + rest * at[1]

        def leaf(baseline: jax.Array, x: jax.Array, points: jax.Array) -> jax.Array:
            points = jnp.asarray(points, x.dtype)
            between = jnp.tensordot(shares[1:-1], points, 1, precision=jax.lax.Precision.HIGHEST)
            return shares[0] * baseline + between + shares[-1] * x

        return jax.tree.map(leaf, baseline, x, corners)

    return path


def _count_waypoints(points: Tree, x: Tree) -> int:
    if not same_structure(points, x):
        raise ValueError(
            "polyline: points must be a pytree like the input, with an axis of waypoints in front "
            f"of every leaf; got {jax.tree.structure(points)}, input {jax.tree.structure(x)}."
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(points)]
    wanted = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    counts = {shape[:1] for shape in shapes}
    if [shape[1:] for shape in shapes] != wanted or len(counts) != 1 or () in counts:
        raise ValueError(
            "polyline: every leaf of points must have the shape (k,) + that of the input's leaf, "
            f"with one k for all; got shapes {shapes}, input {wanted}."
        )
    return counts.pop()[0]


def blur(max_sigma: float, axes: Sequence[int] = (0, 1)) -> Path:
    """Makes the path of Blur IG: from a blurred picture to the sharp one, through scales between.

    The picture is convolved with a Gaussian whose standard deviation falls from ``max_sigma`` to 0,
    linearly in ``alpha``. The path begins at ``baselines.blurred(max_sigma, axes)``: give that as
    the baseline, so that the report's figures belong to the path.

    Args:
      max_sigma: the standard deviation at the start, in pixels.
      axes: the axes of the picture, for one example. The default fits (height, width) and
        (height, width, channels).

    Returns:
      A path. It looks at the baseline's structure only: its start follows from ``x``.

    Raises:
      TypeError: if ``max_sigma`` is no number, or an axis no integer.
      ValueError: if ``max_sigma`` is negative or not finite; when the path is followed, if the
        picture has no such axes.

    Example:
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> energy = lambda image: jnp.sum(image**2)
      >>> attribution = igjax.integrated_grad(
      ...     energy, path=igjax.paths.blur(4.0), baseline=igjax.baselines.blurred(4.0))
      >>> attribution(jnp.eye(8)).shape
      (8, 8)

    Source: Xu, Venugopalan & Sundararajan 2020, "Attribution in Scale and Space", arXiv 2004.03383,
    eq. 3; the blur is computed by the cosine transform, which continues the picture by reflection.
    """
    check_number("blur: max_sigma", max_sigma)
    axes = check_axes("blur: axes", axes)

    def path(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
        del baseline
        sigma = max_sigma * (1.0 - alpha)
        return jax.tree.map(lambda leaf: gaussian_blur(leaf, sigma, axes), x)

    return path


def latent(encode: Callable[[Tree], Tree], decode: Callable[[Tree], Tree]) -> Path:
    """Makes the path that is a straight line in a latent space, seen through the decoder.

    The path is ``decode(z' + alpha * (z - z'))`` with ``z' = encode(baseline)``, ``z = encode(x)``.
    It ends at ``decode(encode(x))``, which is ``x`` only as far as the autoencoder is exact:
    ``check`` tells how far that is. Of an input that has integers, bools or keys beside its floats
    both functions are given, or are to return, the floats alone, with None for the others.

    Args:
      encode: from an input to its latent code, a pytree of floating-point arrays.
      decode: from a latent code to an input, differentiable by ``jax.jvp``.

    Returns:
      A path.

    Raises:
      TypeError: if one is no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import paths
      >>> path = paths.latent(jnp.log, jnp.exp)  # the geometric mean of the ends half-way
      >>> path(jnp.array([1.0]), jnp.array([4.0]), 0.5)
      Array([2.], dtype=float32)

    Source: Jha et al. 2020, "Enhanced Integrated Gradients", Genome Biology 21:149.
    """
    check_function("latent", encode, "encode")
    check_function("latent", decode, "decode")

    def path(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
        return decode(straight_line(encode(baseline), encode(x), alpha))

    return path


def reparametrize(path: Path, schedule: Callable[[jax.Array], jax.Array]) -> Path:
    """Follows the same path at another pace: ``path(baseline, x, schedule(alpha))``.

    The exact attributions stay what they were; the nodes of a rule come to lie elsewhere.

    Args:
      path: any path.
      schedule: a differentiable function of a scalar with ``schedule(0) = 0``, ``schedule(1) = 1``.

    Returns:
      A path.

    Raises:
      TypeError: if one is no function; when the path is followed, if ``schedule`` makes no number.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import paths
      >>> slow_start = paths.reparametrize(paths.straight_line, lambda alpha: alpha**2)
      >>> slow_start(jnp.array(0.0), jnp.array(1.0), 0.5)
      Array(0.25, dtype=float32, weak_type=True)
    """
    check_path(path)
    check_function("reparametrize", schedule, "schedule")

    def reparametrized(baseline: Tree, x: Tree, alpha: jax.Array) -> Tree:
        at = schedule(alpha)
        as_real("reparametrize: what schedule returns", at)
        return path(baseline, x, at)

    return reparametrized


class PathCheck(NamedTuple):
    """Whether a path leads from the baseline to the input. A pytree of scalars.

    Attributes:
      start_gap: the largest ``|path(0) - baseline|``, over all elements.
      end_gap: the largest ``|path(1) - x|``, over all elements.
      ok: both gaps are at most ``rtol`` times the largest ``|x|`` or ``|baseline|``.
    """

    start_gap: jax.Array
    end_gap: jax.Array
    ok: jax.Array


def check(path: Path, baseline: Tree, x: Tree, rtol: float = 1e-3) -> PathCheck:
    """Measures how far a path's ends are from the baseline and the input.

    Attributions along a path sum to the difference of the function between the path's own ends; if
    these are not the baseline and the input, that is not the difference that was asked about.

    Args:
      path: a path.
      baseline: the baseline, or a function of ``x`` that makes it.
      x: the input, a pytree of floating-point arrays.
      rtol: the gap to pass, relative to the largest value in ``x`` and the baseline.

    Returns:
      A ``PathCheck``. Can be called under ``jit`` and ``vmap``.

    Raises:
      TypeError: if ``path`` is no function, or ``rtol`` no number.
      ValueError: if the path's points have another structure or other shapes than ``x``, or
        ``rtol`` is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines, paths
      >>> bool(paths.check(paths.straight_line, baselines.zeros, jnp.ones(3)).ok)
      True
      >>> check = paths.check(paths.blur(2.0), baselines.zeros, jnp.ones((4, 4)))
      >>> bool(check.ok), round(float(check.start_gap), 3)  # a blurred picture is not black
      (False, 1.0)
    """
    check_path(path)
    check_number("check: rtol", rtol)
    whole = as_attributed(x, "x")
    x, baseline = floats(whole), floats(resolve_baseline(baseline, whole))
    dtype = tree_dtype(x)
    ends = cast(baseline, dtype), cast(x, dtype)
    start, end = (
        matching(path(*ends, jnp.asarray(alpha, dtype)), x, "path's point") for alpha in (0, 1)
    )
    zeros = jax.tree.map(jnp.zeros_like, x)
    scale = jnp.maximum(_distance(x, zeros), _distance(baseline, zeros))
    start_gap, end_gap = _distance(start, baseline), _distance(end, x)
    return PathCheck(start_gap, end_gap, jnp.maximum(start_gap, end_gap) <= rtol * scale)


def _distance(one: Tree, other: Tree) -> jax.Array:
    """Returns the largest difference of two elements, over all leaves."""
    dtype = tree_dtype(one)

    def leaf(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(one - other), initial=0.0).astype(dtype)

    return functools.reduce(jnp.maximum, jax.tree.leaves(jax.tree.map(leaf, one, other)))
