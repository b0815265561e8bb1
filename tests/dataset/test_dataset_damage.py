"""Stores that are not what was written: damaged, mixed up, or of examples that have changed."""

import collections
import datetime
import decimal
import functools
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from jax.sharding import Mesh

import igjax
from igjax.dataset import _creation, _kvstore, _unchanged, attribute_dataset
from igjax.dataset._blocks import Blocks
from igjax.dataset._callbacks import told
from igjax.dataset._rowhash import row_hashes
from igjax.dataset._store import Store
from igjax.quadrature import gauss_legendre

XS = np.linspace(0.5, 2.0, 80, dtype=np.float32).reshape(40, 2)  # blocks of three examples
ATTRIBUTION = igjax.integrated_grad(lambda x: jnp.sum(x**2), rule=gauss_legendre(2))
ONE = Mesh(np.array(jax.devices()[:1]), ("example",))


def run(out: Any, source: Any = XS, attribution: Any = ATTRIBUTION) -> tuple[int, int, int]:
    """Returns how many are done, how many have failed, and how many of them now."""
    summary = attribute_dataset(
        attribution, source, out=out, batch_size=4, mesh=ONE, progress=False
    )
    return summary.done, summary.failed, summary.new


def stream(xs: np.ndarray = XS) -> Iterator[np.ndarray]:
    yield from xs


def assert_right(out: Any, xs: np.ndarray = XS) -> None:
    stored = np.asarray(zarr.open_group(out, mode="r")["attributions"][...])  # type: ignore[index]
    np.testing.assert_allclose(stored, xs**2, rtol=1e-5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """Stores that are done, to be copied."""
    home = tmp_path_factory.mktemp("made")
    run(home / "arrays")
    run(home / "stream", stream())
    run(home / "others", XS + 1)
    run(home / "by another", attribution=igjax.integrated_grad(jnp.prod, rule=gauss_legendre(2)))
    return lambda name: home / name


@pytest.fixture
def store(tmp_path: pathlib.Path, made: Callable[[str], pathlib.Path]) -> pathlib.Path:
    """One of arrays, for a test to damage."""
    return pathlib.Path(shutil.copytree(made("arrays"), tmp_path / "out"))


def chunk(store: pathlib.Path, name: str, number: int) -> pathlib.Path:
    path = store / name / "c" / str(number)
    return path / "0" if name in ("attributions", "failure") else path


def exchange(one: pathlib.Path, other: pathlib.Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


ALL = ("attributions", "failure", "fingerprint", "made_with", "checksum", "status")


@pytest.mark.parametrize("names", [("attributions",), ("fingerprint",), ("checksum",), ALL])
def test_blocks_that_have_changed_places_are_done_again(
    store: pathlib.Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for name in names:
        exchange(chunk(store, name, 1), chunk(store, name, 5))
    assert run(store) == (40, 0, 6)
    assert [f"block {n} is damaged" in caplog.text for n in (1, 5, 2)] == [True, True, False]
    assert_right(store)
    assert run(store) == (40, 0, 0)


@pytest.mark.parametrize("other", ["others", "by another"])
@pytest.mark.parametrize("names", [("attributions",), ALL])
def test_blocks_of_another_store_are_done_again(
    store: pathlib.Path,
    made: Callable[[str], pathlib.Path],
    other: str,
    names: tuple[str, ...],
) -> None:
    for name in names:
        shutil.copy(chunk(made(other), name, 2), chunk(store, name, 2))
    if other == "others" and names == ALL:  # whole, of the same attribution
        with pytest.raises(ValueError, match="made with other data: example 6 has changed"):
            run(store)
    else:
        assert run(store) == (40, 0, 3)
        assert_right(store)


@pytest.mark.parametrize("number", [0, 13])  # the last one has one example
@pytest.mark.parametrize("name", ALL)
def test_any_damaged_chunk_is_done_again(store: pathlib.Path, name: str, number: int) -> None:
    chunk(store, name, number).write_bytes(b"x" * 30)
    assert run(store)[2] == (1 if number else 3)
    assert run(store) == (40, 0, 0)
    assert_right(store)


@pytest.mark.parametrize("name", ["attributions", "status"])
def test_of_a_stream_that_has_ended_too(
    tmp_path: pathlib.Path, made: Callable[[str], pathlib.Path], name: str
) -> None:
    out = shutil.copytree(made("stream"), tmp_path / "out")
    chunk(out, name, 0).write_bytes(b"x" * 30)
    assert run(out, stream()) == (40, 0, 40)
    assert run(out, stream()) == (40, 0, 0)
    assert_right(out)


@pytest.mark.parametrize(
    ("xs", "message", "damaged"),
    [
        (np.concatenate([XS, XS[:1]]), "source gives more than 40 examples, and gave 40", False),
        (np.concatenate([XS, XS[:1]]), "source gives more than 40 examples, and gave 40", True),
        (XS[:39], "source gives 39 examples, and gave 40", False),
        (XS[:39], "source gives 39 examples, and gave 40", True),
        (np.concatenate([XS[:30], 2 * XS[30:]]), "example 30 has changed since", False),
    ],
)
def test_a_stream_that_gives_others_is_refused(
    tmp_path: pathlib.Path,
    made: Callable[[str], pathlib.Path],
    xs: np.ndarray,
    message: str,
    damaged: bool,
) -> None:
    out = shutil.copytree(made("stream"), tmp_path / "out")
    if damaged:
        chunk(out, "attributions", 0).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"was made with other data: .*{message}"):
        run(out, stream(xs))


class Sequence:
    """Examples that are read one by one."""

    def __init__(self, xs: np.ndarray):
        self._xs = xs

    def __len__(self) -> int:
        return len(self._xs)

    def __getitem__(self, number: int) -> Any:
        return self._xs[number]


SOURCES: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda xs: xs,
    "zarr": zarr.array,
    "list": list,
    "sequence": Sequence,
    "stream": stream,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_two_examples_that_have_changed_places_are_seen(
    tmp_path: pathlib.Path, made: Callable[[str], pathlib.Path], kind: str
) -> None:
    out = shutil.copytree(made("stream" if kind == "stream" else "arrays"), tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    xs = XS.copy()
    xs[[21, 22]] = xs[[22, 21]]
    with pytest.raises(ValueError, match="example 21 has changed since"):
        run(out, SOURCES[kind](xs))
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(out, SOURCES[kind](XS)) == (40, 0, 0)


def test_where_reading_takes_long_some_examples_are_compared(
    store: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_unchanged, "_SECONDS", -1.0)
    monkeypatch.setattr(_unchanged, "_SAMPLE", 4)
    for changed, seen in ((20, True), (21, False)):
        xs = XS.copy()
        xs[changed] += 1
        if seen:
            with pytest.raises(ValueError, match="example 20 has changed"):
                run(store, Sequence(xs))
        else:
            assert run(store, Sequence(xs)) == (40, 0, 0)


def test_what_is_not_done_may_change(store: pathlib.Path) -> None:
    chunk(store, "status", 4).unlink()
    xs = XS.copy()
    xs[13] += 1
    assert run(store, xs) == (40, 0, 3)
    assert_right(store, xs)


@pytest.mark.parametrize("name", ALL)
def test_what_lies_where_results_are_to_be_written_is_told(store: pathlib.Path, name: str) -> None:
    place = chunk(store, name, 3)
    place.unlink()
    place.mkdir()
    (place / "mine").touch()
    with pytest.raises(FileExistsError, match=r"lies where results are .*nothing is deleted"):
        run(store)
    assert (place / "mine").exists()
    shutil.rmtree(place)
    assert run(store) == (40, 0, 3)
    assert_right(store)


def edit(file: pathlib.Path, *keys: Any, value: Any) -> None:
    """Writes another value into a JSON file; ``...`` for none."""
    whole = part = json.loads(file.read_text())
    for key in keys[:-1]:
        part = part[key]
    if value is ...:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    file.write_text(json.dumps(whole))


HUGE = 10**14
ATTRIBUTES: list[tuple[str, list[Any]]] = [
    ("length", ["x", -1, 0, 2.5, True, HUGE, [40]]),
    ("block", ["a", 0, -1, None, HUGE, 4097]),
    ("batch_size", [0, "a", ..., HUGE, 2**20 + 1]),
    ("chunks_per_program", [0, ..., 2**20 + 1]),
    ("buckets", [..., None, 4]),
    ("ragged", [..., "mask", {}]),
    ("fields", [None, [], {}, ["attributions"], "abc", {"../x": {"dtype": "int8", "shape": []}}]),
    ("fields", [{"a": {"dtype": d, "shape": s}} for d, s in (("O", []), ("int8", [-1]))]),
    ("fields", [{"a": {"dtype": ["float32"], "shape": []}}]),
    ("fields", [{"a": {"dtype": "int8", "shape": [HUGE, HUGE]}}, {"a": None}, {"status": {}}]),
    ("arguments", [3]),
    ("attribution", ["x", ..., {}, {"name": 3}]),
    ("parts", [[]]),
    ("made_with", [..., [], [3], {}, [{"versions": {}, "device": 1, "matmul_precision": None}]]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ATTRIBUTES for value in values]
)
def test_attributes_that_cannot_be_are_told(store: pathlib.Path, name: str, value: Any) -> None:
    edit(store / "zarr.json", "attributes", name, value=value)
    with pytest.raises(FileExistsError, match=f"zarr.json that is damaged: {name} "):
        _creation.to_read(str(store))


@pytest.mark.parametrize(("key", "value"), [("zarr_format", 2), ("node_type", "array")])
def test_so_is_another_kind_of_group(store: pathlib.Path, key: str, value: Any) -> None:
    edit(store / "zarr.json", key, value=value)
    with pytest.raises(FileExistsError, match="it is not that of a Zarr v3 group"):
        _creation.to_read(str(store))


GRID = "chunk_grid", "configuration", "chunk_shape", 0


@pytest.mark.parametrize("name", ["attributions", "status"])
@pytest.mark.parametrize(
    ("keys", "value"),
    [(("shape", 0), HUGE), (GRID, HUGE), (GRID, 2), (("shape",), None), (("data_type",), "int64")],
)
def test_arrays_that_contradict_them_are_told(
    store: pathlib.Path, name: str, keys: tuple[Any, ...], value: Any
) -> None:
    edit(store / name / "zarr.json", *keys, value=value)
    with pytest.raises(ValueError, match=f"is damaged: {name}/zarr.json has {keys[0]}"):
        _creation.to_read(str(store))


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, None])
def test_arrays_whose_metadata_cannot_be_read_are_told(
    store: pathlib.Path, text: str | None
) -> None:
    file = store / "attributions" / "zarr.json"
    file.write_text(file.read_text() + "more" if text is None else text)
    with pytest.raises(ValueError, match=r"attributions/zarr\.json is no JSON"):
        _creation.to_read(str(store))


@pytest.mark.parametrize(("name", "value"), [("length", 39), ("length", None), ("block", 2)])
def test_attributes_that_others_contradict_are_told(
    store: pathlib.Path, name: str, value: Any
) -> None:
    edit(store / "zarr.json", "attributes", name, value=value)
    with pytest.raises(ValueError, match=r"was made with other data|is damaged"):
        run(store)


def test_of_a_stream_that_goes_on_the_arrays_say_nothing(
    tmp_path: pathlib.Path, made: Callable[[str], pathlib.Path]
) -> None:
    out = shutil.copytree(made("stream"), tmp_path / "out")
    edit(out / "zarr.json", "attributes", "length", value=None)
    for name in ALL:
        edit(out / name / "zarr.json", "shape", 0, value=HUGE)
    store = _creation.to_read(str(out))
    assert store.length == store.block
    assert np.count_nonzero(store.whole("status")) == 40


def test_a_store_says_what_made_which_example(
    store: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(store / "zarr.json", "attributes", "made_with", 0, "versions", "jax", value="0.0.1")
    edit(store / "zarr.json", "attributes", "made_with", 0, "device", value="abacus")
    before = (store / "zarr.json").read_bytes()
    assert run(store) == (40, 0, 0)
    chunk(store, "status", 4).unlink()
    with pytest.raises(ValueError, match="example 0 has changed"):
        run(store, XS + 1)
    assert (store / "zarr.json").read_bytes() == before and not caplog.text
    assert run(store) == (40, 0, 3)
    assert f"jax 0.0.1 then, {jax.__version__} now, device abacus then" in caplog.text
    group = zarr.open_group(store, mode="r")
    before, now = group.attrs["made_with"]  # type: ignore[union-attr]
    assert (before["device"], now["device"]) == ("abacus", jax.devices()[0].device_kind)  # type: ignore[index,call-overload]
    stored = np.asarray(group["made_with"][...])  # type: ignore[index]
    assert np.flatnonzero(stored).tolist() == [12, 13, 14]
    edit(store / "zarr.json", "attributes", "made_with", value=[now, before])
    chunk(store, "status", 4).unlink()
    assert run(store) == (40, 0, 3)
    group = zarr.open_group(store, mode="r")
    assert len(group.attrs["made_with"]) == 2  # type: ignore[arg-type]
    assert not np.asarray(group["made_with"][12:15]).any()  # type: ignore[index]


def test_of_those_that_begin_a_store_at_once_one_does(tmp_path: pathlib.Path) -> None:
    attempts, begun = 20, list[bool]()
    barrier = threading.Barrier(4)

    def begin(number: int) -> None:
        for attempt in range(attempts):
            barrier.wait()
            text = f"{number}".encode() * 1000
            begun.append(_kvstore.create(str(tmp_path / f"{attempt}"), "zarr.json", text))

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(begun) == attempts
    for attempt in range(attempts):
        (file,) = (tmp_path / f"{attempt}").iterdir()  # and nothing beside it
        assert len(set(file.read_bytes())) == 1


def test_where_files_have_one_name_a_store_has_one_owner_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", link)
    created = [_kvstore.create(str(tmp_path), "zarr.json", text) for text in (b"a", b"b")]
    assert created == [True, False]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a"]


def called_back(function: Callable[..., Any]) -> Callable[..., Any]:
    like = jax.ShapeDtypeStruct((2,), np.float32)
    return lambda x: jax.pure_callback(function, like, x, vmap_method="sequential")


def times(factor: Any) -> Callable[..., Any]:
    return lambda x: x * factor


def test_another_function_that_is_called_back_is_another_attribution(
    tmp_path: pathlib.Path,
) -> None:
    run(tmp_path, attribution=called_back(times(np.float32(2))))
    assert run(tmp_path, attribution=called_back(times(np.float32(2)))) == (40, 0, 0)
    with pytest.raises(ValueError, match="another attribution"):
        run(tmp_path, attribution=called_back(times(np.float32(3))))


class Model:
    def __init__(self, *weights: Any):
        self.weights = {"layers": weights}
        self.itself = self

    def __call__(self, x: Any) -> Any:
        return x * OFFSET


OFFSET = 1.0


def test_what_a_function_reads_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [told(times(Model(np.ones(3), k))) for k in (1, 2, 1)]
    assert here[0] == here[2] != here[1]
    assert told(Model(np.ones(3)).__call__) != told(Model(np.zeros(3)).__call__)
    assert told(lambda x: x + 1) != told(lambda x: x + 2)
    assert told(lambda x, by=1: x) != told(lambda x, by=2: x)
    assert told(np.sin) == told(np.sin) != told(np.cos)
    before = told(read_global)
    monkeypatch.setitem(globals(), "OFFSET", 2.0)
    assert told(read_global) != before


def own_call(by: int) -> Any:
    """An instance of a class that is the same in all but its code, in a helper's."""

    class Called:
        def __call__(self, x: Any) -> Any:
            return self.helped(x)

        if by == 2:

            def helped(self, x: Any) -> Any:
                return x * 2

        else:

            def helped(self, x: Any) -> Any:
                return x * 3

    return Called()


HELD: dict[str, Callable[[int], Any]] = {
    "code": own_call,
    "a method": lambda by: own_call(by).__call__,
    "a class": lambda by: type(own_call(by)),
    "a constant of a class": lambda by: type("Constant", (), {"_by": by})(),
    "a decimal": decimal.Decimal,
    "a range": range,
    "bytes": lambda by: bytearray(b"a" * by),
    "a date": lambda by: datetime.date(2020, 1, by),
    "a queue": lambda by: collections.deque([by]),
    "a set": lambda by: {Model(1), Model(by)},
    "a wrapped one": lambda by: functools.lru_cache(times(by)),
}


@pytest.mark.parametrize("name", HELD)
def test_what_objects_hold_is_part_of_a_function(name: str) -> None:
    found = [told(times(HELD[name](by))) for by in (2, 3, 2)]
    assert found[0] == found[2] != found[1]


def test_what_a_function_counts_is_not_part_of_it() -> None:
    begun = 0
    random = np.random.default_rng(0)

    def counted(x: Any) -> Any:
        nonlocal begun
        global CALLS  # noqa: PLW0603
        begun += 1
        CALLS += 1
        return x + random.normal()

    before = told(counted)
    counted(1.0)
    assert told(counted) == before


CALLS = 0


def read_global(x: Any) -> Any:
    return read_more(x)


def read_more(x: Any) -> Any:
    return x + OFFSET


def test_hashes_of_rows_are_of_every_bit_and_of_shape_and_dtype() -> None:
    rows = np.arange(6, dtype=np.int16).reshape(3, 2)
    found = row_hashes([rows, rows[:, :0], rows[:, 0] > 2])
    assert len(np.unique(found)) == 3 and found.dtype == np.uint64
    again = row_hashes([np.asfortranarray(rows), rows[:, :0], rows[:, 0] > 2])
    np.testing.assert_array_equal(found, again)
    others = [row_hashes([rows.view(np.uint16)]), row_hashes([rows[:, None]])]
    others += [row_hashes([rows], b"key"), row_hashes([rows])]
    assert len(np.unique(others)) == 12
    assert row_hashes([rows[:0]]).shape == (0,)


def test_of_large_examples_few_are_compared_at_once(
    store: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_unchanged, "CHUNK", XS[0].nbytes * 3)
    asked: list[int] = []

    class Rows:
        shape, dtype = XS.shape, XS.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            asked.append(rows.stop - rows.start)
            return XS[rows]

    assert run(store, Rows()) == (40, 0, 0)
    assert sum(asked) >= 40 and max(asked) == 3


def test_a_stream_is_measured_when_all_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, resize, put, events = Store.write, Store.resize, Blocks.put, list[str]()

    def slowly(self: Store, *args: Any) -> None:
        events.append("begun")
        time.sleep(0.05)
        write(self, *args)
        events.append("written")

    def resized(self: Store, length: int) -> None:
        events.append("resized")
        resize(self, length)

    monkeypatch.setattr(Store, "write", slowly)
    monkeypatch.setattr(Store, "resize", resized)
    monkeypatch.setattr(Blocks, "put", lambda self, *args: (put(self, *args), self.flush()))
    run(tmp_path, stream())
    assert events[0] == events[-1] == "resized"
    assert events.count("begun") == events.count("written") > 0
    assert_right(tmp_path)
