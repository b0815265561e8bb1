"""igjax: Integrated Gradients as a composable function transform.

    attributions = jax.jit(jax.vmap(igjax.integrated_grad(f)))(xs, labels)

Transforms: ``integrated_grad`` of a function of one example to a scalar, ``integrated_jacobian`` of
one to arrays; ``Report`` is what they tell about their answer. Their parts are plain values and
functions: ``igjax.baselines``, ``igjax.paths`` and ``igjax.quadrature``.

Layers: ``split_at`` cuts a function in two at an intermediate that has a name, and ``names`` lists
those.
"""

from igjax import baselines, paths, quadrature
from igjax._report import Report
from igjax.integrated import integrated_grad, integrated_jacobian
from igjax.points import names, split_at

__all__ = [
    "Report",
    "baselines",
    "integrated_grad",
    "integrated_jacobian",
    "names",
    "paths",
    "quadrature",
    "split_at",
]

__version__ = "0.1.0"
