"""The named points of a function, found in what JAX traces of it, and the function cut at them.

JAX's own way to name an intermediate is ``jax.ad_checkpoint.checkpoint_name(h, "block3")``.
``split_at(fun, "block3")`` gives the function up to there and the function from there on: two pure
functions, that JAX transforms like any other. No hooks, no state. ``igjax.flax`` names the layers
of Flax models by their paths, without touching the model.
"""

import difflib
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Var

from igjax._inputs import check_function
from igjax._jaxpr import program as jaxprs
from igjax._sharding import vary_like

__all__ = ["layer_names", "split_at"]

Tree = Any
Name = str | tuple[str, int]


def layer_names(
    fun: Callable[..., Any], *args: Any, **kwargs: Any
) -> dict[Name, jax.ShapeDtypeStruct]:
    """The points of ``fun`` that have a name, in the order of evaluation.

    Args:
      fun: a function, in which ``jax.ad_checkpoint.checkpoint_name`` names intermediates.
      *args: its arguments; for arrays ``jax.ShapeDtypeStruct`` will do.
      **kwargs: likewise.

    Returns:
      By name the shape and dtype. Where a name is used several times, or for a pytree of several
      arrays, there is an entry for each: ``(name, 0)``, ``(name, 1)`` … Either is what ``split_at``
      takes. Points inside of a loop or a branch are not listed, for they cannot be had.

    Raises:
      TypeError: if ``fun`` is no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.sum(checkpoint_name(jnp.tanh(x), "hidden") ** 2)
      >>> igjax.layer_names(f, jnp.ones(3))
      {'hidden': ShapeDtypeStruct(shape=(3,), dtype=float32)}
    """
    check_function("layer_names", fun)

    def shape(var: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)

    points = _trace(fun, args, kwargs, None).points
    return {name: shape(var) for name, var in points.items()}


def split_at(
    fun: Callable[..., Any], name: Name | Sequence[Name]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cuts a function in two at an intermediate with a name.

    The name may be given inside of functions that ``fun`` calls, under ``jax.jit``,
    ``jax.checkpoint`` and functions with derivatives of their own too. What is cut in two loses its
    derivative, its checkpoint or what its ``jit`` asks the compiler for. All that ``fun`` computes
    beside the intermediate is in the tail, and so are its effects, such as ``jax.debug.print``.

    Args:
      fun: a function of pytrees. Arguments that are no arrays, such as flags, stay as they are.
      name: of the intermediate, as ``layer_names`` lists it: a string, or ``(name, index)`` for one
        of several of that name, or of several arrays named at once. A list of names stands for a
        tuple of intermediates.

    Returns:
      ``head``, with the arguments of ``fun``, which returns the intermediate, or a tuple of them;
      and ``tail``, with that in front of the arguments of ``fun``, which returns what ``fun`` does:
      ``tail(head(*args), *args)`` is ``fun(*args)``. Both trace ``fun`` where they are called.

    Raises:
      TypeError: if ``name`` is no name; when called, if what is passed to ``tail`` is of another
        dtype than the intermediate.
      ValueError: when called, if there is no such name, several intermediates have it, it is inside
        of a loop or a branch, what is passed to ``tail`` has another shape, or ``fun`` writes to
        a mutable array (``jax.new_ref``).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> import igjax
      >>> f = lambda x: jnp.sum(checkpoint_name(2 * x, "doubled") ** 2) + x[0]
      >>> head, tail = igjax.split_at(f, "doubled")
      >>> x = jnp.array([1.0, 2.0])
      >>> head(x)
      Array([2., 4.], dtype=float32)
      >>> tail(head(x) + 1, x)
      Array(35., dtype=float32)
    """
    check_function("split_at", fun)
    single = is_name(name)
    wanted: Sequence[Any] = [name] if single or not isinstance(name, list | tuple) else name
    if not wanted or not all(map(is_name, wanted)):
        raise TypeError(
            'name must be that of an intermediate, such as "hidden" or ("hidden", 0), or a list of '
            f"such; got {name!r}."
        )

    @functools.wraps(fun)
    def head(*args: Any, **kwargs: Any) -> Any:
        traced, cut = _find(wanted, fun, args, kwargs)
        values = traced.head(cut)
        return values[0] if single else tuple(values)

    def tail(intermediate: Any, *args: Any, **kwargs: Any) -> Any:
        traced, cut = _find(wanted, fun, args, kwargs, like=_arrays(intermediate))
        values = [intermediate] if single else list(intermediate)
        if len(values) != len(cut):
            raise ValueError(f"{len(cut)} intermediates were split at; got {len(values)} values.")
        fitting = [*map(_like_point, values, cut, wanted)]
        return traced.tail(cut, vary_like(traced.arrays, fitting))

    return head, tail


def is_name(name: Any) -> bool:
    """Whether ``name`` is that of one intermediate."""
    return isinstance(name, str) or (
        isinstance(name, tuple)
        and len(name) == 2
        and isinstance(name[0], str)
        and isinstance(name[1], int | np.integer)
    )


class _Traced(NamedTuple):
    """A function traced at arguments.

    Attributes:
      program: its equations, down to every point that can be had.
      points: the variable at each, by name, in the order of evaluation. A name that several have
        comes with an index.
      hidden: the names of those that cannot be had, and what kind of equation they are inside of.
      arrays: the arguments that are arrays.
      structure: of what the function returns.
    """

    program: jaxprs.Program
    points: dict[Name, Var]
    hidden: dict[str, str]
    arrays: list[Any]
    structure: Any

    def find(self, name: Any) -> Var | None:
        """The variable called ``name``, if there is one, and one alone."""
        if isinstance(name, tuple) and name[1] == 0 and name not in self.points:
            name = name[0]
        return self.points.get(name)

    def head(self, cut: Sequence[Var]) -> list[Any]:
        """The values at the points ``cut``."""
        values = self.program.function(self.program.inputs, cut, effects=False)(self.arrays)
        return [*map(jnp.asarray, values)]

    def tail(self, cut: Sequence[Var], values: Sequence[Any]) -> Tree:
        """What the function returns where it is ``values`` at the points ``cut``."""
        rest = self.program.function(
            [*cut, *self.program.inputs], self.program.outputs, effects=True
        )
        return jax.tree.unflatten(self.structure, rest([*values, *self.arrays]))

    def not_found(self, name: Any) -> str:
        """What to tell who asks for a point ``name`` that is not there."""
        base = name[0] if isinstance(name, tuple) and name else name
        count = sum(isinstance(point, tuple) and point[0] == base for point in self.points)
        if count:
            return (
                f"{count} intermediates are named {base!r}: take one of ({base!r}, 0) … ({base!r}, "
                f"{count - 1}), or several, as a list; got {name!r}."
            )
        if base in self.hidden:
            kind = self.hidden[base]
            return (
                f"the intermediate {base!r} is inside of a {kind}, which may have many values of "
                "it or none, so that the function cannot be cut there. Name what goes into the "
                f"{kind} or comes out of it" + _INSTEAD.get(kind, "") + "."
            )
        known = [*dict.fromkeys(p[0] if isinstance(p, tuple) else p for p in self.points)]
        if not known:
            return (
                f"no intermediate is named {name!r}, for none has a name: give it one in the "
                'function, as in h = jax.ad_checkpoint.checkpoint_name(h, "hidden").'
            )
        close = difflib.get_close_matches(str(base), known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
        listed = ", ".join(map(repr, known[:20])) + (" …" if len(known) > 20 else "")
        return f"no intermediate is named {name!r}. {hint}There are {listed}."


_INSTEAD = dict.fromkeys(("scan", "while"), ", or write the loop out in Python")


def _find(
    wanted: Sequence[Name],
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    like: Sequence[jax.Array] = (),
) -> tuple[_Traced, list[Var]]:
    """``fun``, traced, and its points of the names ``wanted``; see ``_trace``.

    Raises:
      ValueError: if there is no such point.
    """
    traced = _trace(fun, args, kwargs, wanted, like)
    cut: list[Var] = []
    for name in wanted:
        var = traced.find(name)
        if var is None:
            raise ValueError(_trace(fun, args, kwargs, None).not_found(name))
        if var in cut:
            raise ValueError(f"name must have each intermediate once; got {list(wanted)!r}.")
        cut.append(var)
    return traced, cut


def _trace(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: Collection[Name] | None,
    like: Sequence[jax.Array] = (),
) -> _Traced:
    """Traces ``fun`` where it is called with these arguments.

    Args:
      fun: the function.
      args: its arguments; what is no array stays as it is.
      kwargs: likewise.
      wanted: the names to look for, or None for all. A function that is called is opened up where
        one of these is in it, and else stays whole: its derivative, if it has one of its own, is
        lost by that.
      like: arrays. In a ``shard_map`` all arguments are then held by every device for itself where
        any of these or of them are, so that the equations fit such values.

    Raises:
      ValueError: if ``fun`` writes to a mutable array.
    """
    leaves, structure = jax.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, _ARRAYS)]
    arrays = [leaves[i] for i in places]
    if like:
        arrays = vary_like([*like, *arrays], arrays)

    def of_arrays(*arrays: Any) -> Any:
        full = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            full[i] = array
        args, kwargs = jax.tree.unflatten(structure, full)
        return fun(*args, **kwargs)

    closed, results = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
    uses, seen = Counter(_points(closed)), Counter[str]()
    points: dict[Name, Var] = {}
    hidden: dict[str, str] = {}

    def enter(eqn: JaxprEqn) -> Any:
        is_point, body = eqn.primitive.name == "name", jaxprs.called(eqn)
        if not is_point and body is None:
            inside = (name for part in jaxprs.inside(eqn) for name in _names(part))
            hidden.update(dict.fromkeys(inside, eqn.primitive.name))
            return None
        names = [eqn.params["name"]] if is_point else [*_points(body)]
        addresses = _addresses(names, uses, seen)
        if is_point:
            points.update(zip(addresses, eqn.outvars, strict=True))
        elif wanted is None or any(a in wanted or (a, 0) in wanted for a in addresses):
            return body
        seen.update(names)
        return None

    inputs = [Var(aval) for aval in closed.in_avals]
    program = jaxprs.read(closed, inputs, enter)
    if any(map(_is_mutable, (var for eqn in program.eqns for var in eqn.outvars))):
        raise ValueError(
            "the function writes to a mutable array (jax.new_ref), and cannot be cut between what "
            "is written there and what is read. Write it without, or put the part that has it into "
            "a function of its own under jax.jit."
        )
    return _Traced(program, points, hidden, arrays, jax.tree.structure(results))


_ARRAYS = (jax.Array, jax.ShapeDtypeStruct)  # those of NumPy may decide about shapes


def _arrays(tree: Tree) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


def _is_mutable(var: Any) -> bool:
    """Whether ``var`` stands for a place that holds an array."""
    return hasattr(var.aval, "inner_aval")


def _addresses(names: Iterable[str], uses: Counter[str], seen: Counter[str]) -> list[Name]:
    """What to call the next points by, which have these names, after those that were ``seen``."""
    seen, found = seen.copy(), list[Name]()
    for name in names:
        found.append(name if uses[name] == 1 else (name, seen[name]))
        seen[name] += 1
    return found


def _points(closed: Any) -> Iterator[str]:
    """The names of the points of a function that can be had, in the order of evaluation."""
    for eqn in jaxprs.equations(closed):
        if eqn.primitive.name == "name":
            yield eqn.params["name"]
        body = jaxprs.called(eqn)
        if body is not None:
            yield from _points(body)


def _names(closed: Any) -> Iterator[str]:
    """The names of the points of a function, wherever in it they are."""
    for eqn in jaxprs.equations(closed):
        if eqn.primitive.name == "name":
            yield eqn.params["name"]
        for body in jaxprs.inside(eqn):
            yield from _names(body)


def _like_point(value: Any, var: Var, name: Name) -> jax.Array:
    """``value`` as an array like the intermediate ``var``.

    Raises:
      ValueError: if it has another shape.
      TypeError: if it is of another kind of dtype.
    """
    aval: Any = var.aval
    value = jnp.asarray(value, aval.dtype if isinstance(value, int | float) else None)
    if value.shape != aval.shape:
        raise ValueError(
            f"the intermediate {name!r} has shape {aval.shape}; got a value of shape {value.shape}."
        )
    if value.dtype == aval.dtype:
        return value
    if not (jnp.issubdtype(aval.dtype, jnp.floating) and jnp.issubdtype(value.dtype, jnp.floating)):
        raise TypeError(
            f"the intermediate {name!r} has dtype {aval.dtype}; got a value of {value.dtype}."
        )
    return value.astype(aval.dtype)
