"""What is peculiar to linen: traces that it keeps, methods that it intercepts, its errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import igjax
from igjax.flax import linen

KEY, X = jax.random.key(0), jnp.arange(1.0, 5.0)
KEYS = {"params": KEY, "dropout": KEY}
IDS = jnp.array([3, 1, 2])


def block(transform):
    """Makes a class whose modules drop half of what they return."""

    class Block(nn.Module):
        @transform
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x))

    return Block


def net(block):
    """Makes a model with two of a block: it draws another number after them."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = block(name="second")(block(name="first")(x))
            return x + jax.random.normal(self.make_rng("dropout"))

    return Net()


def root(block):
    """Makes a model that is one block."""
    return block()


def lambda_inside(block):
    """Makes a model that has a function of itself compiled."""

    class Inside(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(lambda module, x: block(parent=module, name="first")(x))(self, x)

    return Inside()


PLAIN = lambda method: method
NAMES = ["first/Dense_0", "first/Dropout_0", "first"]
KINDS = {
    "method": (
        lambda: net(block(nn.jit)),
        [*NAMES, *(n.replace("first", "second") for n in NAMES)],
    ),
    "class": (
        lambda: net(nn.jit(block(PLAIN))),
        [*NAMES, *(n.replace("first", "second") for n in NAMES)],
    ),
    "root": (lambda: root(block(nn.jit)), ["Dense_0", "Dropout_0"]),
    "function": (lambda: lambda_inside(block(PLAIN)), NAMES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nn_jit_keeps_what_is_traced_here_apart_from_what_is_traced_elsewhere(kind):
    make, names = KINDS[kind]
    values = []
    for order in ("training first", "igjax first"):
        model = make()  # classes that nothing has been traced of
        variables = model.init(KEYS, X)
        train = lambda model=model, v=variables: model.apply(v, X, rngs={"dropout": KEY})
        fun = linen.function(model, rngs={"dropout": KEY})
        if order == "training first":
            train()
        assert list(igjax.layer_names(fun, variables, X)) == names
        values.append((train(), fun(variables, X), train()))
    for first, second in zip(*values, strict=True):
        np.testing.assert_array_equal(first, second)
    trained, evaluated, trained_again = values[0]
    np.testing.assert_array_equal(trained, trained_again)
    assert not np.array_equal(trained, evaluated)


def test_nn_jit_traces_once():
    traces = []

    class Counted(nn.Module):
        @nn.jit
        @nn.compact
        def __call__(self, x):
            traces.append(x)
            return nn.Dense(2)(x)

    variables = Counted().init(KEY, X)
    fun = linen.function(Counted())
    traces.clear()
    for _ in range(2):
        fun(variables, X)
    assert len(traces) == 1


def test_a_compiled_function_that_applies_another_model():
    teacher = block(PLAIN)()
    of_teacher = teacher.init(KEYS, X)
    teach = jax.jit(lambda x: teacher.apply(of_teacher, x, rngs={"dropout": KEY}))

    class Pupil(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="own")(teach(x))

    variables = Pupil().init(KEY, X)
    trained = Pupil().apply(variables, X)
    fun = linen.function(Pupil())
    assert list(igjax.layer_names(fun, variables, X)) == ["Dense_0", "Dropout_0", "own"]
    assert not np.array_equal(fun(variables, X), trained)
    np.testing.assert_array_equal(Pupil().apply(variables, X), trained)


class Embedder(nn.Module):
    def setup(self):
        self.table = self.param("table", nn.initializers.normal(), (10, 4))

    def encode(self, ids):
        return self._looked_up(ids)

    def decode(self, x):
        return x @ self.table.T

    def positions(self, length):
        return self.table[:length]

    def whole(self, ids):
        return {"table": self.table, "length": len(ids), "key": jax.random.key(0)}

    def _looked_up(self, ids):
        return self.table[ids]


class Scaled(Embedder):
    def encode(self, ids):
        return 2 * super().encode(ids)


class Language(nn.Module):
    def setup(self):
        self.embedder = Scaled()

    def __call__(self, ids):
        x = self.own(self.embedder.encode(ids) + self.embedder.positions(len(ids)))
        x, _ = nn.scan(
            lambda module, x, _: (jnp.tanh(x), None), variable_broadcast="params", length=2
        )(self.embedder, x, None)
        return self.embedder.decode(x)[-1, 3] + self.embedder.whole(ids)["table"][0, 0]

    def own(self, x):
        return x + 1


def test_methods_other_than_call_have_names():
    model = Language()
    variables = model.init(KEY, IDS)
    fun = linen.function(model)
    # Not what is private, what is made of no array, parameters themselves, and keys.
    assert list(igjax.layer_names(fun, variables, IDS)) == [
        "embedder.encode",
        "own",
        "embedder.decode",
    ]
    h = igjax.split_at(fun, "embedder.encode")[0](variables, IDS)
    np.testing.assert_array_equal(h, 2 * variables["params"]["embedder"]["table"][IDS])
    attribute = igjax.token_integrated_grad(fun, "embedder.encode", 1, baseline=0)
    assert jax.eval_shape(attribute, variables, IDS).shape == IDS.shape


def test_kernels_are_no_layers():
    model = nn.RNN(nn.OptimizedLSTMCell(2, name="cell"))
    x = jnp.ones((1, 1, 2))
    variables = model.init(KEY, x)
    points = igjax.layer_names(linen.function(model), variables, x)
    assert list(points) == [("cell", 0), ("cell", 1), ("cell", 2)]  # c, h and the output


class Outer(nn.Module):
    """Has a module of its own without variables, not bound to it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Double(parent=None)(x))


class Double(nn.Module):
    def __call__(self, x):
        return 2 * x


def test_modules_that_are_not_bound():
    variables = Outer().init(KEY, X)
    fun = linen.function(Outer())
    assert list(igjax.layer_names(fun, variables, X)) == ["Dense_0"]
    np.testing.assert_array_equal(fun(variables, X), Outer().apply(variables, X))


@pytest.mark.parametrize(
    "method",
    ["encode", Embedder.encode, Embedder().encode, lambda module, ids: module.encode(ids)],
)
def test_the_method_to_call(method):
    variables = {"params": {"table": jnp.arange(40.0).reshape(10, 4)}}
    fun = linen.function(Embedder(), method=method, target=(1, 2))
    assert fun(variables, IDS) == 6


class Convolutional(nn.Module):
    """Takes batches."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3,))(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def test_batches_of_one_example():
    x = jnp.ones((4, 2))
    model = Convolutional()
    variables = model.init(KEY, x[None])
    with pytest.raises(ValueError, match=r"takes batches, give it a batch of one.*x\[None\]\)\[0"):
        linen.function(model)(variables, x)
    expected = model.apply(variables, x[None])[0, 2]
    assert linen.function(model, target=(0, 2))(variables, x[None]) == expected
    with pytest.raises(ValueError, match=r"each axis of the output, of shape \(1, 3\); got \(2,\)"):
        linen.function(model, target=(2,))(variables, x[None])
    with pytest.raises(ValueError, match="must be less than 1; got 2"):
        linen.function(model, target=(2, 0))(variables, x[None])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "nope"}, ValueError, "no method 'nope'"),
        ({"method": "features"}, ValueError, "no method 'features'"),
        ({"method": ""}, ValueError, "no method ''"),
        ({"method": 3}, TypeError, "method must be the name of a method.*got 3"),
        ({"rngs": 3}, TypeError, "rngs must be a key.*got 3"),
        ({"rngs": "a"}, TypeError, "rngs must be a key.*got 'a'"),
        ({"rngs": jnp.ones(3)}, TypeError, "rngs must be a key.*got Array"),
        ({"rngs": jax.random.split(KEY)}, TypeError, "rngs must be a key.*got Array"),
        ({"rngs": {"dropout": 3}}, TypeError, "rngs must be a key.*got {'dropout': 3}"),
        ({"rngs": {3: KEY}}, TypeError, "rngs must be a key.*got {3: "),
        ({"target": "a"}, TypeError, "target must be an integer.*got 'a'"),
        ({"target": 1.5}, TypeError, "target must be an integer.*got 1.5"),
        ({"target": True}, TypeError, "target must be an integer.*got True"),
        ({"target": jnp.array([3])}, TypeError, "target must be an integer.*For a label with each"),
        ({"target": jnp.ones(())}, TypeError, "target must be an integer"),
        ({"target": (0, None)}, TypeError, r"target must be an integer.*got \(0, None\)"),
        ({"target": [0, 1]}, TypeError, r"target must be an integer.*got \[0, 1\]"),
    ],
)
def test_bad_options_are_refused_when_they_are_given(options, error, message):
    with pytest.raises(error, match=message):
        linen.function(nn.Dense(3), **options)


def test_a_module_that_cannot_be_called():
    class Uncallable(nn.Module):
        def encode(self, x):
            return x

    with pytest.raises(ValueError, match="no method '__call__'"):
        linen.function(Uncallable())
    assert linen.function(Uncallable(), method="encode")({}, 3.0) == 3.0


@pytest.mark.parametrize("rngs", [KEY, {"dropout": jax.random.PRNGKey(0)}, {}, None])
def test_keys_of_all_kinds(rngs):
    assert jax.jit(lambda rngs: linen.function(nn.Dense(3), rngs=rngs) and 1)(rngs) == 1
