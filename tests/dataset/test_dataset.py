import functools
import itertools
import logging
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from slowly import all_slow_but

import igjax
from igjax import baselines, paths
from igjax.dataset import FIELDS, _attribute, attribute_dataset
from igjax.dataset._check import Check, Examples, Given
from igjax.dataset._compiler import Compiler, Tile
from igjax.dataset._fingerprint import of_function
from igjax.dataset._format import BOOKKEEPING
from igjax.dataset._method import Method
from igjax.dataset._programs import Programs
from igjax.dataset._source import Refused, Rows, as_source
from igjax.dataset._tuning import Trial, Tuning
from igjax.quadrature import gauss_legendre, gregory, to_tolerance

RNG = np.random.default_rng(0)
W1, W2, W3 = (
    jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[0]) * scale, jnp.float32)
    for shape, scale in [((6, 32), 2.0), ((32, 32), 3.0), ((32, 3), 3.0)]
)
XS = RNG.normal(size=(150, 6)).astype(np.float32)
LABELS = (np.arange(150) % 3).astype(np.int32)
RULE = to_tolerance(1e-3)
QUICK = gregory(16)  # compiles fast, where the rule is not what is tested
ONE = Mesh(np.array(jax.devices()[:1]), ("example",))  # programs for it are compiled faster


def score(x: jax.Array, label: jax.Array) -> jax.Array:
    """Smooth, and of inputs that need from 16 to 64 gradients and more."""
    return jax.nn.softmax(jnp.tanh(jnp.tanh(x @ W1) @ W2) @ W3)[label]


def total(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(x @ W1))


# Several chunks in a program, although there are few examples, and however fast the machine.
TUNING = Tuning(long=1e6, few=0)
METHOD = ("argnums", "rule", "baseline", "path", "multiply_by_inputs", "nodes_at_once")


def run(fun: Callable[..., Any], source: Any, out: Any, **settings: Any) -> Any:
    """Attributes by the integrated gradients of a function, to a tolerance."""
    method = {name: settings.pop(name) for name in METHOD if name in settings}
    return run_any(attribution_of(fun, **method), source, out, **settings)


def attribution_of(fun: Callable[..., Any], nodes_at_once: int | None = None, **method: Any) -> Any:
    method = {"rule": QUICK, "has_report": True} | method
    return igjax.integrated_grad(fun, batch_size=nodes_at_once, **method)


def run_any(attribution: Callable[..., Any], source: Any, out: Any, **settings: Any) -> Any:
    settings = {"progress": False, "batch_size": 2, "mesh": ONE} | settings
    rest = {"resume": True, "fields": None, "buckets": (), "ragged": None, "on_error": "record"}
    return _attribute.run(attribution, source, out=out, **{"tuning": TUNING} | rest | settings)


def read(out: Any) -> dict[str, np.ndarray]:
    return {name: array[:] for name, array in zarr.open_group(out, mode="r").arrays()}


def reasons(out: Any) -> dict[int, str]:
    arrays = read(out)
    return {
        int(i): bytes(arrays["failure"][i]).rstrip(b"\0").decode()
        for i in np.flatnonzero(arrays["status"] == 2)
    }


def expected(fun: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    settings = {"rule": QUICK} | settings
    transformed = igjax.integrated_grad(fun, has_report=True, **settings)
    return jax.jit(jax.vmap(transformed))(*args)


def assert_like(out: Any, attributions: Any, report: Any) -> None:
    found = read(out)
    assert (found["status"] == 1).all()
    np.testing.assert_array_equal(found["num_evals"], report.num_evals)
    np.testing.assert_array_equal(found["converged"], report.converged)
    np.testing.assert_array_equal(found["reason"], report.reason)
    for name in ("value", "baseline_value", "completeness_gap", "error"):
        atol = 2e-6 * max(1.0, np.abs(report.value).max())
        # An error adds up differences of numbers that are rounded alike.
        rtol = 1e-2 if name == "error" else 1e-3
        np.testing.assert_allclose(found[name], getattr(report, name), rtol=rtol, atol=atol)
    sizes = np.abs(attributions).max(axis=1, keepdims=True)
    assert np.max(np.abs(found["attributions"] - attributions) / sizes) < 5e-6


@pytest.mark.versions
@pytest.mark.parametrize(
    ("nodes", "batch_size"), all_slow_but([(16, 4)], [(1, 1), (8, 1), (16, 1), (16, 4), (None, 6)])
)
def test_it_is_integrated_grad_of_each_example(
    tmp_path: pathlib.Path, nodes: int | None, batch_size: int
) -> None:
    summary = run(
        score, (XS, LABELS), tmp_path, rule=RULE, batch_size=batch_size, nodes_at_once=nodes
    )
    # The pilot, and with it the number of gradients, depends on the nodes at once.
    attributions, report = expected(score, XS, LABELS, rule=RULE, batch_size=nodes)
    assert_like(tmp_path, attributions, report)
    assert len(set(np.asarray(report.num_evals).tolist())) > 2
    assert summary.num_evals == np.sum(report.num_evals)
    assert (summary.examples, summary.done, summary.failed, summary.new) == (150, 150, 0, 150)


@pytest.mark.parametrize(("nodes", "batch_size"), [(10, 1), (None, 1), (None, 3), (64, 3)])
def test_fixed_rules(tmp_path: pathlib.Path, nodes: int | None, batch_size: int) -> None:
    rule = {"rule": gregory(64), "nodes_at_once": nodes}
    run(score, (XS, LABELS), tmp_path, batch_size=batch_size, **rule)
    assert_like(tmp_path, *expected(score, XS, LABELS, rule=gregory(64)))


def test_the_keywords_of_integrated_grad(tmp_path: pathlib.Path) -> None:
    settings: dict[str, Any] = {
        "rule": gauss_legendre(20),
        "baseline": baselines.constant(0.3),
        "path": paths.polyline(jnp.ones((1, 6)))
        if hasattr(paths, "polyline")
        else paths.straight_line,
        "multiply_by_inputs": False,
    }
    run(score, (XS[:20], LABELS[:20]), tmp_path, **settings)
    attributions, _ = expected(score, XS[:20], LABELS[:20], **settings)
    np.testing.assert_allclose(read(tmp_path)["attributions"], attributions, rtol=1e-4, atol=1e-6)
    assert np.isnan(read(tmp_path)["completeness_gap"]).all()


@pytest.mark.slow
def test_on_one_device_as_on_eight(tmp_path: pathlib.Path) -> None:
    xs = RNG.normal(size=(700, 6)).astype(np.float32)
    source = xs, (np.arange(700) % 3).astype(np.int32)
    run(score, source, tmp_path / "one", rule=RULE)
    single = read(tmp_path / "one")
    assert len(np.unique(single["num_evals"])) > 2
    assert zarr.open_group(tmp_path / "one", mode="r").attrs["chunks_per_program"] > 1
    for mesh in (None, jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        out = tmp_path / f"{mesh is None}"
        run(score, source, out, rule=RULE, mesh=mesh)
        eight = read(out)
        for name in ("attributions", "value", "num_evals"):
            np.testing.assert_allclose(eight[name], single[name], rtol=1e-5, atol=1e-7)


@pytest.mark.versions
def test_a_model_that_is_sharded(tmp_path: pathlib.Path) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    inner = jax.device_put(W1, NamedSharding(mesh, P(None, "model")))
    outer = jax.device_put(W2, NamedSharding(mesh, P("model", None)))

    def sharded(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jnp.tanh(x @ inner) @ outer))

    run(sharded, XS, tmp_path, rule=RULE, mesh=mesh)
    attributions, report = expected(
        lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ W1) @ W2)), XS, rule=RULE
    )
    assert_like(tmp_path, attributions, report)


class Sequence:
    """Examples, some of which can't be read, and an account of those that have been."""

    def __init__(self, bad: tuple[int, ...] = ()):
        self.bad, self.seen = bad, list[int]()

    def __len__(self) -> int:
        return len(XS)

    def __getitem__(self, index: int) -> Any:
        self.seen.append(index)
        if index in self.bad:
            raise RuntimeError(f"no example {index} today")
        return XS[index], LABELS[index]


def examples() -> Iterator[Any]:
    yield from zip(XS, LABELS, strict=True)


SOURCES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (XS, LABELS),
    "arrays of jax": lambda: (jnp.asarray(XS), jnp.asarray(LABELS)),
    "float64": lambda: (XS.astype(np.float64), LABELS.astype(np.int64)),
    "big-endian, and masked nowhere": lambda: (np.ma.array(XS.astype(">f4")), LABELS.astype(">i4")),
    "list": lambda: [(x, int(label)) for x, label in zip(XS, LABELS, strict=True)],
    "sequence": Sequence,
    "iterator": examples,
    "iterable": lambda: itertools.chain(
        [(XS[0], LABELS[0])], itertools.islice(examples(), 1, None)
    ),
    "grain.MapDataset": lambda: grain.MapDataset.source(Sequence()),
    "grain.IterDataset": lambda: grain.MapDataset.source(Sequence()).to_iter_dataset(),
    "zarr": lambda: (zarr.array(XS), zarr.array(LABELS)),
    "tensorstore": lambda: (tensorstore.array(XS), tensorstore.array(LABELS)),
}
STREAMS = ("iterator", "iterable", "grain.IterDataset")


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("attributed")
    run(score, (XS, LABELS), out)
    return read(out)


@pytest.mark.parametrize("name", SOURCES)
def test_sources(tmp_path: pathlib.Path, attributed: dict[str, np.ndarray], name: str) -> None:
    summary = run(score, SOURCES[name](), tmp_path)
    assert (summary.examples, summary.done) == (150, 150)
    found = read(tmp_path)
    assert found.keys() == attributed.keys()
    # Of a stream nobody knows the length: its programs are longer, and round otherwise.
    slack = {"rtol": 1e-5, "atol": 1e-6} if name in STREAMS else {"rtol": 0.0, "atol": 0.0}
    np.testing.assert_array_equal(found["fingerprint"], attributed["fingerprint"])
    for field in found.keys() - {"checksum"} if name in STREAMS else found:
        np.testing.assert_allclose(found[field], attributed[field], **slack)
    again = run(score, SOURCES[name](), tmp_path)
    assert (again.done, again.new) == (150, 0)


def test_pytrees_and_their_names(tmp_path: pathlib.Path) -> None:
    xs = {"a": XS[:, :2], "b": [XS[:, 2:], XS[:, 0]]}

    def fun(x: Any) -> jax.Array:
        return jnp.prod(x["a"]) * jnp.sum(x["b"][0] ** 2) * jnp.tanh(x["b"][1])

    run(fun, xs, tmp_path, rule=gauss_legendre(8))
    attributions, _ = expected(fun, xs, rule=gauss_legendre(8))
    found = read(tmp_path)
    for name, leaf in {
        "attributions.a": attributions["a"],
        "attributions.b.0": attributions["b"][0],
        "attributions.b.1": attributions["b"][1],
    }.items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision(tmp_path: pathlib.Path, dtype: Any) -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x) ** 2)

    xs = XS.astype(dtype)
    run(fun, xs, tmp_path, rule=gregory(16))
    attributions, _ = expected(fun, xs, rule=gregory(16))
    stored = read(tmp_path)["attributions"]
    assert stored.dtype == (np.float16 if dtype is np.float16 else np.float32)
    np.testing.assert_allclose(stored, attributions.astype(jnp.float32), rtol=2e-2, atol=1e-3)


def test_double_precision(tmp_path: pathlib.Path) -> None:
    with jax.enable_x64(True):

        def fun(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.exp(x))

        xs = XS[:20].astype(np.float64)
        run(fun, xs, tmp_path, rule=gauss_legendre(20))
        stored = read(tmp_path)["attributions"]
        assert stored.dtype == np.float64
        np.testing.assert_allclose(stored, np.expm1(xs), rtol=1e-12)


def test_ragged_examples_are_padded(tmp_path: pathlib.Path) -> None:
    lengths = [1 + 7 * i % 12 for i in range(60)]
    ragged = [(RNG.normal(size=(n, 6)).astype(np.float32), np.float32(n)) for n in lengths]

    def fun(x: jax.Array, weight: jax.Array, mask: jax.Array) -> jax.Array:
        return weight * jnp.sum(jnp.where(mask, jnp.sum(jnp.tanh(x @ W1), axis=1), 0.0)) ** 2

    too_long = np.ones((13, 6), np.float32), np.float32(1)
    summary = run(fun, [*ragged, too_long], tmp_path, buckets=np.array([12, 4, 8]))
    assert (summary.done, summary.failed) == (60, 1)
    assert reasons(tmp_path) == {60: "it has length 13, the largest bucket 12."}
    found = read(tmp_path)
    assert found["attributions"].shape == (61, 12, 6)
    np.testing.assert_array_equal(found["length"][:60], lengths)
    for i in (0, 5, 33):
        x, weight = ragged[i]
        truth = igjax.integrated_grad(fun, rule=QUICK)(x, weight, np.ones(len(x), bool))
        np.testing.assert_allclose(found["attributions"][i, : len(x)], truth, rtol=1e-3, atol=1e-4)
        assert not found["attributions"][i, len(x) :].any()


def test_bad_examples_are_recorded_and_the_others_done(
    tmp_path: pathlib.Path, attributed: dict[str, np.ndarray]
) -> None:
    given: list[Any] = [*zip(XS, LABELS, strict=True)]
    given[3] = np.full(6, np.nan, np.float32), LABELS[3]
    given[4] = XS[4, :5], LABELS[4]
    given[5] = XS[5]
    given[6] = XS[6], "cat"
    given[7] = XS[7].astype(np.int32), LABELS[7]
    given[8] = np.full(6, np.inf, np.float32), LABELS[8]
    given[9] = np.ma.masked_less(XS[9], 0.0), LABELS[9]
    given[10] = XS[10], jax.random.key(0)
    summary = run(score, given, tmp_path)
    assert (summary.examples, summary.done, summary.failed) == (150, 142, 8)
    found, why = read(tmp_path), reasons(tmp_path)
    assert why[3] == why[8] == "argument 0 is not finite."
    assert why[4] == "argument 0 has shape (5,), others have (6,)."
    assert "structure" in why[5]
    assert why[6] == "argument 1 is no array of numbers: its dtype is <U3."
    assert why[7] == "argument 0 has dtype int32, others have float32."
    assert why[9].startswith("ValueError: it has masked elements, which have no value.")
    assert why[10].startswith("TypeError: it has random keys, which are no numbers.")
    good = found["status"] == 1
    for field in ("attributions", "value", "num_evals"):
        np.testing.assert_array_equal(found[field][good], attributed[field][good])
    assert np.isnan(found["attributions"][3:11]).all()


def test_what_is_not_finite(tmp_path: pathlib.Path) -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sqrt(x)) + jnp.log(x[0] - 0.5)

    xs = np.full((5, 2), 1.0, np.float32)
    xs[2, 0] = 0.1  # a logarithm of a negative number
    summary = run(fun, xs, tmp_path, baseline=baselines.constant(0.7))
    assert summary.failed == 1
    assert reasons(tmp_path) == {2: "the function's value is not finite: nan."}
    run(lambda x: jnp.sum(x) + jnp.sqrt(x[0] * 0.0), xs, tmp_path / "gradient")
    assert set(reasons(tmp_path / "gradient").values()) == {"its attributions are not finite."}


class Damaged:
    """An array on disk, some rows of which can't be read."""

    shape, dtype = XS.shape, XS.dtype

    def __init__(self) -> None:
        self.reads = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads += 1
        if any(row in range(*rows.indices(len(XS))) for row in (0, 70)):
            raise OSError("damaged")
        return XS[rows]


def test_an_array_that_is_damaged(
    tmp_path: pathlib.Path, attributed: dict[str, np.ndarray]
) -> None:
    source = Damaged()
    assert run(score, (source, LABELS), tmp_path).failed == 2
    assert reasons(tmp_path) == {0: "OSError: damaged", 70: "OSError: damaged"}
    good = read(tmp_path)["status"] == 1
    np.testing.assert_array_equal(
        read(tmp_path)["attributions"][good], attributed["attributions"][good]
    )
    assert source.reads < len(XS)  # those beside the damaged ones one by one, the others together


def test_what_is_in_memory_is_read_and_checked_together(tmp_path: pathlib.Path) -> None:
    xs = XS.copy()
    xs[[2, 3, 149]] = np.nan
    summary = run(score, (xs, LABELS), tmp_path)
    assert (summary.done, summary.failed) == (147, 3)
    assert reasons(tmp_path) == dict.fromkeys((2, 3, 149), "argument 0 is not finite.")


def test_an_exception_in_the_source(tmp_path: pathlib.Path) -> None:
    class Leaving(Sequence):
        def __getitem__(self, index: int) -> Any:
            if index == 5:
                sys.exit("no more")
            if index == 6:
                raise GeneratorExit
            return super().__getitem__(index)

    summary = run(score, Leaving(bad=(0, 9)), tmp_path)
    assert (summary.done, summary.failed) == (146, 4)
    assert reasons(tmp_path) == {
        **{i: f"RuntimeError: no example {i} today" for i in (0, 9)},
        5: "SystemExit: no more",
        6: "GeneratorExit: ",
    }


def test_stopping_at_an_error_and_going_on(tmp_path: pathlib.Path) -> None:
    source = Sequence(bad=(140,))
    with pytest.raises(ValueError, match="example 140: RuntimeError: no example 140") as raised:
        run(score, source, tmp_path, on_error="raise")
    assert isinstance(raised.value.__cause__, RuntimeError)
    status = read(tmp_path)["status"]
    assert status[140] == 2 and np.sum(status == 1) > 60
    before, source.seen = len(source.seen), []
    summary = run(score, source, tmp_path, on_error="raise")
    assert summary.new == np.sum(status == 0)
    assert before > 140 and (read(tmp_path)["status"] > 0).all()


def test_a_generator_that_raises_is_not_at_its_end(tmp_path: pathlib.Path) -> None:
    def broken() -> Iterator[Any]:
        yield from itertools.islice(examples(), 100)
        raise OSError("the disk is gone")

    with pytest.raises(
        RuntimeError, match=r"broke off at example 100 \(OSError: the disk is gone\)"
    ):
        run(score, broken(), tmp_path)
    status = read(tmp_path)["status"]
    assert np.sum(status == 1) > 30
    summary = run(score, examples(), tmp_path)
    assert summary.done == 150
    assert (read(tmp_path)["status"] == 1).all()


def test_an_iterator_that_survives_its_errors(tmp_path: pathlib.Path) -> None:
    class Iterating:
        def __init__(self) -> None:
            self.next = -1

        def __iter__(self) -> "Iterating":
            return self

        def __next__(self) -> Any:
            self.next += 1
            if self.next == 150:
                raise StopIteration
            if self.next == 20:
                raise RuntimeError("a bad record")
            return XS[self.next], LABELS[self.next]

    summary = run(score, Iterating(), tmp_path)
    assert (summary.done, summary.failed) == (149, 1)
    assert reasons(tmp_path) == {20: "RuntimeError: a bad record"}


def test_what_is_done_is_not_done_again(
    tmp_path: pathlib.Path, attributed: dict[str, np.ndarray]
) -> None:
    class Interrupted(Sequence):
        def __getitem__(self, index: int) -> Any:
            if index == 121:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        run(score, Interrupted(), tmp_path)
    done = np.flatnonzero(read(tmp_path)["status"])
    assert 60 < len(done) < 150
    source = Sequence()
    run(score, source, tmp_path)
    assert source.seen[0] == 0  # which is looked at for its shape
    assert sorted(source.seen[1 : 1 + len(done)]) == sorted(done)  # compared with what it was
    assert sorted(source.seen[1 + len(done) :]) == sorted({*range(150)} - {*done.tolist()})
    for field, array in read(tmp_path).items():
        np.testing.assert_array_equal(array, attributed[field])


OTHERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "name": ("another attribution ", lambda: {"fun": total_of_both}),
    "function": ("with another function ", lambda: {"fun": named_score(lambda y: 2.0 * y)}),
    "parameters": ("with other parameters of the function ", lambda: {"fun": scaled(1.0 + 1e-7)}),
    "tolerance": ("with another rule ", lambda: {"rule": to_tolerance(0.02)}),
    "fixed rule": ("with another rule ", lambda: {"rule": gauss_legendre(16)}),
    "baseline": ("with another baseline ", lambda: {"baseline": baselines.constant(0.1)}),
    "path": (
        "by another path, or with other options ",
        lambda: {"path": lambda b, x, a: b + a**2 * (x - b)},
    ),
    "products": ("another attribution", lambda: {"multiply_by_inputs": False}),
    "fields": ("other fields", lambda: {"fields": ("value",)}),
    "buckets": ("other buckets", lambda: {"buckets": (6, 7), "fun": masked_score}),
    "data": ("other data", lambda: {"source": (XS + (np.arange(150) == 77)[:, None], LABELS)}),
    "shape": ("of other shapes", lambda: {"source": (XS[:, :5], LABELS), "fun": total_of_few}),
    "length": ("other data", lambda: {"source": (XS[:140], LABELS[:140])}),
}


def total_of_both(x: jax.Array, label: jax.Array) -> jax.Array:
    return total(x) * label.astype(x.dtype)


def total_of_few(x: jax.Array, label: jax.Array) -> jax.Array:
    return jnp.sum(x) * label.astype(x.dtype)


def named_score(change: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    changed = lambda x, label: change(score(x, label))
    changed.__name__ = "score"
    return changed


def masked_score(x: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    return score(jnp.where(mask, x, 0.0)[:6], label)


def scaled(factor: float) -> Callable[..., jax.Array]:
    weights = W1 * jnp.float32(factor)
    return lambda x, label: jnp.sum(jnp.tanh(x @ weights)) * label.astype(x.dtype)


@pytest.mark.parametrize("other", OTHERS)
def test_a_store_of_something_else_is_refused(tmp_path: pathlib.Path, other: str) -> None:
    settings: dict[str, Any] = {"fun": score, "source": (XS, LABELS), "out": tmp_path}
    if other == "parameters":
        settings["fun"] = scaled(1.0)
    if other == "buckets":
        settings |= {"fun": masked_score, "buckets": (6, 8)}
    run(**settings)
    before = read(tmp_path)
    message, change = OTHERS[other]
    with pytest.raises(ValueError, match=f"was made with .*{message}.*give another out"):
        run(**settings | change())
    for field, array in read(tmp_path).items():
        np.testing.assert_array_equal(array, before[field])


def test_resume_false(tmp_path: pathlib.Path) -> None:
    run(total, XS, tmp_path / "new", resume=False)
    with pytest.raises(FileExistsError, match="resume=True goes on with them"):
        run(total, XS, tmp_path / "new", resume=False)


@pytest.mark.versions
def test_zarr_and_xarray_read_it(tmp_path: pathlib.Path) -> None:
    run(score, (XS, LABELS), tmp_path)
    group = zarr.open_group(tmp_path, mode="r")
    assert group.metadata.zarr_format == 3
    assert group.attrs["attribution"]["name"] == "integrated_grad(score)"  # type: ignore[index,call-overload]
    (made,) = group.attrs["made_with"]  # type: ignore[union-attr]
    assert made["versions"]["jax"] == jax.__version__  # type: ignore[index,call-overload]
    assert {"batch_size", "length", "fields"} <= group.attrs.keys()
    array = group["attributions"]
    assert isinstance(array, zarr.Array)
    codecs = [type(codec).__name__ for codec in array.metadata.codecs]  # type: ignore[union-attr]
    assert codecs == ["BytesCodec", "ZstdCodec", "Crc32cCodec"]
    assert array.chunks == (10, 6)
    with xarray.open_zarr(tmp_path, consolidated=False) as dataset:
        assert dataset["attributions"].dims == ("example", "attributions_0")
        assert set(FIELDS) <= set(dataset.data_vars)


def test_fields(tmp_path: pathlib.Path) -> None:
    run(score, (XS, LABELS), tmp_path, fields=(name for name in ("error", "value")))
    assert read(tmp_path).keys() == {"error", "value", *BOOKKEEPING}


def test_no_more_at_once_than_there_are(tmp_path: pathlib.Path) -> None:
    assert run(total, XS[:20], tmp_path, batch_size=10**12, rule=gregory(8)).done == 20
    assert zarr.open_group(tmp_path, mode="r").attrs["batch_size"] == 20


def test_batch_size_auto_is_chosen_once(tmp_path: pathlib.Path) -> None:
    run(total, XS, tmp_path, batch_size="auto")
    chosen = zarr.open_group(tmp_path, mode="r").attrs["batch_size"]
    assert isinstance(chosen, int) and chosen >= 1
    run(total, XS, tmp_path, batch_size="auto")
    assert zarr.open_group(tmp_path, mode="r").attrs["batch_size"] == chosen


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has been compiled since."""
    calls = list[Any]()
    original = Compiler.compile

    def counted(self: Compiler, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Compiler, "compile", counted)
    return calls


def test_programs_run_full_and_are_compiled_once(
    tmp_path: pathlib.Path, compiled: list[Any]
) -> None:
    xs = RNG.normal(size=(600, 6)).astype(np.float32)
    labels = (np.arange(600) % 3).astype(np.int32)
    summary = run(score, (xs, labels), tmp_path, rule=RULE, batch_size=4)
    # To begin with a chunk, to see how long it takes; to begin, to finish, to go on, to admit.
    assert len(compiled) == 5
    assert summary.utilization > 0.95
    assert len(np.unique(read(tmp_path)["num_evals"])) > 2


def test_steps_are_taken_of_given_examples_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    original = Programs.step

    def looked_at(self: Programs, chunks: int, work: Any) -> Any:
        (_, labels), _ = work.given
        steps.append(bool(np.all(np.asarray(labels)[:chunks])))
        return original(self, chunks, work)

    monkeypatch.setattr(Programs, "step", looked_at)
    xs = RNG.normal(size=(650, 6)).astype(np.float32)
    labels = (1 + np.arange(650) % 2).astype(np.int32)  # none of them 0
    for mesh in (ONE, None):
        run(score, (xs, labels), tmp_path / f"{mesh is None}", rule=RULE, mesh=mesh)
    assert len(steps) > 4
    assert all(steps)


def trial_of(attribution: Callable[..., Any], given: Given, length: int) -> tuple[Trial, Any]:
    """Also what makes the programs for a number of examples at once."""
    method = Method(attribution, Compiler(ONE))
    programs = functools.partial(method.programs, given)
    return Trial(programs, given, method.compiler, 1, length, TUNING), programs


def test_no_more_at_once_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = attribution_of(lambda x: jnp.sum(jnp.tanh(x @ jnp.ones((6, 5_000)))), rule=gregory(64))
    monkeypatch.setattr(Programs, "compiling", 0.0)  # so that it always pays
    monkeypatch.setattr("igjax.dataset._tuning._BETTER", 1e6)
    trial, programs = trial_of(wide, ((XS[0],), {}), 300)
    assert trial.fastest() == 16
    needed = programs(Tile(1, 4)).memory
    free = 2 * (needed.step + 30 * (needed.work + needed.args))  # half of it may be used
    monkeypatch.setattr(Compiler, "free_memory", lambda _: free)
    assert trial.fastest() == 4
    assert 1 <= trial.chunks(4) <= 30 / 6


def test_small_jobs_try_no_batch_sizes(tmp_path: pathlib.Path, compiled: list[Any]) -> None:
    run(total, XS[:50], tmp_path, batch_size="auto", rule=gregory(8), tuning=Tuning())
    assert len(compiled) == 2  # to begin, which is all, and for the result


def test_sizes_are_not_tried_where_that_costs_more_than_it_may_gain(
    tmp_path: pathlib.Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    xs, tuning = np.tile(XS, (4, 1)), Tuning(few=10**6)
    monkeypatch.setattr(Programs, "compiling", 1e3)  # seconds, as of a large network
    run(total, xs, tmp_path, batch_size="auto", rule=gregory(8), tuning=tuning)
    assert len(compiled) == 2
    assert zarr.open_group(tmp_path, mode="r").attrs["batch_size"] == 1


def test_large_jobs_try_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Programs, "compiling", 1e-9)
    trial, _ = trial_of(attribution_of(total, rule=gregory(8)), ((XS[0],), {}), 100_000)
    assert trial.fastest() >= 16


@pytest.mark.slow
def test_arrays_of_nothing(tmp_path: pathlib.Path) -> None:
    xs = {"a": XS, "b": np.zeros((len(XS), 0), np.float32)}
    summary = run(lambda x, label: score(x["a"], label), (xs, LABELS), tmp_path, rule=RULE)
    assert summary.done == len(XS)
    assert read(tmp_path)["attributions.b"].shape == (len(XS), 0)


def test_parameters_are_arguments_of_the_programs() -> None:
    weights = jnp.asarray(RNG.normal(size=(6, 50_000)), jnp.float32)
    method = Method(attribution_of(lambda x: jnp.sum(jnp.tanh(x @ weights))), Compiler(ONE))
    program = method.programs(((XS[0],), {}), Tile(1, 1)).program("begin").compiled
    assert program.memory_analysis().argument_size_in_bytes > weights.nbytes
    assert len(program.as_text()) < 1_000_000


def test_a_fingerprint_is_of_what_is_computed() -> None:
    x = XS[0]
    copy = jnp.array(W1)
    fun = lambda x: jnp.sum(x @ W1)
    same, jitted = of_function(fun, x), of_function(jax.jit(fun), x)
    assert of_function(lambda y: jnp.sum(y @ copy), x) == same
    one_bit = np.array(W1)
    one_bit.view(np.uint32)[3, 17] ^= 1
    swapped = np.array(W1)
    swapped[[0, 1]] = swapped[[1, 0]]
    for other in (one_bit, swapped):
        weights = jnp.asarray(other)
        fun = lambda x, weights=weights: jnp.sum(x @ weights)
        assert of_function(fun, x)["constants"] != same["constants"]
        assert of_function(fun, x)["equations"] == same["equations"]
        assert of_function(jax.jit(fun), x) != jitted
    assert of_function(lambda x: jnp.sum(x @ W1) + 1, x)["equations"] != same["equations"]


@pytest.mark.parametrize("dtype", ["bool", "int4", "uint4", "int2", "float4_e2m1fn", "int8"])
def test_a_fingerprint_of_numbers_of_less_than_a_byte(dtype: str) -> None:
    zeros, one = (jnp.asarray([0, 0, last], jnp.dtype(dtype)) for last in (0, 1))
    found = [of_function(lambda x, k=k: x * k.astype(x.dtype), XS[0, 0]) for k in (zeros, one)]
    assert found[0]["constants"] != found[1]["constants"]


def test_integers_that_jax_would_wrap_are_refused() -> None:
    ids = np.array([[3], [2**32 + 3], [-1], [-(2**31) - 1]])
    rows = Rows(np.arange(4), (ids,))
    check = Check(rows)
    refused, same, examples = check(rows)
    assert isinstance(refused, Refused) and isinstance(same, Refused)
    assert (refused.number, same.number) == (1, 3) and "too large for 32 bits" in refused.reason
    assert isinstance(examples, Examples) and examples.numbers.tolist() == [0, 2]
    assert np.flatnonzero(check.fingerprints(rows)).tolist() == [0, 2]
    (alone,) = check(Rows(np.array([7]), (ids[1:2],)))
    assert isinstance(alone, Refused)


def test_an_iterator_that_raises_for_ever_has_broken_off() -> None:
    class Iterating:
        def __iter__(self) -> "Iterating":
            return self

        def __next__(self) -> Any:
            raise OSError("no network")

    with pytest.raises(RuntimeError, match=r"broke off at example 0 \(OSError: no network\)"):
        as_source(Iterating())


def test_masks_of_records_are_not_looked_at_element_by_element() -> None:
    assert as_source(np.ma.zeros(3, [("a", np.float32)])).length == 3


def test_a_thread_that_is_not_the_main_one(tmp_path: pathlib.Path) -> None:
    summaries: list[Any] = []
    thread = threading.Thread(target=lambda: summaries.append(run(total, XS, tmp_path)))
    thread.start()
    thread.join()
    assert summaries[0].done == 150


def test_a_function_that_fails(tmp_path: pathlib.Path) -> None:
    def broken(x: jax.Array) -> jax.Array:
        raise ZeroDivisionError("in the model")

    with pytest.raises(ZeroDivisionError, match="in the model"):
        run(broken, XS, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_full_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from igjax.dataset._store import Store

    original = Store.write

    def write(self: Store, number: int, values: Any) -> None:
        if number >= 8:
            raise OSError("no space left on device")
        original(self, number, values)

    monkeypatch.setattr(Store, "write", write)
    with pytest.raises(OSError, match="no space left"):
        run(score, (XS, LABELS), tmp_path)
    monkeypatch.undo()
    done = int(np.sum(read(tmp_path)["status"]))
    assert done <= 80 and done % 10 == 0
    assert run(score, (XS, LABELS), tmp_path).new == 150 - done


def test_messages_to_the_log(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igjax.dataset._progress.LOG_EVERY", 0.0)
    with caplog.at_level(logging.INFO, logger="igjax"):
        run(score, (XS, LABELS), tmp_path, progress=True)
    assert "of 150 examples" in caplog.text and "gradients each" in caplog.text


def test_a_bar_in_a_terminal(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    run(score, (XS, LABELS), tmp_path, progress=True)
    assert "150/150" in capsys.readouterr().err


class Table:
    """As a pandas data frame: items have names, and there is a number of rows."""

    def __len__(self) -> int:
        return 3

    def keys(self) -> list[str]:
        return ["a", "b"]

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)


class Lost(Sequence):
    def __getitem__(self, index: int) -> Any:
        raise FileNotFoundError(f"/data/{index}.png")


FEATURES = [{"x": np.ones((3, 2), np.float32), "static": np.ones(5, np.float32)}]
BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "function": (TypeError, "takes a function", {"fun": 3}),
    "source": (TypeError, "source must be arrays", {"source": 7}),
    "leaf": (TypeError, r"source\[1\]\[0\] must be an array", {"source": (XS, [1, 2])}),
    "scalar": (TypeError, "with the examples along its first axis", {"source": (XS, np.array(1))}),
    "lengths": (ValueError, "must be equally long", {"source": (XS, LABELS[:10])}),
    "empty": (ValueError, "source has no example", {"source": []}),
    "no arrays": (ValueError, "holds no array", {"source": ()}),
    "a class": (TypeError, "source must be arrays.* got the class list", {"source": list}),
    "a string": (TypeError, "source must be arrays.* got str", {"source": "xs.npy"}),
    "a table": (TypeError, "source is a Table, whose items have keys", {"source": Table()}),
    "no file": (
        ValueError,
        "no example that can be read, .* Example 0: FileNotFoundError: /data/0.png",
        {"source": Lost()},
    ),
    "masked": (
        ValueError,
        r"source\[0\] has masked elements",
        {"source": (np.ma.masked_less(XS, 0.0), LABELS)},
    ),
    "keys": (
        TypeError,
        r"source\[1\] has random keys",
        {"source": (XS, jax.random.split(jax.random.key(0), 150))},
    ),
    "long double": (
        TypeError,
        "argument 0 has dtype .*, which JAX lacks",
        {"source": (XS.astype(np.longdouble), LABELS)},
    ),
    "records": (
        TypeError,
        "argument 0 is no array of numbers",
        {"source": np.ones(6, [("a", np.float32), ("b", np.int32)])},
    ),
    "bytes": (TypeError, "argument 0 is no array of numbers", {"source": np.zeros(6, "V8")}),
    "durations": (TypeError, "argument 0 is no array of numbers", {"source": np.zeros(6, "m8[s]")}),
    "integers": (TypeError, "argument 0 has dtype int32", {"source": (LABELS, LABELS)}),
    "fields": (ValueError, "got 'gap'", {"fields": ("gap",)}),
    "a field alone": (TypeError, "fields must be several names", {"fields": "value"}),
    "a number of fields": (TypeError, "fields must be several names", {"fields": 3}),
    "mesh": (TypeError, "mesh must be a jax.sharding.Mesh; got 3", {"mesh": 3}),
    "resume": (TypeError, "resume must be True or False; got 'no'", {"resume": "no"}),
    "progress": (TypeError, "progress must be True or False; got 'x'", {"progress": "x"}),
    "a flag": (TypeError, "batch_size .* must be an integer; got True", {"batch_size": True}),
    "too many": (
        ValueError,
        "batch_size must be at most 1048576 for a source without a length",
        {"batch_size": 10**12, "source": iter(zip(XS, LABELS, strict=True))},
    ),
    "no fields": (ValueError, "got none", {"fields": ()}),
    "batch_size": (ValueError, "batch_size .* must be at least 1; got 0", {"batch_size": 0}),
    "on_error": (ValueError, "on_error must be", {"on_error": "ignore"}),
    "rule": (TypeError, "rule", {"rule": 64}),
    "path": (TypeError, "path must be a function", {"path": "straight"}),
    "baseline": (ValueError, "baseline must have the input's shape", {"baseline": jnp.zeros(2)}),
    "vector": (ValueError, "scalar output", {"fun": lambda x, label: x}),
    "bucket": (ValueError, "a bucket must be at least 1", {"buckets": (0, 4)}),
    "one bucket": (TypeError, r"buckets must be sizes, such as \(8, 16\); got 3", {"buckets": 3}),
    "None": (TypeError, "buckets must be sizes", {"buckets": None}),
    "True": (TypeError, "a bucket must be an integer; got True", {"buckets": [True]}),
    "one for a name": (
        TypeError,
        "buckets of 'a' must be sizes",
        {"buckets": {"a": 4}, "ragged": "a"},
    ),
    "a number": (
        ValueError,
        "a length must have a name .* got 3",
        {"buckets": {3: (4,)}, "ragged": "a"},
    ),
    "static features": (
        ValueError,
        r"not equally long: their shapes are .*\(5,\).* Say which are padded",
        {"source": FEATURES, "buckets": (4,)},
    ),
    "no axis": (ValueError, "buckets are for", {"source": (XS[:, 0], LABELS), "buckets": (4,)}),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input(tmp_path: pathlib.Path, bad: str) -> None:
    error, message, change = BAD[bad]
    settings = {"fun": score, "source": (XS, LABELS), "out": tmp_path / "out"} | change
    with pytest.raises(error, match=message):
        run(**settings)
    assert not (tmp_path / "out").exists()


def test_no_function(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TypeError, match="attribute_dataset takes a function"):
        attribute_dataset(3, XS, out=tmp_path)  # type: ignore[arg-type]


def test_something_else_in_its_place(tmp_path: pathlib.Path) -> None:
    zarr.create_group(tmp_path)
    with pytest.raises(FileExistsError, match="none that igjax has made"):
        run(total, XS, tmp_path)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    with pytest.raises(ImportError, match=r"pip install 'igjax\[dataset\]'"):
        run(total, XS, tmp_path)
