"""An attribution step by step, for those who decide outside of a program when to go on.

``integrated_grad`` to a tolerance is one program, which ends when the answer is good enough. Under
``vmap`` it ends when all answers are. Here an example is begun, goes one step on at a time, and is
finished, so that another can take its place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from igjax import _fixed, quadrature
from igjax._inputs import as_function_of, check_function
from igjax._precision import tree_dtype
from igjax._report import Account, Report, report
from igjax._tolerance import Steps, integration_steps
from igjax._transform import Settings, Task, check_scalar, checked, in_dtype_of, task

Tree = Any


class Work(NamedTuple):
    """An example that is being attributed. A pytree of arrays.

    Attributes:
      args: of the function, the attributed one first.
      values: F(x) and F(x').
      number: of the step that comes next, int32.
      carry: what the integration has found so far.
    """

    args: tuple[Tree, ...]
    values: tuple[jax.Array, jax.Array]
    number: jax.Array
    carry: Tree


class Stepwise(NamedTuple):
    """What ``integrated_grad`` does with an example, in parts. All are functions of one example.

    Attributes:
      begin: from the example's arguments to the work on it, after its first step, and whether it is
        done: more steps would change nothing.
      step: from the work to the work one step on, and whether it is done.
      finish: from the work to the attributions and their report.
    """

    begin: Callable[..., tuple[Work, jax.Array]]
    step: Callable[[Work], tuple[Work, jax.Array]]
    finish: Callable[[Work], tuple[Tree, Report]]


def stepwise(fun: Callable[..., Any], settings: Settings) -> Stepwise:
    """The parts of ``integrated_grad(fun)``. With a fixed rule the first step is all there is.

    Args:
      fun: as for ``integrated_grad``.
      settings: its keywords, but neither ``sharding`` nor ``batch_size="auto"``.
    """
    name = "integrated_grad"
    check_function(name, fun)
    settings = checked(settings)

    def task_of(args: tuple[Tree, ...]) -> tuple[Task, Callable[[Tree], jax.Array]]:
        call, x = as_function_of(name, fun, 0, args, {})

        def value(x: Tree) -> jax.Array:
            value = call(x)
            check_scalar(name, value)
            return jnp.asarray(value)

        return task(value, jax.grad, x, settings), value

    def steps_of(work: Work) -> tuple[Task, Steps]:
        task, _ = task_of(work.args)
        return task, _steps(task, work.values, settings)

    def begin(*args: Tree) -> tuple[Work, jax.Array]:
        task, value = task_of(args)
        values = value(task.x), value(task.baseline)
        steps = _steps(task, values, settings)
        number, carry = jnp.asarray(steps.number, jnp.int32), steps.begin()
        return Work((task.x, *args[1:]), values, number, carry), steps.stopped(carry)

    def step(work: Work) -> tuple[Work, jax.Array]:
        _, steps = steps_of(work)
        carry = steps.step(work.carry, work.number)
        return work._replace(number=work.number + 1, carry=carry), steps.stopped(carry)

    def finish(work: Work) -> tuple[Tree, Report]:
        task, steps = steps_of(work)
        precise, account = steps.result(work.carry)
        told = report(task.x, precise, account, *work.values, complete=task.complete)
        return in_dtype_of(task.x, precise), told

    return Stepwise(begin, step, finish)


def _steps(task: Task, values: tuple[jax.Array, jax.Array], settings: Settings) -> Steps:
    rule, batch_size = settings.rule, settings.batch_size
    assert batch_size != "auto"
    if isinstance(rule, quadrature.Tolerance):
        integrand = task.integrand_at(jnp.zeros((), tree_dtype(task.x)))
        known = values if task.complete else None
        return integration_steps(integrand, rule, task.x, task.norm, known, batch_size)

    def integrate() -> tuple[Tree, Account]:
        return _fixed.integrate(task.integrand_at, rule, task.x, task.norm, batch_size, None)

    return Steps(
        integrate,
        number=1,
        step=lambda carry, _: carry,
        stopped=lambda _: jnp.asarray(True),
        result=lambda carry: carry,
    )
