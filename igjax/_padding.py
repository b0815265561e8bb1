"""Padding, of which only those know who pad: what would see it is refused."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

from igjax._jaxpr.elementwise import mixing
from igjax._trees import Tree

_padded = contextvars.ContextVar("igjax inputs are padded", default=False)


@contextlib.contextmanager
def padded(is_padded: bool) -> Iterator[None]:
    """Says whether inputs have zeros behind them while functions are traced."""
    token = _padded.set(is_padded)
    try:
        yield
    finally:
        _padded.reset(token)


def check_blind_to_padding(name: str, fun: Callable[..., Tree], *inputs: Tree, cure: str) -> None:
    """Checks that a function computes each entry from the same entry of the inputs.

    If they are padded, others would be computed from padding, too. If not, nothing is checked.

    Args:
      name: what to call the function.
      fun: what is called with the inputs.
      *inputs: pytrees of arrays.
      cure: what to do otherwise.

    Raises:
      ValueError: if one may depend on others.
    """
    if not _padded.get():
        return
    primitive = mixing(jax.make_jaxpr(fun)(*inputs))
    if primitive is not None:
        raise ValueError(
            f"{name} computes entries from others ({primitive}), and so from the zeros "
            f"that examples are padded with. {cure}"
        )
