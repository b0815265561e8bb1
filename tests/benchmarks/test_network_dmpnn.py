"""The molecule network of the benchmark against its twin in torch."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.networks import dmpnn as network
from examples.models import dmpnn

if not all(importlib.util.find_spec(name) for name in ("admet_ai", "rdkit", "torch")):
    pytest.skip("admet-ai, rdkit and torch are in the extra bench", allow_module_level=True)

COUNT = len(network.DRUGS)
ALPHAS = np.asarray([1.0, 0.9, 0.6, 0.3, 0.0], np.float32)


@pytest.fixture(scope="module")
def net():
    return network.load(COUNT)


@pytest.fixture(scope="module")
def twins(net):
    return net.torch_outputs()


def over_points(net, output, in_axes):
    f = jax.value_and_grad(net.outputs[output], argnums=1)
    return jax.jit(jax.vmap(f, in_axes=(None, 0, *(in_axes for _ in net.extras))))


def values_and_gradients(torch_output, points, extras):
    import torch

    x = torch.tensor(points, requires_grad=True)
    values = torch_output(x, *(torch.tensor(extra) for extra in extras))
    (gradients,) = torch.autograd.grad(values.sum(), x)
    return values.detach().numpy(), gradients.numpy()


def assert_close(found, expected):
    assert found[0].shape == expected[0].shape
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    for gradient, other in zip(found[1], expected[1], strict=True):
        assert np.any(other)
        np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_shapes_and_dtypes(net):
    bonds, source, target, reverse, atom_mask, edge_mask = net.extras
    num_atoms, num_edges = atom_mask.shape[1], edge_mask.shape[1]
    assert net.xs.shape == net.baselines.shape == (COUNT, num_atoms, 72)
    assert bonds.shape == (COUNT, num_edges, 14)
    assert net.xs.dtype == net.baselines.dtype == bonds.dtype == np.float32
    for indices in (source, target, reverse):
        assert indices.shape == (COUNT, num_edges) and indices.dtype == np.int32
    assert atom_mask.dtype == edge_mask.dtype == np.bool_
    # Padded to the largest, and no further.
    assert atom_mask.sum(1).max() == num_atoms <= 40 and edge_mask.sum(1).max() == num_edges
    assert COUNT == len(set(network.DRUGS)) >= 24 and network.DRUGS[0] == "Terfenadine"


def test_approved_drugs_have_the_same_shapes(net):
    approved = network.load_approved(5)
    for array, other in zip((approved.xs, *approved.extras), (net.xs, *net.extras), strict=True):
        assert array.shape == (5, *other.shape[1:]) and array.dtype == other.dtype
    with pytest.raises(ValueError, match="such drugs"):
        network.load_approved(10_000)


def test_fewer_drugs_have_the_same_shapes(net):
    few = network.load(2)
    for array, others in zip((few.xs, *few.extras), (net.xs, *net.extras), strict=True):
        np.testing.assert_array_equal(array, others[:2])
    with pytest.raises(ValueError, match=f"there are {COUNT} drugs"):
        network.load(COUNT + 1)


def test_the_first_of_five_is_near_the_mean_of_five(net):
    drugs = dmpnn.drugs()
    f = jax.jit(jax.vmap(net.outputs["probability"], in_axes=(None, *[0] * 7)))
    expected = [drugs[name].predictions["hERG"] for name in network.DRUGS]
    found = f(net.params, net.xs, *net.extras)
    assert np.mean(np.abs(found - np.asarray(expected))) < 0.05
    # Zeros for atoms are no blocker, so that terfenadine's attributions have something to explain.
    at_baseline = f(net.params, net.baselines, *net.extras)
    assert found[0] - at_baseline[0] > 0.8


@pytest.mark.parametrize("output", ["probability", "logit"])
def test_the_twin_agrees_along_the_path(net, twins, output):
    in_jax = over_points(net, output, None)
    for i in range(3):
        points, extras = ALPHAS[:, None, None] * net.xs[i][None], [e[i] for e in net.extras]
        expected = in_jax(net.params, points, *extras)
        shared = [extra[None] for extra in extras]
        assert_close(values_and_gradients(twins[output], points, shared), expected)


@pytest.mark.parametrize("output", ["probability", "logit"])
def test_the_twin_agrees_where_each_row_has_its_own_graph(net, twins, output):
    expected = over_points(net, output, 0)(net.params, net.xs, *net.extras)
    assert_close(values_and_gradients(twins[output], net.xs, net.extras), expected)


def test_float64(net):
    x, *extras = net.xs[0], *(extra[0] for extra in net.extras)
    single = jax.jit(net.outputs["logit"])(net.params, x, *extras)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), net.params)
        double = jax.jit(net.outputs["logit"])(params, np.float64(x), *extras)
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-5)
