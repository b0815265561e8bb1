"""The network of digits of the benchmark against its twin in torch."""

import jax
import numpy as np
import pytest

from benchmarks.networks import digits

pytest.importorskip("sklearn", reason="scikit-learn is in the extra bench")
COUNT = 200


@pytest.fixture(scope="module")
def net():
    return digits.load(COUNT)


def test_it_reads_digits(net):
    scores = jax.jit(jax.vmap(digits._logits, in_axes=(None, 0)))(net.params, net.xs)
    assert np.mean(jax.nn.softmax(scores).max(axis=1) > 0.9) > 0.8  # sure of most
    assert set(net.extras[0].tolist()) == set(range(10))
    assert net.xs.shape == (COUNT, 8, 8, 1) and net.xs.dtype == np.float32
    assert 0 <= net.xs.min() < net.xs.max() <= 1


@pytest.mark.parametrize("output", ["probability", "logit"])
def test_the_twin_in_torch(net, output):
    torch = pytest.importorskip("torch", reason="torch is in the extra bench")
    x = torch.tensor(net.xs, requires_grad=True)
    values = net.torch_outputs()[output](x, torch.tensor(net.extras[0]))
    (gradients,) = torch.autograd.grad(values.sum(), x)
    fun = jax.value_and_grad(net.outputs[output], argnums=1)
    found = jax.jit(jax.vmap(fun, in_axes=(None, 0, 0)))(net.params, net.xs, net.extras[0])
    np.testing.assert_allclose(found[0], values.detach().numpy(), rtol=1e-4, atol=1e-5)
    sizes = np.abs(gradients.numpy()).max()
    np.testing.assert_allclose(found[1], gradients.numpy(), rtol=0, atol=1e-4 * sizes)
