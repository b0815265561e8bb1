"""Every public transform composes with every transform of JAX.

To enter a new attribution method, add a line to ``CASES``. It then goes through all that can be
seen without compiling, and through one program, of all of vmap, grad and jit, that is compared with
a loop, with double precision and with finite differences. Cases that are ``distinct`` are also
compiled and run under each transform by itself; the others, which go through the same code of JAX
and of the engine, are when slow tests run, several transforms in a program.

A method that cannot do one of these says so in its docstring, raises a clear error, and is listed
by name in the test concerned.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_trees_close
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

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
    """A transform and a function ``(x, label)`` for it.

    ``distinct`` is one whose program has a shape that no other case has, such as another loop or
    another cut of the function: it alone goes through what takes a compilation for each transform.
    One ``places_nodes`` where a look at the function says that they are needed: derivatives know
    nothing of that, and are exact where it isn't.
    """

    transform: Callable[..., Callable[..., Any]]
    fun: Callable[..., jax.Array] = score
    has_report: bool = False
    distinct: bool = False
    places_nodes: bool = False

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


def made_of_arguments(fun: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    return igjax.from_arguments(lambda *args: (grad(fun, **keywords), args))


def without_baseline(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda fun, baseline=None: method(fun, name)


CASES = {
    "integrated_grad": Case(grad, distinct=True),
    "integrated_grad, in chunks": Case(functools.partial(grad, batch_size=4)),
    "integrated_grad, convolution in chunks": Case(
        functools.partial(grad, batch_size=4), convolution, distinct=True
    ),
    "integrated_grad, unmultiplied": Case(functools.partial(grad, multiply_by_inputs=False)),
    "integrated_grad, report": Case(
        functools.partial(grad, has_report=True, batch_size=5), has_report=True, distinct=True
    ),
    "integrated_grad, to tolerance": Case(
        functools.partial(grad, rule=tolerance, has_report=True, batch_size=4),
        has_report=True,
        distinct=True,
        places_nodes=True,
    ),
    "integrated_grad, convolution to tolerance": Case(
        functools.partial(grad, rule=tolerance, batch_size=8), convolution
    ),
    "integrated_grad, polyline": Case(
        functools.partial(grad, path=igjax.paths.polyline(_random(2, *SHAPE)))
    ),
    "integrated_grad, blur": Case(
        functools.partial(grad, path=igjax.paths.blur(1.5), batch_size=6), distinct=True
    ),
    "integrated_grad, latent": Case(
        functools.partial(grad, path=igjax.paths.latent(jnp.sinh, jnp.arcsinh))
    ),
    "integrated_grad, reparametrize": Case(
        functools.partial(
            grad, path=igjax.paths.reparametrize(igjax.paths.straight_line, lambda a: a * a)
        )
    ),
    "layer_integrated_grad": Case(layer(igjax.layer_integrated_grad), distinct=True),
    "layer_integrated_grad, report": Case(
        layer(igjax.layer_integrated_grad, batch_size=4, has_report=True), has_report=True
    ),
    "layer_conductance": Case(layer(igjax.layer_conductance), distinct=True),
    "layer_conductance, to tolerance": Case(
        functools.partial(layer(igjax.layer_conductance), rule=tolerance, has_report=True),
        has_report=True,
        places_nodes=True,
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
    "grad_cam": Case(without_baseline(igjax.grad_cam, "maps"), convolution, distinct=True),
    "integrated_jacobian": Case(jacobian, scaled_logits),
    "integrated_jacobian, to tolerance": Case(
        # Loose enough for the pilot: of nodes being placed derivatives know nothing.
        functools.partial(jacobian, rule=tolerance._replace(rtol=1e-2)),
        scaled_logits,
    ),
    "integrated_jacobian, report in chunks": Case(
        functools.partial(jacobian, has_report=True, batch_size=4),
        scaled_logits,
        has_report=True,
        distinct=True,
    ),
    "integrated_jacobian, at a layer": Case(
        functools.partial(
            igjax.at_layer(igjax.integrated_jacobian, "hidden"), rule=igjax.quadrature.sine(15)
        ),
        scaled_logits,
    ),
    "from_arguments": Case(made_of_arguments),
}


def _cases(distinct: list[Any] | None, others: list[Any] | None) -> pytest.MarkDecorator:
    """Parametrizes over distinct cases and others, with marks for either; None: without them."""
    params = []
    for name, case in CASES.items():
        marks = distinct if case.distinct else others
        if marks is not None:
            params.append(pytest.param(case, id=name, marks=marks))
    return pytest.mark.parametrize("case", params)


SLOW = [pytest.mark.slow]
every_case = _cases([], [])
every_case_and_distinct_ones_on_every_version = _cases([pytest.mark.versions], [])
distinct_cases = _cases([], None)
distinct_cases_and_others_slowly = _cases([], SLOW)
other_cases_slowly = _cases(None, SLOW)


# Kinds of axes, with a flag each. Both of either are in the first two, the rest is slow.
MESHES = [
    (AxisType.Auto, False),
    (AxisType.Explicit, True),
    pytest.param(AxisType.Auto, True, marks=pytest.mark.slow),
    pytest.param(AxisType.Explicit, False, marks=pytest.mark.slow),
]


@functools.cache
def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples, labels and baselines."""
    baselines = np.float32(0.1) * _random(*SHAPE, EXAMPLES).transpose(2, 0, 1)
    return _random(EXAMPLES, *SHAPE), np.arange(EXAMPLES, dtype=np.int32) % CLASSES, baselines


def _loss(case: Case) -> Callable[..., Any]:
    """A loss of the attributions by ``x``, its label, a baseline and a parameter of the model.

    What the transform returned comes along.
    """

    def loss(x, label, baseline, scale):
        scaled = case._replace(fun=lambda x, label: case.fun(scale * x, label))
        values = scaled.transform(scaled.fun, baseline=baseline)(x, label)
        attributions = values[0] if case.has_report else values
        return jnp.sum(jnp.sin(attributions)), values

    return loss


def _grad_of_loss(case: Case) -> Callable[..., Any]:
    return jax.value_and_grad(_loss(case), argnums=(0, 2, 3), has_aux=True)


@functools.cache
def _compiled_alone(case: Case) -> Callable[..., Any]:
    """The program that all others are compared with: of one example, with nothing around it."""
    return jax.jit(_grad_of_loss(case))


def _alone(case: Case, x: Any, label: Any, baseline: Any) -> Any:
    """Loss, values and gradients of an example."""
    return jax.device_get(_compiled_alone(case)(x, label, baseline, np.float32(1)))


@functools.cache
def _one_by_one(case: Case, with_baselines: bool = False) -> Any:
    """Loss, values and gradients of all examples, by a loop."""
    xs, labels, baselines = _batch()
    baselines = baselines if with_baselines else np.zeros_like(baselines)
    return _stack([_alone(case, *example) for example in zip(xs, labels, baselines, strict=True)])


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _assert_close(one: Any, other: Any, roundings: float = 32) -> None:
    """Asserts that attributions and reports agree: all are made of values of a size near 1."""
    assert_trees_close(jax.device_get(one), other, roundings=roundings, size=1.0)


@every_case_and_distinct_ones_on_every_version
def test_jit_of_vmap_of_grad(case):
    """It agrees with a loop, double precision with single, and gradients with finite differences.

    Every method goes through this, with every argument mapped and differentiated, and a parameter
    of the model closed over. The loop is in single precision, so that it is another program.
    """
    xs, labels, baselines = _batch()
    singles = _one_by_one(case, with_baselines=True)
    with jax.enable_x64(True):
        fused = jax.jit(jax.vmap(_grad_of_loss(case), in_axes=(0, 0, 0, None)))

        def at(**steps: Any) -> Any:
            x, baseline = (
                np.float64(a) + steps.get(k, 0) for k, a in (("x", xs), ("baseline", baselines))
            )
            return jax.device_get(fused(x, labels, baseline, np.float64(1 + steps.get("scale", 0))))

        (_, values), gradients = doubles = at()
        assert jax.tree.structure(doubles) == jax.tree.structure(singles)
        for leaf in jax.tree.leaves(doubles):
            assert leaf.dtype in (jnp.float64, jnp.int32, jnp.bool_)
        jax.tree.map(functools.partial(assert_close, size=1.0), doubles, singles)

        # One rounding to float32 anywhere would show in the derivative of the 14th decimal.
        (_, moved), _ = at(x=1e-12 * xs)
        tiny = np.abs(jax.tree.leaves(moved)[0] - jax.tree.leaves(values)[0])
        assert 0 < np.max(tiny) < 1e-10

        h = 1e-5
        steps = {
            "x": _random(EXAMPLES, *SHAPE),
            "baseline": _random(*SHAPE),
            "scale": np.float64(1),
        }
        for (name, step), gradient in zip(steps.items(), gradients, strict=True):
            (up, _), _ = at(**{name: h * step})
            (down, _), _ = at(**{name: -h * step})
            slopes = np.sum((gradient * step).reshape(EXAMPLES, -1), axis=1)
            differences = (up - down) / (2 * h)
            is_exact = np.isclose(slopes, differences, rtol=1e-6, atol=1e-6)
            assert np.any(is_exact) if case.places_nodes else np.all(is_exact)
            np.testing.assert_allclose(slopes, differences, rtol=1e-3, atol=1e-3)


# What needs no compilation: JAX refuses most of what it can't do while it traces or lowers.


@pytest.mark.versions
@every_case
def test_no_tracer_leaks(case):
    xs, labels, _ = _batch()
    with jax.checking_leaks():
        jax.jit(jax.vmap(case.transform(case.fun))).trace(xs, labels)


@pytest.mark.versions
@every_case
def test_one_trace_for_repeated_calls(case):
    xs, labels, _ = _batch()
    traces = 0

    def counted(x, label):
        nonlocal traces
        traces += 1
        return case.fun(x, label)

    attribute = jax.jit(jax.vmap(case.transform(counted)))
    attribute.trace(xs, labels)
    first = traces
    attribute.trace(xs + 1, labels)
    attribute.trace(xs, labels[::-1])
    assert traces == first > 0


@pytest.mark.versions
@every_case
def test_forward_and_reverse_and_checkpoint_and_shard_map_trace(case):
    xs, labels, _ = _batch()
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(AxisType.Auto,))

    def loss(x, label):
        return jnp.sum(jnp.sin(jax.checkpoint(case.attribution())(x, label)))

    def both(x, label):
        _, forward = jax.jvp(lambda x: loss(x, label), (x,), (x,))
        return forward, jax.grad(loss)(x, label)

    over = P("examples")
    sharded = jax.shard_map(jax.vmap(both), mesh=mesh, in_specs=over, out_specs=over)
    forward, gradient = jax.eval_shape(sharded, xs, labels)
    assert forward.shape == (EXAMPLES,) and gradient.shape == xs.shape

    of_labels = jax.vmap(case.attribution(), in_axes=(None, 0))
    replicated = jax.shard_map(of_labels, mesh=mesh, in_specs=(P(), over), out_specs=over)
    assert jax.eval_shape(replicated, xs[0], labels).shape[0] == EXAMPLES


def _skip_what_explicit_meshes_refuse(case):
    by_tolerance = [own for name, own in CASES.items() if "to tolerance" in name]
    if jax.__version_info__ < (0, 9) and any(case is own for own in by_tolerance):
        pytest.skip("on an explicit mesh JAX 0.8 refuses to select and to scatter under vmap")


@pytest.mark.versions
@every_case
def test_explicit_shardings_are_kept(case):
    _skip_what_explicit_meshes_refuse(case)
    xs, labels, _ = _batch()
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((xs, labels), NamedSharding(mesh, P("examples")))
        attributions = jax.eval_shape(jax.jit(jax.vmap(case.attribution())), *placed)
    assert attributions.sharding.spec[0] == "examples"


@pytest.mark.versions
@every_case
def test_bfloat16_gives_bfloat16(case):
    xs, labels, _ = _batch()
    attributions = jax.eval_shape(case.attribution(), xs[0].astype(jnp.bfloat16), labels[0])
    assert attributions.dtype == jnp.bfloat16


@pytest.mark.versions
@every_case
def test_export_lowers_for_every_platform(case):
    xs, labels, _ = _batch()
    batched = jax.jit(jax.vmap(case.transform(case.fun)))
    exported = jax.export.export(batched, platforms=["cpu", "cuda", "tpu"])(xs, labels)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("cpu", "cuda", "tpu")


# What must be compiled and run: all by itself for distinct cases, together for the others.


@distinct_cases_and_others_slowly
def test_eager_agrees_with_jit(case):
    example = tuple(array[0] for array in _batch())
    expected = _alone(case, *example)[0][1]
    x, label, baseline = map(jnp.asarray, example)
    _assert_close(case.transform(case.fun, baseline=baseline)(x, label), expected)


@pytest.mark.slow  # each operation by itself is compiled
@distinct_cases
def test_eager_vmap_agrees_with_a_loop(case):
    def attribute(x, label, baseline):
        return case.transform(case.fun, baseline=baseline)(x, label)

    loop = _one_by_one(case, with_baselines=True)[0][1]
    _assert_close(jax.vmap(attribute)(*_batch()), loop)


@distinct_cases_and_others_slowly
def test_vmap_over_baselines_or_labels_alone(case):
    xs, labels, baselines = _batch()

    def attribute(x, label, baseline):
        return case.transform(case.fun, baseline=baseline)(x, label)

    over_baselines = jax.jit(jax.vmap(attribute, in_axes=(None, None, 0)))
    expected = _stack([_alone(case, xs[0], labels[1], baseline)[0][1] for baseline in baselines])
    _assert_close(over_baselines(xs[0], labels[1], baselines), expected)
    over_labels = jax.jit(jax.vmap(attribute, in_axes=(None, 0, None)))
    expected = _stack([_alone(case, xs[0], label, baselines[0])[0][1] for label in labels])
    _assert_close(over_labels(xs[0], labels, baselines[0]), expected)


@distinct_cases
def test_jvp_agrees_with_grad(case):
    x, label, baseline = (array[0] for array in _batch())
    direction = _random(2, *SHAPE)[0]

    def loss(x, baseline):
        return _loss(case)(x, label, baseline, jnp.float32(1))[0]

    slope = jax.jit(lambda *args: jax.jvp(loss, args, (direction, direction))[1])(x, baseline)
    by_x, by_baseline, _ = _alone(case, x, label, baseline)[1]
    terms = np.stack([by_x * direction, by_baseline * direction])
    assert_close(slope, np.sum(terms), size=np.sum(np.abs(terms)))


@distinct_cases
def test_checkpoint_changes_neither_value_nor_gradient(case):
    x, label = _batch()[0][0], _batch()[1][0]

    def loss(x):
        values = jax.checkpoint(case.transform(case.fun))(x, label)
        attributions = values[0] if case.has_report else values
        return jnp.sum(jnp.sin(attributions)), values

    (_, values), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    (_, expected), (by_x, _, _) = _alone(case, x, label, np.zeros_like(x))
    _assert_close(values, expected)
    _assert_close(gradient, by_x)


@distinct_cases
def test_reverse_through_vmap_and_jit(case):
    xs, labels, _ = _batch()

    @jax.jit
    def total(xs):
        attributions = jax.jit(jax.vmap(case.attribution()))(xs, labels)
        return jnp.sum(jnp.sin(attributions))

    _assert_close(jax.jit(jax.grad(total))(xs), _one_by_one(case)[1][0])


@pytest.mark.versions
@distinct_cases
@pytest.mark.parametrize(("axis_type", "check_vma"), MESHES)
def test_shard_map_over_examples(case, axis_type, check_vma):
    xs, labels, _ = _batch()
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(axis_type,))
    batched = jax.vmap(case.transform(case.fun))
    sharded = jax.shard_map(
        batched, mesh=mesh, in_specs=P("examples"), out_specs=P("examples"), check_vma=check_vma
    )
    placed = jax.device_put((xs, labels), NamedSharding(mesh, P("examples")))
    _assert_close(jax.jit(sharded)(*placed), _one_by_one(case)[0][1])


@distinct_cases
def test_shard_map_with_the_input_replicated_and_labels_sharded(case):
    xs, labels, _ = _batch()
    mesh = jax.make_mesh((8,), ("labels",), axis_types=(AxisType.Auto,))
    batched = jax.vmap(case.transform(case.fun), in_axes=(None, 0))
    sharded = jax.shard_map(
        batched, mesh=mesh, in_specs=(P(), P("labels")), out_specs=P("labels"), check_vma=True
    )
    zeros = np.zeros_like(xs[0])
    expected = [_alone(case, xs[0], label, zeros)[0][1] for label in labels[:CLASSES]]
    whole = _stack([expected[label] for label in labels])
    _assert_close(jax.jit(sharded)(xs[0], labels), whole)


@pytest.mark.versions
@distinct_cases
@pytest.mark.parametrize(("axis_type", "set_mesh"), MESHES)
def test_inputs_sharded_over_examples(case, axis_type, set_mesh):
    if axis_type == AxisType.Explicit:
        _skip_what_explicit_meshes_refuse(case)
    xs, labels, _ = _batch()
    batched = jax.vmap(case.transform(case.fun))
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(axis_type,))
    with jax.set_mesh(mesh) if set_mesh else contextlib.nullcontext():
        over_examples = NamedSharding(mesh, P("examples"))
        sharded = jax.jit(batched)(*jax.device_put((xs, labels), over_examples))
    attributions = sharded[0] if case.has_report else sharded
    assert attributions.sharding.spec[0] == "examples"
    _assert_close(sharded, _one_by_one(case)[0][1])


@other_cases_slowly
@pytest.mark.parametrize("with_shard_map", [False, True])
def test_grad_of_vmap_of_checkpoint_sharded_over_examples(case, with_shard_map):
    xs, labels, _ = _batch()
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(AxisType.Auto,))

    def batched(xs, labels):
        return jax.vmap(jax.checkpoint(case.transform(case.fun)))(xs, labels)

    if with_shard_map:
        over = P("examples")
        batched = jax.shard_map(batched, mesh=mesh, in_specs=over, out_specs=over)

    def total(xs, labels):
        values = batched(xs, labels)
        attributions = values[0] if case.has_report else values
        return jnp.sum(jnp.sin(attributions)), values

    placed = jax.device_put((xs, labels), NamedSharding(mesh, P("examples")))
    (_, values), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(*placed)
    attributions = values[0] if case.has_report else values
    assert attributions.sharding.spec[0] == gradient.sharding.spec[0] == "examples"
    _assert_close(values, _one_by_one(case)[0][1])
    _assert_close(gradient, _one_by_one(case)[1][0])


@distinct_cases_and_others_slowly
def test_inputs_sharded_over_features(case):
    x, label = _batch()[0][0], _batch()[1][0]
    mesh = jax.make_mesh((2, 2), ("height", "width"), axis_types=(AxisType.Auto,) * 2)
    sharded = jax.device_put(x, NamedSharding(mesh, P("height", "width")))
    expected = _alone(case, x, label, np.zeros_like(x))[0][1]
    _assert_close(jax.jit(case.transform(case.fun))(sharded, label), expected)


@pytest.mark.versions
@distinct_cases_and_others_slowly
def test_exported_programs_run(case):
    xs, labels, _ = _batch()
    batched = jax.jit(jax.vmap(case.transform(case.fun)))
    exported = jax.export.export(batched, platforms=["cpu", "cuda", "tpu"])(xs, labels)
    again = jax.export.deserialize(exported.serialize())
    _assert_close(again.call(xs, labels), _one_by_one(case)[0][1])


@distinct_cases_and_others_slowly
def test_bfloat16_is_as_exact_as_its_gradients(case):
    x, label = _batch()[0][0].astype(jnp.bfloat16), _batch()[1][0]
    low = jax.jit(case.attribution())(x, label)
    high = _alone(case, x.astype(np.float32), label, np.zeros(SHAPE, np.float32))[0][1]
    # The gradients themselves are rounded to 8 bits; their average is not worse than that.
    assert_close(low, high[0] if case.has_report else high, roundings=2.5)
