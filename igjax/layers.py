"""Attribution to the layers and neurons of any function, of which intermediates have names.

``split_at`` cuts a function in two at a layer. Everything here is a few lines on top of that and of
``integrated_grad``: integrated gradients of the second half are those of the layer; along the path
that the layer's value takes while the input moves they are its conductance; and so on.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from igjax import baselines, paths, quadrature
from igjax._inputs import (
    as_floating,
    as_function_of,
    check_function,
    check_index,
    matching,
    resolve_baseline,
)
from igjax._jaxpr.names import split_at
from igjax._jaxpr.points import Name, is_name
from igjax._sharding import laid_out_like, per_device
from igjax._transform import Settings, check_scalar, checked, transform
from igjax.integrated import integrated_grad

__all__ = [
    "grad_cam",
    "internal_influence",
    "layer_conductance",
    "layer_gradient_x_activation",
    "layer_integrated_grad",
    "neuron_conductance",
    "neuron_integrated_grad",
]

Tree = Any
Neuron = int | tuple[int, ...] | Callable[[Any], Any]


def layer_integrated_grad(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes the integrated gradients of ``fun`` at a layer.

    The path runs in the layer's space, from its value at the baseline to that at the input. What
    ``fun`` computes beside the layer is as it is at the input. So the attributions sum to ``F(x)``
    less what F is with the layer as at the baseline, which is ``F(x')`` where all goes through it.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that have the baseline, an integer or several.
      baseline: as for ``integrated_grad``: of the argument(s), not of the layer.
      path: in the layer's space; see ``igjax.paths``.
      rule: see ``igjax.quadrature``; and so on, as for ``integrated_grad``.
      multiply_by_inputs: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions, like the layer's
      value; and with ``has_report`` a ``Report``, whose ``baseline_value`` is that with the layer
      as at the baseline.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.layer_integrated_grad(f, "squares")(jnp.array([1.0, 2.0])).round(4)
      Array([2., 2.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1, of the rest of the network.
    """
    method = "layer_integrated_grad"
    check_function(method, fun)
    settings = checked(
        Settings(baseline, path, rule, multiply_by_inputs, batch_size, has_report, sharding)
    )

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        call, x = as_function_of(method, fun, argnums, args, kwargs)
        start = laid_out_like(resolve_baseline(baseline, x), x)
        head, tail = split_at(call, name)
        at_layer = settings._replace(baseline=head(start))
        explain = transform(method, jax.grad, check_scalar, tail, 0, False, at_layer)
        return explain(_layer(head(x), name), x)

    return attribute


def neuron_integrated_grad(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    neuron: Neuron,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes the integrated gradients of one neuron.

    Args:
      fun: a function of pytrees of arrays, of which only the part up to the layer matters.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) to attribute to, an integer or several.
      neuron: an index of the layer's value, or a function of that value to a scalar.
      baseline: as for ``integrated_grad``.
      path: likewise.
      rule: likewise.
      multiply_by_inputs: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions, like the argument(s);
      and with ``has_report`` a ``Report``, of the neuron's values.

    Raises:
      TypeError: as ``integrated_grad`` does, or if ``neuron`` is no index.
      ValueError: likewise, or if the layer cannot be had (``split_at``), or has no such neuron.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.neuron_integrated_grad(f, "squares", neuron=1)(jnp.array([1.0, 2.0])).round(4)
      Array([0., 4.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1, of a part of the network.
    """
    check_function("neuron_integrated_grad", fun)
    head, _ = split_at(fun, name)

    @functools.wraps(fun)
    def value(*args: Any, **kwargs: Any) -> jax.Array:
        return _pick(neuron, _layer(head(*args, **kwargs), name))

    return integrated_grad(
        value,
        argnums,
        baseline=baseline,
        path=path,
        rule=rule,
        multiply_by_inputs=multiply_by_inputs,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
    )


def layer_conductance(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes the conductance of a layer: what flows through each neuron.

    That is the integrated gradients of the layer along the path that its value takes while the
    input moves from the baseline: the integral of ``dF/dh_j * dh_j/dalpha``.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that move from the baseline, an integer or several.
      baseline: as for ``integrated_grad``.
      path: likewise, in the input's space.
      rule: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the conductances, like the layer's
      value; and with ``has_report`` a ``Report``. They sum to ``F(x) - F(x')`` less what goes past
      the layer, which the report takes into account.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares")) + x[0]
      >>> igjax.layer_conductance(f, "squares")(jnp.array([1.0, 2.0])).round(4)
      Array([2., 2.], dtype=float32)

    Source: Dhamdhere, Sundararajan & Yan 2018, "How Important Is a Neuron?" (arXiv:1805.12233),
    eq. 2 and 3.
    """
    settings = Settings(
        baseline,
        path,
        rule,
        multiply_by_inputs=True,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
    )
    return _along_the_inputs_path("layer_conductance", fun, name, argnums, settings)


def internal_influence(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes the mean gradient at a layer while the input moves.

    The distribution of interest (of Leino et al.) is that of the points of the path.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that move from the baseline, an integer or several.
      baseline: as for ``integrated_grad``.
      path: likewise, in the input's space.
      rule: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the influences, like the layer's value;
      and with ``has_report`` a ``Report``, which knows of no completeness gap.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.internal_influence(f, "squares")(jnp.array([1.0, 2.0])).round(4)
      Array([1.3333, 0.3333], dtype=float32)

    Source: Leino et al. 2018, "Influence-Directed Explanations for Deep Convolutional Networks"
    (arXiv:1802.03788), definition 1.
    """
    settings = Settings(
        baseline,
        path,
        rule,
        multiply_by_inputs=False,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
    )
    return _along_the_inputs_path("internal_influence", fun, name, argnums, settings)


def _along_the_inputs_path(
    method: str,
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int],
    settings: Settings,
) -> Callable[..., Any]:
    """Integrated gradients of layer and input together, of which those of the layer are asked for.

    Together they are complete, also where something goes past the layer.
    """
    check_function(method, fun)
    settings = checked(settings)

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        call, x = as_function_of(method, fun, argnums, args, kwargs)
        start = laid_out_like(resolve_baseline(settings.baseline, x), x)
        head, tail = split_at(call, name)

        def pushed(starts: Tree, ends: Tree, alpha: jax.Array) -> tuple[Tree, Tree]:
            point = matching(settings.path(starts[1], ends[1], alpha), x, "path's point")
            return head(point), point

        both = settings._replace(
            baseline=(head(start), start), path=pushed, asked=lambda parts: parts[0]
        )
        explain = transform(method, jax.grad, check_scalar, tail, (0, 1), False, both)
        found = explain(_layer(head(x), name), x)
        if not settings.has_report:
            return found[0]
        (at_layer, _), report = found
        return at_layer, report

    return attribute


def neuron_conductance(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    neuron: Neuron,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes what flows from each input through a neuron.

    For input i and neuron j that is the integral of ``dF/dh_j * dh_j/dx_i * dx_i/dalpha``. Over all
    neurons it sums to the integrated gradients of i, over all inputs to the conductance of j.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) to attribute to, an integer or several.
      neuron: an index of the layer's value, or a function of that value to a scalar, of which the
        gradient says how much each neuron counts: ``lambda h: h[3:5].sum()`` for two of them.
      baseline: as for ``integrated_grad``.
      path: likewise.
      rule: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the conductances, like the argument(s);
      and with ``has_report`` a ``Report``, which knows of no completeness gap.

    Raises:
      TypeError: as ``integrated_grad`` does, or if ``neuron`` is no index.
      ValueError: likewise, or if the layer cannot be had (``split_at``), or has no such neuron.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(jnp.stack([x.sum(), x[0]]), "pair"))
      >>> igjax.neuron_conductance(f, "pair", neuron=0)(jnp.array([1.0, 2.0])).round(4)
      Array([0.5, 1. ], dtype=float32)

    Source: Dhamdhere, Sundararajan & Yan 2018 (arXiv:1805.12233), eq. 1.
    """

    def differentiate(value: Callable[[Tree], jax.Array]) -> Callable[[Tree], Tree]:
        head, tail = split_at(value, name)

        def through_neuron(x: Tree) -> Tree:
            h, pull_back = jax.vjp(lambda x: _layer(head(x), name), x)
            counts = jax.grad(functools.partial(_pick, neuron))(h)
            (through,) = pull_back(jax.tree.map(jnp.multiply, jax.grad(tail)(h, x), counts))
            return through

        return through_neuron

    settings = Settings(
        baseline,
        path,
        rule,
        multiply_by_inputs=True,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
        affine_prefix=False,
        complete=False,
    )
    return transform(
        "neuron_conductance", differentiate, check_scalar, fun, argnums, False, settings
    )


def layer_gradient_x_activation(
    fun: Callable[..., Any], name: Name | Sequence[Name]
) -> Callable[..., Any]:
    """Returns a function that computes the gradient at a layer times the layer's value.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.

    Returns:
      A function with the arguments of ``fun`` that returns the products, like the layer's value.

    Raises:
      TypeError: when called, if the layer is not floating-point.
      ValueError: when called, if the layer cannot be had (``split_at``).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.layer_gradient_x_activation(f, "squares")(jnp.array([1.0, 2.0]))
      Array([4., 4.], dtype=float32)

    Source: Shrikumar et al. 2016, "Not Just a Black Box" (arXiv:1605.01713), at a layer.
    """
    method = "layer_gradient_x_activation"
    check_function(method, fun)
    head, tail = split_at(fun, name)

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        h, slopes = _slopes(method, head, tail, name, args, kwargs)
        return jax.tree.map(jnp.multiply, h, slopes)

    return attribute


def grad_cam(
    fun: Callable[..., Any], name: Name, *, channel_axis: int = -1, relu: bool = True
) -> Callable[..., Any]:
    """Returns a function that computes Grad-CAM: where a convolutional layer speaks for the output.

    Each channel counts as much as the mean of its gradients over all places.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer, whose value is an array of channels and places; see ``split_at``.
      channel_axis: the axis of the channels.
      relu: whether to keep what speaks for the output only, as the paper does.

    Returns:
      A function with the arguments of ``fun`` that returns the map, of the layer's shape without
      the axis of the channels. To lay it over an image, resize it (``jax.image.resize``).

    Raises:
      TypeError: when called, if the layer is not floating-point.
      ValueError: when called, if the layer cannot be had (``split_at``), or has no such axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.sum(checkpoint_name(x, "maps")[..., 0]) * 4
      >>> igjax.grad_cam(f, "maps")(jnp.arange(8.0).reshape(2, 2, 2))
      Array([[ 0.,  8.],
             [16., 24.]], dtype=float32)

    Source: Selvaraju et al. 2017, "Grad-CAM" (arXiv:1610.02391), eq. 1 and 2.
    """
    check_function("grad_cam", fun)
    if not is_name(name):
        raise TypeError(f"grad_cam takes the name of one layer; got {name!r}.")
    head, tail = split_at(fun, name)

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> jax.Array:
        maps, slopes = _slopes("grad_cam", head, tail, name, args, kwargs)
        if maps.ndim < 2:
            raise ValueError(
                f"grad_cam needs a layer of channels and places; {name!r} has shape {maps.shape}."
            )
        check_index(f"channel_axis, of a layer of shape {maps.shape},", channel_axis, maps.ndim)
        channel = channel_axis % maps.ndim
        places = tuple(axis for axis in range(maps.ndim) if axis != channel)
        weights = jnp.mean(slopes, axis=places, keepdims=True)
        cam = jnp.sum(weights * maps, axis=channel)
        return jax.nn.relu(cam) if relu else cam

    return attribute


def _slopes(
    method: str,
    head: Callable[..., Tree],
    tail: Callable[..., Any],
    name: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tree, Tree]:
    """The value of a layer, and the gradient there."""

    def rest(h: Tree) -> Any:
        value = tail(h, *args, **kwargs)
        check_scalar(method, value)
        return value

    h = per_device(_layer(head(*args, **kwargs), name), rest)
    return h, jax.grad(rest)(h)


def _layer(value: Tree, name: Any) -> Tree:
    """The value of a layer, which must be floating-point to be attributed to."""
    return as_floating(value, f"the layer {name!r}")


def _pick(neuron: Neuron, value: Tree) -> jax.Array:
    """The neuron of a layer's value, a scalar."""
    if callable(neuron):
        picked = neuron(value)
        if jnp.shape(picked) != ():
            raise ValueError(
                f"neuron must be a function of the layer's value to a scalar; got shape "
                f"{jnp.shape(picked)}."
            )
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
