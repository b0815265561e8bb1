"""How coarsely a function rounds, as far as its equations tell."""

from typing import Any

import jax
import jax.numpy as jnp

from igjax._jaxpr.program import equations, inside

# What accelerators round the operands of products to, unless told otherwise: bfloat16, and TF32.
_OF_PRODUCTS = {"tpu": 2.0**-7, "gpu": 2.0**-10}
_PRODUCTS = ("dot_general", "conv_general_dilated")


def rounding(closed: Any, platform: str) -> float:
    """Returns the distance from 1 to the next number, in the coarsest arithmetic in a function.

    Args:
      closed: the function.
      platform: where it is to run, as ``jax.default_backend()`` calls it.
    """
    found = 0.0
    for eqn in equations(closed):
        for part in inside(eqn):
            found = max(found, rounding(part, platform))
        dtypes = [var.aval.dtype for var in eqn.outvars if hasattr(var.aval, "dtype")]
        floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
        found = max([found, *map(eps, floats)])
        if floats and eqn.primitive.name in _PRODUCTS and not _is_exact(eqn.params["precision"]):
            found = max(found, _OF_PRODUCTS.get(platform, 0.0))
    return found


def eps(dtype: Any) -> float:
    """Returns the distance from 1 to the next number of a floating-point dtype."""
    finfo: Any = jnp.finfo
    return float(finfo(dtype).eps)


def _is_exact(precision: Any) -> bool:
    """Returns whether products are asked for in the precision of their operands."""
    asked = precision if isinstance(precision, tuple) else (precision,)
    return all(one is not None and one != jax.lax.Precision.DEFAULT for one in asked)
