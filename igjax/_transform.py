"""The transform behind every method that integrates a derivative along a path."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from igjax import _fixed, _tolerance, baselines, paths, quadrature
from igjax._inputs import as_function_of, check_count, check_function, resolve_baseline
from igjax._memory import fitting_batch_size
from igjax._path_integral import Integrand, map_parts, path_integrand
from igjax._report import l1_norm, report
from igjax._sharding import laid_out_like, mesh_of, node_sharding, per_device, vary_like

Tree = Any


class Settings(NamedTuple):
    """The keywords of a transform."""

    baseline: Tree | baselines.Baseline
    path: paths.Path
    rule: quadrature.Rule | quadrature.Tolerance
    multiply_by_inputs: bool
    batch_size: int | Literal["auto"] | None
    has_report: bool
    sharding: NamedSharding | str | tuple[str, ...] | None
    affine_prefix: bool = True
    complete: bool = True  # whether, multiplied so, they are meant to sum to F(x) - F(x')
    asked: Callable[[Tree], Tree] = lambda attributions: attributions  # those that errors are of


def checked(settings: Settings) -> Settings:
    """The settings, if they make sense.

    Raises:
      TypeError: if one is not what it has to be.
      ValueError: if one is out of range.
    """
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
    return settings._replace(rule=rule, batch_size=batch_size)


def transform(
    name: str,
    differentiate: Callable[..., Callable[[Tree], Tree]],
    check_output: Callable[[str, Tree], None],
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    settings: Settings,
) -> Callable[..., Any]:
    """The transform called ``name``: integrates ``differentiate(fun)`` along the path."""
    check_function(name, fun)
    settings = checked(settings)

    @functools.wraps(fun)
    def attribute(*args: Any, **kwargs: Any) -> Any:
        call, x = as_function_of(name, fun, argnums, args, kwargs)

        def evaluate(x: Tree) -> tuple[Tree, Any]:
            value, aux = _split_aux(call(x)) if has_aux else (call(x), None)
            check_output(name, value)
            return jax.tree.map(jnp.asarray, value), aux

        with mesh_of(x):
            return _explain(evaluate, differentiate, x, has_aux, settings)

    return attribute


class Task(NamedTuple):
    """What is to be integrated for an input, and by what its attributions are judged.

    Attributes:
      x: the input.
      baseline: like it.
      integrand_at: from nodes to the integrand where they are: on many devices, each has its own.
      norm: of attributions, for each output: errors are measured by it.
      complete: whether the attributions are meant to sum to F(x) - F(x').
    """

    x: Tree
    baseline: Tree
    integrand_at: Callable[[jax.Array], Integrand]
    norm: Callable[[Tree], Tree]
    complete: bool


def task(
    fun: Callable[[Tree], Tree],
    differentiate: Callable[..., Callable[[Tree], Tree]],
    x: Tree,
    settings: Settings,
) -> Task:
    """The task of attributing what ``fun`` makes of ``x``."""
    x = per_device(x, fun)
    baseline = laid_out_like(resolve_baseline(settings.baseline, x), x)

    def integrand_at(nodes: jax.Array) -> Integrand:
        return path_integrand(
            fun,
            differentiate,
            *vary_like(nodes, (baseline, x)),
            path=settings.path,
            multiply_by_inputs=settings.multiply_by_inputs,
            affine_prefix=settings.affine_prefix,
        )

    def norm(attributions: Tree) -> Tree:
        parts = map_parts(settings.asked, x, attributions)
        return l1_norm(settings.asked(x), parts)

    complete = settings.multiply_by_inputs and settings.complete
    return Task(x, baseline, integrand_at, norm, complete)


def in_dtype_of(x: Tree, precise: Tree) -> Tree:
    """Attributions in the precision of sums, in the dtypes of ``x``."""

    def leaf(attribution: jax.Array, x: jax.Array) -> jax.Array:
        return attribution.astype(x.dtype)

    return map_parts(lambda part: jax.tree.map(leaf, part, x), x, precise)


def _explain(
    evaluate: Callable[[Tree], tuple[Tree, Any]],
    differentiate: Callable[..., Callable[[Tree], Tree]],
    x: Tree,
    has_aux: bool,
    settings: Settings,
) -> Any:
    """The attributions to ``x``; as asked, with the auxiliary data there and a report."""
    x, baseline, integrand_at, norm, complete = task(
        lambda x: evaluate(x)[0], differentiate, x, settings
    )
    rule, batch_size = settings.rule, settings.batch_size
    if batch_size == "auto":
        fixed = None if isinstance(rule, quadrature.Tolerance) else len(rule.nodes)
        batch_size = fitting_batch_size(integrand_at, x, fixed or _tolerance.DEFAULT_BATCH)
    at_input = functools.cache(lambda: evaluate(x))  # where it is needed, and once
    values = functools.cache(lambda: (at_input()[0], evaluate(baseline)[0]))
    sharding = node_sharding(settings.sharding)
    if isinstance(rule, quadrature.Tolerance):
        precise, account = _tolerance.integrate(
            integrand_at,
            rule,
            x,
            norm,
            values() if complete else None,
            batch_size,
            sharding,
        )
    else:
        precise, account = _fixed.integrate(integrand_at, rule, x, norm, batch_size, sharding)
    attributions = in_dtype_of(x, precise)
    extras: tuple[Any, ...] = (at_input()[1],) if has_aux else ()
    if settings.has_report:
        extras += (report(x, precise, account, *values(), complete=complete),)
    return (attributions, *extras) if extras else attributions


def _split_aux(output: Any) -> tuple[Tree, Any]:
    if not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError(
            "with has_aux=True the function must return a pair (value, aux); got "
            f"{jax.tree.structure(output)}."
        )
    return output


def check_scalar(method: str, value: Any) -> None:
    """Raises unless ``value`` is a real scalar."""
    is_array = jax.tree_util.all_leaves([value])
    if not is_array or jnp.shape(value) != ():
        got = f"shape {jnp.shape(value)}" if is_array else jax.tree.structure(value)
        raise ValueError(
            f"{method} needs a function with a scalar output; got {got}. Pick one, as in lambda x, "
            "label: f(x)[label]; of all outputs at once there is integrated_jacobian. If the input "
            f"is a batch of examples, map over them: jax.vmap({method}(f, …))(xs)."
        )
    check_real(method, value)


def check_real(method: str, value: Any) -> None:
    """Raises unless ``value`` is a pytree of real arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    if not leaves:
        raise TypeError(
            f"{method} needs a function that returns arrays of floats; it returned {value!r}."
        )
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", np.result_type(type(leaf)))
        if not jnp.issubdtype(dtype, jnp.floating):
            where = "output" + jax.tree_util.keystr(path)
            raise TypeError(
                f"{method}: the function's {where} must be real floating-point to have a gradient; "
                f"it has dtype {dtype}."
            )
