"""Every public transform composes with every transform of JAX.

To enter a new attribution method, add a line to ``CASES``. A method that cannot do one of these
says so in its docstring, raises a clear error, and is listed by name in the test concerned.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import igjax

EXAMPLES = 8
SHAPE = (4, 6)
CLASSES = 3


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


HIDDEN = _random(SHAPE[0] * SHAPE[1], 16) / 5
OUTPUT = _random(16, CLASSES) / 4
KERNEL = _random(3, 3, 1, 4) / 3
READOUT = _random(4, CLASSES)


def logits(x: jax.Array) -> jax.Array:
    """A small smooth network, in the dtype of ``x``."""
    hidden = jnp.tanh(x.reshape(-1) @ jnp.asarray(HIDDEN, x.dtype))
    hidden = checkpoint_name(hidden, "hidden")
    return hidden @ jnp.asarray(OUTPUT, x.dtype)


def score(x: jax.Array, label: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits(x))[label]


def scaled_logits(x: jax.Array, label: jax.Array) -> jax.Array:
    return logits(x) * (label.astype(x.dtype) + 1)


def convolution(x: jax.Array, label: jax.Array) -> jax.Array:
    """A convolution, which the engine treats apart on the CPU."""
    maps = jax.lax.conv_general_dilated(
        x[None, :, :, None],
        jnp.asarray(KERNEL, x.dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    maps = checkpoint_name(maps, "maps")
    return (jnp.mean(jax.nn.gelu(maps), (0, 1, 2)) @ jnp.asarray(READOUT, x.dtype))[label]


class Case(NamedTuple):
    """A transform and a function ``(x, label)`` for it."""

    transform: Callable[..., Callable[..., Any]]
    fun: Callable[..., jax.Array] = score
    has_report: bool = False

    def attribution(self, **keywords: Any) -> Callable[..., Any]:
        """A function ``(x, label)`` to attributions alone."""
        attribute = self.transform(self.fun, **keywords)
        return (lambda *args: attribute(*args)[0]) if self.has_report else attribute


grad = functools.partial(igjax.integrated_grad, rule=igjax.quadrature.sine(15))
jacobian = functools.partial(igjax.integrated_jacobian, rule=igjax.quadrature.sine(15))
tolerance = igjax.quadrature.to_tolerance(1e-3, max_evals=64)


def layer(method: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    """A transform that attributes to the hidden layer, or by a neuron of it."""
    return functools.partial(method, name="hidden", rule=igjax.quadrature.sine(15), **keywords)


def without_baseline(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda fun, baseline=None: method(fun, name)


CASES = {
    "integrated_grad": Case(grad),
    "integrated_grad, in chunks": Case(functools.partial(grad, batch_size=4)),
    "integrated_grad, convolution in chunks": Case(
        functools.partial(grad, batch_size=4), convolution
    ),
    "integrated_grad, unmultiplied": Case(functools.partial(grad, multiply_by_inputs=False)),
    "integrated_grad, report": Case(
        functools.partial(grad, has_report=True, batch_size=5), has_report=True
    ),
    "integrated_grad, to tolerance": Case(
        functools.partial(grad, rule=tolerance, has_report=True, batch_size=4), has_report=True
    ),
    "integrated_grad, convolution to tolerance": Case(
        functools.partial(grad, rule=tolerance, batch_size=8), convolution
    ),
    "integrated_grad, polyline": Case(
        functools.partial(grad, path=igjax.paths.polyline(_random(2, *SHAPE)))
    ),
    "integrated_grad, blur": Case(
        functools.partial(grad, path=igjax.paths.blur(1.5), batch_size=6)
    ),
    "integrated_grad, latent": Case(
        functools.partial(grad, path=igjax.paths.latent(jnp.sinh, jnp.arcsinh))
    ),
    "integrated_grad, reparametrize": Case(
        functools.partial(
            grad, path=igjax.paths.reparametrize(igjax.paths.straight_line, lambda a: a * a)
        )
    ),
    "layer_integrated_grad": Case(layer(igjax.layer_integrated_grad)),
    "layer_integrated_grad, report": Case(
        layer(igjax.layer_integrated_grad, batch_size=4, has_report=True), has_report=True
    ),
    "layer_conductance": Case(layer(igjax.layer_conductance)),
    "layer_conductance, to tolerance": Case(
        functools.partial(layer(igjax.layer_conductance), rule=tolerance, has_report=True),
        has_report=True,
    ),
    "internal_influence": Case(layer(igjax.internal_influence, batch_size=5)),
    "neuron_integrated_grad": Case(layer(igjax.neuron_integrated_grad, neuron=3)),
    "neuron_conductance": Case(layer(igjax.neuron_conductance, neuron=3)),
    "neuron_conductance, report in chunks": Case(
        layer(igjax.neuron_conductance, neuron=jnp.sum, has_report=True, batch_size=4),
        has_report=True,
    ),
    "layer_gradient_x_activation": Case(
        without_baseline(igjax.layer_gradient_x_activation, "hidden")
    ),
    "grad_cam": Case(without_baseline(igjax.grad_cam, "maps"), convolution),
    "integrated_jacobian": Case(jacobian, scaled_logits),
    "integrated_jacobian, to tolerance": Case(
        # Loose enough for the pilot: of nodes being placed derivatives know nothing.
        functools.partial(jacobian, rule=tolerance._replace(rtol=1e-2)),
        scaled_logits,
    ),
    "integrated_jacobian, report in chunks": Case(
        functools.partial(jacobian, has_report=True, batch_size=4), scaled_logits, has_report=True
    ),
}


# Each differs from a case of the same method in what cases of other methods go through too.
SLOW = {
    "integrated_grad, convolution to tolerance",
    "layer_integrated_grad, report",
    "layer_conductance, to tolerance",
    "internal_influence",
    "neuron_conductance, report in chunks",
}
PARAMS = [
    pytest.param(case, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, case in CASES.items()
]


# Kinds of axes, with a flag each. Both of either are in the first two, the rest is slow.
MESHES = [
    (AxisType.Auto, False),
    (AxisType.Explicit, True),
    pytest.param(AxisType.Auto, True, marks=pytest.mark.slow),
    pytest.param(AxisType.Explicit, False, marks=pytest.mark.slow),
]


@pytest.fixture(params=PARAMS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def batch() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Examples, labels and baselines."""
    return _batch()


@functools.cache
def _of_batch(case: Case) -> Any:
    """What a case makes of all examples, by ``vmap``: many tests compare with it."""
    xs, labels, _ = _batch()
    return jax.device_get(jax.jit(jax.vmap(case.transform(case.fun)))(xs, labels))


def _batch() -> tuple[jax.Array, jax.Array, jax.Array]:
    xs = jnp.asarray(_random(EXAMPLES, *SHAPE))
    return xs, jnp.arange(EXAMPLES) % CLASSES, 0.1 * jnp.asarray(_random(*SHAPE, EXAMPLES)).T.mT


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _assert_close(one: Any, other: Any, tolerance: float = 2e-6) -> None:
    chex.assert_trees_all_equal_structs(one, other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=10 * tolerance, atol=tolerance)


def test_eager_jit_vmap_and_a_loop_agree(case, batch):
    xs, labels, baselines = batch

    def attribute(x, label, baseline):
        return case.transform(case.fun, baseline=baseline)(x, label)

    jitted = jax.jit(attribute)
    examples = list(zip(xs, labels, baselines, strict=True))
    loop = _stack([jitted(*example) for example in examples])
    _assert_close(attribute(*examples[0]), jitted(*examples[0]))
    _assert_close(jax.vmap(attribute)(xs, labels, baselines), loop)
    _assert_close(jax.jit(jax.vmap(attribute))(xs, labels, baselines), loop)


def test_vmap_over_baselines_or_labels_alone(case, batch):
    xs, labels, baselines = batch

    def attribute(x, label, baseline):
        return case.attribution(baseline=baseline)(x, label)

    one = jax.jit(attribute)
    over_baselines = jax.jit(jax.vmap(attribute, in_axes=(None, None, 0)))
    expected = _stack([one(xs[0], labels[1], baseline) for baseline in baselines])
    _assert_close(over_baselines(xs[0], labels[1], baselines), expected)
    over_labels = jax.jit(jax.vmap(attribute, in_axes=(None, 0, None)))
    expected = _stack([one(xs[0], label, baselines[0]) for label in labels])
    _assert_close(over_labels(xs[0], labels, baselines[0]), expected)


def test_grad_and_jvp_of_a_loss_agree_with_finite_differences(case, batch):
    with jax.enable_x64(True):
        x, baseline = (jnp.asarray(array[0], jnp.float64) for array in (batch[0], batch[2]))

        def loss(x, baseline):
            return jnp.sum(jnp.sin(case.attribution(baseline=baseline)(x, jnp.int32(1))))

        check_grads(
            jax.jit(loss), (x, baseline), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6
        )


def test_grad_of_a_loss_with_respect_to_parameters(case, batch):
    x = batch[0][0]

    def loss(scale):
        scaled = case._replace(fun=lambda x, label: case.fun(scale * x, label))
        return jnp.sum(jnp.square(scaled.attribution()(x, jnp.int32(1))))

    h = 1e-2
    compiled = jax.jit(loss)
    difference = (compiled(jnp.float32(1 + h)) - compiled(jnp.float32(1 - h))) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(jnp.float32(1)), difference, rtol=5e-3)


def test_checkpoint_changes_neither_value_nor_gradient(case, batch):
    x, label = batch[0][0], batch[1][0]

    def loss(attribution, x):
        return jnp.sum(jnp.square(attribution(x, label)))

    plain, remat = case.attribution(), jax.checkpoint(case.attribution())
    _assert_close(jax.jit(remat)(x, label), jax.jit(plain)(x, label))
    gradient = jax.jit(jax.grad(functools.partial(loss, remat)))(x)
    _assert_close(gradient, jax.jit(jax.grad(functools.partial(loss, plain)))(x), 1e-5)


def test_reverse_through_vmap_and_jit(case, batch):
    xs, labels, _ = batch

    def loss(x, label):
        return jnp.sum(jnp.square(case.attribution()(x, label)))

    batched = jax.jit(jax.grad(lambda xs: jnp.sum(jax.vmap(loss)(xs, labels))))(xs)
    one = jax.jit(jax.grad(loss))
    _assert_close(batched, _stack([one(*e) for e in zip(xs, labels, strict=True)]), 1e-5)


@pytest.mark.parametrize(("axis_type", "check_vma"), MESHES)
def test_shard_map_over_examples(case, batch, axis_type, check_vma):
    xs, labels, _ = batch
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(axis_type,))
    batched = jax.vmap(case.transform(case.fun))
    sharded = jax.shard_map(
        batched, mesh=mesh, in_specs=P("examples"), out_specs=P("examples"), check_vma=check_vma
    )
    placed = jax.device_put((xs, labels), NamedSharding(mesh, P("examples")))
    _assert_close(jax.device_get(jax.jit(sharded)(*placed)), _of_batch(case))


def test_shard_map_with_the_input_replicated_and_labels_sharded(case, batch):
    xs, labels, _ = batch
    mesh = jax.make_mesh((8,), ("labels",), axis_types=(AxisType.Auto,))
    batched = jax.vmap(case.attribution(), in_axes=(None, 0))
    sharded = jax.shard_map(
        batched, mesh=mesh, in_specs=(P(), P("labels")), out_specs=P("labels"), check_vma=True
    )
    _assert_close(jax.jit(sharded)(xs[0], labels), jax.jit(batched)(xs[0], labels))


@pytest.mark.parametrize(("axis_type", "set_mesh"), MESHES)
def test_inputs_sharded_over_examples(case, batch, axis_type, set_mesh):
    xs, labels, _ = batch
    batched = jax.vmap(case.transform(case.fun))
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(axis_type,))
    with jax.set_mesh(mesh) if set_mesh else contextlib.nullcontext():
        over_examples = NamedSharding(mesh, P("examples"))
        sharded = jax.jit(batched)(*jax.device_put((xs, labels), over_examples))
    attributions = sharded[0] if case.has_report else sharded
    assert attributions.sharding.spec[0] == "examples"
    _assert_close(jax.device_get(sharded), _of_batch(case))


def test_inputs_sharded_over_features(case, batch):
    x, label = batch[0][0], batch[1][0]
    mesh = jax.make_mesh((2, 2), ("height", "width"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(x, NamedSharding(mesh, P("height", "width")))
    _assert_close(
        jax.device_get(jax.jit(case.transform(case.fun))(sharded, label)),
        jax.device_get(jax.jit(case.transform(case.fun))(x, label)),
    )


def test_export_for_every_platform(case, batch):
    xs, labels, _ = batch
    batched = jax.jit(jax.vmap(case.transform(case.fun)))
    exported = jax.export.export(batched, platforms=["cpu", "cuda", "tpu"])(xs, labels)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cpu", "cuda", "tpu")
    _assert_close(jax.device_get(again.call(xs, labels)), _of_batch(case))


def test_x64_is_double_throughout(case, batch):
    xs, labels, _ = batch
    single = jax.jit(case.attribution())(xs[0], labels[0])
    with jax.enable_x64(True):
        x, label = jnp.asarray(xs[0], jnp.float64), jnp.asarray(labels[0])
        attribute = jax.jit(case.attribution())
        double = jax.jit(case.transform(case.fun))(x, label)
        for leaf in jax.tree.leaves(double):
            assert leaf.dtype in (jnp.float64, jnp.int32, jnp.bool_)
        # One rounding to float32 anywhere would show in the derivative of the 14th decimal.
        tiny = attribute(x * (1 + 1e-12), label) - attribute(x, label)
        attributions = double[0] if case.has_report else double
        assert float(jnp.max(jnp.abs(tiny))) < 1e-10
        assert float(jnp.max(jnp.abs(tiny))) > 0
    np.testing.assert_allclose(single, attributions, rtol=1e-4, atol=2e-6)


def test_bfloat16_in_and_out(case, batch):
    x, label = batch[0][0].astype(jnp.bfloat16), batch[1][0]
    attribute = jax.jit(case.attribution())
    low, high = attribute(x, label), attribute(x.astype(jnp.float32), label)
    assert low.dtype == jnp.bfloat16
    # The gradients themselves are rounded to 8 bits; their average is not worse than that.
    scale = float(jnp.max(jnp.abs(high)))
    np.testing.assert_allclose(low.astype(jnp.float32) / scale, high / scale, atol=2e-2)


def test_no_tracer_leaks(case, batch):
    xs, labels, _ = batch
    with jax.checking_leaks():
        jax.jit(jax.vmap(case.transform(case.fun)))(xs, labels)


def test_one_trace_for_repeated_calls(case, batch):
    xs, labels, _ = batch
    traces = 0

    def counted(x, label):
        nonlocal traces
        traces += 1
        return case.fun(x, label)

    attribute = jax.jit(jax.vmap(case.transform(counted)))
    attribute(xs, labels)
    first = traces
    attribute(xs + 1, labels)
    attribute(xs, labels[::-1])
    assert traces == first
    assert attribute._cache_size() == 1
