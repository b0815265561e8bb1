"""Examples from whatever holds them: arrays, sequences, Grain's datasets, iterators."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from igjax._inputs import check_count

Tree = Any

_TRIES = 100  # examples looked at for one that can be read


class Shape(NamedTuple):
    """What the examples of one program have in common. Two that are equal can share one.

    Attributes:
      structure: of the arguments.
      leaves: shape and dtype of each array.
    """

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]


class Example(NamedTuple):
    """An example, ready to be attributed.

    Attributes:
      number: its place in the source.
      shape: of its arguments.
      args: the arguments of the function, pytrees of NumPy arrays. If the input has been padded,
        the last one is a mask of what has not.
      length: of what has been padded, before it was; -1 if nothing was to be.
    """

    number: int
    shape: Shape
    args: tuple[Tree, ...]
    length: int = -1


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


class Source(NamedTuple):
    """Where examples come from.

    Attributes:
      length: how many there are, or None if nobody knows.
      read: from a predicate of indices to those examples, in order, each with its index: its
        arguments as they are, or what was raised instead of it.
      first: the first that can be read, or None.
      arrays: all of it, if it is NumPy arrays; else None.
    """

    length: int | None
    read: Callable[[Callable[[int], bool]], Iterator[tuple[int, Any]]]
    first: Any
    arrays: Tree = None


def as_source(source: Any) -> Source:
    """What ``attribute_dataset`` takes, as a source.

    Raises:
      TypeError: if it is none of what that takes.
      ValueError: if arrays have different lengths, or there are no examples.
    """
    if _is_array(source) or isinstance(source, tuple | dict):
        return _of_arrays(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _of_sequence(source.__getitem__, len(source))
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

    def take(index: int) -> Any:
        return jax.tree.map(lambda array: np.asarray(array[index]), held)

    return _of_sequence(take, int(length))._replace(arrays=held if in_memory else None)


def _of_sequence(take: Callable[[int], Any], length: int) -> Source:
    def read(wanted: Callable[[int], bool]) -> Iterator[tuple[int, Any]]:
        for index in filter(wanted, range(length)):
            try:
                yield index, take(index)
            except Exception as error:  # one example's trouble is not the others'
                yield index, error

    return Source(length, read, _first(read(lambda _: True)))


def _of_stream(iterator: Iterator[Any]) -> Source:
    given = _given(iterator)
    looked_at: list[tuple[int, Any]] = []

    def look() -> Iterator[tuple[int, Any]]:
        for item in given:
            looked_at.append(item)
            yield item

    def read(wanted: Callable[[int], bool]) -> Iterator[tuple[int, Any]]:
        return (item for item in itertools.chain(looked_at, given) if wanted(item[0]))

    first = _first(look())
    return Source(None, read, first)


def _given(iterator: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """What an iterator gives or raises, with its place."""
    failed: list[tuple[int, Exception]] = []  # not to be believed until something comes after it
    for index in itertools.count():
        try:
            example = next(iterator)
        except StopIteration:
            if failed:  # a generator that has raised ends, and not because it is done
                raise RuntimeError(
                    f"the source broke off at example {failed[0][0]}, and so can't be gone on with:"
                    " an iterator that is to survive an error has to be a class of its own, or "
                    "better a sequence."
                ) from failed[0][1]
            return
        except Exception as error:  # one example's trouble is not the others'
            failed.append((index, error))
            continue
        yield from failed
        failed.clear()
        yield index, example


def _first(examples: Iterator[tuple[int, Any]]) -> Any:
    """The first of a few that can be read."""
    few = itertools.islice(examples, _TRIES)
    return next((example for _, example in few if not isinstance(example, Exception)), None)


class Check:
    """What an example must be like: like the first that can be read.

    Args:
      like: that one.
      buckets: the lengths that the input is padded to, or none.

    Raises:
      TypeError: if ``like`` is not made of arrays, or a bucket is no integer.
      ValueError: if there is no such example, or no input to pad.
    """

    def __init__(self, like: Any, buckets: Sequence[int] = ()):
        if like is None:
            raise ValueError("source has no example, or none of the first that can be read.")
        self.buckets = tuple(sorted(check_count("a bucket", b, least=1) for b in buckets))
        args = self._arrays(like)
        self._like = jax.tree_util.tree_flatten_with_path(args)
        if self.buckets:
            if not all(leaf.ndim for leaf in jax.tree.leaves(args[0])):
                raise ValueError("buckets are for an input with a first axis; here it is a number.")
            args = self._padded(
                jax.tree.map(lambda leaf: leaf[:0], args[0]), args[1:], self.buckets[-1]
            )
        self.like = args  # the arguments of the largest of the examples, NumPy arrays

    def __call__(self, index: int, given: Any) -> Example | Refused:
        """The example, ready to be attributed, or why it can't be."""
        if isinstance(given, Exception):
            return Refused(index, f"{type(given).__name__}: {given}", given)
        try:
            args, length = self._fitting(self._arrays(given))
        except (TypeError, ValueError) as error:
            return Refused(index, str(error), error)
        leaves, structure = jax.tree.flatten(args)
        shape = Shape(structure, tuple((leaf.shape, leaf.dtype.str) for leaf in leaves))
        return Example(index, shape, args, length)

    def _arrays(self, given: Any) -> tuple[Tree, ...]:
        args = given if isinstance(given, tuple) else (given,)
        return jax.tree_util.tree_map_with_path(_as_array, args)

    def _fitting(self, args: tuple[Tree, ...]) -> tuple[tuple[Tree, ...], int]:
        expected, structure = self._like
        found: Any = jax.tree.structure(args)
        if found != structure:
            raise ValueError(f"it has the structure {found}, others have {structure}.")
        lengths = set()
        for (path, like), leaf in zip(expected, jax.tree.leaves(args), strict=True):
            where, ragged = _name(path), bool(self.buckets) and path[0].idx == 0
            if ragged and leaf.ndim:
                lengths.add(leaf.shape[0])
            of = slice(1, None) if ragged else slice(None)
            if leaf.shape[of] != like.shape[of] or leaf.ndim != like.ndim:
                raise ValueError(f"{where} has shape {leaf.shape}, others have {like.shape}.")
            if leaf.dtype != like.dtype:
                raise TypeError(f"{where} has dtype {leaf.dtype}, others have {like.dtype}.")
            if path[0].idx == 0 and not np.all(np.isfinite(leaf.astype(np.float64))):
                raise ValueError(f"{where} is not finite.")
        if not self.buckets:
            return args, -1
        if len(lengths) != 1:
            raise ValueError(
                "with buckets all arrays of argument 0 must have one length, that of their first "
                f"axis; they have {sorted(lengths)}."
            )
        (length,) = lengths
        if length > self.buckets[-1]:
            raise ValueError(f"it has length {length}, the largest bucket {self.buckets[-1]}.")
        bucket = next(bucket for bucket in self.buckets if bucket >= length)
        return self._padded(args[0], args[1:], bucket), length

    def _padded(self, x: Tree, rest: tuple[Tree, ...], bucket: int) -> tuple[Tree, ...]:
        """The arguments, with zeros behind the input, and a mask of what is none of them."""
        length = len(jax.tree.leaves(x)[0])

        def pad(leaf: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.pad(leaf, [(0, bucket - length)] + [(0, 0)] * (leaf.ndim - 1))

        return (jax.tree.map(pad, x), *rest, np.arange(bucket) < length)


def _as_array(path: Any, value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "USMm":
        raise TypeError(f"{_name(path)} is no array of numbers: {type(value).__name__}.")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _name(path: Any) -> str:
    return f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}"
