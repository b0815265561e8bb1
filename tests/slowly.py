"""Which of many cases a plain run of the tests takes; the rest is slow, and runs in CI."""

from collections.abc import Iterable
from typing import Any

import pytest

ParameterSet = type(pytest.param())  # pytest has no public name for it


def all_slow_but(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Returns all ``cases``, as parameters, of which those that are not in ``quick`` are slow.

    A tuple has a value for each of several arguments; what has marks or a name already is known by
    its name.
    """
    kept, cases = list(quick), list(cases)
    names = [case.id if isinstance(case, ParameterSet) else case for case in cases]
    assert all(name in names for name in kept), f"{kept} are not all among {names}"
    return [
        _marked(case, () if name in kept else (pytest.mark.slow,))
        for case, name in zip(cases, names, strict=True)
    ]


def _marked(case: Any, marks: tuple[Any, ...]) -> Any:
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, id=case.id, marks=(*case.marks, *marks))
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
