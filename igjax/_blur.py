"""Gaussian blur, differentiable in the image and in the width, down to a width of zero."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.scipy.fft

from igjax._precision import sum_dtype


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
    """
    dtype = sum_dtype(image.dtype)
    waves = jax.scipy.fft.dctn(image.astype(dtype), axes=axes, norm="ortho")
    for axis in axes:
        size = image.shape[axis]
        frequency = jnp.pi / size * jnp.arange(size, dtype=dtype)
        damping = jnp.exp(-0.5 * jnp.square(jnp.asarray(sigma, dtype) * frequency))
        waves *= jax.lax.broadcast_in_dim(damping, image.shape, (axis % image.ndim,))
    return jax.scipy.fft.idctn(waves, axes=axes, norm="ortho").astype(image.dtype)
