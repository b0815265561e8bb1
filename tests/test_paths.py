"""Paths against closed-form line integrals, finite differences and scipy's Gaussian filter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from numpy.polynomial import Polynomial
from scipy import fft, ndimage

import igjax
from igjax import baselines, paths, quadrature

GAUSS = quadrature.gauss_legendre(16)
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(params=TOLERANCE)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def assert_like(actual, expected, dtype):
    assert actual.dtype == dtype
    atol = TOLERANCE[dtype] * max(1.0, np.max(np.abs(expected)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def scipy_blur(image, sigma, axes=(0, 1)):
    sigmas = np.zeros(image.ndim)
    sigmas[list(axes)] = sigma
    return ndimage.gaussian_filter(np.asarray(image, float), sigmas, mode="reflect", truncate=8)


def integrated_grad(fun, **settings):
    """Compiled as one: operation by operation, paths take seconds."""
    return jax.jit(igjax.integrated_grad(fun, **settings))


def check(path, baseline, x, rtol=1e-3):
    return jax.jit(lambda x: paths.check(path, baseline, x, rtol=rtol))(x)


def picture(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, size=shape)


PRODUCT = lambda x: x[0] * x[1]
LINE_INTEGRAL = lambda x: x[0] ** 2 * x[1] + x[2] * x[1]


def exact_line_integral(corners):
    """The attributions of ``LINE_INTEGRAL`` along straight pieces, by polynomial algebra."""
    total = np.zeros(3)
    for start, end in itertools.pairwise(corners):
        a, b, c = (Polynomial([s, e - s]) for s, e in zip(start, end, strict=True))
        for i, integrand in enumerate(
            (2 * a * b * a.deriv(), (a**2 + c) * b.deriv(), b * c.deriv())
        ):
            antiderivative = integrand.integ()
            total[i] += antiderivative(1.0) - antiderivative(0.0)
    return total


# Straight line


def test_straight_line_from_zero(dtype):
    f = lambda x: x[0] * x[1] + x[2] ** 3
    x = np.array([1.5, -2.0, 1.25])
    attributions = integrated_grad(f, path=paths.straight_line, rule=GAUSS)(jnp.asarray(x, dtype))
    assert_like(attributions, [-1.5, -1.5, 1.25**3], dtype)


def test_straight_line_from_another_baseline(dtype):
    corners = np.array([[0.5, -1.0, 2.0], [1.5, 2.0, -1.0]])
    attribute = integrated_grad(LINE_INTEGRAL, baseline=jnp.asarray(corners[0], dtype), rule=GAUSS)
    assert_like(attribute(jnp.asarray(corners[1], dtype)), exact_line_integral(corners), dtype)


def test_straight_line_is_taken_the_same_way_as_any_other_path(dtype):
    """The library has a short cut for it; a function of the user's own goes the long way."""
    line = lambda baseline, x, alpha: baseline + alpha * (x - baseline)
    corners = np.array([[0.5, -1.0, 2.0], [1.5, 2.0, -1.0]])
    attribute = integrated_grad(
        LINE_INTEGRAL, baseline=jnp.asarray(corners[0], dtype), path=line, rule=GAUSS
    )
    assert_like(attribute(jnp.asarray(corners[1], dtype)), exact_line_integral(corners), dtype)


@pytest.mark.parametrize("power", [1, 3])
def test_a_users_own_curve(dtype, power):
    """Along (alpha x, alpha^p y) the product gives 1/(p + 1) of itself to x, p/(p + 1) to y."""
    curve = lambda baseline, x, alpha: jnp.stack([alpha * x[0], alpha**power * x[1]])
    attributions = integrated_grad(PRODUCT, path=curve, rule=GAUSS)(jnp.array([2.0, 3.0], dtype))
    assert_like(attributions, [6 / (power + 1), 6 * power / (power + 1)], dtype)


# Polyline


@pytest.mark.parametrize(
    ("waypoint", "expected"),
    [([0.0, 3.0], [6.0, 0.0]), ([2.0, 0.0], [0.0, 6.0]), ([1.0, 1.5], [3.0, 3.0])],
    ids=["up_then_right", "right_then_up", "straight"],
)
def test_polyline_gives_the_product_to_whom_the_last_turn_belongs(dtype, waypoint, expected):
    attributions = integrated_grad(
        PRODUCT,
        path=paths.polyline(jnp.array([waypoint], dtype)),
        rule=quadrature.composite(quadrature.gauss_legendre(2), 2),
    )(jnp.array([2.0, 3.0], dtype))
    assert_like(attributions, expected, dtype)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_polyline_through_several_waypoints(dtype, count):
    corners = picture(count + 2, 3, seed=count)
    attributions = integrated_grad(
        LINE_INTEGRAL,
        baseline=jnp.asarray(corners[0], dtype),
        path=paths.polyline(jnp.asarray(corners[1:-1], dtype)),
        rule=quadrature.composite(quadrature.gauss_legendre(3), count + 1),
    )(jnp.asarray(corners[-1], dtype))
    assert_like(attributions, exact_line_integral(corners), dtype)


def test_polyline_is_linear_interpolation_between_equal_pieces(dtype):
    corners = picture(5, 3)
    path = paths.polyline(jnp.asarray(corners[1:-1], dtype))
    start, end = jnp.asarray(corners[0], dtype), jnp.asarray(corners[-1], dtype)
    for alpha in [*np.linspace(0.0, 1.0, 9), 0.1, 0.33, 0.77]:
        expected = [np.interp(alpha, np.linspace(0, 1, 5), column) for column in corners.T]
        assert_like(path(start, end, jnp.asarray(alpha, dtype)), np.array(expected), dtype)


def test_polyline_moves_at_both_ends(dtype):
    """So that a rule with nodes at 0 and 1 counts them."""
    corners = picture(4, 3)
    start, *middle, end = jnp.asarray(corners, dtype)
    path = paths.polyline(jnp.stack(middle))
    velocity = jax.jit(jax.jacfwd(lambda alpha: path(start, end, alpha)))
    for alpha, piece in ((0.0, 0), (1.0, -1)):
        expected = 3 * np.diff(corners, axis=0)[piece]
        assert_like(velocity(jnp.asarray(alpha, dtype)), expected, dtype)


def test_polyline_of_a_scalar():
    attribute = integrated_grad(
        lambda x: x**2,
        path=paths.polyline(jnp.array([5.0, -1.0])),
        rule=quadrature.composite(quadrature.gauss_legendre(1), 3),
    )
    assert_close(attribute(jnp.array(3.0)), 9.0)


def test_polyline_per_example_under_vmap():
    """Over (u, v) from 0 to (x, y) the product gives u v / 2 + (x - u) (v + y) / 2 to x."""
    rng = np.random.default_rng(0)
    xs, waypoints = rng.normal(size=(2, 10, 2)).astype(np.float32)
    attribute = lambda x, waypoint: integrated_grad(
        PRODUCT,
        path=paths.polyline(waypoint[None]),
        rule=quadrature.composite(quadrature.gauss_legendre(2), 2),
    )(x)
    attributions = jax.jit(jax.vmap(attribute))(xs, waypoints)
    (x, y), (u, v) = xs.T, waypoints.T
    to_x = u * v / 2 + (x - u) * (v + y) / 2
    assert_close(attributions, np.stack([to_x, x * y - to_x], 1))


def test_attributions_are_differentiable_in_the_waypoints():
    x, y = 2.0, 3.0
    to_x = lambda waypoint: integrated_grad(
        PRODUCT,
        path=paths.polyline(waypoint[None]),
        rule=quadrature.composite(quadrature.gauss_legendre(2), 2),
    )(jnp.array([x, y]))[0]
    gradient = jax.grad(to_x)(jnp.array([0.5, 0.75]))
    assert_close(gradient, [-y / 2, x / 2])


@pytest.mark.parametrize(
    "points", [np.ones((1, 2)), {"a": np.ones((1, 2))}], ids=["array", "a_leaf_less"]
)
def test_polyline_through_points_of_another_structure(points):
    x = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}
    message = "polyline: points must be a pytree like the input, with an axis of waypoints"
    path = paths.polyline(points)
    with pytest.raises(ValueError, match=message):
        paths.check(path, baselines.zeros, x)
    with pytest.raises(ValueError, match=message):
        integrated_grad(lambda x: jnp.sum(x["a"]), path=path)(x)


@pytest.mark.parametrize(
    "shapes",
    [((1, 3), (1, 2, 3)), ((1, 2), (2, 2, 3)), ((2,), (2, 3)), ((1, 2), (2, 3)), ((), ())],
    ids=["shape", "different_k", "no_axis", "one_without_axis", "scalars"],
)
def test_polyline_through_points_of_another_shape(shapes):
    x = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}
    path = paths.polyline(dict(zip(x, map(jnp.ones, shapes), strict=True)))
    message = r"every leaf of points must have the shape \(k,\) \+ .* one k for all; got shapes"
    with pytest.raises(ValueError, match=message):
        paths.check(path, baselines.zeros, x)
    with pytest.raises(ValueError, match=message):
        integrated_grad(lambda x: jnp.sum(x["a"]), path=path)(x)


# Reparametrize

SCHEDULES = {
    "square": lambda alpha: alpha**2,
    "smoothstep": lambda alpha: alpha**2 * (3 - 2 * alpha),
    "overshoot": lambda alpha: alpha * (4 - 3 * alpha),  # leaves [0, 1] on the way
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reparametrizing_leaves_attributions_unchanged(dtype, schedule):
    corners = np.array([[0.5, -1.0, 2.0], [1.5, 2.0, -1.0]])
    attribute = integrated_grad(
        LINE_INTEGRAL,
        baseline=jnp.asarray(corners[0], dtype),
        path=paths.reparametrize(paths.straight_line, SCHEDULES[schedule]),
        rule=GAUSS,
    )
    assert_like(attribute(jnp.asarray(corners[1], dtype)), exact_line_integral(corners), dtype)


def test_reparametrizing_moves_the_nodes():
    path = paths.reparametrize(paths.straight_line, SCHEDULES["square"])
    points = jax.vmap(lambda alpha: path(jnp.zeros(()), jnp.ones(()), alpha))(jnp.linspace(0, 1, 5))
    assert_close(points, np.linspace(0, 1, 5) ** 2)


def test_reparametrizing_a_polyline_moves_its_corners(dtype):
    """At pace alpha^2 the corner, half-way, is met at sqrt(1/2): nodes are given for each side."""
    corners = picture(3, 3)
    corner, (nodes, weights, _) = np.sqrt(0.5), GAUSS
    rule = quadrature.Rule(
        np.concatenate([corner * nodes, corner + (1 - corner) * nodes]),
        np.concatenate([corner * weights, (1 - corner) * weights]),
    )
    path = paths.reparametrize(
        paths.polyline(jnp.asarray(corners[1:-1], dtype)), SCHEDULES["square"]
    )
    attributions = integrated_grad(
        LINE_INTEGRAL, baseline=jnp.asarray(corners[0], dtype), path=path, rule=rule
    )(jnp.asarray(corners[-1], dtype))
    assert_like(attributions, exact_line_integral(corners), dtype)


# Latent


def test_latent_of_logarithms(dtype):
    """The points are b^(1 - alpha) x^alpha, whose product is an exponential in alpha."""
    b, x = np.array([0.5, 2.0]), np.array([1.5, 3.0])
    attributions = integrated_grad(
        PRODUCT,
        baseline=jnp.asarray(b, dtype),
        path=paths.latent(jnp.log, jnp.exp),
        rule=GAUSS,
    )(jnp.asarray(x, dtype))
    expected = np.log(x / b) * (x.prod() - b.prod()) / np.log(x.prod() / b.prod())
    straight = (x - b) * (x + b)[::-1] / 2
    assert_like(attributions, expected, dtype)
    assert np.max(np.abs(expected - straight)) > 0.05


def test_latent_code_may_have_another_structure_and_size(dtype):
    """A code of three numbers, (r, cos, sin), for points of the plane: the radius is linear."""
    encode = lambda x: {"r": jnp.hypot(x[0], x[1]), "unit": x / jnp.hypot(x[0], x[1])}
    decode = lambda z: z["r"] * z["unit"]
    b, x = np.array([3.0, 4.0]), np.array([-8.0, 6.0])
    path = paths.latent(encode, decode)
    middle = path(jnp.asarray(b, dtype), jnp.asarray(x, dtype), jnp.asarray(0.5, dtype))
    assert_like(middle, 7.5 * (b / 5 + x / 10) / 2, dtype)
    assert check(path, jnp.asarray(b, dtype), jnp.asarray(x, dtype)).ok


# Blur


BLUR = jax.jit(lambda sigma, image: paths.blur(sigma)(None, image, 0.0))


@pytest.mark.parametrize("shape", [(16, 16), (24, 10), (7, 5, 3), (1, 8)], ids=str)
def test_blur_starts_at_scipys_gaussian_filter(shape):
    image = picture(*shape)
    for sigma in (2.0, 3.0, 6.0, 20.0):
        blurred = BLUR(sigma, jnp.asarray(image, jnp.float32))
        np.testing.assert_allclose(blurred, scipy_blur(image, sigma), rtol=0, atol=1e-5)


def test_blur_narrows_linearly(x64):
    image = picture(12, 9)
    path = jax.jit(paths.blur(8.0))
    for alpha in (0.0, 0.1, 0.25, 0.5):  # sigma from 8 to 4
        blurred = path(None, jnp.asarray(image), alpha)
        np.testing.assert_allclose(blurred, scipy_blur(image, 8 * (1 - alpha)), atol=1e-12)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (-2, -1), [0, 2]], ids=str)
def test_blur_along_other_axes(x64, axes):
    image = picture(6, 7, 8)
    blurred = jax.jit(paths.blur(4.0, axes))(None, jnp.asarray(image), 0.0)
    np.testing.assert_allclose(blurred, scipy_blur(image, 4.0, axes), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("one", "other"), [(0.5, 0.25), (1.0, 3.0), (4.0, 7.0)])
def test_a_blur_after_a_blur_is_a_blur(x64, one, other):
    image = jnp.asarray(picture(12, 9))
    np.testing.assert_allclose(
        BLUR(one, BLUR(other, image)), BLUR(np.hypot(one, other), image), rtol=0, atol=1e-13
    )


def test_a_blur_of_width_zero_is_the_identity(dtype):
    image = picture(9, 12)
    end = jax.jit(paths.blur(5.0))(None, jnp.asarray(image, dtype), 1.0)
    assert_like(end, image, dtype)


def test_blur_keeps_the_mean_and_ends_at_it(x64):
    image = picture(9, 12, 3)
    for sigma in (0.5, 3.0, 100.0):
        blurred = np.asarray(BLUR(sigma, jnp.asarray(image)))
        np.testing.assert_allclose(blurred.mean((0, 1)), image.mean((0, 1)), atol=1e-13)
    np.testing.assert_allclose(blurred, blurred.mean((0, 1)) + np.zeros_like(image), atol=1e-12)


def test_blur_stands_still_where_the_picture_is_sharp(dtype):
    """It is even in the width, and smooth at zero."""
    image = jnp.asarray(picture(8, 8), dtype)
    energy = lambda alpha: jnp.sum(paths.blur(3.0)(None, image, alpha) ** 2)
    np.testing.assert_array_equal(jax.jit(jax.grad(energy))(jnp.ones((), dtype)), 0.0)


def test_blurs_second_derivative_where_the_picture_is_sharp(x64):
    """In sigma, that of ``|exp(-sigma^2 w^2 / 2) c|^2`` at 0 is ``-2 w^2 c^2``; here times 3^2."""
    image = jnp.asarray(picture(8, 8))
    energy = lambda alpha: jnp.sum(paths.blur(3.0)(None, image, alpha) ** 2)
    waves = fft.dctn(np.asarray(image), norm="ortho")
    frequency = np.pi / 8 * np.arange(8)
    squares = frequency[:, None] ** 2 + frequency**2
    expected = -18 * np.sum(squares * waves**2)
    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(energy)))(1.0), expected, rtol=1e-10)


def test_blur_attributions_of_a_separable_function(dtype):
    """If F is a sum over pixels, each pixel is given its own difference, whatever the path."""
    image = picture(10, 8, 3)
    attribute = integrated_grad(
        lambda x: jnp.sum(jnp.sin(3 * x)),
        baseline=baselines.blurred(4.0),
        path=paths.blur(4.0),
        rule=quadrature.gauss_legendre(64),
    )
    attributions = attribute(jnp.asarray(image, dtype))
    assert_like(attributions, np.sin(3 * image) - np.sin(3 * scipy_blur(image, 4.0)), dtype)


def test_blur_attributions_are_complete(x64):
    image = picture(10, 8)
    f = lambda x: jnp.tanh(jnp.sum(x[1:] * x[:-1]) / 8) + jnp.sum(x[:, 1:] * x[:, :-1] ** 2)
    attribute = integrated_grad(
        f,
        baseline=baselines.blurred(4.0),
        path=paths.blur(4.0),
        rule=quadrature.gauss_legendre(64),
        has_report=True,
    )
    attributions, report = attribute(jnp.asarray(image))
    difference = f(jnp.asarray(image)) - f(jnp.asarray(scipy_blur(image, 4.0)))
    np.testing.assert_allclose(attributions.sum(), difference, rtol=0, atol=1e-11)
    np.testing.assert_allclose(report.completeness_gap, 0.0, atol=1e-11)
    assert abs(difference) > 0.1


def test_the_width_of_a_blur_may_be_traced():
    image = jnp.asarray(picture(8, 8), jnp.float32)
    sigmas = np.array([2.0, 3.0, 5.0], np.float32)
    attribute = lambda sigma: integrated_grad(
        jnp.sum,
        path=paths.blur(sigma),
        baseline=baselines.blurred(sigma),
        rule=quadrature.gauss_legendre(64),
    )(image)
    attributions = jax.jit(jax.vmap(attribute))(sigmas)
    expected = np.stack([image - scipy_blur(image, sigma) for sigma in sigmas])
    np.testing.assert_allclose(attributions, expected, rtol=0, atol=1e-5)


# All paths

PATHS = {
    "straight_line": paths.straight_line,
    "polyline": paths.polyline(picture(2, 4, 3, seed=5).astype(np.float32)),
    "blur": paths.blur(3.0),
    "latent": paths.latent(
        lambda x: jax.tree.map(jnp.arcsinh, x), lambda z: jax.tree.map(jnp.sinh, z)
    ),
    "reparametrize": paths.reparametrize(paths.straight_line, SCHEDULES["smoothstep"]),
}
BASELINES = dict.fromkeys(PATHS, baselines.constant(0.25)) | {"blur": baselines.blurred(3.0)}


def tree_path(name):
    """The path ``name`` for inputs like ``tree_input``."""
    if name == "polyline":
        return paths.polyline(
            {"a": picture(2, 4, 3, seed=5).astype(np.float32), "b": (np.ones((2, 2, 2), "f4"),)}
        )
    return PATHS[name]


def tree_input(dtype="float32"):
    return {
        "a": jnp.asarray(picture(4, 3, seed=6), dtype),
        "b": (jnp.asarray(picture(2, 2, seed=7), dtype),),
    }


@pytest.mark.parametrize("name", PATHS)
def test_velocity_equals_finite_differences(x64, name):
    x, step = jnp.asarray(picture(4, 3, seed=6)), 1e-5

    @jax.jit
    def point_and_velocity(alpha):
        point = lambda alpha: PATHS[name](BASELINES[name](x), x, alpha)
        return jax.jvp(point, (alpha,), (jnp.ones(()),))

    for alpha in (0.05, 0.3, 0.6, 0.95):
        (before, _), (_, velocity), (after, _) = (
            point_and_velocity(jnp.asarray(alpha + shift)) for shift in (-step, 0.0, step)
        )
        np.testing.assert_allclose(velocity, (after - before) / (2 * step), rtol=0, atol=1e-8)
        assert np.max(np.abs(velocity)) > 1e-4


@pytest.mark.parametrize("name", PATHS)
def test_attributions_along_any_path_are_complete_over_a_pytree(name):
    f = lambda x: jnp.sum(jnp.tanh(x["a"])) * jnp.sum(x["b"][0] ** 2)
    x = tree_input()
    attributions, report = integrated_grad(
        f,
        baseline=BASELINES[name],
        path=tree_path(name),
        rule=quadrature.composite(GAUSS, 3),
        has_report=True,
    )(x)
    assert jax.tree.structure(attributions) == jax.tree.structure(x)
    total = sum(np.sum(leaf, dtype=float) for leaf in jax.tree.leaves(attributions))
    expected = f(x) - f(jax.jit(BASELINES[name])(x))
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(report.completeness_gap, 0.0, atol=1e-5)
    assert abs(expected) > 0.01


@pytest.mark.parametrize("name", PATHS)
def test_check_passes_good_paths(name):
    result = check(tree_path(name), BASELINES[name], tree_input())
    assert result.ok
    assert result.start_gap < 1e-6 and result.end_gap < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_half_precision_inputs_come_to_the_path_in_float32(name):
    seen = set()

    def spy(baseline, x, alpha):
        seen.update(str(jnp.result_type(leaf)) for leaf in jax.tree.leaves((baseline, x, alpha)))
        point = tree_path(name)(baseline, x, alpha)
        seen.update(str(leaf.dtype) for leaf in jax.tree.leaves(point))
        return point

    def f(x):
        assert {leaf.dtype for leaf in jax.tree.leaves(x)} == {jnp.dtype("bfloat16")}
        return jnp.sum(x["a"]) + jnp.sum(x["b"][0])

    x = tree_input("bfloat16")
    rule = quadrature.composite(GAUSS, 3)
    attribute = integrated_grad(f, baseline=BASELINES[name], path=spy, rule=rule)
    attributions = attribute(x)
    assert seen == {"float32"}
    expected = jax.tree.map(
        lambda x, b: np.float32(x) - np.float32(b), x, jax.jit(BASELINES[name])(x)
    )
    for a, e in zip(jax.tree.leaves(attributions), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(a), e, rtol=2**-8, atol=2**-7)


# Check


def test_check_reports_that_a_blurred_picture_is_not_black():
    image = picture(8, 8)
    blurred = scipy_blur(image, 3.0)
    result = check(paths.blur(3.0), baselines.zeros, jnp.asarray(image, jnp.float32))
    assert not result.ok
    np.testing.assert_allclose(result.start_gap, np.abs(blurred).max(), rtol=1e-5)
    assert_close(result.end_gap, 0.0, size=float(np.max(np.abs(image))))
    result = check(
        paths.blur(3.0), jnp.asarray(blurred, jnp.float32), jnp.asarray(image, jnp.float32)
    )
    assert result.ok


def test_check_reports_an_inexact_autoencoder_at_both_ends():
    lossy = paths.latent(lambda x: x[:2], lambda z: jnp.append(z, 0.0))
    x, baseline = jnp.array([1.0, 2.0, 0.75]), jnp.array([0.0, 0.0, -0.25])
    result = check(lossy, baseline, x)
    assert not result.ok
    assert_close(result[:2], [0.25, 0.75])
    assert check(lossy, baselines.zeros, jnp.array([1.0, 2.0, 0.0])).ok


def test_check_takes_the_largest_gap_over_all_leaves():
    shifted = lambda baseline, x, alpha: {
        name: baseline[name] + alpha * (x[name] - baseline[name]) + shift
        for name, shift in (("a", 0.1), ("b", -0.3), ("c", 0.2))
    }
    x = {name: jnp.ones((2, 2)) for name in "abc"}
    result = check(shifted, baselines.zeros, x)
    assert_close(result[:2], [0.3, 0.3])


@pytest.mark.parametrize(
    ("rtol", "ok"), [(1e-3, False), (0.0049, False), (0.0051, True), (0.1, True)]
)
def test_checks_tolerance_is_relative_to_the_largest_value_of_both_ends(rtol, ok):
    shifted = lambda baseline, x, alpha: paths.straight_line(baseline, x, alpha) + 0.05
    x, baseline = jnp.array([1.0, 2.0]), jnp.array([-10.0, 0.0])
    assert bool(check(shifted, baseline, x, rtol=rtol).ok) is ok


def test_check_of_a_path_with_nan_is_not_ok():
    path = paths.latent(jnp.log, jnp.exp)
    assert check(path, jnp.ones(2), jnp.array([1.0, 2.0])).ok
    assert not check(path, -jnp.ones(2), jnp.array([1.0, 2.0])).ok


def test_check_under_jit_and_vmap():
    images = jnp.stack([jnp.zeros((4, 4)), jnp.ones((4, 4)), jnp.full((4, 4), -2.0)])
    check_one = lambda image: paths.check(paths.blur(2.0), baselines.zeros, image)
    result = jax.jit(jax.vmap(check_one))(images)
    np.testing.assert_array_equal(result.ok, [True, False, False])
    assert_close(result.start_gap, [0.0, 1.0, 2.0])
    assert_close(result.end_gap, [0.0, 0.0, 0.0], size=2.0)


@pytest.mark.parametrize("name", PATHS)
def test_check_in_double_precision(x64, name):
    result = check(PATHS[name], BASELINES[name], tree_input("float64")["a"])
    assert result.ok
    assert result.start_gap.dtype == np.float64
    assert result.start_gap < 1e-12 and result.end_gap < 1e-12


@pytest.mark.parametrize("name", PATHS)
def test_check_in_half_precision(name):
    result = check(PATHS[name], BASELINES[name], tree_input("bfloat16")["a"], rtol=2**-7)
    assert result.ok
    assert result.start_gap.dtype == jnp.float32


# Points that are not like the input

WRONG_POINTS = {
    "another_structure": (
        lambda baseline, x, alpha: x["a"],
        ValueError,
        "must be a pytree like the input; got",
    ),
    "another_shape": (
        lambda baseline, x, alpha: {"a": x["a"][:1], "b": x["b"]},
        ValueError,
        r"\['a'\] must have the input's shape \(2,\); got \(1,\)",
    ),
    "a_number": (
        lambda baseline, x, alpha: {"a": x["a"], "b": alpha},
        ValueError,
        r"\['b'\] must have the input's shape \(2, 3\); got \(\)",
    ),
    "integers": (
        lambda baseline, x, alpha: jax.tree.map(lambda leaf: leaf.astype(int), x),
        TypeError,
        r"\['a'\] must be floating-point, as the input is \(float32\); got int32",
    ),
}


@pytest.mark.parametrize("case", WRONG_POINTS)
def test_points_that_are_not_like_the_input_are_refused(case):
    path, error, message = WRONG_POINTS[case]
    x = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}
    f = lambda x: jnp.sum(x["a"]) + jnp.sum(x["b"])
    with pytest.raises(error, match=f"path.*{message}"):
        paths.check(path, baselines.zeros, x)
    for multiply_by_inputs in (True, False):
        attribute = integrated_grad(f, path=path, multiply_by_inputs=multiply_by_inputs)
        with pytest.raises(error, match=f"path's point.*{message}"):
            attribute(x)


@pytest.mark.parametrize("path", [None, "blur", 2.0])
def test_a_path_that_is_no_function(path):
    with pytest.raises(TypeError, match=r"path must be a function \(baseline, x, alpha\) -> point"):
        integrated_grad(jnp.sum, path=path)


def test_check_of_a_tree_of_several_dtypes():
    with jax.enable_x64(True):
        x = {"single": jnp.ones(2, jnp.float32), "double": jnp.ones(2, jnp.float64)}
        result = paths.check(paths.straight_line, baselines.zeros, x)
        assert bool(result.ok)
        assert result.end_gap.dtype == jnp.float64


ONE = {"a": jnp.ones(2)}
BAD_PARTS = {
    "no points": (lambda: paths.polyline(None), ValueError, "polyline: points must have a number"),
    "text": (lambda: paths.polyline({"a": "x"}), TypeError, r"polyline: points\['a'\] must be"),
    "complex": (
        lambda: paths.polyline(1j * np.ones((1, 2))),
        TypeError,
        "polyline: points must be",
    ),
    "masked": (
        lambda: paths.polyline(np.ma.masked_array([[1.0, 2.0]], mask=[[0, 1]])),
        TypeError,
        "polyline: points has masked elements",
    ),
    "text for a width": (lambda: paths.blur("1"), TypeError, "blur: max_sigma must be a number"),
    "two widths": (lambda: paths.blur(np.ones(2)), TypeError, "blur: max_sigma must be a number"),
    "negative width": (lambda: paths.blur(-1.0), ValueError, "max_sigma must be at least 0"),
    "infinite width": (lambda: paths.blur(jnp.inf), ValueError, "must be at least 0 and finite"),
    "one axis": (lambda: paths.blur(1.0, 5), TypeError, r"blur: axes must be integers.* got 5"),
    "half an axis": (lambda: paths.blur(1.0, (0.5,)), TypeError, "blur: axes must be integers"),
    "no encoder": (
        lambda: paths.latent(3, jnp.exp),
        TypeError,
        "latent takes a function for encode",
    ),
    "no decoder": (
        lambda: paths.latent(jnp.exp, 3),
        TypeError,
        "latent takes a function for decode",
    ),
    "no path": (lambda: paths.reparametrize(3, jnp.sin), TypeError, "path must be a function"),
    "no schedule": (
        lambda: paths.reparametrize(paths.straight_line, 4),
        TypeError,
        "reparametrize takes a function for schedule; got 4",
    ),
    "schedule of nothing": (
        lambda: paths.reparametrize(paths.straight_line, lambda alpha: None)(ONE, ONE, 0.5),
        TypeError,
        "reparametrize: what schedule returns must be a number",
    ),
    "no path to check": (lambda: paths.check(3, ONE, ONE), TypeError, "path must be a function"),
    "no rtol": (
        lambda: paths.check(paths.straight_line, ONE, ONE, rtol="a"),
        TypeError,
        "check: rtol must be a number",
    ),
    "negative rtol": (
        lambda: paths.check(paths.straight_line, ONE, ONE, rtol=-1),
        ValueError,
        "check: rtol must be at least 0",
    ),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_bad_parts_of_paths_are_refused(case):
    make, error, message = BAD_PARTS[case]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_picture_without_places_has_a_blur(shape):
    axes = tuple(range(len(shape)))
    x = jnp.ones(shape)
    assert paths.blur(1.0, axes)(x, x, 0.5).shape == shape
    assert baselines.blurred(1.0, axes)(x).shape == shape
