"""Several processes on one dataset: who does what, and agreement on it before they begin.

Nothing passes between them while they work. Each has blocks of its own and writes them by itself.
One that dies takes only its own share with it, as far as JAX lets the others live: see
``attribute_dataset``.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray

T = TypeVar("T")


def first_alone(do: Callable[[], T], then: Callable[[], T]) -> T:
    """Calls ``do`` in the first process, and when that has succeeded, ``then`` in the others.

    Raises:
      RuntimeError: in the others, if it has not.
    """
    if jax.process_count() == 1:
        return do()
    error, result = None, None
    if jax.process_index() == 0:
        try:
            result = do()
        except Exception as raised:  # to be raised below, when the others know
            error = raised
    good = multihost_utils.broadcast_one_to_all(np.array(error is None))
    if error is not None:
        raise error
    if not good:
        raise RuntimeError("process 0 could not open the store; its message says why.")
    return then() if result is None else result


def wait_for_all(name: str) -> None:
    """Returns when all processes have called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def own_share(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns those of ``blocks``, the same in all processes, that this one is to do."""
    return blocks[jax.process_index() :: jax.process_count()]
