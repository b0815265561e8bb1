"""Functions cut in two at names, against the same functions cut by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from layered import SIZES, X, by_hand, network
from slowly import all_slow_but

import igjax
from igjax._jaxpr.names import cut


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


def test_points_that_depend_on_no_argument_are_not_listed_and_keep_their_number():
    weights = jnp.ones(3)

    def step(h, w):
        h = h * checkpoint_name(w, "w") + checkpoint_name(weights * 2, "w")
        return checkpoint_name(h, "h"), None

    def fun(x, flag):
        jax.jit(lambda w: checkpoint_name(w, "constant"))(weights)
        carried, _ = jax.lax.scan(step, jnp.zeros(3), jnp.stack([x, x]))
        return checkpoint_name(weights, "h") + carried

    listed = [("w", 0), ("h", 0), ("w", 2), ("h", 1)]
    assert list(igjax.layer_names(fun, jnp.ones(3), True)) == listed
    # What depends on an array of NumPy cannot be seen.
    assert len(igjax.layer_names(fun, np.ones(3), True)) == 8
    assert cut(fun, [("h", 1), ("h", 2)], (weights, True), {}).idle == [("h", 2)]
    assert cut(fun, ("h", 2), (np.ones(3), True), {}).idle == []


def test_what_is_written_to_a_mutable_array_is_depended_on():
    def writes(x):
        ref = jax.new_ref(jnp.zeros(3)) if hasattr(jax, "new_ref") else jax.array_ref(jnp.zeros(3))
        ref[...] = x
        return ref[...]

    fun = lambda x: checkpoint_name(jax.jit(writes)(x), "h")
    assert list(igjax.layer_names(fun, jnp.ones(3))) == ["h"]


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


def in_while(x):
    return jax.lax.while_loop(
        lambda c: jnp.all(c < 9), lambda c: checkpoint_name(c * 2, "inside"), x
    )


def in_cond(x):
    return jax.lax.cond(jnp.all(x > 0), lambda x: checkpoint_name(x, "inside"), lambda x: -x, x)


@pytest.mark.parametrize(
    ("fun", "kind"),
    [(in_while, "while"), (in_cond, "cond"), (jax.jit(in_while), "while")],
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


# Layers inside of `lax.scan`, against the same network as a loop in Python.


def scanned(step, carry, xs, length=None, *, reverse=False):
    return jax.lax.scan(step, carry, xs, length, reverse=reverse)


def looped(step, carry, xs, length=None, *, reverse=False):
    """What ``lax.scan`` does, written out."""
    length = length or jax.tree.leaves(xs)[0].shape[0]
    ys = [None] * length
    for i in reversed(range(length)) if reverse else range(length):
        carry, ys[i] = step(carry, jax.tree.map(lambda leaf, i=i: leaf[i], xs))
    return carry, jax.tree.map(lambda *rows: jnp.stack(rows), *ys)


STACKED = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, 4)) / 2, jnp.float32)


def block(h, weights):
    mixed = checkpoint_name(h @ weights, "mixed")
    return checkpoint_name(jnp.tanh(mixed) + h, "block"), jnp.sum(mixed)


def stack(loop, x, *, reverse=False, step=block):
    h, sums = loop(step, 2 * x, STACKED, reverse=reverse)
    weights = jnp.arange(1.0, 1 + sums.shape[0])
    return jnp.sum(jnp.sin(h)) + jnp.sum(jnp.cos(sums) * weights)


def without_inputs(loop, x):
    def step(carry, _):
        i, h = carry
        return (i + 1, checkpoint_name(jnp.sin(h * i) + x, "block")), None

    (_, h), _ = loop(step, (jnp.float32(0.0), x), None, 5)
    return jnp.sum(h**2)


def nested(loop, x):
    def outer(h, weights):
        h, sums = loop(block, h, STACKED[:2] * weights)
        return checkpoint_name(jnp.cos(h), "outer"), sums

    h, sums = loop(outer, x, jnp.linspace(0.5, 1.0, 3))
    return jnp.sum(h) + jnp.sum(sums)


@jax.custom_jvp
def steep_stack(x):
    return stack(jax.lax.scan, x)


steep_stack.defjvp(lambda x, dx: (steep_stack(*x), 2 * jax.jvp(steep_stack, x, dx)[1]))

IN_SCAN = {
    "carry and stacked": (stack, "block", 5),
    "inside of the block": (stack, "mixed", 5),
    "reverse": (functools.partial(stack, reverse=True), "block", 5),
    "no inputs": (without_inputs, "block", 5),
    "nested": (nested, "block", 6),
    "around the nested": (nested, "outer", 3),
    "jit": (lambda loop, x: jax.jit(functools.partial(stack, loop))(x), "mixed", 5),
    "checkpoint": (lambda loop, x: jax.checkpoint(functools.partial(stack, loop))(x), "block", 5),
    "checkpoint inside": (functools.partial(stack, step=jax.checkpoint(block)), "mixed", 5),
    "custom jvp": (
        lambda loop, x: steep_stack(x) if loop is scanned else stack(loop, x),
        "block",
        5,
    ),
}


@pytest.mark.parametrize("case", all_slow_but(["reverse", "nested", "jit"], IN_SCAN))
def test_a_layer_inside_of_scan_is_that_of_the_loop(case):
    fun, name, count = IN_SCAN[case]
    x = jnp.linspace(-1.0, 1.0, 4)
    in_scan, in_loop = functools.partial(fun, scanned), functools.partial(fun, looped)
    points = igjax.layer_names(in_scan, x)
    assert points == igjax.layer_names(in_loop, x)
    assert list(points) == list(igjax.layer_names(in_loop, x))
    assert sum(point[0] == name for point in points) == count
    for index in {0, 1, count - 1}:
        results, expected = (
            evaluated(*cut(fun, (name, index), (x,), {})[:2], x) for fun in (in_scan, in_loop)
        )
        close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
        jax.tree.map(close, results, expected)


@functools.partial(jax.jit, static_argnums=(0, 1))
def evaluated(head, tail, x):
    """All that head and tail may be asked for, away from the layer's value."""
    h = head(x)
    gradients = jax.grad(tail, (0, 1))(h * 1.1, x)
    return h, tail(h * 1.1, x), gradients, jax.jacrev(head)(x)


def test_a_scan_is_unrolled_only_where_it_is_cut():
    def fun(x):
        x = checkpoint_name(x * 2, "before")
        return stack(jax.lax.scan, x) + stack(jax.lax.scan, x + 1)

    def lengths(part, *args):
        return [
            eqn.params["length"]
            for eqn in jax.make_jaxpr(part)(*args).eqns
            if eqn.primitive.name == "scan"
        ]

    x = jnp.linspace(-1.0, 1.0, 4)
    _, tail = igjax.split_at(fun, "before")
    assert lengths(tail, x, x) == [5, 5]
    head, tail = igjax.split_at(fun, ("block", 7))
    assert lengths(head, x) == [2]
    assert lengths(tail, x, x) == [5, 2, 2]
    several = [("block", 1), ("mixed", 1), ("block", 6)]
    values = igjax.split_at(fun, several)[0](x)
    np.testing.assert_allclose(values[0], jnp.tanh(values[1]) + head_of(fun, ("block", 0), x))
    np.testing.assert_allclose(igjax.split_at(fun, several)[1](values, x), fun(x), rtol=1e-5)


def head_of(fun, name, x):
    return igjax.split_at(fun, name)[0](x)


def test_keys_are_scanned_and_stacked():
    def fun(x, key):
        def step(h, key):
            key = checkpoint_name(key, "key")
            return checkpoint_name(h + jax.random.normal(key), "h"), key

        h, keys = jax.lax.scan(step, x, jax.random.split(key, 3))
        return h + jax.random.normal(keys[1])

    x, key = jnp.float32(1.0), jax.random.key(0)
    head, tail = igjax.split_at(fun, [("h", 1), ("key", 2)])
    np.testing.assert_allclose(tail(head(x, key), x, key), fun(x, key), rtol=1e-6)


def test_a_scan_of_one_iteration_has_a_name_without_index():
    fun = lambda x: jnp.sum(jax.lax.scan(block, x, STACKED[:1])[0])
    x = jnp.ones(4)
    assert list(igjax.layer_names(fun, x)) == ["mixed", "block"]
    head, tail = igjax.split_at(fun, "block")
    np.testing.assert_allclose(tail(head(x), x), fun(x), rtol=1e-6)


def test_a_loop_in_a_scan_hides_what_is_in_it():
    fun = lambda x: jax.lax.scan(lambda h, _: (in_while(h), None), x, length=2)[0]
    with pytest.raises(ValueError, match="'inside' is inside of a while"):
        igjax.split_at(fun, "inside")[0](jnp.ones(2))


def test_a_scan_in_shard_map():
    """The input is shared; what is scanned, and so the layer, differs between devices."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x, scales = jnp.linspace(-1.0, 1.0, 4), jnp.linspace(0.5, 1.0, 8)

    def through(x, scale):
        fun = lambda x: stack(jax.lax.scan, x * scale[0])
        head, tail, _ = cut(fun, ("block", 2), (x,), {})
        h = head(x)
        return tail(h, x)[None], jax.grad(tail)(h, x)[None]

    split = jax.sharding.PartitionSpec("i")
    whole = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(
        through, mesh=mesh, in_specs=(whole, split), out_specs=(split, split), check_vma=True
    )
    values, slopes = jax.jit(mapped)(x, scales)
    for i, scale in enumerate(scales):
        fun = lambda x, scale=scale: stack(looped, x * scale)
        head, tail = igjax.split_at(fun, ("block", 2))
        np.testing.assert_allclose(values[i], fun(x), rtol=2e-5)
        np.testing.assert_allclose(slopes[i], jax.grad(tail)(head(x), x), rtol=2e-5, atol=1e-5)


def test_head_and_tail_of_a_cut_trace_once():
    traces = []

    def fun(x, *, power):
        traces.append(x)
        return {"sum": jnp.sum(checkpoint_name(x**power, "h")), "note": "text", "none": None}

    x = jnp.arange(3.0)
    head, tail, _ = cut(fun, "h", (x,), {"power": 2})
    h = head(x + 1, power=2)
    result = jax.jit(lambda h: tail(h, x, power=2)["sum"])(h)
    np.testing.assert_allclose(result, 14.0)
    assert tail(h, x, power=2)["note"] == "text"
    assert tail(h, x, power=2)["none"] is None
    np.testing.assert_allclose(jax.vmap(lambda x: head(x, power=2))(jnp.stack([x, x]))[1], x**2)
    assert len(traces) == 1
    with pytest.raises(ValueError, match="the function was cut for arguments"):
        head(x, power=(2, 2))


@pytest.mark.parametrize("shared", ["input", "nothing"])
def test_a_tail_in_shard_map_is_laid_out_as_what_it_is_given(shared):
    """The layer's value may differ between devices where the input does not."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    xs, shifts = jnp.arange(8.0), jnp.linspace(0.0, 1.0, 8)
    fun = lambda x: jnp.sum(jnp.sin(checkpoint_name(x * 2, "h")) * x)

    def through(x, shift):
        head, tail, _ = cut(fun, "h", (x,), {})
        return jax.vmap(lambda s: tail(head(x) + s, x))(shift)

    split = jax.sharding.PartitionSpec("i")
    first = jax.sharding.PartitionSpec() if shared == "input" else split
    mapped = jax.shard_map(
        through, mesh=mesh, in_specs=(first, split), out_specs=split, check_vma=True
    )
    x = xs if shared == "nothing" else xs[:1] + 0.5
    expected = jnp.sin(2 * x + shifts) * x
    np.testing.assert_allclose(jax.jit(mapped)(x, shifts), expected, rtol=1e-5, atol=1e-6)
