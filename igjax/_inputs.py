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


def as_integer(name: str, number: Any) -> int:
    """Returns ``number`` as an int.

    Raises:
      TypeError: if it is no integer, or a bool.
    """
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be an integer; got {number!r}.") from None


def check_count(name: str, count: Any, least: int, most: int | None = None) -> int:
    """Returns ``count`` as an int from ``least`` to ``most``; else says what ``name`` must be.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is too small or too large.
    """
    number = as_integer(name, count)
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {number}.")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}; got {number}.")
    return number


def is_auto(choice: Any) -> bool:
    """Tells whether a number is left to igjax to choose."""
    # An array would be compared element by element.
    return isinstance(choice, str) and choice == "auto"


def check_index(name: str, index: Any, length: int) -> None:
    """Raises unless ``index`` is one of an axis, as far as it is known when this is traced.

    Raises:
      TypeError: if it is not an integer.
      ValueError: if it is out of range.
    """
    if isinstance(index, jax.core.Tracer) and jnp.issubdtype(index.dtype, jnp.integer):
        return
    number = check_count(name, index, least=-length)
    if number >= length:
        raise ValueError(f"{name} must be less than {length}; got {number}.")


def check_function(method: str, fun: Any, argument: str = "") -> None:
    """Raises TypeError unless ``fun``, an argument of that name, can be called."""
    if not callable(fun):
        for_argument = f" for {argument}" if argument else ""
        raise TypeError(f"{method} takes a function{for_argument}; got {fun!r}.")


def check_attribution(method: str, made: Any) -> Any:
    """Returns what a method has made of a function.

    Raises:
      TypeError: if it is none.
    """
    if not callable(made):
        raise TypeError(
            f"{method} takes a method that returns a function, of an example's arguments to its "
            f"attributions; this one returned {made!r}."
        )
    return made


def check_some_array(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises TypeError if there are arguments, and none has a number, of which a layer could be."""
    leaves, kinds = jax.tree.leaves((args, kwargs)), (jnp.number, jnp.bool_, jax.dtypes.prng_key)
    if (args or kwargs) and not any(is_kind(leaf, *kinds) for leaf in leaves):
        raise TypeError(
            f"{method}: the function must be called with an array among its arguments; got "
            f"{', '.join(map(repr, (*args, *kwargs.values())))}."
        )


def check_flag(name: str, flag: Any) -> None:
    """Raises TypeError unless ``flag`` is a bool: most other things count as True."""
    if not isinstance(flag, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {flag!r}.")


def as_real(name: str, value: Any) -> Any:
    """Returns ``value``, a number or an array of real numbers, as an array.

    What is none of JAX's becomes one of NumPy's, of the dtype that it has.

    Raises:
      TypeError: if it is something else (bools, complex numbers, dates, text), or has masked
        elements.
    """
    array = jnp.asarray(value) if hasattr(value, "__jax_array__") else unmasked(name, value)
    if not isinstance(array, jax.Array):
        try:
            array = np.asarray(array)
            if is_kind(array, np.longdouble):  # which JAX does not have
                array = array.astype(np.float64)
        except (TypeError, ValueError):
            array = None  # a ragged list, say
    if not is_kind(array, jnp.floating, jnp.integer):
        raise TypeError(f"{name} must be a number or an array of real numbers; got {value!r}.")
    return array


def as_reals(name: str, tree: Tree) -> Tree:
    """Returns ``tree`` with ``as_real`` of its leaves.

    Bools and random keys may stand beside others, where an input has what is not of floats.

    Raises:
      TypeError: as ``as_real`` does.
      ValueError: if there is no leaf.
    """
    if not jax.tree.leaves(tree):
        raise ValueError(f"{name} must have a number; got {tree!r}.")
    others = () if jax.tree_util.all_leaves([tree]) else (jnp.bool_, jax.dtypes.prng_key)

    def leaf(path: Any, value: Any) -> Any:
        is_other = is_kind(value, *others)
        return value if is_other else as_real(name + jax.tree_util.keystr(path), value)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def unmasked(name: str, value: Any) -> Any:
    """Returns ``value`` without the mask that it may have.

    Raises:
      TypeError: if something is masked: what is under a mask is not meant to be used.
    """
    if np.ma.is_masked(value):
        raise TypeError(f"{name} has masked elements: say what they are, by .filled(number).")
    return np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else value


def check_number(name: str, value: Any) -> None:
    """Raises unless ``value`` is a number from 0 on, as far as it is known when this is traced.

    Raises:
      TypeError: if it is no real number.
      ValueError: if it is negative, infinite or NaN.
    """
    number = as_real(name, value)
    if number.ndim:
        raise TypeError(f"{name} must be a number; got an array of shape {number.shape}.")
    if is_known(number) and not 0 <= float(number) < float("inf"):
        raise ValueError(f"{name} must be at least 0 and finite; got {value}.")


def is_known(value: Any) -> bool:
    """Returns whether a value is known when a function is traced, and to this process."""
    is_traced = isinstance(value, jax.core.Tracer)
    return not is_traced and getattr(value, "is_fully_addressable", True)


def check_key(name: str, key: Any) -> None:
    """Raises TypeError unless ``key`` is one random key, of the new kind or the old one."""
    is_new = is_kind(key, jax.dtypes.prng_key) and key.ndim == 0
    is_old = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.ndim == 1
    if not (is_new or is_old):
        raise TypeError(f"{name} must be one random key, as jax.random.key(0) is; got {key!r}.")


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
      TypeError: if no leaf is of floats, or one is complex, masked or no array at all.
      ValueError: if there is no leaf.
    """
    kinds = (jnp.integer, jnp.bool_, jax.dtypes.prng_key)

    def other(path: Any, leaf: Any) -> Any:
        is_other = is_kind(leaf, *kinds)
        return unmasked(name + jax.tree_util.keystr(path), leaf) if is_other else None

    others = jax.tree_util.tree_map_with_path(other, x)
    part = jax.tree.map(lambda leaf: None if is_kind(leaf, *kinds) else leaf, x)
    if not jax.tree.leaves(part):
        return as_floating(x, name)
    return filled(as_floating(part, name), others)


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
    if value.size and is_known(value):
        iinfo: Any = jnp.iinfo
        least, most = int(iinfo(dtype).min), int(iinfo(dtype).max)
        host = np.asarray(value)
        if int(host.min()) < least or int(host.max()) > most:
            raise ValueError(
                f"{name} must fit the ids, which are {dtype}: {least} to {most}; got {value!r}."
            )
    return jnp.asarray(value, dtype)


def _as_array(value: Any, where: str) -> jax.Array:
    value = unmasked(where, value)
    try:
        if isinstance(value, str | bytes):  # which JAX takes for the name of a dtype
            raise TypeError
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        of = f", dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
        raise TypeError(
            f"igjax attributes to arrays of floats, but {where} is of type "
            f"{type(value).__name__}{of}."
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
        numbers = [as_integer("argnums", number) for number in given]
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
            f"{jax.tree.structure(x)}, where None stands for what is not of floats."
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
        "Compute it from each example as it is, and give it with that, as an argument more, padded "
        "likewise, that igjax.from_arguments makes the attribution of."
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
