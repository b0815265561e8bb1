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
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Var

from igjax._jaxpr import program as jaxprs
from igjax._jaxpr.program import variables

Tree = Any

# Each variable that is affine in x, and the equation that sets it: None for the leaves of x.
_SetBy = dict[Var, JaxprEqn | None]


class Split(NamedTuple):
    """A function in two: ``fun(x)`` is ``tail(head(x))``, up to rounding.

    Attributes:
      head: from ``x`` to a list of arrays, affine in ``x``.
      tail: from such arrays, of the same shapes and dtypes, to what the function returns.
    """

    head: Callable[[Tree], list[jax.Array]]
    tail: Callable[[Sequence[jax.Array]], Tree]


def split_affine(fun: Callable[[Tree], Tree], x: Tree) -> Split | None:
    """Cuts ``fun`` at the end of its affine prefix.

    Args:
      fun: a function of a pytree of floating-point arrays to a pytree of arrays.
      x: such a pytree, of which only shapes and dtypes matter.

    Returns:
      The two parts, for inputs like ``x``; or None where they would gain nothing.
    """
    closed, results = jax.make_jaxpr(fun, return_shape=True)(x)
    inputs = [Var(aval) for aval in closed.in_avals]
    affine: _SetBy = dict.fromkeys(inputs)
    other: set[Var] = set()  # those that depend on x otherwise

    def enter(eqn: JaxprEqn) -> Any:
        body = None if affine.keys().isdisjoint(variables(eqn.invars)) else jaxprs.body(eqn)
        if body is None:
            _classify(eqn, affine, other)
        return body

    program = jaxprs.read(closed, inputs, enter)
    cut = _best_cut(program, affine)
    if not cut:
        return None
    head = program.function(inputs, cut, effects=False)
    tail = program.function(cut, program.outputs, effects=True)
    structure = jax.tree.structure(results)
    return Split(
        lambda x: head(jax.tree.leaves(x)), lambda h: jax.tree.unflatten(structure, tail(h))
    )


# A rule says whether the results of an equation are affine when these of its operands are, and the
# others do not depend on x. Indices and predicates never are: they are no floating-point numbers.
_Rule = Callable[[JaxprEqn, Sequence[bool]], bool]


def _always(_: JaxprEqn, __: Sequence[bool]) -> bool:
    return True


def _widens(eqn: JaxprEqn, _: Sequence[bool]) -> bool:
    """Whether a conversion keeps every number; others round, and what is rounded is not affine."""
    finfo: Any = jnp.finfo
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return False
    old, new = finfo(_aval(eqn.invars[0]).dtype), finfo(eqn.params["new_dtype"])
    return bool(new.nmant >= old.nmant and new.maxexp >= old.maxexp)


_TABLE: dict[str, _Rule] = {
    "add sub neg add_any reduce_sum reduce_window_sum cumsum": _always,
    "reshape squeeze transpose broadcast_in_dim tile rev slice split unstack": _always,
    "stack concatenate pad copy name pvary sharding_constraint reshard": _always,
    "select_n gather scatter-add scatter-sub dynamic_slice dynamic_update_slice": _always,
    "scatter": lambda eqn, _: eqn.params["update_jaxpr"] is None,  # not that of .at[].apply()
    "mul dot_general conv_general_dilated": lambda _, affine: sum(affine) == 1,
    "div scatter-mul": lambda _, affine: not any(affine[1:]),
    "optimization_barrier device_put": lambda _, affine: all(affine),  # each to its own result
    "integer_pow": lambda eqn, _: bool(eqn.params["y"] == 1),
    "convert_element_type": _widens,
}
_RULES = {name: rule for names, rule in _TABLE.items() for name in names.split()}


def _classify(eqn: JaxprEqn, affine: _SetBy, other: set[Var]) -> None:
    """Adds what an equation sets to ``affine`` or ``other``, unless it does not depend on x."""
    operands = [isinstance(atom, Var) and atom in affine for atom in eqn.invars]
    if eqn.effects or not other.isdisjoint(variables(eqn.invars)):
        other.update(eqn.outvars)
    elif any(operands):
        rule = _RULES.get(eqn.primitive.name)
        if rule is not None and rule(eqn, operands):
            affine.update(dict.fromkeys(eqn.outvars, eqn))
        else:
            other.update(eqn.outvars)


# What is done again at every node, in multiplications with addition. A contraction takes one for
# each term of its sums. Elementwise operations and moves are free: XLA fuses them into what reads
# them. To interpolate an array of the cut, and to add up its gradients, is to go through memory
# twice; it counts as 8 for each element. So a dense layer from 8 inputs on belongs in the head, and
# one of fewer inputs only if it has few outputs.
_INTERPOLATION = 8


def _work(eqn: JaxprEqn) -> int:
    """What it costs at every node to have an equation in the tail."""
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


def _aval(atom: jaxprs.Atom) -> Any:
    """The shape and dtype of a variable or literal."""
    return atom.aval


def _size(shape: Iterable[Any]) -> int:
    """The number of elements; lengths that ``jax.export`` leaves open count as 1."""
    return math.prod(length for length in shape if isinstance(length, int))


def _best_cut(program: jaxprs.Program, affine: _SetBy) -> list[Var]:
    """The affine variables to cut at; none where that is not much better than to start from x.

    The tail interpolates an affine variable, which is then in the cut, or computes it from others,
    of which the same is true. So the cheapest cut is a minimum cut of a graph: from a variable to
    the equation that sets it, or the end for a leaf of x, at the cost of interpolating it; from an
    equation to the end, at the cost of its work; and from there to its operands, for ever.
    """
    eqns = jaxprs.needed(program.eqns, program.outputs, given=(), effects=True)
    prefix = [eqn for eqn in eqns if not affine.keys().isdisjoint(eqn.outvars)]
    graph: _Graph = defaultdict(dict)
    for eqn in prefix:
        graph[eqn] = {var: math.inf for var in variables(eqn.invars) if var in affine}
        graph[eqn][_END] = _work(eqn)
    for var, setter in affine.items():
        graph[var][setter] = _INTERPOLATION * _size(_aval(var).shape)

    read = [atom for eqn in eqns if eqn not in graph for atom in eqn.invars] + program.outputs
    wanted = [var for var in variables(read) if var in affine]
    leaves = _reach(graph, wanted).keys() & program.inputs
    start = sum(graph[leaf][_END] for leaf in leaves)
    work = sum(graph[eqn][_END] for eqn in prefix)
    cost, reached = _minimum_cut(graph, wanted)
    # At least half of what it takes to interpolate x is to be saved.
    if cost > work + start / 2:
        return []
    return [var for var, setter in affine.items() if var in reached and setter not in reached]


_END = None  # what sets the leaves of x
_Node = Var | JaxprEqn | None
_Graph = defaultdict[_Node, dict[_Node, float]]


def _minimum_cut(graph: _Graph, sources: Sequence[Var]) -> tuple[float, Collection[_Node]]:
    """The least cost of cutting all ways from ``sources`` to the end, and what is before the cut.

    This is Ford and Fulkerson's method, which sends as much to the end as the ways can carry, and
    uses up ``graph``. Of cuts at the same cost it finds the one nearest to the sources.
    """
    flow = 0.0
    for source in sources:
        while _END in (came_from := _reach(graph, [source])):
            way: list[tuple[_Node, _Node]] = []
            node: _Node = _END
            while node is not source:
                way.append((came_from[node], node))
                node = came_from[node]
            amount = min(graph[start][end] for start, end in way)
            for start, end in way:
                graph[start][end] -= amount
                graph[end][start] = graph[end].get(start, 0) + amount
            flow += amount
    return flow, _reach(graph, sources)


def _reach(graph: _Graph, sources: Sequence[Var]) -> dict[_Node, _Node]:
    """The nodes within reach of ``sources``, breadth first, and from where each was reached."""
    came_from: dict[_Node, _Node] = dict.fromkeys(sources)
    queue: list[_Node] = list(came_from)
    for node in queue:
        for end, left in graph[node].items():
            if left > 0 and end not in came_from:
                came_from[end] = node
                queue.append(end)
    return came_from
