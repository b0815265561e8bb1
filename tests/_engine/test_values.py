"""What the values of F say about an error, against integrals in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import igjax
from igjax._engine import values
from igjax.quadrature import gregory


def known(fun, n: int, shift: float, room: int = 0) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Values and slopes of a function of a scalar at equal steps, and its values at the ends."""
    at = jnp.asarray((np.arange(n) + shift) / n)
    rows = jnp.stack([jax.vmap(fun)(at), jax.vmap(jax.grad(fun))(at)])[:, None]
    junk = jnp.full((2, 1, room), 7.0)
    ends = tuple(fun(jnp.asarray(end))[None] for end in (0.0, 1.0))
    return jnp.concatenate([rows, junk], axis=2), ends


@pytest.mark.parametrize("shift", [1 / 3, 1 / 2, 2 / 3])
@pytest.mark.parametrize("n", [5, 16, 40])
def test_a_polynomial_has_none(n, shift):
    with jax.enable_x64():
        # Of degree 2 everywhere; inside, where there are four nodes around, of degree 4.
        found = values.mismatches(*known(lambda a: 3 * a**2 + a, n, shift), n, shift)
        assert found.shape == (1, n + 1)
        np.testing.assert_allclose(found, 0.0, atol=1e-12)
        found = values.mismatches(*known(lambda a: a**4 - a**3, n, shift), n, shift)
        np.testing.assert_allclose(found[0, 2:-2], 0.0, atol=1e-12)


def test_what_comes_after_the_nodes_does_not_count():
    fun = lambda a: jnp.sin(9 * a)
    alone = values.mismatches(*known(fun, 16, 1 / 3), 16, 1 / 3)
    more = jax.jit(values.mismatches)(*known(fun, 16, 1 / 3, room=9), 16, 1 / 3)
    np.testing.assert_allclose(more[0, :16], alone[0, :16], atol=1e-6)
    np.testing.assert_allclose(more[0, 16:-1], 0.0)
    np.testing.assert_allclose(more[0, -1], alone[0, -1], atol=1e-6)


def test_a_step_between_two_nodes_is_told_and_where_it_is():
    step = lambda a: 2.0 * jax.nn.sigmoid(1e4 * (a - 0.47)) + a
    found = np.abs(values.mismatches(*known(step, 16, 1 / 3), 16, 1 / 3)[0])
    place = int(0.47 * 16 - 1 / 3) + 1
    assert found[place] == pytest.approx(2.0, abs=1e-3)
    assert np.delete(found, place).max() < 1e-3


@pytest.mark.parametrize(
    "rule", [gregory(64), igjax.quadrature.gauss_kronrod(65), igjax.quadrature.trapezoid(65)]
)
def test_a_fixed_rule_reports_a_step_between_its_nodes(rule):
    step = lambda x: jax.nn.sigmoid(1e5 * x.sum() - 12345.0)
    attribute = igjax.integrated_grad(step, rule=rule, has_report=True)
    attributions, report = attribute(jnp.ones(2))
    assert report.error * jnp.abs(attributions).sum() >= 0.9 or jnp.isinf(report.error)
