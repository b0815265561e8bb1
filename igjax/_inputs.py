"""Checks of what a user passes in: inputs, baselines, points of paths. Messages name the leaf."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igjax._jaxpr.program import named_like
from igjax._padding import check_blind_to_padding
from igjax._parameters import check_is_input
from igjax._trees import Tree, filled, floats, is_kind, same_structure, thinned


def check_count(name: str, count: Any, least: int) -> int:
    """Returns ``count`` as an int of at least ``least``; otherwise says what ``name`` must be.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is too small.
    """
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {count!r}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}.")
    return number


def check_index(name: str, index: Any, length: int) -> None:
    """Raises unless ``index`` is one of an axis, as far as it is known when this is traced.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is out of range.
    """
    if isinstance(index, jax.core.Tracer) and jnp.issubdtype(index.dtype, jnp.integer):
        return
    if isinstance(index, bool):
        raise TypeError(f"{name} must be an integer; got {index!r}.")
    number = check_count(name, index, least=-length)
    if number >= length:
        raise ValueError(f"{name} must be less than {length}; got {number}.")


def check_function(method: str, fun: Any) -> None:
    """Raises TypeError unless ``fun`` can be called."""
    if not callable(fun):
        raise TypeError(f"{method} takes a function; got {fun!r}.")


def as_floating(x: Tree, name: str) -> Tree:
    """Returns ``x`` with arrays for leaves, all of them real floating-point.

    Args:
      x: a pytree of numbers and arrays.
      name: what to call ``x`` in a message, such as ``"argument 0"``.

    Raises:
      TypeError: if a leaf is an integer, a bool, complex or no array at all.
      ValueError: if there is no leaf.
    """
    if not jax.tree.leaves(x):
        raise ValueError(f"igjax attributes to arrays of floats, but {name} has none: {x!r}.")

    def leaf(path: Any, value: Any) -> jax.Array:
        where = name + jax.tree_util.keystr(path)
        value = _as_array(value, where)
        if jnp.issubdtype(value.dtype, jnp.floating):
            return value
        cure = ""
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            cure = "Attribute to the real and imaginary parts: pass them as two arrays of floats."
        elif jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == jnp.bool_:
            cure = (
                "Between integers there is no path. If they are token ids, attribute at their "
                "embedding, of which igjax.token_integrated_grad asks the name. If they are "
                "numbers, such as pixels, convert them with .astype(jnp.float32)."
            )
        message = f"igjax attributes to arrays of floats, but {where} has dtype {value.dtype}. "
        raise TypeError((message + cure).rstrip())

    return jax.tree_util.tree_map_with_path(leaf, x)


def as_attributed(x: Tree, name: str) -> Tree:
    """Returns ``x`` with arrays for its floats; integers, bools and random keys stay as they are.

    Args:
      x: a pytree of numbers and arrays, such as a graph: features of nodes, and indices of edges.
      name: as for ``as_floating``.

    Raises:
      TypeError: if no leaf is of floats, or one is complex or no array at all.
      ValueError: if there is no leaf.
    """
    others = (jnp.integer, jnp.bool_, jax.dtypes.prng_key)
    part = jax.tree.map(lambda leaf: None if is_kind(leaf, *others) else leaf, x)
    if not jax.tree.leaves(part):
        return as_floating(x, name)
    return filled(as_floating(part, name), x)


def floats_of(x: Tree) -> Tree:
    """Returns the floats of an input ``x``, checked, as arrays, with None for what else it has."""
    return floats(as_attributed(x, "x"))


def as_ids_or_floating(x: Tree, name: str) -> Tree:
    """Returns ``x``, an array of integers or a pytree of floating-point arrays, as JAX's arrays.

    Raises:
      TypeError: if a leaf is something else, or one array of ids is not alone.
      ValueError: if there are ids that do not fit the dtype that JAX takes them in.
    """
    leaves = [x if isinstance(x, jax.Array) else np.asarray(x) for x in jax.tree.leaves(x)]
    if not any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves):
        return as_floating(x, name)
    if not jax.tree_util.all_leaves([x]):
        raise TypeError(f"{name} must be one array of ids; got {jax.tree.structure(x)}.")
    return as_ids(name, leaves[0], jax.dtypes.canonicalize_dtype(leaves[0].dtype))


def as_ids(name: str, value: Any, dtype: Any) -> jax.Array:
    """Returns ``value``, integers, in the dtype of the ids.

    Raises:
      TypeError: if it is something else.
      ValueError: if it does not fit, as far as its values are known by now.
    """
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
        if value.size == 0:
            return jnp.zeros(value.shape, dtype)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be of integers, such as token ids; got {value!r}.")
    if value.size and not isinstance(value, jax.core.Tracer):
        iinfo: Any = jnp.iinfo
        least, most = int(iinfo(dtype).min), int(iinfo(dtype).max)
        host = np.asarray(value)
        if int(host.min()) < least or int(host.max()) > most:
            raise ValueError(
                f"{name} must fit the ids, which are {dtype}: {least} to {most}; got {value!r}."
            )
    return jnp.asarray(value, dtype)


def _as_array(value: Any, where: str) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"igjax attributes to arrays of floats, but {where} is of type {type(value).__name__}."
        ) from error


def as_function_of(
    name: str,
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    check: Callable[[Tree, str], Tree] = as_attributed,
) -> tuple[Callable[[Tree], Any], Tree]:
    """Returns ``fun`` as a function of the attributed argument(s), and their value, checked."""
    given = argnums if isinstance(argnums, Sequence) else (argnums,)
    several = given is argnums
    try:
        numbers = [*map(operator.index, given)]
    except TypeError:
        raise TypeError(
            f"{name}: argnums must be an integer or several; got {argnums!r}."
        ) from None
    for number in numbers:
        if not -len(args) <= number < len(args):
            raise ValueError(
                f"{name}: argnums={argnums} asks for positional argument {number}, but the function"
                f" was called with {len(args)}. Pass the attributed argument(s) by position."
            )
    numbers = [number % len(args) for number in numbers]
    if len(set(numbers)) < len(numbers) or not numbers:
        raise ValueError(
            f"{name}: argnums must name at least one argument, each once; got {argnums!r}."
        )

    for number in numbers:
        check_is_input(name, fun, number, args[number])

    @named_like(fun)
    def call(x: Tree) -> Any:
        full = list(args)
        for number, argument in zip(numbers, x if several else (x,), strict=True):
            full[number] = argument
        return fun(*full, **kwargs)

    values = tuple(check(args[number], f"argument {number}") for number in numbers)
    return call, values if several else values[0]


def matching(tree: Tree, x: Tree, name: str, cure: str = "") -> Tree:
    """Returns ``tree`` in the dtypes of ``x``, having checked that it has the same structure.

    Args:
      tree: what should be like ``x``. Where ``x`` has None, it may have anything.
      x: a pytree of floating-point arrays.
      name: what to call ``tree`` in a message, such as ``"baseline"``.
      cure: what to do about another shape, to end that message with.

    Raises:
      ValueError: if structure or shapes differ.
      TypeError: if a leaf is not real floating-point.
    """
    own = thinned(tree, x)
    if not same_structure(own, x):
        raise ValueError(
            f"{name} must be a pytree like the input; got {jax.tree.structure(tree)}, input "
            f"{jax.tree.structure(x)}."
        )

    def leaf(path: Any, value: Any, x: jax.Array) -> jax.Array:
        where = name + jax.tree_util.keystr(path)
        value = _as_array(value, where)
        if value.shape != x.shape:
            raise ValueError(
                f"{where} must have the input's shape {x.shape}; got {value.shape}. {cure}".rstrip()
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{where} must be floating-point, as the input is ({x.dtype}); got {value.dtype}. "
                f"Convert it with .astype(jnp.{x.dtype})."
            )
        return value.astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, own, x)


def check_baseline_blind_to_padding(name: str, baseline: Callable[..., Tree], x: Tree) -> None:
    """Raises ValueError if ``x`` is padded, and a function would make a baseline of the padding."""
    called = getattr(baseline, "__qualname__", repr(baseline))
    cure = (
        "Give a baseline with each example, as an argument that igjax.from_arguments makes the "
        "attribution of."
    )
    check_blind_to_padding(f"the {name} {called}", baseline, x, cure=cure)


def resolve_baseline(baseline: Any, x: Tree, name: str = "baseline") -> Tree:
    """Returns the baseline for ``x``, from a value or a function of it, checked to be like it.

    What is not of floats is that of ``x``, whatever the baseline has in its place.
    """
    # A module may be a pytree and callable; a plain function is a leaf.
    is_function = callable(baseline) and jax.tree_util.all_leaves([baseline])
    if is_function:
        check_baseline_blind_to_padding(name, baseline, x)
    value = baseline(x) if is_function else baseline
    if callable(value) and jax.tree_util.all_leaves([value]):
        raise TypeError(
            f"{name} must make a pytree like the input; got the function {value!r}. Was it to be "
            "called first, as in igjax.baselines.blurred(10.0)?"
        )
    part = matching(
        value,
        floats(x),
        name,
        "For one number everywhere use igjax.baselines.constant(number); for one baseline for each "
        "example, map it too: jax.vmap(lambda x, b: integrated_grad(f, baseline=b)(x))(xs, bs).",
    )
    return filled(part, x)
