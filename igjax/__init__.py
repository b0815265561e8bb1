"""igjax: Integrated Gradients as a composable function transform.

    attributions = jax.jit(jax.vmap(igjax.integrated_grad(f)))(xs, labels)

Transforms: ``integrated_grad`` of a function of one example to a scalar, ``integrated_jacobian`` of
one to arrays; ``Report`` is what they tell about their answer, and ``Reason`` why they ended. Their
parts are plain values and functions: ``igjax.baselines``, ``igjax.paths``, ``igjax.quadrature``.

Layers: ``split_at`` cuts a function in two at an intermediate that has a name, and ``layer_names``
lists those. ``layer_integrated_grad``, ``layer_conductance``, ``internal_influence``,
``layer_gradient_x_activation`` and ``grad_cam`` attribute to it, ``neuron_integrated_grad`` and
``neuron_conductance`` to the input by a neuron of it. ``token_integrated_grad`` attributes to token
ids at their embedding. ``at_layer``, ``at_neuron`` and ``at_tokens`` take any method there.
``from_arguments`` makes an attribution anew of each example's arguments.

``igjax.flax``, which is not imported here, takes Flax models as they are.
"""

from igjax import baselines, paths, quadrature
from igjax._conductance import internal_influence, layer_conductance, neuron_conductance
from igjax._engine.report import Reason, Report
from igjax._from_arguments import from_arguments
from igjax._integrated import integrated_grad, integrated_jacobian
from igjax._jaxpr.names import layer_names, split_at
from igjax._layer_methods import (
    grad_cam,
    layer_gradient_x_activation,
    layer_integrated_grad,
    neuron_integrated_grad,
)
from igjax._layers import at_layer, at_neuron
from igjax._tokens import at_tokens, token_integrated_grad
from igjax._version import __version__

__all__ = [
    "Reason",
    "Report",
    "__version__",
    "at_layer",
    "at_neuron",
    "at_tokens",
    "baselines",
    "from_arguments",
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
