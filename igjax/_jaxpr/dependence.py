"""Which variables of a function depend on some of its arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Var

from igjax._jaxpr.program import Atom, as_loop, called, equations, is_array, opened, variables


def depending(closed: Any, given: Sequence[bool]) -> set[Var]:
    """Returns the variables of a function that depend on the arguments ``given`` as True.

    What is made by a control flow, or by a primitive nobody knows, depends on all that goes into
    it; and what a ``scan`` carries, on all that it ever depends on.
    """
    inputs = opened(closed).invars
    start = {var for var, is_given in zip(inputs, given, strict=True) if is_given}
    return spread(equations(closed), start)


def spread(eqns: Iterable[JaxprEqn], start: Iterable[Var]) -> set[Var]:
    """Returns the variables that depend on those of ``start`` by equations, and these."""
    found = set(start)
    for eqn in eqns:
        operands = among(eqn.invars, found)
        results = _results(eqn, operands)
        found.update(var for var, depends in zip(eqn.outvars, results, strict=True) if depends)
        if any(operands):  # and what may be written to
            found.update(var for var in variables(eqn.invars) if not is_array(var))
    return found


def among(atoms: Iterable[Atom], found: set[Var]) -> list[bool]:
    """Tells of each of ``atoms`` whether it is among the variables ``found``."""
    return [isinstance(atom, Var) and atom in found for atom in atoms]


def entering(eqn: JaxprEqn, operands: Sequence[bool]) -> list[bool]:
    """Returns which arguments depend, of the function that an equation calls, once or repeatedly.

    Args:
      eqn: a call, or a ``scan``.
      operands: which of its operands do.
    """
    if eqn.primitive.name != "scan":
        return [*operands]
    loop = as_loop(eqn)
    consts, carry, xs = loop.parts(operands)
    while True:
        given = [*consts, *carry, *xs]
        results = among(opened(loop.body).outvars, depending(loop.body, given))
        grown = [old or new for old, new in zip(carry, results[: loop.carried], strict=True)]
        if grown == carry:
            return given
        carry = grown


def _results(eqn: JaxprEqn, operands: Sequence[bool]) -> list[bool]:
    """Returns which results of an equation depend."""
    if not any(operands):
        return [False] * len(eqn.outvars)
    body = eqn.params["jaxpr"] if eqn.primitive.name == "scan" else called(eqn)
    if body is None:
        return [True] * len(eqn.outvars)
    return among(opened(body).outvars, depending(body, entering(eqn, operands)))
