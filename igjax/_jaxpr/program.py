"""Functions as lists of equations: traced once, read, and evaluated in part.

JAX traces a function to a jaxpr: a list of equations, each of which applies one primitive. Here a
jaxpr is opened up where a reader wants to look into it, and parts of it become functions again,
which JAX transforms like any other.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import JaxprEqn, Literal, Var

Atom = Var | Literal


class Program(NamedTuple):
    """A function as equations in the order of evaluation, each variable being set by one of them.

    Attributes:
      inputs: the variables of its arguments.
      outputs: the variables, or literals, of its results.
      eqns: the equations.
      constants: the variables that stand for what the function closes over, and their values,
        which may be tracers of transformations around it.
      jaxpr: what it was read from.
    """

    inputs: list[Var]
    outputs: list[Atom]
    eqns: list[JaxprEqn]
    constants: dict[Var, Any]
    jaxpr: Any

    def function(
        self, inputs: Sequence[Var], outputs: Sequence[Atom], *, effects: bool
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """The part that computes ``outputs`` from ``inputs``, as a function of a list of arrays.

        Args:
          inputs: variables, between which and ``outputs`` the equations are.
          outputs: variables or literals.
          effects: whether equations with effects (``jax.debug.print``, say) are part of it.
        """
        jaxpr = self.jaxpr.replace(
            constvars=[],
            invars=[*self.constants, *inputs],
            outvars=list(outputs),
            eqns=needed(self.eqns, outputs, given=inputs, effects=effects),
        )
        constants = list(self.constants.values())
        return lambda values: jax.core.eval_jaxpr(jaxpr, (), *constants, *values)


def variables(atoms: Iterable[Atom]) -> list[Var]:
    """The variables among ``atoms``."""
    return [atom for atom in atoms if isinstance(atom, Var)]


def needed(
    eqns: Sequence[JaxprEqn], outputs: Sequence[Atom], *, given: Sequence[Var], effects: bool
) -> list[JaxprEqn]:
    """Those of ``eqns`` that ``outputs``, or effects, need when ``given`` is known."""
    known = set(given)
    wanted = set(variables(outputs)) - known
    kept = []
    for eqn in reversed(eqns):
        if not wanted.isdisjoint(eqn.outvars) or (effects and eqn.effects):
            kept.append(eqn)
            wanted.update(var for var in variables(eqn.invars) if var not in known)
    return kept[::-1]


def read(closed: Any, inputs: Sequence[Var], enter: Callable[[JaxprEqn], Any]) -> Program:
    """Lists the equations of a function.

    Args:
      closed: what ``jax.make_jaxpr`` makes of the function.
      inputs: the variables to call its arguments by.
      enter: called with each equation in order. It returns the function that the equation calls,
        to be read in its place, or None.
    """
    program = Program(list(inputs), [], [], {}, _open(closed))
    program.outputs.extend(_read_into(program, closed, inputs, enter))
    return program


def body(eqn: JaxprEqn) -> Any:
    """The function that an equation calls, closed, if it could as well be written out there.

    That is so for ``jax.jit``, unless it asks the compiler for something. It is not so for custom
    derivatives, whose derivative is not that of the body.
    """
    if eqn.primitive.name != "jit":
        return None
    asked = ("in_shardings", "out_shardings", "in_layouts", "out_layouts", "compiler_options_kvs")
    wishes = [wish for name in asked for wish in eqn.params[name]]
    plain = all(wish is None or type(wish).__name__ == "UnspecifiedValue" for wish in wishes)
    return eqn.params["jaxpr"] if plain else None


# What calls a function once, on its operands, and by what name that is among its parameters.
_CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",  # what `jax.checkpoint` makes, by another name
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def called(eqn: JaxprEqn) -> Any:
    """The function that an equation calls once, whatever it asks for beside that; or None."""
    return eqn.params.get(_CALLS.get(eqn.primitive.name, ""))


def equations(closed: Any) -> list[JaxprEqn]:
    """The equations of a function, as JAX traced it."""
    return list(_open(closed).eqns)


def inside(eqn: JaxprEqn) -> list[Any]:
    """All functions that are part of an equation: bodies of loops, branches and so on."""
    values = [v for value in eqn.params.values() for v in (value if _is_row(value) else [value])]
    return [value for value in values if hasattr(_open(value), "eqns")]


def applies(closed: Any, primitive: str) -> bool:
    """Whether a function applies the primitive of that name, wherever in it."""
    return any(
        eqn.primitive.name == primitive or any(applies(part, primitive) for part in inside(eqn))
        for eqn in equations(closed)
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _read_into(
    program: Program, closed: Any, args: Sequence[Atom], enter: Callable[[JaxprEqn], Any]
) -> list[Atom]:
    """Adds the equations of ``closed``, applied to ``args``, to ``program``; returns its results.

    Variables get new names, since one body may be called from several places.
    """
    jaxpr = _open(closed)
    names: dict[Var, Atom] = dict(zip(jaxpr.invars, args, strict=True))
    for var, constant in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True):
        names[var] = name = Var(var.aval)
        program.constants[name] = constant

    def named(atoms: Iterable[Atom]) -> list[Atom]:
        return [names[atom] if isinstance(atom, Var) else atom for atom in atoms]

    for original in jaxpr.eqns:
        eqn = original.replace(
            invars=named(original.invars), outvars=[Var(var.aval) for var in original.outvars]
        )
        results: Sequence[Atom] = eqn.outvars
        called = enter(eqn)
        if called is not None:
            results = _read_into(program, called, eqn.invars, enter)
        else:
            program.eqns.append(eqn)
        names.update(zip(original.outvars, results, strict=True))
    return named(jaxpr.outvars)


def _open(closed: Any) -> Any:
    """``closed`` without its constants, which JAX before 0.12 keeps in a wrapper around it."""
    return getattr(closed, "jaxpr", closed)
