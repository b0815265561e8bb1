"""Baselines against NumPy, scipy, the moments of their distributions and the entropy they reach."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close
from scipy import ndimage, stats

import igjax
from igjax import baselines, quadrature

KEY = jax.random.key(0)
ROUNDING = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 1e-6, "float64": 1e-12}


@pytest.fixture(params=ROUNDING)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def numbers(*shape, seed=0):
    """From -1 to 1, and representable in every dtype: nothing is lost by a cast."""
    return np.random.default_rng(seed).integers(-64, 65, size=shape) / 64


def tree(dtype):
    return {
        "a": jnp.asarray(numbers(4, 3, seed=1), dtype),
        "b": [jnp.asarray(numbers(5, seed=2), dtype), jnp.asarray(numbers(6, 2, 2, seed=3), dtype)],
    }


def array(dtype):
    return jnp.asarray(numbers(6, 5, seed=4), dtype)


INPUTS = {"array": array, "pytree": tree}
EXAMPLES = np.random.default_rng(5).integers(0, 256, size=(300, 6, 5), dtype=np.uint8)
TREE_EXAMPLES = {
    "a": EXAMPLES[:, :4, :3],
    "b": [EXAMPLES[:, 0], np.stack([EXAMPLES[:, :, :2], EXAMPLES[:, :, 2:4]], -1)],
}


def examples_like(x):
    return TREE_EXAMPLES if isinstance(x, dict) else EXAMPLES


def two_classes(x):
    """The logits of two classes, equal where the input's elements sum to 3."""
    total = sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(x))
    return jnp.stack([total - 3.0, jnp.zeros_like(total)])


def scipy_blur(x, sigma, axes):
    sigmas = np.zeros(x.ndim)
    sigmas[list(axes)] = sigma
    return ndimage.gaussian_filter(x, sigmas, mode="reflect", truncate=8)


# name: (a baseline for any of INPUTS, what it should be for one leaf)
DETERMINISTIC = {
    "zeros": (lambda x: baselines.zeros, np.zeros_like),
    "constant": (lambda x: baselines.constant(0.25), lambda leaf: np.full_like(leaf, 0.25)),
    "blurred": (lambda x: baselines.blurred(4.0, (0,)), lambda leaf: scipy_blur(leaf, 4.0, (0,))),
    "farthest": (
        lambda x: baselines.farthest(-1.0, 2.0),
        lambda leaf: np.where(leaf > 0.5, -1.0, 2.0),
    ),
    "mean_of": (
        lambda x: baselines.mean_of(examples_like(x)),
        None,
    ),
}
RANDOM = {
    "uniform": lambda x: baselines.uniform(KEY, -1.0, 3.0),
    "gaussian": lambda x: baselines.gaussian(KEY, 0.5),
}
ALL = {name: make for name, (make, _) in DETERMINISTIC.items()} | RANDOM
ALL["max_entropy"] = lambda x: baselines.max_entropy(two_classes, steps=5)


def in_float64(x):
    return [np.asarray(leaf.astype(jnp.float32), np.float64) for leaf in jax.tree.leaves(x)]


def expected_leaves(name, x):
    if name == "mean_of":
        return [leaf.astype(float).mean(0) for leaf in jax.tree.leaves(examples_like(x))]
    return [DETERMINISTIC[name][1](leaf) for leaf in in_float64(x)]


def assert_like(baseline, x):
    assert jax.tree.structure(baseline) == jax.tree.structure(x)
    for b, leaf in zip(jax.tree.leaves(baseline), jax.tree.leaves(x), strict=True):
        assert b.shape == leaf.shape and b.dtype == leaf.dtype


# All baselines


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", ALL)
def test_baselines_have_the_inputs_structure_shapes_and_dtypes(name, kind, dtype):
    x = INPUTS[kind](dtype)
    assert_like(jax.eval_shape(ALL[name](x), x), x)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_values_against_numpy(name, dtype):
    x = tree(dtype)
    baseline = jax.jit(ALL[name](x))(x)
    assert_like(baseline, x)
    for b, e in zip(jax.tree.leaves(baseline), expected_leaves(name, x), strict=True):
        atol = ROUNDING[dtype] * max(1.0, np.max(np.abs(e)))
        np.testing.assert_allclose(np.asarray(b, float), e, rtol=0, atol=atol)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "blurred"])
def test_values_without_jit(name):
    x = tree("float32")
    for b, e in zip(jax.tree.leaves(ALL[name](x)(x)), expected_leaves(name, x), strict=True):
        assert_close(b, e)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_values_for_every_example_under_vmap(name):
    xs = jnp.asarray(numbers(7, 6, 5), jnp.float32)
    batch = jax.jit(jax.vmap(ALL[name](xs)))(xs)
    for x, baseline in zip(xs, batch, strict=True):
        (expected,) = expected_leaves(name, x)
        assert_close(baseline, expected)


@pytest.mark.parametrize("name", ALL)
def test_attributions_are_those_from_this_baseline(name):
    """Of a sum of squares every element is given ``x^2 - baseline^2``, so they are complete."""
    x = tree("float32")
    f = lambda x: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))
    attribute = igjax.integrated_grad(
        f, baseline=ALL[name](x), rule=quadrature.gauss_legendre(2), has_report=True
    )
    attributions, report = jax.jit(attribute)(x)
    baseline = jax.jit(ALL[name](x))(x)
    leaves = [in_float64(tree) for tree in (attributions, x, baseline)]
    scale = max(1.0, *(np.max(b**2) for b in leaves[2]))
    for a, value, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, value**2 - b**2, rtol=0, atol=2e-6 * scale)
    total = sum(np.sum(a) for a in leaves[0])
    difference = sum(np.sum(v**2 - b**2) for v, b in zip(*leaves[1:], strict=True))
    assert total == pytest.approx(difference, rel=1e-5)
    assert abs(report.completeness_gap) < 1e-5 * abs(difference)


# Constant


def test_constant_colour_in_every_place():
    colour = np.array([0.1, 0.5, 0.9])
    baseline = baselines.constant(colour)(jnp.ones((4, 5, 3)))
    np.testing.assert_array_equal(baseline, np.broadcast_to(np.float32(colour), (4, 5, 3)))


def test_constant_with_a_value_for_each_leaf():
    x = {"image": jnp.ones((2, 4, 3)), "age": jnp.ones(())}
    value = {"image": np.array([1.0, 2.0, 3.0]), "age": 40}
    baseline = baselines.constant(value)(x)
    assert_like(baseline, x)
    np.testing.assert_array_equal(baseline["image"], np.broadcast_to([1, 2, 3], (2, 4, 3)))
    assert baseline["age"] == 40


def test_constant_array_for_all_leaves():
    baseline = baselines.constant(jnp.array([1.0, 2.0]))([jnp.zeros((3, 2)), jnp.zeros((4, 1, 2))])
    np.testing.assert_array_equal(baseline[0], np.broadcast_to([1, 2], (3, 2)))
    np.testing.assert_array_equal(baseline[1], np.broadcast_to([1, 2], (4, 1, 2)))


def test_constant_takes_a_traced_value():
    baseline = jax.jit(jax.vmap(lambda value: baselines.constant(value)(jnp.ones(2))))
    np.testing.assert_array_equal(baseline(jnp.array([1.0, 2.0])), [[1, 1], [2, 2]])


def takers_of_constants(value):
    """Every baseline that takes what ``constant`` takes, with ``value`` in that place."""
    return {
        "constant": baselines.constant(value),
        "uniform_low": baselines.uniform(KEY, low=value),
        "uniform_high": baselines.uniform(KEY, high=value),
        "gaussian": baselines.gaussian(KEY, value),
        "farthest_low": baselines.farthest(value, 1.0),
        "farthest_high": baselines.farthest(0.0, value),
        "max_entropy_low": baselines.max_entropy(lambda x: x, low=value),
        "max_entropy_high": baselines.max_entropy(lambda x: x, high=value),
    }


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 3)], ids=str)
@pytest.mark.parametrize("taker", takers_of_constants(0.0))
def test_values_that_do_not_broadcast_to_the_input(taker, shape):
    message = (
        rf"a value of shape {shape} does not broadcast to the input of shape \(3,\)\.".replace(
            f"{shape}", str(shape).replace("(", r"\(").replace(")", r"\)")
        )
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(takers_of_constants(np.ones(shape))[taker], jnp.ones(3))


def test_the_leaf_that_a_value_does_not_broadcast_to_is_named():
    with pytest.raises(ValueError, match=r"shape \(4,\) .* the input\['b'\] of shape \(3,\)"):
        baselines.constant({"a": 0.0, "b": jnp.ones(4)})({"a": jnp.ones(2), "b": jnp.ones(3)})


@pytest.mark.parametrize(
    "value",
    [{"a": 0.0}, {"a": 0.0, "c": 0.0}, [0.0, 1.0]],
    ids=["less", "other", "list"],
)
@pytest.mark.parametrize("taker", takers_of_constants(0.0))
def test_values_of_another_structure(taker, value):
    with pytest.raises(
        ValueError, match=r"give one number or array for all leaves .* got PyTreeDef"
    ):
        jax.eval_shape(takers_of_constants(value)[taker], {"a": jnp.ones(2), "b": jnp.ones(3)})


# Blurred


@pytest.mark.parametrize("sigma", [2.0, 5.0, 15.0])
def test_blurred_picture_against_scipy(sigma):
    image = np.random.default_rng(0).uniform(size=(24, 16, 3))
    baseline = jax.jit(baselines.blurred(sigma))(jnp.asarray(image, jnp.float32))
    np.testing.assert_allclose(baseline, scipy_blur(image, sigma, (0, 1)), rtol=0, atol=1e-5)


def test_blurred_along_time():
    signal = np.random.default_rng(0).normal(size=(2, 50))
    baseline = jax.jit(baselines.blurred(3.0, axes=[-1]))(jnp.asarray(signal, jnp.float32))
    np.testing.assert_allclose(baseline, scipy_blur(signal, 3.0, (1,)), rtol=0, atol=1e-5)


def test_blurred_by_a_traced_width_for_each_example():
    images = np.random.default_rng(0).uniform(size=(3, 8, 8)).astype(np.float32)
    sigmas = np.array([2.0, 4.0, 8.0], np.float32)
    blur = jax.jit(jax.vmap(lambda image, sigma: baselines.blurred(sigma)(image)))
    expected = [scipy_blur(i.astype(float), s, (0, 1)) for i, s in zip(images, sigmas, strict=True)]
    np.testing.assert_allclose(blur(images, sigmas), expected, rtol=0, atol=1e-5)


# Uniform and gaussian

MANY = jnp.zeros((100, 200))


def test_uniform_draws_are_uniform():
    draws = np.asarray(jax.jit(baselines.uniform(KEY, -1.0, 3.0))(MANY)).ravel()
    assert draws.min() >= -1.0 and draws.max() <= 3.0
    assert stats.kstest(draws, stats.uniform(-1.0, 4.0).cdf).pvalue > 1e-3
    assert draws.mean() == pytest.approx(1.0, abs=5 * np.sqrt(16 / 12 / draws.size))
    assert draws.var() == pytest.approx(16 / 12, rel=0.03)


def test_gaussian_draws_are_normal_around_the_input():
    x = jnp.broadcast_to(jnp.array([[-5.0], [10.0]]), (2, 10_000))
    draws = np.asarray(jax.jit(baselines.gaussian(KEY, 0.5))(x))
    for row, mean in zip(draws, (-5.0, 10.0), strict=True):
        assert stats.kstest(row, stats.norm(mean, 0.5).cdf).pvalue > 1e-3
        assert row.mean() == pytest.approx(mean, abs=5 * 0.5 / np.sqrt(row.size))
        assert row.std() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(draws)[0, 1]) < 0.05


def test_uniform_with_bounds_for_each_feature_and_leaf():
    x = {"a": jnp.zeros((10_000, 2)), "b": jnp.zeros(10_000)}
    low, high = {"a": np.array([0.0, 10.0]), "b": -1.0}, {"a": np.array([1.0, 30.0]), "b": 0.0}
    draws = jax.jit(baselines.uniform(KEY, low, high))(x)
    columns = (*np.asarray(draws["a"]).T, np.asarray(draws["b"]))
    for column, (least, most) in zip(columns, ((0, 1), (10, 30), (-1, 0)), strict=True):
        assert stats.kstest(column, stats.uniform(least, most - least).cdf).pvalue > 1e-3


def test_gaussian_with_a_width_for_each_leaf():
    x = {"a": jnp.ones(10_000), "b": jnp.ones(10_000)}
    draws = jax.jit(baselines.gaussian(KEY, {"a": 0.0, "b": 2.0}))(x)
    np.testing.assert_array_equal(draws["a"], 1.0)
    assert np.std(draws["b"]) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("name", RANDOM)
def test_random_baselines_depend_on_the_key_alone(name):
    make = {
        "uniform": lambda key: baselines.uniform(key, -1.0, 3.0),
        "gaussian": lambda key: baselines.gaussian(key, 0.5),
    }[name]
    x = jnp.zeros(100)
    draw = jax.jit(lambda key: make(key)(x))
    first, other = draw(KEY), draw(jax.random.key(1))
    np.testing.assert_array_equal(jax.jit(make(KEY))(x), first)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


@pytest.mark.parametrize("name", RANDOM)
def test_every_leaf_has_draws_of_its_own(name):
    x = [jnp.zeros(1000)] * 3
    draws = np.array(jax.jit(RANDOM[name](x))(x))
    assert np.max(np.abs(np.corrcoef(draws) - np.eye(3))) < 0.15


@pytest.mark.parametrize("name", RANDOM)
def test_keys_mapped_with_vmap_give_each_example_its_own_draws(name):
    make = {
        "uniform": baselines.uniform,
        "gaussian": lambda key: baselines.gaussian(key, 0.5),
    }[name]
    xs, keys = jnp.zeros((4, 1000)), jax.random.split(KEY, 4)
    own = np.asarray(jax.jit(jax.vmap(lambda x, key: make(key)(x)))(xs, keys))
    assert np.max(np.abs(np.corrcoef(own) - np.eye(4))) < 0.15
    shared = np.asarray(jax.jit(jax.vmap(make(KEY)))(xs))
    np.testing.assert_array_equal(shared, np.broadcast_to(shared[0], shared.shape))


# Mean


def test_mean_of_pixels_does_not_overflow():
    data = np.random.default_rng(0).integers(200, 256, size=(5000, 3), dtype=np.uint8)
    baseline = baselines.mean_of(data)(jnp.ones(3))
    assert_close(baseline, data.astype(float).mean(0))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_mean_of_integers_is_no_integer(dtype):
    with jax.enable_x64(True):
        mean = baselines.mean_of(np.array([[1, 2], [2, 4]], dtype))(jnp.ones(2))
        np.testing.assert_array_equal(mean, [1.5, 3.0])


@pytest.mark.parametrize("data", [np.ones((4, 4)), np.ones(10)])
def test_mean_of_data_without_an_axis_of_examples_is_refused(data):
    with pytest.raises(ValueError, match=r"mean_of: the mean of data must have the input's shape"):
        baselines.mean_of(data)(jnp.ones((4, 4)))


@pytest.mark.parametrize("axes", [(0, 0), (0, 2), (1, -1)])
def test_a_blur_along_no_axis_of_the_picture_is_refused(axes):
    with pytest.raises(ValueError, match="blur: axes must name different axes of the picture"):
        baselines.blurred(1.0, axes)(jnp.ones((4, 4)))


@pytest.mark.parametrize("data", [np.ones(()), np.ones((0, 3))])
def test_mean_of_no_examples_is_refused(data):
    with pytest.raises(ValueError, match="mean_of: data must have an axis of examples"):
        baselines.mean_of(data)


@pytest.mark.parametrize(
    "baseline",
    [
        baselines.zeros,
        baselines.constant(0.5),
        baselines.blurred(1.0),
        baselines.uniform(jax.random.key(0)),
        baselines.gaussian(jax.random.key(0), 1.0),
        baselines.farthest(0.0, 1.0),
        baselines.max_entropy(lambda x: x, steps=1),
    ],
)
def test_numpy_arrays_are_inputs_too(baseline):
    assert baseline(np.ones((3, 4))).dtype == jnp.float32


def test_mean_of_half_precision_examples_is_added_up_in_float32():
    data = jnp.ones((4096, 2), jnp.bfloat16)  # in bfloat16 the sum would stop at 256
    np.testing.assert_array_equal(baselines.mean_of(data)(jnp.zeros(2)), 1.0)


@pytest.mark.parametrize("x", [jnp.ones(3), jnp.ones((2, 5))], ids=["size", "rank"])
def test_mean_of_examples_of_another_shape(x):
    with pytest.raises(ValueError, match="mean_of: the mean of data must have the input's shape"):
        baselines.mean_of(jnp.ones((10, 4)))(x)


# Farthest


def test_farthest_takes_every_element_to_the_other_end():
    x = jnp.array([0.0, 0.2, 0.49, 0.51, 0.9, 1.0])
    np.testing.assert_array_equal(baselines.farthest(0.0, 1.0)(x), [1, 1, 1, 0, 0, 0])


def test_farthest_from_an_input_outside_of_the_box():
    x = jnp.array([-3.0, 4.0])
    np.testing.assert_array_equal(baselines.farthest(0.0, 1.0)(x), [1, 0])


def test_farthest_with_bounds_for_each_feature_and_leaf():
    x = {"a": jnp.array([[1.0, 1.0], [5.0, 5.0]]), "b": jnp.array(0.0)}
    low, high = {"a": np.array([0.0, -10.0]), "b": -2.0}, {"a": np.array([4.0, 10.0]), "b": 1.0}
    baseline = baselines.farthest(low, high)(x)
    np.testing.assert_array_equal(baseline["a"], [[4.0, -10.0], [0.0, -10.0]])
    assert baseline["b"] == -2.0


def test_nothing_in_the_box_is_farther_than_farthest():
    rng = np.random.default_rng(0)
    low, high = -rng.uniform(size=20), rng.uniform(size=20)
    x = rng.uniform(low, high).astype(np.float32)
    baseline = np.asarray(baselines.farthest(low, high)(jnp.asarray(x)))
    others = rng.uniform(low, high, size=(1000, 20))
    assert np.all(np.abs(baseline - x) >= np.abs(others - x) - 1e-6)


# Maximum entropy

CLASSES = 4


def network(seed):
    """A small random network, and of 100 random inputs the one that it is most confident about."""
    rng = np.random.default_rng(seed)
    w1, b1, w2, b2 = (
        jnp.asarray(rng.normal(size=shape) * size, jnp.float32)
        for shape, size in (((16, 8), 0.7), (16, 1.0), ((CLASSES, 16), 1.0), (CLASSES, 1.0))
    )
    predict = lambda x: w2 @ jnp.tanh(w1 @ x + b1) + b2
    xs = rng.normal(size=(100, 8)).astype(np.float32)
    entropies = [entropy(predict(x)) for x in xs]
    return predict, jnp.asarray(xs[np.argmin(entropies)])


def entropy(logits):
    """Mean over all but the last axis, by scipy in float64."""
    return np.mean(stats.entropy(np.asarray(jax.nn.softmax(logits), float), axis=-1))


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize(
    "start", [baselines.zeros, lambda x: x, jnp.full(8, 0.5)], ids=["zeros", "input", "array"]
)
def test_max_entropy_is_reached(seed, start):
    """From the inputs of networks 0 and 1 the climb ends where three classes of four tie."""
    predict, x = network(seed)
    assert entropy(predict(x)) < 0.2
    baseline = jax.jit(baselines.max_entropy(predict, start=start, steps=500))(x)
    assert entropy(predict(baseline)) > np.log(CLASSES) - 1e-3


def test_max_entropy_begins_at_start_and_takes_so_many_steps():
    predict, x = network(0)
    gradient = jax.grad(
        lambda x: -jnp.sum(jax.nn.softmax(predict(x)) * jax.nn.log_softmax(predict(x)))
    )
    gradient, point = jax.jit(gradient), x
    for steps in range(3):
        search = baselines.max_entropy(
            predict, start=lambda x: x, steps=steps, optimizer=optax.sgd(0.1)
        )
        baseline = jax.jit(search)(x)
        np.testing.assert_allclose(baseline, point, rtol=0, atol=1e-5)
        point = point + 0.1 * gradient(point)
    assert np.max(np.abs(point - x)) > 1e-3


def test_max_entropy_stays_between_low_and_high():
    predict, x = network(0)
    low, high = jnp.linspace(-0.5, 0.25, 8), jnp.linspace(0.5, 0.3, 8)
    free, boxed = (
        jax.jit(baselines.max_entropy(predict, steps=300, **bounds))(x)
        for bounds in ({}, {"low": low, "high": high})
    )
    assert np.any(free < low) or np.any(free > high)
    assert np.all(boxed >= low) and np.all(boxed <= high)
    assert entropy(predict(boxed)) > entropy(predict(jnp.zeros(8)))


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.5, momentum=0.9), optax.adamw(0.03), optax.lion(0.01)],
    ids=["sgd", "adamw", "lion"],
)
def test_max_entropy_with_another_optimizer(optimizer):
    predict, x = network(0)
    search = baselines.max_entropy(predict, start=lambda x: x, optimizer=optimizer, steps=300)
    before, after = entropy(predict(x)), entropy(predict(jax.jit(search)(x)))
    assert after > before + 0.5


def test_max_entropy_of_many_predictions_is_that_of_their_mean():
    """Logits of shape (tokens, classes), of an input that is a pytree."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(CLASSES, 3)), jnp.float32)
    predict = lambda x: x["tokens"] @ weights.T + x["bias"]
    x = {"tokens": jnp.full((5, 3), 2.0), "bias": jnp.arange(4.0)[None]}
    baseline = jax.jit(baselines.max_entropy(predict, start=lambda x: x, steps=500))(x)
    assert_like(baseline, x)
    assert entropy(predict(x)) < 1.0
    assert entropy(predict(baseline)) > np.log(CLASSES) - 1e-3


def test_max_entropy_for_every_example_under_vmap():
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(CLASSES, 8)).astype("f4"), rng.normal(size=4).astype("f4")
    predict = lambda x: weights @ x + bias
    xs = jnp.asarray(rng.normal(size=(5, 8)), jnp.float32)
    assert min(entropy(predict(x)) for x in xs) < 0.5
    search = baselines.max_entropy(predict, start=lambda x: x, steps=500)
    found = jax.jit(jax.vmap(search))(xs)
    assert all(entropy(predict(baseline)) > np.log(CLASSES) - 1e-3 for baseline in found)
    assert np.min(np.std(found, axis=0)) > 1e-2


def test_the_search_for_max_entropy_is_differentiable():
    with jax.enable_x64(True):
        x, direction = jnp.asarray(numbers(8)), jnp.asarray(numbers(8, seed=1))
        predict = lambda x: jnp.stack([jnp.sum(x**2), jnp.sum(jnp.sin(x)), x[0] * x[1], x[2]])
        search = jax.jit(baselines.max_entropy(predict, start=lambda x: x, steps=5))
        _, tangent = jax.jvp(search, (x,), (direction,))
        (cotangent,) = jax.vjp(search, x)[1](direction)
        step = 1e-6
        difference = (search(x + step * direction) - search(x - step * direction)) / (2 * step)
    direction, tangent, cotangent = map(np.asarray, (direction, tangent, cotangent))
    np.testing.assert_allclose(tangent, difference, rtol=0, atol=1e-6)
    assert cotangent @ direction == pytest.approx(direction @ tangent, rel=1e-10)


@pytest.mark.parametrize("seed", range(2))
def test_gradients_through_a_long_search_are_finite(seed):
    predict, x = network(seed)
    x = jnp.append(x, 1.0)  # an element that the network ignores
    search = baselines.max_entropy(lambda x: predict(x[:8]), start=lambda x: x)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(search(x) ** 2)))(x)
    assert np.all(np.isfinite(gradient))
    assert gradient[-1] == 2.0


def test_max_entropy_of_one_logit():
    with pytest.raises(ValueError, match=r"predict must return logits .* got a scalar"):
        baselines.max_entropy(jnp.sum)(jnp.ones(3))


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [(-3, ValueError, "steps must be at least 0; got -3"), (2.5, TypeError, "an integer; got 2.5")],
)
def test_max_entropy_of_a_bad_number_of_steps(steps, error, message):
    with pytest.raises(error, match=f"max_entropy: steps must be|{message}"):
        baselines.max_entropy(lambda x: x, steps=steps)


def test_max_entropy_from_a_start_of_another_shape():
    with pytest.raises(ValueError, match=r"max_entropy: start must have the input's shape \(3,\)"):
        baselines.max_entropy(lambda x: x, start=jnp.ones(4))(jnp.ones(3))


def test_max_entropy_clips_the_start_too():
    search = baselines.max_entropy(lambda x: x, steps=0, low=2.0)
    np.testing.assert_array_equal(search(jnp.ones(3)), 2.0)


def test_max_entropy_without_optax(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match="optax"):
        baselines.max_entropy(lambda x: x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_max_entropy_in_half_precision(dtype):
    """Where a gradient is 0, Adam divides by its eps alone, which is 0 in float16."""
    predict = lambda x: jnp.stack([x[0], 2 * x[0] - 1]).astype(dtype)
    search = baselines.max_entropy(predict, start=lambda x: x, steps=100)
    x = jnp.array([2.0, 3.0], dtype)  # the model ignores the second
    found = jax.jit(search)(x)
    assert found.dtype == dtype
    assert abs(found[0] - 1) < 0.05
    assert found[1] == 3


# Bad values, refused when a baseline is made


OF_ONE_VALUE = {
    "constant: value": baselines.constant,
    "embedding: value": baselines.embedding,
    "mean_of: data": baselines.mean_of,
    "farthest: low": lambda low: baselines.farthest(low, 1.0),
    "farthest: high": lambda high: baselines.farthest(0.0, high),
    "uniform: low": lambda low: baselines.uniform(KEY, low),
    "uniform: high": lambda high: baselines.uniform(KEY, 0.0, high),
    "gaussian: sigma": lambda sigma: baselines.gaussian(KEY, sigma),
    "max_entropy: low": lambda low: baselines.max_entropy(lambda x: x, low=low),
    "max_entropy: high": lambda high: baselines.max_entropy(lambda x: x, high=high),
    "blurred: sigma": baselines.blurred,
}
NO_REAL_NUMBERS = {
    "text": "a",
    "bytes": b"a",
    "complex": 1 + 2j,
    "complex array": jnp.array(1 + 2j),
    "date": np.datetime64("2020-01-01"),
    "span": np.timedelta64(3, "D"),
    "object": object(),
    "function": baselines.zeros,
    "key": KEY,
}


@pytest.mark.parametrize("value", NO_REAL_NUMBERS)
@pytest.mark.parametrize("name", OF_ONE_VALUE)
def test_what_is_no_real_number_is_refused(name, value):
    allowed = name == "mean_of: data" and value == "key"  # a key may stand beside data
    message = "must have a number" if allowed else "must be a number or an array of real numbers"
    with pytest.raises(ValueError if allowed else TypeError, match=f"{name} {message}"):
        OF_ONE_VALUE[name](NO_REAL_NUMBERS[value])


@pytest.mark.parametrize("name", OF_ONE_VALUE)
def test_masked_elements_and_nothing_are_refused(name):
    with pytest.raises(TypeError, match=f"{name} has masked elements"):
        OF_ONE_VALUE[name](np.ma.masked_array([1.0, 2.0], mask=[False, True]))
    with pytest.raises((TypeError, ValueError), match=f"{name} must"):
        OF_ONE_VALUE[name](None)


@pytest.mark.parametrize("name", sorted(OF_ONE_VALUE.keys() - {"mean_of: data"}))
def test_a_bool_is_no_number(name):
    with pytest.raises(TypeError, match=f"{name} must be a number or an array of real numbers"):
        OF_ONE_VALUE[name](True)


def test_a_mask_that_masks_nothing_is_no_mask():
    value = np.ma.masked_array([1.0, 2.0])
    np.testing.assert_array_equal(baselines.constant(value)(jnp.ones(2)), [1.0, 2.0])


def test_mean_of_bools_is_their_share():
    np.testing.assert_array_equal(
        baselines.mean_of(np.array([[True, False], [True, True]]))(jnp.ones(2)), [1.0, 0.5]
    )


BAD_BASELINES = {
    "no key": (lambda: baselines.uniform(0), TypeError, "uniform: key must be one random key"),
    "many keys": (
        lambda: baselines.gaussian(jax.random.split(KEY), 1.0),
        TypeError,
        "gaussian: key must be one random key",
    ),
    "text as key": (lambda: baselines.uniform("a"), TypeError, "key must be one random key"),
    "empty box": (
        lambda: baselines.uniform(KEY, 1.0, 0.0),
        ValueError,
        "uniform: low must be at most high, everywhere; got 1.0 and 0.0",
    ),
    "partly empty box": (
        lambda: baselines.farthest({"a": np.array([0.0, 2.0]), "b": 0.0}, 1.0),
        ValueError,
        "farthest: low must be at most high",
    ),
    "NaN in a box": (
        lambda: baselines.max_entropy(lambda x: x, low=jnp.nan),
        ValueError,
        "max_entropy: low must be at most high",
    ),
    "box of no shape": (
        lambda: baselines.farthest(np.zeros(2), np.ones(3)),
        ValueError,
        "farthest: low must be at most high",
    ),
    "negative noise": (
        lambda: baselines.gaussian(KEY, {"a": -1.0}),
        ValueError,
        "gaussian: sigma must be at least 0",
    ),
    "negative blur": (lambda: baselines.blurred(-1), ValueError, "sigma must be at least 0"),
    "blur of NaN": (lambda: baselines.blurred(jnp.nan), ValueError, "sigma must be at least 0"),
    "axes": (lambda: baselines.blurred(1.0, "a"), TypeError, "blurred: axes must be integers"),
    "no predict": (
        lambda: baselines.max_entropy(3),
        TypeError,
        "max_entropy takes a function for predict; got 3",
    ),
    "no optimizer": (
        lambda: baselines.max_entropy(lambda x: x, optimizer=3),
        TypeError,
        "max_entropy: optimizer must be one of Optax; got 3",
    ),
    "no logits": (
        lambda: baselines.max_entropy(lambda x: None)(jnp.ones(2)),
        TypeError,
        "max_entropy: predict must return logits, an array of floats; got None",
    ),
    "bool for a leaf": (
        lambda: baselines.constant({"a": True})({"a": 1.0}),
        TypeError,
        "baseline must be a number or an array of real numbers; got True",
    ),
}


@pytest.mark.parametrize("case", BAD_BASELINES)
def test_bad_values_are_refused_when_a_baseline_is_made(case):
    make, error, message = BAD_BASELINES[case]
    with pytest.raises(error, match=message):
        make()


def test_values_of_baselines_may_be_traced():
    def make(key, low, high, x):
        return (
            baselines.uniform(key, low, high)(x),
            baselines.gaussian(key, low)(x),
            baselines.farthest(low, high)(x),
            baselines.blurred(low, (0,))(x),
        )

    args = KEY, jnp.float32(2.0), jnp.float32(1.0), jnp.ones(3)
    assert jax.tree.leaves(jax.eval_shape(make, *args))[0].shape == (3,)
    assert jax.eval_shape(make, jax.random.PRNGKey(0), *args[1:])[1].shape == (3,)
