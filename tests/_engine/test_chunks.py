"""The engine against a plain NumPy sum, for every number of nodes and chunk size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from igjax._engine import chunks

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32) / 3


def zeros(fun):
    """Makes zeros like what ``fun`` returns."""
    like = jax.eval_shape(fun, jnp.float32(0))
    return lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def weights_for(n: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(0.5, 1.5, size=(2, n)).astype(np.float32)


def tree(alpha: jax.Array) -> dict[str, jax.Array]:
    return {"a": jnp.sin(alpha * jnp.arange(3.0)), "b": alpha**2}


def convolution(alpha: jax.Array) -> jax.Array:
    image = alpha * jnp.arange(64.0).reshape(1, 4, 8, 2) / 32
    maps = jax.lax.conv_general_dilated(
        image, jnp.asarray(KERNEL), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(maps[0])


@pytest.mark.parametrize("fun", [tree, convolution])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 12])
def test_equals_a_numpy_sum_for_every_batch_size(fun, n):
    nodes, weights = np.linspace(0, 1, n, dtype=np.float32), weights_for(n)
    values = [fun(node) for node in nodes]
    expected = jax.tree.map(
        lambda *leaves: np.tensordot(weights.astype(np.float64), np.stack(leaves), 1), *values
    )
    for size in [None, *range(1, n + 2)]:

        @jax.jit
        def total(nodes, weights, size=size):
            return chunks.weighted_sum(fun, nodes, weights, zeros(fun), size)

        result = total(nodes, weights)
        jax.tree.map(lambda r, e: np.testing.assert_allclose(r, e, rtol=1e-5), result, expected)


def test_counts_every_node_once_and_no_other():
    seen = []

    def watched(alpha):
        jax.debug.callback(lambda alpha: seen.extend(np.ravel(alpha).tolist()), alpha)
        return alpha

    nodes = jnp.arange(1.0, 24.0)
    chunks.weighted_sum(watched, nodes, jnp.ones((1, 23)), lambda: jnp.zeros(()), 5)
    jax.effects_barrier()
    assert sorted(seen) == list(range(1, 24))


def peak_memory(n: int, batch_size: int, fun) -> int:
    nodes, weights = jnp.linspace(0, 1, n), jnp.ones((1, n)) / n

    def total(scale):
        return chunks.weighted_sum(lambda a: fun(scale * a), nodes, weights, zeros(fun), batch_size)

    return jax.jit(total).lower(jnp.float32(1)).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "fun",
    [
        lambda a: jnp.sin(a * jnp.arange(10_000.0)),
        convolution,
        # The first leaf is known before any chunk is.
        lambda a: {"a": jnp.ones(3), "b": convolution(a)},
    ],
)
def test_memory_does_not_grow_with_the_number_of_nodes(fun):
    of_their_own = 224 * 16  # nodes, weights, and a flag for each chunk
    assert peak_memory(256, 8, fun) <= 1.05 * peak_memory(32, 8, fun) + of_their_own


def test_chunks_share_what_a_batch_shares():
    def flops(batch_size):
        def total(scale):  # one convolution for all of the batch
            nodes, weights = jnp.linspace(0, 1, 64), jnp.ones((1, 64))
            return chunks.weighted_sum(
                lambda a: scale * convolution(a), nodes, weights, zeros(convolution), batch_size
            )

        compiled = jax.jit(jax.vmap(total)).lower(jnp.ones(10)).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(8) < 1.2 * flops(None)


def test_memory_of_the_gradient_is_that_of_one_chunk():
    nodes = jnp.linspace(0, 1, 256)
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(512, 512)), jnp.float32) / 16

    def loss(x, batch_size):
        fun = lambda a: jnp.tanh(matrix @ jnp.tanh(matrix @ jnp.tanh(matrix @ (a * x))))
        return jnp.sum(chunks.weighted_sum(fun, nodes, jnp.ones((1, 256)), zeros(fun), batch_size))

    def memory(batch_size):
        gradient = jax.jit(jax.grad(loss), static_argnums=1).lower(jnp.ones(512), batch_size)
        return gradient.compile().memory_analysis().temp_size_in_bytes

    assert memory(8) < memory(None) / 4


@pytest.mark.parametrize("batch_size", [None, 3])
def test_half_precision_is_summed_in_single(batch_size):
    n = 2048  # a bfloat16 sum of ones stops growing at 256
    one = lambda _: jnp.ones((), jnp.bfloat16)
    total = chunks.weighted_sum(one, jnp.zeros(n), jnp.ones((1, n)), zeros(one), batch_size)
    assert total.dtype == jnp.float32
    assert float(total[0]) == n


@pytest.mark.parametrize("fun", [jnp.sqrt, lambda a: jnp.sqrt(a) + 0 * convolution(a)])
def test_nan_reaches_the_result_and_stays_in_its_element(fun):
    nodes, weights = jnp.linspace(-0.1, 1, 12), jnp.ones((1, 12))
    pair = lambda a: {"bad": fun(a), "good": a}
    total = jax.jit(lambda: chunks.weighted_sum(pair, nodes, weights, zeros(pair), 4))()
    assert np.isnan(total["bad"]).all()
    assert_close(total["good"], 12 * 0.45)
