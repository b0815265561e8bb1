"""What ``igjax inspect`` tells of a store, as plain values that JSON knows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from igjax._engine.report import Reason
from igjax.dataset._layout import field_of
from igjax.dataset._store import DONE, FAILED, PENDING, Store

QUANTILES = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
_SETTINGS = (
    "buckets",
    "ragged",
    "batch_size",
    "chunks_per_program",
    "block",
)
_FINGERPRINTS = ("attribution",)
_GAP = ("completeness_gap", "value", "baseline_value")
_OF_OUTPUTS = ("error", *_GAP)

Floats = NDArray[np.float64]


def facts(store: Store, failures: int) -> dict[str, Any]:
    """Says what there is to say about a store.

    Args:
      store: where the attributions are.
      failures: how many of the examples that failed to list, at most.

    Returns:
      A dictionary that ``json.dumps`` takes. What is not known is None; what has not been stored
      is absent from ``distributions`` and, for ``converged`` and ``reasons``, None.
    """
    attributes, status = store.attributes, store.whole("status")
    made = store.made_with(store.whole("made_with")[status != PENDING])
    done = status == DONE
    return {
        "out": store.out,
        "settings": {"fields": list(attributes["fields"])}
        | {name: attributes.get(name) for name in _SETTINGS},
        "fingerprints": {name: attributes.get(name) for name in _FINGERPRINTS},
        "versions": made["versions"],
        "device": made["device"],
        "progress": _progress(status, attributes["length"]),
        "distributions": _distributions(store, done),
        "converged": _share(store, done),
        "reasons": _reasons(store, done),
        "failures": _failures(store, np.flatnonzero(status == FAILED)[:failures]),
    }


def distribution(values: NDArray[Any]) -> dict[str, float | int | None]:
    """Returns quantiles of those that are finite, and how many are not."""
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    quantiles = {
        name: float(np.quantile(finite, share)) if finite.size else None
        for name, share in QUANTILES.items()
    }
    return {**quantiles, "not_finite": int(values.size - finite.size)}


def relative_gap(gap: Floats, value: Floats, baseline_value: Floats) -> Floats:
    """Returns |gap| relative to |F(x) - F(x')|; 0 for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0.0, 0.0, np.abs(gap) / np.abs(value - baseline_value))


def _progress(status: NDArray[np.uint8], length: int | None) -> dict[str, int | None]:
    counts = {"done": int(np.sum(status == DONE)), "failed": int(np.sum(status == FAILED))}
    # Of a stream that goes on nobody knows the length; the store has room for more than has come.
    pending = None if length is None else int(np.sum(status == PENDING))
    return {"examples": length, **counts, "pending": pending}


def _distributions(store: Store, done: NDArray[np.bool_]) -> dict[str, Any]:
    def of(name: str) -> Floats:
        return store.whole(name)[done].astype(np.float64)

    # Of several outputs each has its own, called after it: error.logits, say.
    outputs = {
        name.removeprefix(field_of(name)) for name in store.fields if field_of(name) in _OF_OUTPUTS
    }
    found = {}
    for output in sorted(outputs):
        if (name := f"error{output}") in store.fields:
            found[name] = distribution(of(name))
        gap = [f"{name}{output}" for name in _GAP]
        if set(gap) <= set(store.fields):
            found[f"relative_completeness_gap{output}"] = distribution(relative_gap(*map(of, gap)))
    if "num_evals" in store.fields:
        found["num_evals"] = distribution(of("num_evals"))
    return found


def _share(store: Store, done: NDArray[np.bool_]) -> float | None:
    if "converged" not in store.fields or not np.any(done):
        return None
    return float(np.mean(store.whole("converged")[done]))


def _reasons(store: Store, done: NDArray[np.bool_]) -> dict[str, int] | None:
    """Counts why those ended that did not converge."""
    if "reason" not in store.fields:
        return None
    found = store.whole("reason")[done]
    others = [reason for reason in Reason if reason != Reason.CONVERGED]
    return {reason.name.lower(): int(np.sum(found == reason)) for reason in others}


def _failures(store: Store, indices: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Lists each with its reason. Few blocks are read for them, not the reasons of all examples."""
    blocks = {number: store.read(number) for number in {int(i) // store.block for i in indices}}

    def reason(index: int) -> str | None:
        block = blocks[index // store.block]
        if block is None:  # damaged since
            return None
        encoded = block["failure"][index % store.block].tobytes()
        return encoded.rstrip(b"\0").decode(errors="ignore")  # the last letter may be cut in two

    return [{"example": int(index), "reason": reason(int(index))} for index in indices]
