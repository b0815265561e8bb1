"""Any method at a layer, or at what a neuron makes of the input, in functions of any kind."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from igjax import baselines
from igjax._engine.along_path import check_scalar
from igjax._engine.attribution import Attribution, Inner, P, made_of
from igjax._engine.options import PathOptions, check_known
from igjax._inputs import (
    as_floating,
    as_function_of,
    check_attribution,
    check_function,
    check_index,
    check_some_array,
    resolve_baseline,
)
from igjax._jaxpr.names import Cut, cut
from igjax._jaxpr.points import Name
from igjax._jaxpr.program import named_like
from igjax._sharding import laid_out_like
from igjax._trees import Tree, is_kind

__all__ = ["at_layer", "at_neuron"]

Neuron = int | tuple[int, ...] | Callable[[Any], Any]
Method = Callable[..., Callable[..., Any]]


def at_layer(method: Method, name: Name | Sequence[Name]) -> Callable[..., Attribution[Any]]:
    """Returns a method that attributes to a layer, from one that attributes to an argument.

    The method is applied to the rest of the network, a function ``(layer's value, argument)``. What
    that computes beside the layer is as it is at the input. If the method has a baseline, that of
    the layer is its value at the baseline of the input.

    Args:
      method: a transform, igjax's or yours: from a function to a function of the same arguments
        that returns attributions to the first one, alone or with a ``Report``.
      name: of the layer; see ``split_at``. A list stands for several, whose attributions are a
        tuple.

    Returns:
      A transform, ``transform(fun, argnums=0, **options)``. ``argnums`` says which positional
      argument(s) the baseline is of; the options are those of ``method``.

    Raises:
      TypeError: if ``method`` is no function; when called, if the layer is not floating-point.
      ValueError: when called, if the layer cannot be had (``split_at``), or does not depend on the
        argument.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.at_layer(igjax.integrated_grad, "squares")(f)(jnp.array([1.0, 2.0])).round(4)
      Array([2., 2.], dtype=float32)

      A method of your own:

      >>> slope = lambda f: lambda h, *rest: jax.grad(f)(h, *rest)
      >>> igjax.at_layer(slope, "squares")(f)(jnp.array([1.0, 2.0]))
      Array([4., 1.], dtype=float32)
    """
    check_function("at_layer", method)

    def transform(
        fun: Callable[P, Any], argnums: int | Sequence[int] = 0, **options: Any
    ) -> Attribution[P]:
        return attribution_at("at_layer", method, fun, name, argnums, options)

    return transform


def attribution_at(
    label: str,
    method: Method,
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int],
    options: dict[str, Any],
) -> Attribution[P]:
    """Returns ``method`` at the layer, with ``label`` for a name."""
    check_function(label, fun)
    has_baseline = takes(method, "baseline")
    baseline = options.pop("baseline", baselines.zeros) if has_baseline else None

    def inner(*args: Any, **kwargs: Any) -> Inner:
        own = {}
        if has_baseline:
            call, x = as_function_of(label, fun, argnums, args, kwargs)
            parts = cut_at_layer(call, name, x)
            start = laid_out_like(resolve_baseline(baseline, x), x)
            own["baseline"] = parts.head(start)
        else:
            check_some_array(label, args, kwargs)
            x = (args, kwargs)
            parts = check_depends(cut(_of_all(fun), name, (x,), {}))
        layer = layer_value(parts.head(x), name)
        return Inner(method(parts.tail, **own, **options), (layer, x), lambda found: found)

    like = check_attribution(label, method(fun, **options))
    return made_of(label, fun, inner, like=like)


def cut_at_layer(call: Callable[[Tree], Any], name: Name | Sequence[Name], x: Tree) -> Cut:
    """Cuts a function of the attributed argument(s) at a layer, which must depend on their floats.

    What else they have is the same all along the path.

    Raises:
      TypeError: as ``cut`` does.
      ValueError: likewise, or if the layer, or one of several, does not depend on them.
    """
    return check_depends(cut(call, name, (x,), {}, moves=lambda leaf: is_kind(leaf, jnp.floating)))


def check_depends(parts: Cut) -> Cut:
    """Returns a function cut at a layer.

    Raises:
      ValueError: if the layer, or one of several, does not depend on what is attributed.
    """
    if parts.idle:
        raise ValueError(
            f"the intermediate {parts.idle[0]!r} does not depend on what is attributed, so that "
            "nothing flows from there through it. Name one that does, as igjax.layer_names lists "
            "them, or say by argnums which argument it depends on."
        )
    return parts


def _of_all(fun: Callable[..., Any]) -> Callable[[Tree], Any]:
    """Returns ``fun`` as a function of the pair of its arguments by position and by keyword."""

    @named_like(fun)
    def of_all(given: Tree) -> Any:
        args, kwargs = given
        return fun(*args, **kwargs)

    return of_all


def takes(method: Method, keyword: str) -> bool:
    """Returns whether a method has a keyword, or passes all on to another method."""
    parameters = inspect.signature(method).parameters
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def at_neuron(
    method: Method, name: Name | Sequence[Name], neuron: Neuron
) -> Callable[..., Callable[..., Any]]:
    """Returns a method that attributes one neuron to the input, from one that attributes an output.

    Args:
      method: a transform, igjax's or yours; see ``at_layer``.
      name: of the layer; see ``split_at``.
      neuron: an index of the layer's value, or a function of that value to a scalar.

    Returns:
      A transform with the arguments of ``method``. Of the function only the part up to the layer
      matters.

    Raises:
      TypeError: if ``method`` is no function; when called, if ``neuron`` is no index.
      ValueError: when called, if the layer cannot be had (``split_at``), does not depend on the
        argument, or has no such neuron.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> of_second = igjax.at_neuron(igjax.integrated_grad, "squares", 1)
      >>> of_second(f)(jnp.array([1.0, 2.0])).round(4)
      Array([0., 4.], dtype=float32)
    """
    check_function("at_neuron", method)

    def transform(fun: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        check_function("at_neuron", fun)
        given = inspect.signature(method).bind(fun, *args, **options)
        given.apply_defaults()
        of_neuron = neuron_of(fun, name, neuron, given.arguments.get("argnums"))
        return check_attribution("at_neuron", method(of_neuron, *args, **options))

    return transform


def neuron_of(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    neuron: Neuron,
    argnums: int | Sequence[int] | None,
) -> Callable[P, jax.Array]:
    """Returns the function to a neuron, which must depend on the arguments ``argnums``.

    None stands for all arguments.
    """

    @functools.wraps(fun)
    def value(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        check_some_array("at_neuron", args, kwargs)
        call, x = _of_all(fun), (args, kwargs)
        if argnums is not None:
            call, x = as_function_of("at_neuron", fun, argnums, args, kwargs, lambda x, _: x)
        parts = check_depends(cut(call, name, (x,), {}))  # the method may be one for ids
        return pick_neuron(neuron, layer_value(parts.head(x), name))

    return value


def of_scalar(
    method: str, fun: Callable[P, Any], options: PathOptions
) -> tuple[Callable[P, Any], dict[str, Any]]:
    """Returns ``fun``, whose value is checked in the name of ``method``, and known options."""
    check_function(method, fun)
    check_known(method, options)
    has_aux = options.get("has_aux", False)

    @functools.wraps(fun)
    def checked_fun(*args: P.args, **kwargs: P.kwargs) -> Any:
        result = fun(*args, **kwargs)
        check_scalar(method, result[0] if has_aux else result)
        return result

    return checked_fun, dict(options)


def layer_value(value: Tree, name: Any) -> Tree:
    """Returns the value of a layer, which must be floating-point to be attributed to."""
    return as_floating(value, f"the layer {name!r}")


def pick_neuron(neuron: Neuron, value: Tree) -> jax.Array:
    """Returns the neuron of a layer's value, a scalar."""
    if callable(neuron):
        picked = neuron(value)
        if jnp.shape(picked) != ():
            raise ValueError(
                f"neuron must be a function of the layer's value to a scalar; got shape "
                f"{jnp.shape(picked)}."
            )
        if not is_kind(picked, jnp.floating):
            raise TypeError(f"neuron must return a floating-point number; got {picked!r}.")
        return picked
    index = neuron if isinstance(neuron, tuple) else (neuron,)
    shape = getattr(value, "shape", None)
    if shape is None:
        raise TypeError("neuron must be a function of the values of several layers.")
    if len(index) != len(shape):
        raise ValueError(
            f"neuron must have an index for each axis of the layer, of shape {shape}; got "
            f"{neuron!r}."
        )
    for number, length in zip(index, shape, strict=True):
        check_index(f"neuron, of a layer of shape {shape},", number, length)
    return value[index]
