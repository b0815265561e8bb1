"""Flax models against the same networks as plain functions of the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import igjax
import igjax.flax.linen
import igjax.flax.nnx
from igjax.quadrature import gregory

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 2)), jnp.float32)
RULE = {"rule": gregory(16)}


class Block(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, (3, 3))(x)
        x = nn.BatchNorm()(x, not train)
        return nn.Dropout(0.5)(jnp.tanh(x), deterministic=not train)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = Block(4)(x, train)
        x = nn.Dense(6)(x.reshape(-1))
        return nn.Dense(3)(jax.nn.gelu(x))


class NNXBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv = nnx.Conv(2, features, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(jnp.tanh(self.norm(self.conv(x))))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.block = NNXBlock(4, rngs)
        self.dense = nnx.Linear(256, 6, rngs=rngs)
        self.readout = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.readout(jax.nn.gelu(self.dense(self.block(x).reshape(-1))))


def some_variables():
    """With batch statistics and biases that are not those of a new model."""
    variables = Linen().init(jax.random.key(0), X, train=False)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            leaf + 0.3 * jnp.abs(jax.random.normal(key, leaf.shape))
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def as_nnx(variables):
    model = NNX(nnx.Rngs(0))
    params, stats = variables["params"], variables["batch_stats"]["Block_0"]["BatchNorm_0"]
    block = params["Block_0"]
    for module, weights in (
        (model.block.conv, block["Conv_0"]),
        (model.block.norm, block["BatchNorm_0"]),
        (model.dense, params["Dense_0"]),
        (model.readout, params["Dense_1"]),
    ):
        for name, value in weights.items():
            getattr(module, name)[...] = value
    model.block.norm.mean[...], model.block.norm.var[...] = stats["mean"], stats["var"]
    return model


def plain(variables, x):
    params, stats = variables["params"], variables["batch_stats"]["Block_0"]["BatchNorm_0"]
    conv, norm = params["Block_0"]["Conv_0"], params["Block_0"]["BatchNorm_0"]
    x = jax.lax.conv_general_dilated(
        x[None], conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]
    x = checkpoint_name(x + conv["bias"][None, None], "conv")
    scale = norm["scale"] / jnp.sqrt(stats["var"] + 1e-5)
    x = (x - stats["mean"][None, None]) * scale[None, None] + norm["bias"][None, None]
    x = checkpoint_name(jnp.tanh(checkpoint_name(x, "norm")), "block")
    dense, readout = params["Dense_0"], params["Dense_1"]
    x = checkpoint_name(x.reshape(-1) @ dense["kernel"] + dense["bias"], "dense")
    return (jax.nn.gelu(x) @ readout["kernel"] + readout["bias"])[1]


LINEN_NAMES = {
    "conv": "Block_0/Conv_0",
    "norm": "Block_0/BatchNorm_0",
    "block": "Block_0",
    "dense": "Dense_0",
}
NNX_NAMES = {"conv": "block/conv", "norm": "block/norm", "block": "block", "dense": "dense"}


@pytest.fixture(params=["linen", "nnx"])
def wrapped(request):
    """A wrapped model, its parameters and its names for the plain function's."""
    variables = some_variables()
    if request.param == "linen":
        return igjax.flax.linen.function(Linen(), target=1), variables, LINEN_NAMES
    fun, state = igjax.flax.nnx.function(as_nnx(variables), target=1)
    return fun, state, NNX_NAMES


def test_the_same_values_and_input_attributions(wrapped):
    fun, params, _ = wrapped
    variables = some_variables()
    assert_close(fun(params, X), plain(variables, X))
    assert_close(
        jax.jit(igjax.integrated_grad(fun, 1, **RULE))(params, X),
        igjax.integrated_grad(plain, 1, **RULE)(variables, X),
    )


@pytest.mark.parametrize("point", ["conv", "norm", "block", "dense"])
@pytest.mark.parametrize("method", ["layer_integrated_grad", "layer_conductance"])
def test_the_same_attributions_at_every_layer(wrapped, method, point):
    fun, params, names = wrapped
    transform = getattr(igjax, method)
    found = jax.jit(transform(fun, names[point], 1, **RULE))(params, X)
    expected = jax.jit(transform(plain, point, 1, **RULE))(some_variables(), X)
    assert_close(found, expected)


def test_names_are_paths(wrapped):
    fun, params, names = wrapped
    assert {*names.values()} <= {*igjax.layer_names(fun, params, X)}


def test_parameters_are_no_constants_of_the_program(wrapped):
    fun, params, _ = wrapped
    program = jax.make_jaxpr(igjax.integrated_grad(fun, 1, **RULE))(params, X)
    assert sum(np.size(c) for c in program.consts) < 300  # nodes, weights
    penalty = lambda params: jnp.sum(jnp.abs(igjax.integrated_grad(fun, 1, **RULE)(params, X)))
    slopes = jax.jit(jax.grad(penalty, allow_int=True))(params)
    assert any(
        np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(slopes) if leaf.dtype == "f"
    )


class Transformer(nn.Module):
    """Attention with dropout and a mask, a block that is called twice, and a rematerialized one."""

    @nn.compact
    def __call__(self, ids, mask, deterministic=True):
        x = nn.Embed(20, 8, name="embed")(ids)
        attend = nn.MultiHeadDotProductAttention(2, dropout_rate=0.3, name="attention")
        x = x + attend(x, mask=mask[None, None, :], deterministic=deterministic)
        shared = nn.Dense(8, name="shared")
        x = nn.gelu(shared(nn.gelu(shared(x))))
        x = nn.remat(nn.Dense)(8, name="remat")(x)
        x = nn.Dropout(0.5, deterministic=deterministic)(nn.LayerNorm(name="norm")(x))
        return nn.Dense(3, name="head")(jnp.sum(jnp.where(mask[:, None], x, 0.0), axis=0))


IDS, MASK = jnp.array([1, 5, 7, 2, 0]), jnp.array([True, True, True, True, False])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestTransformer:
    model = Transformer()

    def variables(self):
        return self.model.init(jax.random.key(0), IDS, MASK)

    def test_it_is_in_evaluation_mode_whatever_is_asked_for(self):
        fun, variables = igjax.flax.linen.function(self.model, target=0), self.variables()
        expected = self.model.apply(variables, IDS, MASK)[0]
        assert_close(fun(variables, IDS, MASK), expected)
        training = fun(variables, IDS, MASK, deterministic=False)
        assert_close(training, expected)
        # The module itself is as it was.
        with pytest.raises(Exception, match="dropout"):
            self.model.apply(variables, IDS, MASK, deterministic=False)

    def test_shared_and_rematerialized_submodules(self):
        fun, variables = igjax.flax.linen.function(self.model, target=0), self.variables()
        points = igjax.layer_names(fun, variables, IDS, MASK)
        assert {"embed", "attention", "norm", "head", "remat"} <= {*points}
        assert {("shared", 0), ("shared", 1)} <= {*points}
        with pytest.raises(ValueError, match="2 intermediates are named 'shared'"):
            igjax.split_at(fun, "shared")[0](variables, IDS, MASK)
        start = jnp.zeros_like(IDS)
        for name in ("attention", ("shared", 1), "remat"):
            head, tail = igjax.split_at(fun, name)
            h = head(variables, IDS, MASK)
            np.testing.assert_allclose(
                tail(h, variables, IDS, MASK), fun(variables, IDS, MASK), rtol=1e-5
            )
            assert not np.allclose(h, head(variables, start, MASK))

    def test_token_ids_in_one_call(self):
        fun, variables = igjax.flax.linen.function(self.model, target=0), self.variables()
        attribute = igjax.token_integrated_grad(
            fun, "embed", 1, baseline=0, special=(1, 2), has_report=True
        )
        found, report = jax.jit(attribute)(variables, IDS, MASK)
        assert found.shape == IDS.shape
        np.testing.assert_array_equal(found[jnp.array([0, 3, 4])], 0.0)
        np.testing.assert_allclose(
            report.baseline_value, fun(variables, jnp.array([1, 0, 0, 2, 0]), MASK), rtol=1e-5
        )
        assert abs(report.completeness_gap) < 1e-3


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(name="stack")(nn.Dense(4, name="first")(x), None)
        return x


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(4, name="dense")(x)), None


def test_each_iteration_of_a_scan_has_its_layers():
    model = Stack()
    x = jnp.linspace(-1.0, 1.0, 3)
    variables = model.init(jax.random.key(0), x)
    fun = igjax.flax.linen.function(model, target=0)
    points = [point for point in igjax.layer_names(fun, variables, x) if "stack" in point[0]]
    assert points == [(name, i) for i in range(3) for name in ("stack/dense", "stack")]
    h = nn.Dense(4).apply({"params": variables["params"]["first"]}, x)
    for i in range(3):
        h = h @ variables["params"]["stack"]["dense"]["kernel"][i]
        head, tail = igjax.split_at(fun, ("stack/dense", i))
        np.testing.assert_allclose(head(variables, x), h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tail(h, variables, x), fun(variables, x), rtol=1e-5, atol=1e-6)
        h = jnp.tanh(h)
    found = igjax.layer_conductance(fun, ("stack/dense", 1), 1, **RULE)(variables, x)
    np.testing.assert_allclose(
        found.sum(), fun(variables, x) - fun(variables, jnp.zeros(3)), atol=1e-4
    )


def test_targets():
    variables = some_variables()
    make = lambda target: igjax.flax.linen.function(Linen(), target=target)
    whole = make(None)(variables, X)
    assert whole.shape == (3,)
    assert make(-1)(variables, X) == whole[2]
    assert make(jnp.max)(variables, X) == whole.max()
    assert make(jnp.int32(1))(variables, X) == whole[1]
    np.testing.assert_array_equal(
        igjax.integrated_jacobian(make(None), 1, **RULE)(variables, X)[1],
        igjax.integrated_jacobian(make(1), 1, **RULE)(variables, X),
    )
    with pytest.raises(ValueError, match=r"target, of an output of shape \(3,\),.*; got 3"):
        make(3)(variables, X)
    with pytest.raises(ValueError, match="got 7"):
        make(np.int64(7))(variables, X)
    with pytest.raises(TypeError, match=r"must be an integer.*got True"):
        make(True)(variables, X)


class Counter(nn.Module):
    """Changes its state at every call, and draws a random number."""

    noisy: bool = False

    @nn.compact
    def __call__(self, x):
        calls = self.variable("counts", "calls", lambda: jnp.zeros(()))
        if not self.noisy:
            calls.value += 1
        return x.sum() + (jax.random.normal(self.make_rng("noise")) if self.noisy else 0.0)


class Derived(nn.Module):
    """Of modules that call what they derive from, or are told by position to train."""

    @nn.compact
    def __call__(self, x):
        x = Bounded(4, name="bounded")(x)
        x = nn.SelfAttention(2, dropout_rate=0.3, name="attention")(x, None, False)
        return Batched(name="batched")(x).sum()


class Bounded(nn.Dense):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(super().__call__(x))


class Batched(nn.BatchNorm):
    @nn.compact
    def __call__(self, x):
        return super().__call__(x, use_running_average=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_derived_modules_are_named_once_and_in_evaluation_mode():
    x = jnp.ones((3, 4))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = Derived().init(keys, x)
    fun = igjax.flax.linen.function(Derived())
    points = igjax.layer_names(fun, variables, x)
    assert {"bounded", "attention", "batched"} <= {*points}
    h = igjax.split_at(fun, "bounded")[0](variables, x)
    kernel, bias = variables["params"]["bounded"].values()
    assert_close(h, jnp.tanh(x @ kernel + bias[None]))
    before, after = (
        igjax.split_at(fun, name)[0](variables, x) for name in ("attention", "batched")
    )
    np.testing.assert_allclose(after, before / jnp.sqrt(1 + 1e-5), rtol=1e-5)  # of no statistics


def test_bad_input_of_linen():
    function, variables = igjax.flax.linen.function, some_variables()
    with pytest.raises(TypeError, match=r"takes a flax\.linen\.Module"):
        function(lambda x: x)
    with pytest.raises(TypeError, match="first argument must be the variables"):
        function(Linen())(X, X)
    with pytest.raises(ValueError, match=r"given were 'params'\. Pass all collections"):
        function(Linen())({"params": variables["params"]}, X)
    counts = {"counts": {"calls": jnp.zeros(())}}
    with pytest.raises(ValueError, match="would change its variables"):
        function(Counter())(counts, X)
    with pytest.raises(ValueError, match=r"for which it has no key.*as rngs="):
        function(Counter(noisy=True))(counts, X)
    noisy = function(Counter(noisy=True), rngs={"noise": jax.random.key(0)})
    assert noisy(counts, X) == noisy(counts, X)
    assert np.isfinite(function(Counter(noisy=True), rngs=jax.random.key(0))(counts, X))
    with pytest.raises(ValueError, match="Did you mean 'Block_0/Conv_0'"):
        igjax.layer_conductance(function(Linen(), target=0), "Block_0/Conv", 1)(variables, X)


def test_the_nnx_model_is_not_touched():
    model = as_nnx(some_variables())
    model.train()
    fun, state = igjax.flax.nnx.function(model, target=1)
    first = fun(state, X)
    assert_close(first, plain(some_variables(), X))
    assert not model.block.dropout.deterministic
    assert type(model.block) is NNXBlock
    assert fun(state, X) == first
    model.readout.bias[...] += 1.0
    assert fun(state, X) == first  # the state is an argument, as it was


class NNXTransformer(nnx.Module):
    """As ``Transformer``, in training mode and told so wherever it calls something."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 8, dropout_rate=0.3, decode=False, deterministic=False, rngs=rngs
        )
        self.shared = nnx.Linear(8, 8, rngs=rngs)
        self.again = self.shared
        self.remat = nnx.Linear(8, 8, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, ids, mask):
        x = self.embed(ids)
        x = x + self.attention(x, mask=mask[None, None, :], deterministic=False)
        x = nnx.gelu(self.again(nnx.gelu(self.shared(x))))
        x = nnx.remat(lambda layer, x: layer(x))(self.remat, x)
        x = self.norms[1](self.norms[0](x), False)
        x = self.dropout(x, deterministic=False)
        return self.head(jnp.sum(jnp.where(mask[:, None], x, 0.0), axis=0))


class TestNNXTransformer:
    def model(self):
        model = NNXTransformer(nnx.Rngs(0))
        model.train()
        return model

    def test_it_is_in_evaluation_mode_whatever_is_asked_for(self):
        model = self.model()
        fun, state = igjax.flax.nnx.function(model)
        value = fun(state, IDS, MASK)
        np.testing.assert_array_equal(value, fun(state, IDS, MASK))
        # By hand, of the same submodules.
        model.eval()
        x = model.embed(IDS)
        x = x + model.attention(x, mask=MASK[None, None, :])
        x = model.remat(nnx.gelu(model.shared(nnx.gelu(model.shared(x)))))
        x = model.norms[1](model.norms[0](x))
        expected = model.head(jnp.sum(jnp.where(MASK[:, None], x, 0.0), axis=0))
        assert_close(value, expected)

    def test_shared_and_rematerialized_submodules(self):
        fun, state = igjax.flax.nnx.function(self.model(), target=0)
        points = igjax.layer_names(fun, state, IDS, MASK)
        assert {"embed", "attention", "norms/0", "norms/1", "head", "remat"} <= {*points}
        shared = {point for point in points if point[0] in ("shared", "again")}
        assert {index for _, index in shared} == {0, 1}
        for name in ("attention", max(shared), "remat", "norms/0"):
            head, tail = igjax.split_at(fun, name)
            h = head(state, IDS, MASK)
            assert_close(tail(h, state, IDS, MASK), fun(state, IDS, MASK))
            assert not np.allclose(h, head(state, jnp.zeros_like(IDS), MASK))

    def test_token_ids_in_one_call(self):
        fun, state = igjax.flax.nnx.function(self.model(), target=0)
        attribute = igjax.token_integrated_grad(
            fun, "embed", 1, baseline=0, special=(1, 2), has_report=True
        )
        found, report = jax.jit(attribute)(state, IDS, MASK)
        np.testing.assert_array_equal(found[jnp.array([0, 3, 4])], 0.0)
        np.testing.assert_allclose(
            report.baseline_value, fun(state, jnp.array([1, 0, 0, 2, 0]), MASK), rtol=1e-5
        )
        assert abs(report.completeness_gap) < 1e-3


class NNXStack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Linear(4, 4, rngs=rngs)

        self.first, self.stack = nnx.Linear(3, 4, rngs=rngs), make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(layer, x):
            return jnp.tanh(layer(x))

        return forward(self.stack, self.first(x))


def test_each_iteration_of_a_scan_of_nnx_has_its_layers():
    fun, state = igjax.flax.nnx.function(NNXStack(nnx.Rngs(0)), target=0)
    x = jnp.linspace(-1.0, 1.0, 3)
    points = list(igjax.layer_names(fun, state, x))
    assert points == ["first", *(("stack", i) for i in range(3))]
    h = igjax.split_at(fun, "first")[0](state, x)
    for i in range(3):
        h = h @ state["stack"]["kernel"][...][i]
        head, tail = igjax.split_at(fun, ("stack", i))
        np.testing.assert_allclose(head(state, x), h, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tail(h, state, x), fun(state, x), rtol=1e-5, atol=1e-6)
        h = jnp.tanh(h)
    found = igjax.layer_conductance(fun, ("stack", 1), 1, **RULE)(state, x)
    np.testing.assert_allclose(found.sum(), fun(state, x) - fun(state, jnp.zeros(3)), atol=1e-4)


def test_bad_input_of_nnx():
    with pytest.raises(TypeError, match=r"takes a flax\.nnx\.Module"):
        igjax.flax.nnx.function(Linen())
    with pytest.raises(ValueError, match="no method 'encode'"):
        igjax.flax.nnx.function(as_nnx(some_variables()), method="encode")
    fun, _ = igjax.flax.nnx.function(as_nnx(some_variables()))
    for other in ({}, X, some_variables()):
        with pytest.raises(TypeError, match=r"must be the state that igjax\.flax\.nnx\.function"):
            fun(other, X)
