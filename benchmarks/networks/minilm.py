"""MiniLM on questions: how near one is to its paraphrase, and what kind of answer it asks for.

The kinds are the six coarse classes of the TREC questions (Li and Roth 2002, "Learning Question
Classifiers"). No classifier is trained: a question is of the class whose description, encoded by
the same network, is nearest. Attributed are the word embeddings; in the baseline every token but
[CLS] and [SEP] is [PAD].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks._network import Network
from examples.models import minilm

_LENGTH = 16  # tokens to pad a question to
_TEXT_LENGTH = 32  # and a text that is encoded once
_TEMPERATURE = 20.0  # cosines differ by tenths: times 20, most probabilities are near neither bound

CLASSES = {
    "ABBR": "What do these letters stand for? The full form of an abbreviation or acronym.",
    "DESC": "Why and how does something happen? A definition, reason or explanation.",
    "ENTY": "Which thing is it? An animal, plant, food, colour, game, language or product.",
    "HUM": "Who was it? The name of a person, group or company.",
    "LOC": "Where is it? A city, country, mountain, river or other place.",
    "NUM": "How many or how much? A number, date, distance, price, age or temperature.",
}

# Of each: its class, the question, and another sentence that means the same or nearly so.
QUESTIONS = [
    ("ABBR", "What does the acronym NASA stand for?", "What is the full name of NASA?"),
    ("DESC", "Why is the sky blue during the day?", "What makes the daytime sky look blue?"),
    ("ENTY", "What animal is the fastest on land?", "Which beast outruns all others?"),
    ("HUM", "Who painted the ceiling of the Sistine Chapel?", "The artist was Michelangelo."),
    ("LOC", "What country is the city of Nairobi in?", "In which state does Nairobi lie?"),
    ("NUM", "How many people live in Paris?", "What is the population of Paris?"),
    ("ABBR", "What is the full form of the abbreviation DNA?", "What do the letters DNA mean?"),
    ("DESC", "How does a refrigerator keep food cold?", "How do fridges cool what is in them?"),
    ("ENTY", "What colour do you get from mixing blue and yellow?", "Blue and yellow make green."),
    ("HUM", "Who was the first woman to fly across the Atlantic alone?", "Amelia Earhart's flight"),
    ("LOC", "Where is the highest waterfall in the world?", "Angel Falls are in Venezuela."),
    ("NUM", "When did the Berlin Wall come down?", "In what year did the Wall in Berlin fall?"),
    ("ABBR", "What words does the abbreviation PDF come from?", "What is PDF short for?"),
    ("DESC", "What is photosynthesis?", "Explain how plants turn light into sugar."),
    ("ENTY", "What language is spoken by most people in Brazil?", "Brazilians speak Portuguese."),
    ("HUM", "Which company built the first jet airliner?", "Who made the earliest passenger jet?"),
    ("LOC", "Which river flows through Vienna and Budapest?", "The Danube passes both cities."),
    ("NUM", "How far is the moon from the earth?", "What is the distance to the moon?"),
    ("ABBR", "What do the initials BBC mean?", "What is the BBC's name in full?"),
    ("DESC", "Why do leaves turn red in autumn?", "What causes foliage to change colour?"),
    ("ENTY", "What game is played with a bat, a ball and wickets?", "The rules of cricket"),
    ("HUM", "Who wrote the novel Frankenstein?", "Mary Shelley is the author of Frankenstein."),
    ("LOC", "What is the capital of Australia?", "Is Canberra or Sydney the capital city?"),
    ("NUM", "How much does an adult elephant weigh?", "What is the weight of an elephant?"),
    ("ABBR", "What is HTML an abbreviation of?", "HTML means hypertext markup language."),
    ("DESC", "What is the difference between weather and climate?", "How does climate differ?"),
    ("ENTY", "Which fruit is used to make cider?", "Cider is pressed from apples."),
    ("HUM", "Who discovered penicillin?", "Fleming noticed that a mould kills bacteria."),
    ("LOC", "On which continent is the Sahara desert?", "The Sahara covers northern Africa."),
    ("NUM", "At what temperature does water boil?", "The boiling point of water in degrees"),
]


class Weights(NamedTuple):
    """The encoder, with no table of words, and the embeddings of the classes, (6, 384)."""

    encoder: minilm.Params
    prototypes: jax.Array


def load(count: int) -> Network:
    """The network with the first `count` of the 30 questions.

    The extras are the mask of the tokens, (count, 16) bool; the embedding of the paraphrase,
    (count, 384) float32; and the index of the class that the network predicts, (count,) int32.

    Raises:
      ModuleNotFoundError: if a package is not installed.
      ValueError: if there are not as many questions.
    """
    if not 1 <= count <= len(QUESTIONS):
        raise ValueError(f"count must be 1 … {len(QUESTIONS)}; got {count}.")
    params = minilm.load()
    _, questions, references = zip(*QUESTIONS[:count], strict=True)
    ids, mask = minilm.tokenize(questions, _LENGTH)
    # Padding is [PAD] already, so it is as in x.
    baseline_ids = np.where(np.isin(ids, (minilm.CLS, minilm.SEP)), ids, np.int32(minilm.PAD))
    encoded = _encode(params, [*questions, *references, *CLASSES.values()])
    encoded_questions, encoded_references, prototypes = np.split(encoded, [count, 2 * count])
    labels = np.argmax(encoded_questions @ prototypes.T, axis=-1)
    # No output reads the table of words, 47 MB.
    weights = Weights(params._replace(words=params.words[:0]), jnp.asarray(prototypes))
    return Network(
        name="MiniLM",
        params=weights,
        outputs={"cosine": _cosine, "logit": _logit, "probability": _probability},
        xs=np.asarray(minilm.embed_tokens(params, ids)),
        baselines=np.asarray(minilm.embed_tokens(params, baseline_ids)),
        extras=(mask, encoded_references, labels.astype(np.int32)),
        torch_outputs=lambda: _torch_outputs(weights),
    )


def _cosine(
    weights: Weights, x: jax.Array, mask: jax.Array, reference: jax.Array, _: jax.Array
) -> jax.Array:
    return minilm.encode(weights.encoder, x, mask) @ reference.astype(x.dtype)


def _logit(
    weights: Weights, x: jax.Array, mask: jax.Array, _: jax.Array, label: jax.Array
) -> jax.Array:
    """The score of the class less the mean score of the others."""
    scores = _scores(weights, x, mask)
    count = len(scores)
    return (scores[label] - jnp.mean(scores)) * (count / (count - 1))


def _probability(
    weights: Weights, x: jax.Array, mask: jax.Array, _: jax.Array, label: jax.Array
) -> jax.Array:
    return jax.nn.softmax(_scores(weights, x, mask))[label]


def _scores(weights: Weights, x: jax.Array, mask: jax.Array) -> jax.Array:
    return weights.prototypes @ minilm.encode(weights.encoder, x, mask) * _TEMPERATURE


def _encode(params: minilm.Params, texts: Sequence[str]) -> NDArray[np.float32]:
    ids, mask = minilm.tokenize(texts, _TEXT_LENGTH)
    encode = jax.jit(jax.vmap(minilm.encode, in_axes=(None, 0, 0)))
    return np.asarray(encode(params, minilm.embed_tokens(params, ids), mask))


def _torch_outputs(weights: Weights) -> Mapping[str, Callable[..., Any]]:
    import torch
    from torch.nn import functional

    encoder, prototypes = jax.tree.map(lambda a: torch.from_numpy(np.array(a)), weights)

    def linear(layer, x):
        return functional.linear(x, layer.kernel.T, layer.bias)

    def normalize(norm, x):
        return functional.layer_norm(x, (minilm.WIDTH,), norm.scale, norm.bias, eps=1e-12)

    def encode(x, mask):
        x = normalize(encoder.norm, x + encoder.positions[: x.shape[1]])
        shown = mask[:, None, None]
        for block in encoder.blocks:
            parts = linear(block.project, x).unflatten(-1, (3, minilm.HEADS, -1))
            queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
            # The usual factor of the scores is in the weights.
            mixed = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=shown, scale=1.0
            )
            y = linear(block.output, mixed.transpose(1, 2).flatten(2))
            x = normalize(block.attention_norm, x + y)
            y = linear(block.contract, functional.gelu(linear(block.expand, x)))
            x = normalize(block.norm, x + y)
        return functional.normalize((x * mask[..., None]).sum(1), dim=-1)

    def scores_of(x, mask):
        return functional.linear(encode(x, mask), prototypes) * _TEMPERATURE

    def pick(rows, label):
        return rows.gather(1, label.long().expand(len(rows))[:, None])[:, 0]

    def cosine(x, mask, reference, _):
        return (encode(x, mask) * reference).sum(-1)

    def logit(x, mask, _, label):
        scores = scores_of(x, mask)
        count = scores.shape[1]
        return (pick(scores, label) - scores.mean(1)) * (count / (count - 1))

    def probability(x, mask, _, label):
        return pick(scores_of(x, mask).softmax(-1), label)

    return {"cosine": cosine, "logit": logit, "probability": probability}
