"""Where to put the nodes, by what the gradient does along the path: densely where it changes much.

Between neighbouring nodes the gradient of a ReLU network makes many small jumps, like a random
walk, whose variance per length is ``s``. Steps of size ``h`` then leave an error whose variance is
the integral of ``s h^2``, and for a given number of nodes, the integral of ``1 / h``, that is least
with a density ``1 / h`` in proportion to the third root of ``s``. As ``s`` is known from a few
nodes only, the density follows it a little less: the fourth root, smoothed, nowhere too small.
"""

import jax
import jax.numpy as jnp
import numpy as np

from igjax._quadrature.gauss import Floats

LEAST = 0.2  # density anywhere, of a mean of 1
WIDTH = 1.0  # standard deviation of the smoothing, times the number of changes (or 16, if more)


def masses(changes: jax.Array, nodes: Floats, cells: int) -> jax.Array:
    """Returns the shares of the nodes that suit the integrand.

    Args:
      changes: shape ``(outputs, n - 1)``: by how much each output's integrand changes from one node
        to the next. Outputs of all sizes count the same.
      nodes: shape ``(n,)``, increasing.
      cells: how many.

    Returns:
      Shape ``(cells,)``, of sum 1: of so many equal parts of [0, 1].
    """
    places = (nodes[1:] + nodes[:-1]) / 2
    widths = jnp.asarray(np.diff(nodes), changes.dtype)[None]
    wanted = jnp.sqrt(changes / jnp.sqrt(widths))  # the fourth root of a variance
    mean = jnp.mean(wanted, axis=1, keepdims=True)
    wanted = jnp.mean(wanted / jnp.where(mean == 0.0, 1.0, mean), axis=0)
    width = WIDTH / min(places.size, 16)
    smooth = jnp.asarray(_smoothing(places, width, cells), wanted.dtype) @ wanted
    density = LEAST + (1.0 - LEAST) * smooth
    return density / jnp.sum(density)


def _smoothing(places: Floats, width: float, cells: int) -> Floats:
    """Returns the matrix that smooths values at ``places`` to the cells, by Gaussian weights."""
    at = (np.arange(cells)[:, None] + 0.5) / cells
    weights = np.exp(-0.5 * ((at - places) / width) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
