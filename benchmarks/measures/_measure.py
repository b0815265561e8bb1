"""What the measures have in common."""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import igjax
from benchmarks import networks
from igjax import quadrature

Record = dict[str, Any]
T = TypeVar("T")


class Track(Protocol):
    """Shows how far a loop over ``items`` has got."""

    def __call__(self, items: Iterable[T], description: str) -> Iterable[T]:
        """The items, one after the other."""


class Settings(NamedTuple):
    """How to measure.

    Attributes:
      network: on which network.
      quick: whether to see if it works at all, rather than to measure.
    """

    network: str
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """One of the two."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """Of a timing, at least."""
        return self.pick(9, 3)

    @property
    def seconds(self) -> float:
        """Of a timing, at least."""
        return self.pick(10.0, 0.2)


class Claim(NamedTuple):
    """A figure, and what it is said to be.

    Attributes:
      text: what is claimed of it.
      measured: the figure; None if it could not be measured.
      limit: what it is held against.
      at_least: whether the limit is the least, rather than the most, that it may be.
    """

    text: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it holds."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


class Table(NamedTuple):
    """A table: text as it is to be shown. What stands after the first column is a number."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@functools.lru_cache(maxsize=16)
def load(name: str, count: int) -> networks.Network:
    """A network, its weights in place."""
    network = networks.load(name, count)
    return network._replace(params=jax.device_put(network.params))


def main_output(network: networks.Network) -> Callable[..., Any]:
    """The probability, or what a network has instead."""
    outputs = network.outputs
    return outputs["probability"] if "probability" in outputs else next(iter(outputs.values()))


def example(network: networks.Network, index: int) -> tuple[Any, ...]:
    """An input, its baseline and its extras."""
    return tuple(a[index] for a in (network.xs, network.baselines, *network.extras))


def batch(network: networks.Network, count: int) -> tuple[Any, ...]:
    """The first inputs, their baselines and their extras."""
    return tuple(a[:count] for a in (network.xs, network.baselines, *network.extras))


def mapped(attribute: Callable[..., Any], network: networks.Network) -> Callable[..., Any]:
    """A function of weights and one example, compiled for the weights and a batch of examples."""
    return jax.jit(jax.vmap(attribute, in_axes=(None, 0, 0, *(0 for _ in network.extras))))


def by_igjax(output: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """``integrated_grad`` as a function ``(params, x, baseline, *extras)``."""

    def attribute(params: Any, x: jax.Array, baseline: jax.Array, *extras: jax.Array) -> Any:
        transformed = igjax.integrated_grad(output, argnums=1, baseline=baseline, **settings)
        return transformed(params, x, *extras)

    return attribute


def by_hand(output: Callable[..., Any], rule: quadrature.Rule) -> Callable[..., Any]:
    """The same as one would write it: all gradients at once."""
    nodes, weights = (np.asarray(array, np.float32) for array in rule[:2])
    return functools.partial(_weighted_sum, output, nodes, weights)


def by_loop(
    output: Callable[..., Any], rule: quadrature.Rule, chunk: int
) -> Callable[..., jax.Array]:
    """The same in chunks, each a compiled program that Python calls: straight-line code inside."""
    nodes, weights = (jnp.asarray(array, np.float32) for array in rule[:2])
    starts = range(0, len(nodes), chunk)
    parts = [(nodes[start : start + chunk], weights[start : start + chunk]) for start in starts]

    @jax.jit
    def add(total: jax.Array, nodes: jax.Array, weights: jax.Array, *args: Any) -> jax.Array:
        return total + _weighted_sum(output, nodes, weights, *args)

    def attribute(params: Any, x: jax.Array, *args: Any) -> jax.Array:
        total = jnp.zeros_like(x)
        for part in parts:
            total = add(total, *part, params, x, *args)
        return total

    return attribute


def _weighted_sum(
    output: Callable[..., Any],
    nodes: Any,
    weights: Any,
    params: Any,
    x: jax.Array,
    baseline: jax.Array,
    *extras: jax.Array,
) -> jax.Array:
    def gradient(alpha: jax.Array) -> jax.Array:
        return jax.grad(output, argnums=1)(params, baseline + alpha * (x - baseline), *extras)

    return jnp.tensordot(weights, jax.vmap(gradient)(nodes), 1) * (x - baseline)


def mean(values: Iterable[float]) -> float:
    """The mean; of flags, the share of those that are set."""
    return statistics.mean(map(float, values))


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of none."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan
