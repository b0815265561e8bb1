"""A process that attributes a dataset; ``test_dataset_processes.py`` starts it, and ends it."""

import json
import os
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import igjax
from igjax.dataset import Summary, _attribute
from igjax.dataset._tuning import Tuning
from igjax.quadrature import to_tolerance

SIZE, LABELS, WIDTH = 12, 5, 8
# Programs as long as may be, however fast the machine, and of several chunks.
TUNING = Tuning(long=1e6, few=0)
LAYERS = [
    np.float32(np.random.default_rng(seed).normal(size=shape) / 3)
    for seed, shape in enumerate([(24, SIZE), (24, 24), (LABELS, 24)])
]


def probability(x: jax.Array, label: jax.Array) -> jax.Array:
    """Of a label, by a network of three layers."""
    for matrix in LAYERS:
        x = jnp.tanh(matrix @ x)
    return jax.nn.softmax(4 * x)[label]


class Examples:
    """Examples that are made when they are read, and need different numbers of steps.

    Args:
      length: how many there are.
      log: where to write which have been read, an int32 each; a look at a few, before the work
        begins, does not count.
      delay: seconds that it takes to read one.
    """

    def __init__(self, length: int, log: str | os.PathLike[str], delay: float = 0.0):
        self._length, self._delay = length, delay
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        if threading.current_thread() is not threading.main_thread():
            os.write(self._log, np.int32(index).tobytes())
            time.sleep(self._delay)
        x = (0.1 + index % 7) * np.sin(np.arange(1, SIZE + 1) * (index + 1))
        return x.astype(np.float32), np.int32(index % LABELS)


def attribute(
    examples: Examples, out: str | os.PathLike[str], width: int = WIDTH, tuning: Tuning = TUNING
) -> Summary:
    """Attributes ``examples``, ``width`` side by side on each device."""
    return _attribute.run(
        igjax.integrated_grad(probability, rule=to_tolerance(rtol=0.01), has_report=True),
        examples,
        out=out,
        batch_size=width,
        mesh=None,
        resume=True,
        progress=False,
        fields=None,
        buckets=(),
        ragged=None,
        on_error="record",
        tuning=tuning,
    )


def main(
    out: str,
    log: str,
    length: int,
    delay: float = 0.0,
    width: int = WIDTH,
    chunks: int = TUNING.blocks,
    flush_every: float = TUNING.flush_every,
    long: float = TUNING.long,
    distributed: dict[str, Any] | None = None,
) -> None:
    tuning = TUNING._replace(long=long, blocks=chunks, flush_every=flush_every)
    if distributed is not None:
        jax.config.update("jax_enable_recoverability", True)
        jax.distributed.initialize(**distributed)
    attribute(Examples(length, log, delay), out, width, tuning)
    if distributed is not None:
        wait_for_the_living()
        leave()


def leave() -> None:
    """Ends the process: the first one last, and all without JAX's own way to say good-bye.

    That needs all processes that there were; and when the first one has ended, JAX ends the others.
    """
    if jax.process_index() == 0:
        time.sleep(2.0)
    sys.stderr.flush()
    os._exit(0)


def wait_for_the_living() -> None:
    """Returns when all processes that are alive have called it."""
    living = multihost_utils.live_devices(jax.devices())
    if hasattr(living, "__enter__"):  # JAX 0.8.0 waits in the call
        with living:
            pass


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
