"""What a transform returns: a function, with its parts for those who drive it themselves."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp

from igjax._engine.static import with_static, without_static
from igjax._trees import Tree

P = ParamSpec("P")


class Steps(NamedTuple):
    """An attribution in steps, for those who decide outside of a program when to go on.

    Under ``vmap`` an attribution to a tolerance ends when all answers are good enough. Here an
    example is begun, goes one step on at a time, and is finished, so that another can take its
    place. All are functions of one example, to be mapped and compiled; ``work`` is a pytree of
    arrays.

    Attributes:
      begin: from the attribution's arguments to the work on them.
      step: from the work to the work one step on.
      done: from the work to whether more steps would change nothing.
      result: from the work to what the attribution returns.
    """

    begin: Callable[..., Tree]
    step: Callable[[Tree], Tree]
    done: Callable[[Tree], jax.Array]
    result: Callable[[Tree], Any]


class Attribution(Generic[P]):
    """A function from an example's arguments to its attributions.

    It is what ``integrated_grad(fun)`` and the like return, and is called as ``fun`` is. If it goes
    through nodes in a loop, it is compiled when it is called: as for ``jax.jit``, ``fun`` has to be
    pure, and is traced once for arguments of the same shapes.

    Args:
      method: the name of the transform.
      fun: what is attributed.
      call: computes the attributions.
      steps: the same in steps, or None.
      compiled: whether to compile it when it is called.
      parts: what it is made of, by name, as functions of its arguments: to tell it from another.
    """

    def __init__(
        self,
        method: str,
        fun: Callable[P, Any],
        call: Callable[..., Any],
        steps: Steps | None,
        *,
        compiled: bool,
        parts: Mapping[str, Callable[..., Any]],
    ):
        of = getattr(fun, "__name__", type(fun).__name__)
        self.__name__ = self.__qualname__ = f"{method}({of})"
        self.__doc__ = (
            f"Computes the attributions of ``{of}`` that ``igjax.{method}`` describes.\n\n"
            f"It takes the arguments of ``{of}``."
        )
        self.__module__ = getattr(fun, "__module__", __name__)
        self.__wrapped__ = fun  # whose signature it has
        self._call, self._steps, self._loops, self._parts = call, steps, compiled, parts

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Computes the attributions."""
        if not self._loops:
            return self._call(*args, **kwargs)
        return without_static(self._compiled(with_static((args, kwargs))))

    @property
    def steps(self) -> Steps | None:
        """Returns the same in steps, or None if it cannot be cut into any."""
        # No attribute of the instance: a wrapper made by functools.wraps would have it too.
        return self._steps

    @property
    def loops(self) -> bool:
        """Returns whether it goes through nodes in a loop."""
        return self._loops

    @property
    def parts(self) -> Mapping[str, Callable[..., Any]]:
        """Returns what it is made of."""
        return self._parts

    def __repr__(self) -> str:
        return f"<igjax attribution {self.__name__}>"

    @functools.cached_property
    def _compiled(self) -> Callable[[Tree], Tree]:
        def run(given: Tree) -> Tree:
            args, kwargs = without_static(given)
            return with_static(self._call(*args, **kwargs))

        run.__name__ = self.__name__
        return jax.jit(run, inline=True)


def steps_of(attribution: Callable[..., Any]) -> Steps:
    """Returns any attribution in steps. One that can't be cut into any is done when it is begun."""
    steps = isinstance(attribution, Attribution) and attribution.steps
    same = lambda work: work
    return steps or Steps(attribution, same, lambda _: jnp.asarray(True), same)


class Inner(NamedTuple):
    """An attribution that another one is made of.

    Attributes:
      attribution: any function.
      args: what to call it with.
      finish: from what it returns to what the other one does.
    """

    attribution: Callable[..., Any]
    args: tuple[Any, ...]
    finish: Callable[[Any], Any]


def made_of(
    method: str,
    fun: Callable[P, Any],
    inner: Callable[..., Inner],
    like: Callable[..., Any] | None = None,
) -> Attribution[P]:
    """Returns the attribution that is another one, of something made from its arguments.

    Args:
      method: the name of the transform.
      fun: what is attributed.
      inner: from the arguments to the other one. What it depends on beside their shapes is computed
        when an example is begun, and for its result.
      like: an attribution of the same kind as the other one: whether it has steps, and loops. None
        if nobody knows before the arguments are known: then it is compiled, and has as many steps
        as there are.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        made = inner(*args, **kwargs)
        return made.finish(made.attribution(*made.args))

    def parts(given: Tree) -> tuple[Steps, Inner]:
        args, kwargs = without_static(given)
        made = inner(*args, **kwargs)
        return steps_of(made.attribution), made

    def begin(*args: Any, **kwargs: Any) -> Tree:
        given = with_static((args, kwargs))
        steps, made = parts(given)
        return given, steps.begin(*made.args)

    def step(work: Tree) -> Tree:
        given, own = work
        return given, parts(given)[0].step(own)

    def done(work: Tree) -> jax.Array:
        given, own = work
        return parts(given)[0].done(own)

    def result(work: Tree) -> Any:
        given, own = work
        steps, made = parts(given)
        return made.finish(steps.result(own))

    def baseline(*args: Any, **kwargs: Any) -> Tree:
        made = inner(*args, **kwargs)
        own = made.attribution.parts if isinstance(made.attribution, Attribution) else {}
        return own["baseline"](*made.args) if "baseline" in own else ()

    every = Steps(begin, step, done, result)
    if like is None:
        parts_made = {"baseline": baseline}
        return Attribution(method, fun, call, every, compiled=True, parts=parts_made)
    if not isinstance(like, Attribution):
        return Attribution(method, fun, call, None, compiled=False, parts={"function": fun})
    steps = every if like.steps else None
    # Not the baseline, which is like something that is made from the arguments.
    own = {"function": fun} | {name: like.parts[name] for name in like.parts.keys() & {"rule"}}
    return Attribution(method, fun, call, steps, compiled=like.loops, parts=own)
