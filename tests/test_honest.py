"""That an error is not too small, on what it once was too small for: each with its closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slowly import all_slow_but

import igjax
from igjax.quadrature import gauss_legendre, gregory, to_tolerance


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def cosine():
    """Similarity to a direction, from zero, where the norm makes everything of the end."""
    other, x, eps = normal(0, 64), normal(1, 64), 1e-6
    length = np.linalg.norm(x)
    u, t, log = x / length, other / np.linalg.norm(other), np.log1p(length / eps)
    truth = u * t * log - u**2 * (u @ t) * (log - length / (length + eps))
    t = jnp.asarray(t, jnp.float32)
    return lambda x: x @ t / (jnp.sqrt(x @ x + 1e-30) + eps), x, truth


def layers(slope: float, at_input: bool):
    """Two boundary layers that cancel in F, and something ordinary beside them."""
    x = np.array([1.0, 0.9, 0.5])
    start = x * at_input
    f = lambda x: (
        jnp.tanh(slope * (x[0] - start[0])) - jnp.tanh(slope * (x[1] - start[1])) + jnp.tanh(x[2])
    )
    of = lambda x: np.array([1, -1, 0]) * np.tanh(slope * (x - start)) + [0, 0, np.tanh(x[2])]
    return f, x, of(x) - of(0 * x)


def logs():
    x = np.random.default_rng(0).uniform(0.1, 1.0, 8)
    return lambda x: jnp.sum(jnp.log(x + 1e-3)), x, np.log1p(x / 1e-3)


def step():
    return lambda x: jax.nn.sigmoid(1e5 * x.sum() - 12345.0), np.ones(2), np.full(2, 0.5)


def aliasing(frequency: int):
    """All equal steps see the same phase; the truth is nothing."""
    f = lambda x: jnp.sin(jnp.pi * frequency * (x[0] + x[1])) * (x[0] - x[1])
    return f, np.ones(2), np.zeros(2)


def root_mean_square():
    """Behind a norm from zero: most of it in the first thousandth of the path."""
    v, x = normal(0, 32), normal(1, 32)
    eps, square = 1e-6, np.mean(x**2)
    # F = a * (v @ x) / sqrt(a^2 square + eps) along the path, of which the parts are:
    s = np.sqrt(square / eps)
    own, through = np.arcsinh(s), np.arcsinh(s) - s / np.sqrt(1 + s**2)
    truth = (v * x * own - x**2 / x.size * (v @ x) / square * through) / np.sqrt(square)
    v = jnp.asarray(v, jnp.float32)
    return lambda x: v @ x / jnp.sqrt(jnp.mean(x**2) + eps), x, truth


CASES = {
    "cosine similarity": cosine,
    "steep at the baseline, and cancelling": lambda: layers(300.0, False),
    "steep at the input, and cancelling": lambda: layers(300.0, True),
    "very steep, and cancelling": lambda: layers(3000.0, False),
    "logs": logs,
    "a step": step,
    "aliasing 16": lambda: aliasing(16),
    "aliasing 64": lambda: aliasing(64),
    "RMS norm": root_mean_square,
}
QUICK = [
    "cosine similarity",
    "very steep, and cancelling",
    "a step",
    "aliasing 16",
    "RMS norm",
]


@pytest.mark.parametrize("name", all_slow_but(QUICK, CASES))
def test_no_error_is_smaller_than_the_truth(name):
    f, x, truth = CASES[name]()
    x = jnp.asarray(x, jnp.float32)

    @jax.jit
    def attribute(x, rtol):
        to = igjax.integrated_grad(f, rule=to_tolerance(rtol), has_report=True)
        return to(x), igjax.integrated_grad(f, rule=gregory(64), has_report=True)(x)

    for rtol in (0.1, 0.01):
        (found, report), (fixed, own_report) = attribute(x, rtol)
        size = np.abs(found).sum()
        error = np.abs(found - truth).sum()
        assert not report.converged or error <= 1.2 * rtol * size + 1e-5
        assert report.error * size >= 0.5 * error - 1e-5
    error = np.abs(fixed - truth).sum()
    assert own_report.error * np.abs(fixed).sum() >= error - 1e-5 or np.isinf(own_report.error)


@pytest.mark.parametrize("name", ["cosine similarity", "RMS norm", "logs"])
def test_what_is_steep_at_the_baseline_converges(name):
    f, x, truth = CASES[name]()
    attribute = igjax.integrated_grad(f, rule=to_tolerance(0.03), has_report=True)
    found, report = attribute(jnp.asarray(x, jnp.float32))
    assert report.converged
    np.testing.assert_allclose(np.abs(found - truth).sum() / np.abs(truth).sum(), 0.0, atol=0.03)


def test_the_first_recurrent_network_that_it_was_tried_on():
    keys = jax.random.split(jax.random.key(0), 8)
    of = jax.random.normal
    inward, across = of(keys[0], (7, 16)) * 0.5, of(keys[1], (16, 16)) * 0.3
    out, x = of(keys[2], (23,))[:16] * 0.5, of(keys[3], (30, 7))

    def f(x):
        def step(h, s):
            return jnp.tanh(s @ inward + h @ across), None

        run = lambda x: jax.lax.scan(step, jnp.zeros(16), x)[0]
        return jax.nn.sigmoid((run(x) + run(x[::-1])) @ out)

    found, report = igjax.integrated_grad(f, rule=to_tolerance(0.01), has_report=True)(x)
    # Graded towards the baseline, where a quarter of it is.
    graded = igjax.paths.reparametrize(igjax.paths.straight_line, lambda s: s**6)
    truth = igjax.integrated_grad(f, path=graded, rule=gauss_legendre(400))(x)
    error = float(jnp.abs(found - truth).sum() / jnp.abs(truth).sum())
    assert report.converged
    assert error <= 0.01
    fixed, report = igjax.integrated_grad(f, has_report=True)(x)
    assert report.error >= jnp.abs(fixed - truth).sum() / jnp.abs(fixed).sum()


def test_rounding_is_a_floor_of_the_error():
    x = jnp.asarray(normal(0, 16), jnp.float32)
    f = lambda x: jnp.sum(jnp.tanh(x))
    attribute = igjax.integrated_grad(f, rule=to_tolerance(1e-7), has_report=True)
    _, report = attribute(x)
    assert not report.converged
    assert report.error > 1e-7
    half = lambda x: f(x.astype(jnp.bfloat16)).astype(jnp.float32)
    _, report = igjax.integrated_grad(half, rule=to_tolerance(0.01), has_report=True)(x)
    assert report.reason == igjax.Reason.PRECISION
    assert not report.converged
    assert report.error > 0.02
    assert report.num_evals < 100  # for no number of nodes would help


def test_no_nan_is_made_where_there_is_none():
    with jax.debug_nans(True):
        for rule in (gregory(16), to_tolerance(0.05)):
            igjax.integrated_grad(lambda x: jnp.sum(x * 0), rule=rule)(jnp.ones(3))
            igjax.integrated_grad(lambda x: jnp.sum(jnp.tanh(x)), rule=rule)(jnp.ones(3))
