"""The families of functions on which an error bar is tried: what they are, and their truth."""

import jax
import numpy as np
import pytest
from slowly import all_slow_but

from benchmarks import families
from benchmarks.families import FAMILIES, members, truth
from benchmarks.measures import families as measure

KINDS = {f"{name}: {kind.name}": kind for name, own in FAMILIES.items() for kind in own}
QUICK = [
    "dense: tanh",
    "layer norm first: layer norm, epsilon 1e-12",
    "steep in the middle: width 0.0001",
    "steps: a steep sigmoid",
    "bfloat16: GELU",
]


# One of each family, beside these.
SOME = dict.fromkeys([*QUICK, *(f"{name}: {own[0].name}" for name, own in FAMILIES.items())])


def kind_of(family: str, number: int = 0) -> families.Kind:
    return FAMILIES[family][number]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_members_differ_and_have_the_same_shapes(kind):
    one, other = members(kind, 2)
    assert jax.tree.map(np.shape, one) == jax.tree.map(np.shape, other)
    leaves = jax.tree.leaves((one, other))
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in leaves)
    assert not all(
        np.array_equal(*pair)
        for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    for again, same in zip(jax.tree.leaves(members(kind, 1)), jax.tree.leaves([one]), strict=True):
        np.testing.assert_array_equal(again, same)
    value = jax.eval_shape(kind.fun, one.params, one.x)
    assert value.shape == () and value.dtype == np.float32


@pytest.mark.parametrize("name", all_slow_but(QUICK, SOME))
def test_the_truth_is_complete(name):
    kind = KINDS[name]
    (member,) = members(kind, 1)
    found = truth(kind, member)
    assert found.attributions.dtype == np.float64
    with jax.enable_x64(True):
        params, x, baseline = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tuple(member))
        fun = kind.exact or kind.fun
        change = float(fun(params, x) - fun(params, baseline))
    # A network of ReLUs has kinks, where the truth is as good as its nodes are many.
    slack = 1e-6 + 10 * found.uncertainty
    assert abs(found.attributions.sum() - change) <= slack * np.abs(found.attributions).sum()


UNSEEN = pytest.mark.xfail(
    reason="a trained tanh network is steep at 1e-14 of the path, where no observer is",
    strict=False,  # how it is trained depends on the processor
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=UNSEEN) if name == "recurrent, trained" else name
        for name in FAMILIES
    ],
)
def test_error_bars_are_honest_on_every_family(family):
    records = measure.of_kind(kind_of(family), 2)
    fixed = [record for record in records if record["rule"] == "gregory(64)"]
    adaptive = [record for record in records if record["rule"] == "to_tolerance"]
    assert len(adaptive) == 3 * len(fixed) == 6
    assert measure.honest(adaptive) == 1.0
    assert measure.covered(fixed) == 1.0


def test_the_truth_of_logs():
    (member,) = members(kind_of("log features"), 1)
    expected = np.log1p(member.x.astype(np.float64) / 1e-3)
    np.testing.assert_allclose(truth(kind_of("log features"), member).attributions, expected, 1e-9)


def test_the_truth_of_cosine_similarity():
    (member,) = members(kind_of("cosine similarity"), 1)
    other, x = (np.asarray(a, np.float64) for a in (member.params, member.x))
    length = np.linalg.norm(x)
    u, t = x / length, other / np.linalg.norm(other)
    log = np.log1p(length / 1e-6)
    expected = u * t * log - u**2 * (u @ t) * (log - length / (length + 1e-6))
    found = truth(kind_of("cosine similarity"), member).attributions
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("number", [0, 1])
def test_the_truth_of_what_cancels(number):
    kind = kind_of("cancelling", number)
    (member,) = members(kind, 1)
    (slope, start), x = member.params, member.x.astype(np.float64)
    place = start.astype(np.float64) + np.zeros(3)
    of = lambda x: np.tanh(slope.astype(np.float64) * (x - place))
    expected = (of(x) - of(0 * x)) * [1, -1, 0] + np.tanh(x) * [0, 0, 1]
    np.testing.assert_allclose(truth(kind, member).attributions, expected, rtol=1e-9, atol=1e-12)


def test_half_precision_is_of_the_same_parameters():
    kind = kind_of("bfloat16")
    (member,) = members(kind, 1)
    half, exact = (f(member.params, member.x) for f in (kind.fun, kind.exact))
    assert 0 < abs(half - exact) < 0.1
