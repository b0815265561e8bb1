"""Read a file written by `torch.save` into NumPy arrays, without torch and without trusting it.

A pickle may name any function to call, so plain `pickle.load` on a downloaded file runs whatever
its author wished. Here only the names that tensors need are allowed; every other one is refused.

The two layouts `torch.save` has had (the PyTorch notes on serialization semantics, and the bytes
of published files):

* zip, since PyTorch 1.6: `<folder>/data.pkl` holds the object, `<folder>/data/<key>` the bytes of
  each storage, `<folder>/byteorder` (in newer files) their order.
* legacy: one stream of five pickles (magic number, protocol version, system info, the object, the
  storage keys), then for each key, in that order, an int64 element count and the raw elements.

In both, a tensor is a call of `_rebuild_tensor_v2` on a storage that the pickle refers to by a
persistent id: `("storage", type, key, device, element count)`.

Checkpoints of a training framework hold objects of its classes beside the tensors. With
`skip_objects` those are not refused but left out; still nothing they name is imported or called.
"""

import collections
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# torch names a storage after the C type of its elements.
_DTYPES = {
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}


class _Storage(NamedTuple):
    """The elements that one or more tensors are views of."""

    data: bytearray
    dtype: np.dtype[Any]


class Skipped:
    """Stands for an object of any other class, or a call of any function: it keeps nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def extend(self, _items: Any) -> None:
        """What unpickling calls on an object that is a list."""

    append = add = extend  # on one that is a list or a set


def load(path: str | os.PathLike[str], *, skip_objects: bool = False) -> Any:
    """Load what `torch.save` wrote, with a NumPy array in place of each tensor.

    Args:
      path: a `.pth` or `.pt` file in the legacy or the zip layout, little-endian.
      skip_objects: whether to put an empty `Skipped` in the place of whatever is no tensor, dict,
        list or plain value, rather than refuse the file.

    Returns:
      The saved object: for a state dict an `OrderedDict` from name to array, in general any nest
      of dicts, lists, tuples and plain values. Arrays have the shapes and dtypes of the tensors;
      tensors that shared a storage give arrays that share memory.

    Raises:
      pickle.UnpicklingError: if the file names a global that no tensor needs (unless
        `skip_objects`), or is not a complete file of either layout.
      ValueError: if a tensor reaches outside its storage.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _load_zip(archive, skip_objects)
    with open(path, "rb") as file:
        return _load_legacy(file, skip_objects)


def _load_zip(archive: zipfile.ZipFile, skip_objects: bool) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise pickle.UnpicklingError("not a file of torch.save: no single data.pkl in the archive")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in names:
        _require_little_endian(archive.read(folder + "byteorder") == b"little")
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype[Any], count: int) -> _Storage:
        if key not in storages:
            storages[key] = _Storage(bytearray(archive.read(f"{folder}data/{key}")), dtype)
            _require_size(key, storages[key], count)
        return storages[key]

    with archive.open(pickles[0]) as file:
        return _TensorUnpickler(file, storage, skip_objects).load()


def _load_legacy(file: IO[bytes], skip_objects: bool) -> Any:
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype[Any], count: int) -> _Storage:
        # The elements follow the pickle, so tensors are views of a buffer that is filled later.
        return storages.setdefault(key, _Storage(bytearray(count * dtype.itemsize), dtype))

    def unpickle() -> Any:
        return _TensorUnpickler(file, storage, skip_objects).load()

    if unpickle() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("not a file of torch.save: wrong magic number")
    unpickle()  # the protocol version, 1001 in every legacy file
    _require_little_endian(unpickle()["little_endian"])
    tree = unpickle()
    for key in unpickle():
        _require_size(key, storages[key], int.from_bytes(file.read(8), "little", signed=True))
        if file.readinto(storages[key].data) != len(storages[key].data):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError(f"the file ends within storage {key!r}")
    return tree


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that can make dicts, lists, plain values and arrays, and nothing else."""

    def __init__(
        self,
        file: IO[bytes],
        storage: Callable[[str, np.dtype[Any], int], _Storage],
        skip_objects: bool,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._skip_objects = skip_objects

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return name
        if self._skip_objects:
            return Skipped
        raise pickle.UnpicklingError(
            f"refused the global {module}.{name}: only tensors, dicts, lists and plain values "
            "are read from torch files"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, type_name, key, _device, count, *view = pid
        if kind != "storage" or view not in ([], [None]) or type_name not in _DTYPES:
            raise pickle.UnpicklingError(f"refused the persistent id {pid!r}: not a plain storage")
        return self._storage(key, _DTYPES[type_name], count)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_grad: Any
) -> NDArray[Any]:
    # np.ndarray checks the bounds, which as_strided would not. torch counts in elements, not bytes.
    size = storage.dtype.itemsize
    return np.ndarray(
        shape, storage.dtype, storage.data, offset * size, tuple(size * s for s in strides)
    )


def _require_size(key: str, storage: _Storage, count: int) -> None:
    if count * storage.dtype.itemsize != len(storage.data):
        raise pickle.UnpicklingError(f"storage {key!r} is not of the size its tensors were given")


def _require_little_endian(little: bool) -> None:
    if not little:
        raise pickle.UnpicklingError("the file is big-endian; only little-endian files are read")
