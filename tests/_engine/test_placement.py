"""The map from even nodes to placed ones: what it gives each panel, and what rules make of it."""

import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from igjax._engine import placement
from igjax.quadrature import gregory


def drawn(seed: int, full: int = 12, empty: int = 5) -> tuple[jnp.ndarray, jnp.ndarray]:
    """Panels of all widths, the last ones empty, and their shares."""
    rng = np.random.default_rng(seed)
    widths = np.exp(rng.normal(scale=2.0, size=full))
    alpha = np.concatenate([[0.0], np.cumsum(widths) / widths.sum(), np.ones(empty)])
    alpha[full] = 1.0
    masses = np.pad(rng.uniform(0.2, 1.0, full), (0, empty))
    return jnp.asarray(alpha, jnp.float32), jnp.asarray(masses / masses.sum(), jnp.float32)


def test_an_even_map_leaves_nodes_where_they_are():
    t = jnp.linspace(0.0, 1.0, 33)
    alpha, stretch = placement.place(placement.even(20, jnp.float32), t)
    assert_close(alpha, t)
    np.testing.assert_allclose(stretch, 1.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_each_panel_gets_its_share(seed):
    ends, masses = drawn(seed)
    t = jnp.asarray((np.arange(4000) + 0.5) / 4000, jnp.float32)
    alpha, _ = placement.place(placement.through(ends, masses), t)
    assert (jnp.diff(alpha) >= 0).all()
    found, _ = np.histogram(alpha, np.asarray(ends[:13], np.float64))
    np.testing.assert_allclose(found / 4000, masses[:12], atol=2 / 4000)


@pytest.mark.parametrize("seed", range(4))
def test_the_stretch_is_the_derivative(seed):
    ends, masses = drawn(seed)
    placed = placement.through(ends, masses)
    t = np.linspace(0.0, 1.0, 4001)
    alpha, _ = placement.place(placed, jnp.asarray(t, jnp.float32))
    _, stretch = placement.place(placed, jnp.asarray((t[1:] + t[:-1]) / 2, jnp.float32))
    slopes = np.diff(np.asarray(alpha, np.float64)) / np.diff(t)
    assert np.median(abs(slopes - stretch) / np.maximum(slopes, 1e-3)) < 0.01
    assert (stretch >= 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_placed_rules_integrate(seed):
    placed = placement.through(*drawn(seed))
    for n, tolerance in ((64, 2e-2), (512, 3e-4)):
        rule = gregory(n)
        alpha, stretch = placement.place(placed, jnp.asarray(rule.nodes, jnp.float32))
        weights = rule.weights * np.asarray(stretch, np.float64)
        for power in range(4):
            found = weights @ np.asarray(alpha, np.float64) ** power
            assert abs(found - 1 / (power + 1)) < tolerance
