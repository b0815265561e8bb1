"""Where stores are made, and where not: nothing that lies there is ever deleted."""

import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr
from jax.sharding import Mesh

import igjax
from igjax.dataset import _creation, attribute_dataset, verify
from igjax.dataset._format import BOOKKEEPING
from igjax.quadrature import gauss_legendre

XS = np.linspace(0.5, 2.0, 8, dtype=np.float32).reshape(4, 2)
ONE = Mesh(np.array(jax.devices()[:1]), ("example",))
ARRAYS = ("value", *BOOKKEEPING)  # of a store with this field, as they are made


def squares(x: Any) -> jax.Array:
    """Whose attributions are squares."""
    return jnp.sum(jnp.asarray([jnp.sum(leaf**2) for leaf in jax.tree.leaves(x)]))


ATTRIBUTION = igjax.integrated_grad(squares, rule=gauss_legendre(2), has_report=True)


def run(out: Any, xs: Any = XS, **settings: Any) -> Any:
    fixed = {"batch_size": 4, "mesh": ONE, "progress": False}
    return attribute_dataset(ATTRIBUTION, xs, out=out, **fixed | settings)


def tree(folder: pathlib.Path) -> dict[str, bytes | str | None]:
    """All that is in a folder: bytes of files, targets of links, None for folders."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in paths
    }


def thesis(out: pathlib.Path) -> None:
    (out / "error").mkdir()
    (out / "error" / "thesis.tex").write_text("ten years")


def folder(out: pathlib.Path) -> None:
    (out / "error").mkdir()


def link(out: pathlib.Path) -> None:
    (out / "value").symlink_to(out.parent)


def dangling(out: pathlib.Path) -> None:
    (out / "value").symlink_to(out.parent / "nothing")


def results(out: pathlib.Path) -> None:
    run(out)


def without_metadata(out: pathlib.Path) -> None:
    run(out)
    (out / "zarr.json").unlink()


def metadata(text: str, beside: Callable[[pathlib.Path], None] = results) -> Any:
    def make(out: pathlib.Path) -> None:
        beside(out)
        (out / "zarr.json").write_text(text)

    return make


def nothing(out: pathlib.Path) -> None:
    pass


def hidden(name: str) -> Any:
    return lambda out: (out / name).write_text("{}")


def metadata_folder(out: pathlib.Path) -> None:
    (out / "zarr.json").mkdir()


IN_THE_WAY: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "a folder with a file": (thesis, "holds error, and no zarr.json of igjax"),
    "several": (lambda out: [thesis(out), link(out)], "holds error and 1 more"),
    "an empty folder": (folder, "holds error"),
    "a link": (link, "holds value"),
    "a link to nothing": (dangling, "holds value"),
    "a folder with the name of metadata": (metadata_folder, "holds zarr.json"),
    "results without metadata": (without_metadata, "holds attributions and 12 more"),
    "results with empty metadata": (metadata(""), "zarr.json that is damaged"),
    "results with torn metadata": (metadata('{"zarr_format": 3, "attr'), "is damaged"),
    "results with bytes": (metadata("\0\x80"), "is damaged"),
    "results with a list": (metadata("[]"), "is damaged"),
    "results with half the attributes": (
        metadata('{"attributes": {"made_by": "igjax", "layout": 2}}'),
        "is damaged: it is not that of a Zarr v3 group",
    ),
    "results of another version": (
        metadata('{"attributes": {"made_by": "igjax"}}'),
        "another version of igjax .layout 2 is expected; got 1",
    ),
    "results with deep metadata": (metadata("[" * 100_000), "zarr.json that is damaged"),
    "a Zarr v2 group": (hidden(".zgroup"), "holds .zgroup"),
    "a Zarr v2 array": (hidden(".zarray"), "holds .zarray"),
    "a repository": (lambda out: (out / ".git").mkdir(), "holds .git"),
    "results with attributes that are none": (metadata('{"attributes": 3}'), "is damaged"),
    "empty metadata alone": (metadata("", nothing), "zarr.json that is damaged"),
    "a Zarr group": (zarr.create_group, "none that igjax has made"),
    "a Zarr array": (lambda out: zarr.save_array(out, XS), "none that igjax has made"),
}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_stays_as_it_is(tmp_path: pathlib.Path, what: str, resume: bool) -> None:
    make, message = IN_THE_WAY[what]
    out = tmp_path / "out"
    out.mkdir()
    make(out)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match=message) as raised:
        run(out, resume=resume)
    assert str(out) in str(raised.value) and "ive another out" in str(raised.value)
    assert tree(tmp_path) == before


def test_a_file_or_what_lies_below_one_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for out in (file, file / "store"):
        with pytest.raises(FileExistsError, match="is a file, or in the place of a folder"):
            run(out)
    assert tree(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("address", [False, True])
def test_a_link_to_a_folder_is_that_folder(tmp_path: pathlib.Path, address: bool) -> None:
    (tmp_path / "real place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real place")
    out = (tmp_path / "link").as_uri() if address else tmp_path / "link"
    thesis(tmp_path / "real place")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="holds error"):
        run(out)
    assert tree(tmp_path) == before
    shutil.rmtree(tmp_path / "real place" / "error")
    assert run(out).new == 4
    assert run(tmp_path / "real place").new == 0


def test_an_empty_folder_given_as_an_address_is_looked_at(tmp_path: pathlib.Path) -> None:
    folder(tmp_path)  # which TensorStore does not list
    with pytest.raises(FileExistsError, match="holds error"):
        run(tmp_path.as_uri())


def test_hidden_files_do_not_count(tmp_path: pathlib.Path) -> None:
    for name in (".DS_Store", ".gitkeep"):
        (tmp_path / name).write_text("the system's")
    before = tree(tmp_path)
    assert run(tmp_path).new == 4
    assert before.items() <= tree(tmp_path).items()


def test_a_link_to_nothing_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for out in (tmp_path / "link", tmp_path / "link" / "store"):
        with pytest.raises(FileExistsError, match="link is a link to what is not there"):
            run(out)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("out", [b"store", 3, None, "", "a\0b"])
def test_what_is_no_name_is_refused(out: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="out must be"):
        run(out)
    with pytest.raises((TypeError, ValueError), match="out must be"):
        verify(ATTRIBUTION, XS, out=out)


def test_what_cannot_be_looked_at_is_no_empty_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match=r"can't be read from .*loop.* levels of symbolic links"):
        run(tmp_path / "loop")


@pytest.fixture
def nobody() -> Iterator[pathlib.Path]:
    """A folder of someone who has no more rights than others, as whom the test goes on."""
    with tempfile.TemporaryDirectory() as name:
        home, root = pathlib.Path(name), os.geteuid() == 0
        if root:
            os.chown(home, 65534, 65534)
            os.seteuid(65534)
        try:
            yield home
        finally:
            if root:
                os.seteuid(0)
            for path in home.iterdir():
                path.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such rights")
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o500])
def test_a_folder_without_rights_is_left_alone(nobody: pathlib.Path, mode: int) -> None:
    out = nobody / "out"
    out.mkdir()
    if mode == 0o300:
        thesis(out)
    before = tree(nobody)
    out.chmod(mode)
    with pytest.raises(OSError, match=r"[Pp]ermission denied") as raised:
        run(out)
    assert not isinstance(raised.value, FileExistsError)
    out.chmod(0o700)
    assert tree(nobody) == before


def test_in_memory_and_at_addresses_with_other_files() -> None:
    out = f"memory://{uuid.uuid4()}/attributions"
    assert run(out).new == 4
    assert run(out).new == 0
    with pytest.raises(FileExistsError, match="holds attributions already"):
        run(out, resume=False)
    with pytest.raises(FileExistsError, match="it holds attributions, and no zarr"):
        run(out.removesuffix("/attributions"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store with one field."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out, fields=("value",))
    return out


def test_a_store_is_made_in_such_an_order_that_any_part_of_it_can_be_told(
    tmp_path: pathlib.Path, whole: pathlib.Path
) -> None:
    out, attributes = tmp_path / "out", _creation.found(os.fspath(whole))
    assert attributes is not None
    assert _creation.begin(os.fspath(out), attributes)
    assert [path.name for path in out.rglob("*")] == ["zarr.json"]
    _creation.complete(os.fspath(out), attributes)
    made = sorted(out.glob("*/zarr.json"), key=lambda path: path.stat().st_mtime_ns)
    assert tuple(path.parent.name for path in made) == ARRAYS


@pytest.mark.parametrize("made", range(-2, len(ARRAYS) + 1))
@pytest.mark.parametrize("torn", [False, True])
def test_a_run_that_is_killed_while_it_makes_a_store_is_gone_on_with(
    tmp_path: pathlib.Path, whole: pathlib.Path, made: int, torn: bool
) -> None:
    files = ["zarr.json", *(f"{name}/zarr.json" for name in ARRAYS)]
    there = files[: max(0, made + 1)]
    for file in there:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(whole / file, tmp_path / file)
    if torn and len(there) < len(files):  # files are written under another name first
        partly = tmp_path / f"{files[len(there)]}_95faf6140555c976.__lock"
        partly.parent.mkdir(exist_ok=True)
        partly.write_text("{")
    before = tree(tmp_path)
    if there:
        with pytest.raises(FileExistsError, match="holds attributions already"):
            run(tmp_path, fields=("value",), resume=False)
        with pytest.raises(ValueError, match="other fields"):
            run(tmp_path)
    assert tree(tmp_path) == before
    assert run(tmp_path, fields=("value",), resume=bool(there)).new == 4
    assert {k: v for k, v in tree(tmp_path).items() if "__lock" not in k} == tree(whole)


def test_a_store_whose_arrays_are_damaged_is_refused(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    (tmp_path / "value" / "zarr.json").unlink()
    (tmp_path / "error" / "zarr.json").write_text("")
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"is damaged: .*(value|error)/zarr.json.* from a copy"):
        run(tmp_path)
    assert tree(tmp_path) == before


def test_what_is_gone_since_is_made_anew_by_the_same_process(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        assert run(tmp_path / "out").new == 4
        shutil.rmtree(tmp_path / "out")


def test_of_two_runs_that_begin_at_once_one_goes_on_with_the_others(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _creation.check_empty

    def meanwhile(out: str) -> None:
        original(out)
        monkeypatch.undo()
        run(out, batch_size=2)

    monkeypatch.setattr(_creation, "check_empty", meanwhile)
    assert run(tmp_path / "a").new == 0
    assert json.loads((tmp_path / "a" / "zarr.json").read_text())["attributes"]["batch_size"] == 2
    monkeypatch.setattr(_creation, "check_empty", meanwhile)
    with pytest.raises(FileExistsError, match="holds attributions already"):
        run(tmp_path / "b", resume=False)
    monkeypatch.setattr(_creation, "check_empty", meanwhile)
    with pytest.raises(ValueError, match="other fields"):
        run(tmp_path / "c", fields=("value",))


NAMES = {
    "name": "name",
    "petal length": "petal%20length",
    "/../../victim": "%2F%2E%2E%2F%2E%2E%2Fvictim",
    "..": "%2E%2E",
    ".": "%2E",
    "": "~",
    "~": "%7E",
    "a/b": "a%2Fb",
    "a\\b": "a%5Cb",
    "a.b": "a%2Eb",
    "a%2Eb": "a%252Eb",
    "a": "a~1",  # capitals come first
    "A": "A",
    "a~1": "a%7E1",
    "\0": "%00",
    "\n": "%0A",
    "größe": "gr%C3%B6%C3%9Fe",
    "\udc80": "%ED%B2%80",
    "x" * 300: "x" * 115,
    "x" * 301: "x" * 115 + "~1",
    "x/../" * 60: ("x%2F%2E%2E%2F" * 60)[:115],
}


def test_no_key_leads_out_of_the_store_and_no_two_to_one_array(tmp_path: pathlib.Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "zarr.json").write_text("mine")
    xs: dict[str, Any] = {key: XS + np.float32(i) for i, key in enumerate(NAMES)}
    nested = {**xs, "a.": {"b": XS}, "c": {"b": [XS - 1]}}
    run(tmp_path / "out", nested, fields=("attributions",))
    assert tree(tmp_path / "victim") == {"zarr.json": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "victim"]
    expected = {f"attributions.{name}": xs[key] for key, name in NAMES.items()}
    expected |= {"attributions.a%2E.b": XS, "attributions.c.b.0": XS - 1}
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {*expected, *BOOKKEEPING}
    assert len({name.lower() for name in folders}) == len(folders)
    group = zarr.open_group(tmp_path / "out", mode="r")
    for name, x in expected.items():
        np.testing.assert_allclose(np.asarray(group[name][...]), x**2, rtol=1e-5)  # type: ignore[index]
    with xarray.open_zarr(tmp_path / "out", consolidated=False) as dataset:
        assert expected.keys() <= set(dataset.data_vars)


def test_leaves_whose_keys_differ_in_case_alone_or_not_at_all(tmp_path: pathlib.Path) -> None:
    @jax.tree_util.register_pytree_with_keys_class
    class Twins:
        def __init__(self, *leaves: Any):
            self.leaves = leaves

        def tree_flatten_with_keys(self) -> Any:
            keys = map(jax.tree_util.GetAttrKey, ("w", "W", "w"))
            return tuple(zip(keys, self.leaves, strict=True)), None

        @classmethod
        def tree_unflatten(cls, _: None, leaves: Any) -> "Twins":
            return cls(*leaves)

    run(tmp_path, (Twins(XS, 2 * XS, 3 * XS),))
    group = zarr.open_group(tmp_path, mode="r")
    for scale, name in enumerate(("w", "W~1", "w~2"), start=1):
        found = np.asarray(group[f"attributions.{name}"][...])  # type: ignore[index]
        np.testing.assert_allclose(found, (scale * XS) ** 2, rtol=1e-5)
