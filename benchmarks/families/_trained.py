"""Recurrent networks that have learnt something: their saturated states are what error bars meet.

The task is to add up: whether the first feature of a random sequence sums to more than zero.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.families._kind import Kind, Make, Member, from_zero

_UPDATES, _BATCH, _RATE = 400, 64, 0.005


def trained(kind: Kind, values: tuple[float, float]) -> Kind:
    """Returns a kind whose members are trained.

    Args:
      kind: of recurrent networks.
      values: what a member is to return for a sum below zero, and above.
    """
    return kind._replace(
        name=f"{kind.name}, trained", make=functools.partial(_make, kind.fun, kind.make, values)
    )


def _make(
    fun: Callable[[Any, Any], Any],
    make: Make,
    values: tuple[float, float],
    rng: np.random.Generator,
) -> Member:
    start = make(rng)
    key = jax.random.key(int(rng.integers(2**31)))
    with jax.numpy_dtype_promotion("standard"):  # that Optax relies on
        params = _train(fun, values, start.x.shape, start.params, key)
    return from_zero(jax.tree.map(np.asarray, params), start.x)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    fun: Callable[[Any, Any], Any],
    values: tuple[float, float],
    shape: tuple[int, ...],
    params: Any,
    key: jax.Array,
) -> Any:
    """Returns parameters that were fitted to the task, by least squares."""
    optimizer = optax.adam(_RATE)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        xs = jax.random.normal(key, (_BATCH, *shape))
        wanted = jnp.where(xs[:, :, 0].sum(axis=1) > 0, values[1], values[0])
        return jnp.mean((jax.vmap(functools.partial(fun, params))(xs) - wanted) ** 2)

    def update(state: Any, key: jax.Array) -> tuple[Any, None]:
        params, memory = state
        updates, memory = optimizer.update(jax.grad(loss)(params, key), memory)
        return (optax.apply_updates(params, updates), memory), None

    keys = jax.random.split(key, _UPDATES)
    return jax.lax.scan(update, (params, optimizer.init(params)), keys)[0][0]
