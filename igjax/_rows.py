"""Which id each vector of an embedding was looked up by, and so which id its attribution is of."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igjax._inputs import is_known
from igjax._jaxpr.origins import NOWHERE, SEVERAL, Origins, Places, joined_rows
from igjax._jaxpr.points import Name
from igjax._jaxpr.program import trace
from igjax._trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)  # no pytree, but the leaf of one
class Rows:
    """The vectors of an embedding, each of which belongs to an id or to none.

    Attributes:
      shape: that of the ids.
      axes: the axes of the embedding, those along its vectors last.
      count: the number of axes that vectors are told apart by.
      places: of each vector the number of its id, or NOWHERE; None, if all are in their places.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    count: int
    places: np.ndarray | None

    def landed(self, part: jax.Array, *, summed: bool) -> jax.Array:
        """Returns what belongs to ids, of what is like the embedding, with axes of outputs before.

        Args:
          part: attributions to vectors.
          summed: whether to add up those of a vector.
        """
        lead = part.ndim - len(self.axes)
        part = jnp.transpose(part, [*range(lead), *(lead + axis for axis in self.axes)])
        if summed:
            part = jnp.sum(part, axis=tuple(range(lead + self.count, part.ndim)))
        outputs, vector = part.shape[:lead], part.shape[lead + self.count :]
        if self.places is None:
            return part.reshape(*outputs, *self.shape, *vector)
        number = int(np.prod(self.shape))
        to = np.where(self.places == NOWHERE, number, self.places)  # what is outside is dropped
        found = jnp.zeros((*outputs, number, *vector), part.dtype)
        found = found.at[(..., to, *(slice(None) for _ in vector))].add(
            part.reshape(*outputs, to.size, *vector), mode="drop"
        )
        return found.reshape(*outputs, *self.shape, *vector)

    def spread(self, of_ids: jax.Array, others: Any, embedded: jax.Array) -> jax.Array:
        """Returns a value of each id for its vectors, and another for those of no id.

        Args:
          of_ids: like the ids.
          others: a scalar.
          embedded: the embedding, to which the result broadcasts.
        """
        flat = of_ids.reshape(-1)
        if self.places is not None:
            flat = jnp.append(flat, others)[self.places]  # NOWHERE is the last
        lengths = [embedded.shape[axis] for axis in self.axes[: self.count]]
        ones = [1] * (embedded.ndim - self.count)
        return jnp.transpose(flat.reshape(*lengths, *ones), [*map(int, np.argsort(self.axes))])


def numbered(x: Tree) -> list[Places]:
    """Returns the numbers of the ids among arguments, counted through; None for floats."""
    numbers: list[Places] = []
    start = 0
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            numbers.append(np.arange(start, start + leaf.size).reshape(leaf.shape))
            start += leaf.size
        else:
            numbers.append(None)
    return numbers


def followed(head: Callable[[Tree], Tree], x: Tree) -> Origins | None:
    """Follows the ids among the arguments of a function to what it returns.

    None, where ``jax.export`` leaves lengths open.
    """
    lengths = [length for leaf in jax.tree.leaves(x) for length in leaf.shape]
    if not all(isinstance(length, int) for length in lengths):
        return None  # there is no numbering the ids
    return Origins.of(trace(head, x).closed, numbered(x))


def of_ids(
    name: Name, embedded: jax.Array, places: np.ndarray | None, shape: tuple[int, ...]
) -> Rows:
    """Returns the vectors of an embedding, of which each must belong to one id at most.

    Args:
      name: of the embedding.
      embedded: it.
      places: the number of the id of each entry; None, where lengths are open.
      shape: that of the ids.

    Raises:
      ValueError: if one is made of several ids, or none of any; or if lengths are open, and there
        is not a vector for each id.
    """
    in_order = tuple(range(embedded.ndim))
    begins = embedded.shape[: len(shape)] == shape
    if places is None:
        if not begins:
            raise ValueError(
                f"where lengths are open, the embedding {name!r} must have a vector for each id, "
                f"and so a shape that begins with {shape}; got {embedded.shape}."
            )
        return Rows(shape, in_order, len(shape), None)
    if np.any(places == SEVERAL):
        raise ValueError(
            f"the embedding {name!r} must have a vector for each id; got some that are made of "
            f"several ids, or in a way that cannot be followed, in shape {embedded.shape}. Name "
            "that into which the ids are looked up. (At any layer there is igjax.at_layer.)"
        )
    _check_depends(name, places)
    if begins and _are_at_ids(places, len(shape)):
        return _rows(shape, in_order, len(shape), joined_rows(places, len(shape)))
    fixed = _fixed_axes(places)
    last = max(set(in_order) - set(fixed), default=-1)
    along = [*range(last + 1, embedded.ndim)] or fixed  # of channels in front of places, these
    apart = [axis for axis in in_order if axis not in along]
    vectors = joined_rows(places.transpose(*apart, *along), len(apart))
    return _rows(shape, (*apart, *along), len(apart), vectors)


def of_several(
    names: Sequence[Name],
    embedded: Sequence[jax.Array],
    origins: Origins | None,
    ids: Sequence[jax.Array],
) -> tuple[Rows, ...]:
    """Returns the vectors of several embeddings, which need not have one for each id.

    Where an embedding has a vector for each id of an argument, each belongs to its id. Else it is
    as the function has it: one for a column, say.

    Args:
      names: of the embeddings.
      embedded: they.
      origins: of their entries.
      ids: the arguments.

    Raises:
      ValueError: if one is no array of vectors, or does not depend on the ids, or if it has the
        shape of ids and a vector of several; or if an argument is looked up into none of them.
    """
    if scalars := [array.shape for array in embedded if array.ndim == 0]:
        raise ValueError(f"an embedding must be a vector for each id; got shape {scalars[0]}.")
    if origins is None:
        return tuple(map(_as_it_is, embedded))
    starts = np.cumsum([0, *(array.size for array in ids)])
    rows, used = [], set[int]()
    for name, array, places in zip(names, embedded, origins.results, strict=True):
        own = _as_it_is(array)
        _check_depends(name, places)
        for number, argument in enumerate(ids):
            start, stop = starts[number : number + 2]
            mine = (start <= places) & (places < stop)
            if np.any(mine) or np.any(places == SEVERAL):
                used.add(number)
            if np.any(mine) and argument.shape == own.shape:
                others = np.where(places == NOWHERE, NOWHERE, SEVERAL)
                own = of_ids(name, array, np.where(mine, places - start, others), own.shape)
        rows.append(own)
    if left := [number for number in range(len(ids)) if ids[number].size and number not in used]:
        raise ValueError(
            f"every argument of ids must be looked up into one of the embeddings {list(names)!r}; "
            f"that of shape {ids[left[0]].shape} is not: name its embedding too, or leave the "
            "argument out of argnums."
        )
    return tuple(rows)


def check_nothing_is_left(
    name: Name, rows: Rows, tail: Callable[..., Tree], embedded: jax.Array, x: Tree
) -> None:
    """Checks that an id that no vector belongs to is none that the function goes by otherwise.

    Args:
      name: of the embedding.
      rows: its vectors.
      tail: from the embedding and the arguments to what is attributed.
      embedded: the embedding.
      x: the arguments, one of which has the ids.

    Raises:
      ValueError: if there is such an id, whose attribution would be zero whatever it does.
    """
    if rows.places is None:
        return
    left = np.setdiff1d(np.arange(np.prod(rows.shape)), rows.places)
    if not left.size:
        return
    given = [None if own is None else np.isin(own, left) - 1 for own in numbered(x)]
    origins = Origins.of(trace(tail, embedded, x).closed, [None, *given])
    if origins is not None and any(np.any(places == 0) for places in origins.results):
        where = tuple(map(int, np.unravel_index(left[0], rows.shape)))
        raise ValueError(
            f"the embedding {name!r} has no vector for {left.size} of the ids, such as that at "
            f"{where}, and the function goes by these otherwise. Name all embeddings, as a list; "
            "or pass what else it needs of the ids as an argument of its own."
        )


def check_in_tables(what: str, origins: Origins | None, x: Tree) -> None:
    """Checks that tables have the ids that they are looked up by, where these are known by now.

    Args:
      what: what to call the ids.
      origins: of the embedding's entries, if they could be followed.
      x: the arguments.

    Raises:
      ValueError: if one is beyond the end of a table, or counted from there.
    """
    leaves = jax.tree.leaves(x)
    if origins is None or not all(map(is_known, leaves)):
        return
    integers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.integer)]
    ids = np.concatenate([np.asarray(leaf).astype(np.int64).reshape(-1) for leaf in integers])
    for lookup in origins.lookups():
        indices = lookup.indices(leaves)
        if indices is None:
            continue
        single = (lookup.places != NOWHERE) & (lookup.places != SEVERAL)
        own = ids[np.where(single, lookup.places, 0)]
        rows = lookup.last + 1
        from_end = (own < 0) & (indices == own + rows)
        if np.any(wrong := single & (from_end | (indices < 0) | (indices >= rows))):
            worst = int(own[wrong][0])
            count = int(np.broadcast_to(rows, wrong.shape)[wrong][0])
            raise ValueError(
                f"{what} must have ids that the table has in which they are looked up, of {count} "
                f"rows; got {worst}."
            )


def _are_at_ids(places: np.ndarray, axes: int) -> bool:
    """Returns whether vectors, of one id or none each, are told apart by the first ``axes``."""
    together = joined_rows(places, axes)
    parts = joined_rows(places, max(axes, places.ndim - 1))  # a channel may be of no id
    alike = np.all(together.reshape(together.shape + (1,) * (parts.ndim - axes)) == parts)
    told_apart = all(together.shape[axis] <= 1 for axis in _fixed_axes(together))
    return bool(alike and told_apart and not np.any(together == SEVERAL))


def _fixed_axes(places: np.ndarray) -> list[int]:
    """Returns the axes along which all places are the same."""
    firsts = [places.take(range(length)[:1], axis) for axis, length in enumerate(places.shape)]
    return [axis for axis, first in enumerate(firsts) if np.all(places == first)]


def _check_depends(name: Name, places: np.ndarray) -> None:
    if places.size and np.all(places == NOWHERE):
        raise ValueError(
            f"the embedding {name!r} does not depend on the ids that are attributed to: name that "
            "into which they are looked up, or say by argnums which argument has the ids."
        )


def _as_it_is(embedded: jax.Array) -> Rows:
    """Returns the vectors of an embedding, along its last axis, that are in their places."""
    return Rows(embedded.shape[:-1], tuple(range(embedded.ndim)), embedded.ndim - 1, None)


def _rows(shape: tuple[int, ...], axes: tuple[int, ...], count: int, places: np.ndarray) -> Rows:
    numbers = places.reshape(-1)
    in_place = np.array_equal(numbers, np.arange(np.prod(shape)))
    return Rows(shape, axes, count, None if in_place else numbers)
