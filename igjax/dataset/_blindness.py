"""Whether a baseline is the same however far an example is padded: else results depend on that."""

from typing import Any

import jax
import numpy as np

from igjax._engine.attribution import Attribution
from igjax.dataset._check import Check, Given

_CLOSE = 1e-3  # of the largest number: sums may be rounded otherwise where there is padding


def check_baseline_blind_to_padding(attribution: Any, check: Check) -> None:
    """Raises ValueError if an example's baseline changes with the bucket that it is put in."""
    parts = attribution.parts if isinstance(attribution, Attribution) else {}
    if "baseline" not in parts or not check.ragged.sizes:
        return
    baseline = jax.jit(lambda given: parts["baseline"](*given[0], **given[1]))
    pair = check.alone_and_padded()
    try:
        jax.eval_shape(baseline, pair[0])
    except (TypeError, ValueError):
        if check.ragged.shapes > 1:
            raise
        return  # it has the size of the only bucket, as an array may, and there is no other

    def leaves(given: Given) -> list[Any]:
        return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(baseline(given))]

    for alone, padded in zip(*map(leaves, pair), strict=True):
        own = padded[tuple(slice(size) for size in alone.shape)]
        slack = _CLOSE * np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone))
        if not np.allclose(own, alone, rtol=0.0, atol=slack, equal_nan=True):
            raise ValueError(
                "the baseline of an example depends on how far that is padded: it is computed "
                "from the zeros behind it, or from its shape. Compute it from each example as it "
                "is, and give it with that, as an argument more, padded likewise (see ragged), "
                "that igjax.from_arguments makes the attribution of. Or compute it there, from "
                "what the mask keeps."
            )
