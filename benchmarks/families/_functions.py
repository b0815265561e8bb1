"""Functions that are steep, saw-toothed or singular on purpose: most have closed forms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.families._dense import drawn, network
from benchmarks.families._kind import Kind, Make, Member, from_zero, normal


def _log(x: jax.Array) -> jax.Array:
    return jnp.log(x + 1e-3)


def _drawn_logs(rng: np.random.Generator) -> Member:
    return from_zero(normal(rng, 8), rng.uniform(0.1, 1.0, 8).astype(np.float32))


def _of_size(make: Make) -> Make:
    """Returns ``make`` with inputs that are not negative."""

    def sized(rng: np.random.Generator) -> Member:
        member = make(rng)
        return member._replace(x=np.abs(member.x))

    return sized


LOG = (
    Kind("a sum of logs", lambda _, x: jnp.sum(_log(x)), _drawn_logs),
    Kind("a weighted sum", lambda params, x: params @ _log(x), _drawn_logs),
    Kind("logs into tanh", network(jnp.tanh, _log), _of_size(drawn(gain=1.0))),
)


def _positional(octaves: int, x: jax.Array) -> jax.Array:
    angles = x[:, None] * jnp.asarray(2.0 ** np.arange(octaves), x.dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).ravel()


def _drawn_positional(octaves: int, rng: np.random.Generator) -> Member:
    member = drawn((6 * octaves, 32, 1), gain=1.0)(rng)
    return from_zero(member.params, rng.uniform(-np.pi, np.pi, 3).astype(np.float32))


POSITIONAL = tuple(
    Kind(
        f"{octaves} octaves into {name}",
        network(activation, functools.partial(_positional, octaves)),
        functools.partial(_drawn_positional, octaves),
    )
    for octaves in (4, 6)
    for name, activation in (("tanh", jnp.tanh), ("ReLU", jax.nn.relu))
)


def _layer(width: float, params: Any, x: jax.Array) -> jax.Array:
    """Computes a step of a width, at a place of the path, and something smooth beside it."""
    direction, place, other = params
    return jnp.tanh((direction @ x - place) / width) + 0.5 * jnp.tanh(other @ x)


def _drawn_layer(place: Callable[[np.random.Generator], float]) -> Make:
    def make(rng: np.random.Generator) -> Member:
        where, x = place(rng), rng.uniform(0.5, 1.5, 6).astype(np.float32)
        direction = np.abs(normal(rng, 6)) + np.float32(0.1)
        direction /= direction @ x  # so that it meets the point at alpha with alpha
        return from_zero((direction, np.float32(where), normal(rng, 6)), x)

    return make


def _place(member: Member) -> tuple[float, ...]:
    return (float(member.params[1]),)


_PLACES: dict[str, Callable[[np.random.Generator], float]] = {
    "start": lambda _: 0.0,
    "end": lambda _: 1.0,
    "middle": lambda rng: float(rng.uniform(0.2, 0.8)),
}
LAYERS = {
    place: tuple(
        Kind(f"width {width:g}", functools.partial(_layer, width), _drawn_layer(draw), steep=_place)
        for width in (1e-1, 1e-2, 1e-3, 1e-4)
    )
    for place, draw in _PLACES.items()
}


def _cancelling(params: Any, x: jax.Array) -> jax.Array:
    """Computes two steps that leave no trace in the value, but in the attributions."""
    slope, start = params
    one, other = slope * (x - start)[:2]
    return jnp.tanh(one) - jnp.tanh(other) + jnp.tanh(x[2])


def _drawn_cancelling(at_end: bool, rng: np.random.Generator) -> Member:
    x = (np.array([1.0, 0.9, 0.5]) * rng.uniform(0.8, 1.2, 3)).astype(np.float32)
    slope = np.float32(10 ** rng.uniform(1.5, 3.5))
    return from_zero((slope, x if at_end else np.zeros_like(x)), x)


CANCELLING = (
    Kind("at the start", _cancelling, functools.partial(_drawn_cancelling, False)),
    Kind("at the end", _cancelling, functools.partial(_drawn_cancelling, True)),
)


def _drawn_step(rng: np.random.Generator) -> Member:
    slope, place = np.float32(10 ** rng.uniform(3, 6)), np.float32(rng.uniform(0.1, 0.9))
    return from_zero((slope, place), rng.uniform(0.5, 1.5, 2).astype(np.float32))


STEP = (
    Kind(
        "a steep sigmoid",
        lambda params, x: jax.nn.sigmoid(params[0] * (jnp.sum(x) - params[1])),
        _drawn_step,
        steep=lambda member: (float(member.params[1] / member.x.sum()),),
    ),
)


def _beat(frequency: Any, x: jax.Array) -> jax.Array:
    return jnp.sin(jnp.pi * frequency * (x[0] + x[1])) * (x[0] - x[1])


def _drawn_beat(rng: np.random.Generator) -> Member:
    frequency = np.float32(2.0 ** rng.integers(4, 7))
    return from_zero(frequency, np.array([1.0, rng.uniform(0.9, 1.1)], np.float32))


def _wave(params: Any, x: jax.Array) -> jax.Array:
    direction, frequency, other = params
    return jnp.sin(frequency * (direction @ x)) + jnp.tanh(other @ x)


def _drawn_wave(rng: np.random.Generator) -> Member:
    params = normal(rng, 8), np.float32(rng.uniform(2.5, 30.0)), normal(rng, 8)
    return from_zero(params, normal(rng, 8))


ALIASING = (Kind("waves of 16, 32 and 64 periods", _beat, _drawn_beat),)
OSCILLATING = (Kind("a wave", _wave, _drawn_wave),)
