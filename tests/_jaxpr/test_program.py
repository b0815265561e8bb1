"""Functions traced once and called in their traced form, and what is recognised in equations."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from igjax._jaxpr import program
from igjax._jaxpr.program import trace

X = jnp.linspace(-1.0, 1.0, 5)


@jax.custom_vjp
def steep(x):
    return jnp.sin(x)


steep.defvjp(lambda x: (steep(x), x), lambda x, g: (7 * g,))


def test_traced_once_and_called_often():
    calls = []

    def fun(x, extra):
        calls.append(x)
        return jnp.sum(steep(x["a"]) * x["b"]) * extra

    args = ({"a": X, "b": 2 * X}, jnp.float32(3.0))
    traced = trace(fun, *args)
    assert len(calls) == 1
    found = jax.jit(
        lambda x, extra: {
            "value": traced(x, extra),
            "gradient": jax.grad(traced)(x, extra),
            "batch": jax.vmap(jax.grad(traced), (None, 0))(x, jnp.arange(3.0)),
        }
    )(*args)
    traced(*args), jax.grad(traced)(*args), jax.jit(traced)(*args)
    assert len(calls) == 1
    np.testing.assert_allclose(found["value"], fun(*args), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found["gradient"]["a"], 7 * 3 * args[0]["b"])
    np.testing.assert_allclose(
        found["batch"]["b"], jnp.arange(3.0)[:, None] * jnp.sin(X)[None], rtol=1e-6
    )


def test_forward_mode_and_linearization():
    traced = trace(lambda x: jnp.tanh(x) * jnp.arange(5.0), X)
    expected = jax.jvp(lambda x: jnp.tanh(x) * jnp.arange(5.0), (X,), (X,))
    for result in (jax.jvp(traced, (X,), (X,)), (traced(X), jax.linearize(traced, X)[1](X))):
        np.testing.assert_allclose(result[0], expected[0], rtol=1e-6)
        np.testing.assert_allclose(result[1], expected[1], rtol=1e-6)


def test_what_is_no_array_is_handed_through():
    Aux = collections.namedtuple(
        "Aux", ["name", "none", "fun", "logits", "number", "array", "text"]
    )

    def fun(x):
        return Aux("layer", None, jnp.tanh, 2 * x, 3, np.arange(2.0), np.array("text")), x[0]

    result, first = trace(fun, X)(X + 1)
    assert (result.name, result.none, result.fun) == ("layer", None, jnp.tanh)
    assert result.text.item() == "text"
    np.testing.assert_array_equal(result.logits, 2 * (X + 1))
    assert first == 0.0
    for array in (result.number, result.array, result.logits):
        assert isinstance(array, jax.Array)
    assert result.number == 3
    assert jax.grad(lambda x: trace(fun, x)(x)[1])(X)[0] == 1.0


def test_shapes_keys_and_numbers_for_arguments():
    fun = lambda x, key, scale: x * scale + jax.random.normal(key, x.shape)
    key = jax.random.key(0)
    traced = trace(fun, jax.ShapeDtypeStruct((5,), jnp.float32), key, 2.0)
    np.testing.assert_allclose(traced(X, key, 3.0), fun(X, key, 3.0), rtol=1e-6)
    np.testing.assert_allclose(traced(np.asarray(X), key, 3.0), fun(X, key, 3.0), rtol=1e-6)


def test_other_arguments_are_refused():
    with pytest.raises(ValueError, match=r"traced for arguments .*; got"):
        trace(lambda x: x, X)({"a": X})


def test_what_is_closed_over_may_be_traced():
    def loss(scale, x):
        traced = trace(lambda x: jnp.sum(jnp.sin(x * scale)), x)
        return jnp.sum(jax.grad(traced)(x)) + traced(2 * x)

    expected = jax.grad(lambda s: jnp.sum(s * jnp.cos(X * s)) + jnp.sum(jnp.sin(2 * X * s)))
    with jax.checking_leaks():
        slopes = jax.jit(jax.vmap(jax.grad(loss), (0, None)))(jnp.array([0.5, 2.0]), X)
    np.testing.assert_allclose(slopes, [expected(0.5), expected(2.0)], rtol=1e-5)


def test_effects_are_kept(capsys):
    def fun(x):
        jax.debug.print("seen {}", x[0])
        return x * 2

    traced = trace(fun, X)
    traced(X), jax.jit(jax.vmap(traced))(jnp.stack([X, X]))
    jax.effects_barrier()
    assert capsys.readouterr().out.count("seen") == 3


def test_on_devices():
    """In a shard_map, over examples; and on a mesh with explicit axes."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
    xs, weights = jnp.arange(16.0).reshape(8, 2), jnp.array([1.0, -2.0])

    def gradients(x):
        traced = trace(lambda x: jnp.sum(jnp.sin(x * weights)), x)
        return jax.grad(traced)(x) + traced(x)

    expected = jax.vmap(lambda x: weights * jnp.cos(x * weights) + jnp.sum(jnp.sin(x * weights)))(
        xs
    )
    mapped = jax.shard_map(
        jax.vmap(gradients), mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=True
    )
    np.testing.assert_allclose(jax.jit(mapped)(xs), expected, rtol=1e-5, atol=1e-5)
    explicit = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(explicit):
        placed = jax.device_put(xs, P("i"))
        found = jax.jit(jax.vmap(gradients))(placed)
        assert found.sharding.spec[0] == "i"
    np.testing.assert_allclose(jax.device_get(found), expected, rtol=1e-5, atol=1e-5)


# What is recognised in equations. All that JAX doesn't document is made here by what it does.


def equation(fun, *args):
    (eqn,) = program.equations(jax.make_jaxpr(fun)(*args))
    return eqn


def test_a_jit_that_asks_for_nothing_may_be_written_out():
    assert program.body(equation(jax.jit(jnp.sin), X)) is not None
    assert program.body(equation(jnp.sin, X)) is None
    sharding = NamedSharding(jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,)), P())
    for options in ({"in_shardings": sharding}, {"out_shardings": sharding}):
        eqn = equation(jax.jit(jnp.sin, **options), X)
        assert program.body(eqn) is None
        assert program.called(eqn) is not None


@pytest.mark.parametrize(
    "fun",
    [
        jax.jit(jnp.sin),
        jax.checkpoint(jnp.sin),
        steep,
        jax.custom_jvp(jnp.sin),
        jax.jit(jax.checkpoint(steep)),
    ],
    ids=["jit", "checkpoint", "custom_vjp", "custom_jvp", "nested"],
)
def test_calls_are_entered(fun):
    if isinstance(fun, jax.custom_jvp):
        fun.defjvp(lambda x, dx: (jnp.sin(*x), dx[0]))
    body = program.called(equation(fun, X))
    while program.equations(body)[0].primitive.name != "sin":
        body = program.called(program.equations(body)[0])
    assert program.called(program.equations(body)[0]) is None


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("consts", [0, 2])
@pytest.mark.parametrize("carried", [0, 1, 2])
@pytest.mark.parametrize("scanned", [0, 1, 2])
def test_the_parts_of_a_scan(consts, carried, scanned, keys):
    """Found by their shapes, whatever the version of JAX calls them."""
    const = [X * (2 + i) for i in range(consts)]
    carry = [jnp.full((2, 3), 1.0 + i) for i in range(carried)]
    xs = [jnp.arange(4.0) * (i + 1) for i in range(scanned)]
    if keys and scanned:
        xs[0] = jax.random.split(jax.random.key(0), 4)

    def step(carry, row):
        shift = sum(map(jnp.sum, const)) if const else 0.0
        return [c + shift for c in carry], [*row, jnp.float32(1.0)]

    fun = lambda const, carry, xs: jax.lax.scan(step, carry, xs, length=4, reverse=True)
    closed = jax.make_jaxpr(fun)(const, carry, xs)
    (eqn,) = (eqn for eqn in program.equations(closed) if eqn.primitive.name == "scan")
    loop = program.as_loop(eqn)
    assert (loop.carried, loop.scanned, loop.length) == (carried, scanned, 4)
    assert loop.reverse
    parts = loop.parts(eqn.invars)
    assert [*map(len, parts[1:])] == [carried, scanned]


def test_places_that_hold_arrays_are_no_arrays():
    def fun(x):
        ref = jax.new_ref(x) if hasattr(jax, "new_ref") else jax.array_ref(x)
        return ref[...], jnp.sin(x), jax.random.key(0)

    eqns = program.equations(jax.make_jaxpr(fun)(X))
    kinds = {eqn.primitive.name: program.is_array(eqn.outvars[0]) for eqn in eqns}
    assert [name for name, is_array in kinds.items() if not is_array] == [eqns[0].primitive.name]
    assert "sin" in kinds


def test_functions_inside_of_equations_are_found_with_their_constants():
    table = np.arange(300.0, dtype=np.float32)
    inner = jax.jit(lambda x: jnp.sum(x) + table)

    def fun(x):
        branch = lambda x: jax.lax.while_loop(lambda x: x[0] < 0, lambda x: x + inner(x)[:5], x)
        looped = jax.lax.scan(lambda h, _: (jnp.cosh(h), None), x, length=2)[0]
        return jax.lax.cond(x[0] > 0, branch, steep, looped)

    closed = jax.make_jaxpr(fun)(X)
    for primitive in ("while", "cosh", "custom_vjp_call", "sin", "jit"):
        assert program.applies(closed, primitive), primitive
    assert not program.applies(closed, "tan")
    assert any(np.shape(constant) == (300,) for constant in program.constants(closed))


def test_names_are_equations():
    eqn = equation(lambda x: checkpoint_name(x, "hidden"), X)
    assert (eqn.primitive.name, eqn.params["name"]) == ("name", "hidden")
