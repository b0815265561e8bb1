"""igjax: Integrated Gradients as a composable function transform.

    attributions = jax.jit(jax.vmap(igjax.integrated_grad(f)))(xs, labels)

Transforms: ``integrated_grad`` of a function of one example to a scalar, ``integrated_jacobian`` of
one to arrays; ``Report`` is what they tell about their answer. Their parts are plain values and
functions: ``igjax.baselines``, ``igjax.paths`` and ``igjax.quadrature``.
"""

from igjax import baselines, paths, quadrature
from igjax._report import Report
from igjax.integrated import integrated_grad, integrated_jacobian

__all__ = [
    "Report",
    "baselines",
    "integrated_grad",
    "integrated_jacobian",
    "paths",
    "quadrature",
]

__version__ = "0.1.0"
