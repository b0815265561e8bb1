"""Means, maps and walks over pytrees of nodes, against plain NumPy, in chunks and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from igjax._engine import chunks
from igjax._sharding import node_sharding

N = 13


def nodes(n: int = N) -> dict[str, jax.Array]:
    """Keys, baselines and alphas together."""
    rng = np.random.default_rng(n)
    return {
        "key": jax.random.split(jax.random.key(0), n),
        "baseline": jnp.asarray(rng.normal(size=(n, 3)), jnp.float32),
        "alpha": jnp.asarray(rng.uniform(size=n), jnp.float32),
    }


def fun(node: dict[str, jax.Array], scale: jax.Array | float = 1.0) -> dict[str, jax.Array]:
    noise = jax.random.normal(node["key"], (3,))
    point = scale * node["alpha"] * (node["baseline"] + noise)
    return {"a": jnp.sin(point), "b": jnp.sum(point) + 100.0}


def one_by_one(scale: float = 1.0, n: int = N) -> list[dict[str, jax.Array]]:
    every = nodes(n)
    return [fun(jax.tree.map(lambda leaf, k=k: leaf[k], every), scale) for k in range(n)]


def zeros() -> dict[str, jax.Array]:
    return {"a": jnp.zeros(3), "b": jnp.zeros(())}


@pytest.fixture(params=[None, 2, 8])
def sharding(request: pytest.FixtureRequest):
    """One device, two or eight."""
    if request.param is None:
        return None
    mesh = jax.make_mesh((request.param,), ("nodes",), axis_types=(AxisType.Auto,))
    return node_sharding(NamedSharding(mesh, PartitionSpec("nodes")))


@pytest.mark.parametrize("batch_size", [None, 1, 4, 13, 20])
def test_sums_of_pytrees(batch_size, sharding):
    weights = np.random.default_rng(1).uniform(size=(2, N)).astype(np.float32)
    found = jax.jit(
        lambda nodes, weights: chunks.weighted_sum(fun, nodes, weights, zeros, batch_size, sharding)
    )(nodes(), weights)
    for name in ("a", "b"):
        values = np.stack([np.asarray(v[name], np.float64) for v in one_by_one()])
        expected = np.tensordot(weights.astype(np.float64), values, 1)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_means_with_standard_errors(batch_size, sharding):
    found = jax.jit(lambda nodes: chunks.mean(fun, nodes, zeros, batch_size, sharding))(nodes())
    for name in ("a", "b"):
        values = np.stack([np.asarray(v[name], np.float64) for v in one_by_one()])
        np.testing.assert_allclose(found.mean[name], values.mean(0), rtol=1e-5, atol=1e-6)
        # That of b is small beside its mean: 100 times eps is what single precision knows of it.
        error = values.std(0, ddof=1) / np.sqrt(N)
        np.testing.assert_allclose(found.standard_error[name], error, rtol=2e-5)


def test_the_mean_of_one_and_of_equals():
    one = chunks.mean(fun, nodes(1), zeros)
    assert np.isnan(one.standard_error["a"]).all()
    np.testing.assert_allclose(one.mean["a"], one_by_one(n=1)[0]["a"], rtol=1e-6)
    same = lambda scale: chunks.mean(
        lambda _: scale * jnp.ones(2), nodes(), lambda: jnp.zeros(2), 4
    )
    np.testing.assert_array_equal(same(2.0).standard_error, 0.0)
    slope = jax.grad(lambda s: jnp.sum(same(s).mean + same(s).standard_error))(2.0)
    np.testing.assert_allclose(slope, 2.0, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_maps(batch_size, sharding):
    found = jax.jit(lambda nodes: chunks.mapped(fun, nodes, batch_size, sharding))(nodes())
    for name in ("a", "b"):
        expected = np.stack([v[name] for v in one_by_one()])
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)


def test_walks():
    def step(state, node):
        return jnp.tanh(state + node["alpha"] * node["baseline"])

    found = jax.jit(lambda nodes: chunks.walk(step, jnp.zeros(3), nodes))(nodes())
    expected = np.zeros(3)
    for alpha, baseline in zip(nodes()["alpha"], nodes()["baseline"], strict=True):
        expected = np.tanh(expected + np.float64(alpha) * np.asarray(baseline, np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["sum", "mean", "standard error", "map", "walk"])
def test_derivatives_in_chunks_and_over_devices(kind, sharding):
    def total(scale):
        of = lambda node: fun(node, scale)
        if kind == "sum":
            weights = jnp.full(N, 1 / N)
            found = chunks.weighted_sum(of, nodes(), weights, zeros, 4, sharding)["a"]
        elif kind == "walk":
            found = chunks.walk(lambda state, node: state + of(node)["a"], jnp.zeros(3), nodes())
        elif kind == "map":
            found = chunks.mapped(of, nodes(), 4, sharding)["a"]
        else:
            moments = chunks.mean(of, nodes(), zeros, 4, sharding)
            found = (moments.mean if kind == "mean" else moments.standard_error)["a"]
        return jnp.sum(found**2)

    def by_hand(scale):
        every = jax.vmap(lambda node: fun(node, scale))(nodes())["a"]
        found = {
            "sum": every.mean(0),
            "mean": every.mean(0),
            "standard error": every.std(0, ddof=1) / np.sqrt(N),
            "map": every,
            "walk": every.sum(0),
        }[kind]
        return jnp.sum(found**2)

    scale = jnp.float32(0.7)
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(scale), jax.jit(jax.grad(by_hand))(scale), rtol=2e-5
    )


def test_memory_does_not_grow_with_the_number_of_nodes():
    wide = lambda node: jnp.sin(node["alpha"] * jnp.arange(10_000.0))

    def peak(n, reduce):
        program = jax.jit(reduce).lower(nodes(n)).compile()
        return program.memory_analysis().temp_size_in_bytes

    def average(nodes):
        return chunks.mean(wide, nodes, lambda: jnp.zeros(10_000), 8)

    assert peak(256, average) <= 1.05 * peak(64, average) + 192 * 64
