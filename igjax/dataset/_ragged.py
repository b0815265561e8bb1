"""Axes whose length differs from example to example, and the sizes that they are padded to."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from igjax._inputs import check_count
from igjax._trees import Tree

Buckets = Sequence[int] | Mapping[str, Sequence[int]]
_ALONE = "mask"  # what the only length is called, if it has been given no name
_FIXED = "_"  # what stands for an axis of a fixed size
LENGTH = "length"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")  # of a length: arrays are called so


class Ragged(NamedTuple):
    """Which axes are padded, and to what.

    Attributes:
      sizes: of each length, by name, what it is padded to, in increasing order.
      axes: of each leaf of the arguments, which of its axes has which length.
      fields: what the arrays of a store are called that have the lengths.
    """

    sizes: dict[str, tuple[int, ...]]
    axes: tuple[dict[int, str], ...]
    fields: dict[str, str]

    @property
    def shapes(self) -> int:
        """Returns how many shapes of examples there are."""
        return int(np.prod([len(sizes) for sizes in self.sizes.values()], dtype=int))

    @property
    def largest(self) -> dict[str, int]:
        """Returns the largest size of each length."""
        return {name: sizes[-1] for name, sizes in self.sizes.items()}

    @property
    def least(self) -> dict[str, int]:
        """Returns the least size of each length; half of it, if there is no other."""
        return {
            name: sizes[0] if len(sizes) > 1 else max(1, sizes[0] // 2)
            for name, sizes in self.sizes.items()
        }

    def bucket(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """Returns the least size that is enough for each length."""
        return {
            name: next(size for size in self.sizes[name] if size >= length)
            for name, length in lengths.items()
        }

    def lengths(self, leaves: Sequence[NDArray[Any]]) -> dict[str, int]:
        """Returns what the examples of some arguments, an axis for them in front, have.

        Raises:
          ValueError: if arrays that share a length do not, or it is too large.
        """
        found: dict[str, set[int]] = {name: set() for name in self.sizes}
        for leaf, axes in zip(leaves, self.axes, strict=True):
            for axis, name in axes.items():
                found[name].add(leaf.shape[1 + axis])
        for name, lengths in found.items():
            which = "length" if name == _ALONE else f"{name} of length"
            if len(lengths) != 1:
                raise ValueError(f"arrays that share a {which} have {sorted(lengths)}.")
            if max(lengths) > self.sizes[name][-1]:
                raise ValueError(
                    f"it has {which} {max(lengths)}, the largest bucket {self.sizes[name][-1]}."
                )
        return {name: lengths.pop() for name, lengths in found.items()}

    def repeated(self, args: Tree, lengths: Mapping[str, int]) -> Tree:
        """Returns the arguments, an axis for the examples in front, in these lengths.

        What is too long is cut, what is too short repeated; of what is empty there are zeros.
        """
        leaves, structure = jax.tree.flatten(args)

        def repeat(leaf: NDArray[Any], axes: dict[int, str]) -> NDArray[Any]:
            for axis, name in axes.items():
                size = leaf.shape[1 + axis]
                leaf = np.pad(
                    leaf, [(0, int(i == 1 + axis and not size)) for i in range(leaf.ndim)]
                )
                leaf = np.take(leaf, np.arange(lengths[name]) % max(size, 1), axis=1 + axis)
            return leaf

        repeated = [repeat(*pair) for pair in zip(leaves, self.axes, strict=True)]
        return jax.tree.unflatten(structure, repeated)

    def padded(self, args: Tree, sizes: Mapping[str, int]) -> Tree:
        """Returns the arguments, an axis for the examples in front, with zeros behind."""
        leaves, structure = jax.tree.flatten(args)

        def pad(leaf: NDArray[Any], axes: dict[int, str]) -> NDArray[Any]:
            missing = [
                sizes[axes[axis]] - size if axis in axes else 0
                for axis, size in enumerate(leaf.shape[1:])
            ]
            return np.pad(leaf, [(0, 0), *((0, count) for count in missing)])

        padded = [pad(*pair) for pair in zip(leaves, self.axes, strict=True)]
        return jax.tree.unflatten(structure, padded)

    def masks(
        self, count: int, lengths: Mapping[str, int], sizes: Mapping[str, int]
    ) -> dict[str, NDArray[np.bool_]]:
        """Returns what of the padded axes of ``count`` examples is no padding."""
        return {
            name: np.tile(np.arange(sizes[name]) < length, (count, 1))
            for name, length in lengths.items()
        }

    def told(self) -> dict[str, Any]:
        """Returns what is written of it, for people and to compare."""
        if not self.sizes:
            return {"buckets": [], "ragged": []}
        alone = self.fields == {_ALONE: LENGTH}
        sizes = {name: list(sizes) for name, sizes in self.sizes.items()}
        axes = [" ".join(f"{axis}:{name}" for axis, name in a.items()) for a in self.axes]
        return {"buckets": sizes[_ALONE] if alone else sizes, "ragged": axes}


def as_ragged(buckets: Buckets, ragged: Any, args: tuple[Tree, ...]) -> Ragged:
    """Reads what ``attribute_dataset`` is told of padding.

    Args:
      buckets: sizes, or those of each length by its name.
      ragged: which axes have them, as strings in a prefix of the arguments; None for the first axis
        of the first argument.
      args: of an example, arrays.

    Raises:
      TypeError: if a bucket is no integer.
      ValueError: if these do not fit together.
    """
    leaves = jax.tree_util.tree_flatten_with_path(args)[0]
    given = buckets if isinstance(buckets, Mapping) else _listed("buckets", buckets)
    if not given:
        if ragged is not None:
            raise ValueError("ragged says which axes are padded, and buckets to what: give both.")
        return Ragged({}, ({},) * len(leaves), {})
    if isinstance(given, Mapping):
        if ragged is None:
            raise ValueError("with buckets by name, ragged has to say which axes have which.")
        by_name, fields = dict(given), {name: f"{LENGTH}.{name}" for name in given}
    else:
        by_name, fields = {_ALONE: given}, {_ALONE: LENGTH}
        if ragged is None:
            _check_equally_long(args)
            ragged = _ALONE
    sizes = {name: _sizes(name, given) for name, given in by_name.items()}
    specs = _of_leaves(ragged, args)
    axes = tuple(
        _axes(spec, leaf, sizes, f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}")
        for spec, (path, leaf) in zip(specs, leaves, strict=True)
    )
    if unused := sizes.keys() - set(itertools.chain(*(own.values() for own in axes))):
        raise ValueError(f"buckets are for {min(unused)!r}, a length that ragged gives no axis.")
    return Ragged(sizes, axes, fields)


def _listed(what: str, sizes: Any) -> list[Any]:
    """Returns ``sizes`` as a list. Raises TypeError if they are none."""
    message = f"{what} must be sizes, such as (8, 16); got {sizes!r}."
    if isinstance(sizes, str | bytes | Mapping):
        raise TypeError(message)
    try:
        return list(sizes)
    except TypeError:
        raise TypeError(message) from None


def _sizes(name: Any, given: Any) -> tuple[int, ...]:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(
            "a length must have a name that a keyword can have, of at most 100 ASCII letters, "
            f"digits and _; got {name!r}."
        )
    sizes = _listed(f"buckets of {name!r}", given)
    if not sizes:
        raise ValueError(f"buckets of {name!r} must name at least one size.")
    return tuple(sorted(check_count("a bucket", size, least=1) for size in sizes))


def _check_equally_long(args: tuple[Tree, ...]) -> None:
    """Raises ValueError unless all arrays of the first argument have a length, and the same."""
    leaves = jax.tree_util.tree_flatten_with_path(args[0])[0]
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    if len({shape[:1] for shape in shapes.values()}) > 1:
        raise ValueError(
            "buckets without ragged are for the first axis of all arrays of the first argument, "
            f"and these are not equally long: their shapes are {shapes}. Say which are padded: "
            f'ragged like the arguments, with "{_ALONE}" for those arrays and None for the others.'
        )


def _of_leaves(ragged: Any, args: tuple[Tree, ...]) -> list[str]:
    """Returns what a prefix of the arguments says of each leaf; nothing where it lacks one."""
    given = ragged if isinstance(ragged, tuple) else (ragged,)
    given = (*given, *[None] * (len(args) - len(given)))
    is_spec = lambda node: node is None or isinstance(node, str)
    try:
        full = jax.tree.map(
            lambda spec, part: jax.tree.map(lambda _: spec or "", part),
            given,
            args,
            is_leaf=is_spec,
        )
    except ValueError as error:
        raise ValueError(f"ragged must be like the arguments, or a prefix: {error}") from error
    return jax.tree.leaves(full)


def _axes(spec: Any, leaf: NDArray[Any], sizes: Mapping[str, Any], where: str) -> dict[int, str]:
    """Reads which axes of a leaf have which length."""
    if not isinstance(spec, str):
        raise TypeError(f"ragged names the lengths of {where} in a string; got {spec!r}.")
    names = spec.split()
    if len(names) > leaf.ndim:
        raise ValueError(
            f"buckets are for axes, and {where} has {leaf.ndim}, which can't be {spec!r}."
        )
    for name in names:
        if name != _FIXED and name not in sizes:
            raise ValueError(f"ragged names the length {name!r}, of which there are no buckets.")
    return {axis: name for axis, name in enumerate(names) if name != _FIXED}
