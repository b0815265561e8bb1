"""What ``--data`` names, as a source for ``attribute_dataset``."""

import inspect
import json
import math
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igjax._cli._named import load
from igjax._extras import needs

_CACHE = 2**28  # bytes of decoded chunks: the examples of a chunk are not all read at once
_LARGEST = 2**32  # bytes that are read at once
_KINDS = "a .npy or .npz file, a Zarr folder or module:source"


class ZarrArray:
    """An array on disk, of which examples are read when they are asked for.

    Args:
      array: a TensorStore.
    """

    def __init__(self, array: Any):
        self._array = array
        self.shape = tuple(array.shape)
        self.dtype: np.dtype[Any] = array.dtype.numpy_dtype
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self._array[index].read().result())


def source(names: Sequence[str]) -> Any:
    """Finds the examples: the arrays of files, one for each argument, or an object.

    Raises:
      ValueError: if a name is none of a file that can be read, nor ``module:source``.
      TypeError: if the object is a function that needs arguments.
    """
    if len(names) == 1 and _is_object(names[0]):
        return _called(load(names[0]), names[0])
    return tuple(array for name in names for array in _arrays(name))


def _is_object(name: str) -> bool:
    return ":" in name and not pathlib.Path(name).exists()


def _called(given: Any, name: str) -> Any:
    """Returns what a function makes; else what is given."""
    holds = any(hasattr(given, name) for name in ("__getitem__", "__iter__"))
    if not callable(given) or (holds and not inspect.isclass(given)):
        return given
    try:
        inspect.signature(given).bind()
    except TypeError as error:
        raise TypeError(f"--data {name}: a function must need no arguments: {error}.") from None
    return given()


def _arrays(name: str) -> list[Any]:
    path = pathlib.Path(name)
    if _is_object(name):
        raise ValueError(f"--data {name} must be alone: only files can be put side by side.")
    if not path.exists():
        raise ValueError(f"--data {name}: there is none. It takes {_KINDS}.")
    if path.is_dir():
        return _zarr_arrays(path)
    if not path.is_file():
        raise ValueError(f"--data {name} is neither a file nor a folder. It takes {_KINDS}.")
    if path.suffix == ".npy":
        return [np.lib.format.open_memmap(path, mode="r")]
    if path.suffix == ".npz":
        if not zipfile.is_zipfile(path):  # NumPy would ask for trust in it
            raise ValueError(f"--data {name} is no .npz file.")
        _check_size(path)
        with np.load(path) as file:
            return [file[name] for name in file.files]
    raise ValueError(f"--data {name} must be {_KINDS}.")


def _check_size(path: pathlib.Path) -> None:
    """Raises ValueError if what a file packs has no room in memory, or is less than it claims."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > _LARGEST:
            raise ValueError(
                f"--data {path} unpacks to {total / 2**30:.1f} GiB of memory. Save its arrays as "
                ".npy files or Zarr arrays, of which parts are read when they are needed."
            )
        for member in archive.infolist():
            if _claimed(archive, member) > member.file_size:
                raise ValueError(f"--data {path} is damaged: {member.filename} lacks data.")


def _claimed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Returns the bytes that an array has by what is written at its beginning."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_2_0  # with which the next ones can be read, too
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0
        shape, _, dtype = header(file)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize  # pickled, which NumPy tells


def _zarr_arrays(folder: pathlib.Path) -> list[ZarrArray]:
    """Opens an array, or those of a group in the order of their names."""
    folders = [folder] if _driver(folder) else sorted(folder.iterdir())
    opened = [_opened(path, driver) for path in folders if (driver := _driver(path))]
    if not opened:
        raise ValueError(f"--data {folder} is no Zarr array, nor a group that holds one.")
    return opened


def _driver(folder: pathlib.Path) -> str | None:
    """Returns TensorStore's for an array in a folder; None if there is none."""
    if (folder / ".zarray").is_file():
        return "zarr"
    metadata = folder / "zarr.json"
    return "zarr3" if metadata.is_file() and _node_type(metadata) == "array" else None


def _node_type(metadata: pathlib.Path) -> Any:
    try:
        return dict(json.loads(metadata.read_text()))["node_type"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"--data {metadata.parent} has a zarr.json that is damaged.") from None


def _opened(folder: pathlib.Path, driver: str) -> ZarrArray:
    spec = {
        "driver": driver,
        "kvstore": folder.absolute().as_uri() + "/",
        "context": {"cache_pool": {"total_bytes_limit": _CACHE}},
    }
    array = needs("tensorstore", "dataset").open(spec, open=True, read=True).result()
    chunk = math.prod(array.chunk_layout.read_chunk.shape) * array.dtype.numpy_dtype.itemsize
    if chunk > _LARGEST:
        raise ValueError(
            f"--data {folder} has chunks of {chunk / 2**30:.3g} GiB, which have no room in memory."
        )
    return ZarrArray(array)
