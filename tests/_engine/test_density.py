"""The density of nodes against its closed forms, and the map against its numerical inverse."""

import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from igjax._engine import density
from igjax.quadrature import gregory

NODES = gregory(16).nodes[None]


def changes(fun) -> jnp.ndarray:
    """Of an integrand whose standard deviation between nodes is as given at their middle."""
    middles, widths = (NODES[0, 1:] + NODES[0, :-1]) / 2, np.diff(NODES[0])
    return jnp.asarray(fun(middles) * np.sqrt(widths), jnp.float32)[None, :, None]


def test_an_even_integrand_keeps_its_even_nodes():
    table = density.density(changes(np.ones_like), NODES)
    np.testing.assert_allclose(table, 1.0, rtol=1e-5)
    t = jnp.linspace(0.0, 1.0, 33)
    alpha, stretch = density.place(table, t)
    assert_close(alpha, t)
    np.testing.assert_allclose(stretch, 1.0, rtol=1e-5)


def test_no_change_anywhere_is_even_too_and_leaves_no_gap_without_nodes():
    table = density.density(jnp.zeros((1, 15, 2)), NODES)
    np.testing.assert_allclose(table, 1.0, rtol=1e-5)
    one_peak = changes(lambda at: (abs(at - 0.5) < 0.1) * 1.0)
    assert density.density(one_peak, NODES).min() >= 0.2 * 0.95


def test_the_density_is_the_fourth_root_of_the_variance():
    # exp(-8 a) is smooth enough for the smoothing not to matter but near the ends.
    table = density.density(changes(lambda at: np.exp(-8.0 * at)), NODES)
    at = np.linspace(0.0, 1.0, density.CELLS + 1)
    wanted = np.exp(-4.0 * at)
    wanted = 0.2 + 0.8 * wanted / np.trapezoid(wanted, at)
    inner = (at > 0.1) & (at < 0.9)
    np.testing.assert_allclose(table[inner], wanted[inner], rtol=0.06)


def test_outputs_of_all_sizes_count_the_same():
    left, right = changes(lambda at: at < 0.3), changes(lambda at: at > 0.7)
    both = jnp.concatenate([left, 1e-6 * right], axis=2)
    table = density.density(both, NODES)
    np.testing.assert_allclose(table[:26].mean(), table[-26:].mean(), rtol=0.2)
    assert table[128] < 0.3 * table[10]


def test_rows_of_any_number_hold_changes_of_one_path():
    nodes = gregory(32).nodes
    rows = np.stack([nodes[::2], nodes[1::2]])
    middles, widths = (rows[:, 1:] + rows[:, :-1]) / 2, np.diff(rows)
    random_walk = jnp.asarray(np.exp(-8.0 * middles) * np.sqrt(widths), jnp.float32)[..., None]
    np.testing.assert_allclose(
        density.density(random_walk, rows),
        density.density(changes(lambda at: np.exp(-8.0 * at)), NODES),
        rtol=0.06,
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_map_is_the_inverse_of_the_integral_of_the_density(seed):
    rng = np.random.default_rng(seed)
    table = density.density(jnp.asarray(rng.exponential(size=(1, 15, 3)), jnp.float32), NODES)
    at = np.linspace(0.0, 1.0, density.CELLS + 1)
    np.testing.assert_allclose(np.trapezoid(table, at), 1.0, rtol=1e-5)

    t = np.linspace(0.0, 1.0, 257)
    alpha, stretch = density.place(table, jnp.asarray(t, jnp.float32))
    fine = np.linspace(0.0, 1.0, 200_001)
    dense = np.interp(fine, at, table)
    integral = np.concatenate([[0.0], np.cumsum((dense[1:] + dense[:-1]) / 2) * 5e-6])
    assert_close(alpha, np.interp(t, integral, fine))
    np.testing.assert_allclose(stretch, 1.0 / np.interp(alpha, at, table), rtol=1e-4)
    assert np.all(np.diff(alpha) > 0)


def test_placed_rules_integrate():
    table = density.density(changes(lambda at: np.exp(-8.0 * at)), NODES)
    for n, rtol in ((64, 5e-4), (256, 5e-6)):
        rule = gregory(n)
        alpha, stretch = density.place(table, jnp.asarray(rule.nodes, jnp.float32))
        weights = rule.weights * np.asarray(stretch, np.float64)
        for power in range(6):
            found = weights @ np.asarray(alpha, np.float64) ** power
            np.testing.assert_allclose(found, 1 / (power + 1), rtol=rtol)
