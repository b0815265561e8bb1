"""Examples from whatever holds them: arrays, sequences, Grain's datasets, iterators.

Arrays are read many examples at a time, all else one by one.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from igjax._trees import Tree

_TRIES = 100  # examples looked at for one that can be read
_FAILURES = 1000  # in a row: an iterator that raises so often will raise for ever
_MOST = 10**10  # examples: who claims more has damaged metadata
# One example's trouble is not the others'. So sys.exit in what reads it; Ctrl-C is nobody's.
_TROUBLE = (Exception, SystemExit, GeneratorExit)


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
    error: BaseException | None = None


Wanted = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # which of these numbers are


class Source(NamedTuple):
    """Where examples come from.

    Attributes:
      length: how many there are, or None if nobody knows.
      read: gives those that are wanted, in order, at most so many at a time, and what can't be
        read.
      first: the first that can be read, or None.
      refused: the first that can't be, of those that were looked at for ``first``.
    """

    length: int | None
    read: Callable[[Wanted, int], Iterator[Rows | Refused]]
    first: Rows | None
    refused: Refused | None = None


def as_source(source: Any) -> Source:
    """Makes a source of what ``attribute_dataset`` takes.

    Raises:
      TypeError: if it is none of what that takes.
      ValueError: if arrays have different lengths, or there are no examples.
    """
    if _is_array(source) or isinstance(source, tuple | dict):
        return _of_arrays(source)
    is_class = inspect.isclass(source)
    if not (is_class or isinstance(source, str | bytes)):
        if hasattr(source, "keys"):
            raise TypeError(
                f"source is a {type(source).__name__}, whose items have keys and not numbers. Give "
                "arrays with the examples along the first axis, as .to_numpy() makes of a table, "
                "or a dict of them."
            )
        if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            return _of_length(len(source), _one_by_one(source.__getitem__))
        if hasattr(source, "__iter__"):
            return _of_stream(iter(source))
    raise TypeError(
        "source must be arrays (or pytrees of them) with the examples along the first axis, a "
        "sequence of examples, a Grain dataset or an iterator of examples; got "
        f"{f'the class {source.__name__}' if is_class else type(source).__name__}."
    )


def first_of(source: Source) -> Rows:
    """Returns the first example that can be read.

    Raises:
      ValueError: if there is none. It says why.
    """
    if source.first is not None:
        return source.first
    if source.refused is None:
        raise ValueError("source has no example.")
    raise ValueError(
        "source has no example that can be read, as far as the first were looked at. Example "
        f"{source.refused.number}: {source.refused.reason}"
    ) from source.refused.error


def _is_array(value: Any) -> bool:
    wanted = ("shape", "dtype", "__getitem__")
    return not inspect.isclass(value) and all(hasattr(value, name) for name in wanted)


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
    # What is in memory is looked at once, and fetched from a device, and not example by example.
    held = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            _as_numpy(leaf, f"source{jax.tree_util.keystr(path)}")
            if isinstance(leaf, jax.Array | np.ndarray)
            else leaf
        ),
        source,
    )
    (length,) = set(lengths.values())

    def take(numbers: NDArray[np.int64]) -> Iterator[Rows | Refused]:
        own = slice(int(numbers[0]), int(numbers[-1]) + 1)
        try:
            rows = Rows(numbers, jax.tree.map(lambda array: _as_numpy(array[own]), held))
        except _TROUBLE as error:
            if len(numbers) == 1:
                yield _refused(int(numbers[0]), error)
            else:
                yield from (item for number in numbers for item in take(number[None]))
        else:
            yield rows

    return _of_length(int(length), take)


def _one_by_one(item: Callable[[int], Any]) -> Callable[..., Iterator[Rows | Refused]]:
    """Reads a sequence."""

    def take(numbers: NDArray[np.int64]) -> Iterator[Rows | Refused]:
        for number in numbers.tolist():
            try:
                row = _row(number, item(number))
            except _TROUBLE as error:
                yield _refused(number, error)
            else:
                yield row

    return take


def _of_length(
    length: int, take: Callable[[NDArray[np.int64]], Iterator[Rows | Refused]]
) -> Source:
    """Makes a source that gives any examples; ``take`` those of consecutive numbers."""
    if length > _MOST:
        raise ValueError(f"source must have at most {_MOST} examples; its length is {length}.")

    def read(wanted: Wanted, at_once: int) -> Iterator[Rows | Refused]:
        for start in range(0, length, at_once):
            numbers = np.arange(start, min(start + at_once, length))
            numbers = numbers[wanted(numbers)]
            for run in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
                if run.size:
                    yield from take(run)

    return Source(length, read, *_first(read(_all, 1)))


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

    return Source(None, read, *_first(look()))


def _given(iterator: Iterator[Any]) -> Iterator[Rows | Refused]:
    """Yields what an iterator gives or raises, with its place."""
    failed: list[Refused] = []  # not to be believed until something comes after it
    for number in itertools.count():
        try:
            row = _row(number, next(iterator))
        except StopIteration:
            if failed:  # a generator that has raised ends, and not because it is done
                raise _broken_off(failed[0]) from failed[0].error
            return
        except _TROUBLE as error:
            failed.append(_refused(number, error))
            if len(failed) == _FAILURES:
                raise _broken_off(failed[0]) from failed[0].error
            continue
        yield from failed
        failed.clear()
        yield row


def _broken_off(first: Refused) -> RuntimeError:
    return RuntimeError(
        f"the source broke off at example {first.number} ({first.reason}), and so can't be gone on "
        "with: an iterator that is to survive an error has to be a class of its own, or better a "
        "sequence."
    )


def _row(number: int, given: Any) -> Rows:
    return Rows(np.array([number]), jax.tree.map(lambda leaf: _as_numpy(leaf)[None], given))


def _as_numpy(value: Any, what: str = "it") -> NDArray[Any]:
    """Returns an array or a number as an array of NumPy's own.

    Raises:
      TypeError: if it is one of random keys.
      ValueError: if elements of it are masked.
    """
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{what} has random keys, which are no numbers. Give jax.random.key_data(keys); "
            "igjax.from_arguments or the function makes keys of them, by jax.random.wrap_key_data."
        )
    mask = value.mask if isinstance(value, np.ma.MaskedArray) else np.ma.nomask
    if mask.dtype == bool and mask.any():
        raise ValueError(
            f"{what} has masked elements, which have no value. Give them one, as .filled(0.0) "
            "does, or leave such examples out."
        )
    return np.asarray(value)


def _refused(number: int, error: BaseException) -> Refused:
    return Refused(number, f"{type(error).__name__}: {error}", error)


def _first(items: Iterator[Rows | Refused]) -> tuple[Rows | None, Refused | None]:
    """Returns the first example of a few that can be read, and the first before it that can't."""
    refused: Refused | None = None
    for item in itertools.islice(items, _TRIES):
        if isinstance(item, Rows):
            return item, refused
        refused = refused or item
    return None, refused


def _all(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(len(numbers), bool)
