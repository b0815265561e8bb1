"""The affine prefix of a function: what it does first to its input that is affine.

Along a straight line whatever is affine in the input moves on a straight line too. So where F is
G after A, and A is affine,

    IG(x) = (x - x') * J_A^T sum_k w_k grad G(A(x') + alpha_k (A(x) - A(x'))),

and A is evaluated twice and transposed once, whatever the number of nodes. ``split_affine`` finds
such an A in what JAX traces of F. The gradient remains that of F: an equation is affine only by a
rule for its primitive, and whatever has a derivative of its own (custom rules, ``stop_gradient``)
stays in G, as do loops, collectives and effects.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Var

from igjax._jaxpr import primitives
from igjax._jaxpr.minimum_cut import Graph, minimum_cut, reach
from igjax._jaxpr.program import Atom, Program, Traced, body, needed, read, variables
from igjax._jaxpr.rounding import eps
from igjax._trees import Tree

# Each variable that is affine in x, and the equation that sets it: None for the leaves of x.
_SetBy = dict[Var, JaxprEqn | None]
_Node = Var | JaxprEqn


class Split(NamedTuple):
    """A function in two: ``fun(*args)`` is ``tail(head(*args))``, up to rounding.

    Attributes:
      head: from the arguments to a list of arrays, affine in them.
      tail: from such arrays, of the same shapes and dtypes, to what the function returns.
    """

    head: Callable[..., list[jax.Array]]
    tail: Callable[[Sequence[jax.Array]], Tree]


# What is done again at every node, in multiplications with addition. A contraction takes one for
# each term of its sums. Elementwise operations and moves are free: XLA fuses them into what reads
# them. To interpolate an array of the cut, and to add up its gradients, is to go through memory
# twice; it counts as 8 for each element. So a dense layer from 8 inputs on belongs in the head, and
# one of fewer inputs only if it has few outputs.
INTERPOLATION = 8


def split_affine(traced: Traced, interpolation: int = INTERPOLATION) -> Split | None:
    """Cuts a function at the end of its affine prefix.

    Args:
      traced: the function, of pytrees of floating-point arrays.
      interpolation: what it costs to interpolate an element, in multiplications with addition.

    Returns:
      The two parts, which evaluate the same equations; or None where they would gain nothing.
    """
    inputs = [Var(aval) for aval in traced.closed.in_avals]
    affine: _SetBy = dict.fromkeys(inputs)
    other: set[Var] = set()  # those that depend on the arguments otherwise

    def enter(eqn: JaxprEqn) -> Any:
        called = None if affine.keys().isdisjoint(variables(eqn.invars)) else body(eqn)
        if called is None:
            _classify(eqn, affine, other)
        return called

    program = read(traced.closed, inputs, enter)
    cut = _best_cut(program, affine, interpolation)
    if not cut:
        return None
    head = program.function(inputs, cut, effects=False)
    tail = program.function(cut, program.outputs, effects=True)
    return Split(lambda *args: head(jax.tree.leaves(args)), lambda h: traced.results(tail(h)))


def _is_affine(eqn: JaxprEqn, operands: Sequence[bool]) -> bool:
    """Tells whether the results of an equation are affine when these of its operands are.

    The others don't depend on the arguments. Indices and predicates never are affine: they are no
    floating-point numbers.
    """
    name = eqn.primitive.name
    if name not in primitives.MOVES and not all(map(_is_precise, eqn.outvars)):
        return False
    match name:
        case "scatter":
            return eqn.params["update_jaxpr"] is None  # not that of .at[].apply()
        case "integer_pow":
            return bool(eqn.params["y"] == 1)
        case "convert_element_type":
            return _widens(eqn)
    return (
        name in primitives.LINEAR
        or (name in primitives.LINEAR_IN_EACH and sum(operands) == 1)
        or (name in primitives.LINEAR_IN_FIRST and not any(operands[1:]))
        or (name in primitives.LINEAR_EACH_IN_ITS_OWN and all(operands))
    )


def _is_precise(atom: Atom) -> bool:
    """Tells whether an array is in float32 at least.

    What is rounded to 16 bits is not affine: along the line the sum of two roundings, of where it
    starts and of how far it moves, is up to three times as far off as the function itself.
    """
    dtype = _aval(atom).dtype
    return not jnp.issubdtype(dtype, jnp.floating) or eps(dtype) <= eps(jnp.float32)


def _widens(eqn: JaxprEqn) -> bool:
    """Tells whether a conversion keeps every number: what is rounded is not affine."""
    finfo: Any = jnp.finfo
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return False
    old, new = finfo(_aval(eqn.invars[0]).dtype), finfo(eqn.params["new_dtype"])
    return bool(new.nmant >= old.nmant and new.maxexp >= old.maxexp)


def _classify(eqn: JaxprEqn, affine: _SetBy, other: set[Var]) -> None:
    """Adds what an equation sets to ``affine`` or ``other``, unless it does not depend on x."""
    operands = [isinstance(atom, Var) and atom in affine for atom in eqn.invars]
    if eqn.effects or not other.isdisjoint(variables(eqn.invars)):
        other.update(eqn.outvars)
    elif any(operands):
        if _is_affine(eqn, operands):
            affine.update(dict.fromkeys(eqn.outvars, eqn))
        else:
            other.update(eqn.outvars)


def _work(eqn: JaxprEqn) -> int:
    """Returns what it costs at every node to have an equation in the tail."""
    shapes = [_aval(atom).shape for atom in eqn.invars]
    result = _size(_aval(eqn.outvars[0]).shape)
    match eqn.primitive.name:
        case "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            return result * _size(shapes[0][axis] for axis in contracted)
        case "conv_general_dilated":
            _, *window = eqn.params["dimension_numbers"].rhs_spec
            terms = _size(shapes[1][axis] for axis in window)
            return result * terms // math.prod(eqn.params["lhs_dilation"])
        case "reduce_sum" | "reduce_window_sum" | "cumsum" | "scatter-add" | "scatter-sub":
            return max(map(_size, shapes))
    return 0


def _aval(atom: Atom) -> Any:
    """Returns the shape and dtype of a variable or literal."""
    return atom.aval


def _size(shape: Iterable[Any]) -> int:
    """Counts elements; lengths that ``jax.export`` leaves open count as 1."""
    return math.prod(length for length in shape if isinstance(length, int))


def _best_cut(program: Program, affine: _SetBy, interpolation: int) -> list[Var]:
    """Returns the affine variables to cut at; none where to start from x is about as good.

    The tail interpolates an affine variable, which is then in the cut, or computes it from others,
    of which the same is true. So the cheapest cut is a minimum cut of a graph: from a variable to
    the equation that sets it, or the end for a leaf of x, at the cost of interpolating it; from an
    equation to the end, at the cost of its work; and from there to its operands, for ever.
    """
    eqns = needed(program.eqns, program.outputs, given=(), effects=True)
    prefix = [eqn for eqn in eqns if not affine.keys().isdisjoint(eqn.outvars)]
    graph: Graph[_Node] = defaultdict(dict)
    for eqn in prefix:
        graph[eqn] = {var: math.inf for var in variables(eqn.invars) if var in affine}
        graph[eqn][None] = _work(eqn)
    for var, setter in affine.items():
        graph[var][setter] = interpolation * _size(_aval(var).shape)

    read = [atom for eqn in eqns if eqn not in graph for atom in eqn.invars] + program.outputs
    wanted: list[_Node] = [var for var in variables(read) if var in affine]
    leaves = reach(graph, wanted).keys() & program.inputs
    start = sum(graph[leaf][None] for leaf in leaves)
    work = sum(graph[eqn][None] for eqn in prefix)
    cost, reached = minimum_cut(graph, wanted)
    # At least half of what it takes to interpolate x is to be saved.
    if cost > work + start / 2:
        return []
    return [var for var, setter in affine.items() if var in reached and setter not in reached]
