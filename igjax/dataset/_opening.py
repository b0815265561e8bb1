"""The store of a run: a new one, or one that was begun with the same function, rule and data."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jaxlib.version
import numpy as np

from igjax._version import __version__
from igjax.dataset import _creation, _fingerprint
from igjax.dataset._examples import Check, Source
from igjax.dataset._format import Field
from igjax.dataset._method import Method
from igjax.dataset._store import Store

_CHUNK = 2**22  # bytes of results in a chunk of an array, at most
_LONGEST = 4096  # examples in a chunk, at most
_CHUNKS = 16  # for each process, at least, if there are as many examples


def opened(
    out: str,
    resume: bool,
    arrays: Mapping[str, Field],
    method: Method,
    check: Check,
    source: Source,
    batch_size: int | Literal["auto"],
) -> Store:
    """The store, if it was made with the same; or a new one.

    Args:
      out: where it is.
      resume: whether there may be one.
      arrays: that it is to have.
      method: what is to be done with each example.
      check: what they have to be like.
      source: of the examples.
      batch_size: how many gradients at once, if the store is new.

    Raises:
      FileExistsError: if there is one, and must not be; or something else.
      ValueError: if it was made with something else.
    """
    identity = {
        "fields": sorted(arrays),
        "buckets": list(check.buckets),
        **method.fingerprints(check.like),
        "data": _fingerprint.of_data(source),
    }
    attributes = _creation.found(out)
    if attributes is None:
        _creation.check_empty(out)  # soon: to try batch sizes takes a while
        attributes = _new(arrays, method, check, source, batch_size) | identity
        if _creation.begin(out, attributes):
            return _creation.complete(out, arrays, attributes)
        attributes = _creation.found(out) or attributes  # another run was faster
    if not resume:
        raise FileExistsError(
            f"{out} holds attributions already. resume=True goes on with them; for new ones "
            "give another out."
        )
    _check_identity(out, attributes, identity)
    return _creation.complete(out, arrays, attributes)


def reopened(out: str) -> Store:
    """The store that another process has opened."""
    store = _creation.open_existing(out)
    assert store is not None
    return store


def _new(
    arrays: Mapping[str, Field],
    method: Method,
    check: Check,
    source: Source,
    batch_size: int | Literal["auto"],
) -> dict[str, Any]:
    """Returns what a new store says of itself, beside its identity."""
    if batch_size == "auto":
        batch_size = method.fastest(check.like, source.length)
    chunks = method.chunks(check.like, batch_size, source.length)
    size = max(field.dtype.itemsize * int(np.prod(field.shape)) for field in arrays.values())
    longest = max(1, min(_LONGEST, _CHUNK // max(size, 1)))
    share = -(-(source.length or _LONGEST) // (_CHUNKS * jax.process_count()))
    return {
        "made_by": _creation.MADE_BY,
        "length": source.length,
        "block": min(longest, max(1, share)),
        "batch_size": batch_size,
        "chunks_per_program": chunks,
        "versions": _versions(),
        "device": jax.devices()[0].device_kind,
    }


_IDENTITY = {
    "function": "another function, or other parameters of it",
    "path_and_baseline": "another path or baseline",
    "rule": "another rule",
    "multiply_by_inputs": "another multiply_by_inputs",
    "fields": "other fields",
    "buckets": "other buckets",
    "data": "other data",
}


def _check_identity(out: str, attributes: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises ValueError if the store was made with something else."""
    for name, what in _IDENTITY.items():
        there, here = attributes.get(name), identity[name]
        if there != here:
            versions = _versions()
            made = attributes["versions"]
            changed = ", ".join(
                f"{p} {made[p]} then, {v} now" for p, v in versions.items() if made[p] != v
            )
            raise ValueError(
                f"{out} was made with {what} ({name}: {there} there, {here} here). Call with "
                "what it was made with, or give another out."
                + (f" Or it is due to the versions: {changed}." if changed else "")
            )


def _versions() -> dict[str, str]:
    return {"igjax": __version__, "jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
