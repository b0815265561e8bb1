"""The evaluator by rules: three miniature methods built on it, against loops by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax._jaxpr import program
from igjax._jaxpr.interpret import bind, interpret
from igjax._jaxpr.program import trace

WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 5)) / 2, jnp.float32)
X = jnp.linspace(-1.0, 1.2, 5)
BASELINE = jnp.array([0.3, -0.2, 0.1, 0.0, -0.5])


def interpreted(fun, rule, **options):
    """``fun`` of one array, or of its lifted value, evaluated by rules."""

    def call(x, like=None):
        traced = trace(fun, x if like is None else like)
        return traced.results(interpret(traced.closed, [x], rule, **options))

    return call


# Ways to write a network of four layers, h <- activation(weights @ h).


def plain(activation, x):
    for weights in WEIGHTS:
        x = activation(weights @ x)
    return x


def in_jit(activation, x):
    return jax.jit(functools.partial(plain, activation))(x)


def in_scan(activation, x):
    return jax.lax.scan(lambda h, w: (activation(w @ h), jnp.sum(h)), x, WEIGHTS)[0]


def in_scan_in_jit(activation, x):
    return jax.jit(lambda x: in_scan(jax.jit(activation), x))(x)


def in_checkpoint(activation, x):
    return jax.checkpoint(functools.partial(in_scan, jax.checkpoint(activation)))(x)


def in_custom_jvp(activation, x):
    @jax.custom_jvp
    def called(x):
        return plain(activation, x)

    called.defjvp(lambda x, dx: (called(*x), 7 * dx[0]))
    return called(x)


def in_custom_vjp(activation, x):
    called = jax.custom_vjp(functools.partial(plain, activation))
    called.defvjp(lambda x: (called(x), None), lambda _, g: (7 * g,))
    return called(x)


def in_reverse(activation, x):
    step = lambda h, w: (activation(w @ h), h)
    return jax.lax.scan(step, x, WEIGHTS[::-1], reverse=True)[0]


def in_while(activation, x):
    def body(carry):
        i, h = carry
        return i + 1, activation(WEIGHTS[i] @ h)

    return jax.lax.while_loop(lambda carry: carry[0] < 4, body, (0, x))[1]


def in_cond(activation, x):
    for weights in WEIGHTS:
        sure = jnp.sum(x) < 1e6
        x = jax.lax.cond(sure, lambda w, x: activation(w @ x), lambda _, x: x, weights, x)
    return x


WAYS = [plain, in_jit, in_scan, in_scan_in_jit, in_checkpoint, in_custom_jvp, in_custom_vjp]
WAYS += [in_reverse, in_cond]
ways = pytest.mark.parametrize("way", WAYS)


def assert_close(result, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), result, expected
    )


# Another function in the place of a primitive.


def sin_for_tanh(eqn):
    return (lambda x: [jnp.sin(x)]) if eqn.primitive.name == "tanh" else None


@pytest.mark.parametrize("way", [*WAYS, in_while])
def test_another_function_wherever_it_is(way):
    fun = interpreted(functools.partial(way, jnp.tanh), sin_for_tanh)
    expected = functools.partial(plain, jnp.sin)
    xs = jnp.stack([X, BASELINE, 2 * X])
    assert_close(fun(X), expected(X))
    assert_close(jax.jit(jax.vmap(fun))(xs), jax.vmap(expected)(xs))
    assert_close(jax.jvp(fun, (X,), (BASELINE,)), jax.jvp(expected, (X,), (BASELINE,)))
    if way is not in_while:
        slopes = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(fun(x) ** 2))))(xs)
        assert_close(slopes, jax.vmap(jax.grad(lambda x: jnp.sum(expected(x) ** 2)))(xs))


def test_values_that_are_closed_over_are_differentiated():
    def loss(scale, x, activation=jnp.tanh, rule=sin_for_tanh):
        return jnp.sum(interpreted(lambda x: in_scan_in_jit(activation, x * scale), rule)(x))

    slope = jax.jit(jax.grad(loss))(jnp.float32(0.7), X)
    assert_close(slope, jax.grad(lambda s: jnp.sum(plain(jnp.sin, X * s)))(jnp.float32(0.7)))


# Guided backpropagation: relu, with a derivative that lets only what is positive through.


@jax.custom_vjp
def guided_relu(x):
    return jnp.maximum(x, 0)


guided_relu.defvjp(
    lambda x: (guided_relu(x), x), lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0),)
)


def maximum_with_zero(x):
    return jnp.maximum(x, 0)


def is_zero(atom):
    return hasattr(atom, "val") and np.all(np.asarray(atom.val) == 0)


def guided(eqn):
    """A relu is ``max(x, 0)``, in whatever it is wrapped."""
    if eqn.primitive.name != "max" or not any(map(is_zero, eqn.invars)):
        return None
    (place,) = (i for i, atom in enumerate(eqn.invars) if not is_zero(atom))
    return lambda *operands: [guided_relu(operands[place])]


def guided_call(eqn):
    """A relu is the function with a derivative of its own that is nothing but ``max(x, 0)``."""
    is_relu = eqn.primitive.name == "custom_jvp_call" and "max" in str(eqn.params["call_jaxpr"])
    return (lambda x: [guided_relu(x)]) if is_relu else None


def guided_by_hand(x):
    inputs = []
    for weights in WEIGHTS:
        inputs.append(weights @ x)
        x = np.maximum(inputs[-1], 0)
    g = np.ones(5)
    for weights, value in zip(WEIGHTS[::-1], inputs[::-1], strict=True):
        g = weights.T @ np.where((value > 0) & (g > 0), g, 0)
    return g


@pytest.mark.parametrize(
    ("way", "relu", "rule"),
    [
        *((way, relu, guided) for way in WAYS for relu in (jax.nn.relu, maximum_with_zero)),
        (plain, jax.nn.relu, guided_call),
        (in_scan_in_jit, jax.nn.relu, guided_call),
        (in_checkpoint, jax.nn.relu, guided_call),
    ],
)
def test_guided_backpropagation(way, relu, rule):
    gradient = jax.grad(lambda x: jnp.sum(interpreted(functools.partial(way, relu), rule)(x)))
    xs = jnp.stack([X, BASELINE, -X])
    assert_close(jax.jit(jax.vmap(gradient))(xs), np.stack([*map(guided_by_hand, xs)]))


# DeepLIFT: pairs of values, at x and at the baseline. The secant is the derivative at x.


def secant(fun):
    @jax.custom_vjp
    def first(x, start):
        return fun(x)

    def backward(pair, g):
        x, start = pair
        return g * (fun(x) - fun(start)) / (x - start), jnp.zeros_like(start)

    first.defvjp(lambda x, start: (fun(x), (x, start)), backward)
    return first


def lifted(eqn):
    if eqn.primitive.name != "tanh":
        return None
    return lambda pair: [(secant(jnp.tanh)(*pair), jnp.tanh(pair[1]))]


def on_both(eqn, *pairs):
    firsts, seconds = zip(*pairs, strict=True)
    return [*zip(bind(eqn, *firsts), bind(eqn, *seconds), strict=True)]


def multipliers_by_hand(x, start):
    values = [(x, start)]
    for weights in WEIGHTS:
        values += [(weights @ x, weights @ start)]
        x, start = (np.tanh(value) for value in values[-1])
    m = np.ones(5)
    for weights, (value, at_start) in zip(WEIGHTS[::-1], values[:0:-1], strict=True):
        m = weights.T @ (m * (np.tanh(value) - np.tanh(at_start)) / (value - at_start))
    return m


@pytest.mark.parametrize("way", [*WAYS, in_while])
def test_pairs_of_values(way):
    fun = interpreted(
        functools.partial(way, jnp.tanh), lifted, default=on_both, lift=lambda value: (value, value)
    )

    def contributions(x, start):
        return jax.value_and_grad(lambda x: jnp.sum(fun((x, start), like=x)[0]))(x)

    if way in (in_while, in_cond):  # not entered: whole, at both
        assert_close(fun((X, BASELINE), like=X), tuple(plain(jnp.tanh, x) for x in (X, BASELINE)))
        return
    xs = jnp.stack([X, 2 * X])
    values, multipliers = jax.jit(jax.vmap(contributions, (0, None)))(xs, BASELINE)
    assert_close(multipliers, np.stack([multipliers_by_hand(x, BASELINE) for x in xs]))
    start = jnp.sum(plain(jnp.tanh, BASELINE))
    assert_close(jnp.sum(multipliers * (xs - BASELINE[None]), axis=1), values - start)


# Relevance propagation: matrix products whose derivative shares out by positive parts (z+).


@jax.custom_vjp
def z_plus(weights, x):
    return weights @ x


def _shares(residuals, g):
    weights, x = residuals
    positive = jnp.maximum(weights, 0)
    return jnp.zeros_like(weights), positive.T @ (g / (positive @ x + 1e-6))


z_plus.defvjp(lambda weights, x: (weights @ x, (weights, x)), _shares)


def by_z_plus(eqn):
    return (lambda w, x: [z_plus(w, x)]) if eqn.primitive.name == "dot_general" else None


@ways
def test_relevance_propagation(way):
    """The cotangents of a linear network."""
    x = jnp.abs(X)
    fun = interpreted(functools.partial(way, lambda h: h), by_z_plus)
    gradient = jax.grad(lambda x: jnp.sum(fun(x)))
    inputs, h = [], np.asarray(x)
    for weights in WEIGHTS:
        inputs.append(h)
        h = weights @ h
    g = np.ones(5)
    for weights, value in zip(WEIGHTS[::-1], inputs[::-1], strict=True):
        positive = np.maximum(weights, 0)
        g = positive.T @ (g / (positive @ value + 1e-6))
    np.testing.assert_allclose(jax.jit(gradient)(x), g, rtol=2e-4)


# What no rule is about.


def test_what_no_rule_is_about_stays_whole():
    called = jax.jit(lambda x: jnp.cos(x) * 2)

    @jax.custom_jvp
    def steep(x):
        return jnp.cos(x)

    steep.defjvp(lambda x, dx: (steep(*x), 5 * dx[0]))

    def fun(x):
        looped = jax.lax.scan(lambda h, _: (jnp.cos(h), None), called(x), length=3)[0]
        return jnp.tanh(steep(looped) + jax.checkpoint(jnp.cos)(x))

    closed = trace(fun, X).closed
    again = trace(interpreted(fun, sin_for_tanh), X).closed
    names = [eqn.primitive.name for eqn in again.eqns]
    assert names == [{"tanh": "sin"}.get(e.primitive.name, e.primitive.name) for e in closed.eqns]
    for old, new in zip(closed.eqns, again.eqns, strict=True):
        if old.primitive.name == "jit":  # of others JAX makes new ones
            assert program.called(new) is program.called(old)
    slope = jax.grad(lambda x: jnp.sum(interpreted(steep, sin_for_tanh)(x)))(X)
    np.testing.assert_array_equal(slope, 5.0)


def test_checkpoints_remain_with_their_policy():
    policy = jax.checkpoint_policies.everything_saveable
    fun = interpreted(jax.checkpoint(jnp.tanh, policy=policy, prevent_cse=False), sin_for_tanh)
    (eqn,) = jax.make_jaxpr(fun)(X).eqns
    assert eqn.primitive.name in ("checkpoint", "remat2")
    assert eqn.params["policy"] is policy
    assert not eqn.params["prevent_cse"]


def test_effects_and_constants_remain(capsys):
    table = jnp.arange(300.0)

    def fun(x):
        jax.debug.print("seen {}", jnp.sum(x))
        return jnp.tanh(table[:5] * x), table, 2.0, "text"

    result = interpreted(fun, sin_for_tanh)(X)
    jax.effects_barrier()
    assert capsys.readouterr().out.count("seen") == 1
    assert result[3] == "text"
    assert_close(result[:3], (jnp.sin(table[:5] * X), table, jnp.float32(2.0)))


def test_rules_are_asked_once_for_a_function_called_often():
    asked = []

    def rule(eqn):
        asked.append(eqn.primitive.name)

    inner = jax.jit(jnp.cos)
    fun = lambda x: functools.reduce(lambda h, _: inner(h), range(50), x)
    interpreted(fun, rule)(X)
    assert asked.count("jit") == 50
    assert asked.count("cos") == 1
