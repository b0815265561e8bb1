"""Pytrees: the word for one, and walks over several at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# JAX has no type for nested containers of arrays; this says what is meant.
Tree = Any


def same_structure(tree: Tree, other: Tree) -> bool:
    """Returns whether two pytrees have the same structure."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def is_kind(leaf: Any, *kinds: Any) -> bool:
    """Returns whether a number or an array has a dtype of one of these kinds."""
    dtype = getattr(leaf, "dtype", type(leaf))
    try:
        is_time = jnp.issubdtype(dtype, np.timedelta64)  # which NumPy counts among integers
    except TypeError:
        return False  # a dtype of another library
    return not is_time and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def floats(tree: Tree) -> Tree:
    """Returns ``tree`` with None for every leaf that is not of real floating-point numbers.

    To JAX None is a pytree without a leaf: what is left is differentiated, added up and mapped.
    """
    return jax.tree.map(lambda leaf: leaf if is_kind(leaf, jnp.floating) else None, tree)


def filled(part: Tree, tree: Tree) -> Tree:
    """Returns ``part`` with what ``tree`` has where ``part`` has None."""
    return jax.tree.map(
        lambda own, other: other if own is None else own, part, tree, is_leaf=_is_none
    )


def thinned(tree: Tree, part: Tree) -> Tree:
    """Returns ``tree`` with None where ``part`` has None; if it is unlike that, all as it is."""
    places = jax.tree.leaves(part, is_leaf=_is_none)
    structure: Any = jax.tree.structure(part, is_leaf=_is_none)
    try:
        nodes = structure.flatten_up_to(tree)
    except ValueError:
        return tree
    kept = [None if place is None else node for place, node in zip(places, nodes, strict=True)]
    return jax.tree.unflatten(structure, kept)


def _is_none(node: Any) -> bool:
    return node is None


def map_parts(fun: Callable[..., Any], x: Tree, *trees: Tree) -> Tree:
    """Applies ``fun`` to every part of ``trees`` that has the structure of ``x``.

    The first of ``trees`` is a gradient, itself such a part, or a Jacobian, a pytree of such parts;
    the others are likewise, or pytrees like the output.
    """
    return jax.tree.map(fun, *trees, is_leaf=lambda node: same_structure(node, x))
