"""Whole datasets: attributions of many examples, on many devices, into a store, without loss.

``attribute_dataset`` is what a loop over batches of ``jax.vmap(integrated_grad(fun))`` grows into.
``verify`` attributes some of a store again, and compares.
"""

from igjax.dataset._attribute import attribute_dataset
from igjax.dataset._layout import FIELDS
from igjax.dataset._run import Summary
from igjax.dataset._verify import Verification, verify

__all__ = ["FIELDS", "Summary", "Verification", "attribute_dataset", "verify"]
