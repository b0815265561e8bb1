"""The networks that the benchmark runs: random weights, and real ones with real inputs."""

import importlib
from collections.abc import Mapping

from benchmarks.networks._network import Network

__all__ = ["NAMES", "REAL", "Network", "load"]

# Of each, the module and the function that loads it.
_LOADERS: Mapping[str, tuple[str, str]] = {
    "mlp": ("random", "mlp"),
    "wide_mlp": ("random", "wide_mlp"),
    "cnn": ("random", "cnn"),
    "transformer": ("random", "transformer"),
    "efficientnet_lite0": ("efficientnet_lite0", "load"),
    "minilm": ("minilm", "load"),
    "marian": ("marian", "load"),
    "dmpnn": ("dmpnn", "load"),
    "digits": ("digits", "load"),
    "drugs": ("dmpnn", "load_approved"),
}
NAMES = tuple(_LOADERS)
REAL = ("efficientnet_lite0", "minilm", "marian", "dmpnn")


def load(name: str, count: int) -> Network:
    """The network of one of ``NAMES``, with ``count`` inputs; its packages are imported here."""
    module, function = _LOADERS[name]
    return getattr(importlib.import_module(f"benchmarks.networks.{module}"), function)(count)
