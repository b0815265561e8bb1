"""What is said about primitives, against what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from igjax._jaxpr import primitives, program

A = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(4, 4)), jnp.float32)
B = jnp.asarray(np.random.default_rng(1).uniform(0.2, 0.8, size=(4, 4)), jnp.float32)
ROWS = jnp.array([[2], [0]])
_GATHER = lax.GatherDimensionNumbers((1,), (0,), (0,))
_SCATTER = lax.ScatterDimensionNumbers((1,), (0,), (0,))


def _scatter(scatter):
    return lambda a, b: scatter(a, ROWS, b[:2], _SCATTER)


def _one(fun):
    return lambda a, _: fun(a)


UNARY = (
    "abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf"
    " erf_inv erfc exp exp2 expm1 floor lgamma log log1p logistic neg round rsqrt sign sin sinh"
    " sqrt square tan tanh cumsum optimization_barrier"
)
BINARY = "add atan2 div max min mul pow rem sub"
# A function that applies the primitive to two matrices, or to the first of them.
EXAMPLES = {
    **{name: _one(getattr(lax, name)) for name in UNARY.split()},
    **{name: getattr(lax, name) for name in BINARY.split()},
    "add_any": lambda a, b: jax.vjp(lambda x: (x, x), a)[1]((a, b))[0],
    "clamp": _one(lambda a: lax.clamp(0.3, a, 0.6)),
    "convert_element_type": _one(lambda a: lax.convert_element_type(a, jnp.float16)),
    "integer_pow": _one(lambda a: a**3),
    "reduce_precision": _one(lambda a: lax.reduce_precision(a, 5, 4)),
    "select_n": lambda a, b: lax.select_n(jnp.eye(4, dtype=bool), a, b),
    "reduce_sum": _one(lambda a: jnp.sum(a, axis=1)),
    "reduce_window_sum": _one(lambda a: lax.reduce_window(a, 0.0, lax.add, (2, 2), (1, 1), "SAME")),
    "reshape": _one(lambda a: lax.reshape(a, (2, 8))),
    "squeeze": _one(lambda a: lax.squeeze(a[None], (0,))),
    "transpose": _one(jnp.transpose),
    "broadcast_in_dim": _one(lambda a: lax.broadcast_in_dim(a, (3, 4, 4), (1, 2))),
    "tile": _one(lambda a: jnp.tile(a, (2, 1))),
    "rev": _one(lambda a: lax.rev(a, (0,))),
    "slice": _one(lambda a: lax.slice(a, (1, 0), (3, 4))),
    "split": _one(lambda a: lax.split(a, (1, 3))),
    "unstack": _one(lambda a: list(jnp.unstack(a))),
    "stack": lambda a, b: jnp.stack([a, b]),
    "concatenate": lambda a, b: lax.concatenate([a, b], 0),
    "pad": lambda a, b: lax.pad(a, b[0, 0], [(1, 0, 1), (0, 2, 0)]),
    "copy": _one(jnp.copy),
    "name": _one(lambda a: checkpoint_name(a, "a")),
    "device_put": _one(jax.device_put),
    "gather": _one(lambda a: lax.gather(a, ROWS, _GATHER, (1, 4))),
    "dynamic_slice": _one(lambda a: lax.dynamic_slice(a, (jnp.argmax(B[0]), 0), (2, 4))),
    "dynamic_update_slice": lambda a, b: lax.dynamic_update_slice(a, b[:2, :2], (ROWS[0, 0], 1)),
    "scatter": _scatter(lax.scatter),
    "scatter-add": _scatter(lax.scatter_add),
    "scatter-sub": _scatter(lax.scatter_sub),
    "scatter-mul": _scatter(lax.scatter_mul),
    "dot_general": lambda a, b: a @ b,
    "conv_general_dilated": lambda a, b: lax.conv(a[None, None], b[None, None], (1, 1), "SAME"),
}
SAID = (
    primitives.MOVES
    | primitives.ELEMENTWISE
    | primitives.LINEAR
    | primitives.LINEAR_EACH_IN_ITS_OWN
    | primitives.LINEAR_IN_EACH
    | primitives.LINEAR_IN_FIRST
)
# These belong to meshes; test_affine has them.
ON_MESHES = {"pvary", "sharding_constraint", "reshard"}


def same(a, b, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), a, b
    )


def test_each_has_an_example():
    assert EXAMPLES.keys() == SAID - ON_MESHES


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_is_what_is_said(name):
    fun = EXAMPLES[name]
    closed = jax.make_jaxpr(fun)(A, B)
    if not program.applies(closed, name):
        pytest.skip(f"jax {jax.__version__} makes {name} of others")
    shift = 1.0 if name == "acosh" else 0.0  # where it is defined
    a, b = A + shift, B + shift
    zero = jnp.zeros_like(a)
    if name in primitives.LINEAR:
        tolerance = 1e-2 if name == "convert_element_type" else 1e-5  # that is to float16
        linear = jax.tree.map(lambda x, y: x + 2 * y, fun(a, b), fun(b, a))
        same(fun(a + 2 * b, b + 2 * a), linear, tolerance)
    if name in primitives.LINEAR_IN_EACH:
        same(fun(a, a + 2 * b), fun(a, a) + 2 * fun(a, b))
    if name in primitives.LINEAR_IN_EACH | primitives.LINEAR_IN_FIRST:
        same(fun(a + 2 * b, b), fun(a, b) + 2 * fun(b, b))
    if name in primitives.LINEAR_EACH_IN_ITS_OWN:
        same(fun(a, zero), a)
    if name in primitives.ELEMENTWISE:
        swapped = jnp.array([2, 1, 0, 3])
        both = lambda x: x[swapped][:, swapped]
        same(fun(both(a), both(b)), both(fun(a, b)))
    if name in primitives.MOVES:
        entries = np.concatenate([np.ravel(a), np.ravel(b), [0.0]])
        for leaf in jax.tree.leaves(fun(a, b)):
            assert np.all(np.isin(leaf, entries))
