"""``batch_size="auto"``: as many nodes as fit, judged by the program that is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

import igjax
from igjax._engine.along_path import gradient
from igjax._engine.contributions import multiplied
from igjax._engine.integrand import integrands
from igjax._engine.memory import Capacity, capacity, fitting_batch_size
from igjax._jaxpr.program import trace
from igjax.paths import straight_line
from igjax.quadrature import gauss_legendre, to_tolerance

pytestmark = pytest.mark.versions

MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(256, 256)) / 16, jnp.float32)


def network(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ x))))


def chosen(x: jax.Array, free: int, nodes: int | None = None, most: int = 200) -> int:
    """Returns the batch size that is chosen on a device that holds so much."""
    traced = trace(network, x)
    along = integrands(
        traced, gradient.of, path=straight_line, contribution=multiplied, affine_prefix=True
    )
    start = jnp.zeros_like(x)
    integrand = along.between(start, x, along.line(start, x))
    return fitting_batch_size(lambda _: integrand, x, most, Capacity(free, nodes))


def attribute(batch_size: object = "auto", rule: object = gauss_legendre(200), **options):
    return igjax.integrated_grad(network, rule=rule, batch_size=batch_size, **options)


@pytest.mark.parametrize("size", [10_000, 100_000, 300_000, 10**9])
def test_what_is_chosen_fits_and_much_more_would_not(size):
    def needed(batch_size: int) -> int:
        compiled = jax.jit(attribute(batch_size)).lower(jnp.ones(256)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    batch_size = chosen(jnp.ones(256), size)
    assert 1 <= batch_size <= 200
    assert batch_size == 1 or needed(batch_size) <= size
    assert batch_size == 200 or needed(6 * batch_size) > size / 2


def test_no_more_than_are_worth_it_or_there_are():
    assert chosen(jnp.ones(256), 10**9, nodes=24) == 24
    assert chosen(jnp.ones(256), 10**9, nodes=24, most=16) == 16
    assert chosen(jnp.ones(256), 1, nodes=24, most=16) == 1
    assert capacity(jax.devices()[0]).nodes == 16


def test_examples_that_are_mapped_over_share_the_memory():
    found = []

    def note(x: jax.Array) -> jax.Array:
        found.append(chosen(x, 400_000))
        return jnp.sum(x)

    xs = jnp.ones((4, 256))
    jax.eval_shape(note, xs[0])
    jax.eval_shape(jax.vmap(note), xs)
    jax.eval_shape(jax.vmap(jax.vmap(note)), xs[:, None])
    jax.eval_shape(jax.vmap(jax.grad(note)), xs)
    one, four, *others = found
    assert four == pytest.approx(one / 4, abs=1)
    assert others == [four, four]


def test_the_answer_is_the_same():
    x = jnp.linspace(-1, 1, 256)
    assert_close(jax.jit(attribute())(x), jax.jit(attribute(None))(x))
    _, report = attribute(rule=to_tolerance(1e-3), has_report=True)(x / 16)
    assert report.converged


def test_where_it_cannot_be_known():
    mesh = jax.make_mesh((8,), ("examples",), axis_types=(jax.sharding.AxisType.Auto,))
    fun = lambda x: jax.lax.psum(jnp.sum(jnp.sin(x)), "examples")
    attribution = igjax.integrated_grad(fun, batch_size="auto")
    spread = jax.shard_map(
        attribution, mesh=mesh, in_specs=jax.P("examples"), out_specs=jax.P("examples")
    )
    with pytest.raises(ValueError, match="give a number"):
        jax.jit(spread)(jnp.ones(8))


def test_other_words_are_refused():
    with pytest.raises(TypeError, match=r'batch_size \(None for all nodes, "auto"'):
        igjax.integrated_grad(network, batch_size="large")
