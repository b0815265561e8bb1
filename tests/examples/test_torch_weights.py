"""torch_weights against files written here by hand, byte for byte as `torch.save` lays them out."""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from examples.models import torch_weights

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}


class Storage:
    """Stands for a torch storage: pickled as the persistent id that torch writes."""

    def __init__(self, key, type_name, values):
        self.key, self.type_name, self.values = key, type_name, values


class Tensor:
    """Stands for a torch tensor: pickled as the call that torch writes."""

    def __init__(self, storage, offset, shape, strides):
        self.call = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.call


class Malicious:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


class Settings(dict):
    """Stands for what a training framework keeps beside the tensors."""


@pytest.fixture(autouse=True)
def fake_torch(monkeypatch):
    """The names a torch pickle refers to, so that `pickle` can write them without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("reading must not call torch")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "DoubleStorage", "HalfStorage", "LongStorage", "BoolStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def dump(tree, storages, *view_metadata):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            storages[value.key] = value.values
            storage_type = getattr(sys.modules["torch"], value.type_name)
            return ("storage", storage_type, value.key, "cpu", value.values.size, *view_metadata)

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(tree)
    return stream.getvalue()


def save_legacy(path, tree, system=SYSTEM):
    storages = {}
    parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, system)]
    parts += [dump(tree, storages, None), pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts += [struct.pack("<q", storages[key].size), storages[key].tobytes()]
    path.write_bytes(b"".join(parts))


def save_zip(path, tree, byteorder=b"little"):
    storages = {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dump(tree, storages))
        archive.writestr("archive/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())


both_layouts = pytest.mark.parametrize("save", [save_legacy, save_zip])


def matrix(dtype="<f4", type_name="FloatStorage"):
    values = np.arange(6).astype(dtype)
    return values.reshape(2, 3), Tensor(Storage("0", type_name, values), 0, (2, 3), (3, 1))


@both_layouts
@pytest.mark.parametrize(
    ("type_name", "dtype"),
    [
        ("FloatStorage", "<f4"),
        ("DoubleStorage", "<f8"),
        ("HalfStorage", "<f2"),
        ("LongStorage", "<i8"),
        ("BoolStorage", "?"),
    ],
)
def test_values_and_dtype(tmp_path, save, type_name, dtype):
    expected, tensor = matrix(dtype, type_name)
    save(tmp_path / "weights.pth", collections.OrderedDict(weight=tensor))
    read = torch_weights.load(tmp_path / "weights.pth")
    assert list(read) == ["weight"]
    assert read["weight"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read["weight"], expected)


@both_layouts
def test_offsets_strides_and_a_shared_storage(tmp_path, save):
    values = np.arange(10, dtype="<f4")
    storage = Storage("7", "FloatStorage", values)
    transposed, scalar = Tensor(storage, 2, (3, 2), (1, 3)), Tensor(storage, 9, (), ())
    empty = Tensor(Storage("8", "FloatStorage", values[:0]), 0, (0, 4), (4, 1))
    save(tmp_path / "weights.pth", [transposed, scalar, empty])
    a, b, c = torch_weights.load(tmp_path / "weights.pth")
    np.testing.assert_array_equal(a, values[2:8].reshape(2, 3).T)
    assert b == 9 and b.shape == ()
    assert c.shape == (0, 4)


@both_layouts
def test_nested_containers_are_returned_as_they_are(tmp_path, save):
    expected, tensor = matrix()
    save(tmp_path / "weights.pt", {"epoch": 3, "names": ("a", None), "state": [{"w": tensor}]})
    read = torch_weights.load(tmp_path / "weights.pt")
    assert read["epoch"] == 3 and read["names"] == ("a", None)
    np.testing.assert_array_equal(read["state"][0]["w"], expected)


@both_layouts
def test_other_globals_are_refused_by_name(tmp_path, save):
    save(tmp_path / "weights.pth", {"weight": Malicious()})
    with pytest.raises(pickle.UnpicklingError, match=f"refused the global {os.name}.system"):
        torch_weights.load(tmp_path / "weights.pth")


@both_layouts
def test_other_objects_can_be_skipped_and_are_not_made(tmp_path, save, capfd):
    expected, tensor = matrix()
    # A set, a list, a dict and a state: pickle fills each in its own way.
    others = [{1}, collections.deque([1]), Settings(a=1), types.SimpleNamespace(a=1)]
    tree = {"call": Malicious(), "weight": tensor, "others": others}
    save(tmp_path / "checkpoint.pt", tree)
    read = torch_weights.load(tmp_path / "checkpoint.pt", skip_objects=True)
    np.testing.assert_array_equal(read["weight"], expected)
    for value in (read["call"], *read["others"]):
        assert type(value) is torch_weights.Skipped and not vars(value)
    assert capfd.readouterr().out == ""


def test_a_plain_malicious_pickle_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(pickle.UnpicklingError, match="refused the global"):
        torch_weights.load(tmp_path / "weights.pth")


@both_layouts
def test_a_tensor_may_not_reach_outside_its_storage(tmp_path, save):
    storage = Storage("0", "FloatStorage", np.zeros(4, "<f4"))
    save(tmp_path / "weights.pth", Tensor(storage, 1, (2, 2), (2, 1)))
    with pytest.raises(ValueError, match="buffer"):
        torch_weights.load(tmp_path / "weights.pth")


def test_a_legacy_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    save_legacy(path, matrix()[1])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(pickle.UnpicklingError, match="ends within storage '0'"):
        torch_weights.load(path)


def test_big_endian_files_are_refused(tmp_path):
    save_legacy(tmp_path / "a.pth", matrix()[1], SYSTEM | {"little_endian": False})
    save_zip(tmp_path / "b.pth", matrix()[1], byteorder=b"big")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(pickle.UnpicklingError, match="big-endian"):
            torch_weights.load(tmp_path / name)
