"""Contributions: methods of the family, each a function, against slow sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slowly import all_slow_but

from igjax import quadrature
from igjax._engine.along_path import along_path, gradient, jacobian
from igjax._engine.contributions import Contribution, multiplied, unmultiplied
from igjax._engine.options import checked

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(8, 5)), RNG.normal(size=(3, 8))
X, B = RNG.normal(size=5), 0.3 * RNG.normal(size=5)
RULE = quadrature.gauss_legendre(40)


def network(x: jax.Array) -> jax.Array:
    return jnp.asarray(SECOND) @ jnp.tanh(jnp.asarray(FIRST) @ x)


def fun(x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(network(x))


def inner(one, other):
    return sum(map(jnp.vdot, jax.tree.leaves(one), jax.tree.leaves(other)))


def idgi(g, v):
    """Yang et al. 2023: the change of F, shared out by the squares of the gradient."""
    share = inner(g, v) / inner(g, g)
    return jax.tree.map(lambda g: g**2 * share, g)


def decision(g, v):
    """Walker et al. 2024, not normalised: weighted by dF/dalpha."""
    slope = inner(g, v)
    return jax.tree.map(lambda g, v: g * v * slope, g, v)


FAMILY = {
    "multiplied": multiplied,
    "unmultiplied": unmultiplied,
    "idgi": Contribution(idgi, linear=False, complete=True),
    "decision": Contribution(decision, linear=False, complete=False),
}


def attribution(of, contribution, derivative=gradient, **options):
    own = checked(baseline=B, rule=RULE, **options)._replace(contribution=contribution)
    return along_path("method", of, own, derivative)


def by_hand(of, contribution, path=lambda a: B + a * (X - B)):
    total = np.zeros(5)
    for alpha, weight in zip(RULE.nodes, RULE.weights, strict=True):
        point, velocity = jax.jvp(path, (alpha,), (1.0,))
        total += weight * np.asarray(contribution.of(jax.grad(of)(point), velocity))
    return total


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("batch_size", all_slow_but([7], [None, 7]))
@pytest.mark.parametrize("name", FAMILY)
def test_equals_a_slow_sum(name, batch_size):
    own = FAMILY[name]
    found = attribution(fun, own, batch_size=batch_size)(X)
    np.testing.assert_allclose(found, by_hand(fun, own), rtol=1e-10)
    squared = lambda b, x, a: b + a**2 * (x - b)
    found = attribution(fun, own, batch_size=batch_size, path=squared)(X)
    by_squares = by_hand(fun, own, lambda a: B + a**2 * (X - B))
    np.testing.assert_allclose(found, by_squares, rtol=1e-10)


@pytest.mark.parametrize("name", FAMILY)
def test_every_output_of_a_jacobian_has_its_own(name):
    own = FAMILY[name]
    found = attribution(network, own, jacobian)(X)
    for row, output in zip(found, range(3), strict=True):
        expected = by_hand(lambda x, output=output: network(x)[output], own)
        np.testing.assert_allclose(row, expected, rtol=1e-10)


def test_what_is_complete_sums_to_the_difference():
    for name, own in FAMILY.items():
        if own.complete:
            found, report = attribution(fun, own, has_report=True)(X)
            np.testing.assert_allclose(found.sum(), fun(X) - fun(B), rtol=1e-8, err_msg=name)
            assert abs(report.completeness_gap) < 1e-8
    _, report = attribution(fun, FAMILY["decision"], has_report=True)(X)
    assert np.isnan(report.completeness_gap)


def test_decision_gradients_sum_to_the_integral_of_the_squared_slope():
    slopes = [jax.grad(lambda a: fun(B + a * (X - B)))(alpha) for alpha in RULE.nodes]
    found = attribution(fun, FAMILY["decision"])(X)
    np.testing.assert_allclose(found.sum(), RULE.weights @ np.square(slopes), rtol=1e-10)


def test_to_a_tolerance_and_over_pytrees():
    pair = lambda x: jnp.sin(x["a"]) * x["b"]
    own = checked(rule=quadrature.to_tolerance(1e-6), has_report=True)
    own = own._replace(contribution=FAMILY["idgi"])
    x = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    found, report = along_path("method", pair, own, gradient)(x)
    assert report.converged
    np.testing.assert_allclose(found["a"] + found["b"], np.sin(1) * 2, rtol=1e-5)
