"""``Report``: how good an answer is."""

import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from igjax._precision import sum_dtype
from igjax._trees import Tree, map_parts


class Reason(enum.IntEnum):
    """Why an integration ended: what the numbers in ``Report.reason`` stand for.

    Example:
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> f = lambda x: jnp.exp(jnp.sum(x))
      >>> rule = igjax.quadrature.to_tolerance(1e-9)
      >>> _, report = igjax.integrated_grad(f, rule=rule, has_report=True)(jnp.ones(3))
      >>> igjax.Reason(int(report.reason)).name
      'PRECISION'
    """

    CONVERGED = 0  # the error is within the tolerance; or the rule is fixed, and all is finite
    MAX_EVALS = 1  # more gradients would have been needed
    PRECISION = 2  # the error is mostly rounding: a more precise dtype is needed
    NOT_FINITE = 3  # the attributions, or what is known of their error, are NaN or infinite


class Report(NamedTuple):
    """What there is to know about an attribution besides itself. A pytree of arrays.

    Look at both error and gap. A large error asks for more nodes. A gap much larger than the error
    says that the function is not differentiable along the path (it rounds, say), or that the path
    does not run from the baseline to the input (``igjax.paths.check``).

    For ``integrated_jacobian`` each of the first four is a pytree like the function's output.

    Attributes:
      value: F(x), in the function's dtype.
      baseline_value: F(x'), likewise.
      completeness_gap: the sum of the attributions less ``F(x) - F(x')``; NaN with
        ``multiply_by_inputs=False``, whose attributions have no such sum. A poor error bar by
        itself: errors of both signs cancel in it.
      error: an estimate of the L1 error of the attributions, relative to their L1 norm. With a
        fixed rule, an upper estimate: the difference between its attributions and those of the
        coarser rule embedded in it, the completeness gap, the changes of F from node to node that
        its slopes don't explain, and what the gradients just inside the ends of the path make
        possible, added up; NaN where the rule embeds none. With ``to_tolerance``, see there.
      num_evals: the number of points of the path at which the gradient was evaluated, int32: with a
        rule that isn't closed, two more than its nodes, to know the error.
      converged: whether the error is within the tolerance asked for; for a fixed rule, with which
        none is asked for, whether the attributions are finite, and their error if it is known.
      reason: why the integration ended, int32: see ``Reason``.
    """

    value: Any
    baseline_value: Any
    completeness_gap: Any
    error: Any
    num_evals: jax.Array
    converged: jax.Array
    reason: jax.Array


# So that an exported attribution can be serialized with its report.
jax.export.register_namedtuple_serialization(Report, serialized_name="igjax.Report")


class Account(NamedTuple):
    """What an integration knows of its own accuracy: these fields of a ``Report``."""

    error: Any
    num_evals: jax.Array
    reason: jax.Array


def report(
    x: Tree,
    attributions: Tree,
    account: Account,
    value: Tree,
    baseline_value: Tree,
    *,
    complete: bool,
) -> Report:
    """Returns the report on attributions to ``x``.

    Args:
      x: the input.
      attributions: in the precision of sums.
      account: what the integration says.
      value: F(x).
      baseline_value: F(x').
      complete: whether the attributions are meant to sum to the difference of the values.
    """
    gap = completeness_gap(x, attributions, value, baseline_value) if complete else _unknown(value)
    converged = account.reason == Reason.CONVERGED
    error, num_evals, reason = account
    return Report(value, baseline_value, gap, error, num_evals, converged, reason)


def _unknown(value: Tree) -> Tree:
    """Returns NaN for each output."""
    return jax.tree.map(lambda v: jnp.full(v.shape, jnp.nan, sum_dtype(v.dtype)), value)


def completeness_gap(x: Tree, attributions: Tree, value: Tree, baseline_value: Tree) -> Tree:
    """Returns the sum of the attributions less the difference of the values, for each output."""

    def gap(part: Tree, value: jax.Array, baseline_value: jax.Array) -> jax.Array:
        total = sum_over(x, part)
        dtype = sum_dtype(total.dtype, value.dtype)
        return total.astype(dtype) - (value.astype(dtype) - baseline_value.astype(dtype))

    return map_parts(gap, x, attributions, value, baseline_value)


def l1_norm(x: Tree, attributions: Tree) -> Tree:
    """Returns the sum of the absolute values of the attributions to ``x``, for each output."""
    return map_parts(lambda part: sum_over(x, jax.tree.map(jnp.abs, part)), x, attributions)


def relative(error: jax.Array, norm: jax.Array) -> jax.Array:
    """Returns ``error / norm``; 0 for 0 / 0."""
    # Dividing by 1 where there is no error keeps 0 / 0 and its NaN gradient away; NaN stays NaN.
    return error / jnp.where(error == 0.0, 1.0, norm)


def sum_over(x: Tree, part: Tree) -> jax.Array:
    """Sums ``part`` over all elements of ``x``; the output's axes, in front, remain."""

    def leaf(part: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(part, axis=tuple(range(part.ndim - x.ndim, part.ndim)))

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(leaf, part, x)))
