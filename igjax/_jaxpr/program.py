"""Functions as lists of equations: traced once, read, and evaluated in part.

JAX traces a function to a jaxpr: a list of equations, each of which applies one primitive. Here a
function is traced to one that is called in its place, a jaxpr is opened up where a reader wants to
look into it, and parts of it become functions again, which JAX transforms like any other.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from igjax._jaxpr.primitives import CALLS
from igjax._trees import Tree

Atom = Var | Literal


@dataclasses.dataclass(frozen=True, eq=False)  # JAX keeps functions by identity, and weakly
class Traced:
    """A function of pytrees of arrays, traced: to call it is to evaluate its equations.

    Attributes:
      closed: the equations, from the leaves of the arguments to those results that are arrays.
      structure: of the tuple of arguments.
      result_structure: of what the function returns.
      others: what it returns that is no array, by the number of the leaf.
    """

    closed: Any
    structure: Any
    result_structure: Any
    others: dict[int, Any]

    def __call__(self, *args: Tree) -> Tree:
        """Returns what the function would.

        Args:
          *args: like those that it was traced with, in structure, shapes and dtypes, and in their
            layout where that is part of an array's type: in a ``shard_map`` they vary over the
            same devices, and on an explicit mesh they are sharded alike.

        Raises:
          ValueError: if they have another structure.
        """
        return self.given(consts(self.closed), *args)

    @property
    def constants(self) -> list[Any]:
        """The values of what the function closes over: a network's parameters, say."""
        return list(consts(self.closed))

    def given(self, constants: Sequence[Any], *args: Tree) -> Tree:
        """Returns what the function would if it closed over other ``constants``."""
        leaves, structure = jax.tree.flatten(args)
        if structure != self.structure:
            raise ValueError(
                f"the function was traced for arguments {self.structure}; got {structure}."
            )
        arrays = [*map(_as_array, leaves, self.closed.in_avals)]
        return self.results(jax.core.eval_jaxpr(opened(self.closed), constants, *arrays))

    def results(self, arrays: Sequence[Any]) -> Tree:
        """Returns the pytree of results, of which these are the arrays."""
        left = map(_as_array, arrays, self.closed.out_avals)
        count = self.result_structure.num_leaves
        leaves = [self.others[i] if i in self.others else next(left) for i in range(count)]
        return jax.tree.unflatten(self.result_structure, leaves)

    def part(self, number: int) -> "Traced":
        """Returns the function of which one of a tuple of results is left."""
        children = self.result_structure.children()
        first = sum(child.num_leaves for child in children[:number])
        own = range(first, first + children[number].num_leaves)
        arrays = [i for i in range(self.result_structure.num_leaves) if i not in self.others]
        jaxpr = opened(self.closed)
        outvars = [var for i, var in zip(arrays, jaxpr.outvars, strict=True) if i in own]
        eqns = needed(jaxpr.eqns, outvars, given=(), effects=True)
        jaxpr = jaxpr.replace(outvars=outvars, eqns=eqns)
        closed = jaxpr if isinstance(self.closed, Jaxpr) else self.closed.replace(jaxpr=jaxpr)
        others = {i - first: leaf for i, leaf in self.others.items() if i in own}
        return Traced(closed, self.structure, children[number], others)


def trace(fun: Callable[..., Tree], *args: Tree) -> Traced:
    """Traces a function, once, where it is called with these arguments.

    Args:
      fun: a function of pytrees of arrays. What it returns may have other leaves among its arrays,
        such as strings, which are then the same whenever the result is called.
      *args: its arguments, whose values don't matter: tracers and ``jax.ShapeDtypeStruct`` will do.
    """
    leaves, structure = jax.tree.flatten(args)
    structures: list[Any] = []
    others: dict[int, Any] = {}

    @named_like(fun)
    def of_leaves(*inputs: Any) -> list[Any]:
        results, result_structure = jax.tree.flatten(fun(*jax.tree.unflatten(structure, inputs)))
        structures.append(result_structure)
        others.update((i, leaf) for i, leaf in enumerate(results) if not _is_array(leaf))
        return [leaf for i, leaf in enumerate(results) if i not in others]

    closed = jax.make_jaxpr(of_leaves)(*leaves)
    return Traced(closed, structure, structures[0], others)


def named_like(fun: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that gives a function the name and the place of another one.

    JAX's messages tell these of what it traces: let it be the user's function that they tell of.
    """

    def decorated(own: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(own)  # not that of the other one: arguments are named by it
        functools.update_wrapper(own, fun, updated=())
        own.__signature__ = signature  # type: ignore[attr-defined]
        return own

    return decorated


def evaluate(closed: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluates the equations of a function at the values of its arguments."""
    return jax.core.eval_jaxpr(opened(closed), consts(closed), *values)


def evaluate_equation(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluates one equation at the values of its operands."""
    invars: list[Any] = [Var(atom.aval) for atom in eqn.invars]
    outvars = [Var(var.aval) for var in eqn.outvars]
    alone = eqn.replace(invars=invars, outvars=outvars)
    jaxpr = _no_equations().replace(invars=invars, outvars=outvars, eqns=[alone])
    return jax.core.eval_jaxpr(jaxpr, (), *operands)


@functools.cache
def _no_equations() -> Any:
    """Returns a jaxpr to put equations into."""
    return opened(jax.make_jaxpr(lambda: ())())


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return bool(leaf.dtype == np.bool_ or jnp.issubdtype(leaf.dtype, jnp.number))
    return isinstance(leaf, jax.Array | bool | int | float | complex)


def _as_array(leaf: Any, aval: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, aval.dtype)


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
        """Returns the part that computes ``outputs`` from a list of ``inputs``.

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
    """Returns the variables among ``atoms``."""
    return [atom for atom in atoms if isinstance(atom, Var)]


def needed(
    eqns: Sequence[JaxprEqn], outputs: Sequence[Atom], *, given: Sequence[Var], effects: bool
) -> list[JaxprEqn]:
    """Returns those of ``eqns`` that ``outputs``, or effects, need when ``given`` is known."""
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
    program = Program(list(inputs), [], [], {}, opened(closed))
    program.outputs.extend(_read_into(program, closed, inputs, enter))
    return program


def body(eqn: JaxprEqn) -> Any:
    """Returns the function that an equation calls, if it could as well be written out there.

    That is so for ``jax.jit``, unless it asks the compiler for something. It is not so for custom
    derivatives, whose derivative is not that of the body.
    """
    if eqn.primitive.name != "jit":
        return None
    asked = ("in_shardings", "out_shardings", "in_layouts", "out_layouts", "compiler_options_kvs")
    wishes = [wish for name in asked for wish in eqn.params[name]]
    return eqn.params["jaxpr"] if all(w is None or w is _no_wish() for w in wishes) else None


@functools.cache
def _no_wish() -> Any:
    """Returns what stands for a sharding in the equation of a ``jax.jit`` that asks for none."""
    (eqn,) = equations(jax.make_jaxpr(jax.jit(lambda x: x + 1))(0.0))
    return eqn.params["in_shardings"][0]


def called(eqn: JaxprEqn) -> Any:
    """Returns the function that an equation calls once, whatever else it asks for; or None."""
    return eqn.params.get(CALLS.get(eqn.primitive.name, ""))


def as_it_is(eqn: JaxprEqn) -> Any:
    """Returns the function that returns what an equation is given, to be read in its place."""
    variables: list[Any] = [Var(atom.aval) for atom in eqn.invars]
    return _no_equations().replace(invars=variables, outvars=variables)


class Loop(NamedTuple):
    """What a ``lax.scan`` does.

    Attributes:
      body: from constants, what is carried, and a row of what is scanned, to what is carried on and
        a row of results.
      carried: how many arrays are carried.
      scanned: how many are scanned.
      length: the number of iterations.
      reverse: whether the last rows come first.
      unroll: how many iterations are written out at once.
    """

    body: Any
    carried: int
    scanned: int
    length: int
    reverse: bool
    unroll: int

    def parts(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Returns the operands that are constant, carried and scanned."""
        scanned = len(operands) - self.scanned
        carried = scanned - self.carried
        return [*operands[:carried]], [*operands[carried:scanned]], [*operands[scanned:]]

    def run(
        self,
        step: Callable[[list[Any]], Sequence[Any]],
        consts: Sequence[Any],
        carry: Sequence[Any],
        xs: Sequence[Any],
        length: int,
    ) -> tuple[list[Any], list[Any]]:
        """Runs ``length`` iterations of ``step``, in the place of the body."""

        def iterate(carry: Sequence[Any], row: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            results = step([*consts, *carry, *row])
            return [*results[: self.carried]], [*results[self.carried :]]

        return jax.lax.scan(
            iterate, [*carry], [*xs], length=length, reverse=self.reverse, unroll=self.unroll
        )


def as_loop(eqn: JaxprEqn) -> Loop:
    """Returns what a ``scan`` equation does.

    What is carried has the same shapes inside as outside, and what is scanned or stacked an axis
    more outside. (How versions of JAX count these among the parameters differs.)
    """
    body, params = eqn.params["jaxpr"], eqn.params

    def with_axis(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(outer.aval.ndim > inner.aval.ndim for outer, inner in pairs)

    scanned = with_axis(eqn.invars, opened(body).invars)
    stacked = with_axis(eqn.outvars, opened(body).outvars)
    carried = len(eqn.outvars) - stacked
    return Loop(body, carried, scanned, params["length"], params["reverse"], params["unroll"])


def is_array(var: Any) -> bool:
    """Tells whether a variable stands for an array, and not for a place that holds one, say."""
    return isinstance(var.aval, jax.core.ShapedArray)


def opened(closed: Any) -> Any:
    """Returns a function as JAX traced it, without its constants.

    JAX before 0.12 keeps these in a wrapper around it.
    """
    return closed if isinstance(closed, Jaxpr) else closed.jaxpr


def consts(closed: Any) -> Sequence[Any]:
    """Returns the values of what a function closes over, apart from the functions that it calls."""
    return getattr(closed, "consts", ())


def equations(closed: Any) -> list[JaxprEqn]:
    """Returns the equations of a function, as JAX traced it."""
    return list(opened(closed).eqns)


def inside(eqn: JaxprEqn) -> list[Any]:
    """Returns all functions that are part of an equation: bodies of loops, branches and so on."""
    values = [v for value in eqn.params.values() for v in (value if _is_row(value) else [value])]
    return [value for value in values if isinstance(value, Jaxpr | ClosedJaxpr)]


def constants(closed: Any) -> Iterator[Any]:
    """Yields what a function closes over, and the functions that it calls."""
    yield from consts(closed)
    for eqn in equations(closed):
        for part in inside(eqn):
            yield from constants(part)


def applies(closed: Any, primitive: str) -> bool:
    """Tells whether a function applies the primitive of that name, wherever in it."""
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
    jaxpr = opened(closed)
    names: dict[Var, Atom] = dict(zip(jaxpr.invars, args, strict=True))
    for var, constant in zip(jaxpr.constvars, consts(closed), strict=True):
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
