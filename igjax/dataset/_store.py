"""Results on disk: a Zarr v3 group, written block by block through TensorStore.

A block is as many examples as a chunk of the arrays has. Its arrays are written first, and
``status`` last: what that says is done has been written. Each chunk is replaced as a whole or not
at all, and has a checksum. So has each example, of all that is written of it and of its place: one
that is not done yet may be done while another is not, and what lies elsewhere is not its own.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _kvstore
from igjax.dataset._attributes import Attributes, Made, identity
from igjax.dataset._format import GROUP, Field, empty, group
from igjax.dataset._rowhash import row_hashes

PENDING, DONE, FAILED = range(3)
_logger = logging.getLogger("igjax")


class Store:
    """An open store.

    Args:
      out: where it is.
      attributes: what is written in its metadata.
      arrays: those of ``fields_of(attributes)``.
      length: the number of examples there is room for.

    Attributes:
      out: likewise.
      attributes: likewise.
      length: likewise.
      block: the number of examples of a chunk.
      making: the place, in ``made_with`` of its attributes, of what the next results are made with.
    """

    def __init__(self, out: str, attributes: Attributes, arrays: dict[str, Any], length: int):
        self.out, self.attributes, self._arrays, self.length = out, attributes, arrays, length
        self.block = attributes["block"]
        self.making = len(attributes["made_with"]) - 1
        self._identity = identity(attributes)

    @property
    def fields(self) -> dict[str, Field]:
        """Returns those of all its arrays."""
        return {
            name: Field(tuple(array.shape[1:]), array.dtype.numpy_dtype)
            for name, array in self._arrays.items()
        }

    def made_with(self, places: NDArray[np.uint16]) -> Made:
        """Returns what the last of some results were made with, of which the store says this."""
        made = self.attributes["made_with"]
        return made[min(int(places.max(initial=0)), len(made) - 1)]

    def make_with(self, made: Made) -> None:
        """Says what the next results are made with; writes it down, if nothing was before."""
        there = self.attributes["made_with"]
        if made not in there:
            self.note(made_with=[*there, made])
        self.making = self.attributes["made_with"].index(made)

    def resize(self, length: int) -> None:
        """Makes room for that many examples, and no more."""
        with _kvstore.writing(self.out):
            for name, array in self._arrays.items():
                end = [length, *array.shape[1:]]
                resized = array.resize(exclusive_max=end, resize_metadata_only=True)
                self._arrays[name] = resized.result()
        self.length = length

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
        """Reads the block of that number; None if it is damaged, or what is done is not its own."""
        rows = self._rows(number)
        reads = {name: array[rows].read() for name, array in self._arrays.items()}
        found = {name: _found(read) for name, read in reads.items()}
        sound = {name: array for name, array in found.items() if array is not None}
        if len(sound) < len(found):
            return None
        done = np.flatnonzero(sound["status"] != PENDING)
        own = np.array_equal(sound["checksum"][done], self._checksums(rows.start, done, sound))
        return sound if own else None

    def write(self, number: int, values: dict[str, NDArray[Any]]) -> None:
        """Writes a block, and then what has become of its examples.

        Raises:
          FileExistsError: if something else is in the way.
          OSError: if it can't for another reason.
        """
        first, room = number * self.block, self._arrays["status"].shape[0]
        chunk = slice(first, min(first + self.block, room))
        done = np.flatnonzero(values["status"] != PENDING)
        values["checksum"][done] = self._checksums(first, done, values)
        whole = {name: _of_length(value, chunk.stop - first) for name, value in values.items()}
        try:
            with _kvstore.writing(self.out):
                writes = [
                    self._arrays[name][chunk].write(value)
                    for name, value in whole.items()
                    if name != "status"
                ]
                for write in writes:
                    write.result()
                self._arrays["status"][chunk].write(whole["status"]).result()
        except OSError:
            self._check_room(number)  # if that is why, this says what to do
            raise

    def note(self, **attributes: Any) -> None:
        """Writes more into the metadata."""
        self.attributes.update(attributes)  # type: ignore[typeddict-item]
        with _kvstore.writing(self.out):
            _kvstore.kvstore(self.out).write(GROUP, group(self.attributes)).result()

    def _check_room(self, number: int) -> None:
        """Checks that nothing is where chunks of the block of that number are to be written.

        Raises:
          FileExistsError: if a folder is, or a file in the place of one.
        """
        for name, array in self._arrays.items():
            file = "/".join([name, "c", str(number), *["0"] * (array.ndim - 1)])
            if there := _kvstore.in_the_way(self.out, file):
                raise FileExistsError(
                    f"{there} lies where results are to be written: nothing is deleted. Move it "
                    "away, and make the same call again."
                )

    def _checksums(
        self, first: int, rows: NDArray[np.intp], values: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.uint64]:
        """Returns those of some rows of a block, which begins with the example ``first``."""
        others = [values[name][rows] for name in sorted(values) if name != "checksum"]
        return row_hashes([first + rows.astype(np.int64), *others], self._identity)

    def _rows(self, number: int) -> slice:
        return slice(number * self.block, min((number + 1) * self.block, self.length))


def _of_length(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """Returns the first ones, or all and then empty ones."""
    more = max(0, count - len(rows))
    return np.concatenate([rows[:count], empty(more, Field(rows.shape[1:], rows.dtype))])


def _found(read: Any) -> NDArray[Any] | None:
    """Returns what has been read; None if it has never been written, or is damaged."""
    try:
        return np.array(read.result())
    except ValueError as error:
        _logger.debug("not read: %s", error)
        return None
