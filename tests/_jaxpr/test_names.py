"""Functions cut in two at names, against the same functions cut by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from layered import SIZES, X, by_hand, network

import igjax


def test_names_lists_the_points_with_their_shapes():
    points = igjax.layer_names(network, jnp.ones(6))
    assert list(points) == ["layer0", "layer1", "layer2"]
    assert [point.shape for point in points.values()] == [(8,), (7,), (5,)]
    assert {point.dtype for point in points.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("i", range(3))
def test_head_and_tail_are_those_split_by_hand(i):
    head, tail = igjax.split_at(network, f"layer{i}")
    first, second = by_hand(i)
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(head(x), first(x), rtol=1e-6)
    h = jnp.linspace(-1.0, 1.0, SIZES[i + 1])
    np.testing.assert_allclose(tail(h, x), second(h), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(tail)(head(x), x), network(x), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(tail)(h, x), jax.grad(second)(h), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(jax.jacfwd(head))(jnp.stack([x, -x])),
        jax.vmap(jax.jacrev(first))(jnp.stack([x, -x])),
        rtol=1e-5,
        atol=1e-6,
    )


def test_several_intermediates_at_once():
    head, tail = igjax.split_at(network, ["layer0", "layer2"])
    x = jnp.asarray(X, jnp.float32)
    h = head(x)
    assert [value.shape for value in h] == [(8,), (5,)]
    assert tail(h, x) == network(x)
    np.testing.assert_allclose(tail((h[0], jnp.zeros(5)), x), 0.0)
    with pytest.raises(ValueError, match="2 intermediates were split at; got 1"):
        tail((h[0],), x)


def test_what_goes_past_the_layer_is_in_the_tail():
    fun = lambda x: checkpoint_name(x * 2, "doubled") + x
    _, tail = igjax.split_at(fun, "doubled")
    assert tail(jnp.float32(1.0), jnp.float32(10.0)) == 11.0
    assert jax.grad(tail, 1)(jnp.float32(1.0), jnp.float32(10.0)) == 1.0


@jax.custom_jvp
def doubly_steep(x):
    return checkpoint_name(jnp.sin(x), "inner") * 3.0


@doubly_steep.defjvp
def _(primals, tangents):
    return doubly_steep(*primals), 2.0 * jnp.cos(primals[0]) * 3.0 * tangents[0]


@jax.custom_vjp
def halved(x):
    return checkpoint_name(jnp.sin(x), "inner") * 3.0


halved.defvjp(lambda x: (halved(x), x), lambda x, g: (g * 1.5 * jnp.cos(x),))


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: doubly_steep,
        lambda f: halved,
        lambda f: jax.checkpoint(halved),
    ],
    ids=["jit", "remat", "nested", "custom_jvp", "custom_vjp", "custom_vjp in remat"],
)
def test_names_inside_of_called_functions(wrap):
    inner = wrap(lambda x: checkpoint_name(jnp.sin(x), "inner") * 3.0)
    scale = jnp.float32(0.5)
    fun = lambda x: jnp.sum(jnp.cos(inner(x * scale)))
    x = jnp.arange(3.0)
    head, tail = igjax.split_at(fun, "inner")
    np.testing.assert_allclose(head(x), jnp.sin(x / 2), rtol=1e-6)
    np.testing.assert_allclose(tail(head(x), x), fun(x), rtol=1e-6)
    slopes = jax.jit(jax.grad(tail))(head(x), x)
    np.testing.assert_allclose(slopes, -3.0 * jnp.sin(3.0 * head(x)), rtol=1e-5)


def test_a_derivative_of_its_own_is_kept_where_it_is_not_cut():
    fun = lambda x: jnp.sum(doubly_steep(checkpoint_name(x * 1.0, "before")))
    _, tail = igjax.split_at(fun, "before")
    x = jnp.arange(3.0)
    np.testing.assert_allclose(jax.grad(tail)(x, x), 6.0 * jnp.cos(x), rtol=1e-5)


def test_a_derivative_of_its_own_is_kept_in_calls_that_are_not_cut():
    fun = lambda x: doubly_steep(doubly_steep(x))
    x = jnp.float32(0.3)
    assert list(igjax.layer_names(fun, x)) == [("inner", 0), ("inner", 1)]
    head, tail = igjax.split_at(fun, ("inner", 0))
    inner = head(x)
    assert inner == jnp.sin(x)
    np.testing.assert_allclose(jax.grad(tail)(inner, x), 6 * jnp.cos(3 * inner) * 3, rtol=1e-5)
    head, tail = igjax.split_at(fun, ("inner", 1))
    np.testing.assert_allclose(
        jax.grad(head)(x), jnp.cos(3 * jnp.sin(x)) * 6 * jnp.cos(x), rtol=1e-5
    )
    np.testing.assert_allclose(jax.grad(tail)(head(x), x), 3.0, rtol=1e-6)


def test_one_intermediate_by_two_names_is_refused():
    with pytest.raises(ValueError, match="each intermediate once"):
        igjax.split_at(network, ["layer0", ("layer0", 0)])[0](jnp.ones(6))
    with pytest.raises(ValueError, match="each intermediate once"):
        igjax.split_at(network, ["layer0", "layer0"])[0](jnp.ones(6))


def test_mutable_arrays_are_refused_unless_they_are_elsewhere():
    def writes(x):
        ref = jax.new_ref(x) if hasattr(jax, "new_ref") else jax.array_ref(x)
        ref[...] = 2 * x
        return ref[...]

    with pytest.raises(ValueError, match=r"writes to a mutable array \(jax\.new_ref\)"):
        igjax.split_at(lambda x: checkpoint_name(writes(x), "h"), "h")[0](jnp.ones(3))
    head, _ = igjax.split_at(lambda x: checkpoint_name(jax.jit(writes)(x), "h"), "h")
    np.testing.assert_array_equal(head(jnp.ones(3)), 2.0)


def test_arrays_of_numpy_may_decide_about_shapes():
    fun = lambda x, mask, axis: jnp.sum(checkpoint_name(x, "h")[mask], axis=axis)
    x, mask = jnp.ones((3, 2)), np.array([True, False, True])
    head, tail = igjax.split_at(fun, "h")
    np.testing.assert_array_equal(
        tail(2 * head(x, mask, np.int64(1)), x, mask, np.int64(1)), [4.0, 4.0]
    )


def test_static_arguments_by_name_and_position():
    fun = lambda x, power: jnp.sum(checkpoint_name(2 * x, "h") ** power)
    _, tail = igjax.split_at(fun, "h")
    x = jnp.arange(3.0)
    assert jax.jit(tail, static_argnames="power")(x, x, power=2) == 5.0
    assert jax.jit(tail, static_argnums=2)(x, x, 3) == 9.0


def test_keys_scalars_and_constants_between_head_and_tail():
    def fun(x, key):
        key = checkpoint_name(jax.random.split(key)[0], "key")
        return checkpoint_name(jnp.float32(2.0), "two") * x + jax.random.normal(key)

    x, key = jnp.float32(3.0), jax.random.key(0)
    head, tail = igjax.split_at(fun, ["key", "two"])
    values = head(x, key)
    assert all(isinstance(value, jax.Array) for value in values)
    assert tail(values, x, key) == fun(x, key)
    np.testing.assert_allclose(tail((values[0], 5), x, key) - fun(x, key), 9.0, rtol=1e-6)


def test_names_of_shapes():
    points = igjax.layer_names(network, jax.ShapeDtypeStruct((6,), jnp.float32))
    assert points == igjax.layer_names(network, jnp.ones(6))
    with pytest.raises(TypeError, match="names takes a function; got 3"):
        igjax.layer_names(3, jnp.ones(6))


def test_closed_over_parameters_under_outer_transformations():
    def loss(scale, x):
        fun = lambda x: jnp.sum(checkpoint_name(x * scale, "scaled") ** 2)
        head, tail = igjax.split_at(fun, "scaled")
        return tail(head(x), x)

    x = jnp.arange(3.0)
    gradient = jax.jit(jax.vmap(jax.grad(loss), (0, None)))(jnp.array([1.0, 2.0]), x)
    np.testing.assert_allclose(gradient, [10.0, 20.0])


def test_arguments_that_are_no_arrays_stay_as_they_are():
    def fun(x, *, power, mode="sum"):
        h = checkpoint_name(x**power, "power")
        return h.sum() if mode == "sum" else h.prod()

    head, tail = igjax.split_at(fun, "power")
    x = jnp.array([1.0, 2.0])
    assert tail(head(x, power=3), x, power=3, mode="prod") == 8.0


def test_a_name_used_twice_is_addressed_by_index():
    fun = lambda x: checkpoint_name(checkpoint_name(x + 1, "a") * 2, "a")
    assert list(igjax.layer_names(fun, jnp.float32(1.0))) == [("a", 0), ("a", 1)]
    head, tail = igjax.split_at(fun, ("a", 1))
    assert head(jnp.float32(1.0)) == 4.0
    assert tail(jnp.float32(5.0), jnp.float32(1.0)) == 5.0
    head, _ = igjax.split_at(fun, ("a", 0))
    assert head(jnp.float32(1.0)) == 2.0
    assert igjax.split_at(network, ("layer0", 0))[0](jnp.ones(6)).shape == (8,)
    with pytest.raises(ValueError, match=r"2 intermediates are named 'a': take one of \('a', 0\)"):
        igjax.split_at(fun, "a")[0](jnp.float32(1.0))
    with pytest.raises(ValueError, match=r"got \('a', 2\)"):
        igjax.split_at(fun, ("a", 2))[0](jnp.float32(1.0))


def in_scan(x):
    return jax.lax.scan(lambda c, _: (checkpoint_name(c * 2, "inside"), None), x, length=3)[0]


def in_while(x):
    return jax.lax.while_loop(
        lambda c: jnp.all(c < 9), lambda c: checkpoint_name(c * 2, "inside"), x
    )


def in_cond(x):
    return jax.lax.cond(jnp.all(x > 0), lambda x: checkpoint_name(x, "inside"), lambda x: -x, x)


@pytest.mark.parametrize(
    ("fun", "kind"),
    [(in_scan, "scan"), (in_while, "while"), (in_cond, "cond"), (jax.jit(in_scan), "scan")],
)
def test_a_point_in_a_loop_or_a_branch_cannot_be_had(fun, kind):
    assert igjax.layer_names(fun, jnp.ones(2)) == {}
    with pytest.raises(ValueError, match=f"'inside' is inside of a {kind}"):
        igjax.split_at(fun, "inside")[0](jnp.ones(2))


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"'layer_1'\. Did you mean 'layer1'"):
        igjax.split_at(network, "layer_1")[0](jnp.ones(6))
    with pytest.raises(ValueError, match="There are 'layer0', 'layer1', 'layer2'"):
        igjax.split_at(network, "encoder")[0](jnp.ones(6))
    with pytest.raises(ValueError, match=r"none has a name.*checkpoint_name"):
        igjax.split_at(jnp.sin, "encoder")[0](jnp.ones(6))


@pytest.mark.parametrize("name", [3, (), [], [1], {"a"}, ("a", "b", "c", 1), None])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(TypeError):
        igjax.split_at(network, name)


def test_a_value_unlike_the_intermediate_is_refused():
    _, tail = igjax.split_at(network, "layer0")
    with pytest.raises(ValueError, match=r"'layer0' has shape \(8,\); got a value of shape \(7,\)"):
        tail(jnp.ones(7), jnp.ones(6))
    with pytest.raises(TypeError, match="'layer0' has dtype float32; got a value of int32"):
        tail(jnp.ones(8, jnp.int32), jnp.ones(6))
    with pytest.raises(TypeError, match="takes a function"):
        igjax.split_at(3.0, "layer0")
