"""Conductance: what flows through a layer, or through one of its neurons, along the path."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from igjax._engine.along_path import Derivative, along_path, check_scalar, gradient
from igjax._engine.attribution import Attribution, Inner, P, made_of
from igjax._engine.options import PathOptions, check_known, checked
from igjax._inputs import as_function_of, matching, resolve_baseline
from igjax._jaxpr.points import Name
from igjax._layers import Neuron, cut_at_layer, layer_value, of_scalar, pick_neuron
from igjax._sharding import laid_out_like
from igjax._trees import Tree, filled, floats

__all__ = ["internal_influence", "layer_conductance", "neuron_conductance"]


def layer_conductance(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes the conductance of a layer: what flows through each neuron.

    That is the integrated gradients of the layer along the path that its value takes while the
    input moves from the baseline: the integral of ``dF/dh_j * dh_j/dalpha``.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that move from the baseline, an integer or several.
      **options: those of ``integrated_grad``. Baseline and path are those of the input.

    Returns:
      A function with the arguments of ``fun`` that returns the conductances, like the layer's
      value; and with ``has_report`` a ``Report``. They sum to ``F(x) - F(x')`` less what goes past
      the layer, which the report takes into account.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``), or does not depend on the
        argument(s).

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
    return _along_the_inputs_path("layer_conductance", fun, name, argnums, options)


def internal_influence(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes the mean gradient at a layer while the input moves.

    The distribution of interest (of Leino et al.) is that of the points of the path.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) that move from the baseline, an integer or several.
      **options: those of ``layer_conductance``, of which this is the one that is not multiplied.

    Returns:
      A function with the arguments of ``fun`` that returns the influences, like the layer's value;
      and with ``has_report`` a ``Report``, which knows of no completeness gap.

    Raises:
      TypeError: as ``integrated_grad`` does, or if the layer is not floating-point.
      ValueError: likewise, or if the layer cannot be had (``split_at``), or does not depend on the
        argument(s).

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
    options.setdefault("multiply_by_inputs", False)
    return _along_the_inputs_path("internal_influence", fun, name, argnums, options)


def _along_the_inputs_path(
    method: str,
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int],
    given: PathOptions,
) -> Attribution[P]:
    """Attributes to layer and input together, of which that of the layer is asked for.

    Together they are complete, also where something goes past the layer.
    """
    fun, _ = of_scalar(method, fun, given)
    options = checked(argnums=argnums, **given)

    def inner(*args: Any, **kwargs: Any) -> Inner:
        call, x = as_function_of(method, fun, argnums, args, kwargs)
        start = laid_out_like(resolve_baseline(options.baseline, x), x)
        head, tail, _ = cut_at_layer(call, name, x)

        def pushed(starts: Tree, ends: Tree, alpha: jax.Array) -> tuple[Tree, Tree]:
            point = matching(options.path(starts[1], ends[1], alpha), floats(x), "path's point")
            return head(filled(point, x)), point

        both = options._replace(
            argnums=(0, 1),
            baseline=(head(start), start),
            path=pushed,
            judged=lambda attributions: attributions[0],
        )
        layer = layer_value(head(x), name)
        return Inner(along_path(method, tail, both, gradient), (layer, x), of_layer)

    def of_layer(found: Any) -> Any:
        if not (options.has_aux or options.has_report):
            return found[0]
        (attributions, _), *extras = found
        return (attributions, *extras)

    return made_of(method, fun, inner, like=along_path(method, fun, options, gradient))


def neuron_conductance(
    fun: Callable[P, Any],
    name: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    neuron: Neuron,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes what flows from each input through a neuron.

    For input i and neuron j that is the integral of ``dF/dh_j * dh_j/dx_i * dx_i/dalpha``. Over all
    neurons it sums to the integrated gradients of i, over all inputs to the conductance of j.

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      name: of the layer; see ``split_at``.
      argnums: the positional argument(s) to attribute to, an integer or several.
      neuron: an index of the layer's value, or a function of that value to a scalar, of which the
        gradient says how much each neuron counts: ``lambda h: h[3:5].sum()`` for two of them.
      **options: those of ``integrated_grad``.

    Returns:
      A function with the arguments of ``fun`` that returns the conductances, like the argument(s);
      and with ``has_report`` a ``Report``, which knows of no completeness gap.

    Raises:
      TypeError: as ``integrated_grad`` does, or if ``neuron`` is no index.
      ValueError: likewise, or if the layer cannot be had (``split_at``), does not depend on the
        argument(s), or has no such neuron.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.prod(checkpoint_name(jnp.stack([x.sum(), x[0]]), "pair"))
      >>> igjax.neuron_conductance(f, "pair", neuron=0)(jnp.array([1.0, 2.0])).round(4)
      Array([0.5, 1. ], dtype=float32)

    Source: Dhamdhere, Sundararajan & Yan 2018 (arXiv:1805.12233), eq. 1.
    """

    def differentiate(of: Callable[[Tree], jax.Array]) -> Callable[[Tree], tuple[Tree, Tree]]:
        def through_neuron(x: Tree) -> tuple[Tree, Tree]:
            head, tail, _ = cut_at_layer(of, name, x)
            h, pull_back = jax.vjp(lambda x: layer_value(head(x), name), x)
            counts = jax.grad(functools.partial(pick_neuron, neuron))(h)
            value, slope = jax.value_and_grad(tail)(h, x)
            (through,) = pull_back(jax.tree.map(jnp.multiply, slope, counts))
            return through, value

        return through_neuron

    method = "neuron_conductance"
    check_known(method, options)
    own = checked(argnums=argnums, **options)
    # A neuron's part of it is not complete, and the layer may lie in what is affine.
    own = own._replace(contribution=own.contribution._replace(complete=False), affine_prefix=False)
    return along_path(method, fun, own, Derivative(differentiate, check_scalar))
