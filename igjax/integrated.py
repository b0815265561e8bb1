"""Integrated gradients as function transforms: of scalar functions, and of array functions."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from igjax import _fixed, _tolerance, baselines, paths, quadrature
from igjax._inputs import as_floating, check_count, resolve_baseline
from igjax._memory import fitting_batch_size
from igjax._path_integral import Integrand, map_parts, path_integrand
from igjax._report import report
from igjax._sharding import laid_out_like, mesh_of, node_sharding, per_device, vary_like

__all__ = ["integrated_grad", "integrated_jacobian"]

Tree = Any


def integrated_grad(
    fun: Callable[..., Any],
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
) -> Callable[..., Any]:
    """Returns a function that computes the integrated gradients of ``fun``.

    The attribution to element i is the integral, over alpha from 0 to 1, of
    ``dF/dx_i(path(alpha)) * dpath_i/dalpha``. Along the straight line from the baseline x' to x
    that is ``(x_i - x'_i)`` times the mean of the i-th partial derivative. The attributions sum to
    ``F(x) - F(x')``, up to the error of the rule (completeness).

    Args:
      fun: a function of pytrees of arrays to a real scalar.
      argnums: the positional argument(s) to attribute to, an integer or several. Several are one
        input: the path runs through all of them together.
      has_aux: whether ``fun`` returns a pair, of the scalar and auxiliary data.
      baseline: a pytree like the argument (with several ``argnums``, a tuple of such), or a
        function of the argument (the tuple) that makes one.
      path: a function ``(baseline, x, alpha) -> point``; see ``igjax.paths``.
      rule: where on the path to evaluate the gradient, and with what weights, or how good the
        answer has to be (``quadrature.to_tolerance``); see ``igjax.quadrature``.
      multiply_by_inputs: if False, the gradient alone is integrated, without ``dpath_i/dalpha``.
      batch_size: how many gradients a device evaluates at once, which bounds the memory, that of
        reverse-mode differentiation too; None: all of them (16 with ``to_tolerance``); "auto": as
        many as fit, which takes a compilation to find out. Call it under ``jax.jit``: by itself JAX
        compiles a loop anew at every call.
      has_report: whether to add a ``Report`` to what is returned.
      sharding: for one example on many devices: a ``NamedSharding`` for the array of nodes, or the
        name(s) of the mesh axes to spread the nodes over. Every device evaluates its share, and one
        reduction adds them up (with ``to_tolerance`` one for each look at the error).
      affine_prefix: whether to apply the affine part that ``fun`` may begin with (a dense layer, a
        convolution …) once, instead of once at each node. The answer is the same up to rounding;
        False is for measuring what it saves.

    Returns:
      A function with the arguments of ``fun`` that returns the attributions: a pytree like the
      argument, in its dtypes (with several ``argnums`` a tuple of such). With ``has_aux``, a pair
      ``(attributions, aux)``, with the auxiliary data at x. With ``has_report``, a ``Report`` is
      added as the last element.

    Raises:
      TypeError: if ``fun`` or ``path`` is no function, ``rule`` no rule, or a number no integer;
        when called, if an attributed argument or the value of ``fun`` is not floating-point.
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
    settings = _Settings(
        baseline, path, rule, multiply_by_inputs, batch_size, has_report, sharding, affine_prefix
    )
    return _transform("integrated_grad", jax.grad, _check_scalar, fun, argnums, has_aux, settings)


def integrated_jacobian(
    fun: Callable[..., Any],
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
) -> Callable[..., Any]:
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
      TypeError: when called, if an attributed argument or an output is not floating-point.
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
    settings = _Settings(
        baseline, path, rule, multiply_by_inputs, batch_size, has_report, sharding, affine_prefix
    )
    return _transform(
        "integrated_jacobian", jax.jacrev, _check_real, fun, argnums, has_aux, settings
    )


class _Settings(NamedTuple):
    """The keywords of a transform."""

    baseline: Tree | baselines.Baseline
    path: paths.Path
    rule: quadrature.Rule | quadrature.Tolerance
    multiply_by_inputs: bool
    batch_size: int | Literal["auto"] | None
    has_report: bool
    sharding: NamedSharding | str | tuple[str, ...] | None
    affine_prefix: bool


def _transform(
    name: str,
    differentiate: Callable[..., Callable[[Tree], Tree]],
    check_output: Callable[[Tree], None],
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    settings: _Settings,
) -> Callable[..., Any]:
    """The transform called ``name``: integrates ``differentiate(fun)`` along the path."""
    if not callable(fun):
        raise TypeError(f"{name} takes a function; got {fun!r}.")
    if not callable(settings.path):
        raise TypeError(
            "path must be a function (baseline, x, alpha) -> point, such as "
            f"igjax.paths.straight_line; got {settings.path!r}."
        )
    rule = settings.rule
    if not isinstance(rule, quadrature.Tolerance):
        rule = quadrature.check_rule(rule)
        if not settings.has_report:  # then nobody asks for the error
            rule = rule._replace(embedded_weights=None)
    batch_size = settings.batch_size
    if batch_size is not None and batch_size != "auto":
        what = 'batch_size (None for all nodes, "auto" for what fits)'
        batch_size = check_count(what, batch_size, least=1)
    settings = settings._replace(rule=rule, batch_size=batch_size)

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        call, x = _as_function_of(name, fun, argnums, args, kwargs)

        def evaluate(x: Tree) -> tuple[Tree, Any]:
            value, aux = _split_aux(call(x)) if has_aux else (call(x), None)
            check_output(value)
            return jax.tree.map(jnp.asarray, value), aux

        with mesh_of(x):
            return _explain(evaluate, differentiate, x, has_aux, settings)

    return attribute


def _explain(
    evaluate: Callable[[Tree], tuple[Tree, Any]],
    differentiate: Callable[..., Callable[[Tree], Tree]],
    x: Tree,
    has_aux: bool,
    settings: _Settings,
) -> Any:
    """The attributions to ``x``; as asked, with the auxiliary data there and a report."""
    x = per_device(x, lambda x: evaluate(x)[0])
    baseline = laid_out_like(resolve_baseline(settings.baseline, x), x)

    def integrand_at(nodes: jax.Array) -> Integrand:
        return path_integrand(
            lambda x: evaluate(x)[0],
            differentiate,
            *vary_like(nodes, (baseline, x)),
            path=settings.path,
            multiply_by_inputs=settings.multiply_by_inputs,
            affine_prefix=settings.affine_prefix,
        )

    rule, batch_size = settings.rule, settings.batch_size
    if batch_size == "auto":
        fixed = None if isinstance(rule, quadrature.Tolerance) else len(rule.nodes)
        batch_size = fitting_batch_size(integrand_at, x, fixed or _tolerance.DEFAULT_BATCH)
    at_input = functools.cache(lambda: evaluate(x))  # where it is needed, and once
    values = functools.cache(lambda: (at_input()[0], evaluate(baseline)[0]))
    complete = settings.multiply_by_inputs
    sharding = node_sharding(settings.sharding)
    if isinstance(rule, quadrature.Tolerance):
        precise, account = _tolerance.integrate(
            integrand_at, rule, x, values() if complete else None, batch_size, sharding
        )
    else:
        precise, account = _fixed.integrate(integrand_at, rule, x, batch_size, sharding)
    attributions = map_parts(lambda part: jax.tree.map(_in_dtype_of, part, x), x, precise)
    extras: tuple[Any, ...] = (at_input()[1],) if has_aux else ()
    if settings.has_report:
        extras += (report(x, precise, account, *values(), complete=complete),)
    return (attributions, *extras) if extras else attributions


def _as_function_of(
    name: str,
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[[Tree], Any], Tree]:
    """``fun`` as a function of the attributed argument(s) alone, and their value."""
    given = argnums if isinstance(argnums, Sequence) else (argnums,)
    several = given is argnums
    try:
        numbers = [*map(operator.index, given)]
    except TypeError:
        raise TypeError(
            f"{name}: argnums must be an integer or several; got {argnums!r}."
        ) from None
    for number in numbers:
        if not -len(args) <= number < len(args):
            raise ValueError(
                f"{name}: argnums={argnums} asks for positional argument {number}, but the function"
                f" was called with {len(args)}. Pass the attributed argument(s) by position."
            )
    numbers = [number % len(args) for number in numbers]
    if len(set(numbers)) < len(numbers) or not numbers:
        raise ValueError(
            f"{name}: argnums must name at least one argument, each once; got {argnums!r}."
        )

    def call(x: Tree) -> Any:
        full = list(args)
        for number, argument in zip(numbers, x if several else (x,), strict=True):
            full[number] = argument
        return fun(*full, **kwargs)

    values = tuple(as_floating(args[number], f"argument {number}") for number in numbers)
    return call, values if several else values[0]


def _split_aux(output: Any) -> tuple[Tree, Any]:
    if not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError(
            "with has_aux=True the function must return a pair (value, aux); got "
            f"{jax.tree.structure(output)}."
        )
    return output


def _check_scalar(value: Any) -> None:
    is_array = jax.tree_util.all_leaves([value])
    if not is_array or jnp.shape(value) != ():
        got = f"shape {jnp.shape(value)}" if is_array else jax.tree.structure(value)
        raise ValueError(
            f"integrated_grad needs a function with a scalar output; got {got}. Pick one, as in "
            "lambda x, label: f(x)[label], or take integrated_jacobian, which does all outputs. If "
            "the input is a batch of examples, map over them: jax.vmap(integrated_grad(f))(xs)."
        )
    _check_real(value)


def _check_real(value: Any) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if not leaves:
        raise TypeError(f"the function must return arrays of floats; it returned {value!r}.")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", np.result_type(type(leaf)))
        if not jnp.issubdtype(dtype, jnp.floating):
            where = "output" + jax.tree_util.keystr(path)
            raise TypeError(
                f"the function's {where} must be real floating-point to have a gradient; it has "
                f"dtype {dtype}."
            )


def _in_dtype_of(attribution: jax.Array, x: jax.Array) -> jax.Array:
    return attribution.astype(x.dtype)
