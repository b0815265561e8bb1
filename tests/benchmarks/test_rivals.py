"""Each rival agrees with igjax, given the same rule, on a small network."""

import functools
import importlib

import jax
import numpy as np
import pytest

import igjax
from benchmarks import rivals
from benchmarks.networks import random

NODES = 9


@pytest.fixture(scope="module")
def network():
    return random.mlp(1)


@pytest.fixture(scope="module")
def example(network):
    """x, baseline and extras."""
    return network.xs[0], network.baselines[0], tuple(extra[0] for extra in network.extras)


@pytest.fixture(scope="module")
def probability(network):
    return functools.partial(network.outputs["probability"], network.params)


@pytest.fixture
def torch_probability(network):
    pytest.importorskip("torch", reason="torch is in the extra bench")
    return network.torch_outputs()["probability"]


@pytest.fixture
def allow_rank_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


def need(package):
    pytest.importorskip(package, reason=f"{package} is in the extra bench")


def assert_agrees(attributions, probability, example, rule):
    x, baseline, extras = example
    transform = igjax.integrated_grad(probability, baseline=baseline, rule=rule)
    expected = np.asarray(jax.jit(transform)(x, *extras))
    assert type(attributions) is np.ndarray and attributions.dtype == np.float32
    np.testing.assert_allclose(attributions, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("batch_size", [None, 1, 4, NODES])
def test_captum(torch_probability, probability, example, batch_size):
    need("captum")
    attributions = rivals.captum(torch_probability, *example, NODES, batch_size)
    assert_agrees(attributions, probability, example, igjax.quadrature.gauss_legendre(NODES))


@pytest.mark.parametrize("batch_size", [4, 64])
def test_captum_of_a_batch(batch_size):
    need("captum")
    network = random.mlp(3)
    arrays = network.xs, network.baselines, network.extras
    probability = network.torch_outputs()["probability"]
    attributions = rivals.captum_of_batch(probability, *arrays, NODES, batch_size)
    for index, found in enumerate(attributions):
        x, baseline, label = network.xs[index], network.baselines[index], network.extras[0][index]
        one = rivals.captum(probability, x, baseline, (label,), NODES, None)
        np.testing.assert_allclose(found, one, rtol=0, atol=1e-5 * np.abs(one).max())


def test_unifiedig_on_torch(torch_probability, probability, example):
    need("unifiedig")
    attributions = rivals.unifiedig_torch(torch_probability, *example, NODES, None)
    assert_agrees(attributions, probability, example, igjax.quadrature.gauss_legendre(NODES))


@pytest.mark.usefixtures("allow_rank_promotion")
def test_unifiedig_on_jax(probability, example):
    need("unifiedig")
    attributions = rivals.unifiedig_jax(probability, *example, NODES, None)
    assert_agrees(attributions, probability, example, igjax.quadrature.gauss_legendre(NODES))


@pytest.mark.parametrize("batch_size", [1, 4, NODES])
def test_saliency(probability, example, batch_size):
    need("saliency")
    attributions = rivals.saliency(probability, *example, NODES, batch_size)
    both_ends = igjax.quadrature.Rule(np.linspace(0, 1, NODES), np.full(NODES, 1 / NODES))
    assert_agrees(attributions, probability, example, both_ends)


def test_saliency_compiles_once_for_one_function(probability, example):
    need("saliency")
    calls = []

    def traced(x, label):
        calls.append(x.shape)
        return probability(x, label)

    for _ in range(2):
        rivals.saliency(traced, *example, 8, 4)
    assert calls == [(784,)]


def test_another_baseline(torch_probability, probability, example):
    need("captum")
    x, _, extras = example
    example = (x, np.full_like(x, 0.5), extras)
    attributions = rivals.captum(torch_probability, *example, NODES, None)
    assert_agrees(attributions, probability, example, igjax.quadrature.gauss_legendre(NODES))


@pytest.mark.parametrize(
    "rival", [rivals.captum, rivals.unifiedig_torch, rivals.unifiedig_jax, rivals.saliency]
)
def test_a_missing_package_names_the_extra(monkeypatch, example, rival):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        ModuleNotFoundError, match=r'is not installed: pip install "igjax\[bench\]"'
    ):
        rival(lambda x: x.sum(), *example, NODES, 1)
