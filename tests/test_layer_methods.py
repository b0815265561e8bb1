"""Attribution to layers and neurons, against definitions by hand-split functions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from layered import RNG, SIZES, START, X, by_hand, network
from slowly import all_slow_but

import igjax
from igjax.quadrature import gauss_legendre, gregory, to_tolerance


def integral(integrand):
    """Of a function of alpha, in float64 with 100 nodes."""
    rule = gauss_legendre(100)
    return sum(w * integrand(a) for w, a in zip(rule.weights, rule.nodes, strict=True))


def at(alpha):
    return START + alpha * (X - START)


@pytest.fixture
def x64():
    with jax.enable_x64():
        yield


RULE = {"rule": gauss_legendre(60), "baseline": START}


@pytest.mark.parametrize("i", range(3))
def test_layer_integrated_grad(x64, i):
    head, tail = by_hand(i)
    start, end = head(START), head(X)
    expected = (end - start) * integral(lambda a: jax.grad(tail)(start + a * (end - start)))
    found, report = igjax.layer_integrated_grad(network, f"layer{i}", has_report=True, **RULE)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(), network(X) - network(START), rtol=1e-9)
    assert abs(report.completeness_gap) < 1e-9


@pytest.mark.parametrize("i", range(3))
def test_layer_conductance(x64, i):
    head, tail = by_hand(i)
    # By its definition, over inputs, and not along a pushed-forward path.
    expected = integral(
        lambda a: jax.grad(tail)(head(at(a))) * (jax.jacrev(head)(at(a)) @ (X - START))
    )
    found, report = igjax.layer_conductance(network, f"layer{i}", has_report=True, **RULE)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(), network(X) - network(START), rtol=1e-9)
    assert abs(report.completeness_gap) < 1e-9


@pytest.mark.parametrize("i", all_slow_but([1], range(3)))
def test_neuron_conductances(x64, i):
    head, tail = by_hand(i)
    parts = integral(
        lambda a: jax.grad(tail)(head(at(a)))[:, None] * jax.jacrev(head)(at(a)) * (X - START)[None]
    )
    conductance = lambda neuron: igjax.neuron_conductance(
        network, f"layer{i}", neuron=neuron, has_report=True, **RULE
    )(X)
    for j in range(SIZES[i + 1]):
        found, report = conductance(j)
        np.testing.assert_allclose(found, parts[j], rtol=1e-8, atol=1e-12)
        assert np.isnan(report.completeness_gap)
        np.testing.assert_allclose(report.value, network(X))
        np.testing.assert_allclose(report.baseline_value, network(START))
    two, _ = conductance(lambda h: h[1:3].sum())
    np.testing.assert_allclose(two, parts[1] + parts[2], rtol=1e-8, atol=1e-12)
    inputs = igjax.integrated_grad(network, **RULE)(X)
    np.testing.assert_allclose(conductance(jnp.sum)[0], inputs, rtol=1e-8, atol=1e-12)


def test_neuron_conductance_to_a_tolerance_asks_no_second_opinion_of_completeness():
    x = jnp.asarray(X, jnp.float32)
    attribute = igjax.neuron_conductance(
        network, "layer1", neuron=2, rule=to_tolerance(1e-3), has_report=True
    )
    found, report = jax.jit(attribute)(x)
    assert report.converged
    expected = igjax.neuron_conductance(network, "layer1", neuron=2, rule=gauss_legendre(60))(x)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("i", range(3))
def test_internal_influence(x64, i):
    head, tail = by_hand(i)
    expected = integral(lambda a: jax.grad(tail)(head(at(a))))
    found, report = igjax.internal_influence(network, f"layer{i}", has_report=True, **RULE)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(report.completeness_gap)


@pytest.mark.parametrize("i", range(3))
def test_neuron_integrated_grad(x64, i):
    head, _ = by_hand(i)
    expected = (X - START) * integral(lambda a: jax.grad(lambda x: head(x)[3])(at(a)))
    for neuron in (3, (3,), 3 - SIZES[i + 1], lambda h: h[3]):
        found = igjax.neuron_integrated_grad(network, f"layer{i}", neuron=neuron, **RULE)(X)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_what_goes_past_a_layer_is_accounted_for(x64):
    fun = lambda x: jnp.sum(checkpoint_name(x**2, "squares") * x)
    found, report = igjax.layer_conductance(fun, "squares", has_report=True, **RULE)(X)
    # Of x^3 the squares have 2 / 3: the integral of x d(x^2).
    np.testing.assert_allclose(found, (X**3 - START**3) * 2 / 3, rtol=1e-9)
    assert abs(report.completeness_gap) < 1e-9
    found, report = igjax.layer_integrated_grad(fun, "squares", has_report=True, **RULE)(X)
    np.testing.assert_allclose(found, (X**2 - START**2) * X, rtol=1e-9)
    np.testing.assert_allclose(report.baseline_value, np.sum(START**2 * X), rtol=1e-9)


@pytest.mark.parametrize("method", [igjax.layer_conductance, igjax.internal_influence])
def test_the_error_is_that_of_the_layer_whatever_goes_past_it(x64, method):
    # Not any weights: by those of seeds 0 and 3 the influence is said to converge, and does not.
    weights = np.random.default_rng(1).normal(size=(6, 6))

    def fun(x):
        return jnp.sum(100 * x + jnp.sin(20 * checkpoint_name(x @ jnp.asarray(weights), "branch")))

    exact = method(fun, "branch", rule=gauss_legendre(600))(X)
    attribute = method(fun, "branch", rule=to_tolerance(1e-2, max_evals=1040), has_report=True)
    found, report = attribute(X)
    assert report.converged
    assert report.error < 1e-2
    assert jnp.abs(found - exact).sum() < 1e-2 * jnp.abs(exact).sum()
    rough, report = method(fun, "branch", rule=gregory(16), has_report=True)(X)
    assert jnp.abs(rough - exact).sum() > 0.1 * jnp.abs(exact).sum()
    assert report.error > 0.1


def test_several_layers_at_once(x64):
    fun = lambda x: jnp.prod(checkpoint_name(x[:3] * 2, "a")) + jnp.sum(checkpoint_name(x[3:], "b"))
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        first, second = method(fun, ["a", "b"], **RULE)(X)
        total = first.sum() + second.sum()
        np.testing.assert_allclose(second, (X - START)[3:], rtol=1e-9)
        np.testing.assert_allclose(total, fun(X) - fun(START), rtol=1e-9)


def test_layer_gradient_x_activation(x64):
    head, tail = by_hand(1)
    found = igjax.layer_gradient_x_activation(network, "layer1")(X)
    np.testing.assert_allclose(found, head(X) * jax.grad(tail)(head(X)), rtol=1e-12)


KERNEL = RNG.normal(size=(3, 3, 2, 4))


def convolutional(x, label):
    maps = jax.lax.conv_general_dilated(
        x[None],
        jnp.asarray(KERNEL, x.dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    maps = checkpoint_name(jax.nn.relu(maps), "maps")
    return (jnp.tanh(maps).mean((0, 1)) @ jnp.asarray(RNG_READOUT, x.dtype))[label]


RNG_READOUT = RNG.normal(size=(4, 3))


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam(x64, relu):
    image = RNG.normal(size=(5, 6, 2))
    found = igjax.grad_cam(convolutional, "maps", relu=relu)(image, 1)
    maps = igjax.split_at(convolutional, "maps")[0](image, 1)
    expected = np.zeros((5, 6))
    for channel in range(4):
        slope = RNG_READOUT[channel, 1] * np.mean(1.0 - np.tanh(maps[..., channel]) ** 2) / 30
        expected += slope * maps[..., channel]
    np.testing.assert_allclose(found, np.maximum(expected, 0.0) if relu else expected, rtol=1e-9)


def test_grad_cam_with_channels_first():
    fun = lambda x: jnp.sum(checkpoint_name(x, "maps")[0]) * 4
    x = jnp.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(igjax.grad_cam(fun, "maps", channel_axis=0)(x), 4 * x[0])
    with pytest.raises(
        ValueError, match=r"channel_axis, of a layer of shape \(2, 2, 2\), .* got 3"
    ):
        igjax.grad_cam(fun, "maps", channel_axis=3)(x)


@jax.custom_vjp
def cubed(x):
    return x**3


cubed.defvjp(lambda x: (cubed(x), x), lambda x, g: (g * 3 * x**2,))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_conductance_where_there_is_no_forward_mode(x64, wrap):
    inner = wrap(cubed)
    fun = lambda x: jnp.prod(checkpoint_name(jnp.sin(inner(x)[:3]), "layer"))
    plain = lambda x: jnp.prod(checkpoint_name(jnp.sin(x[:3] ** 3), "layer"))
    expected = igjax.layer_conductance(plain, "layer", **RULE)(X)
    conductance = igjax.layer_conductance(fun, "layer", **RULE)
    np.testing.assert_allclose(conductance(X), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(conductance))(X[None])[0], expected, rtol=1e-9)
    slope = jax.grad(lambda x: jnp.sum(conductance(x) ** 2))(X)
    of_plain = lambda x: jnp.sum(igjax.layer_conductance(plain, "layer", **RULE)(x) ** 2)
    np.testing.assert_allclose(slope, jax.grad(of_plain)(X), rtol=1e-7, atol=1e-12)


def test_batches_reports_and_gradients():
    x = jnp.asarray(X, jnp.float32)
    xs = jnp.stack([x, 2 * x, -x])
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance, igjax.internal_influence):
        attribute = method(network, "layer1", rule=gregory(16), batch_size=4, has_report=True)
        together, report = jax.jit(jax.vmap(attribute))(xs)
        assert together.shape == (3, 7)
        assert report.error.shape == (3,)
        np.testing.assert_allclose(together[1], attribute(xs[1])[0], rtol=1e-5, atol=1e-6)
        slope = jax.grad(lambda x: jnp.sum(attribute(x)[0] ** 2))(x)  # noqa: B023
        assert np.isfinite(slope).all()


def test_several_arguments_and_baselines_of_them(x64):
    fun = lambda x, y: jnp.prod(checkpoint_name(jnp.stack([x * y, x + y]), "pair"))
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        found = method(fun, "pair", (0, 1), baseline=(1.0, 2.0), rule=gauss_legendre(20))(3.0, 4.0)
        np.testing.assert_allclose(found.sum(), 12 * 7 - 2 * 3)


@pytest.mark.parametrize("method", [igjax.layer_integrated_grad, igjax.layer_conductance])
def test_other_paths(x64, method):
    path = igjax.paths.reparametrize(igjax.paths.straight_line, lambda a: a**2)
    found = method(network, "layer1", path=path, **RULE)(X)
    np.testing.assert_allclose(found, method(network, "layer1", **RULE)(X), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_half_precision():
    x, start = jnp.asarray(X, jnp.bfloat16), jnp.asarray(START, jnp.bfloat16)
    exact = igjax.layer_conductance(network, "layer0", baseline=START.astype(np.float32))
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        found = method(network, "layer0", baseline=start)(x)
        assert found.dtype == jnp.bfloat16
        assert np.isfinite(found.astype(np.float32)).all()
    expected = exact(x.astype(jnp.float32))
    error = jnp.abs(found.astype(jnp.float32) - expected).sum() / jnp.abs(expected).sum()
    assert error < 0.03


def test_bad_input():
    whole = lambda x: jnp.sum(checkpoint_name(jnp.int32(x), "rounded").astype(x.dtype) * x)
    with pytest.raises(TypeError, match="the layer 'rounded' has dtype int32"):
        igjax.layer_integrated_grad(whole, "rounded")(jnp.ones(3))
    with pytest.raises(ValueError, match="Did you mean 'layer0'"):
        igjax.layer_conductance(network, "layr0")(jnp.ones(6))
    with pytest.raises(ValueError, match=r"baseline must have the input's shape"):
        igjax.layer_conductance(network, "layer0", baseline=jnp.ones(5))(jnp.ones(6))
    with pytest.raises(ValueError, match=r"neuron, of a layer of shape \(8,\),.*; got 8"):
        igjax.neuron_integrated_grad(network, "layer0", neuron=8)(jnp.ones(6))
    with pytest.raises(ValueError, match=r"an index for each axis of the layer, of shape \(8,\)"):
        igjax.neuron_conductance(network, "layer0", neuron=(1, 2))(jnp.ones(6))
    with pytest.raises(ValueError, match=r"to a scalar; got shape \(8,\)"):
        igjax.neuron_conductance(network, "layer0", neuron=lambda h: h)(jnp.ones(6))
    for neuron in (True, None, slice(0, 2), 1.5, "a", [1]):
        for method in (igjax.neuron_integrated_grad, igjax.neuron_conductance):
            with pytest.raises(TypeError, match=r"neuron, of a layer .* must be an integer"):
                method(network, "layer0", neuron=neuron)(jnp.ones(6))
    with pytest.raises(ValueError, match=r"less than 8; got 8"):
        igjax.neuron_conductance(network, "layer0", neuron=np.int64(8))(jnp.ones(6))
    with pytest.raises(TypeError, match="grad_cam takes the name of one layer"):
        igjax.grad_cam(network, ["layer0"])
    with pytest.raises(ValueError, match=r"a layer of channels and places; 'layer0' has shape"):
        igjax.grad_cam(network, "layer0")(jnp.ones(6))


def test_a_layer_that_does_not_depend_on_the_argument_is_refused():
    beside = lambda x, y: jnp.sum(checkpoint_name(2 * x, "x") * checkpoint_name(3 * y, "y"))
    constant = lambda x: jnp.sum(checkpoint_name(jnp.ones((2, 2)), "x") * x)
    inputs = jnp.ones(3), jnp.ones(3)
    refused = functools.partial(pytest.raises, ValueError, match="'x' does not depend on what is")
    for name in ("layer_integrated_grad", "layer_conductance", "internal_influence"):
        for layer in ("x", ["y", "x"]):
            with refused():
                getattr(igjax, name)(beside, layer, 1)(*inputs)
    for name in ("neuron_integrated_grad", "neuron_conductance"):
        with refused():
            getattr(igjax, name)(beside, "x", 1, neuron=0)(*inputs)
    for name in ("layer_gradient_x_activation", "grad_cam"):
        with refused():
            getattr(igjax, name)(constant, "x")(jnp.float32(1.0))


METHODS = {
    "layer_integrated_grad": {},
    "layer_conductance": {},
    "internal_influence": {},
    "neuron_integrated_grad": {"neuron": 0},
    "neuron_conductance": {"neuron": 0},
    "layer_gradient_x_activation": None,
    "grad_cam": None,
}


@pytest.mark.parametrize("name", METHODS)
def test_messages_name_the_method(name):
    method, settings = getattr(igjax, name), METHODS[name] or {}
    with pytest.raises(TypeError, match=f"{name} takes a function; got 3"):
        method(3, "layer0", **settings)
    if not name.startswith("neuron_i"):  # of which only the neuron matters
        vector = lambda x: checkpoint_name(jnp.outer(x, x), "layer0")
        with pytest.raises(ValueError, match=f"{name} needs a function with a scalar output"):
            method(vector, "layer0", **(settings and {"neuron": (0, 0)}))(jnp.ones(6))
    if METHODS[name] is not None:
        with pytest.raises(TypeError, match="rule"):
            method(network, "layer0", rule=3, **settings)
        with pytest.raises(ValueError, match="batch_size"):
            method(network, "layer0", batch_size=0, **settings)
        with pytest.raises(TypeError, match="path must be a function"):
            method(network, "layer0", path=None, **settings)


def test_of_a_pytree_the_floats_move_a_layer():
    """Integers and bools go to the function as they are, and come back as None."""
    rule = gregory(4)
    graph = {"x": jnp.arange(1.0, 4.0), "to": jnp.array([2, 0]), "n": 2}

    def fun(graph):
        sent = graph["x"][graph["to"]]
        return jnp.prod(checkpoint_name(sent**2, "sent")) * graph["n"]

    alone = lambda x: fun(graph | {"x": x})
    for method in (igjax.layer_integrated_grad, igjax.layer_conductance):
        found = method(fun, "sent", rule=rule)(graph)
        expected = method(alone, "sent", rule=rule)(graph["x"])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for method in (igjax.neuron_integrated_grad, igjax.neuron_conductance):
        found = method(fun, "sent", neuron=0, rule=rule)(graph)
        expected = method(alone, "sent", neuron=0, rule=rule)(graph["x"])
        assert found["to"] is None and found["n"] is None
        np.testing.assert_allclose(found["x"], expected, rtol=1e-5)
