"""Results on disk: a Zarr v3 group, written block by block through TensorStore.

A block is as many examples as a chunk of the arrays has. Its arrays are written first, and
``status`` last: what that says is done has been written. Each chunk is replaced as a whole or not
at all, and has a checksum.
"""

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igjax._extras import needs

PENDING, DONE, FAILED = range(3)
REASON_BYTES = 256
_ATTRIBUTES = "zarr.json"
_logger = logging.getLogger("igjax")
_CODECS = {"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}


class Field(NamedTuple):
    """An array of the store, apart from its first axis, which is that of the examples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


# What every store has beside the results.
BOOKKEEPING = {
    "status": Field((), np.dtype(np.uint8)),
    "reason": Field((REASON_BYTES,), np.dtype(np.uint8)),
}


class Store:
    """An open store.

    Attributes:
      out: where it is.
      attributes: what is written in its metadata.
      block: the number of examples of a chunk.
      length: the number of examples there is room for.
    """

    def __init__(self, out: str, attributes: dict[str, Any], arrays: dict[str, Any]):
        self.out, self.attributes, self._arrays = out, attributes, arrays
        self.block = int(attributes["block"])

    @property
    def length(self) -> int:
        return int(self._arrays["status"].shape[0])

    @property
    def fields(self) -> dict[str, Field]:
        """Of all its arrays."""
        return {
            name: Field(tuple(array.shape[1:]), array.dtype.numpy_dtype)
            for name, array in self._arrays.items()
        }

    def resize(self, length: int) -> None:
        """Makes room for that many examples, and no more."""
        with _writing(self.out):
            for name, array in self._arrays.items():
                end = [length, *array.shape[1:]]
                resized = array.resize(exclusive_max=end, resize_metadata_only=True)
                self._arrays[name] = resized.result()

    def empty_block(self, number: int) -> dict[str, NDArray[Any]]:
        """A block in which nothing is done. Where the length is not known yet, it makes room."""
        if self.attributes["length"] is None and self.length < (number + 1) * self.block:
            self.resize((number + 1) * self.block)
        rows = self._rows(number)
        return {name: _full(rows, field) for name, field in self.fields.items()}

    def whole(self, name: str) -> NDArray[Any]:
        """One of the arrays; where it has not been written, or is damaged, as if it were empty."""
        array, field = self._arrays[name], self.fields[name]
        rows = [self._rows(number) for number in range(-(-self.length // self.block))]
        reads = [array[r].read() for r in rows]
        parts = [
            _full(r, field) if found is None else found
            for r, found in zip(rows, map(_found, reads), strict=True)
        ]
        return np.concatenate([_full(slice(0, 0), field), *parts])

    def read(self, number: int) -> dict[str, NDArray[Any]] | None:
        """The block of that number, or None if it is damaged."""
        rows = self._rows(number)
        reads = {name: array[rows].read() for name, array in self._arrays.items()}
        found = {name: _found(read) for name, read in reads.items()}
        sound = {name: array for name, array in found.items() if array is not None}
        return sound if len(sound) == len(found) else None

    def write(self, number: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Writes a block, and then what has become of its examples.

        Raises:
          OSError: if it can't.
        """
        rows = self._rows(number)
        values = {name: value[: rows.stop - rows.start] for name, value in values.items()}
        with _writing(self.out):
            writes = [
                self._arrays[name][rows].write(value)
                for name, value in values.items()
                if name != "status"
            ]
            for write in writes:
                write.result()
            self._arrays["status"][rows].write(values["status"]).result()

    def note(self, **attributes: Any) -> None:
        """Writes more into the metadata."""
        self.attributes.update(attributes)
        _write_group(self.out, self.attributes)

    def _rows(self, number: int) -> slice:
        return slice(number * self.block, min((number + 1) * self.block, self.length))


def create(out: str, fields: Mapping[str, Field], length: int, attributes: dict[str, Any]) -> Store:
    """Makes a new store for ``length`` examples, with ``attributes["block"]`` a chunk."""
    arrays = {
        name: _array(out, name, field, length, int(attributes["block"]))
        for name, field in {**fields, **BOOKKEEPING}.items()
    }
    _write_group(out, attributes)  # last: what has it is whole
    return Store(out, attributes, arrays)


def open_existing(out: str, *, write: bool = True) -> Store | None:
    """The store there, or None if there is none.

    Raises:
      ValueError: if there is something else.
    """
    text = _kvstore(out).read(_ATTRIBUTES).result().value
    if not text:
        return None
    attributes = json.loads(text).get("attributes", {})
    if attributes.get("made_by") != "igjax":
        raise ValueError(f"{out} is a Zarr group, but none that igjax has made.")
    names = [*attributes["fields"], *BOOKKEEPING]
    opened = {
        name: _tensorstore().open(
            _spec(out, name), open=True, read=True, write=write, context=_context()
        )
        for name in names
    }
    return Store(out, attributes, {name: array.result() for name, array in opened.items()})


def _array(out: str, name: str, field: Field, length: int, block: int) -> Any:
    ts = _tensorstore()
    kind = ts.dtype(field.dtype).name
    one_byte = field.dtype.itemsize == 1
    metadata = {
        "shape": [length, *field.shape],
        "data_type": kind,
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
    spec = _spec(out, name, metadata=metadata)
    with _writing(out):
        opening = ts.open(spec, create=True, delete_existing=True, context=_context())
        return opening.result()


def _spec(out: str, name: str, **more: Any) -> dict[str, Any]:
    """Of an array. All that is done is written, and what has not been written is not made up."""
    return {
        "driver": "zarr3",
        "kvstore": _url(out, name),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
        **more,
    }


def _found(read: Any) -> NDArray[Any] | None:
    """What has been read, or None if it has never been written, or is damaged."""
    try:
        return np.array(read.result())
    except ValueError as error:
        _logger.debug("not read: %s", error)
        return None


def _full(rows: slice, field: Field) -> NDArray[Any]:
    """Rows of an array in which nothing has been written."""
    return np.full((rows.stop - rows.start, *field.shape), _fill(field), field.dtype)


def _fill(field: Field) -> Any:
    """What stands where nothing has been written."""
    return {"f": np.nan, "b": False}.get(field.dtype.kind, 0)


def _write_group(out: str, attributes: dict[str, Any]) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    with _writing(out):
        _kvstore(out).write(_ATTRIBUTES, json.dumps(group, indent=2).encode()).result()


@contextlib.contextmanager
def _writing(out: str) -> Iterator[None]:
    """Raises OSError for what TensorStore raises, which is the same whatever is wrong."""
    try:
        yield
    except ValueError as error:
        raise OSError(
            f"results can't be written to {out}: {error}. The same call goes on when they can."
        ) from error


def _kvstore(out: str) -> Any:
    return _tensorstore().KvStore.open(_url(out), context=_context()).result()


def _context() -> Any:
    """How files are written: under a new name each, and then renamed.

    By default TensorStore writes them under one name, that of a lock. What a process that was
    killed has left there, it writes over: behind a shorter chunk the rest of that would stay.
    """
    return _tensorstore().Context({"file_io_locking": {"mode": "none"}})


def _url(out: str, name: str = "") -> str:
    """Of a folder in the store. What is no address is a path."""
    base = out if "://" in out else pathlib.Path(out).absolute().as_uri()
    return "/".join([base.rstrip("/"), *([name] if name else [])]) + "/"


def _tensorstore() -> Any:
    return needs("tensorstore", "dataset")
