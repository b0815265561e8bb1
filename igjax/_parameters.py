"""Functions whose argument 0 is a model's parameters, and never taken for the input.

To forget ``argnums`` would be to attribute to the parameters, and nobody would see it. Whoever
means that says so, with a function of their own.
"""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "_igjax_is_parameters"  # what wraps a function, as jax.jit and jax.vmap do, has it too


def mark(fun: F, is_parameters: Callable[[Any], bool]) -> F:
    """Marks a function, of which argument 0 is parameters, and returns it.

    Args:
      fun: the function.
      is_parameters: tells whether something is like its parameters, for what wraps ``fun`` may have
        another argument there.
    """
    vars(fun)[_MARK] = is_parameters
    return fun


def check_is_input(method: str, fun: Callable[..., Any], number: int, argument: Any) -> None:
    """Raises ValueError if an argument to attribute to is the parameters of a marked function."""
    is_parameters = getattr(fun, "__dict__", {}).get(_MARK)
    if number == 0 and is_parameters is not None and is_parameters(argument):
        raise ValueError(
            f"{method}: argument 0 is the model's parameters, and not its input: say which is, as "
            f"in {method}(fun, argnums=1). To attribute to the parameters all the same, take a "
            "function of your own, such as lambda params, x: fun(params, x)."
        )
