"""``batch_size="auto"``: as many nodes as fit, judged by the program that is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

import igjax
from igjax._engine import memory
from igjax.quadrature import gauss_legendre, to_tolerance

pytestmark = pytest.mark.versions

MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(256, 256)) / 16, jnp.float32)


def network(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ x))))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that were chosen, on a device that is no CPU."""
    sizes = []
    choose = memory.fitting_batch_size

    def spy(*args):
        sizes.append(choose(*args))
        return sizes[-1]

    monkeypatch.setattr("igjax._engine.along_path.fitting_batch_size", spy)
    monkeypatch.setattr(memory, "_MOST_ON_CPU", 10**6)
    return sizes


def attribute(n: int = 200, batch_size: object = "auto"):
    return igjax.integrated_grad(network, rule=gauss_legendre(n), batch_size=batch_size)


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: size)


@pytest.mark.parametrize("size", [10_000, 100_000, 300_000, 10**9])
def test_what_is_chosen_fits_and_much_more_would_not(monkeypatch, chosen, size):
    free(monkeypatch, size)
    jax.jit(attribute())(jnp.ones(256))

    def needed(batch_size: int) -> int:
        compiled = jax.jit(attribute(200, batch_size)).lower(jnp.ones(256)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    (batch_size,) = chosen
    assert 1 <= batch_size <= 200
    assert batch_size == 1 or needed(batch_size) <= size
    assert batch_size == 200 or needed(6 * batch_size) > size / 2


def test_the_answer_is_the_same(monkeypatch, chosen):
    free(monkeypatch, 100_000)
    x = jnp.linspace(-1, 1, 256)
    assert_close(jax.jit(attribute())(x), jax.jit(attribute(200, None))(x))
    assert chosen[0] < 200


def test_examples_that_are_mapped_over_share_the_memory(monkeypatch, chosen):
    free(monkeypatch, 400_000)
    xs = jnp.ones((4, 256))
    jax.jit(attribute())(xs[0])
    jax.jit(jax.vmap(attribute()))(xs)
    jax.jit(jax.vmap(jax.vmap(attribute())))(xs[:, None])
    jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(attribute()(x)))))(xs)
    one, four, *others = chosen
    assert four == pytest.approx(one / 4, abs=1)
    assert others == [four, four]


def test_a_cpu_takes_what_its_caches_hold(monkeypatch):
    sizes = []
    choose = memory.fitting_batch_size
    monkeypatch.setattr(
        "igjax._engine.along_path.fitting_batch_size",
        lambda *a: sizes.append(choose(*a)) or sizes[-1],
    )
    jax.jit(attribute())(jnp.ones(256))
    assert sizes == [16]


def test_to_a_tolerance(monkeypatch, chosen):
    def attributed(x):
        rule = to_tolerance(1e-3)
        return igjax.integrated_grad(network, rule=rule, batch_size="auto", has_report=True)(x)

    _, report = attributed(jnp.ones(256) / 16)
    assert chosen == [16]
    assert report.converged
    free(monkeypatch, 1)
    attributed(jnp.ones(256) / 16)
    assert chosen == [16, 1]


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
