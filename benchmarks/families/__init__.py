"""Families of small functions on which an error bar is tried: none was tuned on real networks.

A real network has a few of these traits, and nobody knows beforehand which.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from benchmarks.families import _deep, _dense, _functions
from benchmarks.families._kind import Kind, Member
from benchmarks.families._reference import Truth, truth

__all__ = ["FAMILIES", "Kind", "Member", "Truth", "members", "truth"]

FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    "dense": _dense.PLAIN,
    "attention": _deep.ATTENTION,
    "layer norm first": _dense.LAYER_NORM + _deep.CONVOLUTIONAL_NORM,
    "RMS norm first": _dense.RMS_NORM,
    "L2 norm first": _dense.L2_NORM,
    "cosine similarity": _dense.COSINE,
    "zero tokens": _deep.PADDED,
    "recurrent": _deep.RECURRENT,
    "recurrent, trained": _deep.TRAINED,
    "deep": _deep.DEEP,
    "saturated": _dense.SATURATED,
    "convolutions": _deep.CONVOLUTIONAL,
    "log features": _functions.LOG,
    "positional encodings": _functions.POSITIONAL,
    "steep at the start": _functions.LAYERS["start"],
    "steep at the end": _functions.LAYERS["end"],
    "steep in the middle": _functions.LAYERS["middle"],
    "steps": _functions.STEP,
    "cancelling": _functions.CANCELLING,
    "aliasing": _functions.ALIASING,
    "oscillating": _functions.OSCILLATING,
    "unscaled inputs": _dense.UNSCALED,
    "far baselines": _dense.FAR,
    "bfloat16": _dense.HALF,
}


def members(kind: Kind, count: int) -> list[Member]:
    """Draws the first members of a kind: the same whenever they are asked for."""
    seed = zlib.crc32(kind.name.encode())
    return [kind.make(np.random.default_rng([seed, number])) for number in range(count)]
