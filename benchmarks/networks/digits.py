"""Handwritten digits, as many as are asked for, and a small network that reads them.

The images are scikit-learn's, 8 × 8 pixels each, moved by a pixel or not at all in any direction.
The network is trained when it is loaded, for a few seconds, with a fixed seed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from benchmarks.networks._classifier import classifier
from benchmarks.networks._network import Network

_CLASSES = 10
_STEPS, _BATCH = 400, 128


class Params(NamedTuple):
    """The weights: two convolutions (height, width, in, out), and two dense layers (in, out)."""

    fine: Any
    coarse: Any
    hidden: Any
    classes: Any


def load(count: int) -> Network:
    """The trained network, and images to explain.

    Args:
      count: how many images.
    """
    rng = np.random.default_rng(0)
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16.0).reshape(-1, 8, 8, 1).astype(np.float32)

    def draw(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        chosen = rng.integers(len(images), size=count)
        moves = rng.integers(-1, 2, size=(count, 2))
        moved = [
            np.roll(images[i], tuple(move), (0, 1)) for i, move in zip(chosen, moves, strict=True)
        ]
        return np.stack(moved), labels[chosen].astype(np.int32)

    params = _trained(_initial(rng), draw)
    xs, _ = draw(count)
    return classifier("Digits", params, xs, np.zeros_like(xs), _logits, _torch_logits)


def _initial(rng: np.random.Generator) -> Params:
    def layer(*shape: int) -> jax.Array:
        scale = np.sqrt(2.0 / np.prod(shape[:-1]))
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

    return Params(layer(3, 3, 1, 32), layer(3, 3, 32, 64), layer(1024, 64), layer(64, _CLASSES))


def _trained(params: Params, draw: Callable[[int], tuple[Any, Any]]) -> Params:
    optimizer = optax.adam(1e-3)

    def loss(params: Params, xs: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax.vmap(_logits, in_axes=(None, 0))(params, xs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: Params, state: Any, xs: jax.Array, labels: jax.Array) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, xs, labels), state)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for optax
        state = optimizer.init(params)
        for _ in range(_STEPS):
            params, state = step(params, state, *draw(_BATCH))
    return params


def _logits(params: Params, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(_convolved(x[None], params.fine, 1))
    h = jax.nn.relu(_convolved(h, params.coarse, 2))
    return jax.nn.relu(h.ravel() @ params.hidden) @ params.classes


def _convolved(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _torch_logits(params: Params) -> Callable[[Any], Any]:
    import torch
    from torch.nn import functional

    fine, coarse = (
        torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1).copy())
        for kernel in (params.fine, params.coarse)
    )
    hidden, classes = (torch.tensor(np.asarray(layer)) for layer in (params.hidden, params.classes))

    def logits(x: Any) -> Any:
        h = functional.conv2d(x.permute(0, 3, 1, 2), fine, padding=1).relu()
        h = functional.conv2d(h, coarse, stride=2, padding=1).relu()
        return (h.permute(0, 2, 3, 1).flatten(1) @ hidden).relu() @ classes

    return logits
