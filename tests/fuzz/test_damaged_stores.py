"""Damage to every kind of file of a store: what is read then is right, or refused by igjax.

Each case damages one file of a finished store and tells of it, goes on with it, and compares all
that is there then, bit by bit. The cases are drawn by a fixed seed.
"""

import json
import pathlib
import random
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import igjax
from igjax._cli._facts import facts
from igjax.dataset import _creation, attribute_dataset

pytestmark = pytest.mark.slow

XS = np.linspace(-1, 2, 60, dtype=np.float32).reshape(20, 3)
REFUSALS = (ValueError, FileExistsError, OSError)


def score(x):
    return jnp.sum(jnp.sin(x)) * x[0]


def attribute(out: pathlib.Path) -> None:
    attribution = igjax.integrated_grad(score, rule=igjax.quadrature.gregory(4), has_report=True)
    attribute_dataset(attribution, XS, out=out, batch_size=1, progress=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished store of several blocks."""
    out = tmp_path_factory.mktemp("undisturbed")
    attribute(out)
    assert zarr.open_group(out, mode="r").attrs["block"] < len(XS)
    return out


def contents(out: pathlib.Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(out, mode="r")
    return {name: np.asarray(array) for name, array in group.arrays()}


# Damage: from a file, another of its kind, and a source of chance.


def removed(file, other, chance):
    file.unlink()


def emptied(file, other, chance):
    file.write_bytes(b"")


def cut_off(file, other, chance):
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def with_more_after_it(file, other, chance):
    file.write_bytes(file.read_bytes() + b" }\0")


def with_a_bit_flipped(file, other, chance):
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def replaced_by_noise(file, other, chance):
    file.write_bytes(chance.randbytes(200))


def replaced_by_a_folder(file, other, chance):
    file.unlink()
    file.mkdir()


def exchanged(file, other, chance):
    mine, its = file.read_bytes(), other.read_bytes()
    file.write_bytes(its)
    other.write_bytes(mine)


def with_a_number_of_1e14(file, other, chance):
    """One of the numbers of metadata; a chunk has none."""
    if file.name != "zarr.json":
        return
    numbers = []

    def collect(value, set_it):
        if isinstance(value, dict):
            for key in value:
                collect(value[key], lambda new, key=key: value.__setitem__(key, new))
        elif isinstance(value, list):
            for place in range(len(value)):
                collect(value[place], lambda new, place=place: value.__setitem__(place, new))
        elif isinstance(value, int) and not isinstance(value, bool):
            numbers.append(set_it)

    data = json.loads(file.read_text())
    collect(data, lambda new: None)
    chance.choice(numbers)(10**14)
    file.write_text(json.dumps(data))


DAMAGES: list[Callable[..., None]] = [
    removed,
    emptied,
    cut_off,
    with_more_after_it,
    with_a_bit_flipped,
    replaced_by_noise,
    replaced_by_a_folder,
    exchanged,
    with_a_number_of_1e14,
]


def kinds(out: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The files of a store, by what they are."""
    found = {"group": [out / "zarr.json"], "array": [], "chunk": []}
    for file in sorted(out.rglob("*")):
        if file.is_file() and file != out / "zarr.json":
            found["array" if file.name == "zarr.json" else "chunk"].append(file)
    return found


@pytest.mark.parametrize("kind", ["group", "array", "chunk"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_mended_or_refused(undisturbed, tmp_path, kind, damage):
    expected = contents(undisturbed)
    for number in range(1 if kind == "group" else 3):
        chance = random.Random(f"{kind} {damage.__name__} {number}")
        out = tmp_path / str(number)
        shutil.copytree(undisturbed, out)
        files = kinds(out)[kind]
        file = chance.choice(files)
        others = [other for other in files if other != file]
        # Of its own array, if there is one: of another its size would tell.
        near = [other for other in others if other.parts[:-2] == file.parts[:-2]]
        if damage is exchanged and not others:
            continue
        damage(file, chance.choice(near or others or files), chance)
        refusal = None
        try:
            json.dumps(facts(_creation.to_read(str(out)), 10))
            attribute(out)
        except REFUSALS as error:
            refusal = str(error)
        if refusal is not None:
            assert str(out) in refusal
            continue
        found = contents(out)
        assert found.keys() >= expected.keys()
        for name, array in expected.items():
            assert np.array_equal(found[name], array), (file, name)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """One device, for programs that are compiled fast."""
    with jax.default_device(jax.devices()[0]):
        yield
