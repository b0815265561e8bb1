"""Attribution to integers, such as token ids, at their embedding."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from igjax import baselines
from igjax._engine.attribution import Attribution, Inner, P, made_of
from igjax._engine.options import PathOptions
from igjax._engine.report import Report
from igjax._inputs import (
    as_floating,
    as_function_of,
    as_ids,
    as_ids_or_floating,
    check_attribution,
    check_baseline_blind_to_padding,
    check_flag,
    check_function,
    resolve_baseline,
)
from igjax._integrated import integrated_grad
from igjax._jaxpr.names import Cut, cut
from igjax._jaxpr.origins import Origins
from igjax._jaxpr.points import Name, is_name
from igjax._layers import Method, check_depends, of_scalar, takes
from igjax._rows import (
    Rows,
    check_in_tables,
    check_nothing_is_left,
    followed,
    of_ids,
    of_several,
)
from igjax._sharding import laid_out_like
from igjax._trees import Tree, map_parts

__all__ = ["at_tokens", "token_integrated_grad"]


def at_tokens(
    method: Method,
    embedding: Name | Sequence[Name],
    *,
    special: Sequence[int] = (),
    per_token: bool = True,
) -> Callable[..., Attribution[Any]]:
    """Returns a method that attributes to token ids at their embedding, from one for floats.

    Between ids there is no path; between their embeddings there is. What the function makes of the
    ids beside that (masks, positions) is as it is for the input.

    Attributions are at the ids, whichever vector of the embedding these are looked up into: the
    function may shift its ids, reverse or repeat them, put others in front or add axes. A vector
    that it looks up by no id of the input, such as one for "[CLS]" that it puts in front itself,
    belongs to none, and what a method attributes to it is left out. That is zero for a method with
    a baseline: such a vector is the same there, also with ``igjax.baselines.embedding``.

    Args:
      method: a transform, igjax's or yours; see ``at_layer``.
      embedding: the name of the intermediate into which the ids are looked up; see ``split_at``. A
        list stands for several: of several arguments, or of the columns of a table, each with an
        embedding of its own.
      special: ids that are kept where the input has them, such as those of "[CLS]" and "[SEP]".
      per_token: whether to add up the attributions of an embedding: to one number for each id.

    Returns:
      A transform, ``transform(fun, argnums=0, *, baseline, **options)``. ``argnums`` names
      arguments of ids, integer arrays, and also any of numbers beside them (arrays of floats only),
      which are part of the same path. ``baseline`` is an id for every place, such as that of
      "[PAD]" or "[MASK]"; ids, an array like the argument; a function of the argument to either; or
      ``igjax.baselines.embedding(value)``. With several ``argnums`` it is a tuple of one for each,
      or one for all of ids, and zeros for numbers. The options are those of ``method``.

      Attributions are of the shape of the ids, and without ``per_token`` have the axes of a vector
      behind that; for a list of embeddings they are a tuple, of which each has the shape of an
      embedding without its last axis. With numbers, a tuple of that and of what is like each
      argument of numbers.

    Raises:
      TypeError: if ``embedding`` is no name; when called, if an argument, a baseline or ``special``
        is not of integers.
      ValueError: when called, if the baseline is not like the ids, it or ``special`` does not fit
        their dtype, or the embedding cannot be had (``split_at``); if a vector of it is made of
        several ids, or cannot be followed to one, or an id has no vector and the function goes by
        it otherwise; or if an id, of the input or the baseline, is not in the table that it is
        looked up in, or counted from its end, where ids have values: under ``jax.jit`` and
        ``jax.vmap`` they have none yet, nor with what igjax compiles itself (``batch_size``, or a
        rule to a tolerance), nor are look-ups in a loop (``lax.scan``, ``lax.map``) checked. There
        JAX takes another row, or NaN. Where padding is -1, look up ``jnp.where(ids < 0, 0, ids)``;
        likewise in place of ``mode="clip"``. A ``fill_value`` for what is not in the table is
        fine. Where ``jax.export`` leaves lengths of what the embedding is made of open, nothing is
        followed: then it must have its vectors in the ids' places. A ``jax.shard_map`` within the
        function is not followed; one around the method is fine.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> table = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
      >>> f = lambda ids, age: jnp.sum(checkpoint_name(table[ids], "embedding") ** 2) * age
      >>> method = igjax.at_tokens(igjax.integrated_grad, "embedding")
      >>> tokens, age = method(f, (0, 1), baseline=(0, 1.0))(jnp.array([1, 2]), 1.0)
      >>> tokens.round(4)
      Array([ 5., 25.], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, section 6.3: the attribution of a word is the sum of
    those of its embedding.
    """
    check_function("at_tokens", method)
    place = _Place(embedding, special, per_token)

    def transform(
        fun: Callable[P, Any],
        argnums: int | Sequence[int] = 0,
        *,
        baseline: Any = None,
        **options: Any,
    ) -> Attribution[P]:
        return _at_tokens("at_tokens", method, fun, argnums, place, baseline, options)

    return transform


def token_integrated_grad(
    fun: Callable[P, Any],
    embedding: Name | Sequence[Name],
    argnums: int | Sequence[int] = 0,
    *,
    special: Sequence[int] = (),
    per_token: bool = True,
    **options: Unpack[PathOptions],
) -> Attribution[P]:
    """Returns a function that computes the integrated gradients of token ids at their embedding.

    The path runs from the embeddings of the baseline's ids to those of the input's. What ``fun``
    makes of the ids beside that (masks, positions) is as it is for the input.

    Args:
      fun: a function of ids, and of other pytrees of arrays, to a real scalar.
      embedding: the name of the intermediate into which the ids are looked up; see ``at_tokens``.
      argnums: which positional argument(s) have the ids; see ``at_tokens``.
      special: ids that are kept where the input has them, such as those of "[CLS]" and "[SEP]".
      per_token: whether to add up the attributions of an embedding, to one number for each id.
      **options: those of ``integrated_grad``, of which ``baseline`` must be given: an id for every
        place, such as that of "[PAD]" or "[MASK]"; see ``at_tokens``. The path is between
        embeddings.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions: of the shape of the
      ids, with the axes of a vector behind that without ``per_token``; and with ``has_report`` a
      ``Report``, whose ``baseline_value`` is that of the baseline's embeddings.

    Raises:
      TypeError: if ``embedding`` is no name; when called, if the argument, the baseline or
        ``special`` is not of integers.
      ValueError: when called, as ``at_tokens`` says: if the baseline or the embedding is not like
        the ids, or has not a vector for each; or if an id is not in the table, where ids have
        values: not under ``jax.jit``.

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
    label, place = "token_integrated_grad", _Place(embedding, special, per_token)
    fun, given = of_scalar(label, fun, options)
    baseline = given.pop("baseline", None)
    return _at_tokens(label, integrated_grad, fun, argnums, place, baseline, given)


class _Place(NamedTuple):
    """Where ids are looked up, and what is done with them; see ``at_tokens``."""

    embedding: Any  # a name, or several
    special: Sequence[int]
    per_token: bool

    @property
    def several(self) -> bool:
        """Returns whether there are several embeddings."""
        return not is_name(self.embedding)


class _Given(NamedTuple):
    """The attributed arguments.

    Attributes:
      x: they, or the only one.
      several: whether they are a tuple.
    """

    x: Tree
    several: bool

    @property
    def arguments(self) -> tuple[Tree, ...]:
        """Returns all of them."""
        return self.x if self.several else (self.x,)

    @property
    def numbers(self) -> tuple[Tree, ...]:
        """Returns those that are no ids."""
        return tuple(a for a in self.arguments if not _is_ids(a))

    @property
    def ids(self) -> tuple[jax.Array, ...]:
        """Returns those that are ids."""
        return tuple(a for a in self.arguments if _is_ids(a))

    def with_numbers(self, numbers: Sequence[Tree]) -> Tree:
        """Returns the arguments with others in place of those that are no ids."""
        left = iter(numbers)
        full = tuple(a if _is_ids(a) else next(left) for a in self.arguments)
        return full if self.several else full[0]

    def with_all(self, arguments: Sequence[Tree]) -> Tree:
        """Returns others in place of all."""
        return tuple(arguments) if self.several else arguments[0]


def _at_tokens(
    label: str,
    method: Method,
    fun: Callable[P, Any],
    argnums: int | Sequence[int],
    place: _Place,
    baseline: Any,
    options: dict[str, Any],
) -> Attribution[P]:
    """Returns ``method`` at the embedding, with ``label`` for a name."""
    check_function(label, fun)
    check_flag("per_token", place.per_token)
    names = place.embedding if place.several else [place.embedding]
    if not isinstance(names, list | tuple) or not names or not all(map(is_name, names)):
        raise TypeError(
            f"embedding must be the name of an intermediate, or a list of some; got "
            f"{place.embedding!r}."
        )

    def inner(*args: Any, **kwargs: Any) -> Inner:
        call, x = as_function_of(label, fun, argnums, args, kwargs, check=as_ids_or_floating)
        given = _Given(x, isinstance(argnums, Sequence))
        if not given.ids:
            raise TypeError(
                f"{label} attributes to ids, and argument {argnums} must be of integers; it has "
                f"dtype {jax.tree.leaves(x)[0].dtype}. To attribute to arrays of floats, take "
                "igjax.integrated_grad."
            )
        parts = check_depends(cut(call, place.embedding, (x,), {}))
        embedded = as_floating(parts.head(x), f"the embedding {place.embedding!r}")
        origins = followed(parts.head, x)
        rows = _rows(place, embedded, origins, given)
        has_aux = options.get("has_aux", False)
        if not place.several:
            value = lambda *at: parts.tail(*at)[0] if has_aux else parts.tail(*at)
            check_nothing_is_left(place.embedding, rows, value, embedded, x)
        check_in_tables(f"argument {argnums}", origins, x)
        point = _together(embedded, given.numbers)

        def rest(point: Tree, x: Tree) -> Any:
            embedded, *numbers = point if given.numbers else (point,)
            return parts.tail(embedded, given._replace(x=x).with_numbers(numbers))

        own = {}
        if takes(method, "baseline"):
            own["baseline"] = _start(baseline, place, given, parts, embedded, origins, rows)
        finish = functools.partial(_finished, place, given, rows, point, has_aux)
        return Inner(method(rest, **own, **options), (point, x), finish)

    like = check_attribution(label, method(fun, **options))
    return made_of(label, fun, inner, like=like)


def _rows(place: _Place, embedded: Tree, origins: Origins | None, given: _Given) -> Tree:
    """Returns the vectors of the embedding, or of each of several."""
    if place.several:
        return of_several(place.embedding, embedded, origins, given.ids)
    if len(given.ids) > 1:
        raise ValueError(
            "several arguments of ids have an embedding each: give the names of all, as a list; "
            f"got {place.embedding!r}."
        )
    places = None if origins is None else origins.results[0]
    return of_ids(place.embedding, embedded, places, given.ids[0].shape)


def _start(
    baseline: Any,
    place: _Place,
    given: _Given,
    parts: Cut,
    embedded: Tree,
    origins: Origins | None,
    rows: Tree,
) -> Tree:
    """Returns the baseline's embeddings, and numbers."""
    wanted = _of_each(baseline, given)
    numbers = tuple(
        laid_out_like(resolve_baseline(b, a), a)
        for b, a in zip(wanted, given.arguments, strict=True)
        if not _is_ids(a)
    )
    baselines_of_ids = [b for b, a in zip(wanted, given.arguments, strict=True) if _is_ids(a)]
    if any(isinstance(b, baselines.Embedding) for b in baselines_of_ids):
        if not all(b is baselines_of_ids[0] for b in baselines_of_ids):
            raise ValueError(
                "igjax.baselines.embedding is the baseline of all arguments of ids, or of none."
            )
        return _together(_in_embedding(baselines_of_ids[0], place, given, embedded, rows), numbers)
    arguments = [
        laid_out_like(_baseline(b, as_ids("special", place.special, a.dtype), a), a)
        if _is_ids(a)
        else a
        for b, a in zip(wanted, given.arguments, strict=True)
    ]
    start = given.with_all(arguments)
    check_in_tables("baseline", origins, start)
    return _together(parts.head(start), numbers)


def _together(embedded: Tree, numbers: tuple[Tree, ...]) -> Tree:
    """Returns what the method attributes to: embeddings, with numbers beside them if there are."""
    return (embedded, *numbers) if numbers else embedded


def _of_each(baseline: Any, given: _Given) -> tuple[Any, ...]:
    """Returns the baseline of each attributed argument."""
    if not given.several:
        return (baseline,)
    if not isinstance(baseline, tuple) or isinstance(baseline, baselines.Embedding):
        return tuple(baseline if _is_ids(a) else baselines.zeros for a in given.arguments)
    if len(baseline) != len(given.arguments):
        raise ValueError(
            f"baseline must be a tuple of one for each of {len(given.arguments)} arguments; got "
            f"{len(baseline)}."
        )
    return baseline


def _in_embedding(
    baseline: baselines.Embedding, place: _Place, given: _Given, embedded: Tree, rows: Tree
) -> Tree:
    """Returns a baseline that is an embedding, but for vectors of special ids, and of none."""
    start = baselines.constant(baseline.value)(embedded)
    if place.several and len(place.special):
        raise ValueError("special ids have no place among several embeddings of other baselines.")

    def kept(embedded: jax.Array, start: jax.Array, rows: Rows) -> jax.Array:
        keep = jnp.zeros(rows.shape, bool)
        if len(place.special):
            (ids,) = given.ids
            keep = jnp.isin(ids, as_ids("special", place.special, ids.dtype))
        return jnp.where(rows.spread(keep, True, embedded), embedded, start)

    return jax.tree.map(kept, embedded, start, rows)


def _finished(
    place: _Place, given: _Given, rows: Tree, point: Tree, has_aux: bool, found: Any
) -> Any:
    """Returns what the method has found, at the ids that it is of."""
    reported = isinstance(found, tuple) and isinstance(found[-1], Report)
    attributions, *extras = found if reported or has_aux else (found,)

    def landed(part: jax.Array, rows: Rows) -> jax.Array:
        return rows.landed(part, summed=place.per_token)

    def finish(part: Tree) -> Tree:
        tokens, *numbers = part if given.numbers else (part,)
        return _together(jax.tree.map(landed, tokens, rows), tuple(numbers))

    attributions = map_parts(finish, point, attributions)
    return (attributions, *extras) if extras else attributions


def _is_ids(argument: Tree) -> bool:
    return isinstance(argument, jax.Array) and jnp.issubdtype(argument.dtype, jnp.integer)


def _baseline(baseline: Any, special: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the baseline's ids for ``ids``."""
    if callable(baseline):
        check_baseline_blind_to_padding("baseline", baseline, ids)
        baseline = baseline(ids)
    value = as_ids("baseline", baseline, ids.dtype)
    if value.shape not in ((), ids.shape):
        raise ValueError(
            f"baseline must be one id, or an array of the ids' shape {ids.shape}; got shape "
            f"{value.shape}."
        )
    return jnp.where(jnp.isin(ids, special), ids, jnp.broadcast_to(value, ids.shape))
