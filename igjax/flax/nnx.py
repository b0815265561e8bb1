"""Flax NNX models as pure functions, whose submodules' outputs have names."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import nnx

from igjax._parameters import mark
from igjax._trees import Tree
from igjax.flax._methods import wrapped
from igjax.flax._model import Target, check_target, makes_layer, named, pick, with_switch

__all__ = ["function"]


def function(
    model: nnx.Module, *, target: Target = None, method: str = "__call__"
) -> tuple[Callable[..., Any], Tree]:
    """Returns what a model computes, as a pure function of its state and inputs, and that state.

    Dropout and batch norm are in evaluation mode, whatever mode the model is in; the model itself
    does not change. The output of every submodule is named by its path, ``"encoder/layers/0"``,
    that of a method other than ``__call__`` with its name, ``"embedder.encode"``:
    ``igjax.layer_names`` lists them, and ``igjax.split_at`` and the layer methods take them. A
    submodule that is called several times, in an ``nnx.scan`` too, has a name with an index for
    each. (What is computed of a parameter without a method, as in ``table[ids]``, has no name: give
    it one with ``checkpoint_name``.)

    Args:
      model: a model.
      target: what to return of the output: an index into its last axis, such as that of a class; a
        tuple of indices, one for each axis; a function of it; or None for all of it.
      method: the name of the method to call.

    Returns:
      A function ``(state, *args, **kwargs)`` with the arguments of the method; and the state of the
      model, a pytree of parameters, batch statistics and so on, to be differentiated or not.
      Attribute to the input, which is argument 1: what attributes to the state is refused, unless
      it is that of a function of yours that calls this one. What the model would change in its
      state is lost.

    Raises:
      TypeError: if ``model`` is no NNX module, or ``target`` or ``method`` is of another type; when
        called, if the state is not like its own.
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

      A model that takes batches gets a batch of one example, and a label with each example is an
      argument like others:

      >>> logits, state = igjax.flax.nnx.function(model)
      >>> score = lambda state, x, label: logits(state, x[None])[0, label]
      >>> attribute = jax.vmap(igjax.integrated_grad(score, 1), (None, 0, 0))
      >>> attribute(state, jnp.ones((2, 4)), jnp.array([0, 2])).shape
      (2, 4)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"function takes a flax.nnx.Module; got {model!r}.")
    check_target(target)
    if not isinstance(method, str):
        raise TypeError(f"method must be the name of a method of the model; got {method!r}.")
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
        modules = [(path, p) for path, p in nnx.iter_graph(copy) if isinstance(p, nnx.Module)]
        for path, module in modules:
            _prepare(module, path)
        with _naming(module for _, module in modules):
            output = getattr(copy, method)(*args, **kwargs)
        return pick(output, target)

    is_state = lambda argument: bool(jax.tree.structure(argument) == structure)
    return mark(call, is_state), _copied(state)


def _copied(state: Tree) -> Tree:
    """Returns the same values in variables of their own, to which nobody else writes.

    NNX writes to no variable that was made outside of the function being traced.
    """
    return jax.tree.map(lambda value: value, state)


_PATH = "_pytree__igjax_path"  # of NNX's prefix for what is no part of a model
_SWITCHES = ("deterministic", "use_running_average")
_SWITCHED = nnx.Dropout | nnx.BatchNorm | nnx.MultiHeadAttention


def _prepare(module: nnx.Module, path: tuple[Any, ...]) -> None:
    """Puts a module into evaluation mode, and tells it its path.

    The path goes wherever the module goes, into the functions of ``nnx.jit`` and ``nnx.scan`` too,
    and keeps what these have traced apart from what they trace for the user's own calls.
    """
    for switch in _SWITCHES:
        if switch in vars(module):
            object.__setattr__(module, switch, True)
    object.__setattr__(module, _PATH, path)


def _naming(modules: Iterable[nnx.Module]) -> contextlib.ExitStack:
    """Has the methods of modules name what they return, until the context is left."""
    kinds = {kind for module in modules for kind in type(module).__mro__}
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            if issubclass(kind, nnx.Module) and kind is not nnx.Module:
                stack.enter_context(wrapped(kind, nnx.Module, _wrap))
        return stack.pop_all()


def _wrap(name: str, method: Any) -> Callable[..., Any]:
    """Returns a method that names what it returns, and keeps to evaluation mode.

    What a module is told when it is called goes before what it is set to.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = method.__get__(self, type(self))
        path = getattr(self, _PATH, None)
        if path is None:  # a module of a model that is called as it is
            return bound(*args, **kwargs)
        if name == "__call__" and isinstance(self, _SWITCHED):
            for switch in _SWITCHES:
                args, kwargs = with_switch(switch, bound, args, kwargs)
        output = bound(*args, **kwargs)
        is_outermost = getattr(type(self), name) is call  # and not what a class derives from
        return (
            named(output, path, name)
            if is_outermost and makes_layer(name, args, kwargs)
            else output
        )

    return call
