"""The transform behind every method that integrates a derivative along a path."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igjax._engine.attribution import Attribution, P, Steps
from igjax._engine.integrand import Differentiate, Integrands, Line, integrands
from igjax._engine.integration import Integration, Plan, Problem, run
from igjax._engine.memory import fitting_batch_size
from igjax._engine.options import Options
from igjax._engine.report import Account, report
from igjax._engine.static import with_static, without_static
from igjax._inputs import as_function_of, check_function, resolve_baseline
from igjax._jaxpr.program import Traced, named_like, trace
from igjax._jaxpr.rounding import rounding
from igjax._precision import tree_dtype
from igjax._sharding import in_shard_map, laid_out_like, mesh_of, node_sharding, vary_like
from igjax._trees import Tree, filled, floats, map_parts


class Derivative(NamedTuple):
    """What is integrated.

    Attributes:
      of: from a function to one that returns its derivative and its value.
      check_output: raises, for the name of the method, unless a function's value suits that.
    """

    of: Differentiate
    check_output: Callable[[str, Tree], None]


class Example(NamedTuple):
    """What is computed once for an input. A pytree of arrays.

    Attributes:
      x: the floats of the input.
      baseline: like it.
      value: F(x), where it is needed.
      baseline_value: F(x'), likewise.
      aux: what the function returns beside F(x).
      line: where an affine prefix takes the straight line.
    """

    x: Tree
    baseline: Tree
    value: Tree
    baseline_value: Tree
    aux: Tree
    line: Line | None


class Work(NamedTuple):
    """An example that is being attributed. A pytree of arrays.

    Attributes:
      given: the arguments.
      example: what has been computed once.
      number: of the step that comes next, int32.
      state: what the integration has found so far.
    """

    given: Tree
    example: Example
    number: jax.Array
    state: Tree


class _Task(NamedTuple):
    """What is to be done with some arguments: their function, traced, and how.

    Attributes:
      fun: of the floats of the attributed argument(s), to value and auxiliary data.
      x: these floats: see ``_trees.floats``.
      whole: the attributed argument(s).
      integrands: along the path.
      options: all others.
    """

    fun: Traced
    x: Tree
    whole: Tree
    integrands: Integrands
    options: Options

    def example(self) -> Example:
        """Computes what is computed once."""
        options, x = self.options, self.x
        baseline = floats(resolve_baseline(options.baseline, self.whole))
        baseline = laid_out_like(baseline, x)
        value = baseline_value = aux = None
        if options.has_aux or self.values_needed:
            value, aux = self.fun(x)
        if self.values_needed:
            baseline_value, _ = self.fun(baseline)
        line = self.integrands.line(baseline, x)
        return Example(x, baseline, value, baseline_value, aux, line)

    @property
    def complete(self) -> bool:
        """Returns whether the attributions are meant to sum to F(x) - F(x')."""
        return self.options.contribution.complete

    @property
    def values_needed(self) -> bool:
        """Returns whether F(x) and F(x') are."""
        return self.options.has_report or (self.complete and self.options.planner.loops)

    def problem(self, example: Example, nodes: jax.Array) -> Problem:
        """Returns what is to be integrated, where ``nodes`` are."""
        known = example.baseline, example.x, example.line
        integrand = self.integrands.between(*vary_like(nodes, known))
        values = (example.value, example.baseline_value) if self.complete else None
        coarsest = rounding(self.fun.closed, jax.default_backend())
        return Problem(integrand, example.x, self.options.judged, values, coarsest)

    def plan(self, batch_size: int | None, devices: int = 1) -> Plan:
        """Returns how the rule is gone through."""
        return self.options.planner.plan(batch_size, devices, tree_dtype(self.x))

    def answer(self, example: Example, precise: Tree, account: Account) -> Any:
        """Returns what was asked for: attributions, auxiliary data, a report."""
        attributions = map_parts(functools.partial(_in_dtype_of, self.x), self.x, precise)
        extras: tuple[Any, ...] = (example.aux,) if self.options.has_aux else ()
        if self.options.has_report:
            values = example.value, example.baseline_value
            extras += (report(self.x, precise, account, *values, complete=self.complete),)
        return (attributions, *extras) if extras else attributions


def along_path(
    method: str, fun: Callable[P, Any], options: Options, derivative: Derivative
) -> Attribution[P]:
    """Returns the attribution that integrates a derivative of ``fun`` along a path.

    Args:
      method: the name of the transform.
      fun: a function.
      options: of the transform.
      derivative: what is integrated.
    """
    check_function(method, fun)

    def task_of(
        args: tuple[Any, ...], kwargs: dict[str, Any], like: jax.Array | None = None
    ) -> _Task:
        """Returns the task; where arrays vary over devices as ``like`` does, if that is given."""
        call, whole = as_function_of(method, fun, options.argnums, args, kwargs)
        x = floats(whole) if like is None else vary_like(like, floats(whole))

        @named_like(call)
        def evaluate(x: Tree) -> tuple[Tree, Any]:
            result = call(filled(x, whole))
            value, aux = _split_aux(result) if options.has_aux else (result, None)
            derivative.check_output(method, value)
            return value, aux

        traced = trace(evaluate, x)
        if in_shard_map():
            # In a shard_map the gradient with respect to an input that devices share is the sum
            # over devices. The attributions of one device's function, with its own labels, say, are
            # not: they must be those that vmap gives. So each device has an input of its own.
            x = vary_like(traced(x)[0], x)
            traced = trace(evaluate, x)
        along = integrands(
            traced.part(0),
            derivative.of,
            path=options.path,
            contribution=options.contribution,
            affine_prefix=options.affine_prefix,
        )
        return _Task(traced, x, whole, along, options)

    def attribute(*args: Any, **kwargs: Any) -> Any:
        with mesh_of((args, kwargs)):
            task = task_of(args, kwargs)
            example, sharding = task.example(), node_sharding(options.sharding)

            def problem_at(nodes: jax.Array) -> Problem:
                # Equations hold for arrays of the types that they were traced for. On many devices
                # these are others: then they are traced again.
                own = task if sharding is None else task_of(args, kwargs, like=nodes)
                return own.problem(example, nodes)

            batch_size = options.batch_size
            if batch_size == "auto":
                integrand_at = lambda nodes: problem_at(nodes).integrand
                batch_size = fitting_batch_size(integrand_at, task.x, options.planner.at_once)
            plan = task.plan(batch_size, 1 if sharding is None else sharding.size)
            return task.answer(example, *run(plan, problem_at, sharding))

    def baseline(*args: Any, **kwargs: Any) -> Tree:
        _, x = as_function_of(method, fun, options.argnums, args, kwargs)
        return resolve_baseline(options.baseline, x)

    def rule(*_: Any, **__: Any) -> Tree:
        return jax.tree.map(jnp.asarray, options.rule)

    return Attribution(
        method,
        fun,
        attribute,
        _steps(task_of, options),
        compiled=options.loops,
        parts={"function": fun, "baseline": baseline, "rule": rule},
    )


def _steps(task_of: Callable[..., _Task], options: Options) -> Steps | None:
    """Returns the same in steps; None where one example is on many devices."""
    if options.sharding is not None:
        return None
    # How many fit is asked for all examples together, by those who drive them.
    batch_size = None if options.batch_size == "auto" else options.batch_size

    def integration(task: _Task, example: Example) -> Integration:
        plan = task.plan(batch_size)
        return plan.alone(task.problem(example, plan.nodes))

    def parts(work: Work) -> tuple[_Task, Integration]:
        task = task_of(*without_static(work.given))
        return task, integration(task, work.example)

    def begin(*args: Any, **kwargs: Any) -> Work:
        task = task_of(args, kwargs)
        example = task.example()
        own = integration(task, example)
        number = jnp.zeros((), jnp.int32)
        return Work(with_static((args, kwargs)), example, number, own.look(own.begin()))

    def step(work: Work) -> Work:
        _, own = parts(work)
        if not own.steps:
            return work  # all was done when it was begun
        state = own.go_on(work.state, own.tile(work.number))
        return work._replace(number=work.number + 1, state=state)

    def done(work: Work) -> jax.Array:
        _, own = parts(work)
        return own.stopped(work.state) | (work.number >= own.steps)

    def result(work: Work) -> Any:
        task, own = parts(work)
        return task.answer(work.example, *own.result(work.state))

    return Steps(begin, step, done, result)


def _in_dtype_of(x: Tree, part: Tree) -> Tree:
    """Returns a gradient in the precision of sums, in the dtypes of ``x``."""
    return jax.tree.map(lambda attribution, x: attribution.astype(x.dtype), part, x)


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


def _with_value(differentiate: Callable[..., Any]) -> Differentiate:
    """Returns ``jax.grad``, ``jax.jacrev`` or the like, of which the value comes along."""

    def derivative_of(fun: Callable[[Tree], Tree]) -> Callable[[Tree], tuple[Tree, Tree]]:
        def twice(x: Tree) -> tuple[Tree, Tree]:
            value = fun(x)
            return value, value

        return differentiate(twice, has_aux=True)

    return derivative_of


gradient = Derivative(_with_value(jax.grad), check_scalar)
jacobian = Derivative(_with_value(jax.jacrev), check_real)
