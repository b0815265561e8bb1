"""Results on disk: a Zarr v3 group, written block by block through TensorStore.

A block is as many examples as a chunk of the arrays has. Its arrays are written first, and
``status`` last: what that says is done has been written. Each chunk is replaced as a whole or not
at all, and has a checksum.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _kvstore
from igjax.dataset._format import GROUP, Field, empty, group

PENDING, DONE, FAILED = range(3)
_logger = logging.getLogger("igjax")


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
        """Returns those of all its arrays."""
        return {
            name: Field(tuple(array.shape[1:]), array.dtype.numpy_dtype)
            for name, array in self._arrays.items()
        }

    def resize(self, length: int) -> None:
        """Makes room for that many examples, and no more."""
        with _kvstore.writing(self.out):
            for name, array in self._arrays.items():
                end = [length, *array.shape[1:]]
                resized = array.resize(exclusive_max=end, resize_metadata_only=True)
                self._arrays[name] = resized.result()

    def empty_block(self, number: int) -> dict[str, NDArray[Any]]:
        """Returns a block in which nothing is done. Where no length is known yet, it makes room."""
        if self.attributes["length"] is None and self.length < (number + 1) * self.block:
            self.resize((number + 1) * self.block)
        rows = self._rows(number)
        count = rows.stop - rows.start
        return {name: empty(count, field) for name, field in self.fields.items()}

    def whole(self, name: str) -> NDArray[Any]:
        """Reads one of the arrays; where nothing is written, or it is damaged, it is empty."""
        array, field = self._arrays[name], self.fields[name]
        rows = [self._rows(number) for number in range(-(-self.length // self.block))]
        reads = [array[r].read() for r in rows]
        parts = [
            empty(r.stop - r.start, field) if found is None else found
            for r, found in zip(rows, map(_found, reads), strict=True)
        ]
        return np.concatenate([empty(0, field), *parts])

    def read(self, number: int) -> dict[str, NDArray[Any]] | None:
        """Reads the block of that number; None if it is damaged."""
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
        with _kvstore.writing(self.out):
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
        with _kvstore.writing(self.out):
            _kvstore.kvstore(self.out).write(GROUP, group(self.attributes)).result()

    def _rows(self, number: int) -> slice:
        return slice(number * self.block, min((number + 1) * self.block, self.length))


def _found(read: Any) -> NDArray[Any] | None:
    """Returns what has been read; None if it has never been written, or is damaged."""
    try:
        return np.array(read.result())
    except ValueError as error:
        _logger.debug("not read: %s", error)
        return None
