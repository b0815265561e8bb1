"""The order of the nodes against the rules that they belong to."""

import collections
import itertools

import numpy as np
import pytest

from igjax._engine.tiles import schedule as make
from igjax.quadrature import gregory


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 16, 64, 5000])
@pytest.mark.parametrize("max_evals", [8, 15, 47, 48, 100, 512, 528])
def test_both_routes_visit_the_nested_rules(max_evals, batch_size, devices):
    schedule = make(max_evals, batch_size, devices)
    size, start = schedule.nodes.shape[2], len(schedule.pilot)
    assert size <= max(batch_size, 1) * devices
    assert size % devices == 0
    parts = schedule.nodes.reshape(-1, 2, devices, size // devices)
    assert np.all(np.diff(parts) >= 0)
    for step, route, device in itertools.product(range(start), range(2), range(devices)):
        np.testing.assert_array_equal(
            parts[step, route, device, : schedule.pilot.shape[1]], schedule.pilot[step]
        )
    for route in range(2):
        # As the sums would do it, by node: its weight in the rule of each level.
        weights, evals = collections.defaultdict(lambda: 0.0), 0
        for step in range(len(schedule.nodes)):
            if step == start and (route == 1 or devices > 1):
                evals += len(weights) * route
                weights.clear()
            for node, row in zip(
                schedule.nodes[step, route], schedule.weights[step, route].T, strict=True
            ):
                weights[round(node, 9)] = weights[round(node, 9)] + row
            level = schedule.complete[step, route]
            if level >= 0:
                found = {node: row[level] for node, row in weights.items() if row[level]}
                rule = gregory(int(2**level))
                np.testing.assert_allclose(sorted(found), rule.nodes, atol=1e-8)
                np.testing.assert_allclose([w for _, w in sorted(found.items())], rule.weights)
                last = evals + 2**level
        assert level < 0 or level == schedule.complete[:, route].max()
        assert max_evals / (4 if route else 2) < last <= max_evals
    if start:
        assert schedule.pilot.size == max(16, schedule.pilot.shape[1])
        assert np.ptp(schedule.complete.max(axis=0)) <= 1
    else:
        alone = size // devices
        assert alone == 1 or max_evals < 3 * max(16, alone) + size
