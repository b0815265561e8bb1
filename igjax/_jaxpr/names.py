"""The named points of a function, found in what JAX traces of it, and the function cut at them.

JAX's own way to name an intermediate is ``jax.ad_checkpoint.checkpoint_name(h, "block3")``.
``split_at(fun, "block3")`` gives the function up to there and the function from there on: two pure
functions, that JAX transforms like any other. No hooks, no state. ``igjax.flax`` names the layers
of Flax models by their paths, without touching the model.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from igjax._inputs import check_function, check_some_array
from igjax._jaxpr import points, program
from igjax._jaxpr.dependence import among, spread
from igjax._jaxpr.points import Name, is_name
from igjax._jaxpr.program import Program, Traced
from igjax._sharding import vary_like
from igjax._trees import Tree

__all__ = ["layer_names", "split_at"]


def layer_names(
    fun: Callable[..., Any], *args: Any, **kwargs: Any
) -> dict[Name, jax.ShapeDtypeStruct]:
    """Lists the points of ``fun`` that have a name, in the order of evaluation.

    Args:
      fun: a function, in which ``jax.ad_checkpoint.checkpoint_name`` names intermediates.
      *args: its arguments; for arrays ``jax.ShapeDtypeStruct`` will do.
      **kwargs: likewise.

    Returns:
      By name the shape and dtype. Where a name is used several times, for a pytree of several
      arrays, or in a ``lax.scan`` of several iterations, there is an entry for each: ``(name, 0)``,
      ``(name, 1)`` … Either is what ``split_at`` takes. Points inside of a branch, or of a loop
      that runs until a condition is met, are not listed, for they cannot be had; nor are those that
      depend on no argument, such as weights that ``fun`` closes over.

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
    check_some_array("layer_names", args, kwargs)
    arguments = _Arguments.of(args, kwargs)
    closed = arguments.trace(fun).closed
    uses, seen = points.counts(closed), Counter[str]()
    found: dict[Name, jax.ShapeDtypeStruct] = {}
    for name, aval, depends in points.each(closed, [True] * len(arguments.places)):
        place = name if uses[name] == 1 else (name, seen[name])
        if depends or not arguments.are_traced(_is_number):
            found[place] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        seen[name] += 1
    return found


def split_at(
    fun: Callable[..., Any], name: Name | Sequence[Name]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Cuts a function in two at an intermediate with a name.

    The name may be given inside of functions that ``fun`` calls, under ``jax.jit``,
    ``jax.checkpoint`` and functions with derivatives of their own too. What is cut in two loses its
    derivative, its checkpoint or what its ``jit`` asks the compiler for. A ``lax.scan`` is cut at
    an iteration: what comes before it and after it remain loops. All that ``fun`` computes beside
    the intermediate is in the tail, and so are its effects, such as ``jax.debug.print``.

    Args:
      fun: a function of pytrees. Arguments that are no arrays, such as flags, stay as they are.
      name: of the intermediate, as ``layer_names`` lists it: a string, or ``(name, index)`` for one
        of several of that name, of several arrays named at once, or of the iterations of a
        ``lax.scan``. A list of names stands for a tuple of intermediates.

    Returns:
      ``head``, with the arguments of ``fun``, which returns the intermediate, or a tuple of them;
      and ``tail``, with that in front of the arguments of ``fun``, which returns what ``fun`` does:
      ``tail(head(*args), *args)`` is ``fun(*args)``. Both trace ``fun`` where they are called.

    Raises:
      TypeError: if ``name`` is no name; when called, if what is passed to ``tail`` is of another
        dtype than the intermediate.
      ValueError: when called, if there is no such name, several intermediates have it, it is inside
        of a ``while`` loop or a branch, what is passed to ``tail`` has another shape, or ``fun``
        writes to a mutable array (``jax.new_ref``).

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
    _names(name)

    @functools.wraps(fun)
    def head(*args: Any, **kwargs: Any) -> Any:
        check_some_array("split_at", args, kwargs)
        return cut(fun, name, args, kwargs).head(*args, **kwargs)

    def tail(intermediate: Any, *args: Any, **kwargs: Any) -> Any:
        check_some_array("split_at", args, kwargs)
        return cut(fun, name, args, kwargs).tail(intermediate, *args, **kwargs)

    return head, tail


def _is_number(leaf: Any) -> bool:
    """Returns whether a leaf of arguments is a number or an array; flags are none."""
    kinds = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, int, float, complex)
    return isinstance(leaf, kinds) and not isinstance(leaf, bool)


class Cut(NamedTuple):
    """A function traced and cut in two, as ``split_at`` cuts it.

    Attributes:
      head: from the arguments to the intermediate, or to a tuple of several.
      tail: from that and the arguments to what the function returns.
      idle: the names of those intermediates, if not empty, that depend on no argument that moves.
        None, if such a one is no array of JAX: what depends on it cannot be seen.
    """

    head: Callable[..., Any]
    tail: Callable[..., Any]
    idle: list[Name]


def cut(
    fun: Callable[..., Any],
    name: Name | Sequence[Name],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    moves: Callable[[Any], bool] = _is_number,
) -> Cut:
    """Traces a function and cuts it in two at an intermediate with a name.

    Args:
      fun: see ``split_at``.
      name: likewise.
      args: the arguments of ``fun``: of those that are arrays only shapes and dtypes matter.
      kwargs: likewise.
      moves: which leaves of the arguments others may be put in place of: all numbers, or some.

    Returns:
      The two parts, which evaluate the same equations wherever they are called with arrays like
      those given here. (Where such are laid out over devices otherwise, ``fun`` is traced again.)
      Arguments that are no arrays stay what they are here.

    Raises:
      TypeError: as ``split_at`` does.
      ValueError: likewise; when a part is called, if its arguments have another structure.
    """
    single, names = is_name(name), _names(name)
    arguments = _Arguments.of(args, kwargs)
    halves = _halves(fun, names, arguments)

    def head(*args: Any, **kwargs: Any) -> Any:
        arrays = arguments.arrays_of(args, kwargs)
        fitting = halves
        if not all(map(_is_laid_out_like, arrays, halves.program.inputs)):
            fitting = _halves(fun, names, arguments.replaced(arrays))
        values = fitting.head(arrays)
        return values[0] if single else tuple(values)

    def tail(intermediate: Any, *args: Any, **kwargs: Any) -> Any:
        given = [intermediate] if single else list(intermediate)
        if len(given) != len(names):
            raise ValueError(f"{len(names)} intermediates were split at; got {len(given)} values.")
        values = [*map(_like_point, given, halves.points, names)]
        arrays = arguments.arrays_of(args, kwargs)
        places = [*halves.points, *halves.program.inputs]
        if all(map(_is_laid_out_like, [*values, *arrays], places)):
            return halves.tail(values, arrays)
        # In a `shard_map` all are to be held by every device for itself where any of them is, so
        # that the equations fit them.
        arrays = vary_like([*values, *arrays], arrays)
        again = _halves(fun, names, arguments.replaced(arrays))
        return again.tail(vary_like(arrays, values), arrays)

    inputs = zip(halves.program.inputs, arguments.arrays, strict=True)
    found = spread(halves.program.eqns, [var for var, leaf in inputs if moves(leaf)])
    reached = zip(names, halves.points, among(halves.points, found), strict=True)
    idle = [name for name, point, is_it in reached if not is_it and 0 not in _shape(point)]
    return Cut(head, tail, idle if arguments.are_traced(moves) else [])


def _names(name: Any) -> list[Name]:
    """Returns the names that ``name`` stands for.

    Raises:
      TypeError: if it is no name, and no list of names.
    """
    wanted = list(name) if isinstance(name, list | tuple) and not is_name(name) else [name]
    if not wanted or not all(map(is_name, wanted)):
        raise TypeError(
            'name must be that of an intermediate, such as "hidden" or ("hidden", 0), or a list of '
            f"such; got {name!r}."
        )
    return wanted


class _Arguments(NamedTuple):
    """Arguments of a function, of which some leaves are arrays, and others stay as they are.

    Attributes:
      leaves: all leaves.
      structure: of the arguments by position and by keyword.
      places: the numbers of those leaves that are arrays.
    """

    leaves: list[Any]
    structure: Any
    places: list[int]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Arguments":
        leaves, structure = jax.tree.flatten((args, kwargs))
        # Arrays of NumPy may decide about shapes.
        kinds = (jax.Array, jax.ShapeDtypeStruct)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, kinds)]
        return cls(leaves, structure, places)

    @property
    def arrays(self) -> list[Any]:
        return [self.leaves[i] for i in self.places]

    def are_traced(self, moves: Callable[[Any], bool]) -> bool:
        """Returns whether all leaves that move are arrays of JAX."""
        return {i for i, leaf in enumerate(self.leaves) if moves(leaf)} <= {*self.places}

    def arrays_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Returns the leaves of other arguments that are in the places of arrays.

        Raises:
          ValueError: if the others have another structure.
        """
        leaves, structure = jax.tree.flatten((args, kwargs))
        if structure != self.structure:
            raise ValueError(
                f"the function was cut for arguments {self.structure}; got {structure}."
            )
        return [jnp.asarray(leaves[i], self.leaves[i].dtype) for i in self.places]

    def replaced(self, arrays: Sequence[Any]) -> "_Arguments":
        """Returns the arguments with other arrays in their places."""
        leaves = list(self.leaves)
        for i, array in zip(self.places, arrays, strict=True):
            leaves[i] = array
        return self._replace(leaves=leaves)

    def trace(self, fun: Callable[..., Any]) -> Traced:
        """Traces ``fun`` as a function of the arrays."""

        @program.named_like(fun)
        def of_arrays(*arrays: Any) -> Any:
            args, kwargs = jax.tree.unflatten(self.structure, self.replaced(arrays).leaves)
            return fun(*args, **kwargs)

        return program.trace(of_arrays, *self.arrays)


class _Halves(NamedTuple):
    """A function of arrays, cut in two.

    Attributes:
      traced: the function.
      program: its equations, down to the points.
      points: the variables that it is cut at.
    """

    traced: Traced
    program: Program
    points: list[Var]

    def head(self, arrays: Sequence[Any]) -> list[jax.Array]:
        """Returns the values at the points."""
        evaluate = self.program.function(self.program.inputs, self.points, effects=False)
        return [*map(jnp.asarray, evaluate(arrays))]

    def tail(self, values: Sequence[Any], arrays: Sequence[Any]) -> Tree:
        """Returns what the function does where it is ``values`` at the points."""
        inputs = [*self.points, *self.program.inputs]
        evaluate = self.program.function(inputs, self.program.outputs, effects=True)
        return self.traced.results(evaluate([*values, *arrays]))


def _halves(fun: Callable[..., Any], names: Sequence[Name], arguments: _Arguments) -> _Halves:
    """Traces ``fun`` and finds the points of these names.

    Raises:
      ValueError: if there is no such point, or ``fun`` writes to a mutable array.
    """
    traced = arguments.trace(fun)
    wanted = [points.place(name, traced.closed) for name in names]
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"name must have each intermediate once; got {list(names)!r}.")
    found: dict[points.Place, Var] = {}
    inputs = [Var(aval) for aval in traced.closed.in_avals]
    read = program.read(traced.closed, inputs, points.opening(wanted, found))
    if not all(map(program.is_array, (var for eqn in read.eqns for var in eqn.outvars))):
        raise ValueError(
            "the function writes to a mutable array (jax.new_ref), and cannot be cut between what "
            "is written there and what is read. Write it without, or put the part that has it into "
            "a function of its own under jax.jit."
        )
    return _Halves(traced, read, [found[place] for place in wanted])


def _is_laid_out_like(array: jax.Array, var: Var) -> bool:
    """Tells whether an array is laid out over devices as ``var`` is, where types say that."""
    mesh = jax.typeof(array).sharding.mesh
    aval: Any = var.aval
    return not (mesh.explicit_axes or mesh.manual_axes) or bool(jax.typeof(array) == aval)


def _shape(var: Var) -> tuple[int, ...]:
    aval: Any = var.aval
    return tuple(aval.shape)


def _like_point(value: Any, var: Var, name: Name) -> jax.Array:
    """Returns ``value`` as an array like the intermediate ``var``.

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
