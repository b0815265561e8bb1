"""Nodes of one example on many devices: the same answer, one reduction, a part of the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import igjax
from igjax.quadrature import gauss_legendre, sine, to_tolerance

pytestmark = pytest.mark.versions

WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 16)) / 3, jnp.float32)


def score(x: jax.Array, label: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(jnp.tanh(x @ WEIGHTS)[:4])[label]


X, LABEL = jnp.linspace(-2.0, 2.0, 12), jnp.int32(2)
RULES = {
    "64 nodes": gauss_legendre(64),
    "63 nodes": sine(63),
    "fewer nodes than devices": sine(5),
    "to tolerance": to_tolerance(1e-4, max_evals=256),
}


def mesh(axis_type: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("examples", "nodes"), axis_types=(axis_type,) * 2)


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule(request: pytest.FixtureRequest):
    return request.param


@pytest.mark.parametrize("batch_size", [None, 3, "auto"])
@pytest.mark.parametrize("axes", ["nodes", ("examples", "nodes")])
def test_equals_one_device(rule, batch_size, axes):
    keywords = {"rule": rule, "batch_size": batch_size, "has_report": True}
    alone, _ = jax.jit(igjax.integrated_grad(score, **keywords))(X, LABEL)
    spread = igjax.integrated_grad(score, sharding=NamedSharding(mesh(), P(axes)), **keywords)
    attributions, report = jax.jit(spread)(X, LABEL)
    assert_close(attributions, alone)
    assert abs(report.completeness_gap) < 0.2
    with jax.set_mesh(mesh()):
        named = jax.jit(igjax.integrated_grad(score, sharding=axes, **keywords))(X, LABEL)
    assert_close(named[0], attributions)


def test_the_tolerance_is_kept_on_many_devices():
    spread = igjax.integrated_grad(
        score,
        rule=to_tolerance(1e-4, max_evals=256),
        batch_size=2,
        sharding=NamedSharding(mesh(), P(("examples", "nodes"))),
        has_report=True,
    )
    attributions, report = jax.jit(spread)(X, LABEL)
    assert report.converged
    assert report.num_evals <= 82
    truth = jax.jit(igjax.integrated_grad(score, rule=gauss_legendre(200)))(X, LABEL)
    assert float(jnp.sum(jnp.abs(attributions - truth)) / jnp.sum(jnp.abs(truth))) <= 1e-4


def test_nodes_are_placed_alike_on_any_number_of_devices():
    kinked = lambda x: jnp.sum(jax.nn.relu(jnp.sin(8.0 * jnp.sin(9.0 * x))))
    keywords = {
        "rule": to_tolerance(1e-9, max_evals=18 + 64),
        "batch_size": 4,
        "has_report": True,
    }
    alone, report = jax.jit(igjax.integrated_grad(kinked, **keywords))(X)
    assert report.num_evals == 82  # 64 where all are in equal steps
    sharding = NamedSharding(mesh(), P("nodes"))
    spread, report = jax.jit(igjax.integrated_grad(kinked, sharding=sharding, **keywords))(X)
    assert report.num_evals == 82
    np.testing.assert_allclose(spread, alone, rtol=1e-5, atol=1e-5)


def test_vmap_grad_and_jacobian_of_it(rule):
    sharding = NamedSharding(mesh(), P("nodes"))
    xs, labels = jnp.stack([X, 2 * X, -X]), jnp.arange(3)
    for transform in (
        lambda **k: jax.vmap(igjax.integrated_grad(score, rule=rule, **k)),
        lambda **k: jax.vmap(
            jax.grad(
                lambda x, label: jnp.sum(
                    igjax.integrated_grad(score, rule=rule, **k)(x, label) ** 2
                )
            )
        ),
        lambda **k: jax.vmap(
            igjax.integrated_jacobian(
                lambda x, label: jnp.stack([score(x, label), score(x, 3 - label)]), rule=rule, **k
            )
        ),
    ):
        spread = jax.jit(transform(sharding=sharding, batch_size=2))(xs, labels)
        alone = jax.jit(transform(batch_size=8))(xs, labels)
        assert_close(spread, alone)


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_a_shard_map_over_both_axes(rule, check_vma):
    xs, labels = jnp.stack([X, 2 * X]), jnp.array([1, 3])
    attribution = igjax.integrated_grad(score, rule=rule, batch_size=2, sharding="nodes")
    spread = jax.shard_map(
        jax.vmap(attribution),
        mesh=mesh(),
        in_specs=P("examples"),
        out_specs=P("examples"),
        check_vma=check_vma,
    )
    alone = jax.jit(jax.vmap(igjax.integrated_grad(score, rule=rule, batch_size=8)))(xs, labels)
    assert_close(jax.jit(spread)(xs, labels), alone)


def test_a_mesh_with_explicit_axes():
    alone = jax.jit(igjax.integrated_grad(score))(X, LABEL)
    explicit = mesh(AxisType.Explicit)
    spread = igjax.integrated_grad(score, sharding=NamedSharding(explicit, P("nodes")))
    assert_close(jax.jit(spread)(X, LABEL), alone)
    with jax.set_mesh(explicit):
        named = igjax.integrated_grad(score, sharding="nodes")
        assert_close(jax.jit(named)(X, LABEL), alone)


def compiled(sharding, **keywords):
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(512, 512)) / 20, jnp.float32)
    fun = lambda x: jnp.sum(jnp.tanh(matrix @ jnp.tanh(matrix @ jnp.tanh(matrix @ x))))
    attribution = igjax.integrated_grad(fun, sharding=sharding, **keywords)
    return jax.jit(attribution).lower(jnp.ones(512)).compile()


@pytest.mark.parametrize("batch_size", [None, 4])
def test_one_reduction_and_no_other_collective(batch_size):
    every = NamedSharding(mesh(), P(("examples", "nodes")))
    program = compiled(every, rule=gauss_legendre(256), batch_size=batch_size).as_text()
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    counts = {name: program.count(f" {name}(") for name in collectives}
    assert counts == dict.fromkeys(collectives, 0) | {"all-reduce": 1}


def test_memory_of_a_device_falls_with_their_number():
    every = NamedSharding(mesh(), P(("examples", "nodes")))
    memory = lambda program: program.memory_analysis().temp_size_in_bytes
    alone = memory(compiled(None, rule=gauss_legendre(256)))
    spread = memory(compiled(every, rule=gauss_legendre(256)))
    assert spread < alone / 6


@pytest.mark.parametrize(
    ("sharding", "error", "match"),
    [
        (
            3,
            TypeError,
            "must be a NamedSharding, the name of a mesh axis or a tuple of names; got 3",
        ),
        ((), TypeError, "must be a NamedSharding"),
        ("rows", ValueError, "names the mesh axis 'rows', but the mesh in use has no axes"),
        (NamedSharding(mesh(), P()), ValueError, "must be that of the nodes, an array of one axis"),
        (NamedSharding(mesh(), P(None, "nodes")), ValueError, "must be that of the nodes"),
    ],
)
def test_bad_shardings(sharding, error, match):
    with pytest.raises(error, match=match):
        igjax.integrated_grad(score, sharding=sharding)(X, LABEL)
