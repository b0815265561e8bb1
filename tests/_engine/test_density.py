"""The density of nodes against its closed forms."""

import jax.numpy as jnp
import numpy as np

from igjax._engine import density
from igjax.quadrature import gregory

NODES = gregory(16).nodes
MIDDLES, WIDTHS = (NODES[1:] + NODES[:-1]) / 2, np.diff(NODES)
CELLS = 100
AT = (np.arange(CELLS) + 0.5) / CELLS


def changes(fun) -> jnp.ndarray:
    """Of an integrand whose standard deviation between nodes is as given at their middle."""
    return jnp.asarray(fun(MIDDLES) * np.sqrt(WIDTHS), jnp.float32)[None]


def of(changes: jnp.ndarray) -> np.ndarray:
    """The density, of mean 1."""
    masses = np.asarray(density.masses(changes, NODES, CELLS))
    np.testing.assert_allclose(masses.sum(), 1.0, rtol=1e-5)
    return masses * CELLS


def test_an_even_integrand_keeps_its_even_nodes():
    np.testing.assert_allclose(of(changes(np.ones_like)), 1.0, rtol=1e-5)


def test_no_change_anywhere_is_even_too_and_leaves_no_gap_without_nodes():
    np.testing.assert_allclose(of(jnp.zeros((2, 15))), 1.0, rtol=1e-5)
    one_peak = changes(lambda at: (abs(at - 0.5) < 0.1) * 1.0)
    assert of(one_peak).min() >= 0.2 * 0.95


def test_the_density_is_the_fourth_root_of_the_variance():
    # exp(-8 a) is smooth enough for the smoothing not to matter but near the ends.
    wanted = np.exp(-4.0 * AT)
    wanted = 0.2 + 0.8 * wanted / wanted.mean()
    inner = (AT > 0.1) & (AT < 0.9)
    found = of(changes(lambda at: np.exp(-8.0 * at)))
    np.testing.assert_allclose(found[inner], wanted[inner], rtol=0.06)


def test_outputs_of_all_sizes_count_the_same():
    left, right = changes(lambda at: at < 0.3), changes(lambda at: at > 0.7)
    found = of(jnp.concatenate([left, 1e-6 * right]))
    np.testing.assert_allclose(found[:10].mean(), found[-10:].mean(), rtol=0.2)
    assert found[50] < 0.3 * found[4]
