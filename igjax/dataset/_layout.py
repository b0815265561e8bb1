"""Results as rows of the arrays of a store."""

import collections
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from igjax._report import Report
from igjax.dataset._engine import Results
from igjax.dataset._format import Field

Tree = Any

FIELDS = ("attributions", *Report._fields)
LENGTH = "length"
_LONGEST = 128  # of the names of arrays, which file systems take


def layout(
    attributions: Tree, report: Report, fields: Sequence[str], *, padded: bool
) -> dict[str, Field]:
    """The arrays of a store: for each leaf of the attributions one, for each field of the report.

    Args:
      attributions: of an example, arrays or their shapes.
      report: likewise.
      fields: those wanted, of ``FIELDS``.
      padded: whether the length of an example is to be stored.

    Raises:
      ValueError: if there is no such field, or none is asked for.
    """
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"fields must be some of {FIELDS}; got {unknown[0]!r}.")
    if not fields:
        raise ValueError(f"fields must name what to store, some of {FIELDS}; got none.")
    named = {
        name: Field(leaf.shape, _stored(leaf.dtype))
        for name, leaf in _named(attributions, report)
        if name.split(".")[0] in fields
    }
    return named | ({LENGTH: Field((), np.dtype(np.int32))} if padded else {})


def rows(results: Results, layout: Mapping[str, Field]) -> dict[str, NDArray[Any]]:
    """Results, as the arrays of a store; what is shorter than they are is padded with zeros."""
    return {
        name: _fitting(leaf, layout[name])
        for name, leaf in _named(results.attributions, results.report)
        if name in layout
    }


def finite(results: Results) -> NDArray[np.bool_]:
    """Of which examples all attributions, and the value, are finite."""
    leaves = [*jax.tree.leaves(results.attributions), results.report.value]
    good = np.ones(len(results.indices), bool)
    for leaf in leaves:
        good &= np.isfinite(leaf.astype(_stored(leaf.dtype))).reshape(len(good), -1).all(axis=1)
    return good


def _named(attributions: Tree, report: Report) -> Iterator[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(attributions)[0]
    yield from zip(_names(path for path, _ in flat), (leaf for _, leaf in flat), strict=True)
    yield from zip(Report._fields, report, strict=True)


def _names(paths: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Gives each path to a leaf a name that a folder can have anywhere.

    They are the keys with dots between; what is no letter, digit, ``-`` or ``_`` of ASCII is
    written as in an address, and the empty key as ``~``. A name that is taken, in whatever case,
    as keys that are very long or read the same may have it, gets a number.
    """
    taken = collections.Counter[str]()
    for path in paths:
        name = ".".join(["attributions", *map(_name, path)])[:_LONGEST]
        count = taken[name.lower()]
        taken[name.lower()] += 1
        yield f"{name}~{count}" if count else name


def _name(key: Any) -> str:
    """Returns a name without ``.``, and with ``~`` only if it is that alone."""
    text = jax.tree_util.keystr((key,), simple=True)
    quoted = urllib.parse.quote(text, safe="", errors="surrogatepass")
    return quoted.replace(".", "%2E").replace("~", "%7E") or "~"


def _stored(dtype: Any) -> np.dtype[Any]:
    """What can be read without JAX."""
    return np.dtype(np.float32) if dtype == ml_dtypes.bfloat16 else np.dtype(dtype)


def _fitting(rows: NDArray[Any], field: Field) -> NDArray[Any]:
    missing = [full - size for full, size in zip(field.shape, rows.shape[1:], strict=True)]
    return np.pad(rows.astype(field.dtype), [(0, 0), *((0, n) for n in missing)])
