"""Parts of pytrees: the floats, and what they are put back into."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igjax._trees import filled, floats, is_kind, thinned

TREE = {"a": 1.0, "b": (2, jnp.float32(3.0)), "c": np.ones(2, bool), "d": None}


def test_floats_are_kept():
    assert floats(TREE) == {"a": 1.0, "b": (None, jnp.float32(3.0)), "c": None, "d": None}
    assert floats(
        [jnp.bfloat16(1), np.float16(2), 1j, jax.random.key(0), np.timedelta64(1, "D")]
    ) == [
        jnp.bfloat16(1),
        np.float16(2),
        None,
        None,
        None,
    ]


def test_a_dtype_of_another_library_is_of_no_kind():
    other = types.SimpleNamespace(dtype=types.SimpleNamespace())
    assert not is_kind(other, jnp.floating, jnp.integer)


def test_what_is_filled_was_thinned():
    part = floats(TREE)
    assert jax.tree.structure(thinned(TREE, part)) == jax.tree.structure(part)
    doubled = filled(jax.tree.map(lambda leaf: 2 * leaf, part), TREE)
    assert doubled["a"] == 2.0 and doubled["b"] == (2, 6.0)
    assert doubled["c"] is TREE["c"] and doubled["d"] is None


@pytest.mark.parametrize(
    "tree", [3.0, {"a": 1.0}, TREE | {"b": [2, 3.0]}, TREE | {"b": (1, 2, 3)}], ids=str
)
def test_what_is_unlike_a_part_is_not_thinned(tree):
    assert thinned(tree, floats(TREE)) is tree
