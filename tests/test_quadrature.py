"""Quadrature rules against exact integrals, published tables and other people's code."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from scipy import integrate, special

import igjax
from igjax import quadrature
from igjax._quadrature import gregory as _gregory
from igjax.quadrature import Rule

LEAST = {
    "riemann_left": 1,
    "riemann_right": 1,
    "riemann_midpoint": 1,
    "trapezoid": 2,
    "simpson": 3,
    "gauss_legendre": 1,
    "gauss_kronrod": 3,
    "clenshaw_curtis": 2,
    "sine": 1,
    "gregory": 1,
}
ITERATIVE = ("gauss_legendre", "gauss_kronrod")
CLOSED_FORM = [name for name in LEAST if name not in ITERATIVE]
DEGREE = {
    "riemann_left": lambda n: 0,
    "riemann_right": lambda n: 0,
    "riemann_midpoint": lambda n: 1,
    "trapezoid": lambda n: 1,
    "simpson": lambda n: 3,
    "gauss_legendre": lambda n: 2 * n - 1,
    "gauss_kronrod": lambda n: 3 * (n // 2) + 1 + n // 2 % 2,
    "clenshaw_curtis": lambda n: n - 1 + n % 2,
    "sine": lambda n: 1,
    "gregory": lambda n: 3 if n >= 32 else int(n >= 4),
}
COARSER = {
    "trapezoid": lambda n: quadrature.trapezoid((n + 1) // 2),
    "gauss_kronrod": lambda n: quadrature.gauss_legendre((n - 1) // 2),
    "clenshaw_curtis": lambda n: quadrature.clenshaw_curtis((n + 1) // 2),
    "sine": lambda n: quadrature.sine((n - 1) // 2),
    "gregory": lambda n: quadrature.Rule(*_gregory.rule(n // 2, 2 / 3)),
}
NESTED = {  # levels to estimate errors at, from 15 nodes on
    "trapezoid": (17, 33, 65, 129),
    "gauss_kronrod": (15, 31, 63, 127),
    "clenshaw_curtis": (17, 33, 65, 129),
    "sine": (15, 31, 63, 127),
    "gregory": (16, 32, 64, 128),
}
# Gregory's grids lean to one end and the other in turn, and so do small errors of theirs.
SYMMETRIC = [name for name in NESTED if name != "gregory"]
# Piessens et al. 1983, "QUADPACK": the right halves of qk15 and qk21, on [-1, 1], outermost first.
QUADPACK = {
    15: {
        "nodes": [
            0.991455371120812639206854697526329,
            0.949107912342758524526189684047851,
            0.864864423359769072789712788640926,
            0.741531185599394439863864773280788,
            0.586087235467691130294144838258730,
            0.405845151377397166906606412076961,
            0.207784955007898467600689403773245,
            0.000000000000000000000000000000000,
        ],
        "kronrod": [
            0.022935322010529224963732008058970,
            0.063092092629978553290700663189204,
            0.104790010322250183839876322541518,
            0.140653259715525918745189590510238,
            0.169004726639267902826583426598550,
            0.190350578064785409913256402421014,
            0.204432940075298892414161999234649,
            0.209482141084727828012999174891714,
        ],
        "gauss": [
            0.0,
            0.129484966168869693270611432679082,
            0.0,
            0.279705391489276667901467771423780,
            0.0,
            0.381830050505118944950369775488975,
            0.0,
            0.417959183673469387755102040816327,
        ],
    },
    21: {
        "nodes": [
            0.995657163025808080735527280689003,
            0.973906528517171720077964012084452,
            0.930157491355708226001207180059508,
            0.865063366688984510732096688423493,
            0.780817726586416897063717578345042,
            0.679409568299024406234327365114874,
            0.562757134668604683339000099272694,
            0.433395394129247190799265943165784,
            0.294392862701460198131126603103866,
            0.148874338981631210884826001129720,
            0.000000000000000000000000000000000,
        ],
        "kronrod": [
            0.011694638867371874278064396062192,
            0.032558162307964727478818972459390,
            0.054755896574351996031381300244580,
            0.075039674810919952767043140916190,
            0.093125454583697605535065465083366,
            0.109387158802297641899210590325805,
            0.123491976262065851077958109585166,
            0.134709217311473325928054001771707,
            0.142775938577060080797094273138717,
            0.147739104901338491374841515972068,
            0.149445554002916905664936468389821,
        ],
        "gauss": [
            0.0,
            0.066671344308688137593568809893332,
            0.0,
            0.149451349150580593145863396957697,
            0.0,
            0.219086362515982043995534934228163,
            0.0,
            0.269266719309996355091226921569469,
            0.0,
            0.295524224714752870173815619188769,
            0.0,
        ],
    },
}


def has_embedded(name, n):
    if name == "gregory":
        return n % 2 == 0
    return name in COARSER and n % 2 == 1 and n >= 3


def assert_sound(name, n):
    """Shapes, dtypes, order and sums; the embedded rule is the coarser one, on its own nodes."""
    rule = getattr(quadrature, name)(n)
    assert rule.nodes.shape == rule.weights.shape == (n,), n
    assert rule.nodes.dtype == rule.weights.dtype == np.float64, n
    assert rule.nodes[0] >= 0.0 and rule.nodes[-1] <= 1.0, n
    assert np.all(np.diff(rule.nodes) > 0.0), n
    assert np.all(rule.weights > 0.0), n
    assert abs(math.fsum(rule.weights) - 1.0) < 1e-13, n
    if not has_embedded(name, n):
        assert rule.embedded_weights is None, n
        return
    coarser = COARSER[name](n)
    shared = rule.embedded_weights != 0.0
    assert abs(math.fsum(rule.embedded_weights) - 1.0) < 1e-13, n
    np.testing.assert_allclose(rule.nodes[shared], coarser.nodes, rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        rule.embedded_weights[shared], coarser.weights, rtol=1e-13, atol=1e-16
    )


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_closed_form_rules_are_sound_for_every_n_up_to_4096(name):
    for n in range(LEAST[name], 4097):
        assert_sound(name, n)


@pytest.mark.parametrize("name", ITERATIVE)
def test_gauss_rules_are_sound_for_small_n_and_near_powers_of_two(name):
    for n in [*range(LEAST[name], 65), 127, 128, 255, 511, 1023, 2047, 4095, 4096]:
        if name != "gauss_kronrod" or n % 2:
            assert_sound(name, n)


@pytest.mark.slow
@pytest.mark.parametrize("name", ITERATIVE)
def test_gauss_rules_are_sound_up_to_4096(name):
    """Every n up to 512; from there on every 29th, odd and even, which visits no pattern of 2."""
    for n in [*range(LEAST[name], 513), *range(513, 4097, 29)]:
        if name != "gauss_kronrod" or n % 2:
            assert_sound(name, n)


@pytest.mark.parametrize(
    ("rule", "coarser"),
    [
        (quadrature.sine(63), quadrature.sine(31)),
        (quadrature.trapezoid(9), quadrature.trapezoid(5)),
        (quadrature.clenshaw_curtis(9), quadrature.clenshaw_curtis(5)),
    ],
    ids=["sine", "trapezoid", "clenshaw_curtis"],
)
def test_embedded_rule_is_the_coarser_rule_on_every_second_node(rule, coarser):
    first = 1 if rule.nodes[0] > 0.0 else 0
    np.testing.assert_allclose(rule.nodes[first::2], coarser.nodes, rtol=0, atol=1e-16)
    np.testing.assert_array_equal(rule.embedded_weights[first::2], coarser.weights)
    np.testing.assert_array_equal(rule.embedded_weights[1 - first :: 2], 0.0)


def test_gauss_kronrod_embeds_gauss_legendre():
    rule, gauss = quadrature.gauss_kronrod(15), quadrature.gauss_legendre(7)
    np.testing.assert_array_equal(rule.nodes[1::2], gauss.nodes)
    np.testing.assert_array_equal(rule.embedded_weights[1::2], gauss.weights)
    np.testing.assert_array_equal(rule.embedded_weights[0::2], 0.0)


@pytest.mark.parametrize(
    "rule",
    [
        quadrature.riemann_left(9),
        quadrature.riemann_right(9),
        quadrature.riemann_midpoint(9),
        quadrature.simpson(9),
        quadrature.gauss_legendre(9),
        quadrature.trapezoid(8),
        quadrature.clenshaw_curtis(8),
        quadrature.sine(8),
        quadrature.sine(1),
        quadrature.gregory(9),
    ],
)
def test_where_there_is_no_coarser_rule_none_is_embedded(rule):
    assert rule.embedded_weights is None


def shifted_legendre(degree, x):
    """Orthogonal on [0, 1], so its integral is 0 from degree 1 on; of size 1, so errors show."""
    return special.eval_legendre(degree, 2.0 * x - 1.0)


def sizes(name):
    some = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 21, 31, 50, 63)
    if name in (*ITERATIVE, "clenshaw_curtis"):
        some += (101, 127)
    return [n for n in some if n >= LEAST[name] and (name != "gauss_kronrod" or n % 2)]


@pytest.mark.parametrize("name", LEAST)
def test_exact_up_to_the_degree_in_the_table_and_no_further(name):
    for n in sizes(name):
        rule, degree = getattr(quadrature, name)(n), DEGREE[name](n)
        for k in range(1, degree + 1):
            assert abs(rule.weights @ shifted_legendre(k, rule.nodes)) < 1e-13, (n, k)
        assert abs(rule.weights @ shifted_legendre(degree + 1, rule.nodes)) > 1e-11, n


@pytest.mark.parametrize("name", LEAST)
def test_monomials_against_exact_integrals(name):
    for n in sizes(name):
        rule, degree = getattr(quadrature, name)(n), DEGREE[name](n)
        for k in range(degree + 1):
            assert abs(rule.weights @ rule.nodes**k - float(Fraction(1, k + 1))) < 1e-13, (n, k)


@pytest.mark.parametrize(
    ("name", "n", "error"),
    [  # of the integral of the first power that is not exact, from each rule's error formula
        ("riemann_left", 5, Fraction(-1, 10)),
        ("riemann_right", 5, Fraction(1, 10)),
        ("riemann_midpoint", 5, Fraction(-1, 12 * 25)),
        ("trapezoid", 5, Fraction(1, 6 * 16)),
        ("simpson", 5, Fraction(1, 120 * 16)),
        ("gauss_legendre", 2, Fraction(-1, 180)),
    ],
)
def test_first_inexact_monomial_has_the_error_of_the_textbook(name, n, error):
    rule, k = getattr(quadrature, name)(n), DEGREE[name](n) + 1
    assert rule.weights @ rule.nodes**k - 1 / (k + 1) == pytest.approx(float(error), abs=1e-15)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("riemann_left", [0, Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]),
        ("riemann_right", [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), 1]),
        ("riemann_midpoint", [Fraction(1, 8), Fraction(3, 8), Fraction(5, 8), Fraction(7, 8)]),
    ],
)
def test_riemann_sums_look_at_equal_panels(name, nodes):
    rule = getattr(quadrature, name)(4)
    np.testing.assert_array_equal(rule.nodes, np.array(nodes, float))
    np.testing.assert_array_equal(rule.weights, 0.25)


@pytest.mark.parametrize("n", [2, 3, 4, 17, 100])
def test_trapezoid_against_numpy(n):
    expected = np.trapezoid(np.eye(n), dx=1 / (n - 1), axis=0)
    np.testing.assert_allclose(quadrature.trapezoid(n).weights, expected, rtol=1e-14)


@pytest.mark.parametrize("n", [3, 5, 7, 31, 101])
def test_simpson_against_scipy(n):
    expected = integrate.simpson(np.eye(n), dx=1 / (n - 1), axis=0)
    np.testing.assert_allclose(quadrature.simpson(n).weights, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("n", "weights"),
    [
        (4, [Fraction(w, 8) for w in (1, 3, 3, 1)]),
        (6, [Fraction(w, 120) for w in (8, 32, 8 + 9, 27, 27, 9)]),
        (8, [Fraction(w, 168) for w in (8, 32, 16, 32, 8 + 9, 27, 27, 9)]),
    ],
)
def test_simpson_ends_with_three_eighths_for_even_n(n, weights):
    np.testing.assert_allclose(quadrature.simpson(n).weights, np.array(weights, float), rtol=1e-14)


def test_gauss_legendre_against_numpy():
    for n in range(1, 101):
        nodes, weights = np.polynomial.legendre.leggauss(n)
        rule = quadrature.gauss_legendre(n)
        np.testing.assert_allclose(rule.nodes, (nodes + 1) / 2, rtol=0, atol=1e-15)
        np.testing.assert_allclose(rule.weights, weights / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [500, 1000])
def test_gauss_legendre_against_scipy_for_large_n(n):
    nodes, weights = special.roots_legendre(n)
    rule = quadrature.gauss_legendre(n)
    np.testing.assert_allclose(rule.nodes, (nodes + 1) / 2, rtol=0, atol=1e-15)
    np.testing.assert_allclose(rule.weights, weights / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [15, 21])
def test_gauss_kronrod_against_quadpack(n):
    rule, half = quadrature.gauss_kronrod(n), (n + 1) // 2
    table = {name: np.array(column) for name, column in QUADPACK[n].items()}
    np.testing.assert_allclose(rule.nodes[:half], (1 - table["nodes"]) / 2, rtol=0, atol=2e-16)
    np.testing.assert_allclose(rule.nodes[half - 1 :], (1 + table["nodes"][::-1]) / 2, atol=2e-16)
    for weights, column in ((rule.weights, "kronrod"), (rule.embedded_weights, "gauss")):
        np.testing.assert_allclose(weights[:half], table[column] / 2, rtol=0, atol=2e-16)
        np.testing.assert_allclose(weights, weights[::-1], rtol=0, atol=0)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 16, 33, 64])
def test_clenshaw_curtis_against_a_solve_for_the_moments(n):
    x = -np.cos(np.pi * np.arange(n) / (n - 1))
    k = np.arange(n)
    moments = np.where(k % 2, 0.0, 2.0 / (1.0 - np.where(k % 2, 0, k) ** 2))  # of T_k on [-1, 1]
    weights = np.linalg.solve(np.polynomial.chebyshev.chebvander(x, n - 1).T, moments)
    rule = quadrature.clenshaw_curtis(n)
    np.testing.assert_allclose(rule.nodes, (x + 1) / 2, rtol=0, atol=1e-15)
    np.testing.assert_allclose(rule.weights, weights / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 100])
def test_sine_is_the_trapezoid_rule_after_the_substitution(n):
    t = np.linspace(0.0, 1.0, n + 2)
    alpha, slope = t - np.sin(2 * np.pi * t) / (2 * np.pi), 1 - np.cos(2 * np.pi * t)
    rule = quadrature.sine(n)
    for f in (np.exp, np.cos, lambda x: np.abs(x - 0.3)):
        expected = np.trapezoid(f(alpha) * slope, t)
        assert rule.weights @ f(rule.nodes) == pytest.approx(expected, rel=1e-14)


def test_sine_converges_with_order_six_on_smooth_integrands():
    errors = [
        abs(rule.weights @ np.exp(rule.nodes) - np.expm1(1.0))
        for rule in map(quadrature.sine, (7, 15, 31, 63))
    ]
    assert all(60.0 < coarse / fine < 70.0 for coarse, fine in itertools.pairwise(errors))


SMOOTH = {
    "exp": (np.exp, np.expm1(1.0)),
    "runge": (lambda x: 1.0 / (1.0 + 25.0 * x**2), np.arctan(5.0) / 5.0),
    "cos20": (lambda x: np.cos(20.0 * x), np.sin(20.0) / 20.0),
}


def estimate_and_errors(rule, values, integral):
    """The estimate, the rule's error and the coarser rule's, in L1 over all but the last axis."""
    fine, coarse = values @ rule.weights, values @ rule.embedded_weights
    return (
        np.sum(np.abs(fine - coarse)),
        np.sum(np.abs(fine - integral)),
        np.sum(np.abs(coarse - integral)),
    )


@pytest.mark.parametrize("integrand", SMOOTH)
@pytest.mark.parametrize("name", SYMMETRIC)
def test_error_estimate_on_smooth_integrands_is_safe_and_close_to_the_coarser_error(
    name, integrand
):
    f, integral = SMOOTH[integrand]
    for n in NESTED[name]:
        rule = getattr(quadrature, name)(n)
        estimate, error, coarse_error = estimate_and_errors(rule, f(rule.nodes), integral)
        assert estimate > error - 1e-15, n
        assert 0.6 * coarse_error - 1e-15 < estimate < 1.1 * coarse_error + 1e-15, n


@pytest.mark.parametrize("name", SYMMETRIC)
def test_error_estimate_on_one_kink(name):
    for n in NESTED[name]:
        rule = getattr(quadrature, name)(n)
        values, integral = np.abs(rule.nodes - 0.3), (0.3**2 + 0.7**2) / 2
        estimate, error, coarse_error = estimate_and_errors(rule, values, integral)
        assert estimate > 1.5 * error, n
        assert 0.6 * coarse_error < estimate < 2.3 * coarse_error, n


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kinks", [1, 20])
@pytest.mark.parametrize("kind", ["relu", "step"])
@pytest.mark.parametrize("name", NESTED)
def test_error_estimate_over_many_kinked_integrands(name, kind, kinks, seed):
    """As a report's error adds up features: the estimate of one kinked integral may be too small.

    A step is what the gradient of a ReLU is along a path, a kink what its value is.
    """
    rng = np.random.default_rng(seed)
    at, size = rng.uniform(size=(100, kinks)), rng.normal(size=(100, kinks))
    order = 1 if kind == "relu" else 0
    integral = np.sum(size * (1 - at) ** (order + 1) / (order + 1), axis=1)
    for n in NESTED[name]:
        rule = getattr(quadrature, name)(n)
        beyond = np.maximum(rule.nodes - at[..., None], 0.0)
        values = np.einsum("ij,ijn->in", size, beyond if order else np.sign(beyond))
        estimate, error, coarse_error = estimate_and_errors(rule, values, integral)
        assert estimate > (2.2 if order else 1.1) * error, n
        assert 0.6 * coarse_error < estimate < 1.4 * coarse_error, n


@pytest.mark.parametrize("rule", [quadrature.sine(15), quadrature.sine(63)], ids=["15", "63"])
def test_the_reported_error_of_a_relu_network_is_safe(rule):
    at = np.linspace(0.005, 0.995, 100)
    f = lambda x: jnp.sum(jax.nn.relu(x - at.astype(np.float32)))
    attributions, report = igjax.integrated_grad(f, rule=rule, has_report=True)(jnp.ones(100))
    error = np.sum(np.abs(attributions - (1 - at))) / np.sum(np.abs(attributions))
    assert error < report.error < 4 * error


def test_composite_is_exact_on_each_panel():
    rule = quadrature.composite(quadrature.gauss_legendre(3), 4)
    values = np.abs(rule.nodes - 0.25) ** 5 + np.abs(rule.nodes - 0.75) ** 5
    exact = 2 * (Fraction(1, 4) ** 6 + Fraction(3, 4) ** 6) / 6
    assert rule.weights @ values == pytest.approx(float(exact), rel=1e-14)
    whole = quadrature.gauss_legendre(12)
    values = np.abs(whole.nodes - 0.25) ** 5 + np.abs(whole.nodes - 0.75) ** 5
    assert abs(whole.weights @ values - float(exact)) > 1e-9


def test_composite_of_one_panel_is_the_rule():
    rule, one = quadrature.sine(7), quadrature.composite(quadrature.sine(7), 1)
    for expected, array in zip(rule, one, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("panels", [1, 2, 3, 7, 10, 49, 100])
@pytest.mark.parametrize("name", LEAST)
def test_composite_of_any_rule_is_sound(name, panels):
    for n in (3, 4, 9):
        if name == "gauss_kronrod" and n % 2 == 0:
            continue
        part = getattr(quadrature, name)(n)
        rule = quadrature.composite(part, panels)
        assert rule.nodes.shape == rule.weights.shape == (n * panels,)
        assert rule.nodes.min() >= 0.0 and rule.nodes.max() <= 1.0
        assert np.all(np.diff(rule.nodes) >= 0.0)
        assert abs(math.fsum(rule.weights) - 1.0) < 1e-13
        assert (rule.embedded_weights is None) == (part.embedded_weights is None)
        quadrature.check_rule(rule)


def test_composite_of_a_closed_rule_repeats_the_nodes_where_panels_meet():
    rule = quadrature.composite(quadrature.trapezoid(3), 2)
    np.testing.assert_array_equal(rule.nodes, [0.0, 0.25, 0.5, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(rule.weights, np.array([1, 2, 1, 1, 2, 1]) / 8)
    np.testing.assert_array_equal(rule.embedded_weights, np.array([1, 0, 1, 1, 0, 1]) / 4)
    x = jnp.array([1.0, 2.0])
    attributions, report = igjax.integrated_grad(
        lambda x: jnp.sum(x**2), rule=rule, has_report=True
    )(x)
    assert_close(attributions, [1.0, 4.0])
    assert_close(report.error, 0.0, size=4.0)


def test_composite_takes_a_rule_of_the_users_own():
    rule = quadrature.composite(([0.5], [1.0]), 4)
    np.testing.assert_array_equal(rule.nodes, quadrature.riemann_midpoint(4).nodes)
    np.testing.assert_array_equal(rule.weights, 0.25)


BOOLE = ([0, 0.25, 0.5, 0.75, 1], np.array([7, 32, 12, 32, 7]) / 90)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(*map(np.array, BOOLE)),
        Rule(*map(jnp.array, BOOLE)),
        Rule(*BOOLE, embedded_weights=[1 / 6, 0, 4 / 6, 0, 1 / 6]),
        tuple(BOOLE),
        (*BOOLE, None),
    ],
    ids=["numpy", "jax", "embedded", "pair", "triple"],
)
def test_a_rule_of_the_users_own_is_as_good_as_any(rule):
    checked = quadrature.check_rule(rule)
    assert isinstance(checked, Rule)
    assert checked.nodes.dtype == checked.weights.dtype == np.float64
    attributions = igjax.integrated_grad(lambda x: jnp.sum(x**6), rule=rule)(jnp.array([1.0, 2.0]))
    assert_close(attributions, [1.0, 64.0])  # exact to degree 5


def test_checking_a_checked_rule_changes_nothing():
    rule = quadrature.sine(7)
    for expected, array in zip(rule, quadrature.check_rule(rule), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_nodes_drawn_at_random_under_jit_and_vmap():
    x = jnp.array([1.0, 2.0])

    def attribute(key):
        nodes = jnp.sort(jax.random.uniform(key, (1000,)))
        rule = Rule(nodes, jnp.full(1000, 1e-3))
        return igjax.integrated_grad(lambda x: jnp.sum(x**2), rule=rule)(x), nodes

    keys = jax.random.split(jax.random.key(0), 4)
    attributions, nodes = map(np.asarray, jax.jit(jax.vmap(attribute))(keys))
    expected = 2 * nodes.mean(1, keepdims=True) * np.array([1.0, 4.0])
    np.testing.assert_allclose(attributions, expected, rtol=1e-5)
    np.testing.assert_allclose(attributions / np.array([1.0, 4.0]), 1.0, atol=5 / np.sqrt(3000))
    assert np.ptp(attributions[:, 0]) > 1e-3


def test_shapes_of_traced_nodes_are_checked():
    with pytest.raises(ValueError, match=r"rule\.weights must have shape \(n,\)"):
        jax.jit(lambda nodes: quadrature.check_rule(Rule(nodes, jnp.ones(2) / 2)))(jnp.ones(3))


@pytest.mark.parametrize(
    "rule",
    [
        None,
        63,
        "sine",
        quadrature.sine,
        [[0.5], [1.0]],
        ([0.5],),
        ([0.5], [1.0], None, None),
    ],
)
def test_what_is_not_a_rule_is_refused(rule):
    for call in (quadrature.check_rule, lambda rule: igjax.integrated_grad(jnp.sum, rule=rule)):
        with pytest.raises(TypeError, match=r"rule must be an igjax\.quadrature\.Rule, such as"):
            call(rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule([0.5], None), "rule has no weights: give Rule"),
        (Rule(None, [1.0]), "rule has no weights: give Rule"),
        (Rule([0.2, 0.8], [1.0]), r"rule\.weights must have shape .* got shape \(1,\), .* \(2,\)"),
        (Rule([0.5], [1.0], [0.5, 0.5]), r"rule\.embedded_weights must have shape .* \(2,\)"),
        (Rule([[0.5]], [[1.0]]), r"rule\.nodes must have shape .* \(1, 1\)"),
        (Rule(0.5, 1.0), r"rule\.nodes must have shape .* \(\)"),
        (Rule([], []), "rule has no nodes"),
        (Rule([-0.1, 0.5], [0.5, 0.5]), r"rule\.nodes must lie in \[0, 1\]; .* from -0\.1 to 0\.5"),
        (Rule([0.5, 1.1], [0.5, 0.5]), r"rule\.nodes must lie in \[0, 1\]; .* from 0\.5 to 1\.1"),
        (Rule([0.5, np.nan], [0.5, 0.5]), r"rule\.nodes must lie in \[0, 1\]; .* nan"),
        (Rule([0.8, 0.2], [0.5, 0.5]), r"rule\.nodes must be sorted; .* np\.argsort"),
        (Rule([0.2, 0.8], [1.0, 1.0]), r"rule\.weights must sum to 1, .* sum to 2\."),
        (Rule([0.2, 0.8], [0.5, 0.50001]), r"rule\.weights must sum to 1, .* sum to 1\.00001\."),
        (Rule([0.2, 0.8], [0.5, np.nan]), r"rule\.weights must sum to 1, .* sum to nan"),
        (Rule([0.2, 0.8], [0.5, np.inf]), r"rule\.weights must sum to 1, .* sum to inf"),
        (Rule([0.5], [1.0], [0.5]), r"rule\.embedded_weights must sum to 1, .* sum to 0\.5"),
        (Rule([0.5], [1.0], [np.nan]), r"rule\.embedded_weights must sum to 1, .* sum to nan"),
    ],
)
def test_unsound_rules_are_refused(rule, message):
    for call in (quadrature.check_rule, lambda rule: igjax.integrated_grad(jnp.sum, rule=rule)):
        with pytest.raises(ValueError, match=message):
            call(rule)


def test_a_rule_on_minus_one_to_one_is_refused_and_told_how_to_move():
    with pytest.raises(ValueError, match=r"nodes -> \(nodes \+ 1\) / 2, weights -> weights / 2"):
        quadrature.check_rule(np.polynomial.legendre.leggauss(5))
    nodes, weights = np.polynomial.legendre.leggauss(5)
    quadrature.check_rule(((nodes + 1) / 2, weights / 2))


@pytest.mark.parametrize("name", LEAST)
def test_too_few_nodes(name):
    rule, least = getattr(quadrature, name), LEAST[name]
    for n in (least - 1, 0, -5):
        with pytest.raises(ValueError, match=rf"{name}: n must be at least {least}; got {n}\."):
            rule(n)


@pytest.mark.parametrize("n", [2.5, 3.0, "3", None, np.float32(3.0), [3], True, np.True_])
@pytest.mark.parametrize("name", LEAST)
def test_a_number_of_nodes_that_is_no_integer(name, n):
    with pytest.raises(TypeError, match=rf"{name}: n must be an integer; got"):
        getattr(quadrature, name)(n)


@pytest.mark.parametrize("three", [np.int64(3), np.array(3), np.uint8(3)])
def test_whatever_counts_as_an_integer_is_a_number_of_nodes(three):
    for name in LEAST:
        np.testing.assert_array_equal(
            getattr(quadrature, name)(three).nodes, getattr(quadrature, name)(3).nodes
        )


@pytest.mark.parametrize(
    "rule",
    [
        ([True], [1.0]),
        (["0.5"], ["1"]),
        (np.array([0.5], object), [1.0]),
        ([0.5], np.array([1], "m8[D]")),
        (np.array([0], "M8[D]"), [1.0]),
        ([0.5 + 1j], [1.0]),
        ({0.5}, {1.0}),
        ([[0.5], [0.5, 0.5]], [1.0]),
    ],
    ids=["bool", "text", "object", "span", "date", "complex", "set", "ragged"],
)
def test_what_is_no_array_of_real_numbers_is_no_rule(rule):
    with pytest.raises(TypeError, match=r"rule\.\w+ must be a number or an array of real numbers"):
        quadrature.check_rule(Rule(*rule))
    with pytest.raises(TypeError, match=r"rule\.\w+ must be a number or an array of real numbers"):
        quadrature.composite(Rule(*rule), 2)


def test_a_mask_is_not_lost():
    nodes = np.ma.masked_array([0.1, 0.5], mask=[False, True])
    with pytest.raises(TypeError, match=r"rule\.nodes has masked elements"):
        quadrature.check_rule(Rule(nodes, [0.5, 0.5]))
    rule = quadrature.check_rule(Rule(np.ma.masked_array([0.1, 0.5]), [0.5, 0.5]))
    np.testing.assert_array_equal(rule.nodes, [0.1, 0.5])


def test_a_rule_that_embeds_itself_would_know_of_no_error():
    weights = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"rule\.embedded_weights must be those of a coarser rule"):
        quadrature.check_rule(Rule([0.2, 0.8], weights, weights.copy()))


def test_weights_may_be_negative():
    """As those of Newton and Cotes are, and of Gregory's own rule at four nodes."""
    rule = quadrature.check_rule(Rule([0.0, 0.5, 1.0], [-0.5, 2.0, -0.5]))
    np.testing.assert_array_equal(rule.weights, [-0.5, 2.0, -0.5])


@pytest.mark.parametrize("n", [4, 16, 100])
def test_there_is_no_gauss_kronrod_rule_of_even_n(n):
    with pytest.raises(
        ValueError, match=f"exists for odd n only.*got {n}: take {n - 1} or {n + 1}"
    ):
        quadrature.gauss_kronrod(n)


def test_composite_of_a_traced_rule_is_refused():
    with pytest.raises(TypeError, match="composite needs a rule of NumPy arrays; got traced ones"):
        jax.jit(lambda nodes: quadrature.composite(Rule(nodes, jnp.ones(2) / 2), 2).nodes)(
            jnp.array([0.2, 0.7])
        )


def test_arrays_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match=r"rule\.nodes must be .* real numbers; got 'a'"):
        quadrature.check_rule(("a", "b"))


@pytest.mark.parametrize("panels", [0, -1])
def test_composite_of_no_panel(panels):
    with pytest.raises(ValueError, match=f"composite: panels must be at least 1; got {panels}"):
        quadrature.composite(quadrature.sine(3), panels)


@pytest.mark.parametrize("panels", [2.0, "2", None])
def test_composite_of_panels_that_are_no_integer(panels):
    with pytest.raises(TypeError, match=r"composite.* an integer; got"):
        quadrature.composite(quadrature.sine(3), panels)


def test_composite_of_no_rule():
    with pytest.raises(TypeError, match="rule must be an igjax"):
        quadrature.composite(63, 2)
    with pytest.raises(ValueError, match="must sum to 1"):
        quadrature.composite(Rule([0.5], [2.0]), 2)
