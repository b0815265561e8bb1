"""Rows of a store, attributed again."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import igjax
from igjax.dataset import attribute_dataset, verify
from igjax.quadrature import gregory, to_tolerance

XS = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
RULE = to_tolerance(0.05)


def attribution_of(factor: float = 1.0, **options: Any) -> Any:
    weights = jnp.linspace(0.5, 1.5, 5) * factor
    return igjax.integrated_grad(lambda x: jnp.sum(jnp.tanh(x * weights)), **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One of a tolerance, with an example that failed."""
    out = tmp_path_factory.mktemp("verify") / "store"
    flawed = XS.copy()
    flawed[4] = np.nan
    tolerant = attribution_of(rule=RULE, has_report=True)
    attribute_dataset(tolerant, flawed, out=out, batch_size=4, progress=False)
    return out


def test_the_same_comes_out_and_nothing_has_changed(store: Any) -> None:
    found = verify(attribution_of(rule=RULE, has_report=True), XS, out=store, examples=100)
    assert found.agrees
    assert found.examples.tolist() == [i for i in range(30) if i != 4]  # those that are done
    assert found.distances.max() < 1e-5
    assert found.changed == {}  # in those that are compared


def test_an_example_that_has_changed_is_told(store: Any) -> None:
    other = XS.copy()
    other[7] += 1
    found = verify(attribution_of(rule=RULE, has_report=True), other, out=store, examples=100)
    assert found.examples[found.distances > found.allowed].tolist() == [7]
    assert found.changed.keys() == {"data"}
    assert found.changed["data"][0].endswith("of example 7")


def test_other_parameters_are_seen_and_told(store: Any) -> None:
    changed = attribution_of(1.02, rule=RULE, has_report=True)
    found = verify(changed, XS, out=store, examples=5)
    assert not found.agrees
    assert len(found.examples) == 5
    assert 1e-3 < found.distances.max() < 0.1
    assert {"function_constants", "constants"} == found.changed.keys()
    assert verify(changed, XS, out=store, examples=5, within=0.1).agrees


def test_another_rule_agrees_within_its_errors_and_is_told(store: Any) -> None:
    other = attribution_of(rule=gregory(64), has_report=True)
    found = verify(other, XS, out=store, examples=5)
    assert "rule" in found.changed
    assert (found.allowed > 1e-3).all()  # other gradients, and so both errors
    assert found.agrees


def test_all_outputs_of_a_jacobian_are_compared(tmp_path: Any) -> None:
    outputs = lambda x: {"a": jnp.tanh(x[:3]), "b": jnp.sum(x**2)}
    attribution_to = lambda rtol: igjax.integrated_jacobian(
        outputs, rule=to_tolerance(rtol), has_report=True
    )
    attribute_dataset(attribution_to(0.05), XS, out=tmp_path, progress=False)
    found = verify(attribution_to(0.05), XS, out=tmp_path, examples=3)
    assert found.agrees
    assert found.allowed.shape == (3,)
    assert found.changed == {}
    assert verify(attribution_to(1e-5), XS, out=tmp_path, examples=3).agrees


def test_a_stream_is_read_as_far_as_needed(store: Any) -> None:
    read = []

    def stream() -> Any:
        for number, x in enumerate(XS):
            read.append(number)
            yield x

    found = verify(attribution_of(rule=RULE, has_report=True), stream(), out=store, examples=1)
    assert found.agrees
    assert read[-1] == found.examples[0]


def test_what_was_padded_is_padded_again(tmp_path: Any) -> None:
    def masked(x: Any, mask: Any) -> Any:
        return jnp.sum(jnp.where(mask, jnp.tanh(x), 0.0)) ** 2

    attribution = igjax.integrated_grad(masked)
    ragged = [XS[i, : 2 + i % 4] for i in range(12)]
    attribute_dataset(attribution, ragged, out=tmp_path, buckets=(3, 5), progress=False)
    found = verify(attribution, ragged, out=tmp_path, buckets=(3, 5))
    assert found.agrees
    assert found.distances.max() < 1e-5


def test_what_can_not_be_compared_is_refused(store: Any, tmp_path: Any) -> None:
    attribution = attribution_of()
    with pytest.raises(ValueError, match="there is no store"):
        verify(attribution, XS, out=tmp_path)
    with pytest.raises(ValueError, match=r"the store has example \d+, which source does not give"):
        verify(attribution, XS[:2], out=store)
    with pytest.raises(ValueError, match="attributions have shapes"):
        verify(igjax.integrated_grad(jnp.sum), XS[:, :3], out=store)
    with pytest.raises(ValueError, match="within must be at least 0"):
        verify(attribution, XS, out=store, within=-1.0)
    with pytest.raises(ValueError, match="examples must be at least 1"):
        verify(attribution, XS, out=store, examples=0)
    reported = attribution_of(has_report=True)
    attribute_dataset(reported, XS, out=tmp_path, fields=("error",), progress=False)
    with pytest.raises(ValueError, match="has no attributions"):
        verify(reported, XS, out=tmp_path)


def test_an_example_that_fails_now_does_not_agree(store: Any) -> None:
    flawed = XS + np.float32(np.nan)
    found = verify(attribution_of(rule=RULE, has_report=True), flawed, out=store)
    assert not found.agrees
    assert np.isinf(found.distances).all()


def test_zeros_that_stay_zeros_agree(tmp_path: Any) -> None:
    attribution = igjax.integrated_grad(lambda x: jnp.sum(x * 0))
    attribute_dataset(attribution, XS, out=tmp_path, progress=False)
    found = verify(attribution, XS, out=tmp_path, within=0.0)
    assert found.agrees
    assert not found.distances.any()
