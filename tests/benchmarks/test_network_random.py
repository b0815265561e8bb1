"""The benchmark's random networks against torch twins, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from benchmarks.networks import random

MAKERS = [random.mlp, random.wide_mlp, random.cnn, random.transformer]
COUNT = 2


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture(scope="module")
def network(make):
    return make(COUNT)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is in the extra bench")


@pytest.fixture(scope="module")
def grad_and_values(network):
    """Of the examples, the gradient of the sum of all outputs, and each output."""

    def total(x, params, *extras):
        values = {name: f(params, x, *extras) for name, f in network.outputs.items()}
        return sum(values.values()), values

    in_axes = (0, None) + (0,) * len(network.extras)
    transform = jax.jit(jax.vmap(jax.grad(total, has_aux=True), in_axes=in_axes))
    return lambda xs, params=network.params: transform(xs, params, *network.extras)


@pytest.fixture(scope="module")
def expected(network, grad_and_values):
    return jax.tree.map(np.asarray, grad_and_values(network.xs))


def assert_within(actual, expected, tolerance):
    """Within ``tolerance`` of the largest element."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_shapes_and_dtypes(network):
    assert network.xs.shape[0] == COUNT and network.xs.shape == network.baselines.shape
    assert network.xs.dtype == network.baselines.dtype == np.float32
    assert not network.baselines.any() and network.xs.std() > 0.1
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(network.params))
    assert all(type(extra) is np.ndarray and len(extra) == COUNT for extra in network.extras)


def test_the_torch_twin_has_the_same_values_and_gradients(network, expected, torch):
    xs = torch.tensor(network.xs, requires_grad=True)
    extras = [torch.tensor(extra) for extra in network.extras]
    values = {name: f(xs, *extras) for name, f in network.torch_outputs().items()}
    (gradients,) = torch.autograd.grad(sum(values.values()).sum(), xs)
    assert_within(gradients.numpy(), expected[0], 1e-5)
    assert values.keys() == expected[1].keys() == network.outputs.keys()
    for name, value in values.items():
        assert_within(value.detach().numpy(), expected[1][name], 1e-5)


def test_the_label_is_the_predicted_one_and_probabilities_sum_to_one(network, torch):
    if not network.extras:
        pytest.skip("a regression has no labels")
    twins, xs = network.torch_outputs(), torch.tensor(network.xs)
    labels = torch.arange(10)[:, None]  # each is one label for all rows
    logits = torch.stack([twins["logit"](xs, label) for label in labels])
    probabilities = torch.stack([twins["probability"](xs, label) for label in labels])
    assert network.extras[0].dtype == np.int32
    np.testing.assert_array_equal(logits.argmax(0), network.extras[0])
    assert_close(probabilities.sum(0), 1)


def test_float64(network, grad_and_values, expected):
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a).astype(np.float64)), network.params
        )
        double = grad_and_values(network.xs.astype(np.float64), params)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(double), strict=True):
        assert b.dtype == np.float64
        assert_within(a, np.asarray(b), 1e-5)


def test_the_gradient_changes_along_the_path(network):
    # Otherwise one node would do, and the benchmark would say nothing about quadrature.
    gradient = jax.grad(lambda x, *extras: network.outputs["logit"](network.params, x, *extras))
    transform = jax.jit(jax.vmap(gradient))
    half, whole = (np.asarray(transform(a * network.xs, *network.extras)) for a in (0.5, 1.0))
    assert np.abs(whole - half).sum() > 0.1 * np.abs(whole).sum()


def test_the_seed_is_fixed_and_fewer_examples_are_the_first_ones(make, network):
    one = make(1)
    jax.tree.map(np.testing.assert_array_equal, one.params, network.params)
    np.testing.assert_array_equal(one.xs, network.xs[:1])
    assert (network.xs[0] != network.xs[1]).any()
