"""A network of three named layers, and the same cut in two by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

RNG = np.random.default_rng(0)
SIZES = (6, 8, 7, 5)
WEIGHTS = [RNG.normal(size=pair) / pair[0] ** 0.5 for pair in itertools.pairwise(SIZES)]
BIASES = [RNG.normal(size=size) for size in SIZES[1:]]
X, START = RNG.normal(size=6), RNG.normal(size=6)


def layer(i: int, h: jax.Array) -> jax.Array:
    return jnp.tanh(h @ jnp.asarray(WEIGHTS[i], h.dtype) + jnp.asarray(BIASES[i], h.dtype))


def readout(h: jax.Array) -> jax.Array:
    return jnp.sum(h**2) + jnp.prod(h[:2])


def network(x: jax.Array) -> jax.Array:
    for i in range(3):
        x = checkpoint_name(layer(i, x), f"layer{i}")
    return readout(x)


def by_hand(i: int):
    """The network in two, after layer ``i``, with no name in it."""

    def head(x):
        for j in range(i + 1):
            x = layer(j, x)
        return x

    def tail(h):
        for j in range(i + 1, 3):
            h = layer(j, h)
        return readout(h)

    return head, tail
