"""Results as rows of the arrays of a store."""

import collections
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from igjax._engine.report import Report
from igjax._trees import Tree
from igjax.dataset._format import Field
from igjax.dataset._scheduler import Results
from igjax.dataset._stages import Returned

ATTRIBUTIONS = "attributions"
FIELDS = (ATTRIBUTIONS, *Report._fields)
_LONGEST = 128  # of the names of arrays, which file systems take


def layout(
    returned: Returned, fields: Sequence[str] | None, lengths: Iterable[str]
) -> dict[str, Field]:
    """Returns the arrays of a store: for each leaf of the attributions and of the report one.

    Args:
      returned: of an example, arrays or their shapes.
      fields: those wanted, of ``FIELDS``; None for all that there are.
      lengths: the names of the arrays for the lengths of an example.

    Raises:
      TypeError: if ``fields`` are no names.
      ValueError: if there is no such field, or none is asked for.
    """
    wanted = FIELDS if fields is None else _checked(fields, returned)
    named = {
        name: Field(leaf.shape, _stored(leaf.dtype))
        for name, leaf in _named(returned)
        if field_of(name) in wanted
    }
    return named | {name: Field((), np.dtype(np.int32)) for name in lengths}


def field_of(name: str) -> str:
    """Returns the field that an array has the leaves of, or one of them."""
    return name.partition(".")[0]


def _checked(given: Any, returned: Returned) -> list[str]:
    """Returns the fields that are asked for."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"fields must be several names, some of {FIELDS}; got {given!r}.")
    fields = list(given)
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"fields must be some of {FIELDS}; got {unknown[0]!r}.")
    if not fields:
        raise ValueError(f"fields must name what to store, some of {FIELDS}; got none.")
    reported = [field for field in fields if field != ATTRIBUTIONS]
    if reported and returned.report is None:
        raise ValueError(
            f"fields asks for {reported[0]!r}, which is part of a Report, and the attribution "
            "returns none. Those of igjax do with has_report=True."
        )
    return fields


def rows(results: Results, layout: Mapping[str, Field]) -> dict[str, NDArray[Any]]:
    """Returns results as the arrays of a store; what is shorter is padded with zeros."""
    return {
        name: _fitting(leaf, layout[name])
        for name, leaf in _named(results.returned)
        if name in layout
    }


def flaws(results: Results) -> list[str | None]:
    """Returns of each example why its results are no good; None if they are.

    That is so if its attributions, or the function's value, are not finite.
    """
    found: list[str | None] = [None] * len(results.indices)
    attributions, report = results.returned
    for row in np.flatnonzero(~_finite(attributions, len(found))):
        found[row] = "its attributions are not finite."
    value: Any = None if report is None else report.value
    for row in np.flatnonzero(~_finite(value, len(found))):
        alone = isinstance(value, np.ndarray) and value.ndim == 1
        said = f": {value[row]}" if alone else ""
        found[row] = f"the function's value is not finite{said}."
    return found


def _finite(tree: Tree, count: int) -> NDArray[np.bool_]:
    """Tells of which of ``count`` examples all is."""
    good = np.ones(count, bool)
    for leaf in jax.tree.leaves(tree):
        good &= np.isfinite(leaf.astype(_stored(leaf.dtype))).reshape(count, -1).all(axis=1)
    return good


def _named(returned: Returned) -> Iterator[tuple[str, Any]]:
    of_report = [] if returned.report is None else zip(Report._fields, returned.report, strict=True)
    for field, tree in [(ATTRIBUTIONS, returned.attributions), *of_report]:
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        names = _names(field, (path for path, _ in flat))
        yield from zip(names, (leaf for _, leaf in flat), strict=True)


def _names(field: str, paths: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Gives each path to a leaf of a field a name that a folder can have anywhere.

    They are the keys with dots between; what is no letter, digit, ``-`` or ``_`` of ASCII is
    written as in an address, and the empty key as ``~``. A name that is taken, in whatever case,
    as keys that are very long or read the same may have it, gets a number.
    """
    taken = collections.Counter[str]()
    for path in paths:
        name = ".".join([field, *map(_name, path)])[:_LONGEST]
        count = taken[name.lower()]
        taken[name.lower()] += 1
        yield f"{name}~{count}" if count else name


def _name(key: Any) -> str:
    """Returns a name without ``.``, and with ``~`` only if it is that alone."""
    text = jax.tree_util.keystr((key,), simple=True)
    quoted = urllib.parse.quote(text, safe="", errors="surrogatepass")
    return quoted.replace(".", "%2E").replace("~", "%7E") or "~"


def _stored(dtype: Any) -> np.dtype[Any]:
    """Returns a dtype that can be read without JAX."""
    known = np.dtype(dtype).kind in "biuf"  # of NumPy itself: not bfloat16 and what is smaller
    return np.dtype(dtype) if known else np.dtype(np.float32)


def _fitting(rows: NDArray[Any], field: Field) -> NDArray[Any]:
    missing = [full - size for full, size in zip(field.shape, rows.shape[1:], strict=True)]
    return np.pad(rows.astype(field.dtype), [(0, 0), *((0, n) for n in missing)])
