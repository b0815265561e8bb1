"""Quadrature rules on [0, 1]: where along the path to look, and how much each look counts.

A rule is a value, not a class to subclass: two NumPy arrays in float64, and a third if it can
estimate its own error. ``Rule(nodes, weights)`` with arrays of your own is as good as any here.

========================  ===========================  ====================  ===============
rule                      nodes                        exact up to degree    embedded rule
========================  ===========================  ====================  ===============
``riemann_left``          ``k / n``                    0                     none
``riemann_right``         ``(k + 1) / n``              0                     none
``riemann_midpoint``      ``(k + 1/2) / n``            1                     none
``trapezoid``             ``k / (n - 1)``              1                     odd ``n >= 3``
``simpson``               ``k / (n - 1)``              3                     none
``gauss_legendre``        roots of ``P_n``             2n - 1                none
``gauss_kronrod``         Gauss's and ``m + 1`` more   3m + 1, odd m: 3m + 2 always
``clenshaw_curtis``       Chebyshev's extrema          n - 1, odd n: n       odd ``n >= 3``
``sine``                  ``t - sin(2 pi t) / 2 pi``   1                     odd ``n >= 3``
``gregory``               ``(k + 1/3) / n``            1, from n = 32 on 3   even ``n``
========================  ===========================  ====================  ===============
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from igjax._inputs import as_real, check_count, check_number, is_known
from igjax._quadrature import gauss
from igjax._quadrature import gregory as _gregory
from igjax._quadrature.gauss import Floats

__all__ = [
    "Rule",
    "Tolerance",
    "clenshaw_curtis",
    "composite",
    "gauss_kronrod",
    "gauss_legendre",
    "gregory",
    "riemann_left",
    "riemann_midpoint",
    "riemann_right",
    "simpson",
    "sine",
    "to_tolerance",
    "trapezoid",
]


_MOST = 2**24  # nodes of a rule, which has them all in memory; a tolerance does not


class Rule(NamedTuple):
    """A quadrature rule: ``sum(weights * f(nodes))`` stands for the integral of ``f`` over [0, 1].

    Attributes:
      nodes: shape ``(n,)``, float64, non-decreasing, in [0, 1].
      weights: shape ``(n,)``, float64, summing to 1.
      embedded_weights: shape ``(n,)``, float64, the weights of a coarser rule on the same nodes
        (zero where the coarser rule has no node), or None. The difference between the two sums
        estimates the error of the coarser one, at no extra evaluation.

    Example:
      >>> import numpy as np
      >>> from igjax.quadrature import Rule
      >>> rule = Rule(np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 1.0]) / 6)
      >>> round(float(rule.weights @ rule.nodes**3), 12)
      0.25
    """

    # Any, not an array: a rule drawn at random under jit holds traced arrays.
    nodes: Any
    weights: Any
    embedded_weights: Any = None

    def __repr__(self) -> str:
        """Returns a line, for signatures: the arrays themselves are long."""
        embedded = "no embedded rule" if self.embedded_weights is None else "an embedded rule"
        return f"Rule({np.size(self.nodes)} nodes, {embedded})"


def check_rule(rule: Rule) -> Rule:
    """Returns ``rule`` with its arrays in float64, or says what is wrong with it.

    Traced arrays (nodes drawn at random under ``jit``) can be checked for their shapes alone.

    Args:
      rule: a ``Rule``, or a tuple ``(nodes, weights[, embedded_weights])``.

    Returns:
      The same rule as a ``Rule`` of float64 NumPy arrays; traced arrays are passed on as they are.

    Raises:
      TypeError: if ``rule`` is not made of two or three arrays.
      ValueError: if shapes differ, nodes are not in [0, 1] or not sorted, weights do not sum to 1,
        or the embedded ones are the same.
    """
    if isinstance(rule, Tolerance):
        raise TypeError(f"a fixed rule is needed here, such as gregory(64); got {rule!r}.")
    if not isinstance(rule, tuple) or len(rule) not in (2, 3):
        raise TypeError(
            "rule must be an igjax.quadrature.Rule, such as igjax.quadrature.gregory(64) or "
            f"Rule(nodes, weights); got {rule!r}."
        )
    named = zip(Rule._fields, rule, strict=False)
    rule = Rule(*(None if array is None else _as_float64(f"rule.{n}", array) for n, array in named))
    if rule.nodes is None or rule.weights is None:
        raise ValueError(
            "rule has no weights: give Rule(nodes, weights), or one of igjax.quadrature, such as "
            "gauss_legendre(50)."
        )
    for name, array in zip(Rule._fields, rule, strict=True):
        if array is not None and (array.ndim != 1 or array.shape != rule.nodes.shape):
            raise ValueError(
                f"rule.{name} must have shape (n,), one entry for each node; got shape "
                f"{array.shape}, with nodes of shape {rule.nodes.shape}."
            )
    if rule.nodes.size == 0:
        raise ValueError("rule has no nodes: at least one is needed.")
    if isinstance(rule.nodes, np.ndarray):
        _check_nodes(rule.nodes)
    for name in ("weights", "embedded_weights"):
        weights = getattr(rule, name)
        if isinstance(weights, np.ndarray) and not abs(weights.sum() - 1.0) < 1e-6:
            raise ValueError(
                f"rule.{name} must sum to 1, for the integral of 1 over [0, 1] is 1; they sum to "
                f"{weights.sum():.9g}. Divide by the sum if the rule is meant for another interval."
            )
    if isinstance(rule.weights, np.ndarray) and np.array_equal(rule.weights, rule.embedded_weights):
        raise ValueError(
            "rule.embedded_weights must be those of a coarser rule, whose difference tells the "
            "error; got the weights themselves. Leave them out if there is none."
        )
    return rule


def _as_float64(name: str, array: ArrayLike) -> Any:
    array = as_real(name, array)
    return np.asarray(array, np.float64) if is_known(array) else array


def _check_nodes(nodes: Floats) -> None:
    if not (np.all(nodes >= 0.0) and np.all(nodes <= 1.0)):
        raise ValueError(
            f"rule.nodes must lie in [0, 1]; they run from {nodes.min():.9g} to {nodes.max():.9g}. "
            "A rule on [-1, 1] is moved here by nodes -> (nodes + 1) / 2, weights -> weights / 2."
        )
    if np.any(np.diff(nodes) < 0.0):
        raise ValueError(
            "rule.nodes must be sorted; with order = np.argsort(nodes) give Rule(nodes[order], "
            "weights[order])."
        )


def riemann_left(n: int) -> Rule:
    """Makes the left Riemann sum: ``n`` equal panels, each looked at where it begins.

    Args:
      n: the number of nodes, at least 1.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for constants.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.riemann_left(4).nodes
      array([0.  , 0.25, 0.5 , 0.75])
    """
    return _riemann("riemann_left", n, 0.0)


def riemann_right(n: int) -> Rule:
    """Makes the right Riemann sum: ``n`` equal panels, each looked at where it ends.

    This is the sum in the paper (Sundararajan et al. 2017, eq. 3).

    Args:
      n: the number of nodes, at least 1.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for constants.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.riemann_right(4).nodes
      array([0.25, 0.5 , 0.75, 1.  ])
    """
    return _riemann("riemann_right", n, 1.0)


def riemann_midpoint(n: int) -> Rule:
    """Makes the midpoint rule: ``n`` equal panels, each looked at in the middle.

    Args:
      n: the number of nodes, at least 1.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree 1.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.riemann_midpoint(2).nodes
      array([0.25, 0.75])
    """
    return _riemann("riemann_midpoint", n, 0.5)


def _riemann(name: str, n: int, shift: float) -> Rule:
    n = check_count(f"{name}: n", n, 1, _MOST)
    return Rule((np.arange(n) + shift) / n, np.full(n, 1.0 / n))


def trapezoid(n: int) -> Rule:
    """Makes the trapezoid rule on ``n`` equally spaced nodes, both ends among them.

    Args:
      n: the number of nodes, at least 2. An odd ``n`` of at least 3 embeds ``trapezoid((n+1)/2)``.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree 1.

    Raises:
      ValueError: if ``n < 2``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.trapezoid(3).weights
      array([0.25, 0.5 , 0.25])
    """
    n = check_count("trapezoid: n", n, 2, _MOST)
    embedded = _every_second(_trapezoid_weights((n + 1) // 2), n, first=0) if n % 2 else None
    return Rule(np.linspace(0.0, 1.0, n), _trapezoid_weights(n), embedded)


def _trapezoid_weights(n: int) -> Floats:
    weights = np.full(n, 1.0 / (n - 1))
    weights[[0, -1]] /= 2
    return weights


def _every_second(weights: Floats, n: int, first: int) -> Floats:
    """Sets out the weights of a coarser rule on every second of the ``n`` nodes of a finer one."""
    embedded = np.zeros(n)
    embedded[first::2] = weights
    return embedded


def simpson(n: int) -> Rule:
    """Makes Simpson's rule on ``n`` equally spaced nodes, both ends among them.

    Simpson's parabolas need an even number of panels, that is an odd ``n``. For an even one the
    last three panels are done by the 3/8 rule, which is exact to the same degree.

    Args:
      n: the number of nodes, at least 3.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree 3.

    Raises:
      ValueError: if ``n < 3``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.simpson(3).weights * 6
      array([1., 4., 1.])
    """
    n = check_count("simpson: n", n, 3, _MOST)
    weights = np.zeros(n)
    last = n if n % 2 else n - 3  # Simpson's panels end at this node, counted from 1
    weights[: last - 1 : 2] += 1 / 3
    weights[1:last:2] += 4 / 3
    weights[2:last:2] += 1 / 3
    if last < n:
        weights[-4:] += np.array([3.0, 9.0, 9.0, 3.0]) / 8
    return Rule(np.linspace(0.0, 1.0, n), weights / (n - 1))


def gauss_legendre(n: int) -> Rule:
    """Makes the Gauss–Legendre rule: the highest degree of exactness that ``n`` nodes can have.

    It embeds no coarser rule, so that a report has no error estimate; ``gauss_kronrod`` has one.

    Args:
      n: the number of nodes, at least 1.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree ``2 n - 1``.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> from igjax import quadrature
      >>> rule = quadrature.gauss_legendre(2)
      >>> round(float(rule.weights @ rule.nodes**3), 12)
      0.25
    """
    n = check_count("gauss_legendre: n", n, 1, _MOST)
    return Rule(*gauss.legendre(n))


def gauss_kronrod(n: int) -> Rule:
    """Makes the Gauss–Kronrod rule: Gauss's ``m = (n - 1) / 2`` nodes and ``m + 1`` between them.

    Args:
      n: the number of nodes, odd and at least 3. It embeds ``gauss_legendre((n - 1) / 2)``.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree ``3 m + 1``.

    Raises:
      ValueError: if ``n < 3`` or ``n`` is even: there is no such rule.

    Example:
      >>> from igjax import quadrature
      >>> rule = quadrature.gauss_kronrod(15)
      >>> int((rule.embedded_weights > 0).sum())
      7

    Source: Kronrod 1965, "Nodes and Weights of Quadrature Formulas"; ``_quadrature/gauss.py`` says
    how they are computed.
    """
    n = check_count("gauss_kronrod: n", n, 3, _MOST)
    if n % 2 == 0:
        raise ValueError(
            f"gauss_kronrod(n) exists for odd n only, 2 m + 1; got {n}: take {n - 1} or {n + 1}."
        )
    nodes, weights, gauss_weights = gauss.kronrod(n // 2)
    return Rule(nodes, weights, _every_second(gauss_weights, n, first=1))


def clenshaw_curtis(n: int) -> Rule:
    """Makes the Clenshaw–Curtis rule: it integrates the polynomial through Chebyshev's extrema.

    The weights are the cosine transform of the integrals of the Chebyshev polynomials
    (Waldvogel 2006, BIT 46, 195-202).

    Args:
      n: the number of nodes, at least 2. An odd ``n`` of at least 3 embeds
        ``clenshaw_curtis((n + 1) / 2)``.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree ``n - 1`` (``n`` if ``n`` is odd).

    Raises:
      ValueError: if ``n < 2``.

    Example:
      >>> from igjax import quadrature
      >>> quadrature.clenshaw_curtis(3).weights * 6
      array([1., 4., 1.])
    """
    n = check_count("clenshaw_curtis: n", n, 2, _MOST)
    theta = np.pi * np.arange((n + 1) // 2) / (n - 1)
    embedded = _every_second(_clenshaw_curtis_weights((n + 1) // 2), n, 0) if n % 2 else None
    return Rule(gauss.nodes_at(theta, n), _clenshaw_curtis_weights(n), embedded)


def _clenshaw_curtis_weights(n: int) -> Floats:
    integrals = np.zeros(n)
    integrals[0::2] = 2.0 / (1.0 - np.arange(0, n, 2) ** 2)
    weights = np.fft.irfft(integrals, 2 * (n - 1))[:n]
    weights[[0, -1]] /= 2
    return weights


def sine(n: int) -> Rule:
    """Makes the trapezoid rule after ``alpha = t - sin(2 pi t) / (2 pi)``, nested and fast.

    The substitution (Sidi 1993, Numerical Integration IV, 359-373, m = 1) flattens the integrand at
    both ends. Where it is smooth, the error falls with the sixth power of n; else as 1/n, which no
    rule betters. The rules of 7, 15, 31, 63 … nodes contain one another.

    Args:
      n: the number of nodes, at least 1. An odd ``n`` of at least 3 embeds ``sine((n - 1) / 2)``.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree 1.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> import numpy as np
      >>> from igjax import quadrature
      >>> rule = quadrature.sine(31)
      >>> float(abs(rule.weights @ np.exp(rule.nodes) - np.expm1(1.0))) < 1e-6
      True
    """
    n = check_count("sine: n", n, 1, _MOST)
    lower = np.arange(1, (n + 1) // 2 + 1) / (n + 1)
    nodes = lower - np.sin(2 * np.pi * lower) / (2 * np.pi)
    nodes = np.concatenate([nodes, 1.0 - nodes[: n // 2][::-1]])
    embedded = _every_second(_sine_weights(n // 2), n, first=1) if n % 2 and n >= 3 else None
    return Rule(nodes, _sine_weights(n), embedded)


def _sine_weights(n: int) -> Floats:
    t = np.arange(1, n + 1) / (n + 1)
    return 2.0 * np.sin(np.pi * t) ** 2 / (n + 1)  # (1 - cos(2 pi t)) / (n + 1)


def gregory(n: int) -> Rule:
    """Makes the rule of equal steps with corrected ends, which is best for ReLU networks.

    Where the integrand jumps at many places, as the gradient of a ReLU network does, no rule is
    better than equal steps. On real networks it had the error that Gauss–Legendre or ``sine`` have
    with 1.5 to 2 times the nodes (for the probability of a word in a translation: 0.09 with 32
    nodes, where ``sine(31)`` had 0.20), and on a network of smooth functions it was no worse. A
    simple polynomial is better served by ``gauss_legendre``. No node is at an end of [0, 1]: the
    first is a third of a step from 0, the last two thirds of one from 1.

    Args:
      n: the number of nodes, at least 1. An even ``n`` embeds the rule of ``n / 2`` nodes whose
        first is two thirds of its step from 0.

    Returns:
      A ``Rule`` of ``n`` nodes, exact for polynomials of degree 1 from ``n = 4`` on, and of
      degree 3 from ``n = 32`` on.

    Raises:
      ValueError: if ``n < 1``.

    Example:
      >>> import numpy as np
      >>> from igjax import quadrature
      >>> rule = quadrature.gregory(64)
      >>> float(abs(rule.weights @ np.exp(rule.nodes) - np.expm1(1.0))) < 1e-8
      True

    Source: J. Gregory 1670, in modern terms by the Euler–Maclaurin formula: see
    ``_quadrature/gregory.py``.
    """
    n = check_count("gregory: n", n, 1, _MOST)
    nodes, weights = _gregory.rule(n)
    if n % 2:
        return Rule(nodes, weights)
    _, coarse_weights = _gregory.rule(n // 2, 1.0 - _gregory.SHIFT)
    return Rule(nodes, weights, _every_second(coarse_weights, n, first=1))


def composite(rule: Rule, panels: int) -> Rule:
    """Applies a rule to each of ``panels`` equal parts of [0, 1].

    Use it where the integrand breaks off at known places, as along ``paths.polyline(points)``,
    whose direction changes at every waypoint. There take an open rule, such as ``gauss_legendre``
    or ``sine``: a closed one would look at the very place where the direction is not defined.

    Args:
      rule: the rule for each part.
      panels: the number of parts, at least 1.

    Returns:
      A ``Rule`` of ``panels * n`` nodes, as exact as ``rule`` on each part.

    Raises:
      ValueError: if ``panels < 1`` or ``rule`` is not a sound rule.
      TypeError: if ``rule`` has traced arrays.

    Example:
      >>> import numpy as np
      >>> from igjax import quadrature
      >>> rule = quadrature.composite(quadrature.gauss_legendre(2), 2)
      >>> round(float(rule.weights @ np.abs(rule.nodes - 0.5)), 12)
      0.25
    """
    panels = check_count("composite: panels", panels, 1, _MOST)
    nodes, weights, embedded = check_rule(rule)
    if not isinstance(nodes, np.ndarray):
        raise TypeError("composite needs a rule of NumPy arrays; got traced ones.")
    starts = np.arange(panels)[:, None]
    return Rule(
        ((starts + nodes) / panels).ravel(),
        np.tile(weights / panels, panels),
        None if embedded is None else np.tile(embedded / panels, panels),
    )


class Tolerance(NamedTuple):
    """How good an answer has to be, and how much it may cost: see ``to_tolerance``, which makes it.

    Attributes:
      rtol: the L1 error of the attributions allowed, relative to their L1 norm.
      atol: the L1 error allowed in addition, in the unit of the attributions.
      max_evals: the number of gradients at which to give up.
    """

    rtol: Any
    atol: Any
    max_evals: int


def to_tolerance(rtol: Any = 1e-2, atol: Any = 0.0, max_evals: int = 594) -> Tolerance:
    """Asks for as many nodes as it takes: equal steps with corrected ends, halved again and again.

    Each rule contains the one before, so that no gradient is evaluated twice. It ends when the
    estimated L1 error of the attributions is at most ``atol + rtol * (their L1 norm)``. What does
    not get there within ``max_evals``, or not at all because the function rounds too much, is
    returned all the same, with ``converged=False``; ``Report.reason`` tells why.

    It begins with 16 nodes and two observers, just inside the ends of the path. If that is not
    enough, it goes on in one of three ways:

    - with equal steps, if the integrand looks smooth;
    - with nodes that are dense where the gradient was seen to change much, as in a ReLU network;
    - with closer looks at where something may be hidden, of 16 nodes, up to four of them, and then
      with nodes that are placed by what these saw. After a layer norm, for one, most of the
      integral from a zero baseline may be in the first thousandth of the path.

    The estimate puts together how the attributions change from rule to rule, the completeness gap,
    how F changes from node to node, and how different the observers' gradients are from those next
    to them: see ``igjax/_engine/adaptive.py``. ``python -m benchmarks --only families`` tries it on
    71 kinds of functions. It remains an estimate: what lies between two nodes is not seen if the
    gradients on both sides are alike and F is as if it were not there. That is less than a
    sixteenth of the path at first, and with placed nodes at most five times their mean distance.
    Nor is what lies nearer to an end than the observers, 2^-16 of the path, if it has passed by
    there and cancels in F: a tanh network that was trained from zero may leave its zero state at
    1e-14.

    Memory does not depend on the number of nodes: ``batch_size`` of them (rounded down to a power
    of 2 of at most 16; 18 to begin with, if so many may be) are evaluated at once, and hardly more
    than sums is kept. Under ``vmap`` every example stops by itself, but the loop runs until the
    slowest has stopped. Derivatives are those of the rule arrived at: the choice of nodes counts as
    a constant.

    Args:
      rtol: relative tolerance, at least 0; a number or a scalar array.
      atol: absolute tolerance, likewise. One of the two must be above 0.
      max_evals: the most gradients to evaluate for an example, at least 18. What is evaluated is 2
        and a power of 2, or where nodes are placed 18, 16 for each closer look, and a power of 2:
        594 is enough for all four looks and 512.

    Returns:
      A ``Tolerance``, to be passed as ``rule=`` wherever a ``Rule`` is.

    Raises:
      ValueError: if a tolerance is negative, infinite or NaN, both are 0, or ``max_evals`` is less
        than 18 or no int32.
      TypeError: if a tolerance is no real number.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> f = lambda x: jnp.exp(jnp.sum(jnp.sin(x)))
      >>> rule = igjax.quadrature.to_tolerance(1e-3)
      >>> attribute = jax.jit(igjax.integrated_grad(f, rule=rule, has_report=True))
      >>> attributions, report = attribute(jnp.arange(3.0))
      >>> int(report.num_evals), bool(report.converged), bool(report.error <= 1e-3)
      (34, True, True)
    """
    return check_tolerance(Tolerance(rtol, atol, max_evals))


def check_tolerance(tolerance: Tolerance) -> Tolerance:
    """Returns ``tolerance``, as far as it is known, or says what is wrong with it.

    Raises:
      TypeError: if it is not of numbers.
      ValueError: if one is out of range; see ``to_tolerance``.
    """
    rtol, atol, max_evals = tolerance
    check_number("rtol", rtol)
    check_number("atol", atol)
    if is_known(rtol) and is_known(atol) and rtol == atol == 0:
        raise ValueError("to_tolerance: rtol or atol must be above 0; both are 0.")
    most = int(np.iinfo(np.int32).max)
    return Tolerance(rtol, atol, check_count("max_evals", max_evals, least=18, most=most))
