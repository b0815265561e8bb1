"""Whether functions mix entries, by their equations and by their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax import baselines
from igjax._jaxpr.elementwise import mixing

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
APART = {
    "zeros": baselines.zeros,
    "constant": baselines.constant(0.5),
    "farthest": baselines.farthest(-1.0, 1.0),
    "gaussian": baselines.gaussian(jax.random.key(0), 0.1),
    "uniform": baselines.uniform(jax.random.key(0)),
    "where": lambda x: jnp.where((x > 0) & ~(x >= 1), jnp.tanh(x), x * 2),
    "jit": jax.jit(lambda x: jnp.clip(x, -0.1, 0.1)),
    "relu": jax.nn.relu,
    "stopped": lambda x: jax.lax.stop_gradient(x) * x,
    "weights": lambda x: x * jnp.arange(4.0)[None, :],
    "of the shape": lambda x: jnp.full_like(x, x.shape[0]),
}
MIXED = {
    "mean": (lambda x: jnp.full_like(x, jnp.mean(x)), "reduce_sum"),
    "blurred": (baselines.blurred(1.0), None),
    "reversed": (lambda x: x[::-1], "rev"),
    "swapped": (lambda x: jnp.swapaxes(x.reshape(2, 6), 0, 1).reshape(3, 4), "reshape"),
    "sorted": (lambda x: jnp.sort(x, axis=0), "sort"),
    "first": (lambda x: jnp.zeros_like(x) + x[:1], None),
    "in jit": (jax.jit(lambda x: jnp.cumsum(x, axis=0)), "cumsum"),
    "product": (lambda x: x @ jnp.ones((4, 4)), "dot_general"),
    "a loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.flip(y), x), None),
    "a softmax": (jax.nn.softmax, None),
}


def off_diagonal(fun) -> float:
    jacobian = jax.jacrev(fun)(X).reshape(X.size, X.size)
    return float(jnp.max(jnp.abs(jacobian - jnp.diag(jnp.diag(jacobian)))))


@pytest.mark.parametrize("name", APART)
def test_what_treats_each_entry_by_itself(name):
    assert mixing(jax.make_jaxpr(APART[name])(X)) is None
    assert off_diagonal(APART[name]) == 0.0


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_entries(name):
    fun, primitive = MIXED[name]
    found = mixing(jax.make_jaxpr(fun)(X))
    assert found == primitive if primitive else found
    assert off_diagonal(fun) > 0.0


def test_an_entry_is_in_the_same_place_of_two_arguments():
    assert mixing(jax.make_jaxpr(lambda b, x: b + 0.5 * (x - b))(X, X)) is None
    assert mixing(jax.make_jaxpr(lambda b, x: b[:, :1] * x)(X, X)) is not None
