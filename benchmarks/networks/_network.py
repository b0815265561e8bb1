"""``Network``: what the benchmark needs to know about a network."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Network(NamedTuple):
    """A network, its weights, and real inputs to attribute.

    Attributes:
      name: what the tables call it.
      params: the weights, a pytree of float32 arrays.
      outputs: by name ("logit", "probability"), a function ``(params, x, *extras) -> scalar`` of
        one example in JAX, for float32 and for float64.
      xs: shape ``(count, ...)``, float32: what is attributed to, padded to a common shape.
      baselines: like ``xs``.
      extras: arrays of shape ``(count, ...)``: labels, masks, indices of each example.
      torch_outputs: makes the same functions in torch, by the same names, with the same weights:
        each ``(x, *extras) -> (n,)`` for ``x`` of shape ``(n, ...)`` and extras with a leading
        axis of 1 or n.
    """

    name: str
    params: Any
    outputs: Mapping[str, Callable[..., Any]]
    xs: NDArray[np.float32]
    baselines: NDArray[np.float32]
    extras: tuple[NDArray[Any], ...]
    torch_outputs: Callable[[], Mapping[str, Callable[..., Any]]]
