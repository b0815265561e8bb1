"""``Kind``: a kind of function on which an error bar is tried, and what its members are made of."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Make = Callable[[np.random.Generator], "Member"]


class Member(NamedTuple):
    """One function of a kind, and where its path runs.

    Attributes:
      params: its parameters, a pytree of float32 arrays.
      x: the input.
      baseline: like it.
    """

    params: Any
    x: Array
    baseline: Array


class Kind(NamedTuple):
    """Functions that differ in their parameters only.

    Attributes:
      name: what the tables call it.
      fun: from parameters and an input to a scalar, in float32 and in float64.
      make: draws a member. All members have the same shapes.
      exact: the function whose attributions are the truth; None if that is ``fun``, in float64.
      steep: from a member to the places of the path, beside both ends, where it may be steep.
    """

    name: str
    fun: Callable[[Any, Any], Any]
    make: Make
    exact: Callable[[Any, Any], Any] | None = None
    steep: Callable[[Member], Sequence[float]] = lambda _: ()


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Draws normal numbers."""
    return np.asarray(scale * rng.standard_normal(shape), np.float32)


def weights(rng: np.random.Generator, inputs: int, outputs: int, gain: float = 1.0) -> Array:
    """Draws the weights of a dense layer, which keep the size of what goes through at gain 1."""
    return normal(rng, inputs, outputs, scale=gain / np.sqrt(inputs))


def from_zero(params: Any, x: Array) -> Member:
    """Returns a member whose baseline is zero."""
    return Member(params, x, np.zeros_like(x))
