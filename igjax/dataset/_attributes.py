"""What a store says of itself, and whether that can be: read in one place, and believed nowhere."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from igjax.dataset._format import BOOKKEEPING, CHUNK, LONGEST, Field, from_json

MADE_BY = "igjax"
LAYOUT = 2  # of a store; other versions of igjax may have had others
IDENTITY = ("buckets", "ragged", "arguments", "attribution", "fields")  # in the order of messages
MOST_AT_ONCE = 2**20  # examples, where it is not known that there are more
_MOST = 2**40  # of anything that is counted: more is no number of examples, or of bytes of one


class Made(TypedDict):
    """What results were made with, beside the attribution and the data."""

    versions: dict[str, str]
    device: str
    matmul_precision: str | None


class Attributes(TypedDict):
    """The attributes of a store.

    Attributes:
      made_by: which program.
      layout: which arrays there are, and what is in them.
      length: the number of examples; None while nobody knows.
      block: the number of examples of a chunk.
      batch_size: the number of examples at once on a device.
      chunks_per_program: as many chunks of these.
      made_with: what there has been; the array ``made_with`` has for each example its place here.
      fields: dtype and shape of what there is for each example, by the names of the arrays.
      buckets: as given.
      ragged: likewise.
      arguments: what examples are like.
      attribution: its name and fingerprint.
      parts: fingerprints of what it is made of, as far as that is known.
    """

    made_by: str
    layout: int
    length: int | None
    block: int
    batch_size: int
    chunks_per_program: int
    made_with: list[Made]
    fields: dict[str, Any]
    buckets: Any
    ragged: Any
    arguments: list[str]
    attribution: dict[str, str]
    parts: NotRequired[dict[str, str]]


def parsed(out: str, text: bytes) -> Attributes:
    """Reads what a store says of itself.

    Args:
      out: where the store is, for messages.
      text: its ``zarr.json``.

    Raises:
      FileExistsError: if it is none that this version of igjax has made, or damaged.
    """
    written = from_json(text)
    attributes = written.get("attributes", {}) if isinstance(written, dict) else None
    if isinstance(attributes, dict) and attributes.get("made_by") != MADE_BY:
        raise FileExistsError(
            f"{out} is a Zarr group or array, but none that igjax has made. Give another out."
        )
    if isinstance(attributes, dict) and attributes.get("layout", 1) != LAYOUT:
        raise FileExistsError(
            f"{out} holds a store of another version of igjax (layout {LAYOUT} is expected; got "
            f"{_short(attributes.get('layout', 1))}). Zarr reads it; to go on with it takes that "
            "version. Or give another out."
        )
    flaw = "it is no JSON object" if attributes is None else _flaw(written, attributes)
    if flaw:
        raise FileExistsError(
            f"{out} holds a zarr.json that is damaged: {flaw}. Bring it back from a copy, if there "
            "are results beside it; remove it, if it is all that is there; or give another out."
        )
    return cast(Attributes, attributes)


def fields_of(attributes: Attributes) -> dict[str, Field]:
    """Returns all arrays of a store, in the order in which they are made."""
    fields = {
        name: Field(tuple(field["shape"]), np.dtype(field["dtype"]))
        for name, field in attributes["fields"].items()
    }
    return fields | BOOKKEEPING


def told(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Returns what a store says of its arrays."""
    return {
        name: {"dtype": fields[name].dtype.name, "shape": list(fields[name].shape)}
        for name in sorted(fields)
    }


def identity(attributes: Mapping[str, Any]) -> bytes:
    """Returns what two stores have in common of which the results can be compared."""
    return json.dumps([attributes[name] for name in IDENTITY], sort_keys=True).encode()


def _flaw(group: Mapping[str, Any], attributes: Any) -> str | None:
    """Says what can't be."""
    if not isinstance(attributes, dict):
        return "its attributes are no JSON object"
    if (group.get("zarr_format"), group.get("node_type")) != (3, "group"):
        return "it is not that of a Zarr v3 group"
    for name, (fits, what) in _RULES.items():
        if not fits(attributes.get(name)):
            return f"{name} must be {what}; got {_short(attributes.get(name))}"
    most = max(MOST_AT_ONCE, attributes["length"] or 0)
    if attributes["batch_size"] > most:
        return f"batch_size must be at most {most}; got {attributes['batch_size']}"
    block, rows = attributes["block"], max(map(_bytes, attributes["fields"].values()))
    if rows > _MOST or (block > 1 and block * rows > CHUNK):
        return f"fields say that {block} examples have {block * rows} bytes, too many for a chunk"
    return None


def _is_count(value: Any, most: int = _MOST) -> bool:
    return type(value) is int and 1 <= value <= most


def _are_strings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for part in value.values())


def _is_field(name: str, value: Any) -> bool:
    shape = value.get("shape") if isinstance(value, dict) else None
    return (
        name not in BOOKKEEPING
        and _NAME.fullmatch(name) is not None
        and isinstance(shape, list)
        and all(n == 0 or _is_count(n) for n in shape)
        and isinstance(dtype := value.get("dtype"), str)
        and dtype in _DTYPES
    )


def _are_fields(value: Any) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(_is_field(*item) for item in value.items())
    )


def _is_made(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _are_strings(value.get("versions"))
        and isinstance(value.get("device"), str)
        and isinstance(value.get("matmul_precision"), str | None)
    )


def _bytes(field: Mapping[str, Any]) -> int:
    count = 1
    for size in field["shape"]:
        count *= size
    return count * np.dtype(field["dtype"]).itemsize


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.~%-]{0,199}")  # leads nowhere else
_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
_COUNT = "a whole number, at least 1 and not huge"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "length": (lambda v: v is None or _is_count(v), f"{_COUNT}, or null"),
    "block": (lambda v: _is_count(v, LONGEST), f"a whole number, from 1 to {LONGEST}"),
    "batch_size": (_is_count, _COUNT),
    "chunks_per_program": (lambda v: _is_count(v, MOST_AT_ONCE), _COUNT),
    "fields": (_are_fields, "dtypes and shapes by the names of arrays"),
    "buckets": (lambda v: isinstance(v, list | dict), "sizes, or sizes by name"),
    "ragged": (lambda v: isinstance(v, list), "a list"),
    "arguments": (lambda v: isinstance(v, list), "a list"),
    "attribution": (
        lambda v: _are_strings(v) and {"name", "equations", "constants"} <= v.keys(),
        "a name and fingerprints",
    ),
    "parts": (lambda v: v is None or _are_strings(v), "fingerprints by name"),
    "made_with": (
        lambda v: isinstance(v, list) and bool(v) and all(map(_is_made, v)),
        "a list of versions, device and matmul_precision",
    ),
}
