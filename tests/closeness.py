"""Whether two computations agree, up to the rounding of what they compute with.

Two programs for the same number, compiled apart or for different processors, add and multiply in
different orders. What may lie between them follows from the dtype and from the size of what was
added up, never from one processor's digits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# How many roundings may have piled up. Each of n sums and products rounds at random, and together
# they end some sqrt(n) roundings from the truth: this is for hundreds of them, in each of the two.
ROUNDINGS = 32


def assert_close(
    actual: Any, expected: Any, *, roundings: float = ROUNDINGS, size: float | None = None
) -> None:
    """Asserts that two arrays agree up to rounding.

    Args:
      actual: an array.
      expected: an array, or what becomes one, of the same shape or a scalar.
      roundings: how many roundings of numbers of that size may lie between them.
      size: how large the numbers are that were added up; by default the largest that is expected.
        A difference is smaller than what it is a difference of: name the size of that.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    epsilons = [float(jnp.finfo(a.dtype).eps) for a in (actual, expected) if _is_inexact(a)]
    if size is None:
        finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
        size = float(np.max(finite, initial=0.0))
    atol = roundings * max(epsilons, default=0.0) * size
    np.testing.assert_allclose(_in_double(actual), _in_double(expected), rtol=0, atol=atol)


def assert_trees_close(
    actual: Any, expected: Any, *, roundings: float = ROUNDINGS, size: float | None = None
) -> None:
    """Asserts that two pytrees have the same structure and dtypes, and agree up to rounding."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(one) == jnp.shape(other)
        assert jnp.result_type(one) == jnp.result_type(other)
        assert_close(one, other, roundings=roundings, size=size)


def _is_inexact(array: np.ndarray) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


def _in_double(array: np.ndarray) -> np.ndarray:
    """``array`` in a dtype whose differences numpy takes exactly enough."""
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
