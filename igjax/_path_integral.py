"""The integrand of path attribution, and what is left to do to its integral.

attributions_i = integral over alpha of dF/dx_i(path(alpha)) dpath_i/dalpha(alpha)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igjax import paths
from igjax._inputs import matching, same_structure
from igjax._jaxpr import program
from igjax._jaxpr.affine import Split, split_affine
from igjax._precision import cast, tree_dtype

Tree = Any
_Differentiate = Callable[[Callable[[Tree], Tree]], Callable[[Tree], Tree]]


class Integrand(NamedTuple):
    """A function of alpha to integrate over [0, 1], and how to make attributions of the integral.

    Attributes:
      at: from alpha to a pytree of arrays.
      zero: makes zeros like what ``at`` returns, laid out over devices as that is.
      attributions: from the integral, in the precision of sums, to the attributions, likewise.
        Linear, so that it may be applied to sums and differences of integrals.
    """

    at: Callable[[jax.Array], Tree]
    zero: Callable[[], Tree]
    attributions: Callable[[Tree], Tree]


def path_integrand(
    fun: Callable[[Tree], Tree],
    differentiate: _Differentiate,
    baseline: Tree,
    x: Tree,
    *,
    path: paths.Path,
    multiply_by_inputs: bool,
    affine_prefix: bool,
) -> Integrand:
    """The derivative of ``fun`` along the path from ``baseline`` to ``x``.

    Args:
      fun: a function of a pytree like ``x`` to an array or a pytree of arrays.
      differentiate: ``jax.grad`` or ``jax.jacrev``. The attributions are like its result: a
        gradient, a pytree like ``x``, or a Jacobian, a pytree of such, whose arrays have the
        output's axes in front of the input's.
      baseline: the baseline, like ``x`` and in its dtypes.
      x: the input, a pytree of floating-point arrays.
      path: the path.
      multiply_by_inputs: whether to multiply by ``dpath/dalpha``.
      affine_prefix: whether to apply the affine part that ``fun`` may begin with once, instead of
        once at each node, if the path is the straight line.
    """
    if path is not paths.straight_line:
        return _curved(fun, differentiate, baseline, x, path, multiply_by_inputs)

    dtype = tree_dtype(x)
    direction = jax.tree.map(jnp.subtract, cast(x, dtype), cast(baseline, dtype))
    split = split_affine(program.trace(fun, x)) if affine_prefix else None
    if split is None:
        along = _curved(fun, differentiate, baseline, x, path, multiply_by_inputs=False)
    else:
        along = _after_affine(split, differentiate, baseline, direction)

    def attributions(integral: Tree) -> Tree:
        gradient = along.attributions(integral)
        return _multiply(gradient, direction) if multiply_by_inputs else gradient

    return along._replace(attributions=attributions)


def _after_affine(
    split: Split,
    differentiate: _Differentiate,
    baseline: Tree,
    direction: Tree,
) -> Integrand:
    """The derivative of ``tail``, for the integral of that of ``head`` and ``tail`` in a row.

    The affine ``head`` takes a straight line to a straight line, and its transpose takes the
    integral along that one back.
    """
    start, push = jax.linearize(split.head, baseline)
    moved = push(jax.tree.map(lambda d, leaf: d.astype(leaf.dtype), direction, baseline))
    transpose = jax.linear_transpose(push, baseline)

    # Not the straight line to head(x): a mask in the affine part may be -inf at both of its ends.
    def line(start: Tree, _: Tree, alpha: jax.Array) -> Tree:
        return jax.tree.map(lambda h, step: h + alpha * step.astype(h.dtype), start, moved)

    along = _curved(split.tail, differentiate, start, start, line, multiply_by_inputs=False)
    pull_back = functools.partial(_pull_back, transpose, start)
    return along._replace(attributions=functools.partial(map_parts, pull_back, start))


def _curved(
    fun: Callable[[Tree], Tree],
    differentiate: _Differentiate,
    baseline: Tree,
    x: Tree,
    path: paths.Path,
    multiply_by_inputs: bool,
) -> Integrand:
    """Along any path, with the direction, if asked for, multiplied at each point."""
    dtype = tree_dtype(x)
    start, end = cast(baseline, dtype), cast(x, dtype)
    derivative = differentiate(fun)

    def at(alpha: jax.Array) -> Tree:
        if not multiply_by_inputs:
            return derivative(matching(path(start, end, alpha), x, "path's point"))
        point, velocity = _value_and_velocity(lambda alpha: path(start, end, alpha), alpha)
        return _multiply(derivative(matching(point, x, "path's point")), velocity)

    def zero() -> Tree:
        def leaf(value: jax.ShapeDtypeStruct, x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(jnp.zeros_like(x, value.dtype), value.shape)

        values = jax.eval_shape(at, jax.ShapeDtypeStruct((), dtype))
        return map_parts(lambda part: jax.tree.map(leaf, part, x), x, values)

    return Integrand(at, zero, lambda integral: integral)


def _value_and_velocity(line: Callable[[jax.Array], Tree], alpha: jax.Array) -> tuple[Tree, Tree]:
    """Where ``line`` is at ``alpha``, and its derivative there."""
    one = jnp.ones_like(alpha)
    if not program.applies(jax.make_jaxpr(line)(alpha), "custom_vjp_call"):
        return jax.jvp(line, (alpha,), (one,))
    # Such a function has a derivative in reverse mode only. That is linear in the cotangent, and
    # its transpose the derivative in forward mode.
    point, pull_back = jax.vjp(line, alpha)
    (velocity,) = jax.linear_transpose(lambda point: pull_back(point)[0], point)(one)
    return point, velocity


def _pull_back(transpose: Callable[[Tree], tuple[Tree]], h: Tree, part: Tree) -> Tree:
    """``transpose`` applied to a part like ``h``, or to each of a stack of such."""
    leaf, like = jax.tree.leaves(part)[0], jax.tree.leaves(h)[0]
    for _ in range(leaf.ndim - like.ndim):
        transpose = jax.vmap(transpose)
    (pulled,) = transpose(jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), part, h))
    return cast(pulled, tree_dtype(pulled))


def _multiply(derivative: Tree, velocity: Tree) -> Tree:
    """Every part of ``derivative`` that is like ``velocity``, times ``velocity``."""

    def leaf(derivative: jax.Array, velocity: jax.Array) -> jax.Array:
        in_front = tuple(range(derivative.ndim - velocity.ndim))
        return derivative.astype(velocity.dtype) * jnp.expand_dims(velocity, in_front)

    return map_parts(lambda part: jax.tree.map(leaf, part, velocity), velocity, derivative)


def map_parts(fun: Callable[..., Any], x: Tree, *trees: Tree) -> Tree:
    """Applies ``fun`` to every part of ``trees`` that has the structure of ``x``.

    The first of ``trees`` is a gradient, itself such a part, or a Jacobian, a pytree of such parts;
    the others are likewise, or pytrees like the output.
    """
    return jax.tree.map(fun, *trees, is_leaf=lambda node: same_structure(node, x))
