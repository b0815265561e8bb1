"""The integrand of path attribution, and what is left to do to its integral.

attributions_i = integral over alpha of contribution(grad F(path(alpha)), dpath/dalpha(alpha))_i
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igjax import paths
from igjax._engine.contributions import Contribution, by_part, multiplied, unmultiplied
from igjax._engine.report import sum_over
from igjax._inputs import matching
from igjax._jaxpr.affine import Split, split_affine
from igjax._jaxpr.program import Traced, applies
from igjax._precision import cast, tree_dtype
from igjax._trees import Tree, map_parts

Differentiate = Callable[[Callable[[Tree], Tree]], Callable[[Tree], tuple[Tree, Tree]]]


class Seen(NamedTuple):
    """What is seen at a point of the path.

    Attributes:
      contribution: to the integral.
      value: F, which the derivative computes anyway.
      slope: dF / dalpha, for each output.
    """

    contribution: Tree
    value: Tree
    slope: Tree


class Integrand(NamedTuple):
    """A function of alpha to integrate over [0, 1], and how to make attributions of the integral.

    Attributes:
      at: from alpha to what is seen there.
      zero: makes zeros like the contribution, laid out over devices as that is.
      attributions: from the integral, in the precision of sums, to the attributions, likewise.
        Linear, so that it may be applied to sums and differences of integrals.
    """

    at: Callable[[jax.Array], Seen]
    zero: Callable[[], Tree]
    attributions: Callable[[Tree], Tree]


class Line(NamedTuple):
    """Where an affine prefix takes the straight line: to another one. A pytree of arrays.

    Attributes:
      start: what the prefix makes of the baseline, a list of arrays.
      moved: how far from there it is to what the prefix makes of the input.
    """

    start: list[jax.Array]
    moved: list[jax.Array]


class Integrands(NamedTuple):
    """The derivative of a function along paths from baselines to inputs.

    Attributes:
      line: from a baseline and an input to what is evaluated once for them: see ``Line``; None if
        there is nothing.
      between: from a baseline, an input and their ``line`` to the integrand.
    """

    line: Callable[[Tree, Tree], Line | None]
    between: Callable[[Tree, Tree, Line | None], Integrand]


def integrands(
    fun: Traced,
    differentiate: Differentiate,
    *,
    path: paths.Path,
    contribution: Contribution,
    affine_prefix: bool,
) -> Integrands:
    """Sets out what is to be integrated.

    Args:
      fun: a function of a pytree of floating-point arrays to an array or a pytree of arrays.
      differentiate: of a function of ``x``, to one that returns its derivative and its value. The
        attributions are like the derivative: a gradient, a pytree like ``x``, or a Jacobian, a
        pytree of such, whose arrays have the output's axes in front of the input's.
      path: the path.
      contribution: what a point of the path contributes.
      affine_prefix: whether to apply the affine part that ``fun`` may begin with once, instead of
        once at each node. That can be done on a straight line, for contributions that are linear.
    """
    if path is not paths.straight_line:
        curved = functools.partial(_curved, fun, differentiate, path, contribution)
        return Integrands(lambda *_: None, lambda baseline, x, _: curved(baseline, x))
    split = split_affine(fun) if affine_prefix and contribution.linear else None

    def line(baseline: Tree, x: Tree) -> Line | None:
        return None if split is None else _line(split, baseline, _direction(baseline, x))

    def between(baseline: Tree, x: Tree, line: Line | None) -> Integrand:
        direction = _direction(baseline, x)
        straight = functools.partial(paths.straight_line, cast(baseline, tree_dtype(x)))
        ahead = functools.partial(straight, cast(x, tree_dtype(x)))
        way = lambda alpha: (ahead(alpha), direction)
        if not contribution.linear:
            return _along(fun, differentiate, way, contribution, x)
        if split is None or line is None:
            along = _along(fun, differentiate, way, unmultiplied, x)
        else:
            along = _after_affine(split, differentiate, baseline, line)

        def attributions(integral: Tree) -> Tree:
            return by_part(contribution, along.attributions(integral), direction)

        return along._replace(attributions=attributions)

    return Integrands(line, between)


def _direction(baseline: Tree, x: Tree) -> Tree:
    """Returns the velocity of the straight line, in the precision of paths."""
    dtype = tree_dtype(x)
    return jax.tree.map(jnp.subtract, cast(x, dtype), cast(baseline, dtype))


def _line(split: Split, baseline: Tree, direction: Tree) -> Line:
    start, push = jax.linearize(split.head, baseline)
    moved = push(jax.tree.map(lambda d, leaf: d.astype(leaf.dtype), direction, baseline))
    return Line(start, moved)


def _after_affine(
    split: Split, differentiate: Differentiate, baseline: Tree, line: Line
) -> Integrand:
    """Makes the integrand of ``tail``, for the integral of ``head`` and ``tail`` in a row.

    The affine ``head`` takes a straight line to a straight line, and its transpose takes the
    integral along that one back.
    """
    dtype = tree_dtype(line.start)
    start = cast(line.start, dtype)

    # Not the straight line to head(x): a mask in the affine part may be -inf at both of its ends.
    def point(alpha: jax.Array) -> tuple[Tree, Tree]:
        step = jax.tree.map(lambda h, moved: h + alpha * moved.astype(h.dtype), start, line.moved)
        return step, line.moved

    along = _along(split.tail, differentiate, point, unmultiplied, line.start)
    _, push = jax.linearize(split.head, baseline)
    transpose = jax.linear_transpose(push, baseline)
    pull_back = functools.partial(_pull_back, transpose, line.start)
    return along._replace(attributions=functools.partial(map_parts, pull_back, line.start))


def _curved(
    fun: Callable[[Tree], Tree],
    differentiate: Differentiate,
    path: paths.Path,
    contribution: Contribution,
    baseline: Tree,
    x: Tree,
) -> Integrand:
    """Returns along any path, whose velocity is taken at each point."""
    dtype = tree_dtype(x)
    follow = functools.partial(path, cast(baseline, dtype), cast(x, dtype))
    return _along(
        fun, differentiate, functools.partial(_value_and_velocity, follow), contribution, x
    )


def _along(
    fun: Callable[[Tree], Tree],
    differentiate: Differentiate,
    way: Callable[[jax.Array], tuple[Tree, Tree]],
    contribution: Contribution,
    x: Tree,
) -> Integrand:
    """Returns along a way, which takes alpha to a point like ``x`` and the velocity there."""
    derivative = differentiate(fun)

    def at(alpha: jax.Array) -> Seen:
        point, velocity = way(alpha)
        gradient, value = derivative(matching(point, x, "path's point"))
        pace = functools.partial(sum_over, x)
        slope = map_parts(pace, x, by_part(multiplied, gradient, velocity))
        return Seen(by_part(contribution, gradient, velocity), value, slope)

    def zero() -> Tree:
        def leaf(value: jax.ShapeDtypeStruct, x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(jnp.zeros_like(x, value.dtype), value.shape)

        seen = jax.eval_shape(at, jax.ShapeDtypeStruct((), tree_dtype(x)))
        return map_parts(lambda part: jax.tree.map(leaf, part, x), x, seen.contribution)

    return Integrand(at, zero, lambda integral: integral)


def _value_and_velocity(line: Callable[[jax.Array], Tree], alpha: jax.Array) -> tuple[Tree, Tree]:
    """Returns the point of ``line`` at ``alpha``, and its derivative there."""
    one = jnp.ones_like(alpha)
    if not applies(jax.make_jaxpr(line)(alpha), "custom_vjp_call"):
        return jax.jvp(line, (alpha,), (one,))
    # Such a function has a derivative in reverse mode only. That is linear in the cotangent, and
    # its transpose the derivative in forward mode.
    point, pull_back = jax.vjp(line, alpha)
    (velocity,) = jax.linear_transpose(lambda point: pull_back(point)[0], point)(one)
    return point, velocity


def _pull_back(transpose: Callable[[Tree], tuple[Tree]], h: Tree, part: Tree) -> Tree:
    """Returns ``transpose`` applied to a part like ``h``, or to each of a stack of such."""
    leaf, like = jax.tree.leaves(part)[0], jax.tree.leaves(h)[0]
    for _ in range(leaf.ndim - like.ndim):
        transpose = jax.vmap(transpose)
    (pulled,) = transpose(jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), part, h))
    return cast(pulled, tree_dtype(pulled))
