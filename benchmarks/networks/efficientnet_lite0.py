"""EfficientNet-Lite0 on photographs from ImageNet, attributed from a black image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks._classifier import classifier
from benchmarks.networks._network import Network
from examples.models import efficientnet_lite0 as model


def load(count: int) -> Network:
    """The network, its photographs, and the labels that it gives them.

    Args:
      count: how many photographs, of the 20 that there are.

    Returns:
      Network of inputs ``(count, 224, 224, 3)``, whose one extra is the predicted label.

    Raises:
      ModuleNotFoundError: if the package with the weights or the one with the photographs is not
        installed.
      ValueError: if ``count`` is more than there are.
    """
    photos = model.photos()
    if count > len(photos):
        raise ValueError(f"Only {len(photos)} photographs exist; got count={count}.")
    params = model.load()
    images = np.stack([model.preprocess(pixels) for _, pixels, _ in photos[:count]])
    black = model.preprocess(np.zeros((model.SIZE, model.SIZE, 3), np.uint8))
    baselines = np.broadcast_to(black, images.shape).copy()
    return classifier("EfficientNet-Lite0", params, images, baselines, model.logits, _torch_logits)


def _torch_logits(params: model.Params) -> Callable[[Any], Any]:
    import torch
    from torch.nn import functional

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        # Images come as NHWC and stay so in memory, which torch calls "channels last": on the CPU
        # gradients were faster so than with NCHW in memory.
        layout = torch.channels_last if array.ndim == 4 else torch.contiguous_format
        return torch.tensor(array).contiguous(memory_format=layout)

    def layer(weights: model.Layer) -> tuple[torch.Tensor, torch.Tensor]:
        return tensor(_oihw(np.asarray(weights.kernel))), tensor(np.asarray(weights.bias))

    def convolve(
        x: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor], stride: int = 1, groups: int = 1
    ) -> torch.Tensor:
        size = layer[0].shape[-1]
        if stride == 1:
            return functional.conv2d(x, *layer, padding=size // 2, groups=groups)
        # TensorFlow's "SAME" padding of an even length; torch itself would pad both sides alike.
        before = (size - stride) // 2
        x = functional.pad(x, (before, size - stride - before) * 2)
        return functional.conv2d(x, *layer, stride=stride, groups=groups)

    def relu6(x: torch.Tensor) -> torch.Tensor:
        return functional.relu6(x, inplace=True)

    stem, head = layer(params.stem), layer(params.head)
    blocks = [
        (block.expand and layer(block.expand), layer(block.depthwise), layer(block.project))
        for block in params.blocks
    ]
    weight, bias = (tensor(np.asarray(a).T) for a in params.classifier)

    def logits(images: torch.Tensor) -> torch.Tensor:
        x = relu6(convolve(images.permute(0, 3, 1, 2), stem, stride=2))
        for (expand, depthwise, project), stride in zip(blocks, model.STRIDES, strict=True):
            y = x if expand is None else relu6(convolve(x, expand))
            y = relu6(convolve(y, depthwise, stride, groups=y.shape[1]))
            y = convolve(y, project)
            x = x + y if x.shape == y.shape else y
        x = relu6(convolve(x, head))
        return functional.linear(x.mean((2, 3)), weight, bias)

    return logits


def _oihw(kernel: NDArray[Any]) -> NDArray[Any]:
    """A kernel as torch has it: of a pointwise, a depthwise, or any other layer."""
    match kernel.ndim:
        case 2:
            return kernel.T[:, :, None, None]
        case 3:
            return kernel.transpose(2, 0, 1)[:, None]
        case _:
            return kernel.transpose(3, 2, 0, 1)
