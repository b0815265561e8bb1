"""Attributions that are made of each example's arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slowly import all_slow_but

import igjax
from igjax.quadrature import gauss_legendre, to_tolerance

RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
RULES = [
    pytest.param(gauss_legendre(6), id="fixed"),
    pytest.param(to_tolerance(), id="tolerance"),
]
XS, STARTS = (jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32) for _ in range(2))


def score(x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(3 * jnp.tanh(x @ WEIGHTS))


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("rule", all_slow_but(["fixed"], RULES))
def test_it_is_the_attribution_of_each(rule):
    def made(x, start):
        return igjax.integrated_grad(score, baseline=start, rule=rule, has_report=True), (x,)

    attribution = igjax.from_arguments(made)
    expected = [made(x, start)[0](x) for x, start in zip(XS, STARTS, strict=True)]
    close(attribution(XS[0], STARTS[0]), expected[0])
    found = jax.jit(jax.vmap(attribution))(XS, STARTS)
    close(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))

    steps = attribution.steps
    work = steps.begin(XS[1], STARTS[1])
    while not steps.done(work):
        work = steps.step(work)
    close(steps.result(work), expected[1])


def test_another_function_is_done_when_it_is_begun():
    attribution = igjax.from_arguments(lambda x, by: (lambda x: x * by, (x,)))
    work = attribution.steps.begin(XS[0], 2.0)
    assert attribution.steps.done(work)
    close(attribution.steps.result(work), 2 * XS[0])
    close(attribution(XS[0], 2.0), 2 * XS[0])


def test_what_is_made_must_be_a_pair():
    with pytest.raises(TypeError, match="takes a function"):
        igjax.from_arguments(3)
    with pytest.raises(TypeError, match="function that returns a pair"):
        igjax.from_arguments(lambda x: igjax.integrated_grad(score))(XS[0])


def test_the_arguments_must_be_a_tuple():
    attribute = igjax.from_arguments(lambda x: (igjax.integrated_grad(jnp.sum), x))
    with pytest.raises(TypeError, match="and the tuple of arguments to call it with; this one"):
        attribute(jnp.ones(2))
