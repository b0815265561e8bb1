"""What is peculiar to NNX: models are objects, whose classes are wrapped while one is called."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import igjax
import igjax.flax.nnx

X = jnp.arange(1.0, 4.0)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class ByType(nnx.Module):
    """Looks at what its submodules are."""

    def __init__(self, rngs):
        self.block, self.linear = Block(rngs), nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        x = self.block(x) * len(type(self.block).__mro__)
        x = x * {Block: 5}.get(type(self.block), 1)
        x = x * (3 if self.linear.__class__ is nnx.Linear else 1)
        return self.linear(x) * (2 if type(self) is ByType else 1)


def test_submodules_are_of_their_own_classes():
    model = ByType(nnx.Rngs(0))
    fun, state = igjax.flax.nnx.function(model)
    np.testing.assert_array_equal(fun(state, X), model(X))
    assert list(igjax.layer_names(fun, state, X)) == ["block/linear", "block", "linear"]


class Mixed(nnx.Module):
    """Goes through what a submodule has, and has one of linen."""

    def __init__(self, rngs):
        self.parts = nnx.Dict(first=Block(rngs), second=Block(rngs))
        self.linen = nnx.bridge.ToNNX(nn.Dense(2), rngs=rngs)
        nnx.bridge.lazy_init(self.linen, X)

    def __call__(self, x):
        for name in self.parts:
            x = len(self.parts) * self.parts[name](x)
        return self.linen(x)


def test_what_looks_at_all_attributes_sees_its_own():
    model = Mixed(nnx.Rngs(0))
    fun, state = igjax.flax.nnx.function(model)
    np.testing.assert_array_equal(fun(state, X), model(X))
    parts = [f"parts/{name}{part}" for name in ("first", "second") for part in ("/linear", "")]
    assert list(igjax.layer_names(fun, state, X)) == [*parts, "linen"]


class Mixin:
    def mixed(self, x):
        return jnp.sin(x)


class Encoder(Mixin, nnx.Module):
    """Has methods of all kinds, calls itself, and counts its calls."""

    def __init__(self, rngs):
        self.linear, self.calls = nnx.Linear(3, 3, rngs=rngs), nnx.Variable(jnp.zeros(()))

    def __call__(self, x, again=1):
        assert self.itself(x) is self
        assert self.kernel(x) is self.linear.kernel
        self.calls[...] += 1
        return self(x, again - 1) if again else self.encode(x) + self.start(3) + self.calls[...]

    def itself(self, _):
        return self

    def kernel(self, _):
        return self.linear.kernel

    def start(self, length):
        return jnp.zeros(length)

    def encode(self, x):
        return self.compiled(self._private(self.mixed(x)))

    @nnx.jit
    def compiled(self, x):
        return self.linear(x)

    def _private(self, x):
        return x + 1


class Derived(Encoder):
    def __call__(self, x):
        return 2 * super().__call__(x, again=0)

    def encode(self, x):
        return super().encode(x) + 1


class Two(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = Encoder(rngs), Derived(rngs)

    def __call__(self, x):
        return self.own(self.second(self.first(x)))

    def own(self, x):
        return x[0]


def test_methods_have_names():
    model = Two(nnx.Rngs(0))
    fun, state = igjax.flax.nnx.function(model)
    kinds = ["mixed", "linear", "compiled", "encode", "__call__"]
    name = lambda path, kind: {"linear": f"{path}/linear", "__call__": path}.get(
        kind, f"{path}.{kind}"
    )
    first, second = ([name(path, kind) for kind in kinds] for path in ("first", "second"))
    first[-1:] = [("first", 0), ("first", 1)]  # it calls itself
    assert list(igjax.layer_names(fun, state, X)) == [*first, *second, "own"]
    np.testing.assert_allclose(fun(state, X), model(X), rtol=1e-6)
    assert model.first.calls[...] == 2
    h = igjax.split_at(fun, "first.mixed")[0](state, X)
    np.testing.assert_array_equal(h, jnp.sin(X))


KINDS = [Two, Encoder, Derived, Mixin, nnx.Linear, nnx.Dropout]


def test_classes_are_as_they_were_after_a_call_and_after_a_failure():
    before = [dict(vars(kind)) for kind in KINDS]
    fun, state = igjax.flax.nnx.function(Two(nnx.Rngs(0)))
    igjax.layer_names(fun, state, X)
    with pytest.raises(TypeError):
        fun(state, X[:2])
    assert [dict(vars(kind)) for kind in KINDS] == before


class Waiting(nnx.Module):
    """Waits, in evaluation mode."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.9, rngs=rngs)
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, x, waits):
        if waits:
            self.entered.set()
            self.leave.wait(60)
        return self.dropout(x, deterministic=False)


def test_other_threads_models_are_called_as_they_are():
    model = Waiting(nnx.Rngs(0))
    expected = Waiting(nnx.Rngs(0))(X, waits=False)
    fun, state = igjax.flax.nnx.function(model)
    found = []
    thread = threading.Thread(target=lambda: found.append(fun(state, X, waits=True)))
    thread.start()
    assert model.entered.wait(60)
    np.testing.assert_array_equal(model(X, waits=False), expected)  # and drops what it drops
    model.leave.set()
    thread.join()
    np.testing.assert_array_equal(found[0], X)
    assert not np.array_equal(X, expected)


class Compiled(nnx.Module):
    """Is compiled, with two submodules that are alike."""

    def __init__(self, rngs):
        self.first, self.second = CompiledBlock(rngs), CompiledBlock(rngs)

    @nnx.jit
    def __call__(self, x):
        return self.second(self.first(x))


class CompiledBlock(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs, deterministic=False)

    @nnx.jit
    def __call__(self, x):
        return self.dropout(self.linear(x), deterministic=False)


def test_what_nnx_jit_keeps_is_kept_apart():
    trained = Compiled(nnx.Rngs(0))(X)
    fun, state = igjax.flax.nnx.function(Compiled(nnx.Rngs(0)))
    assert list(igjax.layer_names(fun, state, X)) == [
        f"{place}{part}" for place in ("first", "second") for part in ("/linear", "/dropout", "")
    ]
    np.testing.assert_array_equal(Compiled(nnx.Rngs(0))(X), trained)
    assert not np.array_equal(fun(state, X), trained)


class Switched(nnx.BatchNorm):
    def __call__(self, x, *, use_running_average=None):
        return super().__call__(x, False) if use_running_average is False else super().__call__(x)


def test_derived_modules_are_in_evaluation_mode():
    class Norms(nnx.Module):
        def __init__(self, rngs):
            self.norm = Switched(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(x, use_running_average=False)

    fun, state = igjax.flax.nnx.function(Norms(nnx.Rngs(0)))
    np.testing.assert_allclose(fun(state, X[None]), X[None] / jnp.sqrt(1 + 1e-5), rtol=1e-6)
    fun, state = igjax.flax.nnx.function(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))  # a model itself
    np.testing.assert_allclose(fun(state, X[None], False), X[None] / jnp.sqrt(1 + 1e-5), rtol=1e-6)


def test_the_state_is_not_taken_for_the_input():
    fun, state = igjax.flax.nnx.function(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), target=1)
    with pytest.raises(ValueError, match="argument 0 is the model's parameters"):
        igjax.integrated_grad(fun)(state, X)
    own = igjax.integrated_grad(lambda state, x: 2 * fun(state, x))
    assert jax.tree.structure(jax.eval_shape(own, state, X)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": 3}, TypeError, "method must be the name of a method.*got 3"),
        ({"method": None}, TypeError, "method must be the name of a method.*got None"),
        ({"method": nnx.Linear.__call__}, TypeError, "method must be the name of a method"),
        ({"method": "nope"}, ValueError, "no method 'nope'"),
        ({"target": "a"}, TypeError, "target must be an integer.*got 'a'"),
        ({"target": jnp.array([3])}, TypeError, "target must be an integer.*got Array"),
    ],
)
def test_bad_options_are_refused_when_they_are_given(options, error, message):
    with pytest.raises(error, match=message):
        igjax.flax.nnx.function(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), **options)
