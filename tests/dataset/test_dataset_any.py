"""Whole datasets of any attribution, interrupted and gone on with, against a loop by hand."""

import pathlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from slowly import all_slow_but

import igjax
from igjax import baselines, paths
from igjax.dataset import attribute_dataset
from igjax.dataset._format import BOOKKEEPING
from igjax.quadrature import gauss_legendre, to_tolerance

RNG = np.random.default_rng(0)
COUNT = 24
ONE = Mesh(np.array(jax.devices()[:1]), ("example",))
FIRST, SECOND = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in [(4, 5), (5, 3)])
TABLE = jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32)
XS = RNG.normal(size=(COUNT, 4)).astype(np.float32)
LABELS = (np.arange(COUNT) % 3).astype(np.int32)
LENGTHS = [(2, 3, 4, 6)[i % 4] for i in range(COUNT)]
RULE = gauss_legendre(6)


def logits(x: jax.Array) -> jax.Array:
    return 3 * jnp.tanh(checkpoint_name(jnp.tanh(x @ FIRST), "hidden") @ SECOND)


def score(x: jax.Array, label: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits(x))[label]


def of_words(ids: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    words = checkpoint_name(TABLE[ids], "embedding")
    kept = jnp.where(mask[:, None], logits(words), 0.0)
    return jax.nn.softmax(jnp.sum(kept, axis=0))[label]


def of_visits(patient: dict[str, jax.Array], mask: jax.Array) -> jax.Array:
    kept = jnp.where(mask[:, None], logits(patient["visits"]), 0.0)
    return jnp.sum(kept) * jnp.tanh(jnp.sum(patient["static"]))


def of_graph(
    atoms: jax.Array, bonds: jax.Array, ends: jax.Array, atom: jax.Array, bond: jax.Array
) -> jax.Array:
    sent = jnp.tanh(atoms[ends[:, 0]]) * bonds
    sent = jnp.where(bond[:, None], sent, 0.0)
    state = atoms.at[ends[:, 1]].add(sent)
    return jnp.sum(jnp.where(atom[:, None], jnp.tanh(state), 0.0) ** 2)


def own(x: jax.Array, label: jax.Array) -> jax.Array:
    return x * jax.grad(score)(x, label)


def with_baseline(x: jax.Array, label: jax.Array, start: jax.Array) -> Any:
    attribution = igjax.integrated_grad(
        score, baseline=start, rule=to_tolerance(1e-3), has_report=True
    )
    return attribution, (x, label)


def whole_with_baseline(x: jax.Array, label: jax.Array, start: jax.Array) -> Any:
    return igjax.integrated_grad(score, baseline=start, rule=RULE)(x, label)


def graph(number: int) -> tuple[np.ndarray, ...]:
    atoms, bonds = 2 + number % 2, 1 + number % 3
    ends = RNG.integers(atoms, size=(bonds, 2)).astype(np.int32)
    return (
        RNG.normal(size=(atoms, 3)).astype(np.float32),
        RNG.normal(size=(bonds, 3)).astype(np.float32),
        ends,
    )


class Case(NamedTuple):
    """An attribution, examples for it, and how they are padded."""

    attribution: Callable[..., Any]
    examples: list[Any]
    settings: dict[str, Any]
    masks: Callable[..., dict[str, np.ndarray]] = lambda *_: {}


def mask(of: np.ndarray, *_: Any) -> dict[str, np.ndarray]:
    return {"mask": np.ones(len(of), bool)}


LABELLED = [*zip(XS, LABELS, strict=True)]
IDS = [RNG.integers(1, 7, size=n).astype(np.int32) for n in LENGTHS]
CASES = {
    "tokens": Case(
        igjax.token_integrated_grad(
            of_words, "embedding", baseline=0, rule=RULE, batch_size=3, has_report=True
        ),
        [*zip(IDS, LABELS, strict=True)],
        {"buckets": (4, 6)},
        mask,
    ),
    "layer": Case(
        igjax.layer_conductance(score, "hidden", rule=RULE, batch_size=3, has_report=True),
        LABELLED,
        {},
    ),
    "jacobian": Case(
        igjax.integrated_jacobian(
            lambda x: {"logits": logits(x), "norm": jnp.sum(x**2)}, rule=RULE, has_report=True
        ),
        [*XS],
        {},
    ),
    "two arguments": Case(
        igjax.integrated_grad(lambda x, y: jnp.sum(logits(x) * y["by"]), (0, 1), rule=RULE),
        [(x, {"by": y}) for x, y in zip(XS, XS[:, :3], strict=True)],
        {},
    ),
    "a baseline each": Case(
        igjax.from_arguments(with_baseline),
        [*zip(XS, LABELS, XS[::-1], strict=True)],
        {},
    ),
    "a baseline each, in whole batches": Case(
        whole_with_baseline, [*zip(XS, LABELS, XS[::-1], strict=True)], {}
    ),
    "a method of one's own": Case(own, LABELLED, {}),
    "a sequence beside static features": Case(
        igjax.integrated_grad(of_visits, rule=RULE),
        [
            {"visits": RNG.normal(size=(n, 4)).astype(np.float32), "static": x[:2]}
            for n, x in zip(LENGTHS, XS, strict=True)
        ],
        {"buckets": (4, 6), "ragged": {"visits": "mask", "static": None}},
        lambda patient: mask(patient["visits"]),
    ),
    "atoms and bonds": Case(
        igjax.integrated_grad(of_graph, (0, 1), rule=RULE),
        [graph(i) for i in range(COUNT)],
        {"buckets": {"atom": (2, 3), "bond": (3,)}, "ragged": ("atom _", "bond", "bond")},
        lambda atoms, bonds, _: {
            "atom": np.ones(len(atoms), bool),
            "bond": np.ones(len(bonds), bool),
        },
    ),
}


class Interrupted:
    """Examples of which the reading is interrupted, once the work has begun."""

    def __init__(self, examples: list[Any], at: int):
        self._examples, self.at = examples, at
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        if threading.current_thread() is not threading.main_thread():
            if index == self.at:
                raise KeyboardInterrupt
            self.read.append(index)
        return self._examples[index]


def run(case: Case, source: Any, out: pathlib.Path, **more: Any) -> Any:
    settings = {"batch_size": 2, "mesh": ONE, "progress": False, **case.settings, **more}
    return attribute_dataset(case.attribution, source, out=out, **settings)


def read(out: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = zarr.open_group(out, mode="r").arrays()
    return {name: np.asarray(array[...]) for name, array in arrays}


def named(returned: Any) -> dict[str, Any]:
    """What an attribution returns, by the names of a store."""
    reported = isinstance(returned, tuple) and isinstance(returned[-1], igjax.Report)
    attributions, report = returned if reported else (returned, None)
    fields = {"attributions": attributions, **(report._asdict() if report else {})}
    return {
        ".".join([field, *(jax.tree_util.keystr((key,), simple=True) for key in path)]): leaf
        for field, tree in fields.items()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


@pytest.mark.parametrize(
    "name", all_slow_but(["tokens", "jacobian", "two arguments", "a method of one's own"], CASES)
)
def test_interrupted_and_gone_on_with_as_undisturbed_and_by_hand(
    tmp_path: pathlib.Path, name: str
) -> None:
    case = CASES[name]
    summary = run(case, case.examples, tmp_path / "undisturbed")
    assert (summary.done, summary.failed) == (COUNT, 0)
    source = Interrupted(case.examples, at=17)
    with pytest.raises(KeyboardInterrupt):
        run(case, source, tmp_path / "interrupted")
    done = np.flatnonzero(read(tmp_path / "interrupted")["status"])
    assert 0 < len(done) < COUNT
    source.at, source.read = -1, []
    assert run(case, source, tmp_path / "interrupted").new == COUNT - len(done)
    assert sorted(source.read) == sorted({*range(COUNT)} - {*done.tolist()})
    found = read(tmp_path / "interrupted")
    undisturbed = read(tmp_path / "undisturbed")
    assert found.keys() == undisturbed.keys()
    for field, array in undisturbed.items():
        assert found[field].tobytes() == array.tobytes(), field

    by_hand = jax.jit(lambda args, masks: case.attribution(*args, **masks))
    shapes = set()
    for i, example in enumerate(case.examples):
        args = example if isinstance(example, tuple) else (example,)
        masks = case.masks(*args)
        shape = str(jax.tree.map(np.shape, args))
        if masks and shape in shapes:
            continue  # each shape is compiled; one of each is enough
        shapes.add(shape)
        fields = named(by_hand(args, masks))
        assert fields.keys() <= found.keys()
        for field, leaf in fields.items():
            stored = np.array(found[field][i])
            inside = tuple(slice(n) for n in np.shape(leaf))
            # Sums of some tens of float32; the sizes of what is summed are about 1.
            np.testing.assert_allclose(stored[inside], leaf, rtol=1e-4, atol=1e-5, err_msg=field)
            stored[inside] = 0
            assert not stored.any()  # beyond it


def test_lengths_are_stored_by_their_names(tmp_path: pathlib.Path) -> None:
    case = CASES["atoms and bonds"]
    bad = (np.ones((9, 3), np.float32), *case.examples[0][1:])
    torn = (case.examples[1][0], np.ones((3, 3), np.float32), case.examples[1][2])
    few = [*case.examples[:4], bad, torn]
    summary = run(case, few, tmp_path)
    assert (summary.done, summary.failed) == (4, 2)
    found = read(tmp_path)
    assert found["length.atom"][:4].tolist() == [len(e[0]) for e in few[:4]]
    assert found["length.bond"][:4].tolist() == [len(e[1]) for e in few[:4]]
    reasons = [bytes(row).rstrip(b"\0").decode() for row in found["failure"][4:]]
    assert reasons[0] == "it has atom of length 9, the largest bucket 3."
    assert reasons[1] == "arrays that share a bond of length have [2, 3]."


def test_integers_and_flags_are_stored_as_they_are(tmp_path: pathlib.Path) -> None:
    def ranked(x: jax.Array) -> Any:
        slopes = jax.grad(lambda x: logits(x)[0])(x)
        return {"order": jnp.argsort(-slopes), "up": slopes > 0, "half": slopes.astype("bfloat16")}

    run(Case(ranked, [], {}), XS, tmp_path)
    found, expected = read(tmp_path), jax.vmap(ranked)(XS)
    for name, dtype in {"order": np.int32, "up": np.bool_, "half": np.float32}.items():
        stored = found[f"attributions.{name}"]
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored, np.asarray(expected[name]).astype(dtype))
    assert found.keys() == {*BOOKKEEPING, *(f"attributions.{name}" for name in expected)}


def scored(**options: Any) -> Any:
    total = lambda x, mask: jnp.sum(jnp.where(mask[:, None], jnp.tanh(x), 0.0))
    return igjax.integrated_grad(total, rule=RULE, **options)


def mean(x: jax.Array) -> jax.Array:
    return jnp.full_like(x, jnp.mean(x))


def clipped(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0.5, jnp.minimum(0.1 * x, 2.0), x * 0)


PADDED = [RNG.normal(size=(n, 4)).astype(np.float32) for n in (2, 3, 4, 1)]
SEE_PADDING: dict[str, tuple[Any, str]] = {
    "mean": (scored(baseline=mean), r"the baseline mean computes .* \(reduce_sum\)"),
    "blurred": (scored(baseline=baselines.blurred(1.0)), "the baseline blurred"),
    "shifted": (scored(baseline=lambda x: jnp.roll(x, 1)), "the baseline .*lambda.* computes"),
    "path": (scored(path=paths.blur(2.0)), "the path blur.* computes"),
    "of the arguments": (
        igjax.from_arguments(lambda x, mask: (scored(baseline=mean(x)), (x, mask))),
        "the baseline of an example depends on how far that is padded",
    ),
    "of the shape": (
        scored(baseline=lambda x: jnp.linspace(0.0, 1.0, x.size).reshape(x.shape)),
        "the baseline of an example depends on how far",
    ),
    "of all that a model sees": (
        scored(baseline=baselines.max_entropy(lambda x: jnp.stack([(x - 1).sum(), 0.0]), steps=2)),
        "the baseline of an example depends on how far",
    ),
    "of a layer": (
        igjax.layer_conductance(
            lambda x, mask: jnp.sum(jnp.where(mask[:, None], checkpoint_name(x * 2, "h"), 0.0)),
            "h",
            baseline=mean,
        ),
        "the baseline mean computes",
    ),
    "of tokens": (
        igjax.token_integrated_grad(of_words, "embedding", baseline=lambda ids: ids[::-1]),
        "the baseline .*lambda.* computes",
    ),
}


@pytest.mark.parametrize("name", SEE_PADDING)
def test_what_would_see_padding_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    attribution, message = SEE_PADDING[name]
    source = CASES["tokens"].examples if name == "of tokens" else PADDED
    for buckets in [(4, 6), (6,)]:
        with pytest.raises(ValueError, match=message):
            run(Case(attribution, [], {}), source, tmp_path / "out", buckets=buckets)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "baseline",
    [
        clipped,
        baselines.constant(0.2),
        baselines.farthest(-1.0, 1.0),
        np.full((4, 4), 0.5, np.float32),
    ],
)
def test_what_treats_each_entry_by_itself_is_taken(tmp_path: pathlib.Path, baseline: Any) -> None:
    path = lambda b, x, alpha: b + alpha**2 * (x - b)
    attribution = scored(baseline=baseline, path=path)
    assert run(Case(attribution, [], {}), PADDED, tmp_path, buckets=(4,)).done == len(PADDED)
    found = read(tmp_path)["attributions"]
    for x, own in zip(PADDED, found, strict=True):
        alone = (
            attribution if callable(baseline) else scored(baseline=baseline[: len(x)], path=path)
        )
        expected = alone(x, mask=np.ones(len(x), bool))
        np.testing.assert_allclose(own[: len(x)], expected, rtol=1e-4, atol=1e-6)
        assert not own[len(x) :].any()


def test_a_baseline_of_what_the_mask_keeps_is_taken(tmp_path: pathlib.Path) -> None:
    def made(x: jax.Array, mask: jax.Array) -> Any:
        kept = jnp.where(mask[:, None], x, 0.0)
        start = jnp.full_like(x, jnp.sum(kept) / (4 * jnp.sum(mask).astype(x.dtype)))
        return scored(baseline=start), (x, mask)

    attribution = igjax.from_arguments(made)
    flawed = [np.full((2, 4), np.nan, np.float32), *PADDED]  # the first, which others are like
    summary = run(Case(attribution, [], {}), flawed, tmp_path, buckets=(4,))
    assert (summary.done, summary.failed) == (len(PADDED), 1)
    for x, own in zip(PADDED, read(tmp_path)["attributions"][1:], strict=True):
        expected = attribution(x, np.ones(len(x), bool))
        np.testing.assert_allclose(own[: len(x)], expected, rtol=1e-4, atol=1e-6)
        assert not own[len(x) :].any()


BAD: dict[str, tuple[type[Exception], str, Any, dict[str, Any]]] = {
    "strings": (TypeError, "must return arrays; it returns 'x'", lambda x: (x, "x"), {}),
    "complex": (
        TypeError,
        r"attributions\['a'\] must be real",
        lambda x: {"a": x.astype("complex64")},
        {},
    ),
    "aux": (
        TypeError,
        "2 things and a Report",
        igjax.integrated_grad(lambda x: (x.sum(), x), 0, True, has_report=True),
        {},
    ),
    "no report": (ValueError, "'error', which is part of a Report", own, {"fields": ("error",)}),
    "no ragged": (ValueError, "ragged has to say", own, {"buckets": {"n": (4,)}}),
    "no buckets": (ValueError, "give both", own, {"ragged": "n"}),
    "an unknown length": (ValueError, "the length 'm'", own, {"buckets": (4,), "ragged": "m"}),
    "an unused length": (
        ValueError,
        "'m', a length that ragged gives no axis",
        own,
        {"buckets": {"n": (4,), "m": (4,)}, "ragged": ("n",)},
    ),
    "no ASCII": (
        ValueError,
        "a length must have a name .* got 'länge'",
        own,
        {"buckets": {"länge": (4,)}, "ragged": ("länge",)},
    ),
    "a long name": (
        ValueError,
        "of at most 100 ASCII letters",
        own,
        {"buckets": {"n" * 101: (4,)}, "ragged": ("n" * 101,)},
    ),
    "no keyword": (ValueError, "'a b'", own, {"buckets": {"a b": (4,)}, "ragged": ("a b",)}),
    "too many axes": (ValueError, "has 1, which", own, {"buckets": (4,), "ragged": "_ mask"}),
    "no prefix": (
        ValueError,
        "ragged must be like the arguments",
        own,
        {"buckets": (4,), "ragged": ({"x": "mask"},)},
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_done_is_told(tmp_path: pathlib.Path, bad: str) -> None:
    error, message, attribution, settings = BAD[bad]
    source = (XS, LABELS) if attribution is own else XS
    with pytest.raises(error, match=message):
        run(Case(attribution, [], {}), source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_function_that_is_no_attribution_is_doubted(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(Case(score, [], {}), (XS, LABELS), tmp_path)
    assert "score returns one number for each example" in caplog.text
    assert "igjax.integrated_grad(score)" in caplog.text


def test_a_function_is_traced_as_few_times_as_there_are_stages(tmp_path: pathlib.Path) -> None:
    traces = []

    def counted(x: jax.Array) -> jax.Array:
        traces.append(x)
        return jnp.sum(logits(x))

    attribution = igjax.integrated_grad(counted, rule=to_tolerance(), has_report=True)
    run(Case(attribution, [], {}), XS, tmp_path)
    # In begin, step, done and result, and for its own fingerprint; programs need no more.
    assert len(traces) == 5
