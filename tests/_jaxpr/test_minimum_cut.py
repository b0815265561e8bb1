"""The minimum cut, against all cuts there are."""

import itertools
import math
import random
from collections import defaultdict

import pytest

from igjax._jaxpr.minimum_cut import minimum_cut, reach


def random_graph(seed):
    """A graph of a few nodes, and sources in it. Each node's edge to the end is finite."""
    draw = random.Random(seed)
    nodes = range(draw.randint(2, 7))
    graph = defaultdict(dict)
    for start in nodes:
        for end in nodes:
            if start != end and draw.random() < 0.35:
                graph[start][end] = draw.choice([0, 1, 2, 5, math.inf])
        if draw.random() < 0.5:
            graph[start][None] = draw.randint(0, 6)
    return graph, nodes, draw.sample(nodes, draw.randint(1, 2))


def cheapest(graph, nodes, sources):
    """The least cost of all cuts, and the smallest set of nodes before one of that cost."""
    others = [node for node in nodes if node not in sources]
    found = []
    for count in range(len(others) + 1):
        for more in itertools.combinations(others, count):
            before = {*sources, *more}
            edges = [(end, cost) for node in before for end, cost in graph[node].items()]
            found.append((sum(cost for end, cost in edges if end not in before), count, before))
    cost, _, before = min(found, key=lambda each: each[:2])
    return cost, before


@pytest.mark.parametrize("seed", range(200))
def test_it_is_the_cheapest_of_all_and_the_nearest_to_the_sources(seed):
    graph, nodes, sources = random_graph(seed)
    expected, before = cheapest(graph, nodes, sources)
    cost, found = minimum_cut(graph, sources)
    assert cost == expected
    assert set(found) == before


def test_a_long_chain_with_many_ways_in_is_cut_at_its_neck():
    # Recursion would not get to its end, and a search for each source would take for ever.
    count = 20_000
    graph = defaultdict(dict)
    for node in range(count):
        graph[node][node - 1 if node else None] = 3.0 + (node % 7)
    cost, found = minimum_cut(graph, [*range(1, count)])
    assert cost == 3.0
    assert set(found) == {*range(count)}


def test_reach_counts_steps():
    graph = defaultdict(dict, {0: {1: 1, 2: 0}, 1: {3: 1, None: 1}, 3: {2: 1}})
    assert reach(graph, [0]) == {0: 0, 1: 1, 3: 2, None: 2, 2: 3}
