"""igjax: Integrated Gradients as a composable function transform.

attributions = jax.jit(jax.vmap(igjax.integrated_grad(f), in_axes=(0, 0)))(xs, labels)
"""

# Attribution transforms
from igjax._report import Report as Report
from igjax.integrated import integrated_grad as integrated_grad
from igjax.integrated import integrated_jacobian as integrated_jacobian

# What they are made of: baselines, paths and quadrature rules, all plain values
from igjax import baselines as baselines  # isort: skip
from igjax import paths as paths  # isort: skip
from igjax import quadrature as quadrature  # isort: skip

__version__ = "0.1.0"
