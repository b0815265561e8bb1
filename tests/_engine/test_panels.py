"""What panels may hide, against panels whose content is known, and the shares that follow."""

import jax.numpy as jnp
import numpy as np
import pytest

from igjax._engine import panels
from igjax._engine.notes import BUCKETS


def notes(values, slopes, contributions) -> jnp.ndarray:
    """Notes of nodes of one output, whose contributions are single numbers."""
    sketches = np.zeros((BUCKETS, 1, len(values)))
    sketches[0, 0] = contributions
    known = np.stack([values, slopes])[:, None]
    return jnp.asarray(np.concatenate([known, sketches]), jnp.float32)


def of(fun, slope, at, room: int = 5) -> panels.Panels:
    """What is known of a function of alpha whose slope is what nodes contribute."""
    at = np.asarray(at)
    ends = tuple(jnp.asarray([fun(end)], jnp.float32) for end in (0.0, 1.0))
    rows = notes(fun(at), slope(at), slope(at))
    return panels.of_nodes(jnp.asarray(at, jnp.float32), rows, ends, room)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_a_straight_line_hides_nothing_between_nodes(order):
    at = np.array([0.1, 0.3, 0.6, 0.9])[order]
    found = panels.areas(of(lambda a: 2.0 * a, lambda a: 2.0 + 0 * a, at), complete=True)
    np.testing.assert_allclose(found.ends[:6], [0, 0.1, 0.3, 0.6, 0.9, 1], atol=1e-6)
    np.testing.assert_allclose(found.ends[6:], 1.0)
    np.testing.assert_allclose(found.areas[0, 1:4], 0.0, atol=1e-6)
    np.testing.assert_allclose(found.areas[0, 5:], 0.0)
    np.testing.assert_allclose(found.whole, 2.0, rtol=1e-5)
    # Nobody knows what is beyond the outermost.
    assert (found.areas[0, jnp.array([0, 4])] >= 0.1).all()


def test_a_step_that_only_the_values_show():
    step = lambda a: 1.0 * (np.asarray(a) > 0.5) + 0.0
    found = panels.areas(of(step, lambda a: 0.0 * a, [0.2, 0.4, 0.6, 0.8]), complete=True)
    np.testing.assert_allclose(found.areas[0, :5], [0, 0, 1, 0, 0], atol=1e-6)
    blind = panels.areas(of(step, lambda a: 0.0 * a, [0.2, 0.4, 0.6, 0.8]), complete=False)
    np.testing.assert_allclose(blind.areas, 0.0)
    shares = panels.masses(found, jnp.asarray(False))
    np.testing.assert_allclose(jnp.sum(shares), 1.0, rtol=1e-6)
    np.testing.assert_allclose(shares[2], 0.8 + 0.2 * 0.2, rtol=1e-5)
    np.testing.assert_allclose(shares[5:], 0.0)
    shared = panels.masses(found, jnp.asarray(True))
    assert shared[1] > shares[1] and shared[2] < shares[2]
    np.testing.assert_allclose(jnp.sum(shared), 1.0, rtol=1e-6)


def test_nodes_that_come_later_count_if_they_are_meant_to():
    line = lambda a: 2.0 * np.asarray(a)
    slope = lambda a: 2.0 + 0 * np.asarray(a)
    before = of(line, slope, [0.2, 0.8])
    more = np.array([0.5, 0.6])
    rows = notes(line(more), slope(more), slope(more))
    for counts in (False, True):
        after = panels.with_nodes(before, jnp.asarray(more, jnp.float32), rows, jnp.asarray(counts))
        assert after.nodes == (4 if counts else 2)
        expected = panels.areas(
            of(line, slope, [0.2, 0.8, 0.5, 0.6] if counts else [0.2, 0.8]), complete=True
        )
        found = panels.areas(after, complete=True)
        count = 6 if counts else 4
        np.testing.assert_allclose(found.ends[:count], expected.ends[:count])
        np.testing.assert_allclose(found.areas[:, : count - 1], expected.areas[:, : count - 1])
