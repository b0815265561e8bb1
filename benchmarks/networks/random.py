"""Networks of random weights on random inputs, small enough to run anywhere.

The seeds are fixed. The weights keep the scale of what goes through (He's initialisation before a
ReLU), and the biases are not zero: a ReLU network without them has one gradient along a whole line
from zero, so that a single node would integrate it exactly.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks._classifier import classifier
from benchmarks.networks._network import Network

_CLASSES = 10
_CNN_STRIDES = (1, 2, 2, 2)
_HEADS = 8


class Layer(NamedTuple):
    """A linear layer; ``kernel`` is (in, out), or (height, width, in, out) of a convolution."""

    kernel: Any
    bias: Any


class Attention(NamedTuple):
    """A block of a transformer; ``project_in`` makes queries, keys and values at once."""

    project_in: Layer
    project_out: Layer
    expand: Layer
    contract: Layer


class Convolutional(NamedTuple):
    """The weights of the CNN."""

    convolutions: tuple[Layer, ...]
    classifier: Layer


class Transformer(NamedTuple):
    """The weights of the transformer; ``positions`` is (sequence, width)."""

    positions: Any
    blocks: tuple[Attention, ...]
    classifier: Layer


def mlp(count: int) -> Network:
    """A dense ReLU classifier of the size of MNIST: 784, 512, 512, 10."""
    rng = np.random.default_rng(0)
    params = _dense(rng, (784, 512, 512, _CLASSES), gain=2.0)
    xs = rng.uniform(size=(count, 784)).astype(np.float32)

    def logits(params: Sequence[Layer], x: jax.Array) -> jax.Array:
        return _mlp(params, x, jax.nn.relu)

    return classifier("MLP", params, xs, np.zeros_like(xs), logits, _torch_mlp)


def wide_mlp(count: int) -> Network:
    """A dense tanh regression on 20,000 inputs, such as genes: 20,000, 256, 64, 1."""
    rng = np.random.default_rng(1)
    params = _dense(rng, (20_000, 256, 64, 1), gain=4.0)  # so that tanh saturates now and then
    xs = rng.standard_normal((count, 20_000), np.float32)
    return Network(
        name="Wide MLP",
        params=params,
        outputs={"logit": lambda params, x: _mlp(params, x, jnp.tanh)[0]},
        xs=xs,
        baselines=np.zeros_like(xs),
        extras=(),
        torch_outputs=lambda: {"logit": _torch_wide_mlp(params)},
    )


def cnn(count: int) -> Network:
    """A ReLU classifier of four 3×3 convolutions and a global mean, on 64×64×3 images."""
    rng = np.random.default_rng(2)
    widths = (3, 32, 64, 64, 128)
    params = Convolutional(
        convolutions=tuple(
            _layer(rng, (3, 3, *sizes), gain=2.0) for sizes in itertools.pairwise(widths)
        ),
        classifier=_layer(rng, (widths[-1], _CLASSES), gain=2.0),
    )
    xs = rng.uniform(size=(count, 64, 64, 3)).astype(np.float32)
    return classifier("CNN", params, xs, np.zeros_like(xs), _cnn, _torch_cnn)


def transformer(count: int) -> Network:
    """A pre-LayerNorm classifier of four layers of width 256, on 64 embeddings."""
    rng = np.random.default_rng(3)
    length, width = 64, 256
    params = Transformer(
        # From zeros alone a layer norm would do all its turning within the first 1 % of the path.
        positions=rng.standard_normal((length, width), np.float32),
        blocks=tuple(
            Attention(
                # Attention as picky as a trained one: with it the integral needs as many nodes as
                # that of a sentence encoder (MiniLM) does, with a gain of 1 it needs eight.
                project_in=_layer(rng, (width, 3 * width), gain=4.0),
                project_out=_layer(rng, (width, width)),
                expand=_layer(rng, (width, 4 * width)),
                contract=_layer(rng, (4 * width, width)),
            )
            for _ in range(4)
        ),
        classifier=_layer(rng, (width, _CLASSES)),
    )
    xs = rng.standard_normal((count, length, width), np.float32)
    return classifier(
        "Transformer", params, xs, np.zeros_like(xs), _transformer, _torch_transformer
    )


def _dense(rng: np.random.Generator, sizes: Sequence[int], gain: float) -> tuple[Layer, ...]:
    return tuple(_layer(rng, pair, gain) for pair in itertools.pairwise(sizes))


def _layer(rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.0) -> Layer:
    scale = np.sqrt(gain / np.prod(shape[:-1]), dtype=np.float32)
    return Layer(
        jnp.asarray(scale * rng.standard_normal(shape, np.float32)),
        jnp.asarray(np.float32(0.3) * rng.standard_normal(shape[-1], np.float32)),
    )


def _linear(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer.kernel + layer.bias.reshape((1,) * (x.ndim - 1) + (-1,))


def _mlp(
    params: Sequence[Layer], x: jax.Array, activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    for layer in params[:-1]:
        x = activation(_linear(layer, x))
    return _linear(params[-1], x)


def _cnn(params: Convolutional, x: jax.Array) -> jax.Array:
    x = x[None]
    for layer, stride in zip(params.convolutions, _CNN_STRIDES, strict=True):
        x = jax.lax.conv_general_dilated(
            x,
            layer.kernel,
            window_strides=(stride, stride),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + layer.bias[None, None, None])
    return _linear(params.classifier, jnp.mean(x, (0, 1, 2)))


def _transformer(params: Transformer, x: jax.Array) -> jax.Array:
    x = x + params.positions
    for block in params.blocks:
        x = x + _attend(block, _normalize(x))
        x = x + _linear(block.contract, jax.nn.gelu(_linear(block.expand, _normalize(x))))
    return _linear(params.classifier, jnp.mean(_normalize(x), axis=0))


def _normalize(x: jax.Array) -> jax.Array:
    # No scale and shift of its own: the linear layer after it has taken them in.
    return jax.nn.standardize(x, axis=-1, epsilon=1e-5)


def _attend(block: Attention, x: jax.Array) -> jax.Array:
    length, width = x.shape
    heads = _linear(block.project_in, x).reshape(length, 3, _HEADS, width // _HEADS)
    queries, keys, values = jnp.moveaxis(heads, 1, 0)
    scores = jnp.einsum("qhd,khd->hqk", queries, keys) / (width // _HEADS) ** 0.5
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), values)
    return _linear(block.project_out, mixed.reshape(length, width))


def _torch_layers(layers: Sequence[Layer]) -> list[tuple[Any, Any]]:
    """Layers as torch has them: out before in, kernels OIHW, in memory as the NHWC images are."""
    import torch

    def kernel(array: NDArray[np.float32]) -> torch.Tensor:
        if array.ndim == 2:
            return torch.tensor(array.T)
        oihw = torch.tensor(array.transpose(3, 2, 0, 1))
        return oihw.contiguous(memory_format=torch.channels_last)

    return [
        (kernel(np.asarray(layer.kernel)), torch.tensor(np.asarray(layer.bias))) for layer in layers
    ]


def _torch_mlp(params: Sequence[Layer]) -> Callable[[Any], Any]:
    from torch.nn import functional

    *hidden, last = _torch_layers(params)

    def logits(x: Any) -> Any:
        for layer in hidden:
            x = functional.relu(functional.linear(x, *layer), inplace=True)
        return functional.linear(x, *last)

    return logits


def _torch_wide_mlp(params: Sequence[Layer]) -> Callable[[Any], Any]:
    from torch.nn import functional

    *hidden, last = _torch_layers(params)

    def logit(x: Any) -> Any:
        for layer in hidden:
            x = functional.linear(x, *layer).tanh()
        return functional.linear(x, *last)[:, 0]

    return logit


def _torch_cnn(params: Convolutional) -> Callable[[Any], Any]:
    from torch.nn import functional

    convolutions = _torch_layers(params.convolutions)
    (classifier,) = _torch_layers([params.classifier])

    def logits(x: Any) -> Any:
        x = x.permute(0, 3, 1, 2)
        for layer, stride in zip(convolutions, _CNN_STRIDES, strict=True):
            x = functional.conv2d(x, *layer, stride=stride, padding=1).relu_()
        return functional.linear(x.mean((2, 3)), *classifier)

    return logits


def _torch_transformer(params: Transformer) -> Callable[[Any], Any]:
    import torch
    from torch.nn import functional

    positions = torch.tensor(np.asarray(params.positions))
    blocks = [_torch_layers(block) for block in params.blocks]
    (classifier,) = _torch_layers([params.classifier])

    def normalize(x: Any) -> Any:
        return functional.layer_norm(x, x.shape[-1:], eps=1e-5)

    def attend(x: Any, project_in: Any, project_out: Any) -> Any:
        heads = functional.linear(x, *project_in).reshape(*x.shape[:2], 3, _HEADS, -1)
        mixed = functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        return functional.linear(mixed.transpose(1, 2).flatten(-2), *project_out)

    def logits(x: Any) -> Any:
        x = x + positions
        for project_in, project_out, expand, contract in blocks:
            x = x + attend(normalize(x), project_in, project_out)
            hidden = functional.gelu(functional.linear(normalize(x), *expand), approximate="tanh")
            x = x + functional.linear(hidden, *contract)
        return functional.linear(normalize(x).mean(1), *classifier)

    return logits
