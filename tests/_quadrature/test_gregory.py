"""Gregory's rule: exactness, nesting, and the comparison that it is made for."""

import numpy as np
import pytest

from igjax._quadrature import gregory as _gregory
from igjax.quadrature import gauss_legendre, gregory, sine


@pytest.mark.parametrize("n", [4, 5, 6, 8, 12, 16, 31])
def test_few_nodes_are_exact_for_degree_1_and_not_for_2(n):
    rule = gregory(n)
    for degree in range(2):
        assert rule.weights @ rule.nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-15)
    assert abs(rule.weights @ rule.nodes**2 - 1 / 3) > 1e-7


@pytest.mark.parametrize("n", [32, 33, 64, 100, 512])
def test_many_nodes_are_exact_for_degree_3_and_not_for_4(n):
    rule = gregory(n)
    for degree in range(4):
        assert rule.weights @ rule.nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-15)
    assert abs(rule.weights @ rule.nodes**4 - 1 / 5) > 1e-14


@pytest.mark.parametrize("n", [*range(1, 40), 48, 64, 96, 256, 1000, 2048])
def test_it_is_nested_open_and_of_equal_steps(n):
    fine = gregory(2 * n)
    nodes, weights = _gregory.rule(n, 2 / 3)
    held = fine.embedded_weights != 0
    np.testing.assert_allclose(fine.nodes[held], nodes, atol=1e-14)
    np.testing.assert_allclose(fine.embedded_weights[held], weights, atol=1e-15)
    np.testing.assert_allclose(np.diff(fine.nodes), 0.5 / n, atol=1e-14)
    assert fine.nodes[0] > 0
    assert fine.nodes[-1] < 1
    assert (gregory(n).embedded_weights is None) == (n % 2 == 1)


@pytest.mark.parametrize("n", [2, 8, 24, 32, 128])
def test_the_other_shift_is_nested_in_its_turn(n):
    nodes, _ = _gregory.rule(2 * n, 2 / 3)
    np.testing.assert_allclose(nodes[::2], _gregory.rule(n)[0], atol=1e-14)


def test_every_number_of_nodes_is_good_where_the_integrand_is_steep_at_the_start():
    # With a first node at 2/3 of a step, 32 and 128 of them were worse than 24 and 64.
    error = lambda n: abs(gregory(n).weights @ (1 / (gregory(n).nodes + 0.05)) - np.log(21.0))
    for numbers in ((16, 20, 24, 28), (32, 40, 48, 56, 64, 96, 128)):
        errors = [error(n) for n in numbers]
        assert errors == sorted(errors, reverse=True)
    assert error(32) <= error(24)


def test_only_the_ends_are_corrected():
    weights = gregory(64).weights * 64
    np.testing.assert_allclose(weights[4:-4], 1, atol=1e-14)
    assert (np.abs(weights[:4] - 1) > 1e-4).all()


@pytest.mark.parametrize("shift", [1 / 3, 2 / 3])
def test_the_correction_is_that_of_euler_and_maclaurin(shift):
    # Of a function that dies out long before the other end there is one correction alone.
    step = 0.05
    x = (np.arange(2000) + shift) * step
    weights = np.ones(2000)
    weights[:4] += _gregory.corrections(2000, shift)[0]
    assert step * (weights @ np.exp(-x)) == pytest.approx(1.0, abs=3e-7)
    assert abs(step * np.exp(-x).sum() - 1.0) > 1e-3


def test_jumps_are_met_better_than_by_other_rules():
    # Functions with a jump each, at random places: the mean error, as in an L1 norm.
    jumps = np.random.default_rng(0).uniform(size=4000)

    def error(rule):
        return np.abs(rule.weights @ (rule.nodes[:, None] > jumps) - (1 - jumps)).mean()

    for n in (16, 64, 256):
        assert error(gregory(n)) < 0.85 * error(gauss_legendre(n))
        assert error(gregory(n)) < 0.75 * error(sine(n))


@pytest.mark.parametrize(
    ("f", "integral"),
    [
        (np.exp, np.expm1(1.0)),
        (lambda x: np.cos(20 * x), np.sin(20.0) / 20),
        (lambda x: 1 / (1 + 25 * x**2), np.arctan(5.0) / 5),
        (lambda x: np.abs(x - 0.3), (0.3**2 + 0.7**2) / 2),
    ],
    ids=["exp", "cos20", "runge", "kink"],
)
def test_the_error_estimate_is_no_worse_than_a_third_of_the_error(f, integral):
    for n in (16, 32, 64, 128, 256):
        rule = gregory(n)
        values = f(rule.nodes)
        error = abs(rule.weights @ values - integral)
        estimate = abs((rule.weights - rule.embedded_weights) @ values)
        assert estimate > error / 3 - 1e-15, n
