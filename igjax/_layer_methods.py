"""Methods of the literature at layers and neurons, but for those that flow through them."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from igjax._engine.along_path import along_path, gradient
from igjax._engine.attribution import Attribution, P
from igjax._engine.options import PathOptions, check_known, checked
from igjax._inputs import check_flag, check_function, check_index
from igjax._integrated import integrated_grad
from igjax._jaxpr.points import Name, is_name
from igjax._layers import Neuron, attribution_at, neuron_of, of_scalar
from igjax._sharding import vary_like
from igjax._trees import Tree

__all__ = [
    "grad_cam",
    "layer_gradient_x_activation",
    "layer_integrated_grad",
    "neuron_integrated_grad",
]


def layer_integrated_grad(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes the integrated gradients of ``fun`` at a layer.

    The path runs in the layer's space, from its value at the baseline to that at the input. What
    ``fun`` computes beside the layer is as it is at the input. So the attributions sum to ``F(x)``
    less what F is with the layer as at the baseline, which is ``F(x')`` where all goes through it.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that have the baseline, an integer or several.
      **options: those of ``integrated_grad``. The baseline is that of the argument(s), not of the
        layer; the path is in the layer's space.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions, like the layer's
      value; and with ``has_report`` a ``Report``, whose ``baseline_value`` is that with the layer
      as at the baseline.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``), or does not depend on the
        argument(s).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.layer_integrated_grad(f, "squares")(jnp.array([1.0, 2.0])).round(4)
      Array([2., 2.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1, of the rest of the network.
    """
    fun, given = of_scalar("layer_integrated_grad", fun, options)
    return attribution_at("layer_integrated_grad", integrated_grad, fun, name, argnums, given)


def neuron_integrated_grad(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    neuron: Neuron,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes the integrated gradients of one neuron.

    Args:
      fun: a function of pytrees of arrays, of which only the part up to the layer matters.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) to attribute to, an integer or several.
      neuron: an index of the layer's value, or a function of that value to a scalar.
      **options: those of ``integrated_grad``.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions, like the argument(s);
      and with ``has_report`` a ``Report``, of the neuron's values.

    Raises:
      TypeError: as ``integrated_grad`` does, or if ``neuron`` is no index.
      ValueError: likewise, or if the layer cannot be had (``split_at``), does not depend on the
        argument(s), or has no such neuron.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.neuron_integrated_grad(f, "squares", neuron=1)(jnp.array([1.0, 2.0])).round(4)
      Array([0., 4.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1, of a part of the network.
    """
    method = "neuron_integrated_grad"
    check_function(method, fun)
    check_known(method, options)
    own = checked(argnums=argnums, **options)
    return along_path(method, neuron_of(fun, name, neuron, argnums), own, gradient)


def layer_gradient_x_activation(
    fun: Callable[P, Any], name: Name | Sequence[Name]
) -> Attribution[P]:
    """Returns a function that computes the gradient at a layer times the layer's value.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.

    Returns:
      A function with the arguments of ``fun`` that returns the products, like the layer's value.

    Raises:
      TypeError: when called, if the layer is not floating-point.
      ValueError: when called, if the layer cannot be had (``split_at``), or depends on no argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(x**2, "squares"))
      >>> igjax.layer_gradient_x_activation(f, "squares")(jnp.array([1.0, 2.0]))
      Array([4., 4.], dtype=float32)

    Source: Shrikumar et al. 2016, "Not Just a Black Box" (arXiv:1605.01713), at a layer.
    """

    def products(tail: Callable[..., Any]) -> Callable[..., Tree]:
        return lambda h, *rest: jax.tree.map(jnp.multiply, *_value_and_slopes(tail, h, *rest))

    fun, _ = of_scalar("layer_gradient_x_activation", fun, {})
    return attribution_at("layer_gradient_x_activation", products, fun, name, 0, {})


def grad_cam(
    fun: Callable[P, Any], name: Name, *, channel_axis: int = -1, relu: bool = True
) -> Attribution[P]:
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
      ValueError: when called, if the layer cannot be had (``split_at``), depends on no argument, or
        has no such axis.

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
    fun, _ = of_scalar("grad_cam", fun, {})
    check_flag("relu", relu)
    if not is_name(name):
        raise TypeError(f"grad_cam takes the name of one layer; got {name!r}.")

    def cam(tail: Callable[..., Any]) -> Callable[..., jax.Array]:
        def attribute(maps: jax.Array, *rest: Any) -> jax.Array:
            if maps.ndim < 2:
                raise ValueError(
                    "grad_cam needs a layer of channels and places; "
                    f"{name!r} has shape {maps.shape}."
                )
            check_index(f"channel_axis, of a layer of shape {maps.shape},", channel_axis, maps.ndim)
            maps, slopes = _value_and_slopes(tail, maps, *rest)
            channel = channel_axis % maps.ndim
            places = tuple(axis for axis in range(maps.ndim) if axis != channel)
            weights = jnp.mean(slopes, axis=places, keepdims=True)
            found = jnp.sum(weights * maps, axis=channel)
            return jax.nn.relu(found) if relu else found

        return attribute

    return attribution_at("grad_cam", cam, fun, name, 0, {})


def _value_and_slopes(tail: Callable[..., Any], h: Tree, *rest: Any) -> tuple[Tree, Tree]:
    """Returns the value of a layer, and the gradient there."""
    h = vary_like(tail(h, *rest), h)  # in a shard_map each device has its own
    return h, jax.grad(tail)(h, *rest)
