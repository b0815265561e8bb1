"""Train a network on what it looks at, so that it does not learn what it should not.

    pip install "igjax[examples]"
    python -m examples.attribution_priors

Handwritten digits (8 × 8 pixels, from scikit-learn) get a flaw: in training, four pixels in the
corner write the digit in binary. In use they write any. A network trained as usual learns the flaw
and fails in use. Then it is trained with a penalty on its own integrated gradients at these pixels,
by a rule of eight nodes and to a tolerance: it learns to read the digits.

The penalty is a term of the loss like any other. `integrated_grad` is differentiated by `jax.grad`,
the model is one of Flax, the optimizer one of optax.

Sources: penalties on gradients at what should not count are of Ross, Hughes and Doshi-Velez 2017,
"Right for the Right Reasons" (arXiv:1703.03717); with attributions that are complete, of Erion et
al. 2021, "Improving performance of deep learning models with axiomatic attribution priors and
expected gradients" (arXiv:1906.10670).
"""

import argparse
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

try:
    from rich import box
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from sklearn import datasets
except ModuleNotFoundError as error:
    message = f'{error.name} is not installed: pip install "igjax[examples]"'
    raise ModuleNotFoundError(message, name=error.name) from None

import igjax
import igjax.flax.linen

Variables = Any
Rule = igjax.quadrature.Rule | igjax.quadrature.Tolerance

FLAW = np.s_[..., :2, :2]  # the pixels
STRENGTH = 10.0  # how much the penalty counts
RULES: dict[str, Rule | None] = {
    "no penalty": None,
    "8 nodes": igjax.quadrature.gregory(8),
    "to a tolerance of 5 %": igjax.quadrature.to_tolerance(0.05, max_evals=50),
}

MODEL = nn.Sequential([jnp.ravel, nn.Dense(64), nn.gelu, nn.Dense(10)])
logits = igjax.flax.linen.function(MODEL)


class Digits(NamedTuple):
    """Images, (count, 8, 8) between 0 and 1, and which digit each shows, (count,)."""

    images: jax.Array
    labels: jax.Array


class Result(NamedTuple):
    """What became of a training.

    Attributes:
      accuracy: on digits that were not trained on, with the flaw as in training.
      accuracy_in_use: on the same, the flaw telling nothing.
      share: of the attributions of these (their magnitudes), what falls on the flawed pixels.
    """

    accuracy: float
    accuracy_in_use: float
    share: float


def load() -> tuple[Digits, Digits]:
    """Digits to train on, 1347, and others to test with, 450."""
    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, labels = data.images[order].astype(np.float32) / 16.0, data.target[order]
    parts = np.split(images, [1347]), np.split(labels.astype(np.int32), [1347])
    train, test = (Digits(jnp.asarray(i), jnp.asarray(y)) for i, y in zip(*parts, strict=True))
    return train, test


def with_flaw(digits: Digits, told: jax.Array) -> Digits:
    """The digits, with the numbers ``told`` in the corner, integers from 0 to 9."""
    bits = (told[:, None] >> jnp.arange(4)[None]) & 1
    corner = bits.reshape(-1, 2, 2).astype(digits.images.dtype)
    return digits._replace(images=digits.images.at[FLAW].set(corner))


def score(image: jax.Array, variables: Variables, label: jax.Array) -> jax.Array:
    """The logarithm of the probability of a digit: what is attributed."""
    return jax.nn.log_softmax(logits(variables, image))[label]


def loss(variables: Variables, digits: Digits, rule: Rule | None) -> jax.Array:
    """The cross-entropy; and, with a rule, the penalty on the attributions."""
    by_example = (0, None, 0)
    entropy = -jnp.mean(jax.vmap(score, by_example)(digits.images, variables, digits.labels))
    if rule is None:
        return entropy
    attribute = jax.vmap(igjax.integrated_grad(score, rule=rule), by_example)
    attributions = attribute(digits.images, variables, digits.labels)
    return entropy + STRENGTH * jnp.mean(jnp.sum(jnp.abs(attributions[FLAW]), (1, 2)))


def train(digits: Digits, rule: Rule | None, *, steps: int = 600, seed: int = 0) -> Variables:
    """Trains with Adam, on 128 digits a step, and returns the model's variables."""
    optimizer = optax.adam(3e-3)
    variables = MODEL.init(jax.random.key(seed), digits.images[0])

    @jax.jit
    def step(variables: Variables, state: Any, key: jax.Array) -> tuple[Variables, Any]:
        chosen = jax.random.choice(key, len(digits.labels), (128,))
        batch = Digits(digits.images[chosen], digits.labels[chosen])
        updates, state = optimizer.update(jax.grad(loss)(variables, batch, rule), state, variables)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for key in jax.random.split(jax.random.key(seed + 1), steps):
        variables, state = step(variables, state, key)
    return variables


def test(variables: Variables, digits: Digits) -> Result:
    """Measures the model on digits, which come without the flaw."""
    told = jax.random.randint(jax.random.key(2), digits.labels.shape, 0, 10)
    in_use = with_flaw(digits, told)

    def accuracy(digits: Digits) -> float:
        scores = jax.vmap(functools.partial(logits, variables))(digits.images)
        return float(jnp.mean(jnp.argmax(scores, axis=-1) == digits.labels))

    attribute = jax.jit(jax.vmap(igjax.integrated_grad(score), (0, None, 0)))
    amount = jnp.abs(attribute(in_use.images, variables, in_use.labels))
    share = jnp.mean(amount[FLAW].sum((1, 2)) / amount.sum((1, 2)))
    return Result(accuracy(with_flaw(digits, digits.labels)), accuracy(in_use), float(share))


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Runs the example: trains without the penalty and with it, and prints how that went."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.attribution_priors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=600, help="of training (600)")
    options = parser.parse_args(arguments)

    console = Console()
    digits, others = load()
    flawed = with_flaw(digits, digits.labels)
    results = {
        name: test(train(flawed, rule, steps=options.steps), others)
        for name, rule in track(RULES.items(), "Training", console=console, transient=True)
    }
    table = Table(title="What a penalty on integrated gradients does", box=box.SIMPLE_HEAD)
    table.add_column("penalty")
    for header in (
        "accuracy, flaw\nas in training",
        "accuracy,\nin use",
        "share of the\nflawed pixels",
    ):
        table.add_column(header, justify="right", vertical="bottom")
    for name, result in results.items():
        table.add_row(name, *(f"{figure:.1%}" for figure in result))
    console.print(table)
    return results


if __name__ == "__main__":
    main()
