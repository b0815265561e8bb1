"""Functions evaluated equation by equation, some of the equations by other rules.

A rule says what to do in an equation's place: give relu another derivative, carry pairs of values
through, propagate relevance. What calls functions is entered, so that a rule meets every equation
wherever it is; and what no rule is about stays whole, as JAX traced it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

from igjax._jaxpr import program

T = TypeVar("T")
# What to call in an equation's place, with the values of its operands, to a list of its results.
Rule = Callable[[JaxprEqn], Callable[..., Sequence[Any]] | None]


def bind(eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    """Evaluates an equation as JAX does."""
    return program.evaluate_equation(eqn, operands)


def identity(value: T) -> T:
    """Returns ``value``."""
    return value


def interpret(
    closed: Any,
    args: Sequence[Any],
    rule: Rule,
    default: Callable[..., Sequence[Any]] = bind,
    lift: Callable[[Any], Any] = identity,
) -> list[Any]:
    """Evaluates a function by rules.

    What is called (``jit``, ``checkpoint``, functions with derivatives of their own) is entered
    where a rule is about an equation in it, and so are the bodies of ``scan``, and of ``while`` and
    ``cond``. What is entered loses its own derivative, and what its ``jit`` asks the compiler for;
    a checkpoint remains one. All else stays whole, and so do functions inside of other equations,
    such as ``shard_map``.

    Values may be of another kind than arrays, with a ``lift`` that makes such a value of an array:
    a pytree, such as a pair of arrays. They go through calls and through the carry of a ``scan``,
    which are then entered whether or not a rule is about them. A ``while`` and a ``cond`` are not:
    they are equations like others, for ``rule`` or ``default``.

    Args:
      closed: the function, as ``trace`` or ``jax.make_jaxpr`` makes it.
      args: the values of its arguments, lifted.
      rule: called with an equation, returns what to call in its place or None. It is called several
        times with the same one, and must be a pure function of it.
      default: called with an equation that has no rule and its operands' values, returns a list of
        its results.
      lift: makes a value of an array: of a literal, or of what the function closes over.

    Returns:
      The values of the results.
    """
    return _Interpreter(rule, default, lift).run(closed, args)


class _Interpreter:
    """The arguments of ``interpret``, and which functions a rule has been found to be about."""

    def __init__(
        self, rule: Rule, default: Callable[..., Sequence[Any]], lift: Callable[[Any], Any]
    ) -> None:
        self.rule, self.default, self.lift = rule, default, lift
        self.lifted = lift is not identity
        self.known: dict[int, bool] = {}  # by the identity of a jaxpr

    def run(self, closed: Any, args: Sequence[Any]) -> list[Any]:
        jaxpr = program.opened(closed)
        values: dict[Var, Any] = dict(zip(jaxpr.invars, args, strict=True))
        values.update(zip(jaxpr.constvars, map(self.lift, program.consts(closed)), strict=True))

        def value(atom: Any) -> Any:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                return self.lift(np.asarray(atom.val, aval.dtype))
            return values[atom]

        for eqn in jaxpr.eqns:
            results = self.instead(eqn)(*map(value, eqn.invars))
            values.update(zip(eqn.outvars, results, strict=True))
        return [*map(value, jaxpr.outvars)]

    def instead(self, eqn: JaxprEqn) -> Callable[..., Sequence[Any]]:
        """Returns what to call in the place of an equation."""
        by_rule = self.rule(eqn)
        if by_rule is not None:
            return by_rule
        entered = _ENTERED.get(eqn.primitive.name, _call if program.called(eqn) else None)
        if entered is None or (self.lifted and entered in (_while, _cond)):
            return functools.partial(self.default, eqn)
        if not self.lifted and not any(map(self.is_concerned, program.inside(eqn))):
            return functools.partial(self.default, eqn)
        return functools.partial(entered, self, eqn)

    def is_concerned(self, closed: Any) -> bool:
        """Tells whether a rule is about an equation of a function that would be met."""
        jaxpr = program.opened(closed)
        if id(jaxpr) not in self.known:
            self.known[id(jaxpr)] = any(
                self.rule(eqn) is not None
                or (_is_entered(eqn) and any(map(self.is_concerned, program.inside(eqn))))
                for eqn in jaxpr.eqns
            )
        return self.known[id(jaxpr)]


def _is_entered(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in _ENTERED or program.called(eqn) is not None


def _call(self: _Interpreter, eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    return self.run(program.called(eqn), operands)


def _checkpoint(self: _Interpreter, eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    body = functools.partial(self.run, program.called(eqn))
    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
    return jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)(operands)


def _scan(self: _Interpreter, eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    loop = program.as_loop(eqn)
    carry, ys = loop.run(functools.partial(self.run, loop.body), *loop.parts(operands), loop.length)
    return [*carry, *ys]


def _while(self: _Interpreter, eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    tested, repeated = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test_consts, body_consts = operands[:tested], operands[tested : tested + repeated]

    def test(carry: Sequence[Any]) -> Any:
        (result,) = self.run(eqn.params["cond_jaxpr"], [*test_consts, *carry])
        return result

    def body(carry: Sequence[Any]) -> list[Any]:
        return self.run(eqn.params["body_jaxpr"], [*body_consts, *carry])

    return jax.lax.while_loop(test, body, [*operands[tested + repeated :]])


def _cond(self: _Interpreter, eqn: JaxprEqn, index: Any, *operands: Any) -> Sequence[Any]:
    branches = [functools.partial(self.run, branch) for branch in eqn.params["branches"]]
    return jax.lax.switch(index, branches, operands)


_ENTERED = {
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
