"""Strings that come from data, files and errors: they stay what they are, and where they belong."""

import pathlib
import sys
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import igjax
from igjax._cli import command
from igjax.dataset import attribute_dataset

pytestmark = pytest.mark.slow

XS = np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3)
STRINGS = [
    "\x1b[2J\x1b[31m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\rb",
    "a\nb\n\nc",
    "\u202egpj.exe",
    "\u2028",
    "\ud800",
    "%s %(x)s {0} {x}",
    "[bold]x[/bold]",
    "[/]",
    "[link=file:///etc]x",
    "../../victim",
    "/victim",
    "..",
    ".",
    "~",
    "",
    " ",
    "a.b",
    "a/b",
    "c",
    "zarr.json",
    "status",
    "NUL",
    "é",
    "e\u0301",
    "x" * 400,
]


def score(x):
    return jnp.sum(jnp.sin(x)) * x[0]


ATTRIBUTION = igjax.integrated_grad(score, rule=igjax.quadrature.gregory(4))


def test_keys_become_arrays_of_their_own(tmp_path):
    out = tmp_path / "outer" / "out"
    data = {key: XS + number for number, key in enumerate(STRINGS)}

    def total(x):
        return sum(number * score(x[key]) for number, key in enumerate(STRINGS))

    attribution = igjax.integrated_grad(total, rule=igjax.quadrature.gregory(4))
    attribute_dataset(attribution, data, out=out, batch_size=4, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["outer"]
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["out"]
    group = zarr.open_group(out, mode="r")
    arrays = {name: np.asarray(group[name]) for name in group if name.startswith("attributions")}
    assert len(arrays) == len(STRINGS)
    # Which is whose shows in its numbers: no two are alike.
    for number, key in enumerate(STRINGS):
        expected = number * np.stack([ATTRIBUTION(jnp.asarray(x)) for x in data[key]])
        assert sum(np.allclose(array, expected, rtol=1e-4) for array in arrays.values()) == 1


class Refusing:
    """A source each of whose examples can't be read, for a reason; but the first."""

    def __len__(self):
        return len(STRINGS) + 1

    def __getitem__(self, index):
        if index:
            raise RuntimeError(STRINGS[index - 1])
        return XS[0]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command in a folder with a module to import; gives its code and all it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["igjax", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            command()
        written = capsys.readouterr()
        return exit_info.value.code or 0, written.out + written.err

    return call


def assert_plain(text: str) -> None:
    """Asserts that a terminal takes a text for no more than text."""
    for character in text:
        known = character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        assert known, repr(character)
    for line in STRINGS[:6]:
        assert line not in text


def test_reasons_are_told_as_text(run, tmp_path):
    what = ["my_module:score", "--data", "my_module:Refusing", "--out", tmp_path / "out"]
    code, written = run("attribute", *what, "--nodes", 4, "--batch-size", 1)
    assert code == 1, written
    assert_plain(written)
    code, written = run("inspect", tmp_path / "out", "--failures", 100)
    assert code == 0, written
    assert_plain(written)
    code, written = run("inspect", tmp_path / "out", "--failures", 100, "--json")
    assert code == 0, written
    assert_plain(written)


@pytest.mark.parametrize("name", [name for name in STRINGS if len(name) < 256])
def test_paths_are_taken_as_they_are_or_refused(run, tmp_path, name):
    inside = tmp_path / "in"
    inside.mkdir()
    out = f"{inside}/{name}/out"
    code, written = run("inspect", out)
    assert code == 2
    assert_plain(written)
    if name == "\ud800" or ".." in name:
        return
    attribute_dataset(ATTRIBUTION, XS, out=out, batch_size=4, progress=False)
    assert (pathlib.Path(out) / "zarr.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
