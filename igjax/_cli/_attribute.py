"""``igjax attribute`` and ``verify``: from words to what these take, and what they tell."""

import inspect
import logging
import math
import sys
from typing import Any, NamedTuple

from igjax import baselines, paths, quadrature
from igjax._cli._named import load
from igjax._cli._text import printable
from igjax._engine.attribution import Attribution
from igjax._integrated import integrated_grad
from igjax.dataset import Summary, Verification

_MOST = 10**5  # gradients for an example: rules of more take minutes to compile


class Options(NamedTuple):
    """What is said on the command line of a method; None where nothing is."""

    rtol: float | None = None
    atol: float | None = None
    max_evals: int | None = None
    nodes: int | None = None
    baseline: str | None = None
    path: str | None = None


def attribution_of(named: Any, name: str, options: Options, *, as_is: bool) -> Any:
    """Returns the attribution that is meant.

    Args:
      named: an attribution, or a function to be attributed by integrated gradients.
      name: of it, for messages.
      options: of these; an attribution has its own.
      as_is: whether ``named`` is an attribution, though none of igjax's own.

    Raises:
      ValueError: if there are options for an attribution, or they make no sense.
      TypeError: if it is no function.
    """
    given = [
        option for option, value in zip(options._fields, options, strict=True) if value is not None
    ]
    if not (as_is or isinstance(named, Attribution)):
        return integrated_grad(
            named,
            rule=rule_of(*options[:4]),
            baseline=baseline_of("zeros" if options.baseline is None else options.baseline),
            path=paths.straight_line if options.path is None else load(options.path),
            has_report=True,
        )
    if given:
        raise ValueError(
            f"{name} is an attribution, and has a method of its own: {_option(given[0])} is for a "
            "function to be attributed. Say it where the attribution is made."
        )
    return named


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def rule_of(
    rtol: float | None, atol: float | None, max_evals: int | None, nodes: int | None
) -> quadrature.Rule | quadrature.Tolerance:
    """Makes a fixed rule if ``nodes`` are given; else one to a tolerance.

    Raises:
      ValueError: if both are asked for, or a number is out of range.
    """
    given = {"rtol": rtol, "atol": atol, "max_evals": max_evals}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in {**asked, "nodes": nodes or 0}.items():
        most = sys.float_info.max if name in ("rtol", "atol") else _MOST
        if value > most:
            raise ValueError(f"{_option(name)} must be at most {most}; got {value}.")
    if nodes is None:
        return quadrature.to_tolerance(**asked)
    if asked:
        option = _option(next(iter(asked)))
        raise ValueError(f"give --nodes, for a fixed rule, or {option}, for a tolerance; not both.")
    return quadrature.gregory(nodes)


def baseline_of(text: str) -> Any:
    """Reads a number, a function of ``igjax.baselines``, or what ``module:name`` names.

    Raises:
      ValueError: if it is none of these.
      ImportError: if there is no such module.
    """
    if ":" in text:
        return load(text)
    if (number := _number(text)) is not None:
        if not math.isfinite(number):
            raise ValueError(f"--baseline must be finite; got {text}.")
        return baselines.constant(number)
    if text not in baselines.__all__ or not _is_baseline(named := getattr(baselines, text)):
        names = ", ".join(n for n in baselines.__all__ if _is_baseline(getattr(baselines, n)))
        raise ValueError(f"--baseline {text} must be a number, {names} or module:name.")
    return named


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_baseline(value: Any) -> bool:
    """Tells whether it is a function of ``x`` itself, and not one that makes such a function."""
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["x"]


def batch_size_of(text: str) -> Any:
    """Reads ``"auto"``, or a number.

    Raises:
      ValueError: if it is neither, or below 1.
    """
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise ValueError(f"--batch-size must be auto or a number of at least 1; got {text}.")
    return text if text == "auto" else int(text)


class _Lines(logging.Formatter):
    """Makes lines of messages, which may hold names from outside."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, its name there
        """Returns a line."""
        return printable(super().formatMessage(record))


def show_log(level: int) -> None:
    """Shows what is told about a run, from that level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("igjax").setLevel(level)


def told(summary: Summary) -> str:
    """Tells the summary in a few lines."""
    failed = (
        f"{summary.failed} failed: igjax inspect {summary.out} tells why.\n"
        if summary.failed
        else ""
    )
    known = summary.num_evals is not None
    gradients = (
        f"{summary.num_evals} gradients in {summary.seconds:.1f} s"
        if known
        else (f"{summary.seconds:.1f} s")
    )
    return (
        f"{summary.done} of {summary.examples} examples attributed, in {summary.out}\n{failed}"
        f"in this run {summary.new}: {gradients}, utilization {100 * summary.utilization:.0f} %"
    )


def compared(found: Verification) -> str:
    """Tells what has come out again, and what has not."""
    good = found.distances <= found.allowed
    lines = [
        f"{good.sum()} of {good.size} examples come out as they are in the store. "
        f"Largest distance: {found.distances.max():.2g}"
    ]
    lines += [
        f"example {number}: distance {distance:.2g}, allowed {allowed:.2g}"
        for number, distance, allowed in zip(
            found.examples[~good], found.distances[~good], found.allowed[~good], strict=True
        )
    ]
    lines += [
        f"{name}: {there} there, {here} here" for name, (there, here) in found.changed.items()
    ]
    return "\n".join(lines)
