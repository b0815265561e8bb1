"""Convolutions with their dimensions in order: the same numbers, from another equation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax._jaxpr.convolutions import with_fast_convolutions

IN_ORDER = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def convolutions(jaxpr):
    """All convolutions of a jaxpr, those inside its equations too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            if hasattr(value, "eqns"):
                yield from convolutions(value)


def assert_same_and_in_order(fun, *args):
    fast = with_fast_convolutions(fun)
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5),
        jax.jit(fast)(*args),
        jax.jit(fun)(*args),
    )
    found = list(convolutions(jax.make_jaxpr(fast)(*args)))
    assert found
    for eqn in found:
        assert tuple(eqn.params["dimension_numbers"]) == IN_ORDER


def convolve(x, kernel, layout=("NHWC", "HWIO", "NHWC"), strides=(1, 1), **keywords):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=layout, **keywords
    )


LAYOUTS = list(itertools.product(("NHWC", "NCHW", "HWNC"), ("HWIO", "OIHW"), ("NHWC", "CNHW")))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    sizes = {"N": 2, "H": 7, "W": 6, "C": 3}
    x = random(*(sizes[axis] for axis in layout[0]))
    kernel = random(*({"H": 3, "W": 3, "I": 3, "O": 5}[axis] for axis in layout[1]))
    assert_same_and_in_order(lambda x: convolve(x, kernel, layout), x)
    assert_same_and_in_order(jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel, layout)))), x)


@pytest.mark.parametrize(
    "keywords",
    [
        {"strides": (2, 3)},
        {"rhs_dilation": (2, 1)},
        {"strides": (2, 2), "feature_group_count": 2},
        {"feature_group_count": 4},
    ],
)
def test_the_gradients_of_strides_dilation_and_groups(keywords):
    x, kernel = random(2, 9, 8, 4), random(3, 3, 4 // keywords.get("feature_group_count", 1), 8)
    loss = lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, **keywords)))
    assert_same_and_in_order(jax.grad(loss), x, kernel)
    assert_same_and_in_order(jax.grad(loss, argnums=1), x, kernel)


def test_inside_of_what_calls_and_loops():
    kernel = random(3, 3, 2, 2) / 4  # of small norm, so that loops do not amplify rounding
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel))))
    x = random(1, 6, 5, 2)
    for wrapped in (
        jax.jit(gradient),
        jax.checkpoint(gradient),
        jax.grad(lambda x: jnp.sum(jax.checkpoint(gradient)(x) ** 2)),
        lambda x: jax.lax.scan(lambda x, _: (gradient(x), None), x, None, length=3)[0],
        lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) > 1e6, gradient, x),
        lambda x: jax.lax.cond(x[0, 0, 0, 0] > 0, gradient, lambda x: -gradient(x), x),
        jax.vmap(lambda x: gradient(x[None])[0]),
    ):
        assert_same_and_in_order(wrapped, x)


def test_derivatives_and_batches_of_it():
    kernel, xs = random(3, 3, 2, 2), random(4, 6, 5, 2)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x[None], kernel))))
    fast = with_fast_convolutions(gradient)
    for transform in (
        jax.vmap,
        lambda f: jax.vmap(jax.grad(lambda x: jnp.sum(f(x) ** 2))),
        lambda f: jax.vmap(lambda x: jax.jvp(f, (x,), (x + 1,))[1]),
    ):
        np.testing.assert_allclose(transform(fast)(xs), transform(gradient)(xs), atol=1e-4)


def test_one_and_three_dimensions():
    for dims, layout in ((1, ("NCH", "OIH", "NCH")), (3, ("NCDHW", "OIDHW", "NCDHW"))):
        x, kernel = random(2, 3, *[5] * dims), random(4, 3, *[3] * dims)
        fun = lambda x, kernel=kernel, layout=layout, dims=dims: jax.lax.conv_general_dilated(
            x, kernel, (1,) * dims, "SAME", dimension_numbers=layout
        )
        np.testing.assert_allclose(with_fast_convolutions(fun)(x), fun(x), atol=1e-5)


def test_leaves_accelerators_and_other_functions_alone(monkeypatch):
    fun = lambda x: jnp.sin(x) + 1
    assert str(jax.make_jaxpr(with_fast_convolutions(fun))(1.0)) == str(jax.make_jaxpr(fun)(1.0))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert with_fast_convolutions(fun) is fun
