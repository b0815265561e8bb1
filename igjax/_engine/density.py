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

POWER = 1 / 4
LEAST = 0.2  # density anywhere, of a mean of 1
WIDTH = 1.0  # standard deviation of the smoothing, times the number of changes (or 16, if more)
CELLS = 256  # of the table of the density


def density(changes: jax.Array, nodes: Floats) -> jax.Array:
    """Returns the density of nodes that suits the integrand.

    Args:
      changes: shape ``(rows, n - 1, outputs)``: by how much each output's integrand changes from
        one node to the next. Outputs of all sizes count the same.
      nodes: shape ``(rows, n)``, increasing along each row.

    Returns:
      Shape ``(CELLS + 1,)``, of mean 1: at equal steps from 0 to 1, linear in between.
    """
    places = ((nodes[:, 1:] + nodes[:, :-1]) / 2).ravel()
    widths = np.diff(nodes)[..., None]
    wanted = (changes**2 / jnp.asarray(widths, changes.dtype)) ** POWER
    wanted = wanted.reshape(places.size, -1)
    mean = jnp.mean(wanted, axis=0, keepdims=True)
    wanted = jnp.mean(wanted / jnp.where(mean == 0.0, 1.0, mean), axis=1)
    width = WIDTH / min(places.size, 16)
    smooth = jnp.asarray(_smoothing(places, width), wanted.dtype) @ wanted
    table = LEAST + (1.0 - LEAST) * smooth
    return table / (jnp.sum((table[1:] + table[:-1]) / 2) / CELLS)


def _smoothing(places: Floats, width: float) -> Floats:
    """Returns the matrix that smooths values at ``places`` to the table, by Gaussian weights."""
    at = np.linspace(0.0, 1.0, CELLS + 1)[:, None]
    weights = np.exp(-0.5 * ((at - places) / width) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def place(table: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes nodes that are spread evenly to where their density is that of ``table``.

    Args:
      table: as ``density`` returns it.
      t: shape ``(n,)``, in [0, 1].

    Returns:
      ``alpha(t)``, the inverse of the integral of the density, and its derivative, by which to
      multiply the weights. Both are exact for the piecewise linear density.
    """
    below = jnp.concatenate([jnp.zeros_like(table[:1]), jnp.cumsum((table[1:] + table[:-1]) / 2)])
    t = t * CELLS
    cell = jnp.sum(below[None, 1:-1] <= t[:, None], axis=1)
    here = cell[:, None] == jnp.arange(CELLS, dtype=cell.dtype)[None]

    def pick(of_cells: jax.Array) -> jax.Array:
        # Not by an index: on a mesh with explicit axes that needs to be told of them.
        return jnp.sum(jnp.where(here, of_cells[None], 0.0), axis=1)

    start, slope = pick(table[:-1]), pick(jnp.diff(table))
    rest = t - pick(below[:-1])
    # The root of start s + slope s^2 / 2 = rest, in the form that a slope of 0 does not harm.
    step = 2.0 * rest / (start + jnp.sqrt(start**2 + 2.0 * slope * rest))
    return jnp.clip((cell.astype(t.dtype) + step) / CELLS, 0.0, 1.0), 1.0 / (start + slope * step)
