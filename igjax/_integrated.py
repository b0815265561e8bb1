"""Integrated gradients as function transforms: of scalar functions, and of array functions."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from jax.sharding import NamedSharding

from igjax import baselines, paths, quadrature
from igjax._engine.along_path import along_path, gradient, jacobian
from igjax._engine.attribution import Attribution, P
from igjax._engine.options import checked
from igjax._trees import Tree

__all__ = ["integrated_grad", "integrated_jacobian"]


def integrated_grad(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
    affine_prefix: bool = True,
) -> Attribution[P]:
    """Returns a function that computes the integrated gradients of ``fun``.

    The attribution to element i is the integral, over alpha from 0 to 1, of
    ``dF/dx_i(path(alpha)) * dpath_i/dalpha``. Along the straight line from the baseline x' to x
    that is ``(x_i - x'_i)`` times the mean of the i-th partial derivative. The attributions sum to
    ``F(x) - F(x')``, up to the error of the rule (completeness).

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      argnums: the positional argument(s) to attribute to, an integer or several. Several are one
        input: the path runs through all of them together. Of a pytree the floats are attributed;
        integers, bools and random keys beside them (a graph's edges, a mask) come to ``fun`` as
        they are.
      has_aux: whether ``fun`` returns a pair, of the scalar and auxiliary data.
      baseline: a pytree like the argument (with several ``argnums``, a tuple of such), or a
        function of the argument (the tuple) that makes one.
      path: a function ``(baseline, x, alpha) -> point``; see ``igjax.paths``.
      rule: where on the path to evaluate the gradient, and with what weights, or how good the
        answer has to be (``quadrature.to_tolerance``); see ``igjax.quadrature``.
      multiply_by_inputs: if False, the gradient alone is integrated, without ``dpath_i/dalpha``.
      batch_size: how many gradients a device evaluates at once, which bounds the memory, that of
        reverse-mode differentiation too; None: all of them (16 with ``to_tolerance``); "auto": as
        many as fit, which takes a compilation to find out: call it under ``jax.jit``. Where it is a
        number, or with ``to_tolerance``, nodes are gone through in a loop, which is compiled when
        it is called, and kept: ``fun`` has to be pure, as for JAX's own loops, and arguments that
        are no arrays, such as flags and Python's numbers, are part of the program.
      has_report: whether to add a ``Report`` to what is returned.
      sharding: for one example on many devices: a ``NamedSharding`` for the array of nodes, or the
        name(s) of the mesh axes to spread the nodes over. Every device evaluates its share, and one
        reduction adds them up (with ``to_tolerance`` one for each look at the error).
      affine_prefix: whether to apply the affine part that ``fun`` may begin with (a dense layer, a
        convolution …) once, instead of once at each node. The answer is the same up to rounding;
        False is for measuring what it saves.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions: a pytree like the
      argument, in its dtypes, with None for what is not of floats (with several ``argnums`` a tuple
      of such). With ``has_aux``, a pair
      ``(attributions, aux)``, with the auxiliary data at x. With ``has_report``, a ``Report`` is
      added as the last element.

    Raises:
      TypeError: if ``fun`` or ``path`` is no function, ``rule`` no rule, or a number no integer;
        when called, if an attributed argument has no floats, or the value of ``fun`` is none.
      ValueError: if ``rule`` is unsound (of traced arrays only the shapes are looked at) or
        ``batch_size < 1``; when called, if ``fun`` does not return a scalar, or the baseline or
        the path's points are not like the argument.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> f = lambda x: x[0] * x[1] + x[2] ** 3
      >>> igjax.integrated_grad(f, rule=igjax.quadrature.gauss_legendre(2))(
      ...     jnp.array([1.0, 2.0, 3.0])).round(4)
      Array([ 1.,  1., 27.], dtype=float32)

      Examples and labels in a batch, with error bars:

      >>> logits = lambda x: jnp.tanh(jnp.arange(6.0).reshape(2, 3) @ x)
      >>> attribute = igjax.integrated_grad(lambda x, label: logits(x)[label], has_report=True)
      >>> attributions, report = jax.jit(jax.vmap(attribute))(jnp.ones((5, 3)), jnp.arange(5) % 2)
      >>> attributions.shape, report.error.shape
      ((5, 3), (5,))

    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1; for
    other paths section 4.1 there.
    """
    options = checked(
        argnums=argnums,
        has_aux=has_aux,
        baseline=baseline,
        path=path,
        rule=rule,
        multiply_by_inputs=multiply_by_inputs,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
        affine_prefix=affine_prefix,
    )
    return along_path("integrated_grad", fun, options, gradient)


def integrated_jacobian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baseline: Tree | baselines.Baseline = baselines.zeros,
    path: paths.Path = paths.straight_line,
    rule: quadrature.Rule | quadrature.Tolerance = quadrature.gregory(64),
    multiply_by_inputs: bool = True,
    batch_size: int | Literal["auto"] | None = None,
    has_report: bool = False,
    sharding: NamedSharding | str | tuple[str, ...] | None = None,
    affine_prefix: bool = True,
) -> Attribution[P]:
    """Returns a function that computes the integrated gradients of every output of ``fun`` at once.

    It is to ``integrated_grad`` what ``jax.jacrev`` is to ``jax.grad``.

    Args:
      fun: a function of pytrees of arrays to a pytree of real arrays.
      argnums: as for ``integrated_grad``.
      has_aux: whether ``fun`` returns a pair, of the outputs and auxiliary data.
      baseline: as for ``integrated_grad``, and so are the other arguments.
      path: see ``igjax.paths``.
      rule: see ``igjax.quadrature``. With ``to_tolerance``, every output has to meet it.
      multiply_by_inputs: if False, the Jacobian alone is integrated, without ``dpath/dalpha``.
      batch_size: how many Jacobians a device evaluates at once.
      has_report: whether to add a ``Report``, whose ``value``, ``baseline_value``,
        ``completeness_gap`` and ``error`` are pytrees like the output.
      sharding: as for ``integrated_grad``.
      affine_prefix: likewise.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions: a pytree like the
      output, whose every leaf is replaced by a pytree like the argument, of arrays of shape
      ``output.shape + argument.shape``; then aux and report, as ``integrated_grad`` does.

    Raises:
      TypeError: when called, if an attributed argument has no floats, or an output is none.
      ValueError: when called, if the baseline or the path's points are not like the argument.

    Example:
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> f = lambda x: jnp.stack([x[0] * x[1], x.sum()])
      >>> igjax.integrated_jacobian(f)(jnp.array([1.0, 2.0])).round(4)
      Array([[1., 1.],
             [1., 2.]], dtype=float32)

    Source: Sundararajan, Taly & Yan 2017, eq. 1, for each output.
    """
    options = checked(
        argnums=argnums,
        has_aux=has_aux,
        baseline=baseline,
        path=path,
        rule=rule,
        multiply_by_inputs=multiply_by_inputs,
        batch_size=batch_size,
        has_report=has_report,
        sharding=sharding,
        affine_prefix=affine_prefix,
    )
    return along_path("integrated_jacobian", fun, options, jacobian)
