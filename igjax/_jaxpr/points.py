"""The points of a function that have names: which there are, and how to read it down to some.

A point is in the function itself, in one that it calls, or in an iteration of a ``lax.scan``.
"""

import difflib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Var

from igjax._jaxpr import program
from igjax._jaxpr.dependence import among, depending, entering

Name = str | tuple[str, int]
Place = tuple[str, int]  # the name of a point, and how many of that name come before it


def is_name(name: Any) -> bool:
    """Tells whether ``name`` is that of one intermediate."""
    return isinstance(name, str) or (
        isinstance(name, tuple)
        and len(name) == 2
        and isinstance(name[0], str)
        and isinstance(name[1], int | np.integer)
    )


class Point(NamedTuple):
    """A point that can be had.

    Attributes:
      name: its name, which others may have too.
      aval: its shape and dtype.
      depends: whether it depends on an argument.
    """

    name: str
    aval: Any
    depends: bool


def each(closed: Any, given: Sequence[bool]) -> Iterator[Point]:
    """Yields the points that can be had, in the order of evaluation.

    Args:
      closed: the function.
      given: which of its arguments count as such.
    """
    found = depending(closed, given)
    for eqn in program.equations(closed):
        operands = among(eqn.invars, found)
        if eqn.primitive.name == "name":
            yield Point(eqn.params["name"], eqn.outvars[0].aval, *operands)
        times, body = _repeated(eqn)
        if times:
            yield from times * [*each(body, entering(eqn, operands))]


def counts(closed: Any) -> Counter[str]:
    """Counts the points that can be had, by name."""
    count = Counter[str]()
    for eqn in program.equations(closed):
        if eqn.primitive.name == "name":
            count[eqn.params["name"]] += 1
        times, body = _repeated(eqn)
        if times:
            count.update({name: times * number for name, number in counts(body).items()})
    return count


def place(name: Name, closed: Any) -> Place:
    """Returns which point a name means.

    Raises:
      ValueError: if it is none, or several have it.
    """
    count = counts(closed)
    base, index = (name, 0) if isinstance(name, str) else (name[0], int(name[1]))
    if not 0 <= index < count[base] or (isinstance(name, str) and count[base] > 1):
        raise ValueError(_not_found(name, count, _hidden(closed)))
    return base, index


def opening(wanted: Collection[Place], points: dict[Place, Var]) -> Callable[[JaxprEqn], Any]:
    """Returns how to read a function down to the points ``wanted``, which is to fill ``points``.

    Whatever is called is opened up where one of these is in it, and else stays whole: its
    derivative, if it has one of its own, is lost by that.
    """
    seen = Counter[str]()

    def enter(eqn: JaxprEqn) -> Any:
        if eqn.primitive.name == "name":
            name = eqn.params["name"]
            points[name, seen[name]] = eqn.outvars[0]
            seen[name] += 1
            return None
        times, body = _repeated(eqn)
        count = counts(body) if times else Counter[str]()
        asked = {
            (index - seen[name]) // count[name]
            for name, index in wanted
            if 0 <= index - seen[name] < times * count[name]
        }
        if not asked:
            seen.update({name: times * number for name, number in count.items()})
            return None
        return _unrolled(eqn, asked) if eqn.primitive.name == "scan" else body

    return enter


def _unrolled(eqn: JaxprEqn, iterations: Collection[int]) -> Any:
    """Returns the function of a ``scan``, with these iterations written out.

    What comes before, between and after them remain loops, so that there is little to compile.
    """
    loop = program.as_loop(eqn)
    ends = sorted({0, loop.length, *iterations, *(i + 1 for i in iterations)})

    def fun(*operands: Any) -> list[Any]:
        consts, carry, xs = loop.parts(operands)
        stacked = []
        for start, stop in itertools.pairwise(ends):
            first = loop.length - stop if loop.reverse else start
            part = [jax.lax.slice_in_dim(x, first, first + stop - start) for x in xs]
            if start in iterations:
                row = [jnp.squeeze(x, 0) for x in part]
                results = program.evaluate(loop.body, [*consts, *carry, *row])
                carry, ys = results[: loop.carried], results[loop.carried :]
                ys = [jnp.expand_dims(y, 0) for y in ys]
            else:
                step = functools.partial(program.evaluate, loop.body)
                carry, ys = loop.run(step, consts, carry, part, stop - start)
            stacked.append(ys)
        in_order = reversed(stacked) if loop.reverse else stacked
        return [*carry, *map(jnp.concatenate, zip(*in_order, strict=True))]

    return jax.make_jaxpr(fun)(*(atom.aval for atom in eqn.invars))


def _repeated(eqn: JaxprEqn) -> tuple[int, Any]:
    """Returns how often an equation calls a function, if that is known, and the function."""
    if eqn.primitive.name == "scan":
        loop = program.as_loop(eqn)
        return loop.length, loop.body
    body = program.called(eqn)
    return (0 if body is None else 1), body


def _not_found(name: Name, count: Counter[str], hidden: dict[str, str]) -> str:
    """Says what to tell who asks for a point ``name`` that is not there."""
    base = name if isinstance(name, str) else name[0]
    if count[base]:
        return (
            f"{count[base]} intermediates are named {base!r}: take one of ({base!r}, 0) … "
            f"({base!r}, {count[base] - 1}), or several, as a list; got {name!r}."
        )
    if base in hidden:
        kind = hidden[base]
        cure = ", or write the loop out in Python, or as a scan" if kind == "while" else ""
        return (
            f"the intermediate {base!r} is inside of a {kind}, which may have many values of "
            "it or none, so that the function cannot be cut there. Name what goes into the "
            f"{kind} or comes out of it{cure}."
        )
    if not count:
        return (
            f"no intermediate is named {name!r}, for none has a name: give it one in the "
            'function, as in h = jax.ad_checkpoint.checkpoint_name(h, "hidden").'
        )
    close = difflib.get_close_matches(base, count, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    listed = ", ".join(map(repr, [*count][:20])) + (" …" if len(count) > 20 else "")
    return f"no intermediate is named {name!r}. {hint}There are {listed}."


def _hidden(closed: Any) -> dict[str, str]:
    """Returns the names of points that cannot be had, and what kind of equation each is inside."""
    hidden: dict[str, str] = {}
    for eqn in program.equations(closed):
        times, body = _repeated(eqn)
        if times:
            hidden.update(_hidden(body))
        else:
            names = (name for part in program.inside(eqn) for name in _all_names(part))
            hidden.update(dict.fromkeys(names, eqn.primitive.name))
    return hidden


def _all_names(closed: Any) -> Iterator[str]:
    """Yields the names of the points of a function, wherever in it they are."""
    for eqn in program.equations(closed):
        if eqn.primitive.name == "name":
            yield eqn.params["name"]
        for body in program.inside(eqn):
            yield from _all_names(body)
