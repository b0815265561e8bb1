"""What this process has to do: the examples of its share that are not in the store, and sound."""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from igjax.dataset import _hosts
from igjax.dataset._store import DONE, FAILED, PENDING, Store

_logger = logging.getLogger("igjax")


class Share(NamedTuple):
    """A process's part of the examples.

    Attributes:
      status: of all examples of the store; what is other processes' counts as done.
      examples: how many are in the share.
      done: how many of them have been attributed.
      failed: how many could not be.
      begun: blocks of it that are in the store in part, by number.
      fingerprints: of all examples of the store; 0 where that is not known, or not to be compared.
    """

    status: NDArray[np.uint8]
    examples: int
    done: int
    failed: int
    begun: dict[int, dict[str, NDArray[Any]]]
    fingerprints: NDArray[np.uint64]

    def wants(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tells which of these examples are to be done."""
        wanted = np.ones(len(numbers), bool)
        known = numbers < len(self.status)
        wanted[known] = self.status[numbers[known]] == PENDING
        return wanted

    def known(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Returns the fingerprints of these examples; 0 where there is none."""
        found = np.zeros(len(numbers), np.uint64)
        inside = numbers < len(self.fingerprints)
        found[inside] = self.fingerprints[numbers[inside]]
        return found


def share_of(store: Store) -> Share:
    """Finds this process's share. All processes have to ask before one begins to write.

    What is in the store is read, since a file may be damaged. What has been, is to be done again.
    """
    status = store.whole("status")
    blocks = [status[i : i + store.block] for i in range(0, len(status), store.block)]
    complete = np.array([np.all(block != PENDING) for block in blocks], bool)
    numbers = np.arange(len(blocks))
    _hosts.wait_for_all("igjax: all know what is done")
    own = {*_hosts.own_share(numbers[complete]), *_hosts.own_share(numbers[~complete])}
    begun, examples, done, failed = {}, 0, 0, 0
    fingerprints = np.zeros(len(status), np.uint64)
    for number, block in enumerate(blocks):
        if number not in own:
            block[:] = DONE
            continue
        if np.any(block != PENDING):
            found = store.read(number)
            if found is None:
                _logger.warning("%s: block %d is damaged, and is done again.", store.out, number)
                block[:] = PENDING
            else:
                own_rows = slice(number * store.block, number * store.block + len(block))
                fingerprints[own_rows] = np.where(block != PENDING, found["fingerprint"], 0)
                if np.any(block == PENDING):
                    begun[number] = found
        examples += len(block)
        done += int(np.sum(block == DONE))
        failed += int(np.sum(block == FAILED))
    return Share(status, examples, done, failed, begun, fingerprints)
