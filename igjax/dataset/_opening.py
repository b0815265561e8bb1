"""The store of a run: a new one, or one that was begun with the same attribution and data."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jaxlib.version
import numpy as np

from igjax._version import __version__
from igjax.dataset import _creation, _fingerprint
from igjax.dataset._check import Check
from igjax.dataset._format import Field
from igjax.dataset._method import Method
from igjax.dataset._source import Source
from igjax.dataset._store import Store
from igjax.dataset._tuning import Trial, Tuning

_CHUNK = 2**22  # bytes of results in a chunk of an array, at most
_LONGEST = 4096  # examples in a chunk, at most


def opened(
    out: str,
    resume: bool,
    arrays: Mapping[str, Field],
    method: Method,
    check: Check,
    source: Source,
    batch_size: int | Literal["auto"],
    tuning: Tuning,
) -> Store:
    """Opens the store, if it was made with the same; or makes a new one.

    Args:
      out: where it is.
      resume: whether there may be one.
      arrays: that it is to have.
      method: what is to be done with each example.
      check: what they have to be like.
      source: of the examples.
      batch_size: how many examples at once, if the store is new.
      tuning: what to decide by, if it is.

    Raises:
      FileExistsError: if there is one, and must not be; or something else.
      ValueError: if it was made with something else.
    """
    identity = {
        "fields": sorted(arrays),
        **check.ragged.told(),
        "arguments": [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(check.like)],
        "attribution": method.fingerprint(check.like),
        "data": _fingerprint.of_data(source),
    }
    attributes = _creation.found(out)
    if attributes is None:
        _creation.check_empty(out)  # soon: to try batch sizes takes a while
        new = _new(arrays, method, check, source, batch_size, tuning)
        attributes = new | identity | {"parts": method.parts(check.like)}
        if _creation.begin(out, attributes):
            return _creation.complete(out, arrays, attributes)
        attributes = _creation.found(out) or attributes  # another run was faster
    if not resume:
        raise FileExistsError(
            f"{out} holds attributions already. resume=True goes on with them; for new ones "
            "give another out."
        )
    _check_identity(out, attributes, identity, lambda: method.parts(check.like))
    return _creation.complete(out, arrays, attributes)


def reopened(out: str) -> Store:
    """Opens the store that another process has opened."""
    store = _creation.open_existing(out)
    assert store is not None
    return store


def _new(
    arrays: Mapping[str, Field],
    method: Method,
    check: Check,
    source: Source,
    batch_size: int | Literal["auto"],
    tuning: Tuning,
) -> dict[str, Any]:
    """Returns what a new store says of itself, beside its identity."""
    trial = Trial(
        lambda tile: method.programs(check.like, tile),
        check.like,
        method.compiler,
        check.ragged.shapes,
        source.length,
        tuning,
    )
    if batch_size == "auto":
        batch_size = trial.fastest()
    size = max(field.dtype.itemsize * int(np.prod(field.shape)) for field in arrays.values())
    longest = max(1, min(_LONGEST, _CHUNK // max(size, 1)))
    share = -(-(source.length or _LONGEST) // (tuning.blocks * jax.process_count()))
    return {
        "made_by": _creation.MADE_BY,
        "length": source.length,
        "block": min(longest, max(1, share)),
        "batch_size": batch_size,
        "chunks_per_program": trial.chunks(batch_size),
        "versions": _versions(),
        "device": jax.devices()[0].device_kind,
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision"),  # noqa: B009
    }


# In this order: an attribution of other shapes is another one, too.
_IDENTITY = {
    "buckets": "other buckets",
    "ragged": "other axes to pad",
    "arguments": "other data, of other shapes or dtypes",
    "attribution": "another one",
    "fields": "other fields",
    "data": "other data",
}


_PARTS = {
    "function": "another function",
    "function_constants": "other parameters of the function",
    "baseline": "another baseline",
    "baseline_constants": "other numbers in the baseline",
    "rule": "another rule",
    "rule_constants": "other nodes in the rule",
}


def _check_identity(
    out: str,
    attributes: Mapping[str, Any],
    identity: Mapping[str, Any],
    parts: Callable[[], Mapping[str, str]],
) -> None:
    """Raises ValueError if the store was made with something else."""
    for name, what in _IDENTITY.items():
        there, here = attributes.get(name), identity[name]
        if there != here:
            versions = _versions()
            made = attributes["versions"]
            changed = ", ".join(
                f"{p} {made[p]} then, {v} now" for p, v in versions.items() if made[p] != v
            )
            other = what
            if name == "attribution":
                other = _other_attribution(there or {}, here, attributes.get("parts", {}), parts())
            raise ValueError(
                f"{out} was made with {other} ({name}: {there} there, {here} here). Call with "
                "what it was made with, or give another out."
                + (f" Or it is due to the versions: {changed}." if changed else "")
            )


def _other_attribution(
    there: Mapping[str, str],
    here: Mapping[str, str],
    parts_there: Mapping[str, str],
    parts_here: Mapping[str, str],
) -> str:
    """Returns in what they differ, as far as that can be told."""
    if there.get("name") != here["name"]:
        return "another attribution"
    others = [
        said
        for name, said in _PARTS.items()
        if name in parts_here and parts_there.get(name, parts_here[name]) != parts_here[name]
    ]
    if others:
        return f"another attribution: with {' and '.join(others)}"
    if there.get("equations") == here["equations"]:
        return "another attribution: with other parameters of the function, rule or baseline"
    if parts_here:
        return "another attribution: by another path, or with other options"
    return "another attribution: of another function, or by another rule, path or baseline"


def _versions() -> dict[str, str]:
    return {"igjax": __version__, "jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
