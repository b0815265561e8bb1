"""Sketches of contributions: linear, exact for a few elements, in proportion for many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax._engine import notes
from igjax._engine.integrand import Integrand, Seen
from igjax._engine.integration import Problem


def problem(x) -> Problem:
    integrand = Integrand(at=lambda alpha: alpha, zero=lambda: x, attributions=lambda rows: rows)
    return Problem(integrand, x, lambda attributions: attributions, None, 0.0)


def length_of_sketch(x, contribution) -> np.ndarray:
    return np.abs(notes.sketch(problem(x), contribution)).sum(axis=0)


@pytest.mark.parametrize("sizes", [(1,), (7,), (16,), (3, 5), (4, 4, 8)])
def test_of_up_to_16_elements_the_length_is_exact(sizes):
    rng = np.random.default_rng(0)
    x = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]
    total = sum(float(jnp.abs(leaf).sum()) for leaf in x)
    np.testing.assert_allclose(length_of_sketch(x, x), [total], rtol=1e-6)
    np.testing.assert_allclose(notes.length(problem(x), x), [total], rtol=1e-6)


def test_it_is_linear():
    rng = np.random.default_rng(1)
    one, other = (jnp.asarray(rng.normal(size=(9, 30)), jnp.float32) for _ in range(2))
    of = lambda row: notes.sketch(problem(one), row)
    np.testing.assert_allclose(of(one - 2 * other), of(one) - 2 * of(other), atol=1e-4)


def test_of_many_elements_the_length_is_in_proportion_to_that_of_all():
    x = jnp.zeros((40, 50))
    lengths = []
    for seed in range(40):
        row = np.random.default_rng(seed).normal(size=(40, 50)) * (1 + seed)
        lengths.append(length_of_sketch(x, jnp.asarray(row, jnp.float32))[0] / np.linalg.norm(row))
    assert np.std(lengths) < 0.25 * np.mean(lengths)


def test_each_output_has_its_own():
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    rng = np.random.default_rng(2)
    jacobian = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=(4, *leaf.shape)), jnp.float32), x
    )
    found = notes.sketch(problem(x), jacobian)
    assert found.shape == (notes.BUCKETS, 4)
    for output in range(4):
        own = jax.tree.map(lambda leaf, k=output: leaf[k], jacobian)
        np.testing.assert_allclose(found[:, output], notes.sketch(problem(x), own)[:, 0], rtol=1e-6)


def test_what_is_known_of_outputs_goes_back_to_their_structure():
    outputs = {"a": jnp.arange(3.0), "b": (jnp.asarray(5.0), jnp.ones((2, 2), jnp.bfloat16))}
    row = notes.flat(outputs, jnp.float32)
    assert row.shape == (8,)
    back = notes.like_outputs(row, outputs)
    assert jax.tree.structure(back) == jax.tree.structure(outputs)
    jax.tree.map(np.testing.assert_array_equal, back, outputs)
    known = notes.of_node(problem(jnp.ones(2)), Seen(jnp.ones(2), outputs, outputs))
    np.testing.assert_array_equal(known, np.stack([row, row]))
