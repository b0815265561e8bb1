"""Pytrees: the word for one, and walks over several at once."""

from collections.abc import Callable
from typing import Any

import jax

# JAX has no type for nested containers of arrays; this says what is meant.
Tree = Any


def same_structure(tree: Tree, other: Tree) -> bool:
    """Returns whether two pytrees have the same structure."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def map_parts(fun: Callable[..., Any], x: Tree, *trees: Tree) -> Tree:
    """Applies ``fun`` to every part of ``trees`` that has the structure of ``x``.

    The first of ``trees`` is a gradient, itself such a part, or a Jacobian, a pytree of such parts;
    the others are likewise, or pytrees like the output.
    """
    return jax.tree.map(fun, *trees, is_leaf=lambda node: same_structure(node, x))
