"""What a point of the path contributes to the attributions: all that sets path methods apart.

A contribution is a value. To add a method of the family, write one: a function of the gradient at
the point and of the path's velocity there, two pytrees like the input, to a third.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from igjax._trees import Tree, map_parts


class Contribution(NamedTuple):
    """How a gradient on the path counts.

    Attributes:
      of: from the gradient and the velocity ``dpath/dalpha``, like the input both, to what the
        integral is of, likewise.
      linear: whether ``of`` is linear in the gradient. What is linear and the same all along the
        path is done once, to the integral: the velocity of a straight line, an affine prefix.
      complete: whether the integral sums to ``F(x) - F(x')``.
    """

    of: Callable[[Tree, Tree], Tree]
    linear: bool
    complete: bool


def _product(gradient: Tree, velocity: Tree) -> Tree:
    return jax.tree.map(lambda g, v: g.astype(v.dtype) * v, gradient, velocity)


# Integrated gradients (Sundararajan, Taly & Yan 2017, eq. 1).
multiplied = Contribution(_product, linear=True, complete=True)

# The mean gradient along the path: the "global" attribution of Ancona et al. 2018.
unmultiplied = Contribution(lambda gradient, _: gradient, linear=True, complete=False)


def _contributed(contribution: Contribution, velocity: Tree, gradient: Tree) -> Tree:
    return contribution.of(gradient, velocity)


def by_part(contribution: Contribution, derivative: Tree, velocity: Tree) -> Tree:
    """Applies a contribution to every gradient in ``derivative``.

    Args:
      contribution: of a gradient.
      derivative: a gradient, or a Jacobian: a pytree of gradients, whose arrays have the output's
        axes in front of the input's.
      velocity: like the input.
    """

    def part(gradient: Tree) -> Tree:
        of = functools.partial(_contributed, contribution, velocity)
        leaf, like = jax.tree.leaves(gradient)[0], jax.tree.leaves(velocity)[0]
        for _ in range(jnp.ndim(leaf) - jnp.ndim(like)):
            of = jax.vmap(of)
        return of(gradient)

    return map_parts(part, velocity, derivative)
