"""igjax: Integrated Gradients as a composable function transform.

    attributions = jax.jit(jax.vmap(igjax.integrated_grad(f)))(xs, labels)

Transforms: ``integrated_grad`` of a function of one example to a scalar, ``integrated_jacobian`` of
one to arrays; ``Report`` is what they tell about their answer. Their parts are plain values and
functions: ``igjax.baselines``, ``igjax.paths`` and ``igjax.quadrature``.

Layers: ``split_at`` cuts a function in two at an intermediate that has a name, and ``layer_names``
lists those. ``layer_integrated_grad``, ``layer_conductance``, ``internal_influence``,
``layer_gradient_x_activation`` and ``grad_cam`` attribute to it, ``neuron_integrated_grad`` and
``neuron_conductance`` to the input by a neuron of it. ``token_integrated_grad`` attributes to token
ids at their embedding.

``igjax.flax``, which is not imported here, takes Flax models as they are.
"""

from igjax import baselines, paths, quadrature
from igjax._jaxpr.names import layer_names, split_at
from igjax._report import Report
from igjax._version import __version__
from igjax.integrated import integrated_grad, integrated_jacobian
from igjax.layers import (
    grad_cam,
    internal_influence,
    layer_conductance,
    layer_gradient_x_activation,
    layer_integrated_grad,
    neuron_conductance,
    neuron_integrated_grad,
)
from igjax.tokens import token_integrated_grad

__all__ = [
    "Report",
    "__version__",
    "baselines",
    "grad_cam",
    "integrated_grad",
    "integrated_jacobian",
    "internal_influence",
    "layer_conductance",
    "layer_gradient_x_activation",
    "layer_integrated_grad",
    "layer_names",
    "neuron_conductance",
    "neuron_integrated_grad",
    "paths",
    "quadrature",
    "split_at",
    "token_integrated_grad",
]
