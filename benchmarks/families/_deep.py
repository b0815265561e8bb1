"""Networks of many steps: recurrent ones, neural ODEs, residual stacks, attention, convolutions."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.families._dense import layer_norm
from benchmarks.families._kind import Kind, Make, Member, from_zero, normal, weights
from benchmarks.families._trained import trained


def _last(step: Callable[[Any, jax.Array], Any], start: Any, xs: jax.Array) -> Any:
    """Returns what a recurrence ends with."""
    return jax.lax.scan(lambda state, x: (step(state, x), None), start, xs)[0]


def _tanh_rnn(params: Any, xs: jax.Array) -> jax.Array:
    into, recurrent, readout = params
    step = lambda h, x: jnp.tanh(x @ into + h @ recurrent)
    start = jnp.zeros(len(recurrent), xs.dtype)
    return jax.nn.sigmoid((_last(step, start, xs) + _last(step, start, xs[::-1])) @ readout)


def _drawn_rnn(gain: float, rng: np.random.Generator) -> Member:
    width, inputs = 16, 7
    params = (
        normal(rng, inputs, width, scale=0.5),
        weights(rng, width, width, gain),
        normal(rng, width, scale=0.5),
    )
    return from_zero(params, normal(rng, 30, inputs))


def _gru(params: Any, xs: jax.Array) -> jax.Array:
    into, recurrent, bias, readout = params
    width = len(recurrent)

    def step(h: jax.Array, x: jax.Array) -> jax.Array:
        update_x, reset_x, new_x = jnp.split(x @ into + bias, 3)
        update_h, reset_h, new_h = jnp.split(h @ recurrent, 3)
        update, reset = jax.nn.sigmoid(update_x + update_h), jax.nn.sigmoid(reset_x + reset_h)
        return (1 - update) * jnp.tanh(new_x + reset * new_h) + update * h

    return _last(step, jnp.zeros(width, xs.dtype), xs) @ readout


def _lstm(params: Any, xs: jax.Array) -> jax.Array:
    into, recurrent, bias, readout = params
    nothing = jnp.zeros(len(recurrent), xs.dtype)

    def step(state: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h, cell = state
        take, keep, new, give = jnp.split(x @ into + h @ recurrent + bias, 4)
        cell = jax.nn.sigmoid(keep + 1) * cell + jax.nn.sigmoid(take) * jnp.tanh(new)
        return jax.nn.sigmoid(give) * jnp.tanh(cell), cell

    return _last(step, (nothing, nothing), xs)[0] @ readout


def _drawn_gated(gates: int, gain: float, rng: np.random.Generator) -> Member:
    width, inputs = 12, 6
    params = (
        weights(rng, inputs, gates * width, 1.5),
        weights(rng, width, gates * width, gain),
        normal(rng, gates * width, scale=0.2),
        normal(rng, width),
    )
    return from_zero(params, normal(rng, 20, inputs))


RECURRENT = (
    *(
        Kind(f"tanh, gain {gain:g}", _tanh_rnn, functools.partial(_drawn_rnn, gain))
        for gain in (0.9, 1.0, 1.1, 1.2, 1.3)
    ),
    Kind("GRU", _gru, functools.partial(_drawn_gated, 3, 1.5)),
    Kind("GRU, gain 3", _gru, functools.partial(_drawn_gated, 3, 3.0)),
    Kind("LSTM", _lstm, functools.partial(_drawn_gated, 4, 2.0)),
)
TRAINED = (
    trained(RECURRENT[0], (0.0, 1.0)),
    trained(RECURRENT[5], (-3.0, 3.0)),
    trained(RECURRENT[7], (-1.0, 1.0)),
)


def _ode(params: Any, x: jax.Array) -> jax.Array:
    matrix, bias, readout = params
    euler = lambda h, _: h + 0.1 * jnp.tanh(h @ matrix + bias)
    return _last(euler, x, jnp.zeros((40, 0), x.dtype)) @ readout


def _drawn_ode(rng: np.random.Generator) -> Member:
    params = weights(rng, 12, 12, 1.5), normal(rng, 12, scale=0.3), normal(rng, 12)
    return from_zero(params, normal(rng, 12))


def _residual(activation: Callable[[jax.Array], jax.Array], params: Any, x: jax.Array) -> jax.Array:
    *stacked, readout = params

    def block(h: jax.Array, own: Any) -> tuple[jax.Array, None]:
        expand, contract, bias = own
        return h + activation(h @ expand + bias) @ contract, None

    return jax.lax.scan(block, x, tuple(stacked))[0] @ readout


def _drawn_residual(rng: np.random.Generator) -> Member:
    depth, width = 24, 16
    stacked = (
        np.stack([weights(rng, width, 2 * width, 1.4) for _ in range(depth)]),
        np.stack([weights(rng, 2 * width, width, 0.5) for _ in range(depth)]),
        normal(rng, depth, 2 * width, scale=0.1),
    )
    return from_zero((*stacked, normal(rng, width)), normal(rng, width))


DEEP = (
    Kind("neural ODE", _ode, _drawn_ode),
    Kind("residual, GELU", functools.partial(_residual, jax.nn.gelu), _drawn_residual),
    Kind("residual, ReLU", functools.partial(_residual, jax.nn.relu), _drawn_residual),
)


def _transformer(params: Any, x: jax.Array) -> jax.Array:
    """Computes a pre-norm block, of a head, and a mean over tokens."""
    if "positions" in params:
        x = x + params["positions"]
    query, key, value = jnp.split(layer_norm(x, 1e-5) @ params["project_in"], 3, axis=-1)
    mixed = jax.nn.softmax(query @ key.T / x.shape[-1] ** 0.5) @ value
    x = x + mixed @ params["project_out"]
    x = x + jax.nn.gelu(layer_norm(x, 1e-5) @ params["expand"]) @ params["contract"]
    return jnp.mean(layer_norm(x, 1e-5), axis=0) @ params["readout"]


def _drawn_transformer(kept: tuple[int, ...], positions: bool, rng: np.random.Generator) -> Member:
    """Draws a block; at the baseline all tokens are zero, but for those that are kept."""
    length, width = 10, 16
    params = {
        "project_in": weights(rng, width, 3 * width, 1.5),
        "project_out": weights(rng, width, width),
        "expand": weights(rng, width, 4 * width),
        "contract": weights(rng, 4 * width, width),
        "readout": normal(rng, width),
    }
    if positions:
        params["positions"] = normal(rng, length, width)
    member = from_zero(params, normal(rng, length, width))
    member.baseline[list(kept)] = member.x[list(kept)]
    return member


ATTENTION = (Kind("with positions", _transformer, functools.partial(_drawn_transformer, (), True)),)
PADDED = (
    Kind("all tokens", _transformer, functools.partial(_drawn_transformer, (), False)),
    Kind("but the ends", _transformer, functools.partial(_drawn_transformer, (0, -1), False)),
)


def _convolutional(
    activation: Callable[[jax.Array], jax.Array],
    norm: Callable[[jax.Array], jax.Array],
    params: Any,
    image: jax.Array,
) -> jax.Array:
    x = image[None]
    *layers, readout = params
    for number, (kernel, bias) in enumerate(layers):
        strides = (2, 2) if number else (1, 1)
        x = jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = activation(x + bias[None, None, None])
        x = x if number else norm(x)
    return jnp.mean(x, axis=(0, 1, 2)) @ readout


def _drawn_convolutional(biased: bool) -> Make:
    def make(rng: np.random.Generator) -> Member:
        widths = (3, 8, 16, 16)
        layers = [
            (
                normal(rng, 3, 3, *pair, scale=np.sqrt(2 / (9 * pair[0]))),
                normal(rng, pair[1], scale=0.2 if biased else 0.0),
            )
            for pair in itertools.pairwise(widths)
        ]
        image = rng.uniform(size=(12, 12, 3)).astype(np.float32)
        return from_zero([*layers, weights(rng, widths[-1], 1)[:, 0]], image)

    return make


def _same(x: jax.Array) -> jax.Array:
    return x


CONVOLUTIONAL = tuple(
    Kind(name, functools.partial(_convolutional, activation, _same), _drawn_convolutional(True))
    for name, activation in (("GELU", jax.nn.gelu), ("ReLU", jax.nn.relu))
)
CONVOLUTIONAL_NORM = (
    Kind(
        "convolutions, layer norm",
        functools.partial(_convolutional, jax.nn.gelu, functools.partial(layer_norm, epsilon=1e-6)),
        _drawn_convolutional(False),
    ),
)
