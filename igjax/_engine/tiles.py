"""When ``to_tolerance`` evaluates which nodes: nested rules, tile by tile, on one of two routes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from igjax import quadrature
from igjax._quadrature.gauss import Floats

PILOT = 16  # nodes, to look at the error for the first time, and to see where more are needed


class Schedule(NamedTuple):
    """The nodes of nested rules, tile by tile, and which rules have all of theirs by then.

    Level ``l`` is the rule of ``2**l`` nodes. The pilot comes first; every device does all of it.
    After it there are two routes: straight on, or through all rules from the first, with placed
    nodes. The axes of size 2 stand for them.

    Attributes:
      nodes: shape ``(steps, 2, size)``, increasing within each device's part.
      weights: shape ``(steps, 2, levels, size)``: of each node in the rule of each level.
      complete: shape ``(steps, 2)``, int32: the level whose rule is complete with a step, or -1 if
        none is, or none that is to be looked at.
      pilot: shape ``(steps of the pilot, n)``: its nodes, the same on each device. Empty if there
        is no pilot, and so but one route.
    """

    nodes: Floats
    weights: Floats
    complete: NDArray[np.int32]
    pilot: Floats


def schedule(max_evals: int, batch_size: int, devices: int = 1) -> Schedule:
    """Returns what to visit for up to ``max_evals`` nodes on a route, so many on a device at once.

    The number of nodes of a tile is rounded down to a power of two, and so is that of a route, the
    pilot not counted where others are placed.
    """
    size = _power_of_two(min(batch_size * devices, max_evals))
    part = -(-size // devices)  # of a tile, for each device
    nodes, weights, complete = _tiles(_power_of_two(max_evals), size, part * devices)
    share = _power_of_two(part)
    count = max(PILOT, share)
    # A node alone sees no change; and more should be left to place than the pilot has.
    if share == 1 or max_evals < count + max(2 * count, size):
        routes, pilot = [np.arange(len(nodes))] * 2, nodes[:0]
    else:
        every, again = np.arange(len(nodes)), _power_of_two(max_evals - count) // size
        if devices == 1:  # the pilot is the first tiles
            pilot = nodes[: count // size]
            routes = [every, np.concatenate([every[: len(pilot)], every[:again]])]
        else:
            own, own_weights, looks = _tiles(count, share, part)
            pilot, start = own[:, :share], len(own)
            levels = weights.shape[1] - own_weights.shape[1]
            own_weights = np.pad(own_weights / devices, [(0, 0), (0, levels), (0, 0)])
            nodes = np.concatenate([np.tile(own, devices), nodes])
            weights = np.concatenate([np.tile(own_weights, devices), weights])
            complete = np.concatenate([looks, complete])
            every = np.arange(len(nodes))
            routes = [every, every[: start + again]]
    steps = max(map(len, routes))
    looked_at = [np.pad(complete[r], (0, steps - len(r)), constant_values=-1) for r in routes]
    visited = np.stack([np.pad(r, (0, steps - len(r)), "edge") for r in routes], axis=1)
    return Schedule(nodes[visited], weights[visited], np.stack(looked_at, axis=1), pilot)


def _power_of_two(n: int) -> int:
    """Returns ``n``, rounded down."""
    return int(2 ** (n.bit_length() - 1))


def _tiles(count: int, size: int, width: int) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Returns nodes, weights and ``complete`` of the rules of up to ``count`` nodes, rule by rule.

    Each tile has ``size`` nodes, and is padded to ``width`` by repeating one at weight zero.
    """
    first, *finer = rules = [quadrature.gregory(2**level) for level in range(count.bit_length())]
    nodes = np.concatenate([first.nodes, *(r.nodes[r.embedded_weights == 0.0] for r in finer)])
    weights = np.zeros((len(rules), count))
    for row, rule in zip(weights, rules, strict=True):
        row[np.argsort(nodes[: rule.nodes.size])] = rule.weights
    complete = np.full(count // size, -1, np.int32)
    for level, rule in enumerate(rules):
        if rule.nodes.size >= max(PILOT, size) or rule is rules[-1]:
            complete[rule.nodes.size // size - 1] = level
    tiles, by_tile = nodes.reshape(-1, size), weights.reshape(len(rules), -1, size).swapaxes(0, 1)
    order = np.argsort(tiles, axis=1)
    tiles, by_tile = (
        np.take_along_axis(tiles, order, 1),
        np.take_along_axis(by_tile, order[:, None], 2),
    )
    padding = (0, width - size)
    return (
        np.pad(tiles, [(0, 0), padding], "edge"),
        np.pad(by_tile, [(0, 0), (0, 0), padding]),
        complete,
    )
