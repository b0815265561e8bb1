"""The cheapest way to cut a directed graph between its sources and its end."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

_Node = TypeVar("_Node", bound=Hashable)
# From each node, the nodes that edges lead to, and what it costs to cut each. None is the end.
Graph = defaultdict[_Node | None, dict[_Node | None, float]]


def minimum_cut(
    graph: Graph[_Node], sources: Sequence[_Node]
) -> tuple[float, Collection[_Node | None]]:
    """Returns the least cost of cutting all ways from ``sources`` to the end, and what is before.

    It sends as much to the end as the ways can carry, the shortest first, and uses up ``graph``. Of
    cuts at the same cost it finds the one nearest to the sources.

    Source: Dinic 1970, "Algorithm for Solution of a Problem of Maximum Flow in Networks with Power
    Estimation". (All shortest ways are used up at once, so that long chains take no longer than
    they are long.)
    """
    flow = 0.0
    while None in (steps := reach(graph, sources)):
        left = {node: [*graph[node]] for node in steps}
        for source in sources:
            while way := _way(graph, steps, left, source):
                amount = min(graph[start][end] for start, end in way)
                for start, end in way:
                    graph[start][end] -= amount
                    graph[end][start] = graph[end].get(start, 0) + amount
                flow += amount
    return flow, steps.keys()


def _way(
    graph: Graph[_Node],
    steps: dict[_Node | None, int],
    left: dict[_Node | None, list[_Node | None]],
    source: _Node,
) -> list[tuple[_Node | None, _Node | None]]:
    """Returns the edges of a shortest way from a source to the end; none if there is no such way.

    Args:
      graph: what may be sent along each edge.
      steps: from the sources to each node.
      left: where the edges of each node lead that have not been found to be of no use.
      source: where it begins.
    """
    nodes: list[_Node | None] = [source]
    while nodes and nodes[-1] is not None:
        node = nodes[-1]
        ends = left[node]
        while ends and not (graph[node][ends[-1]] > 0 and steps.get(ends[-1]) == steps[node] + 1):
            ends.pop()
        if ends:
            nodes.append(ends[-1])
        else:
            nodes.pop()
            if nodes:
                left[nodes[-1]].pop()
    return [*itertools.pairwise(nodes)]


def reach(graph: Graph[_Node], sources: Sequence[_Node]) -> dict[_Node | None, int]:
    """Returns the nodes within reach of ``sources``, and in how many steps, breadth first."""
    steps: dict[_Node | None, int] = dict.fromkeys(sources, 0)
    queue = list(steps)
    for node in queue:
        for end, left in graph[node].items():
            if left > 0 and end not in steps:
                steps[end] = steps[node] + 1
                queue.append(end)
    return steps
