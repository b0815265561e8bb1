"""Flax NNX models as pure functions, whose submodules' outputs have names."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from igjax._trees import Tree
from igjax.flax._model import Target, named, pick

__all__ = ["function"]


def function(
    model: nnx.Module, *, target: Target = None, method: str = "__call__"
) -> tuple[Callable[..., Any], Tree]:
    """Returns what a model computes, as a pure function of its state and inputs, and that state.

    Dropout and batch norm are in evaluation mode, whatever mode the model is in; the model itself
    does not change. The output of every submodule is named by its path, ``"encoder/layers/0"``:
    ``igjax.layer_names`` lists them, and ``igjax.split_at`` and the layer methods take them. A
    submodule that is called several times, in an ``nnx.scan`` too, has a name with an index for
    each.

    Args:
      model: a model.
      target: what to return of the output: an index into its last axis, such as that of a class; a
        function of it; or None for all of it.
      method: the name of the method to call.

    Returns:
      A function ``(state, *args, **kwargs)`` with the arguments of the method; and the state of the
      model, a pytree of parameters, batch statistics and so on, to be differentiated or not.
      Attribute to the input, which is argument 1. What the model would change in its state is lost.

    Raises:
      TypeError: if ``model`` is no NNX module; when called, if the state is not like its own.
      ValueError: if it has no such method.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import igjax
      >>> import igjax.flax.nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jnp.tanh, nnx.Linear(8, 3, rngs=rngs))
      >>> score, state = igjax.flax.nnx.function(model, target=2)
      >>> x = jnp.ones(4)
      >>> igjax.integrated_grad(score, 1)(state, x).shape
      (4,)
      >>> list(igjax.layer_names(score, state, x))
      ['layers/0', 'layers/2']
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"function takes a flax.nnx.Module; got {model!r}.")
    if not callable(getattr(model, method, None)):
        raise ValueError(f"the model has no method {method!r}.")
    graphdef, state = nnx.split(model)
    structure: Any = jax.tree.structure(state)

    def call(state: Tree, *args: Any, **kwargs: Any) -> Tree:
        if jax.tree.structure(state) != structure:
            raise TypeError(
                "the first argument must be the state that igjax.flax.nnx.function returned, or "
                f"one like it; got {jax.tree.structure(state)}, not {structure}."
            )
        copy = nnx.merge(graphdef, _copied(state))
        for path, part in [*nnx.iter_graph(copy)]:
            if isinstance(part, nnx.Module):
                _prepare(part, path)
        return pick(getattr(copy, method)(*args, **kwargs), target)

    return call, _copied(state)


def _copied(state: Tree) -> Tree:
    """Returns the same values in variables of their own, to which nobody else writes.

    NNX writes to no variable that was made outside of the function being traced.
    """
    return jax.tree.map(lambda value: value, state)


_PATH = "_igjax_path"
_SWITCHES = ("deterministic", "use_running_average")


def _prepare(module: nnx.Module, path: tuple[Any, ...]) -> None:
    """Puts a module into evaluation mode, and has it name its output."""
    for switch in _SWITCHES:
        if switch in vars(module):
            object.__setattr__(module, switch, True)
    if path and callable(module):
        object.__setattr__(module, _PATH, path)
        object.__setattr__(module, "__class__", _naming(type(module)))


@functools.cache
def _naming(kind: type[nnx.Module]) -> type[nnx.Module]:
    """Makes a class of the same kind that names its output, and keeps to evaluation mode.

    What a module is told when it is called goes before what it is set to.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kind.__call__ is nnx.BatchNorm.__call__:
            args = args[:1]  # the other one that it takes by position is the switch
        if issubclass(kind, nnx.Dropout | nnx.BatchNorm | nnx.MultiHeadAttention):
            kwargs = {name: value for name, value in kwargs.items() if name not in _SWITCHES}
        return named(kind.__call__(self, *args, **kwargs), getattr(self, _PATH))

    meta: Any = type(kind)
    return meta(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
