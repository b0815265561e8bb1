"""Whether a function computes each entry from entries in the same place alone."""

from collections.abc import Iterable
from typing import Any

from jax.extend.core import Var

from igjax._jaxpr.primitives import COMPARES, ELEMENTWISE
from igjax._jaxpr.program import called, opened

_KEEPS = frozenset({"copy", "stop_gradient"})


def mixing(closed: Any) -> str | None:
    """Returns a primitive by which an entry may depend on entries in other places, or None.

    What is computed without the arguments (a constant, random numbers) may be anything. What is
    made of an entry's value by a control flow or by a primitive nobody knows counts as mixing.

    Args:
      closed: what ``jax.make_jaxpr`` makes of a function.
    """
    jaxpr = opened(closed)
    return _walk(jaxpr, set(jaxpr.invars))


def _walk(jaxpr: Any, varying: set[Var]) -> str | None:
    """The same, of a function some of whose variables depend on the arguments; notes others."""
    for eqn in jaxpr.eqns:
        own = [atom in varying if isinstance(atom, Var) else False for atom in eqn.invars]
        if not any(own):
            continue
        body = called(eqn)
        if body is not None:
            inner = opened(body)
            inside = {var for var, is_own in zip(inner.invars, own, strict=True) if is_own}
            found = _walk(inner, inside)
            if found is not None:
                return found
            out = [isinstance(atom, Var) and atom in inside for atom in inner.outvars]
            varying.update(var for var, is_own in zip(eqn.outvars, out, strict=True) if is_own)
            continue
        name = str(eqn.primitive.name)
        if name not in ELEMENTWISE | COMPARES | _KEEPS or not _same_shape(eqn, own):
            return name
        varying.update(eqn.outvars)
    return None


def _same_shape(eqn: Any, own: Iterable[bool]) -> bool:
    """Whether what depends on the arguments is in the place where it was."""
    shapes = [atom.aval.shape for atom, is_own in zip(eqn.invars, own, strict=True) if is_own]
    return all(shape == var.aval.shape for shape in shapes for var in eqn.outvars)
