"""Checks of what a user passes in: inputs, baselines, points of paths. Messages name the leaf."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def check_count(name: str, count: Any, least: int) -> int:
    """Returns ``count`` as an int of at least ``least``; otherwise says what ``name`` must be.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is too small.
    """
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {count!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}.")
    return number


def same_structure(tree: Tree, other: Tree) -> bool:
    """Whether two pytrees have the same structure."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def as_floating(x: Tree, name: str) -> Tree:
    """Returns ``x`` with arrays for leaves, all of them real floating-point.

    Args:
      x: a pytree of numbers and arrays.
      name: what to call ``x`` in a message, such as ``"argument 0"``.

    Raises:
      TypeError: if a leaf is an integer, a bool, complex or no array at all.
      ValueError: if there is no leaf.
    """
    if not jax.tree.leaves(x):
        raise ValueError(f"igjax attributes to arrays of floats, but {name} has none: {x!r}.")

    def leaf(path: Any, value: Any) -> jax.Array:
        where = name + jax.tree_util.keystr(path)
        value = _as_array(value, where)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return value
        cure = ""
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            cure = "Attribute to the real and imaginary parts: pass them as two arrays of floats."
        elif jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == jnp.bool_:
            cure = (
                "Between integers there is no path. If they are token ids, attribute at the "
                "embedding: split the function after the look-up and differentiate the rest, as in "
                "integrated_grad(score_from_embeddings)(table[ids]). If they are numbers, such as "
                "pixels, convert them with .astype(jnp.float32)."
            )
        message = f"igjax attributes to arrays of floats, but {where} has dtype {value.dtype}. "
        raise TypeError((message + cure).rstrip())

    return jax.tree_util.tree_map_with_path(leaf, x)


def _as_array(value: Any, where: str) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"igjax attributes to arrays of floats, but {where} is of type {type(value).__name__}."
        ) from error


def matching(tree: Tree, x: Tree, name: str, cure: str = "") -> Tree:
    """Returns ``tree`` in the dtypes of ``x``, having checked that it has the same structure.

    Args:
      tree: what should be like ``x``.
      x: a pytree of floating-point arrays.
      name: what to call ``tree`` in a message, such as ``"baseline"``.
      cure: what to do about another shape, to end that message with.

    Raises:
      ValueError: if structure or shapes differ.
      TypeError: if a leaf is not real floating-point.
    """
    if not same_structure(tree, x):
        raise ValueError(
            f"{name} must be a pytree like the input; got {jax.tree.structure(tree)}, input "
            f"{jax.tree.structure(x)}."
        )

    def leaf(path: Any, value: Any, x: jax.Array) -> jax.Array:
        where = name + jax.tree_util.keystr(path)
        value = _as_array(value, where)
        if value.shape != x.shape:
            raise ValueError(
                f"{where} must have the input's shape {x.shape}; got {value.shape}. {cure}".rstrip()
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{where} must be floating-point, as the input is ({x.dtype}); got {value.dtype}. "
                f"Convert it with .astype(jnp.{x.dtype})."
            )
        return value.astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, tree, x)


def resolve_baseline(baseline: Any, x: Tree, name: str = "baseline") -> Tree:
    """The baseline for ``x``, from a value or a function of ``x``, checked to be like ``x``."""
    # A module may be a pytree and callable; a plain function is a leaf.
    is_function = callable(baseline) and jax.tree_util.all_leaves([baseline])
    value = baseline(x) if is_function else baseline
    if callable(value) and jax.tree_util.all_leaves([value]):
        raise TypeError(
            f"{name} must make a pytree like the input; got the function {value!r}. Was it to be "
            "called first, as in igjax.baselines.blurred(10.0)?"
        )
    return matching(
        value,
        x,
        name,
        "For one number everywhere use igjax.baselines.constant(number); for one baseline for each "
        "example, map it too: jax.vmap(lambda x, b: integrated_grad(f, baseline=b)(x))(xs, bs).",
    )
