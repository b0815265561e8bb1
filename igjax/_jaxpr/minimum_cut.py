"""The cheapest way to cut a directed graph between its sources and its end."""

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

    This is Ford and Fulkerson's method, which sends as much to the end as the ways can carry, and
    uses up ``graph``. Of cuts at the same cost it finds the one nearest to the sources.
    """
    flow = 0.0
    for source in sources:
        while None in (came_from := reach(graph, [source])):
            way: list[tuple[_Node | None, _Node | None]] = []
            node: _Node | None = None
            while node is not source:
                way.append((came_from[node], node))
                node = came_from[node]
            amount = min(graph[start][end] for start, end in way)
            for start, end in way:
                graph[start][end] -= amount
                graph[end][start] = graph[end].get(start, 0) + amount
            flow += amount
    return flow, reach(graph, sources)


def reach(graph: Graph[_Node], sources: Sequence[_Node]) -> dict[_Node | None, _Node | None]:
    """Returns the nodes within reach of ``sources``, breadth first, and whence each was reached."""
    came_from: dict[_Node | None, _Node | None] = dict.fromkeys(sources)
    queue = list(came_from)
    for node in queue:
        for end, left in graph[node].items():
            if left > 0 and end not in came_from:
                came_from[end] = node
                queue.append(end)
    return came_from
