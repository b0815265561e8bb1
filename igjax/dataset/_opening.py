"""The store of a run: a new one, or one that was begun with the same attribution."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jaxlib.version
import numpy as np

from igjax._version import __version__
from igjax.dataset import _creation
from igjax.dataset._attributes import IDENTITY, LAYOUT, MADE_BY, Made, told
from igjax.dataset._check import Check
from igjax.dataset._format import CHUNK, LONGEST, Field
from igjax.dataset._method import Method
from igjax.dataset._source import Source
from igjax.dataset._store import Store
from igjax.dataset._tuning import Trial, Tuning

_logger = logging.getLogger("igjax")


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
    identity: dict[str, Any] = {
        **check.ragged.told(),
        "arguments": [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(check.like)],
        "attribution": method.fingerprint(check.like),
        "fields": told(arrays),
    }
    attributes = _creation.found(out)
    if attributes is None:
        _creation.check_empty(out)  # soon: to try batch sizes takes a while
        parts = method.parts(check.like)
        new = _new(arrays, method, check, source, batch_size, tuning)
        new_attributes: Any = {**new, **identity, "parts": parts}
        if _creation.begin(out, new_attributes):
            return _creation.complete(out, new_attributes)
        attributes = _creation.found(out) or new_attributes  # another run was faster
    if not resume:
        raise FileExistsError(
            f"{out} holds attributions already. resume=True goes on with them; for new ones "
            "give another out."
        )
    _check_identity(out, attributes, identity, lambda: method.parts(check.like))
    _check_length(out, attributes["length"], source.length)
    return _creation.complete(out, attributes)


def note_what_it_is_made_with(store: Store) -> None:
    """Writes down what the next results are made with, if it is not what the last ones were."""
    here, there = _made(), store.attributes["made_with"]
    if here != there[-1]:
        _logger.warning(
            "%s: %s. What comes now is made with that; the array made_with says which is which.",
            store.out,
            _changes(_flat(there[-1]), _flat(here)),
        )
    store.make_with(here)


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
    longest = max(1, min(LONGEST, CHUNK // max(size, 1)))
    share = -(-(source.length or LONGEST) // (tuning.blocks * jax.process_count()))
    return {
        "made_by": MADE_BY,
        "layout": LAYOUT,
        "length": source.length,
        "block": min(longest, max(1, share)),
        "batch_size": batch_size,
        "chunks_per_program": trial.chunks(batch_size),
        "made_with": [_made()],
    }


_OTHER = {
    "buckets": "other buckets",
    "ragged": "other axes to pad",
    "arguments": "other data, of other shapes or dtypes",
    "attribution": "another one",
    "fields": "other fields",
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
    for name in IDENTITY:
        there, here = attributes[name], identity[name]
        if there != here:
            changed = _changes(attributes["made_with"][-1]["versions"], _made()["versions"])
            other = _OTHER[name]
            if name == "attribution":
                other = _other_attribution(there, here, attributes.get("parts") or {}, parts())
            raise ValueError(
                f"{out} was made with {other} ({name}: {there} there, {here} here). Call with "
                "what it was made with, or give another out."
                + (f" Or it is due to the versions: {changed}." if changed else "")
            )


def _check_length(out: str, there: int | None, here: int | None) -> None:
    """Raises ValueError if there were more examples, or fewer; of a stream that is seen later."""
    if here is not None and here != there:
        said = "a source of unknown length" if there is None else f"{there} examples"
        raise ValueError(
            f"{out} was made with other data: of {said}; source has {here}. Call with what it was "
            "made with, or give another out."
        )


def _changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Says what was otherwise when a store was made."""
    return ", ".join(
        f"{name} {there.get(name)} then, {value} now"
        for name, value in here.items()
        if there.get(name) != value
    )


def _flat(made: Made) -> dict[str, Any]:
    return {**made["versions"], "device": made["device"], "precision": made["matmul_precision"]}


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


def _made() -> Made:
    """Returns what results are made with here."""
    return {
        "versions": {
            "igjax": __version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
        },
        "device": jax.devices()[0].device_kind,
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision"),  # noqa: B009
    }
