"""Gaussian blur, differentiable in the image and in the width, down to a width of zero."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igjax._inputs import as_integer
from igjax._precision import sum_dtype


def check_axes(name: str, axes: Any) -> tuple[int, ...]:
    """Returns ``axes`` as a tuple.

    Raises:
      TypeError: if they are not several integers.
    """
    try:
        return tuple(as_integer("an axis", axis) for axis in axes)
    except TypeError:
        raise TypeError(f"{name} must be integers, such as (0, 1); got {axes!r}.") from None


def gaussian_blur(image: jax.Array, sigma: jax.typing.ArrayLike, axes: Sequence[int]) -> jax.Array:
    """Blurs ``image`` along ``axes`` with a Gaussian, the image continued by reflection.

    The cosine transform diagonalises the blur: the wave of angular frequency w is damped by
    ``exp(-sigma^2 w^2 / 2)``. Unlike a sampled kernel this needs no cut-off, takes a traced width,
    is exact (a blur by s after a blur by t is a blur by sqrt(s^2 + t^2)) and smooth at zero.

    Args:
      image: an array of floats; half precisions are blurred in float32.
      sigma: the Gaussian's standard deviation in pixels, a scalar.
      axes: the axes to blur.

    Returns:
      An array like ``image``.

    Raises:
      ValueError: if ``image`` has no such axes, or one is named twice.
    """
    places = {axis % max(image.ndim, 1) for axis in axes}
    if len(places) < len(axes) or any(not -image.ndim <= axis < image.ndim for axis in axes):
        raise ValueError(
            f"blur: axes must name different axes of the picture; got axes={tuple(axes)}, picture "
            f"of shape {image.shape}. (Map over a batch with jax.vmap.)"
        )
    if image.size == 0:
        return image  # an axis without places has no waves
    dtype = sum_dtype(image.dtype)
    waves = image.astype(dtype)
    for axis in axes:  # apart from what depends on sigma: for many widths it is done once
        cosines = _cosines(image.shape[axis])
        waves = _apply(jnp.asarray(cosines, dtype), waves, axis)
    for axis in axes:
        size = image.shape[axis]
        frequency = jnp.asarray(np.pi / size * np.arange(size), dtype)
        damping = jnp.exp(-0.5 * jnp.square(jnp.asarray(sigma, dtype) * frequency))
        inverse = jnp.asarray(_cosines(size).T, dtype) * damping[None, :]
        waves = _apply(inverse, waves, axis)
    return waves.astype(image.dtype)


def _cosines(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Returns the orthonormal cosine transform (DCT-II) as a matrix: frequencies by places.

    Not the FFT: matrix products run well on every device, and XLA shards them; its FFT for the CPU
    fails on sharded pictures (seen with jax 0.10), and takes ten times as long to compile.
    """
    frequencies, places = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi / size * frequencies * (places + 0.5)) * np.sqrt(2.0 / size)
    matrix[0] /= np.sqrt(2.0)
    return matrix


def _apply(matrix: jax.Array, image: jax.Array, axis: int) -> jax.Array:
    product = jnp.tensordot(image, matrix, axes=(axis, 1), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, -1, axis)
