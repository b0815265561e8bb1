"""Timing: functions in turn, so that all of them meet the same noise."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax

Name = TypeVar("Name", bound=Hashable)


def interleaved(
    functions: Mapping[Name, Callable[[], Any]],
    rounds: int,
    at_least: float = 0.0,
    warm_up: bool = True,
) -> dict[Name, list[float]]:
    """How long each function takes, once a round.

    Every second round runs backwards, so that none always comes after the same other.

    Args:
      functions: by name, what to run; what it returns is waited for.
      rounds: how many rounds there are at least.
      at_least: seconds; there are more rounds until so many have gone by.
      warm_up: whether to run each once before, so that no compilation is timed.

    Returns:
      By name, the seconds of each round.
    """
    if warm_up:
        for function in functions.values():
            jax.block_until_ready(function())
    times: dict[Name, list[float]] = {name: [] for name in functions}
    start, done = time.perf_counter(), 0
    while done < rounds or time.perf_counter() - start < at_least:
        for name in list(functions)[:: 1 if done % 2 == 0 else -1]:
            times[name].append(seconds(functions[name]))
        done += 1
    return times


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes, what it returns being waited for."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def ratio(times: Mapping[Name, Sequence[float]], name: Name, other: Name) -> float:
    """How many times as long ``name`` takes as ``other``: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))


def medians(times: Mapping[Name, Sequence[float]]) -> dict[Name, float]:
    """By name, the median seconds."""
    return {name: statistics.median(column) for name, column in times.items()}
