"""The affine prefix: where functions are cut, and that nothing but speed depends on it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import igjax
from igjax._jaxpr.affine import Split, split_affine
from igjax._jaxpr.program import trace

Tree = Any

# Compilation takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(6)
ALPHAS, WEIGHTS = (_POINTS + 1) / 2, _WEIGHTS / 2


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def _sum_over_nodes(fun: Callable[[Tree], jax.Array], start: Tree, direction: Tree) -> Tree:
    """sum_k w_k grad fun(start + alpha_k direction)."""

    def gradient(alpha: jax.Array) -> Tree:
        def move(start: jax.Array, direction: jax.Array) -> jax.Array:
            return start + alpha.astype(start.dtype) * direction

        return jax.grad(fun)(jax.tree.map(move, start, direction))

    gradients = jax.vmap(gradient)(jnp.asarray(ALPHAS))
    return jax.tree.map(
        lambda g: jnp.tensordot(jnp.asarray(WEIGHTS, g.dtype), g, axes=1), gradients
    )


def plainly(fun: Callable[[Tree], jax.Array], x: Tree, baseline: Tree) -> Tree:
    """Integrated gradients as in the paper: the gradient of ``fun`` at every node."""
    direction = jax.tree.map(jnp.subtract, x, baseline)
    return jax.tree.map(jnp.multiply, direction, _sum_over_nodes(fun, baseline, direction))


def by(split: Split, x: Tree, baseline: Tree) -> Tree:
    """Integrated gradients by the two parts: only the tail is evaluated at every node."""
    direction = jax.tree.map(jnp.subtract, x, baseline)
    start, push = jax.linearize(split.head, baseline)
    total = _sum_over_nodes(split.tail, start, push(direction))
    (pulled,) = jax.linear_transpose(push, x)(total)
    return jax.tree.map(jnp.multiply, direction, pulled)


def _split(fun: Callable[[Tree], Tree], x: Tree) -> Split:
    split = split_affine(trace(fun, x))
    assert split is not None
    return split


def _distance(a: Tree, b: Tree) -> float:
    """The L1 distance relative to the length of ``b``."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    length = sum(np.abs(np.asarray(b, np.float64)).sum() for _, b in pairs)
    return sum(np.abs(np.asarray(a, np.float64) - np.asarray(b)).sum() for a, b in pairs) / length


def _convolution(x: jax.Array, kernel: np.ndarray, **params: Any) -> jax.Array:
    params = {"window_strides": (1, 1), "padding": "SAME"} | params
    return jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel, x.dtype), dimension_numbers=("NHWC", "HWIO", "NHWC"), **params
    )


class Case(NamedTuple):
    """A function that has an affine prefix, and the shapes of the arrays it is to be cut at."""

    fun: Callable[[Tree], jax.Array]
    x: Tree
    cut: list[tuple[int, ...]]


def _const(x: jax.Array, *shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(_random(*shape, seed=seed) / np.sqrt(shape[0]), x.dtype)


def mlp(x):
    hidden = jnp.tanh(x @ _const(x, 30, 12) + _const(x, 12))
    return jnp.sum(jnp.tanh(hidden @ _const(x, 12, 5)))


def convolution_with_batch_norm(x):
    maps = _convolution(
        x[None], _random(3, 3, 3, 6), window_strides=(2, 2), padding=((1, 1), (0, 1))
    )
    maps = maps + _const(x, 1, 1, 1, 6)
    mean, variance = _const(x, 1, 1, 1, 6, seed=1), _const(x, 1, 1, 1, 6, seed=2) ** 2
    maps = (maps - mean) * jax.lax.rsqrt(variance + 1e-3) * 1.5 + 0.5
    return jnp.sum(jax.nn.silu(maps) ** 2)


def larger_convolution(x):
    return jnp.sum(jnp.tanh(_convolution(x[None], _random(3, 3, 3, 12))))


def attention(x):
    """Without a normalization before it. The sum with x at its end needs x as well."""
    embedded = x + _const(x, 5, 32)
    q, k, v = (embedded @ _const(x, 32, 32, seed=seed) for seed in range(3))
    weights = jax.nn.softmax(jnp.einsum("id,jd->ij", q, k) / 5)
    return jnp.sum(jnp.tanh(embedded + weights @ v))


def attention_with_one_projection(x):
    q, k, v = jnp.split(x @ _const(x, 16, 24), 3, axis=1)
    return jnp.sum(jax.nn.softmax(q @ k.T) @ v)


def fixed_indices(x):
    rows = x[jnp.array([4, 0, 2])]
    rows = rows.at[jnp.array([0, 1])].set(2 * rows[1:]).at[jnp.array([1, 1])].add(rows[1:])
    rows = rows.at[0].subtract(rows[2]).at[1].multiply(0.5)
    rows = jax.lax.dynamic_update_slice(rows, jax.lax.dynamic_slice(rows, (1, 0), (1, 4)), (0, 2))
    return jnp.sum(jnp.sin(rows @ _const(x, 9, 2)))


def moves(x):
    x = jnp.pad(x.T, ((1, 2), (0, 1)), constant_values=0.5)[1:, ::-1]
    x = jnp.concatenate([x, jnp.roll(x, 1, axis=0), jnp.ones_like(x)], axis=1)
    x = jnp.where(jnp.arange(x.shape[1])[None] % 3 == 0, x, -x)
    x = jnp.cumsum(x, axis=0) / jnp.arange(1, 1 + x.shape[0], dtype=x.dtype)[:, None]
    x = checkpoint_name(jnp.copy(x), "moved") ** 1
    x = jax.device_put(jax.lax.optimization_barrier(x))
    first, *_, last = jnp.unstack(x)
    x = jnp.stack([*jnp.tile(x, (2, 1)), first, last])
    return jnp.sum(jnp.tanh(x.reshape(-1) @ _const(x, x.size, 3)))


def several_leaves(x):
    """One leaf behind a dense layer, one behind a square, one in both, one not used."""
    hidden = x["wide"] @ _const(x["wide"], 40, 3) + x["both"]
    return jnp.sum(jnp.tanh(hidden)) * jnp.sum(x["square"] ** 2) + jnp.sum(x["both"] ** 3)


@jax.jit
def jitted(x):
    dense = jax.jit(lambda x, kernel: (x @ kernel, jnp.sum(kernel)))
    hidden, total = dense(x, _const(x, 20, 6))
    hidden, _ = dense(hidden, _const(x, 6, 9))
    return jnp.sum(jax.jit(jnp.tanh)(hidden)) * total


def smaller_before_larger(x):
    """What is the smallest after the last layer lies before the sum of all pairs."""
    hidden = x @ _const(x, 16, 4)
    pairs = hidden[:, None] + hidden[None] * 2 + _const(x, 7, 7, 4)
    return jnp.sum(jnp.tanh(pairs))


def pooled(x):
    means = jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID")
    return jnp.sum(jnp.tanh(means / 4))


def cropped(x):
    return jnp.sum(jnp.tanh(x[2:4, 2:4]))


def weighted_mean(x):
    return jnp.mean(x * _const(x, 50)) ** 2


def many_weighted_means(x):
    """A dense layer written by hand, whose input is used again."""
    means = [jnp.mean(x * _const(x, 50, seed=seed)) for seed in range(12)]
    return jnp.sum(jnp.sin(x)) * jnp.sum(jnp.tanh(jnp.stack(means)))


def gradient_of_a_quadratic(x):
    return jnp.sum(jnp.tanh(jax.grad(lambda x: x @ _const(x, 16, 16) @ x)(x)))


def affine_altogether(x):
    return jnp.sum(x @ _const(x, 20, 3)) + 1


def kernel_that_depends_on_x(x):
    image = jnp.asarray(_random(1, 12, 12, 2) / 10, x.dtype)
    return jnp.sum(
        jnp.tanh(
            jax.lax.conv_general_dilated(
                image, x, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    )


CASES = {
    "mlp": Case(mlp, _random(30), [(12,)]),
    "convolution": Case(convolution_with_batch_norm, _random(8, 7, 3), [(1, 4, 3, 6)]),
    "larger": Case(larger_convolution, _random(6, 5, 3), [(1, 6, 5, 12)]),
    "attention": Case(attention, _random(5, 32), [(5, 32)] * 4),
    "one projection": Case(attention_with_one_projection, _random(6, 16), [(6, 8), (6, 8), (8, 6)]),
    "indices": Case(fixed_indices, _random(6, 9), [(3, 2)]),
    "moves": Case(moves, _random(4, 5), [(3,)]),
    "leaves": Case(
        several_leaves,
        {"both": _random(3), "square": _random(2), "unused": _random(4), "wide": _random(40)},
        [(3,), (2,), (3,)],
    ),
    "jit": Case(jitted, _random(4, 20), [(4, 9)]),
    "pairs": Case(smaller_before_larger, _random(7, 16), [(7, 4)]),
    "pool": Case(pooled, _random(6, 6), [(3, 3)]),
    "crop": Case(cropped, _random(6, 6), [(2, 2)]),
    "mean": Case(weighted_mean, _random(50), [()]),
    "means": Case(many_weighted_means, _random(50), [(50,), (12,)]),
    "gradient": Case(gradient_of_a_quadratic, _random(16), [(16,)]),
    "affine": Case(affine_altogether, _random(20), [()]),
    "kernel": Case(kernel_that_depends_on_x, _random(10, 10, 2, 1), [(1, 3, 3, 1)]),
}


def _inputs(x: Tree, dtype: Any) -> tuple[Tree, Tree]:
    """An input, and a baseline that is not zero."""
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), x)
    return x, jax.tree.map(lambda leaf: jnp.sin(3 * leaf), x)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_cut_and_integrated(case, dtype, tolerance):
    @jit
    def compared(x, baseline):
        split = _split(case.fun, x)
        h, start = split.head(x), split.head(baseline)
        assert [h.shape for h in h] == case.cut

        def between(x: jax.Array, baseline: jax.Array) -> jax.Array:
            return 0.25 * x + 0.75 * baseline

        return {
            "head is affine": (
                split.head(jax.tree.map(between, x, baseline)),
                jax.tree.map(between, h, start),
            ),
            "value": (split.tail(h), case.fun(x)),
            "attributions": (by(split, x, baseline), plainly(case.fun, x, baseline)),
        }

    with jax.enable_x64(dtype == "float64"):
        for name, (result, expected) in compared(*_inputs(case.x, dtype)).items():
            assert _distance(result, expected) < tolerance, name


@jax.custom_vjp
def looks_affine(x):
    return x @ _const(x, 20, 20)


looks_affine.defvjp(lambda x: (looks_affine(x), None), lambda _, g: (jnp.tanh(g),))


@jax.custom_jvp
def looks_linear(x):
    return x @ _const(x, 20, 20)


looks_linear.defjvp(lambda x, dx: (looks_linear(*x), 3 * dx[0]))

NOTHING_TO_GAIN = {
    "elementwise": lambda x: jnp.sum(jnp.tanh(2 * x + 1)),
    "square": lambda x: jnp.sum(x * x),
    "with itself": lambda x: jnp.sum(x[:, None] @ x[None]),
    "few inputs": lambda x: jnp.sum(jnp.tanh(x.reshape(5, 4) @ _const(x, 4, 40))),
    "few channels": lambda x: jnp.sum(
        jnp.tanh(_convolution(x.reshape(1, 5, 1, 4), _random(1, 1, 4, 40)))
    ),
    "few terms of a transposed convolution": lambda x: jnp.sum(
        jnp.tanh(
            _convolution(
                x.reshape(1, 5, 4, 1),
                _random(3, 3, 1, 2),
                lhs_dilation=(2, 2),
                padding=[(1, 1)] * 2,
            )
        )
    ),
    "nonlinear first": lambda x: jnp.sum(jnp.tanh(x) @ _const(x, 20, 3)),
    "custom jvp first": lambda x: jnp.sum(jax.nn.relu(x) @ _const(x, 20, 3)),
    "normalized first": lambda x: jnp.sum(jax.nn.standardize(x) @ _const(x, 20, 3)),
    "select by x": lambda x: jnp.sum(jnp.where(x > 0, x, 2 * x) @ _const(x, 20, 3)),
    "divided by x": lambda x: jnp.sum((1 / x) @ _const(x, 20, 3)),
    "rounded": lambda x: jnp.sum(x.astype(jnp.bfloat16).astype(x.dtype) @ _const(x, 20, 3)),
    "indexed by x": lambda x: _const(x, 20)[jnp.argmax(x)] * x[jnp.argmin(x)],
    "applied in place": lambda x: jnp.sum(x.at[jnp.arange(20)].apply(jnp.sin) @ _const(x, 20, 3)),
    "loop": lambda x: jnp.sum(jax.lax.map(lambda row: row * _const(row, 20, 3), x)),
    "remat": lambda x: jnp.sum(jax.checkpoint(lambda x: x @ _const(x, 20, 3))(x)),
    "constant": lambda x: jnp.sum(jnp.ones_like(x) @ _const(x, 20, 3)),
    "custom vjp": lambda x: jnp.sum(looks_affine(x)),
    "custom jvp": lambda x: jnp.sum(looks_linear(x)),
    "stopped": lambda x: jnp.sum(jax.lax.stop_gradient(x) @ _const(x, 20, 3)),
    "straight through": lambda x: jnp.sum(x + jax.lax.stop_gradient(jnp.round(x) - x)),
    "multiplied in place by x": lambda x: jnp.sum(
        jnp.ones(20).at[5:].multiply(x[5:]) @ _const(x, 20, 3)
    ),
    "in one barrier with indices": lambda x: jnp.sum(
        jnp.take(*jax.lax.optimization_barrier((x, jnp.arange(20)))) @ _const(x, 20, 3)
    ),
    "effect": lambda x: (jax.debug.callback(lambda _: None, x), jnp.sum(jnp.tanh(x)))[1],
    "constant with an effect": lambda x: jnp.sum(
        (x * io_callback(lambda: np.float32(2), jax.ShapeDtypeStruct((), np.float32)))
        @ _const(x, 20, 3)
    ),
}


@pytest.mark.parametrize("fun", NOTHING_TO_GAIN.values(), ids=NOTHING_TO_GAIN)
def test_nothing_to_gain(fun):
    assert split_affine(trace(fun, jnp.asarray(_random(20), jnp.float32))) is None


def test_leaves_that_are_not_used_are_no_gain():
    assert (
        split_affine(trace(lambda x: jnp.sum(jnp.tanh(2 * x[0])), (jnp.ones(20), jnp.ones(99))))
        is None
    )


# Each of these has a dense layer to gain from, and something affine to look at with a derivative of
# its own. The derivative must be kept, whatever the cut.
WITH_DERIVATIVES_OF_THEIR_OWN = {
    "x minus itself": lambda x: x - jax.lax.stop_gradient(x),
    "x times itself": lambda x: x * jax.lax.stop_gradient(x),
    "in jit": jax.jit(lambda x: x - jax.lax.stop_gradient(x / 2)),
    "in vmap": jax.vmap(lambda x: x - jax.lax.stop_gradient(x / 2)),
    "after a layer": lambda x: jax.lax.stop_gradient(x @ _const(x, 20, 20)) - x,
    "custom vjp": looks_affine,
    "custom jvp": looks_linear,
    "custom vjp in jit": jax.jit(looks_affine),
}


@pytest.mark.parametrize(
    "op", WITH_DERIVATIVES_OF_THEIR_OWN.values(), ids=WITH_DERIVATIVES_OF_THEIR_OWN
)
@pytest.mark.parametrize("before", [False, True])
def test_derivatives_are_kept(op, before):
    def fun(x):
        hidden = op(x @ _const(x, 20, 20)) if before else op(x) @ _const(x, 20, 20)
        return jnp.sum(jnp.sin(hidden) + jnp.tanh(x @ _const(x, 20, 20, seed=1)))

    @jit
    def compared(x, baseline):
        split = _split(fun, x)
        through = jax.grad(lambda x: split.tail(split.head(x)))(x)
        return through, jax.grad(fun)(x), by(split, x, baseline), plainly(fun, x, baseline)

    with jax.enable_x64(True):
        through, gradient, attributions, expected = compared(*_inputs(_random(20), "float64"))
        assert _distance(through, gradient) < 1e-12
        assert _distance(attributions, expected) < 1e-12


def test_widening_is_affine():
    def fun(x):
        x = x.astype(jnp.float32)
        return jnp.sum(jnp.tanh(x @ _const(x, 30, 4)))

    x, baseline = _inputs(_random(30), "bfloat16")
    split = _split(fun, x)
    assert [(h.shape, h.dtype) for h in split.head(x)] == [((4,), jnp.float32)]
    result = jit(functools.partial(by, split))(x, baseline)
    assert _distance(result, jit(functools.partial(plainly, fun))(x, baseline)) < 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_rounded_to_half_precision_is_not_affine(dtype):
    x, _ = _inputs(_random(30), dtype)
    assert split_affine(trace(mlp, x)) is None
    moved = lambda x: mlp(x.reshape(5, 6).T.reshape(30).astype(jnp.float32))
    split = _split(moved, x)  # moves keep every number
    assert [(h.shape, h.dtype) for h in split.head(x)] == [((12,), jnp.float32)]


def test_far_baselines_in_half_precision_lose_nothing():
    weights, x = _random(64, 64) / 8, _random(64)
    half = lambda x: jnp.tanh(x @ jnp.asarray(weights / 30, x.dtype)).sum().astype(jnp.float32)
    x, baseline = jnp.asarray(x, jnp.bfloat16), jnp.full(64, 100.0, jnp.bfloat16)
    exact = lambda x: half(x.astype(jnp.float32))
    truth = igjax.integrated_grad(exact, baseline=baseline.astype(jnp.float32))(
        x.astype(jnp.float32)
    )
    attribute = lambda prefix: igjax.integrated_grad(half, baseline=baseline, affine_prefix=prefix)(
        x
    )
    np.testing.assert_array_equal(attribute(True), attribute(False))
    assert _distance(attribute(True).astype(jnp.float32), truth) < 2e-2


def test_infinite_constants():
    """A mask of infinities moves nowhere along the line."""

    def fun(x):
        scores = x @ _const(x, 20, 6) + jnp.where(jnp.arange(6) < 4, 0.0, -jnp.inf)
        return jax.nn.softmax(scores)[1]

    x, baseline = _inputs(_random(20), "float32")
    split = _split(fun, x)
    assert [h.shape for h in split.head(x)] == [(6,)]
    result = jit(functools.partial(by, split))(x, baseline)
    assert _distance(result, jit(functools.partial(plainly, fun))(x, baseline)) < 1e-6


def test_outputs_of_all_kinds():
    """Affine, constant and other outputs, in a pytree; and Jacobians of them."""

    def fun(x):
        hidden = x @ _const(x, 20, 3)
        return {"affine": hidden, "constant": jnp.ones(2, x.dtype), "other": (jnp.sin(hidden), 1.0)}

    x = jnp.asarray(_random(20), jnp.float32)
    split = _split(fun, x)
    assert jax.tree.structure(split.tail(split.head(x))) == jax.tree.structure(fun(x))
    through = jax.jacrev(lambda x: split.tail(split.head(x)))(x)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6), through, jax.jacrev(fun)(x)
    )


def test_effects_stay_in_the_tail():
    seen = []

    def fun(x):
        hidden = x @ _const(x, 20, 3)
        jax.debug.callback(seen.append, hidden[0])
        return jnp.sum(jnp.tanh(hidden))

    x = jnp.ones(20)
    split = _split(fun, x)
    h = split.head(x)
    jax.effects_barrier()
    assert not seen
    split.tail(h)
    jax.effects_barrier()
    assert len(seen) == 1


# Transformations around it. The parameters are then tracers.


def _network(params: Tree, x: jax.Array) -> jax.Array:
    first, second = params
    return jnp.sum(jnp.tanh(jnp.tanh(x @ first.T) @ second))


def _parameters(dtype: Any = "float32", *batch: int) -> Tree:
    return (
        jnp.asarray(_random(*batch, 10, 24) / 5, dtype),
        jnp.asarray(_random(*batch, 10, 4) / 3, dtype),
    )


def _attributions(params: Tree, x: jax.Array, *, split: bool = True) -> jax.Array:
    fun = functools.partial(_network, params)
    baseline = jnp.zeros_like(x)
    return by(_split(fun, x), x, baseline) if split else plainly(fun, x, baseline)


_plain_attributions = functools.partial(_attributions, split=False)


@pytest.mark.parametrize("over", ["examples", "parameters", "both"])
def test_jit_and_vmap(over):
    params = _parameters("float32", *([5] if over != "examples" else []))
    xs = jnp.asarray(_random(*([5] if over != "parameters" else []), 24), jnp.float32)
    in_axes = (None if over == "examples" else 0, None if over == "parameters" else 0)
    with jax.checking_leaks():
        result = jax.jit(jax.vmap(_attributions, in_axes))(params, xs)
    expected = jax.vmap(_plain_attributions, in_axes)(params, xs)
    assert _distance(result, expected) < 1e-6


def test_derivatives_with_respect_to_parameters_and_x():
    def loss(params: Tree, x: jax.Array, *, attributions: Any = _attributions) -> jax.Array:
        return jnp.sum(attributions(params, x) ** 2)

    def derivatives(loss: Any, *args: Any) -> dict[str, Any]:
        return {
            "reverse": jax.grad(loss, (0, 1))(*args),
            "forward": jax.jvp(loss, args, jax.tree.map(jnp.cos, args))[1],
            "second": jax.grad(lambda x: jnp.sum(jax.grad(loss, 1)(args[0], x)))(args[1]),
        }

    with jax.enable_x64(True):
        args = _parameters("float64"), jnp.asarray(_random(24))
        plain = functools.partial(loss, attributions=_plain_attributions)
        results = jit(functools.partial(derivatives, loss))(*args)
        expected = jit(functools.partial(derivatives, plain))(*args)
    for name, result in results.items():
        assert _distance(result, expected[name]) < 1e-11, name


@pytest.mark.parametrize("sharded", ["examples", "labels"])
def test_shard_map(sharded):
    """Over examples, or over labels with an input that all devices share."""
    mesh = jax.make_mesh((8,), (sharded,), axis_types=(AxisType.Auto,))
    params, labels = _parameters(), jnp.arange(8) % 4
    xs = jnp.asarray(_random(8, 24), jnp.float32)

    def attributions(x: jax.Array, label: jax.Array, *, split: bool = True) -> jax.Array:
        def fun(x: jax.Array) -> jax.Array:
            hidden = x @ (params[0].T / (1 + label.astype(x.dtype)))
            return jnp.take(jnp.tanh(hidden) @ params[1], label)

        baseline = x / 2
        if not split:
            return plainly(fun, x, baseline)
        return by(_split(fun, x), x, baseline)

    if sharded == "examples":
        batched, specs, args = jax.vmap(attributions), (P(sharded), P(sharded)), (xs, labels)
        expected = jax.vmap(functools.partial(attributions, split=False))(*args)
    else:
        # The gradient with respect to what devices share is the sum over devices.
        batched, specs, args = (
            lambda x, label: attributions(x, label[0]),
            (P(), P(sharded)),
            (xs[0], labels),
        )
        expected = sum(attributions(xs[0], label, split=False) for label in labels)
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=True)
    assert _distance(jax.device_get(jax.jit(mapped)(*args)), jax.device_get(expected)) < 1e-6


def test_explicit_shardings():
    """An input sharded over features, which the layer contracts and then spreads."""
    mesh = jax.make_mesh((8,), ("features",), axis_types=(AxisType.Explicit,))
    kernel = jnp.asarray(_random(24, 16) / 5, jnp.float32)
    x = jnp.asarray(_random(24), jnp.float32)

    def fun(x: jax.Array, spread: Callable[..., jax.Array]) -> jax.Array:
        return jnp.sum(jnp.tanh(spread(2 * x) @ kernel))

    expected = plainly(functools.partial(fun, spread=lambda x: x), x, jnp.zeros_like(x))
    with jax.set_mesh(mesh):
        whole = functools.partial(fun, spread=lambda x: jax.sharding.reshard(x, P(None)))
        placed = jax.device_put(x, NamedSharding(mesh, P("features")))

        def attributions(x: jax.Array) -> jax.Array:
            split = _split(whole, x)
            assert [h.shape for h in split.head(x)] == [(16,)]
            return by(split, x, jnp.zeros_like(x))

        result = jax.jit(attributions)(placed)
        assert result.sharding.spec == P("features")
    assert _distance(jax.device_get(result), jax.device_get(expected)) < 1e-6


def test_jit_that_asks_for_something_is_left_alone():
    mesh = jax.make_mesh((8,), ("features",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("features"))
    layer = jax.jit(lambda x: x @ _const(x, 24, 3), in_shardings=sharding)
    assert split_affine(trace(lambda x: jnp.sum(jnp.tanh(layer(x))), jnp.ones(24))) is None


def test_constraints_are_affine():
    mesh = jax.make_mesh((8,), ("features",), axis_types=(AxisType.Auto,))
    constraint = NamedSharding(mesh, P())

    def fun(x: jax.Array) -> jax.Array:
        return mlp(jax.lax.with_sharding_constraint(x, constraint))

    x = jnp.asarray(_random(30), jnp.float32)
    assert [h.shape for h in _split(fun, x).head(x)] == [(12,)]


def test_exported_with_open_lengths():
    def attributions(x: jax.Array) -> jax.Array:
        fun = lambda x: jnp.sum(jnp.tanh(x @ _const(x, 30, 12)))
        return by(_split(fun, x), x, jnp.zeros_like(x))

    (length,) = jax.export.symbolic_shape("length")
    exported = jax.export.export(jax.jit(attributions))(
        jax.ShapeDtypeStruct((length, 30), jnp.float32)
    )
    x = jnp.asarray(_random(7, 30), jnp.float32)
    assert _distance(exported.call(x), attributions(x)) < 1e-6


# Whatever the function, and wherever it is cut.


# Each from two matrices and a seed to a matrix.
OPS: list[Callable[[jax.Array, jax.Array, int], jax.Array]] = [
    lambda a, _, k: a @ _const(a, a.shape[1], 3, seed=k),
    lambda a, _, k: _const(a, 3, a.shape[0], seed=k) @ a,
    lambda a, _, k: jnp.einsum("ij,jik->ki", a, _const(a, *a.shape[::-1], 3, seed=k)),
    lambda a, _, k: a + _const(a, *a.shape, seed=k),
    lambda a, _, k: a * _const(a, *a.shape, seed=k),
    lambda a, _, k: a / (2 + jnp.sin(_const(a, *a.shape, seed=k))),
    lambda a, _, k: _const(a, *a.shape, seed=k) - a,
    lambda a, _, k: a.T,
    lambda a, _, k: a.reshape(a.shape[::-1]),
    lambda a, _, k: jnp.roll(a, k, axis=k % 2),
    lambda a, _, k: a[::-1, k % a.shape[1] :],
    lambda a, _, k: jnp.pad(a, ((k % 2, 0), (0, 1))),
    lambda a, _, k: jnp.tile(a, (2, 1))[:5],
    lambda a, _, k: a[jnp.array([0, k, 1]) % a.shape[0]],
    lambda a, _, k: jnp.zeros_like(a).at[jnp.array([0, k]) % a.shape[0]].add(2 * a[:1]),
    lambda a, _, k: a.at[k % a.shape[0]].set(a[0] / 2),
    lambda a, _, k: jnp.cumsum(a, axis=k % 2),
    lambda a, _, k: a - jnp.mean(a, axis=k % 2, keepdims=True),
    lambda a, _, k: jnp.where(_const(a, *a.shape, seed=k) > 0, a, 0.5),
    lambda a, _, k: _convolution(a[None, :, :, None], _random(2, 3, 1, 1, seed=k))[0, :, :, 0],
    lambda a, b, k: jnp.concatenate([a[:, :1], b[:1, :1] * jnp.ones_like(a[:, :1])], axis=1),
    lambda a, b, k: a + b[0, 0] if a.shape != b.shape else a + b,
    lambda a, b, k: jax.jit(lambda a, b: (b, a - 1, a + jnp.sum(b)))(a, b)[k % 3],
    lambda a, b, k: a * jnp.sum(b),
    lambda a, b, k: a * jax.lax.stop_gradient(jnp.sum(b)) - jax.lax.stop_gradient(a),
    lambda a, b, k: jnp.tanh(a),
    lambda a, b, k: jax.nn.relu(a),
    lambda a, b, k: jax.jit(_steeper)(a),
]


@jax.custom_vjp
def _steeper(x):
    return 2 * x


_steeper.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))

_steps = st.lists(st.tuples(st.sampled_from(OPS), *[st.integers(0, 5)] * 3), min_size=1, max_size=8)


def _interpret(steps: Any, x: Tree) -> jax.Array:
    """Runs a program: each step takes its operands from what there is."""
    values = jax.tree.leaves(x)
    for op, first, second, seed in steps:
        a, b = values[first % len(values)], values[-1 - second % len(values)]
        values.append(op(a, b, seed))
    return jnp.sum(jnp.sin(values[-1])) + jnp.sum(values[len(values) // 2]) * jnp.sum(values[-2])


def _check_program(steps: Any, interpolation: int) -> None:
    """However dear it is to interpolate: where it costs nothing, all that is affine is cut off."""
    fun = functools.partial(_interpret, steps)

    @jit
    def compared(x, baseline):
        split = split_affine(trace(fun, x), interpolation)
        assert split is not None or interpolation > 0
        if split is None:
            return []
        return [
            (split.tail(split.head(x)), fun(x)),
            *zip(by(split, x, baseline), plainly(fun, x, baseline), strict=True),
        ]

    with jax.enable_x64(True):
        for result, expected in compared(*_inputs((_random(3, 4), _random(2, 3)), "float64")):
            scale = 1 + np.abs(expected).max()
            np.testing.assert_allclose(result / scale, expected / scale, rtol=0, atol=1e-11)


_programs = given(steps=_steps, interpolation=st.sampled_from([0, 1, 8]))
test_random_programs = settings(max_examples=15, deadline=None)(_programs(_check_program))
test_many_random_programs = pytest.mark.slow(
    settings(max_examples=100, deadline=None)(_programs(_check_program))
)
