"""How coarsely a function rounds, as its equations tell."""

import jax
import jax.numpy as jnp
import pytest

from igjax._jaxpr.program import trace
from igjax._jaxpr.rounding import eps, rounding

X = jnp.ones((3, 3))


def of(fun, platform="cpu", x=X) -> float:
    return rounding(trace(fun, x).closed, platform)


def test_it_is_that_of_the_coarsest_dtype():
    assert of(jnp.tanh) == eps(jnp.float32)
    assert of(lambda x: jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype)) == eps(jnp.bfloat16)
    assert of(lambda x: x.astype(jnp.float16)) == eps(jnp.float16)
    assert of(lambda x: (x > 0).sum()) == 0.0


def test_it_looks_into_loops_and_calls():
    inner = jax.jit(lambda x: x.astype(jnp.bfloat16).sum())

    def step(total, row):
        return total + inner(row).astype(total.dtype), None

    assert of(lambda x: jax.lax.scan(step, jnp.zeros(()), x)[0]) == eps(jnp.bfloat16)


@pytest.mark.parametrize(("platform", "expected"), [("tpu", 2.0**-7), ("gpu", 2.0**-10)])
def test_products_on_accelerators_are_coarser_unless_told_otherwise(platform, expected):
    product = lambda x: x @ x
    assert of(product) == eps(jnp.float32)
    assert of(product, platform) == expected
    for precision in ("highest", "float32"):
        with jax.default_matmul_precision(precision):
            assert of(lambda x: x @ x, platform) == eps(jnp.float32)
