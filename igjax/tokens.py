"""Attribution to integers, such as token ids, at their embedding."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from igjax import paths, quadrature
from igjax._inputs import as_floating, as_function_of, as_integer, check_function
from igjax._jaxpr.names import split_at
from igjax._jaxpr.points import Name, is_name
from igjax._sharding import laid_out_like
from igjax._transform import Settings, check_scalar, checked, transform

__all__ = ["token_integrated_grad"]

Ids = Any


def token_integrated_grad(
    fun: Callable[..., Any],
    embedding: Name,
    argnums: int = 0,
    *,
    baseline: Ids | Callable[[jax.Array], Ids],
    special: Sequence[int] = (),
    per_token: bool = True,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """Returns a function that computes the integrated gradients of token ids at their embedding.

    The path runs from the embeddings of the baseline's ids to those of the input's. What ``fun``
    makes of the ids beside that (masks, positions) is as it is for the input.

    Args:
      fun: a function of ids, and of other pytrees of arrays, to a real scalar.
      embedding: the name of the intermediate into which the ids are looked up; see ``split_at``.
      argnums: which positional argument has the ids, an integer array of any shape.
      baseline: an id for every place, such as that of "[PAD]" or "[MASK]"; ids, an array like the
        input's; or a function of the input's ids to either.
      special: ids that are kept where the input has them, such as those of "[CLS]" and "[SEP]".
      per_token: whether to add up the attributions of an embedding, to one number for each id.
      path: as for ``integrated_grad``, between embeddings.
      rule: likewise.
      multiply_by_inputs: likewise.
      batch_size: likewise.
      has_report: likewise.
      sharding: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions: of the shape of the
      ids, or of their embedding without ``per_token``; and with ``has_report`` a ``Report``, whose
      ``baseline_value`` is that of the baseline's embeddings.

    Raises:
      TypeError: if ``embedding`` is no name; when called, if the argument, the baseline or
        ``special`` is not of integers.
      ValueError: when called, if the baseline is not like the ids, it or ``special`` does not fit
        their dtype, or the embedding cannot be had (``split_at``) or has not a vector for each id.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> table = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
      >>> f = lambda ids: jnp.sum(checkpoint_name(table[ids], "embedding") ** 2)
      >>> igjax.token_integrated_grad(f, "embedding", baseline=0)(jnp.array([1, 2, 1])).round(4)
      Array([ 5., 25.,  5.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, section 6.3: the attribution of a word is the sum of
    those of its embedding.
    """
    method = "token_integrated_grad"
    check_function(method, fun)
    if not is_name(embedding):
        raise TypeError(f"embedding must be the name of one intermediate; got {embedding!r}.")
    settings = checked(
        Settings(None, path, rule, multiply_by_inputs, batch_size, has_report, sharding)
    )

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        call, ids = as_function_of(method, fun, argnums, args, kwargs, check=as_integer)
        if not isinstance(ids, jax.Array):
            raise TypeError(
                f"{method} attributes to one array of ids; got {jax.tree.structure(ids)}."
            )
        head, tail = split_at(call, embedding)
        embedded = as_floating(head(ids), f"the embedding {embedding!r}")
        if embedded.shape[: ids.ndim] != ids.shape:
            raise ValueError(
                f"the embedding {embedding!r} must have a vector for each id, and so a shape that "
                f"begins with {ids.shape}; got {embedded.shape}."
            )
        kept = _as_ids("special", special, ids.dtype)
        start = laid_out_like(_baseline(baseline, kept, ids), ids)
        between = settings._replace(baseline=head(start))
        explain = transform(method, jax.grad, check_scalar, tail, 0, False, between)
        found = explain(embedded, ids)
        attributions, *report = found if has_report else (found,)
        if per_token:
            attributions = jnp.sum(attributions, axis=tuple(range(ids.ndim, attributions.ndim)))
        return (attributions, *report) if has_report else attributions

    return attribute


def _baseline(
    baseline: Ids | Callable[[jax.Array], Ids], special: jax.Array, ids: jax.Array
) -> jax.Array:
    """The baseline's ids for ``ids``."""
    value = _as_ids("baseline", baseline(ids) if callable(baseline) else baseline, ids.dtype)
    if value.shape not in ((), ids.shape):
        raise ValueError(
            f"baseline must be one id, or an array of the ids' shape {ids.shape}; got shape "
            f"{value.shape}."
        )
    return jnp.where(jnp.isin(ids, special), ids, jnp.broadcast_to(value, ids.shape))


def _as_ids(name: str, value: Any, dtype: Any) -> jax.Array:
    """``value``, integers, in the dtype of the ids.

    Raises:
      TypeError: if it is something else.
      ValueError: if it does not fit.
    """
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
        if value.size == 0:
            return jnp.zeros(value.shape, dtype)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be of integers, such as token ids; got {value!r}.")
    if not isinstance(value, jax.core.Tracer):
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if np.any(value < least) or np.any(value > most):
            raise ValueError(
                f"{name} must fit the ids, which are {dtype}: {least} to {most}; got {value!r}."
            )
    return jnp.asarray(value, dtype)
