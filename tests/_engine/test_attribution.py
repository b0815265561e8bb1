"""What a transform returns: its name, what it traces and compiles, and its parts."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from slowly import all_slow_but

import igjax
from igjax._engine.attribution import Attribution
from igjax.quadrature import gregory, to_tolerance

MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
X = jnp.array([0.5, -1.0, 2.0])


def score(x: jax.Array, label: jax.Array) -> jax.Array:
    """Score of a label."""
    hidden = checkpoint_name(jnp.tanh(MATRIX @ x), "hidden")
    return jax.nn.softmax(3 * hidden)[label]


def embedded(ids: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.sin(checkpoint_name(MATRIX[ids], "embedding").sum()) * label


TOLERANCE = to_tolerance(1e-3, max_evals=80)
# Of each kind of method one: arguments, and how it is made.
MADE = {
    "integrated_grad": igjax.integrated_grad,
    "integrated_jacobian": igjax.integrated_jacobian,
    "layer_integrated_grad": lambda f, **o: igjax.layer_integrated_grad(f, "hidden", **o),
    "layer_conductance": lambda f, **o: igjax.layer_conductance(f, "hidden", **o),
    "internal_influence": lambda f, **o: igjax.internal_influence(f, "hidden", **o),
    "neuron_integrated_grad": lambda f, **o: igjax.neuron_integrated_grad(
        f, "hidden", neuron=1, **o
    ),
    "neuron_conductance": lambda f, **o: igjax.neuron_conductance(f, "hidden", neuron=1, **o),
    "layer_gradient_x_activation": lambda f: igjax.layer_gradient_x_activation(f, "hidden"),
    "token_integrated_grad": lambda f, **o: igjax.token_integrated_grad(
        f, "embedding", baseline=0, **o
    ),
}
OPTIONS = {
    "fixed": {},
    "report": {"has_report": True},
    "chunks": {"batch_size": 24, "has_report": True},
    "tolerance": {"rule": TOLERANCE, "has_report": True},
    "unmultiplied": {"multiply_by_inputs": False, "rule": TOLERANCE},
}
CASES = [
    pytest.param(name, options, id=f"{name}, {kind}")
    for name in MADE
    for kind, options in OPTIONS.items()
    if not (name == "layer_gradient_x_activation" and options)
    and not (name == "internal_influence" and "multiply_by_inputs" in options)
]


QUICK = [
    "integrated_grad, fixed",
    "integrated_grad, tolerance",
    "integrated_grad, chunks",
    "integrated_jacobian, report",
    "layer_conductance, tolerance",
    "token_integrated_grad, chunks",
    "layer_gradient_x_activation, fixed",
]


def arguments(name: str) -> tuple[jax.Array, jax.Array]:
    return (jnp.array([1, 3]) if name.startswith("token") else X), jnp.array(2)


def function(name: str):
    return embedded if name.startswith("token") else score


@pytest.mark.parametrize(("name", "options"), CASES)
def test_one_trace_for_a_call(name, options):
    fun, traces = function(name), 0

    @functools.wraps(fun)
    def counted(x, label):
        nonlocal traces
        traces += 1
        return fun(x, label)

    jax.eval_shape(MADE[name](counted, **options), *arguments(name))
    assert traces == 1


@pytest.mark.parametrize("name", MADE)
def test_it_has_a_name_and_a_docstring_of_its_own(name):
    fun = function(name)
    attribution = MADE[name](fun)
    assert isinstance(attribution, Attribution)
    assert attribution.__name__ == f"{name}({fun.__name__})"
    assert name in attribution.__doc__
    assert "Score of a label" not in attribution.__doc__
    assert inspect.signature(attribution) == inspect.signature(fun)
    assert name in repr(attribution)


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"rule": TOLERANCE}])
def test_a_loop_is_compiled_once_for_all_calls_like_it(options):
    traces = 0

    def counted(x, label, scale="one"):
        nonlocal traces
        traces += 1
        return score(x, label) * {"one": 1.0, "two": 2.0}[scale]

    attribution = igjax.integrated_grad(counted, **options)
    one = attribution(X, jnp.array(1))
    for shift in range(3):
        attribution(X + shift, jnp.array(shift))
    jax.vmap(attribution)(jnp.stack([X, X]), jnp.arange(2))
    assert traces == 2  # another one to be mapped, whose trace is then kept too
    jax.vmap(attribution)(jnp.stack([X, -X]), jnp.arange(2))
    assert traces == 2
    two = attribution(X, jnp.array(1), scale="two")  # what is no array is part of the program
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert traces == 3


def test_python_decides_by_what_is_no_array():
    def fun(x, flag, factor):
        assert isinstance(factor, int)
        return jnp.sum(x**2 if flag else x) * factor

    attribution = igjax.integrated_grad(fun, batch_size=5)
    np.testing.assert_allclose(attribution(X, True, 2), 2 * X**2, rtol=1e-5)
    np.testing.assert_allclose(attribution(X, False, 2), 2 * X, rtol=1e-5)
    # Equal to what came before, and of another type.
    with pytest.raises(AssertionError):
        attribution(X, True, 2.0)


def test_auxiliary_data_may_be_anything():
    fun = lambda x: (jnp.sum(x**2), {"name": "score", "x": x, "none": None})
    for options in ({}, {"batch_size": 5}, {"rule": TOLERANCE, "has_report": True}):
        _, aux, *_ = igjax.integrated_grad(fun, has_aux=True, **options)(X)
        assert aux["name"] == "score"
        assert aux["none"] is None
        np.testing.assert_array_equal(aux["x"], X)


@pytest.mark.parametrize(("name", "options"), all_slow_but(QUICK, CASES))
def test_the_steps_are_those_of_the_call(name, options):
    attribution = MADE[name](function(name), **options)
    if name == "layer_gradient_x_activation":
        assert attribution.steps is None  # nothing is integrated
        return
    steps, args = attribution.steps, arguments(name)
    work, taken = jax.jit(steps.begin)(*args), 0
    step, done = jax.jit(steps.step), jax.jit(steps.done)
    while not done(work):
        work, taken = step(work), taken + 1
        assert taken <= 64
    found, expected = jax.jit(steps.result)(work), jax.jit(attribution)(*args)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=5e-6)
    if options.get("batch_size") == 24:
        assert taken == 2  # 16 nodes in the beginning, 48 in two steps


def test_what_is_computed_once_is_not_part_of_a_step():
    seen = []

    def baseline(x):
        jax.debug.callback(lambda _: seen.append("baseline"), x)
        return jnp.zeros_like(x)

    def fun(x, label):
        jax.debug.callback(lambda _: seen.append("function"), x)
        return score(x, label)

    rule = gregory(64)
    attribution = igjax.integrated_grad(fun, baseline=baseline, rule=rule, batch_size=16)
    steps = attribution.steps
    work = jax.jit(steps.begin)(X, jnp.array(1))
    step = jax.jit(steps.step)
    while not jax.jit(steps.done)(work):
        work = step(work)
    jax.jit(steps.result)(work)
    jax.effects_barrier()
    assert seen.count("baseline") == 1
    assert seen.count("function") == 64


def test_a_wrapper_has_no_steps_of_what_it_wraps():
    attribution = igjax.integrated_grad(score)
    for wrapped in (functools.wraps(attribution)(lambda x, label: x), jax.jit(attribution)):
        assert not isinstance(wrapped, Attribution)
        assert getattr(wrapped, "steps", None) is None


def test_one_example_on_many_devices_has_no_steps():
    assert igjax.integrated_grad(score, sharding="nodes").steps is None
