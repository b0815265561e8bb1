"""What a store is like, in the words of Zarr v3."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _kvstore

GROUP = "zarr.json"  # the file that makes a folder a group
FAILURE_BYTES = 256
CHUNK = 2**22  # bytes of results in a chunk of an array, at most, unless one example has more
LONGEST = 4096  # examples in a chunk, at most
_CODECS = {"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}


class Field(NamedTuple):
    """An array of the store, apart from its first axis, which is that of the examples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


# What every store has beside the results. The status last: where it is, all is.
BOOKKEEPING = {
    "failure": Field((FAILURE_BYTES,), np.dtype(np.uint8)),
    "fingerprint": Field((), np.dtype(np.uint64)),  # of the example; 0 where it is not known
    "made_with": Field((), np.dtype(np.uint16)),
    "checksum": Field((), np.dtype(np.uint64)),  # of all the others, and of where they are
    "status": Field((), np.dtype(np.uint8)),
}


def from_json(text: bytes) -> Any:
    """Returns what a text says; None if it is no JSON, or nested deeper than anyone writes it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def group(attributes: Mapping[str, Any]) -> bytes:
    """Returns the text of ``GROUP``."""
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(metadata, indent=2).encode()


def metadata(name: str, field: Field, length: int, block: int) -> dict[str, Any]:
    """Returns the metadata of an array of ``length`` examples, ``block`` in a chunk."""
    one_byte = field.dtype.itemsize == 1
    return {
        "shape": [length, *field.shape],
        "data_type": _kvstore.tensorstore().dtype(field.dtype).name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [block, *(max(1, n) for n in field.shape)]},
        },
        "fill_value": "NaN" if field.dtype.kind == "f" else _fill(field),
        "codecs": [
            {"name": "bytes"}
            if one_byte
            else {"name": "bytes", "configuration": {"endian": "little"}},
            *_CODECS,
        ],
        "dimension_names": ["example", *(f"{name}_{axis}" for axis in range(len(field.shape)))],
    }


def empty(rows: int, field: Field) -> NDArray[Any]:
    """Returns rows of an array in which nothing has been written."""
    return np.full((rows, *field.shape), _fill(field), field.dtype)


def _fill(field: Field) -> Any:
    """Returns what stands where nothing has been written."""
    return {"f": np.nan, "b": False}.get(field.dtype.kind, 0)
