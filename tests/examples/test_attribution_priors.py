"""The example of attribution priors, run for real, with fewer steps."""

import contextlib
import io

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is in the extra examples")

from examples import attribution_priors as example


@pytest.fixture(scope="module")
def run():
    # Optax raises a float to the power of an integer.
    standard = jax.numpy_dtype_promotion("standard")
    with standard, contextlib.redirect_stdout(io.StringIO()) as printed:
        results = example.main(["--steps=200"])
    return results, printed.getvalue()


def test_a_network_trained_as_usual_learns_the_flaw(run):
    result = run[0]["no penalty"]
    assert result.accuracy > 0.99
    assert result.accuracy_in_use < 0.85
    assert result.share > 0.1


@pytest.mark.parametrize("name", [name for name, rule in example.RULES.items() if rule])
def test_with_the_penalty_it_learns_the_digits(run, name):
    result = run[0][name]
    assert result.accuracy_in_use > 0.92
    assert abs(result.accuracy - result.accuracy_in_use) < 0.02
    assert result.share < 0.02


def test_the_table_says_so(run):
    results, printed = run
    for name, result in results.items():
        (line,) = (line for line in printed.splitlines() if name in line)
        assert f"{result.accuracy_in_use:.1%}" in line


def test_the_flaw_writes_the_number_in_binary():
    digits, _ = example.load()
    images = example.with_flaw(digits, digits.labels).images
    bits = np.asarray(images[example.FLAW]).reshape(-1, 4)
    np.testing.assert_array_equal(bits @ [1, 2, 4, 8], digits.labels)
    np.testing.assert_array_equal(images[:, 2:], digits.images[:, 2:])
