"""Attributions that are made anew of each example's arguments, such as a baseline of its own."""

from collections.abc import Callable
from typing import Any

from igjax._engine.attribution import Attribution, Inner, made_of
from igjax._inputs import check_function

__all__ = ["from_arguments"]

Make = Callable[..., tuple[Callable[..., Any], tuple[Any, ...]]]


def from_arguments(make: Make) -> Attribution[Any]:
    """Returns an attribution that is another one for each example, made of its arguments.

    So an example brings a baseline, a random key, or whatever else a method takes, and the
    attribution still goes on step by step: ``igjax.dataset.attribute_dataset`` gives the place of
    an example that is done to the next.

    Args:
      make: a function of an example's arguments to a pair, of an attribution and the tuple of
        arguments to call it with.

    Returns:
      A function with the arguments of ``make`` that returns what that attribution does. It is
      compiled when it is called.

    Raises:
      TypeError: if ``make`` is no function; when called, if it returns something else.

    Example:
      >>> import jax.numpy as jnp
      >>> import igjax
      >>> f = lambda x, scale: scale * jnp.sum(x**2)
      >>> attribute = igjax.from_arguments(
      ...     lambda x, scale, b: (igjax.integrated_grad(f, baseline=b), (x, scale))
      ... )
      >>> attribute(jnp.array([1.0, 2.0]), 2.0, jnp.array([1.0, 0.0])).round(4)
      Array([0., 8.], dtype=float32)
    """
    check_function("from_arguments", make)

    def inner(*args: Any, **kwargs: Any) -> Inner:
        made = make(*args, **kwargs)
        is_pair = isinstance(made, tuple) and len(made) == 2
        if not (is_pair and callable(made[0]) and isinstance(made[1], tuple)):
            raise TypeError(
                "from_arguments takes a function that returns a pair, of an attribution and the "
                f"tuple of arguments to call it with; this one returned {made!r}."
            )
        attribution, given = made
        return Inner(attribution, given, lambda found: found)

    return made_of("from_arguments", make, inner)
