"""The arithmetic of nested rules against the rules, one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from igjax._engine.nested import Nested, shift
from igjax._quadrature import gregory

CASES = [(1, 1), (1, 5), (4, 8), (16, 5), (16, 10), (64, 7), (64, 10)]


def visited(nested: Nested) -> list[np.ndarray]:
    lanes = jnp.arange(nested.size, dtype=jnp.int32)
    return [np.asarray(nested.ranks(jnp.int32(tile), lanes)) for tile in range(nested.tiles)]


@pytest.mark.parametrize(("size", "levels"), CASES)
def test_every_node_is_visited_once_rule_after_rule(size, levels):
    nested = Nested(size, levels)
    tiles = visited(nested)
    assert all((np.diff(tile) > 0).all() for tile in tiles)
    for level in range(size.bit_length() - 1, levels):
        ranks = np.sort(np.concatenate(tiles[: 2**level // size]))
        np.testing.assert_array_equal(ranks, nested.slots(jnp.int32(level))[: 2**level])
        nodes, _ = gregory.rule(2**level, shift(level))
        np.testing.assert_allclose(nested.places(jnp.asarray(ranks), jnp.float32), nodes, atol=1e-6)


@pytest.mark.parametrize(("size", "levels"), CASES)
def test_a_node_has_its_weight_in_every_rule_that_has_it(size, levels):
    nested = Nested(size, levels)
    ranks = np.concatenate(visited(nested))
    weights = np.asarray(nested.weights(jnp.asarray(ranks), jnp.float32))[:, np.argsort(ranks)]
    for level in range(levels):
        nodes, expected = gregory.rule(2**level, shift(level))
        held = np.zeros(nested.nodes)
        held[nested.first(level) + nested.step(level) * np.arange(2**level)] = expected
        np.testing.assert_allclose(weights[level], held, atol=1e-6)
        places = nested.places(jnp.arange(nested.nodes), jnp.float32)
        np.testing.assert_allclose(places[held > 0], nodes, atol=1e-6)
