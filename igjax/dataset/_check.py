"""What examples must be like, and what is made of them before they are attributed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from igjax._trees import Tree
from igjax.dataset._ragged import Buckets, as_ragged
from igjax.dataset._rowhash import row_hashes
from igjax.dataset._source import Refused, Rows

_WRAPPED = "it has an integer too large for 32 bits; jax_enable_x64 gives JAX 64."
Given = tuple[tuple[Tree, ...], dict[str, Tree]]  # arguments by position, and masks by keyword


class Shape(NamedTuple):
    """What the examples of one program have in common. Two that are equal can share one.

    Attributes:
      structure: of the arguments.
      leaves: shape and dtype of each array.
    """

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]


class Examples(NamedTuple):
    """Some examples of one shape, ready to be attributed.

    Attributes:
      numbers: their places in the source.
      shape: of the arguments of one of them.
      given: what to call the attribution with, NumPy arrays with these examples along the first
        axis.
      lengths: of what has been padded, before it was, by name.
      fingerprints: of each example, before it was padded.
      flaws: what of an example is not finite, by its number.
    """

    numbers: NDArray[np.int64]
    shape: Shape
    given: Given
    lengths: dict[str, int]
    fingerprints: NDArray[np.uint64]
    flaws: dict[int, str]


class Check:
    """What examples must be like: like the first that can be read.

    Args:
      like: that one.
      buckets: the lengths that axes are padded to; see ``as_ragged``.
      ragged: which axes; likewise.

    Attributes:
      ragged: these two.
      like: the largest of the examples.

    Raises:
      TypeError: if ``like`` is not made of arrays, or a bucket is no integer.
      ValueError: if there is no such axis to pad.
    """

    def __init__(self, like: Rows, buckets: Buckets = (), ragged: Any = None):
        self._first = _arrays(like.args)
        self._like = jax.tree_util.tree_flatten_with_path(self._first)
        self.ragged = as_ragged(buckets, ragged, _one(self._first))
        largest = self.ragged.largest
        emptied = self.ragged.repeated(self._first, dict.fromkeys(largest, 0))
        self.like: Given = _one(self._padded(emptied, largest, largest))

    def __call__(self, rows: Rows) -> Iterator[Examples | Refused]:
        """Yields these examples, ready to be attributed, or why they can't be."""
        try:
            args = _arrays(rows.args)
            self._check_like(args)
            lengths = self.ragged.lengths(jax.tree.leaves(args))
        except (TypeError, ValueError) as error:
            yield from (Refused(number, str(error), error) for number in rows.numbers.tolist())
            return
        numbers, wrapped = rows.numbers, _wrapped(rows)
        if wrapped.any():
            yield from (Refused(number, _WRAPPED) for number in numbers[wrapped].tolist())
            numbers, args = numbers[~wrapped], jax.tree.map(lambda leaf: leaf[~wrapped], args)
        if not numbers.size:
            return
        given = self._ready(args, lengths)
        leaves, structure = jax.tree.flatten(given)
        shape = Shape(structure, tuple((leaf.shape[1:], leaf.dtype.str) for leaf in leaves))
        flaws = _flaws(numbers, args)
        yield Examples(numbers, shape, given, lengths, _fingerprints(args), flaws)

    def fingerprints(self, rows: Rows) -> NDArray[np.uint64]:
        """Returns those of examples as they are given; 0 where they have none."""
        try:
            return np.where(_wrapped(rows), 0, _fingerprints(_arrays(rows.args)))
        except TypeError:
            return np.zeros(len(rows.numbers), np.uint64)

    def alone_and_padded(self) -> tuple[Given, Given]:
        """Returns an example twice, without padding and in the largest bucket.

        It fills the least bucket; if there is one alone, half of that. It is like the first that
        can be read, repeated or cut.
        """
        least, largest = self.ragged.least, self.ragged.largest
        args = self.ragged.repeated(self._first, least)
        return _one(self._padded(args, least, least)), _one(self._padded(args, least, largest))

    def _ready(self, args: tuple[Tree, ...], lengths: dict[str, int]) -> Given:
        """Returns what to call the attribution with: padded, if that is to be done."""
        return self._padded(args, lengths, self.ragged.bucket(lengths))

    def _padded(
        self, args: tuple[Tree, ...], lengths: dict[str, int], sizes: dict[str, int]
    ) -> Given:
        if not lengths:
            return args, {}
        count = len(jax.tree.leaves(args)[0])
        return self.ragged.padded(args, sizes), self.ragged.masks(count, lengths, sizes)

    def _check_like(self, args: tuple[Tree, ...]) -> None:
        """Raises if examples are not like others."""
        expected, structure = self._like
        found: Any = jax.tree.structure(args)
        if found != structure:
            raise ValueError(f"it has the structure {found}, others have {structure}.")
        for (path, like), leaf, axes in zip(
            expected, jax.tree.leaves(args), self.ragged.axes, strict=True
        ):
            where, shape, own = _name(path), like.shape[1:], leaf.shape[1:]
            fixed = [axis for axis in range(len(shape)) if axis not in axes]
            if len(own) != len(shape) or any(own[axis] != shape[axis] for axis in fixed):
                raise ValueError(f"{where} has shape {own}, others have {shape}.")
            if leaf.dtype != like.dtype:
                raise TypeError(f"{where} has dtype {leaf.dtype}, others have {like.dtype}.")


def _one(examples: Tree) -> Tree:
    """Returns the first of some examples."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), examples)


def _fingerprints(args: tuple[Tree, ...]) -> NDArray[np.uint64]:
    return row_hashes(jax.tree.leaves(args))


def _wrapped(rows: Rows) -> NDArray[np.bool_]:
    """Tells which examples have an integer that is another in the dtype that JAX takes it for."""
    wrapped = np.zeros(len(rows.numbers), bool)
    for leaf in jax.tree.leaves(rows.args):
        taken = jax.dtypes.canonicalize_dtype(leaf.dtype) if leaf.dtype.kind in "iu" else leaf.dtype
        if taken.itemsize < leaf.dtype.itemsize:
            wrapped |= (leaf != leaf.astype(taken)).reshape(len(leaf), -1).any(axis=1)
    return wrapped


def _flaws(numbers: NDArray[np.int64], args: tuple[Tree, ...]) -> dict[int, str]:
    """Says of each example what is not finite, to be told if its attributions are not."""
    flaws: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(args)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite = np.isfinite(leaf).reshape(len(numbers), -1).all(axis=1)
            for number in numbers[~finite].tolist():
                flaws.setdefault(number, f"{_name(path)} is not finite.")
    return flaws


def _arrays(given: Tree) -> tuple[Tree, ...]:
    args = given if isinstance(given, tuple) else (given,)
    return jax.tree_util.tree_map_with_path(_of_numbers, args)


def _of_numbers(path: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array in the dtype that JAX takes it for, in the order of bytes that it has."""
    dtype = array.dtype.newbyteorder("=")
    is_number = jnp.issubdtype(dtype, jnp.number) and dtype.kind != "m"
    if not (is_number or dtype == np.bool_):
        raise TypeError(f"{_name(path)} is no array of numbers: its dtype is {array.dtype}.")
    if dtype.type in (np.longdouble, np.clongdouble):
        raise TypeError(
            f"{_name(path)} has dtype {array.dtype}, which JAX lacks: convert it to a double."
        )
    return array.astype(jax.dtypes.canonicalize_dtype(dtype), copy=False)


def _name(path: Any) -> str:
    return f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}"
