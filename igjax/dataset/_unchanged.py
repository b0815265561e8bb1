"""Whether a source still gives the examples that results are of, before any more is written."""

import logging
import time

import jax
import numpy as np
from numpy.typing import NDArray

from igjax.dataset._check import Check
from igjax.dataset._format import CHUNK
from igjax.dataset._share import Share
from igjax.dataset._source import Refused, Rows, Source, Wanted

_SAMPLE = 64  # examples, spread evenly, that are compared however long that takes
_SECONDS = 10.0  # for all others
_AT_ONCE = 1024  # numbers of examples looked at at once, if they are small
_logger = logging.getLogger("igjax")


def check_source(out: str, source: Source, check: Check, share: Share) -> None:
    """Compares the examples of a source of known length with those that results are of.

    Args:
      out: where the results are, for messages.
      source: of the examples.
      check: what makes of them what has been attributed.
      share: of which results.

    Raises:
      ValueError: if one is another than it was.
    """
    known = np.flatnonzero(share.fingerprints)
    sample = known[:: max(1, -(-len(known) // _SAMPLE))]
    example = sum(leaf.nbytes for leaf in jax.tree.leaves(check.like))
    at_once = max(1, min(_AT_ONCE, CHUNK // max(example, 1)))
    until, compared = time.monotonic() + _SECONDS, 0
    for wanted in (sample, np.setdiff1d(known, sample)):
        for rows in source.read(_among(wanted, len(share.status)), at_once):
            check_rows(out, rows, check, share)
            compared += len(rows.numbers) if isinstance(rows, Rows) else 1
            if wanted is not sample and time.monotonic() > until:
                _logger.info("%s: %d of %d examples compared.", out, compared, len(known))
                return


def check_rows(out: str, rows: Rows | Refused, check: Check, share: Share) -> None:
    """Compares examples with those that results are of, where there are such.

    Raises:
      ValueError: if one is another than it was.
    """
    if isinstance(rows, Refused):
        return  # it can't be read today, which does not make what there is of it wrong
    there = share.known(rows.numbers)
    if not there.any():
        return
    changed = (there != 0) & (there != check.fingerprints(rows))
    if changed.any():
        raise ValueError(
            f"{out} was made with other data: example {rows.numbers[changed][0]} has changed "
            "since. Call with what it was made with, or give another out."
        )


def _among(numbers: NDArray[np.intp], length: int) -> Wanted:
    wanted = np.zeros(length, bool)
    wanted[numbers] = True
    return wanted.__getitem__
