"""Flax linen models as pure functions, whose submodules' outputs have names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
from flax.core import Scope, bind, freeze

from igjax._parameters import mark
from igjax._trees import Tree
from igjax.flax._model import Target, check_target, makes_layer, named, pick, with_switch

__all__ = ["function"]


def function(
    module: nn.Module,
    *,
    target: Target = None,
    method: str | Callable[..., Any] | None = None,
    rngs: jax.Array | Mapping[str, jax.Array] | None = None,
) -> Callable[..., Any]:
    """Returns what a module computes, as a pure function of variables and inputs.

    Dropout and batch norm are in evaluation mode, whatever the module asks for. The output of every
    submodule is named by its path, ``"encoder/layer_0/attention"``, that of a method other than
    ``__call__`` with its name, ``"embedder.encode"``: ``igjax.layer_names`` lists them, and
    ``igjax.split_at`` and the layer methods take them. A submodule that is called several times, in
    an ``nn.scan`` too, has a name with an index for each. (What is computed of a parameter without
    a method, as in ``table[ids]``, has no name: give it one with ``checkpoint_name``.)

    Args:
      module: a module, not bound to variables.
      target: what to return of the output: an index into its last axis, such as that of a class; a
        tuple of indices, one for each axis; a function of it; or None for all of it.
      method: what to call, as for ``module.apply``.
      rngs: keys for the random numbers that the module draws in evaluation too, as for
        ``module.apply``: by name, or one for all.

    Returns:
      A function ``(variables, *args, **kwargs)`` with the arguments of the module. ``variables`` is
      a dict of collections, ``{"params": …, "batch_stats": …}``, as ``module.init`` returns it: an
      argument like the others, to be differentiated or not. Attribute to the input, which is
      argument 1: what attributes to the variables is refused, unless they are those of a function
      of yours that calls this one.

    Raises:
      TypeError: if ``module`` is no linen module, or ``target``, ``method`` or ``rngs`` is of
        another type; when called, if the variables are none.
      ValueError: if there is no such method; when called, if a collection or a key is missing,
        parameters do not fit the input, or the module would change its variables.

    Example:
      >>> import flax.linen as nn
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> from igjax.flax import linen
      >>> model = nn.Sequential([nn.Dense(8), jnp.tanh, nn.Dense(3)])
      >>> x = jnp.ones(4)
      >>> variables = model.init(jax.random.key(0), x)
      >>> score = linen.function(model, target=2)
      >>> igjax.integrated_grad(score, 1)(variables, x).shape
      (4,)
      >>> list(igjax.layer_names(score, variables, x))
      ['layers_0', 'layers_2']
      >>> igjax.layer_conductance(score, "layers_0", 1)(variables, x).shape
      (8,)

      A model that takes batches gets a batch of one example, and a label with each example is an
      argument like others:

      >>> logits = linen.function(model)
      >>> score = lambda variables, x, label: logits(variables, x[None])[0, label]
      >>> attribute = jax.vmap(igjax.integrated_grad(score, 1), (None, 0, 0))
      >>> attribute(variables, jnp.ones((2, 4)), jnp.array([0, 2])).shape
      (2, 4)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"function takes a flax.linen.Module; got {module!r}.")
    check_target(target)
    ask = _asking(module, method)
    keys = _as_keys(rngs)

    def run(bound: nn.Module, /, *args: Any, **kwargs: Any) -> Tree:
        scope: Any = bound.scope
        _Apart.keep(scope)
        return ask(bound, *args, **kwargs)

    def call(variables: Tree, *args: Any, **kwargs: Any) -> Tree:
        _check_variables(variables)
        try:
            with _INSIDE(True), nn.intercept_methods(_Interceptor()):
                output = module.apply(
                    variables, *args, rngs=keys, mutable=False, method=run, **kwargs
                )
        except flax.errors.ModifyScopeVariableError as error:
            raise ValueError(
                "the model would change its variables, which a function to attribute may not: is "
                f"it in training mode? Pass what turns that off, such as train=False. ({error})"
            ) from error
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                "the model draws random numbers, for which it has no key. If it is in training "
                "mode, pass what turns that off, such as train=False; if not, pass the keys to "
                f"igjax.flax.linen.function, as rngs={{name: key}}. ({error})"
            ) from error
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                "the model's parameters are of other shapes than this input asks for. If the model "
                "takes batches, give it a batch of one example, as in lambda variables, x: "
                f"fun(variables, x[None])[0]. ({error})"
            ) from error
        except (
            flax.errors.ScopeCollectionNotFound,
            flax.errors.ScopeVariableNotFoundError,
            flax.errors.ScopeParamNotFoundError,
        ) as error:
            found = ", ".join(map(repr, variables))
            raise ValueError(
                f"the model looks for variables that were not given; given were {found}. Pass all "
                f"collections, as model.init returned them or training left them. ({error})"
            ) from error
        return pick(output, target)

    return mark(call, _are_variables)


# What `jax.jit` keeps of functions that a model calls, and that apply other models, is another
# thing inside of these calls and outside.
_INSIDE: Any = jax.make_user_context(None)


def _asking(module: nn.Module, method: Any) -> Callable[..., Any]:
    """Returns ``method`` as a function of a module with variables, and the method's arguments.

    Raises:
      TypeError: if it can be none.
      ValueError: if the module has no such method.
    """
    if method is None or isinstance(method, str):
        name = "__call__" if method is None else method
        if not callable(getattr(module, name, None)):
            raise ValueError(f"the module has no method {name!r}.")
        return lambda bound, /, *args, **kwargs: getattr(bound, name)(*args, **kwargs)
    if not callable(method):
        raise TypeError(
            "method must be the name of a method of the module, or a function of the module and "
            f"its arguments; got {method!r}."
        )
    is_bound = inspect.ismethod(method) and isinstance(method.__self__, nn.Module)
    return method.__func__ if is_bound else method


def _as_keys(rngs: Any) -> dict[str, jax.Array]:
    """Returns keys by name, checked to be what Flax takes."""
    keys = {} if rngs is None else dict(rngs) if isinstance(rngs, Mapping) else {"params": rngs}
    try:
        bind({}, rngs=keys)
    except flax.errors.InvalidRngError as error:
        raise TypeError(
            'rngs must be a key, as jax.random.key makes it, or keys by name, {"dropout": key}; '
            f"got {rngs!r}."
        ) from error
    return keys


def _are_variables(argument: Tree) -> bool:
    return isinstance(argument, Mapping) and all(isinstance(v, Mapping) for v in argument.values())


def _check_variables(variables: Tree) -> None:
    if not _are_variables(variables):
        raise TypeError(
            'the first argument must be the variables, {"params": …}, as model.init returns them; '
            f"got {jax.tree.structure(variables)}."
        )


class _Interceptor:
    """Calls the methods of modules in evaluation mode, and names what they return."""

    def __init__(self) -> None:
        self.under_way: list[tuple[tuple[str, ...], str]] = []  # modules, and what is called

    def __call__(
        self,
        next_method: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module, method = context.module, context.method_name
        if module.scope is None:  # it is called without variables, and has no path
            return next_method(*args, **kwargs)
        _Apart.keep(module.scope)  # which a transform may have made anew
        if method == "__call__":
            if isinstance(module, nn.Dropout):
                return named(args[0] if args else kwargs["inputs"], module.path, method)
            for kind, switch in _SWITCHES.items():
                if isinstance(module, kind):
                    args, kwargs = _switched_on(switch, module, context.orig_method, args, kwargs)
        called = (module.path, method)
        is_method = hasattr(type(module), method)  # else a function that nn.scan or so was given
        is_inner = called in self.under_way  # of the class that the module's derives from
        if not is_method or is_inner or not makes_layer(method, args, kwargs):
            return next_method(*args, **kwargs)
        self.under_way.append(called)
        try:
            output = next_method(*args, **kwargs)
        finally:
            self.under_way.pop()
        # Kernels depend on no input: they are no layer.
        return named(output, module.path, method, unless=jax.tree.leaves(module.variables))


class _Apart(Scope):
    """A scope that ``nn.jit`` takes for no other.

    What ``nn.jit`` has traced it takes again for all modules that are alike, wherever they are in a
    model. What is traced here has their paths for names, and is in evaluation mode. ``nn.jit``
    heeds a scope's flags: here they are its path, in all scopes from the model's own down.
    """

    @classmethod
    def keep(cls, scope: Scope) -> Scope:
        """Makes a scope one of these: it belongs to the call under way."""
        scope.__class__ = cls
        scope.flags = freeze({**scope.flags, "igjax": scope.path})
        return scope

    def push(self, *args: Any, **kwargs: Any) -> Scope:
        return self.keep(super().push(*args, **kwargs))


_SWITCHES: dict[type[nn.Module], str] = {
    nn.BatchNorm: "use_running_average",
    nn.MultiHeadDotProductAttention: "deterministic",
}


def _switched_on(
    switch: str,
    module: nn.Module,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of ``method`` with ``switch`` on, if it takes that."""
    if switch in inspect.signature(method).parameters:
        # A module takes the switch once, as an attribute or when it is called. This one is a copy
        # that belongs to the call under way, so that nobody sees the attribute change.
        object.__setattr__(module, switch, None)
    return with_switch(switch, method, args, kwargs)
