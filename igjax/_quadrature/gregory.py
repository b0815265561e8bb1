"""Gregory's rule: equal steps, with the weights of the first and last few nodes corrected.

Where an integrand jumps at many places, as the gradient of a ReLU network does along a path, no
rule is better than equal steps. Gregory's end corrections make equal steps exact for polynomials,
and so good for smooth integrands too. The grid is shifted by a third of a step: then a grid of half
the step contains it, shifted by two thirds of its own, and neither has a node at an end of [0, 1],
where a gradient may not be defined.
"""

import numpy as np

from igjax._quadrature.gauss import Floats

_SHIFT = 1 / 3


def rule(n: int) -> tuple[Floats, Floats]:
    """Returns the nodes and weights of the rule of ``n`` nodes; that of ``2 n`` has its nodes."""
    shift = _shift(n)
    # Twice as many corrections where there is room: they cost nothing, but for few nodes their
    # alternating signs would make more of a jump near an end.
    order = min(2 if n < 32 else 4, n // 2)
    weights = np.ones(n)
    weights[:order] += _correction(shift, order)
    weights[n - order :] += _correction(1.0 - shift, order)[::-1]
    return (np.arange(n) + shift) / n, weights / n


def _shift(n: int) -> float:
    """Returns the place of the first node, in steps: 1/3 or 2/3, the other at every doubling."""
    halvings = (n & -n).bit_length() - 1
    return 1.0 - _SHIFT if halvings % 2 else _SHIFT


def _correction(shift: float, order: int) -> Floats:
    """Returns what to add to the weights of the first ``order`` nodes, in steps.

    By the Euler–Maclaurin formula the sum of ``x**m`` over ``x = shift, shift + 1, …`` exceeds its
    integral from 0 by ``-B_{m+1}(shift) / (m + 1)``, of Bernoulli polynomials, at the near end.
    """
    powers = np.vander(shift + np.arange(order), order, increasing=True).T
    return np.linalg.solve(powers, [_bernoulli(m + 1, shift) / (m + 1) for m in range(order)])


def _bernoulli(degree: int, x: float) -> float:
    coefficients = {
        1: (1.0, -1 / 2),
        2: (1.0, -1.0, 1 / 6),
        3: (1.0, -3 / 2, 1 / 2, 0.0),
        4: (1.0, -2.0, 1.0, 0.0, -1 / 30),
    }
    return float(np.polyval(coefficients[degree], x))
