"""Python functions that programs call back, in words that are the same in each process."""

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


def told(function: Any) -> str:
    """Returns a fingerprint of a Python function: of its code, and of what it reads.

    That is what it closes over, its defaults, and what it names in its own module; of objects all
    that they hold. What code in other modules does is not looked at.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(function):
        digest.update(part if isinstance(part, bytes) else part.encode(errors="replace"))
        digest.update(b"next")
    return digest.hexdigest()


def _parts(function: Any) -> Iterator[str | bytes]:
    """Says what a value is, then what it holds, and so on."""
    left, seen = [function], dict[int, Any]()  # the values, too, so that no other gets an id
    while left:
        value = left.pop()
        yield type(value).__qualname__
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            yield repr(value)
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            array = np.asarray(value)
            yield f"{array.dtype}{array.shape}"
            if array.dtype == object:
                left.append(array.tolist())
            else:
                yield array.tobytes()
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType | type | np.ufunc):
            yield str(getattr(value, "__module__", None))
            yield str(getattr(value, "__qualname__", getattr(value, "__name__", "")))
        elif id(value) not in seen:
            seen[id(value)] = value
            held = list(_held(value))
            yield str(len(held))
            left += reversed(held)


def _held(value: Any) -> Iterator[Any]:
    """Yields what a value is made of."""
    if isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_consts, value.co_names, value.co_varnames)
    elif isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY)
        yield from _read(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from ((key, value[key]) for key in value)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))
    elif isinstance(value, tuple | list):
        yield from value
    else:
        yield from _attributes(value)


def _read(function: types.FunctionType) -> Iterator[Any]:
    """Yields what a function may read in its own module."""
    here = function.__globals__
    for name in function.__code__.co_names:
        value = here.get(name)
        elsewhere = isinstance(value, types.FunctionType) and value.__globals__ is not here
        if name in here and not elsewhere:
            yield value


def _attributes(value: Any) -> Iterator[Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names = {*slots, *getattr(value, "__dict__", {})} - {"__weakref__", "__dict__"}
    for name in sorted(names):
        if hasattr(value, name):
            yield name, getattr(value, name)


_EMPTY = types.CellType()
