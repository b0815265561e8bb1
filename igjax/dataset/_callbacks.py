"""Python functions that programs call back, in words that are the same in each process."""

import collections
import dis
import functools
import hashlib
import pathlib
import random
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


def told(function: Any) -> str:
    """Returns a fingerprint of a Python function: of its code, and of what it reads.

    That is what it closes over, its defaults, and what it names in its own module; of objects all
    that they hold, and their classes. Functions in other modules are not looked at, nor are classes
    of Python's own and of installed packages.
    """
    return _digest(function, {})


def _digest(value: Any, seen: Mapping[int, Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(value, dict(seen)):
        digest.update(part if isinstance(part, bytes) else part.encode(errors="replace"))
        digest.update(b"next")
    return digest.hexdigest()


def _parts(first: Any, seen: dict[int, Any]) -> Iterator[str | bytes]:
    """Says what a value is, then what it holds, and so on; of what has been ``seen`` no more.

    Args:
      first: the value.
      seen: values by their id: them too, so that no other gets it.
    """
    left = [first]
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
        elif isinstance(value, _NAMED) or (isinstance(value, type) and not _is_own(value)):
            yield str(getattr(value, "__module__", None))
            yield str(getattr(value, "__qualname__", getattr(value, "__name__", "")))
        elif id(value) not in seen:
            seen[id(value)] = value
            held = list(_held(value, seen))
            yield str(len(held))
            left += reversed(held)


def _held(value: Any, seen: Mapping[int, Any]) -> Iterator[Any]:
    """Yields what a value is made of."""
    if isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_consts, value.co_names, value.co_varnames)
    elif isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from _read(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from ((key, value[key]) for key in value)
    elif isinstance(value, set | frozenset):
        yield from sorted(_digest(part, seen) for part in value)
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, type):
        yield from (value.__module__, value.__qualname__, *value.__bases__)
        yield from _members(value)
    else:
        yield type(value)
        yield from _state(value)


def _read(function: types.FunctionType) -> Iterator[Any]:
    """Yields what a function closes over, and what it may read in its own module.

    What it writes itself, a counter of its calls say, is not what it was made with.
    """
    names = collections.defaultdict[str, list[str]](list)
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            names[instruction.opname].append(instruction.argval)
    written = {*names["STORE_GLOBAL"], *names["STORE_DEREF"]}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    read = (cell for name, cell in cells if name not in written)
    yield from (cell.cell_contents for cell in read if cell != _EMPTY)
    here = function.__globals__ if _is_own(function) else {}
    for name in dict.fromkeys(names["LOAD_GLOBAL"]):
        value = here.get(name)
        elsewhere = isinstance(value, types.FunctionType) and value.__globals__ is not here
        if name in here and name not in written and not elsewhere:
            yield value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yields a function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_own(value: Any) -> bool:
    """Tells the user's classes and functions from Python's own and those of installed packages."""
    module = str(value.__module__)
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    installed = {"site-packages", "dist-packages"} & {*pathlib.Path(file).parts}
    return module.partition(".")[0] not in sys.stdlib_module_names and not installed


def _members(kind: type) -> Iterator[Any]:
    """Yields what the instances of a class have in common."""
    for name, member in sorted(vars(kind).items()):
        if isinstance(member, property):
            yield from (name, member.fget, member.fset)
        elif isinstance(member, staticmethod | classmethod):
            yield from (name, member.__func__)
        elif isinstance(member, types.FunctionType) or not name.startswith("__"):
            yield from (name, member)


def _state(value: Any) -> Iterator[Any]:
    """Yields what an object holds, as pickle sees it; else its attributes."""
    if hasattr(value, "__wrapped__"):  # by jax.jit or a cache: pickle would see what that keeps
        yield from _attributes(value)
        return
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:  # whatever its class raises: it can't be pickled
        yield from _attributes(value)
        return
    if isinstance(reduced, str):
        yield reduced
    else:
        yield from (list(part) if isinstance(part, Iterator) else part for part in reduced[1:])


def _attributes(value: Any) -> Iterator[Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names = {*slots, *getattr(value, "__dict__", {})} - {"__weakref__", "__dict__"}
    for name in sorted(names):
        if hasattr(value, name):
            yield name, getattr(value, name)


_RANDOM = (np.random.Generator, np.random.RandomState, random.Random)  # use changes them
_NAMED = (types.ModuleType, types.BuiltinFunctionType, np.ufunc, *_RANDOM)
_EMPTY = types.CellType()
