"""Baselines, the inputs in which the signal is absent: values, or pure functions ``x -> baseline``.

Which baseline is right is the user's question: attributions explain the difference between the
function's values at the input and at the baseline. To add one, write a function of ``x``.

Of a pytree only the floats move from a baseline: what else it has (integers, bools, random keys) is
that of the input, whatever a baseline has in its place, such as None.

Functions that draw at random take a key, and draw the same numbers for every ``x``. For another
draw for each example map the key too:

    jax.vmap(lambda x, key: integrated_grad(f, baseline=uniform(key))(x))(xs, keys)
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igjax._blur import check_axes, gaussian_blur
from igjax._inputs import (
    as_attributed,
    as_real,
    as_reals,
    check_count,
    check_function,
    check_key,
    check_number,
    floats_of,
    is_known,
    matching,
    resolve_baseline,
)
from igjax._precision import as_sums, sum_dtype
from igjax._trees import Tree, filled, floats, is_kind, same_structure, thinned

if TYPE_CHECKING:
    import optax

__all__ = [
    "Baseline",
    "Embedding",
    "blurred",
    "constant",
    "embedding",
    "farthest",
    "gaussian",
    "max_entropy",
    "mean_of",
    "uniform",
    "zeros",
]

Baseline = Callable[[Tree], Tree]


def zeros(x: Tree) -> Tree:
    """Returns a baseline of zeros: a black image, the zero embedding.

    Args:
      x: the input, a pytree of arrays.

    Returns:
      Zeros, a pytree like ``x``.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baselines.zeros(jnp.ones(3))
      Array([0., 0., 0.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, section 1.
    """
    return jax.tree.map(jnp.zeros_like, x)


def constant(value: Tree) -> Baseline:
    """Makes a baseline of one value: a number everywhere, a colour, an embedding in every place.

    Args:
      value: a number or an array that broadcasts to every leaf of the input, or a pytree like the
        input with one such for each leaf.

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if ``value`` is not of real numbers.
      ValueError: if there is none; when the baseline is made, if ``value`` does not broadcast to
        the input.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baselines.constant(0.5)(jnp.ones(3))
      Array([0.5, 0.5, 0.5], dtype=float32)
    """
    value = as_reals("constant: value", value)
    return lambda x: _spread(value, floats_of(x))


def _spread(value: Tree, x: Tree) -> Tree:
    """Returns ``value``, for each leaf or one for all, in the shapes and dtypes of floats ``x``."""
    own = thinned(value, x)
    if not same_structure(own, x):
        if not jax.tree_util.all_leaves([value]):
            raise ValueError(
                "baseline: give one number or array for all leaves of the input, or a pytree like "
                f"it; got {jax.tree.structure(value)}, input {jax.tree.structure(x)}."
            )
        own = jax.tree.map(lambda _: value, x)

    def leaf(path: Any, x: jax.Array, value: Any) -> jax.Array:
        value = jnp.asarray(as_real("baseline", value), x.dtype)
        try:
            return jnp.broadcast_to(value, x.shape)
        except ValueError as error:
            raise ValueError(
                f"baseline: a value of shape {value.shape} does not broadcast to the input"
                f"{jax.tree_util.keystr(path)} of shape {x.shape}."
            ) from error

    return jax.tree_util.tree_map_with_path(leaf, x, own)


class Embedding(NamedTuple):
    """A baseline of token ids that is no id, but an embedding: made by ``embedding``.

    Attributes:
      value: the embedding.
    """

    value: Tree


def embedding(value: Tree) -> Embedding:
    """Makes a baseline of token ids out of an embedding, such as zeros, or the mean of all.

    Vectors that belong to no id of the input, such as those of a "[CLS]" that the model itself puts
    in front, stay as they are.

    Args:
      value: a number or an array that broadcasts to the embeddings of the ids; with several
        embeddings also a tuple of one for each.

    Returns:
      A baseline for ``at_tokens`` and ``token_integrated_grad``.

    Raises:
      TypeError: if ``value`` is not of real numbers.
      ValueError: if there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> table = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
      >>> f = lambda ids: jnp.sum(checkpoint_name(table[ids], "embedding"))
      >>> mean = igjax.baselines.embedding(table.mean(0))
      >>> igjax.token_integrated_grad(f, "embedding", baseline=mean)(jnp.array([1, 2])).round(4)
      Array([-0.3333,  3.6667], dtype=float32)
    """
    return Embedding(as_reals("embedding: value", value))


def blurred(sigma: jax.typing.ArrayLike, axes: Sequence[int] = (0, 1)) -> Baseline:
    """Makes the input itself a baseline, blurred: its details are absent, its colours are not.

    Args:
      sigma: the Gaussian's standard deviation in pixels, a scalar.
      axes: the axes of the picture, for one example. The default fits (height, width) and
        (height, width, channels).

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if ``sigma`` is no number, or an axis no integer.
      ValueError: if ``sigma`` is negative or not finite; when the baseline is made, if the picture
        has no such axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baseline = baselines.blurred(10.0, axes=(0,))(jnp.array([0.0, 1.0, 0.0, 1.0]))
      >>> bool(jnp.allclose(baseline, 0.5))
      True

    Source: Fong & Vedaldi 2017, "Interpretable Explanations of Black Boxes by Meaningful
    Perturbation"; Sturmfels, Lundberg & Lee 2020, "Visualizing the Impact of Feature Attribution
    Baselines", Distill. The picture is continued by reflection.
    """
    check_number("blurred: sigma", sigma)
    axes = check_axes("blurred: axes", axes)
    return lambda x: jax.tree.map(lambda leaf: gaussian_blur(leaf, sigma, axes), floats_of(x))


def uniform(key: jax.Array, low: Tree = 0.0, high: Tree = 1.0) -> Baseline:
    """Draws uniform noise between ``low`` and ``high``, independent of the input's values.

    Args:
      key: a random key.
      low: the least value, a number or what ``constant`` takes.
      high: the greatest value, likewise.

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if ``key`` is no random key, or a bound not of real numbers.
      ValueError: if ``low`` is above ``high``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baseline = baselines.uniform(jax.random.key(0), -1.0, 1.0)(jnp.ones(1000))
      >>> bool(jnp.all(abs(baseline) <= 1.0)), bool(abs(baseline.mean()) < 0.1)
      (True, True)

    Source: Sturmfels, Lundberg & Lee 2020, Distill.
    """
    check_key("uniform: key", key)
    low, high = _box("uniform", low, high)

    def baseline(x: Tree) -> Tree:
        x = floats_of(x)
        draws = _draw(jax.random.uniform, key, x)
        return jax.tree.map(
            lambda low, high, u: low + (high - low) * u, _spread(low, x), _spread(high, x), draws
        )

    return baseline


def _box(method: str, low: Tree, high: Tree) -> tuple[Tree, Tree]:
    """Returns the bounds of a box as arrays, having checked that it is one.

    Raises:
      TypeError: if they are not of real numbers.
      ValueError: if there is none, or ``low`` is known to be above ``high``.
    """
    low, high = as_reals(f"{method}: low", low), as_reals(f"{method}: high", high)
    lows, highs = _like_each_other(low, high)
    if same_structure(lows, highs):  # else one of them has None where there are no floats
        for lower, upper in zip(jax.tree.leaves(lows), jax.tree.leaves(highs), strict=True):
            if not _is_ordered(lower, upper):
                raise ValueError(
                    f"{method}: low must be at most high, everywhere; got {lower} and {upper}."
                )
    return low, high


def _like_each_other(low: Tree, high: Tree) -> tuple[Tree, Tree]:
    """Returns two pytrees, of which one may be a single leaf that stands for all of the other's."""
    if jax.tree_util.all_leaves([low]):
        return jax.tree.map(lambda _: low, high), high
    if jax.tree_util.all_leaves([high]):
        return low, jax.tree.map(lambda _: high, low)
    return low, high


def _is_ordered(low: Any, high: Any) -> bool:
    """Returns whether two bounds are in order, as far as that is known when this is traced."""
    numbers = all(is_kind(bound, jnp.floating, jnp.integer) for bound in (low, high))
    if not (numbers and is_known(low) and is_known(high)):
        return True
    try:
        return bool(np.all(np.asarray(low, np.float64) <= np.asarray(high, np.float64)))
    except ValueError:
        return False  # there is no shape that both broadcast to


def gaussian(key: jax.Array, sigma: Tree) -> Baseline:
    """Adds normal noise of standard deviation ``sigma`` to the input.

    Args:
      key: a random key.
      sigma: the noise's standard deviation, a number or what ``constant`` takes.

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if ``key`` is no random key, or ``sigma`` not of real numbers.
      ValueError: if ``sigma`` is negative.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baseline = baselines.gaussian(jax.random.key(0), 0.5)(jnp.ones(1000))
      >>> bool(abs(baseline.std() - 0.5) < 0.05)
      True

    Source: Sturmfels, Lundberg & Lee 2020, Distill.
    """
    check_key("gaussian: key", key)
    sigma = as_reals("gaussian: sigma", sigma)
    for leaf in jax.tree.leaves(sigma):
        if not _is_ordered(0.0, leaf):
            raise ValueError(f"gaussian: sigma must be at least 0, everywhere; got {leaf}.")

    def baseline(x: Tree) -> Tree:
        x = floats_of(x)
        draws = _draw(jax.random.normal, key, x)
        return jax.tree.map(lambda x, sigma, z: x + sigma * z, x, _spread(sigma, x), draws)

    return baseline


def _draw(sampler: Callable[..., jax.Array], key: jax.Array, x: Tree) -> Tree:
    """Returns a pytree like ``x`` of random numbers, every leaf with a key of its own."""
    keys = jax.random.split(key, len(jax.tree.leaves(x)))
    keys = jax.tree.unflatten(jax.tree.structure(x), list(keys))
    return jax.tree.map(lambda key, leaf: sampler(key, leaf.shape, leaf.dtype), keys, x)


def mean_of(data: Tree) -> Baseline:
    """Takes the mean of a set of examples as the baseline.

    Args:
      data: a pytree like the input, with one more axis, of examples, in front of every leaf. It may
        hold integers, such as pixels, and bools, which count as 0 and 1.

    Returns:
      A function of ``x`` that makes the baseline, the same for every ``x``.

    Raises:
      TypeError: if ``data`` is not of real numbers.
      ValueError: if ``data`` has no examples.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baselines.mean_of(jnp.array([[0.0, 2.0], [4.0, 4.0]]))(jnp.ones(2))
      Array([2., 3.], dtype=float32)
    """

    def mean(examples: Any) -> jax.Array:
        examples = jnp.asarray(examples)
        if examples.shape[:1] in {(), (0,)}:
            raise ValueError(
                "mean_of: data must have an axis of examples, of at least one, in front of every "
                f"leaf; got shape {examples.shape}."
            )
        is_float = is_kind(examples, jnp.floating)
        dtype = sum_dtype(examples.dtype) if is_float else jnp.result_type(float)
        return jnp.mean(examples, axis=0, dtype=dtype)

    value = jax.tree.map(mean, as_reals("mean_of: data", jax.tree.map(_counted, data)))
    return lambda x: matching(value, floats_of(x), "mean_of: the mean of data")


def _counted(leaf: Any) -> Any:
    """Returns a leaf of which there can be a mean: a key has none."""
    if is_kind(leaf, jax.dtypes.prng_key):
        return None
    return leaf.astype(np.uint8) if is_kind(leaf, np.bool_) and hasattr(leaf, "astype") else leaf


def farthest(low: Tree, high: Tree) -> Baseline:
    """Finds the point of the box from ``low`` to ``high`` that is farthest from the input.

    Every element is taken to the end that it is farther from (the maximum-distance baseline): no
    element keeps its value, as a black pixel does under a black baseline.

    Args:
      low: the least value an input may have, a number or what ``constant`` takes.
      high: the greatest value, likewise.

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if a bound is not of real numbers.
      ValueError: if ``low`` is above ``high``.

    Example:
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> baselines.farthest(0.0, 1.0)(jnp.array([0.2, 0.9]))
      Array([1., 0.], dtype=float32)

    Source: Sturmfels, Lundberg & Lee 2020, Distill.
    """
    low, high = _box("farthest", low, high)

    def baseline(x: Tree) -> Tree:
        x = floats_of(x)
        return jax.tree.map(
            lambda x, low, high: jnp.where(x - low > high - x, low, high),
            x,
            _spread(low, x),
            _spread(high, x),
        )

    return baseline


def max_entropy(
    predict: Callable[[Tree], jax.Array],
    *,
    start: Tree | Baseline = zeros,
    optimizer: "optax.GradientTransformation | None" = None,
    steps: int = 500,
    low: Tree = -jnp.inf,
    high: Tree = jnp.inf,
) -> Baseline:
    """Finds the input about which the model is least certain, by gradient ascent on the entropy.

    The search costs ``steps`` gradients. Where many inputs share a baseline, search once and give
    the result as a value. (On the CPU a network with convolutions searches slowly: XLA compiles
    them to scalar code in a loop.)

    Args:
      predict: from an input like ``x`` to logits, shape ``(..., classes)``; the mean of the
        entropies is maximised.
      start: where the search begins, a pytree like the input or a function of it. ``lambda x: x``
        looks for an uncertain input near ``x``. The search is local: it may stop at a point that
        is uncertain between some of the classes only.
      optimizer: an Optax optimiser; None: ``optax.adam(0.05)``.
      steps: the number of steps, at least 0.
      low: the least value an element may take, a number or what ``constant`` takes.
      high: the greatest value, likewise.

    Returns:
      A function of ``x`` that makes the baseline.

    Raises:
      TypeError: if ``predict`` is no function, ``optimizer`` none of Optax, ``steps`` no integer,
        or a bound not of real numbers; when the baseline is made, if ``predict`` returns no array
        of floats.
      ValueError: if ``steps < 0`` or ``low`` is above ``high``; when the baseline is made, if
        ``predict`` returns a scalar or ``start`` is not like the input.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from igjax import baselines
      >>> predict = lambda x: jnp.array([[1.0, 0.0], [0.0, 2.0]]) @ x
      >>> baseline = baselines.max_entropy(predict, start=lambda x: x)(jnp.array([1.0, 1.0]))
      >>> bool(jnp.allclose(jax.nn.softmax(predict(baseline)), 0.5, atol=0.01))
      True

    Source: the entropy is Shannon's, of ``softmax(predict(x))``.
    """
    import optax  # Optax's import costs more time than the whole of igjax

    check_function("max_entropy", predict, "predict")
    chosen = optax.adam(0.05) if optimizer is None else optimizer
    if not (hasattr(chosen, "init") and hasattr(chosen, "update")):
        raise TypeError(f"max_entropy: optimizer must be one of Optax; got {optimizer!r}.")
    low, high = _box("max_entropy", low, high)
    steps = check_count("max_entropy: steps", steps, least=0, most=2**31 - 1)

    def negative_entropy(x: Tree) -> jax.Array:
        logits = predict(x)
        if not is_kind(logits, jnp.floating):
            raise TypeError(
                f"max_entropy: predict must return logits, an array of floats; got {logits!r}."
            )
        if jnp.ndim(logits) == 0:
            raise ValueError(
                "max_entropy: predict must return logits of shape (..., classes); got a scalar. "
                "For one logit of two classes return jnp.stack([logit, jnp.zeros_like(logit)])."
            )
        log_p = jax.nn.log_softmax(logits.astype(sum_dtype(logits.dtype)))
        return jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))

    def baseline(x: Tree) -> Tree:
        whole = as_attributed(x, "x")
        x = floats(whole)
        floor, ceiling = (as_sums(_spread(bound, x)) for bound in (low, high))

        def in_own_dtypes(point: Tree) -> Tree:
            return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), point, x)

        def step(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], None]:
            point, state = carry
            at = lambda point: negative_entropy(filled(in_own_dtypes(point), whole))
            gradient = jax.grad(at)(point)
            with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes, whatever the user set
                updates, state = chosen.update(gradient, state, point)
                point = optax.apply_updates(point, updates)
            return (jax.tree.map(jnp.clip, point, floor, ceiling), state), None

        # In the precision of sums: small numbers of an optimiser, such as Adam's eps, are 0 in
        # float16.
        point = as_sums(floats(resolve_baseline(start, whole, "max_entropy: start")))
        point = jax.tree.map(jnp.clip, point, floor, ceiling)
        (point, _), _ = jax.lax.scan(step, (point, chosen.init(point)), None, length=steps)
        return in_own_dtypes(point)

    return baseline
