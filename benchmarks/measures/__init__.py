"""What is measured: a module each, which measures, says what is claimed, and lays out tables.

A measure has a ``TITLE``, ``NETWORKS`` that it can be run on, and three functions:
``run(settings, track)`` returns records of a network, ``claims(records)`` and ``tables(records)``
make of all records what they say. Its docstring is the text above its tables.
"""

from collections.abc import Mapping
from types import ModuleType

from benchmarks.measures import (
    accuracy,
    affine,
    chunking,
    dataset,
    families,
    gradient,
    import_time,
    layers,
    overhead,
    scaling,
    tolerance,
)

MEASURES: Mapping[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        overhead,
        chunking,
        scaling,
        affine,
        tolerance,
        families,
        accuracy,
        gradient,
        dataset,
        layers,
        import_time,
    )
}
