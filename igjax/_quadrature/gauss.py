"""Gauss–Legendre and Gauss–Kronrod nodes and weights on [0, 1], to full precision for large n.

Nodes are kept as angles theta, with ``x = cos(theta)`` in [-1, 1], so that those near the ends,
which lie close together, lose no digits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def legendre(n: int) -> tuple[Floats, Floats]:
    """Returns the nodes and weights of the Gauss–Legendre rule.

    Newton's method in the angle, from Tricomi's estimate (Hale & Townsend 2013, SIAM J. Sci.
    Comput. 35(2), sections 2 and 3).
    """
    theta, slope = _legendre_angles(n)
    return nodes_at(theta, n), _mirror(1.0 / slope**2, n)


def kronrod(m: int) -> tuple[Floats, Floats, Floats]:
    """Returns the ``2 m + 1`` nodes and weights of Kronrod's rule, and Gauss's weights.

    The nodes beside Gauss's are the roots of Stieltjes's polynomial E, which Szegő gave as a cosine
    series (1935, Math. Ann. 110, 501-513). The weights are Monegato's (1976, Math. Comp. 30,
    812-817): ``c / (P_m E')`` there, and at Gauss's nodes ``c / (P_m' E)`` added to Gauss's own. On
    [-1, 1] the constant c is the squared norm of ``P_m``, ``2 / (2 m + 1)``, times the ratio of the
    leading coefficients of E and ``P_m``, ``2^m m! 2^m m! / (2 m)!``.
    """
    gauss, slope = _legendre_angles(m)
    between = np.pi * (np.arange(m // 2 + 1) + 0.25) / (m + 0.5)  # these interlace with Gauss's
    for _ in range(6):
        value, derivative = _stieltjes(m, between)
        between = between - value / derivative

    k = np.arange(1, m + 1)
    c = np.prod(2 * k / (2 * k - 1)) / (2 * m + 1)  # half of it, for [0, 1]
    at_gauss = (
        slope * _stieltjes(m, gauss)[0]
    )  # derivatives in theta are -sin(theta) times those in x
    at_between = _legendre(m, between)[0] * _stieltjes(m, between)[1]
    gauss_weights = _mirror(1.0 / slope**2, m)

    nodes, weights = np.empty(2 * m + 1), np.empty(2 * m + 1)
    nodes[1::2], nodes[0::2] = nodes_at(gauss, m), nodes_at(between, m + 1)
    weights[1::2] = gauss_weights - _mirror(c * np.sin(gauss) / at_gauss, m)
    weights[0::2] = -_mirror(c * np.sin(between) / at_between, m + 1)
    return nodes, weights, gauss_weights


def nodes_at(theta: Floats, n: int) -> Floats:
    """Returns the symmetric nodes ``(1 - cos(theta)) / 2`` from the angles of their lower half."""
    lower = np.sin(theta / 2) ** 2
    return np.concatenate([lower, 1.0 - lower[: n // 2][::-1]])


def _mirror(lower: Floats, n: int) -> Floats:
    """Returns the ``n`` weights of a symmetric rule from its lower half."""
    return np.concatenate([lower, lower[: n // 2][::-1]])


def _legendre_angles(n: int) -> tuple[Floats, Floats]:
    """Returns the angles of the roots of ``P_n`` in (0, pi/2], and ``dP_n/dtheta`` there."""
    k = np.arange(1, (n + 1) // 2 + 1)
    theta = np.pi * (4 * k - 1) / (4 * n + 2)
    theta += np.cos(theta) / np.sin(theta) / (8 * n**2)
    for _ in range(4):  # quadratic convergence from an estimate good to O(n^-4): two would do
        value, slope = _legendre(n, theta)
        theta = theta - value / slope
    return theta, _legendre(n, theta)[1]


def _legendre(n: int, theta: Floats) -> tuple[Floats, Floats]:
    """Returns ``P_n(cos theta)`` and its derivative in theta, by the three-term recurrence."""
    x = np.cos(theta)
    previous, value = np.ones_like(x), x
    for k in range(2, n + 1):
        previous, value = value, ((2 * k - 1) * x * value - (k - 1) * previous) / k
    return value, n * (x * value - previous) / np.sin(theta)


def _stieltjes(m: int, theta: Floats) -> tuple[Floats, Floats]:
    """Returns Stieltjes's polynomial ``E_{m+1}(cos theta)``, to a factor, and its derivative."""
    count = (m + 1) // 2 + 1
    j = np.arange(1, count)
    f = np.cumprod(np.concatenate([[1.0], (1 - 0.5 / j) * (1 - 1 / (2 * m + 2 * j + 1))]))
    series = np.zeros(count)  # the reciprocal of the power series f
    series[0] = 1.0
    for k in range(1, count):
        series[k] = -f[1 : k + 1] @ series[:k][::-1]
    frequency = m + 1 - 2 * np.arange(count)
    if frequency[-1] == 0:
        series[-1] /= 2
    angles = np.multiply.outer(theta, frequency)
    return np.cos(angles) @ series, np.sin(angles) @ (-frequency * series)
