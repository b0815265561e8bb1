"""What the wrappers of both APIs have in common: names for outputs, and the target."""

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from igjax._inputs import check_index
from igjax._trees import Tree

Target = int | tuple[int, ...] | Callable[[Any], Any] | None


def named(output: Tree, path: Sequence[Any], method: str, unless: Sequence[Any] = ()) -> Tree:
    """Names what a method of a submodule returns, all arrays of it, by its path.

    Args:
      output: what the method returns.
      path: of the submodule. What the model's own ``__call__`` returns has no name.
      method: the method's name, of which ``__call__`` is left out.
      unless: arrays that get no name.
    """
    place = "/".join(map(str, path))
    name = ".".join(part for part in (place, method) if part not in ("", "__call__"))
    if not name:
        return output

    def leaf(value: Any) -> Any:
        is_new = isinstance(value, jax.Array) and not any(value is other for other in unless)
        return checkpoint_name(value, name) if is_new and _is_numbers(value) else value

    return jax.tree.map(leaf, output, is_leaf=_is_itself)


def makes_layer(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tells whether what a method returns is a layer: made of an array, for others to use."""
    if method.startswith("_") and method != "__call__":
        return False
    return any(map(_is_numbers, jax.tree.leaves((args, kwargs), is_leaf=_is_itself)))


def _is_numbers(value: Any) -> bool:
    is_array = isinstance(value, jax.Array | np.ndarray)
    return is_array and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_itself(value: Any) -> bool:
    """Tells whether a pytree has an identity, as what has a state, and is no mere container."""
    return isinstance(value, nnx.Pytree | nnx.Variable)


def with_switch(
    switch: str, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of ``method`` with ``switch`` on, if it takes that."""
    signature = inspect.signature(method)
    if switch not in signature.parameters:
        return args, kwargs
    bound = signature.bind(*args, **kwargs)
    bound.arguments[switch] = True
    return bound.args, bound.kwargs


def check_target(target: Any) -> None:
    """Raises TypeError unless ``target`` is one, as far as that is known without an output."""
    if target is None or callable(target):
        return
    if not all(map(_is_integer, target if isinstance(target, tuple) else (target,))):
        raise TypeError(
            "target must be an integer, a tuple of one for each axis of the output, a function of "
            f"the output, or None; got {target!r}. For a label with each example, make it an "
            "argument, as in lambda params, x, label: fun(params, x)[label]."
        )


def _is_integer(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer):
        return value.shape == () and bool(jnp.issubdtype(value.dtype, jnp.integer))
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def pick(output: Tree, target: Target) -> Tree:
    """Returns what ``target`` asks for of a model's output."""
    if target is None:
        return output
    if callable(target):
        return target(output)
    index = target if isinstance(target, tuple) else (target,)
    if not isinstance(output, jax.Array) or output.ndim == 0:
        raise ValueError(
            f"target={target!r} is an index into the model's output, which is "
            f"{jax.tree.map(jnp.shape, output)}: give a function of the output."
        )
    if isinstance(target, tuple) and len(target) != output.ndim:
        raise ValueError(
            f"target must have an index for each axis of the output, of shape {output.shape}; got "
            f"{target!r}."
        )
    for number, length in zip(index, output.shape[-len(index) :], strict=True):
        check_index(f"target, of an output of shape {output.shape},", number, length)
    return output[(..., *index)]
