"""Dense networks: plain, normalised, saturated, of unscaled inputs, in bfloat16."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.families._kind import Kind, Make, Member, from_zero, normal, weights

Function = Callable[[Any, jax.Array], jax.Array]
_SIZES = (32, 64, 32, 1)
_CLASSES = (32, 64, 32, 10)


def layer_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns ``x`` less its mean, over its standard deviation."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return rms_norm(x, epsilon)


def rms_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns ``x`` over the root of its mean square."""
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def l2_norm(x: jax.Array) -> jax.Array:
    """Returns ``x`` over its length, as embedding models do."""
    return x / (jnp.sqrt(jnp.sum(x * x) + 1e-12) + 1e-6)


def network(
    activation: Callable[[jax.Array], jax.Array],
    first: Callable[[jax.Array], jax.Array] = lambda x: x,
    last: Callable[[jax.Array], jax.Array] = lambda y: y[0],
) -> Function:
    """Makes a dense network; ``first`` comes before it, ``last`` after it."""

    def fun(params: Any, x: jax.Array) -> jax.Array:
        *hidden, (kernel, bias) = params
        x = first(x)
        for inner, offset in hidden:
            x = activation(x @ inner + offset)
        return last(x @ kernel + bias)

    return fun


def drawn(
    sizes: Sequence[int] = _SIZES, gain: float = 1.5, scale: float = 1.0, start: float = 0.0
) -> Make:
    """Makes members: weights of a gain, inputs of a scale, a constant baseline."""

    def make(rng: np.random.Generator) -> Member:
        pairs = itertools.pairwise(sizes)
        params = [(weights(rng, *pair, gain), normal(rng, pair[1], scale=0.3)) for pair in pairs]
        x = normal(rng, sizes[0], scale=scale)
        return Member(params, x, np.full_like(x, start))

    return make


def _after_layer_norm(epsilon: float) -> Function:
    return network(jnp.tanh, functools.partial(layer_norm, epsilon=epsilon))


def _residual(params: Any, x: jax.Array) -> jax.Array:
    expand, contract, readout = params
    mixed = x + contract @ jax.nn.silu(expand @ rms_norm(x, 1e-6))
    return readout @ rms_norm(mixed, 1e-6)


def _drawn_residual(rng: np.random.Generator) -> Member:
    params = normal(rng, 64, 32, scale=0.2), normal(rng, 32, 64, scale=0.125), normal(rng, 32)
    return from_zero(params, normal(rng, 32))


def _cosine(other: Any, x: jax.Array) -> jax.Array:
    length = jnp.sqrt(jnp.sum(x * x) + 1e-30)
    return x @ other / (length + 1e-6) / jnp.sqrt(jnp.sum(other * other))


def _drawn_pair(rng: np.random.Generator) -> Member:
    return from_zero(normal(rng, 64), normal(rng, 64))


def _probability(scale: float, y: jax.Array) -> jax.Array:
    return jax.nn.softmax(scale * y)[0]


def _in_half(fun: Function) -> Function:
    """Returns ``fun`` as it is with parameters and activations in bfloat16."""

    def half(leaf: Any) -> jax.Array:
        return jnp.asarray(leaf).astype(jnp.bfloat16)

    return lambda params, x: fun(jax.tree.map(half, params), half(x)).astype(x.dtype)


def _rounded(fun: Function) -> Function:
    """Returns ``fun`` of the parameters that ``_in_half`` has, without other rounding."""

    def rounded(params: Any, x: jax.Array) -> jax.Array:
        half = lambda leaf: jnp.asarray(leaf).astype(jnp.bfloat16).astype(x.dtype)
        return fun(jax.tree.map(half, params), x)

    return rounded


def _half(name: str, fun: Function, make: Make) -> Kind:
    return Kind(name, _in_half(fun), make, exact=_rounded(fun))


_tanh, _gelu, _relu = map(network, (jnp.tanh, jax.nn.gelu, jax.nn.relu))

PLAIN = (
    Kind("tanh", _tanh, drawn()),
    Kind("GELU", _gelu, drawn()),
    Kind("ReLU", _relu, drawn()),
    Kind("ReLU, deep and narrow", _relu, drawn((8,) * 9 + (1,))),
)
LAYER_NORM = tuple(
    Kind(f"layer norm, epsilon {epsilon:g}", _after_layer_norm(epsilon), drawn(gain=1.0))
    for epsilon in (1e-5, 1e-6, 1e-12)
)
RMS_NORM = (
    Kind(
        "RMS norm",
        network(jax.nn.silu, functools.partial(rms_norm, epsilon=1e-6)),
        drawn(gain=1.0),
    ),
    Kind("RMS norms, residual", _residual, _drawn_residual),
)
L2_NORM = (Kind("L2 norm", network(jnp.tanh, l2_norm), drawn(gain=2.0)),)
COSINE = (Kind("cosine", _cosine, _drawn_pair),)
SATURATED = tuple(
    Kind(
        f"{name}, logits times {scale}",
        network(activation, last=functools.partial(_probability, scale)),
        drawn(_CLASSES),
    )
    for scale in (1, 3, 10, 30)
    for name, activation in (("GELU", jax.nn.gelu), ("ReLU", jax.nn.relu))
)
UNSCALED = (
    Kind("tanh of 255 N(0, 1)", _tanh, drawn(gain=1.0, scale=255.0)),
    Kind("GELU of 255 N(0, 1)", _gelu, drawn(gain=1.0, scale=255.0)),
)
FAR = (
    Kind("tanh from 100", _tanh, drawn(gain=1.0, start=100.0)),
    Kind("GELU from 100", _gelu, drawn(gain=1.0, start=100.0)),
)
HALF = (
    _half("GELU", _gelu, drawn()),
    _half("ReLU", _relu, drawn()),
    _half("GELU from 100", _gelu, drawn(gain=1.0, start=100.0)),
    _half("layer norm", _after_layer_norm(1e-6), drawn(gain=1.0)),
)
