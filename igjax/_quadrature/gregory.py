"""Gregory's rule: equal steps, with the weights of the first and last few nodes corrected.

Where an integrand jumps at many places, as the gradient of a ReLU network does along a path, no
rule is better than equal steps. Gregory's end corrections make equal steps exact for polynomials,
and so good for smooth integrands too. The grid is shifted by a third of a step: then one of twice
the step is contained in it, shifted by two thirds of its own, and neither has a node at an end of
[0, 1], where a gradient may not be defined. The third comes first: baselines are at 0, and there
integrands are steep.
"""

import numpy as np

from igjax._quadrature.gauss import Floats

SHIFT = 1 / 3


def rule(n: int, shift: float = SHIFT) -> tuple[Floats, Floats]:
    """Returns the nodes and weights of the rule of ``n`` nodes, the first of which is at ``shift``.

    Of an even number and a shift of 1/3, every second node from the second on is one of
    ``rule(n // 2, 2 / 3)``; with 2/3, from the first on, of ``rule(n // 2, 1 / 3)``.
    """
    weights = np.ones(n)
    first, last = corrections(n, shift)
    weights[: first.size] += first
    weights[::-1][: last.size] += last
    return (np.arange(n) + shift) / n, weights / n


def corrections(n: int, shift: float) -> tuple[Floats, Floats]:
    """Returns what is added to the first weights, and to the last, from the last on, in steps."""
    # Twice as many where there is room: they cost nothing, but for few nodes their alternating
    # signs would make more of a jump near an end.
    order = min(2 if n < 32 else 4, n // 2)
    return _correction(shift, order), _correction(1.0 - shift, order)


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
