"""Which entry of the arguments each entry of a result is made of.

A table is looked up by numbers, and whatever moves these numbers before, or the rows afterwards,
decides which number a row belongs to. So the function is gone through once more with places in the
place of values: moves are done to an array of places, as JAX does them to values; what is computed
entry by entry keeps its place; and a row of a table has that of the number it was looked up by.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var

from igjax._inputs import is_known
from igjax._jaxpr.primitives import (
    ACCUMULATES,
    BITWISE,
    COMPARES,
    COPIES,
    ELEMENTWISE,
    MOVES,
    REDUCES,
)
from igjax._jaxpr.program import (
    Atom,
    Program,
    as_it_is,
    as_loop,
    called,
    evaluate_equation,
    is_array,
    needed,
    read,
    variables,
)

# Of each entry of an array the place that it is made of. None stands for an array of NOWHERE.
Places = np.ndarray | None
NOWHERE = -1
SEVERAL = np.iinfo(np.int32).max


class Lookup(NamedTuple):
    """A table that is looked up by numbers of an argument.

    Attributes:
      places: of the numbers, an array whose last axis is that of an index's components.
      last: the greatest number that each component may be.
      indices: from the leaves of the arguments to the numbers; None if they depend on what is not
        known by now.
    """

    places: np.ndarray
    last: np.ndarray
    indices: Callable[[Sequence[Any]], np.ndarray | None]


class Origins(NamedTuple):
    """A function whose entries have been followed.

    Attributes:
      program: its equations.
      places: of those variables that are made of anything.
    """

    program: Program
    places: dict[Var, np.ndarray]

    @classmethod
    def of(cls, closed: Any, given: Sequence[Places]) -> "Origins | None":
        """Follows the arguments' entries through a function.

        None, where ``jax.export`` leaves open how many entries there are.

        Args:
          closed: the function, as ``jax.make_jaxpr`` makes it.
          given: the places of the arguments' entries, numbers from 0 on, or NOWHERE.
        """
        program = _read(closed)
        return None if program is None else cls._followed(program, given)

    @classmethod
    def _followed(cls, program: Program, given: Sequence[Places]) -> "Origins":
        self = cls(program, {})
        self._note(program.inputs, given)
        for eqn in program.eqns:
            if any(places is not None for places in self.operands(eqn)):
                self._note(eqn.outvars, self._results(eqn))
                if written := [var for var in variables(eqn.invars) if not is_array(var)]:
                    self._note(written, self._anything(eqn, written))
        return self

    @property
    def results(self) -> list[np.ndarray]:
        """Returns the places of the results' entries, SEVERAL where they are not of one alone."""
        return [_full(self.of_atom(atom), atom) for atom in self.program.outputs]

    def lookups(self) -> Iterator[Lookup]:
        """Yields where tables that are no arguments are looked up by numbers that have places.

        Not those that say what is to be had for a number that is not in the table; nor those in a
        loop, whose numbers are not known beside it.
        """
        for eqn in self.program.eqns:
            name = eqn.primitive.name
            if name not in ("gather", "dynamic_slice"):
                continue
            table, *places = self.operands(eqn)
            if table is not None or all(own is None for own in places) or _is_filled(eqn):
                continue
            last = np.array(_shape(eqn.invars[0])) - np.array(eqn.params["slice_sizes"])
            if name == "gather":
                last = last[list(eqn.params["dimension_numbers"].start_index_map)]
            indices = eqn.invars[1:]
            stacked = _stacked([*map(_full, places, indices)])
            yield Lookup(stacked, last, functools.partial(self._values, indices))

    def _values(self, atoms: Sequence[Atom], leaves: Sequence[Any]) -> np.ndarray | None:
        values = self.program.function(self.program.inputs, atoms, effects=False)(leaves)
        if not all(map(is_known, values)):
            return None
        return _stacked([*map(np.asarray, values)])

    def of_atom(self, atom: Atom) -> Places:
        """Returns the places of a variable's or a literal's entries."""
        return self.places.get(atom) if isinstance(atom, Var) else None

    def operands(self, eqn: JaxprEqn) -> list[Places]:
        """Returns those of an equation's operands."""
        return [*map(self.of_atom, eqn.invars)]

    def _note(self, variables: Sequence[Var], places: Sequence[Places]) -> None:
        for var, own in zip(variables, places, strict=True):
            if own is not None and np.any(own != NOWHERE):
                self.places[var] = own

    def _results(self, eqn: JaxprEqn) -> Sequence[Places]:
        """Returns the places of an equation's results."""
        rule = _RULES.get(eqn.primitive.name)
        results = None if rule is None else rule(self, eqn)
        return self._anything(eqn, eqn.outvars) if results is None else results

    def _anything(self, eqn: JaxprEqn, made: Sequence[Var]) -> list[Places]:
        """Returns the places of what may be made of all entries of all operands."""
        totals = [_joined(places) for places in self.operands(eqn) if places is not None]
        return [np.broadcast_to(_joined(np.stack(totals)), _shape(var)) for var in made]

    def known(self, atom: Atom) -> np.ndarray | None:
        """Returns a value that depends on no argument, if it can be computed by now."""
        if isinstance(atom, Literal):
            return np.asarray(atom.val)
        eqns = needed(self.program.eqns, [atom], given=(), effects=False)
        used = {atom, *(var for eqn in eqns for var in variables(eqn.invars))}
        closed_over = [value for var, value in self.program.constants.items() if var in used]
        by_device = any(eqn.effects for eqn in eqns)  # the number of one in a `shard_map`, say
        if by_device or not used.isdisjoint(self.program.inputs):
            return None
        if not all(map(is_known, closed_over)):
            return None
        with jax.core.eval_context():  # whatever transformations are around
            (value,) = self.program.function([], [atom], effects=False)([])
        return np.asarray(value)


def _read(closed: Any) -> Program | None:
    """Returns what the results of a function need; None, where lengths of arrays are open."""
    whole = read(closed, [Var(aval) for aval in closed.in_avals], _entered)
    eqns = needed(whole.eqns, whole.outputs, given=(), effects=False)
    made = [var for eqn in eqns for var in eqn.outvars]
    arrays = [var for var in (*whole.inputs, *whole.constants, *made) if is_array(var)]
    is_open = any(not isinstance(length, int) for var in arrays for length in _shape(var))
    return None if is_open else whole._replace(eqns=eqns)


def _is_filled(eqn: JaxprEqn) -> bool:
    fill = eqn.params.get("fill_value")
    return fill is not None and not np.isnan(fill)


def joined_rows(places: np.ndarray, axes: int) -> np.ndarray:
    """Returns the place that each row is made of, where rows are along the first ``axes``."""
    return _joined(places, tuple(range(axes, places.ndim)))


def _entered(eqn: JaxprEqn) -> Any:
    return as_it_is(eqn) if eqn.primitive.name in COPIES else called(eqn)


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns numbers with the components of an index along the last axis, be they apart or not."""
    return np.stack(parts) if parts[0].ndim == 0 else parts[0]


def _full(places: Places, atom: Atom) -> np.ndarray:
    return np.broadcast_to(np.int32(NOWHERE), _shape(atom)) if places is None else places


def _shape(atom: Atom) -> tuple[int, ...]:
    aval: Any = atom.aval
    return tuple(aval.shape)


def _join(first: Places, second: Places) -> Places:
    """Returns the places of what is made of two arrays, entry by entry."""
    if first is None or second is None:
        return second if first is None else first
    most, least = np.maximum(first, second), np.minimum(first, second)
    return np.where((most == least) | (least == NOWHERE), most, np.int32(SEVERAL))


def _joined(places: np.ndarray, axes: Sequence[int] | None = None) -> np.ndarray:
    """Returns the places of what is made of all entries along some axes, or of all."""
    axes = None if axes is None else tuple(axes)
    most = np.max(places, axes, initial=NOWHERE)
    least = np.min(places, axes, initial=SEVERAL, where=places != NOWHERE)
    return np.where((most == NOWHERE) | (most == least), most, np.int32(SEVERAL))


def _along(places: Places, dimensions: Sequence[int], shape: Sequence[int]) -> Places:
    """Returns an array broadcast to ``shape``, of whose axes ``dimensions`` are its own."""
    if places is None:
        return None
    lengths = [1] * len(shape)
    for dimension, length in zip(dimensions, places.shape, strict=True):
        lengths[dimension] = length
    return np.broadcast_to(places.reshape(lengths), shape)


# A rule says of what entries the results of an equation are made, or None, if it cannot tell.
_Rule = Callable[[Origins, JaxprEqn], Sequence[Places] | None]


def _entry_by_entry(self: Origins, eqn: JaxprEqn) -> Sequence[Places]:
    joined: Any = functools.reduce(_join, self.operands(eqn))
    return [np.broadcast_to(joined, _shape(eqn.outvars[0]))]  # some may be scalars for all entries


def _selected(self: Origins, eqn: JaxprEqn) -> Sequence[Places]:
    which, *cases = eqn.invars
    known = self.known(which) if self.of_atom(which) is None else None
    if known is None:
        return _entry_by_entry(self, eqn)
    return [np.choose(known.astype(int), [_full(self.of_atom(case), case) for case in cases])]


def _broadcast(self: Origins, eqn: JaxprEqn) -> Sequence[Places]:
    places = self.operands(eqn)[0]
    return [_along(places, eqn.params["broadcast_dimensions"], eqn.params["shape"])]


# The operands that are moved, and not said where to, of moves that go by the values of others.
_MOVED = {
    "gather": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
}


def _moved(self: Origins, eqn: JaxprEqn) -> Sequence[Places] | None:
    params = eqn.params
    if params.get("update_jaxpr") is not None:
        return None  # a scatter that applies a function
    moved = _MOVED.get(eqn.primitive.name, range(len(eqn.invars)))
    values: list[Any] = []
    for number, atom in enumerate(eqn.invars):
        places = self.of_atom(atom)
        if number in moved:
            values.append(_full(places, atom).astype(np.int32))
        else:
            values.append(self.known(atom) if places is None else None)
    if any(value is None for value in values):
        return None
    if "fill_value" in params:
        eqn = eqn.replace(params=params | {"fill_value": NOWHERE})
    with jax.core.eval_context():  # also in a `shard_map`, where every result is a tracer
        return [*map(np.asarray, evaluate_equation(eqn, values))]


def _gathered(self: Origins, eqn: JaxprEqn) -> Sequence[Places] | None:
    table, indices = self.operands(eqn)
    if table is not None or indices is None:
        return _moved(self, eqn)
    (result,) = eqn.outvars
    offsets = eqn.params["dimension_numbers"].offset_dims
    batch = [axis for axis in range(len(_shape(result))) if axis not in offsets]
    return [_along(_joined(indices, (-1,)), batch, _shape(result))]


def _contracted(self: Origins, eqn: JaxprEqn) -> Sequence[Places]:
    contracted, batched = eqn.params["dimension_numbers"]
    shape = _shape(eqn.outvars[0])
    count, start = len(batched[0]), len(batched[0])
    parts: list[Places] = []
    for atom, sums, batch in zip(eqn.invars, contracted, batched, strict=True):
        free = [axis for axis in range(len(_shape(atom))) if axis not in (*sums, *batch)]
        stop = start + len(free)
        places = self.of_atom(atom)
        if places is not None:
            in_order = np.transpose(places, [*batch, *free, *sums])
            kept = joined_rows(in_order, count + len(free))
            parts.append(_along(kept, [*range(count), *range(start, stop)], shape))
        start = stop
    return [functools.reduce(_join, parts)]


def _reduced(self: Origins, eqn: JaxprEqn) -> Sequence[Places] | None:
    (places,) = self.operands(eqn)
    return None if places is None else [_joined(places, eqn.params["axes"])]


def _accumulated(self: Origins, eqn: JaxprEqn) -> Sequence[Places] | None:
    ((places,), axis) = self.operands(eqn), eqn.params["axis"]
    if places is None:
        return None
    return [np.broadcast_to(np.expand_dims(_joined(places, (axis,)), axis), places.shape)]


def _each_its_own(self: Origins, eqn: JaxprEqn) -> Sequence[Places]:
    return self.operands(eqn)


def _iterated(self: Origins, eqn: JaxprEqn) -> Sequence[Places] | None:
    loop = as_loop(eqn)
    if not loop.length:
        return None
    program = _read(loop.body)
    if program is None:
        return None
    consts, carry, xs = loop.parts(self.operands(eqn))
    stacked: list[Any] = [None] * loop.length
    for i in reversed(range(loop.length)) if loop.reverse else range(loop.length):
        row = [None if x is None else x[i] for x in xs]
        results = Origins._followed(program, [*consts, *carry, *row]).results
        carry, stacked[i] = results[: loop.carried], results[loop.carried :]
    return [*carry, *map(np.stack, zip(*stacked, strict=True))]


_RULES: dict[str, _Rule] = (
    dict.fromkeys(MOVES - COPIES, _moved)
    | dict.fromkeys(ELEMENTWISE | COMPARES | BITWISE, _entry_by_entry)
    | dict.fromkeys(("psum", "psum_invariant"), _each_its_own)  # over devices
    | dict.fromkeys(REDUCES, _reduced)
    | dict.fromkeys(ACCUMULATES, _accumulated)
    | {
        "select_n": _selected,
        "broadcast_in_dim": _broadcast,
        "gather": _gathered,
        "dot_general": _contracted,
        "scan": _iterated,
    }
)
