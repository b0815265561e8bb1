"""Classes whose methods are wrapped for as long as a call lasts, and are then as they were.

NNX has no interceptors. To wrap the methods of objects, and not of their class, would take objects
of another class, and a model may ask what class something is of.
"""

import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

Wrap = Callable[[str, Any], Callable[..., Any]]

_LOCK = threading.Lock()
_CALLS = Counter[type]()  # that are under way, in all threads, and need a class wrapped
_UNDO: dict[type, contextlib.ExitStack] = {}
_NOTHING = object()


@contextlib.contextmanager
def wrapped(kind: type, root: type, wrap: Wrap) -> Iterator[None]:
    """Wraps the public methods of a class, and ``__call__``, until the context is left.

    All threads see the wrapped methods. They are to be none the worse for it where an object is not
    of a call that is under way.

    Args:
      kind: a class that derives from ``root``.
      root: the class whose own methods, and those above it, are none of a user's. What ``kind``
        inherits from classes that derive from it too is not wrapped here.
      wrap: from the name of a method and what the class has there to what is to be there instead;
        the same for all calls.
    """
    with _LOCK:
        if not _CALLS[kind]:
            with contextlib.ExitStack() as undo:  # if this fails halfway; else later
                for name, method in _methods(kind, root).items():
                    undo.callback(_put, kind, name, vars(kind).get(name, _NOTHING))
                    _put(kind, name, wrap(name, method))
                _UNDO[kind] = undo.pop_all()
        _CALLS[kind] += 1
    try:
        yield
    finally:
        with _LOCK:
            _CALLS[kind] -= 1
            if not _CALLS[kind]:
                del _CALLS[kind]
                _UNDO.pop(kind).close()


def _put(kind: type, name: str, method: Any) -> None:
    if method is not _NOTHING:
        setattr(kind, name, method)
    elif name in vars(kind):
        delattr(kind, name)


def _methods(kind: type, root: type) -> dict[str, Any]:
    """Returns the methods of a class: its own, and those of classes that have no ``root``."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if base is kind or not (issubclass(base, root) or issubclass(root, base)):
                found[name] = value
            else:
                found.pop(name, None)
    return {name: value for name, value in found.items() if _is_method(name, value)}


def _is_method(name: str, value: Any) -> bool:
    is_own = inspect.isroutine(value) and not isinstance(value, staticmethod | classmethod)
    return is_own and callable(value) and (name == "__call__" or not name.startswith("_"))
