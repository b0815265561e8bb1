"""Examples from whatever holds them: arrays, sequences, Grain's datasets, iterators.

Arrays are read many examples at a time, all else one by one.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from igjax._trees import Tree

_TRIES = 100  # examples looked at for one that can be read


class Rows(NamedTuple):
    """Some examples of a source, side by side, as they were given.

    Attributes:
      numbers: their places in the source.
      args: the arguments of the function, with these examples along the first axis of each array;
        the only one may be without its tuple.
    """

    numbers: NDArray[np.int64]
    args: Tree


class Refused(NamedTuple):
    """An example that can't be attributed, and why.

    Attributes:
      number: its place in the source.
      reason: for people.
      error: what was raised, if anything was.
    """

    number: int
    reason: str
    error: Exception | None = None


Wanted = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # which of these numbers are


class Source(NamedTuple):
    """Where examples come from.

    Attributes:
      length: how many there are, or None if nobody knows.
      read: gives those that are wanted, in order, at most so many at a time, and what can't be
        read.
      first: the first that can be read, or None.
      arrays: all of it, if it is NumPy arrays; else None.
    """

    length: int | None
    read: Callable[[Wanted, int], Iterator[Rows | Refused]]
    first: Rows | None
    arrays: Tree = None


def as_source(source: Any) -> Source:
    """Makes a source of what ``attribute_dataset`` takes.

    Raises:
      TypeError: if it is none of what that takes.
      ValueError: if arrays have different lengths, or there are no examples.
    """
    if _is_array(source) or isinstance(source, tuple | dict):
        return _of_arrays(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _of_length(len(source), _one_by_one(source.__getitem__))
    if hasattr(source, "__iter__"):
        return _of_stream(iter(source))
    raise TypeError(
        "source must be arrays (or pytrees of them) with the examples along the first axis, a "
        "sequence of examples, a Grain dataset or an iterator of examples; got "
        f"{type(source).__name__}."
    )


def _is_array(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


def _of_arrays(source: Any) -> Source:
    leaves = jax.tree_util.tree_flatten_with_path(source)[0]
    for path, leaf in leaves:
        if not _is_array(leaf) or not leaf.shape:
            what = f"shape {leaf.shape}" if _is_array(leaf) else f"type {type(leaf).__name__}"
            raise TypeError(
                f"source{jax.tree_util.keystr(path)} must be an array with the examples along its "
                f"first axis; it has {what}. A list is a sequence of examples; a tuple is one "
                "array, or pytree of arrays, for each argument of the function."
            )
    lengths = {jax.tree_util.keystr(path): leaf.shape[0] for path, leaf in leaves}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays of source must be equally long; their lengths are {lengths}.")
    if not leaves:
        raise ValueError("source holds no array.")
    # What is on a device already is fetched once, and not example by example.
    held = jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, source)
    in_memory = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(held))
    (length,) = set(lengths.values())

    def take(numbers: NDArray[np.int64]) -> Iterator[Rows | Refused]:
        own = slice(int(numbers[0]), int(numbers[-1]) + 1)
        try:
            rows = Rows(numbers, jax.tree.map(lambda array: np.asarray(array[own]), held))
        except Exception as error:  # one example's trouble is not the others'
            if len(numbers) == 1:
                yield _refused(int(numbers[0]), error)
            else:
                yield from (item for number in numbers for item in take(number[None]))
        else:
            yield rows

    return _of_length(int(length), take)._replace(arrays=held if in_memory else None)


def _one_by_one(item: Callable[[int], Any]) -> Callable[..., Iterator[Rows | Refused]]:
    """Reads a sequence."""

    def take(numbers: NDArray[np.int64]) -> Iterator[Rows | Refused]:
        for number in numbers.tolist():
            try:
                row = _row(number, item(number))
            except Exception as error:  # one example's trouble is not the others'
                yield _refused(number, error)
            else:
                yield row

    return take


def _of_length(
    length: int, take: Callable[[NDArray[np.int64]], Iterator[Rows | Refused]]
) -> Source:
    """Makes a source that gives any examples; ``take`` those of consecutive numbers."""

    def read(wanted: Wanted, at_once: int) -> Iterator[Rows | Refused]:
        for start in range(0, length, at_once):
            numbers = np.arange(start, min(start + at_once, length))
            numbers = numbers[wanted(numbers)]
            for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
                if run.size:
                    yield from take(run)

    return Source(length, read, _first(read(_all, 1)))


def _of_stream(iterator: Iterator[Any]) -> Source:
    given = _given(iterator)
    looked_at: list[Rows | Refused] = []

    def look() -> Iterator[Rows | Refused]:
        for item in given:
            looked_at.append(item)
            yield item

    def read(wanted: Wanted, _: int) -> Iterator[Rows | Refused]:
        for item in itertools.chain(looked_at, given):
            numbers = item.numbers if isinstance(item, Rows) else np.array([item.number])
            if wanted(numbers).all():
                yield item

    first = _first(look())
    return Source(None, read, first)


def _given(iterator: Iterator[Any]) -> Iterator[Rows | Refused]:
    """Yields what an iterator gives or raises, with its place."""
    failed: list[Refused] = []  # not to be believed until something comes after it
    for number in itertools.count():
        try:
            row = _row(number, next(iterator))
        except StopIteration:
            if failed:  # a generator that has raised ends, and not because it is done
                raise RuntimeError(
                    f"the source broke off at example {failed[0].number}, and so can't be gone on "
                    "with: an iterator that is to survive an error has to be a class of its own, "
                    "or better a sequence."
                ) from failed[0].error
            return
        except Exception as error:  # one example's trouble is not the others'
            failed.append(_refused(number, error))
            continue
        yield from failed
        failed.clear()
        yield row


def _row(number: int, given: Any) -> Rows:
    return Rows(np.array([number]), jax.tree.map(lambda leaf: np.asarray(leaf)[None], given))


def _refused(number: int, error: Exception) -> Refused:
    return Refused(number, f"{type(error).__name__}: {error}", error)


def _first(items: Iterator[Rows | Refused]) -> Rows | None:
    """Returns the first example of a few that can be read."""
    few = itertools.islice(items, _TRIES)
    return next((item for item in few if isinstance(item, Rows)), None)


def _all(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(numbers), bool)
