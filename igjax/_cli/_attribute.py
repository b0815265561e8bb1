"""``igjax attribute``: from words to what ``attribute_dataset`` takes, and a summary."""

import inspect
import logging
from typing import Any

from igjax import baselines, quadrature
from igjax._cli._named import load
from igjax.dataset import Summary


def rule_of(
    rtol: float | None, atol: float | None, max_evals: int | None, nodes: int | None
) -> quadrature.Rule | quadrature.Tolerance:
    """A fixed rule if ``nodes`` are given; else one to a tolerance.

    Raises:
      ValueError: if both are asked for, or a number is out of range.
    """
    given = {"rtol": rtol, "atol": atol, "max_evals": max_evals}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if nodes is None:
        return quadrature.to_tolerance(**asked)
    if asked:
        option = "--" + next(iter(asked)).replace("_", "-")
        raise ValueError(f"give --nodes, for a fixed rule, or {option}, for a tolerance; not both.")
    return quadrature.gregory(nodes)


def baseline_of(text: str) -> Any:
    """A number everywhere, a function of ``igjax.baselines``, or what ``module:name`` names.

    Raises:
      ValueError: if it is none of these.
      ImportError: if there is no such module.
    """
    if ":" in text:
        return load(text)
    try:
        return baselines.constant(float(text))
    except ValueError:
        pass
    if text not in baselines.__all__ or not _is_baseline(named := getattr(baselines, text)):
        names = ", ".join(n for n in baselines.__all__ if _is_baseline(getattr(baselines, n)))
        raise ValueError(f"--baseline {text} must be a number, {names} or module:name.")
    return named


def _is_baseline(value: Any) -> bool:
    """Whether it is a function of ``x`` itself, and not one that makes such a function."""
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["x"]


def batch_size_of(text: str) -> Any:
    """``"auto"``, or a number.

    Raises:
      ValueError: if it is neither, or below 1.
    """
    if text != "auto" and not (text.isdecimal() and int(text) >= 1):
        raise ValueError(f"--batch-size must be auto or a number of at least 1; got {text}.")
    return text if text == "auto" else int(text)


def show_log() -> None:
    """Shows what is told about a run where there is no terminal for a bar."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("igjax").setLevel(logging.INFO)


def told(summary: Summary) -> str:
    """The summary in a few lines."""
    failed = (
        f"{summary.failed} failed: igjax inspect {summary.out} tells why.\n"
        if summary.failed
        else ""
    )
    return (
        f"{summary.done} of {summary.examples} examples attributed, in {summary.out}\n{failed}"
        f"in this run {summary.new}: {summary.num_evals} gradients in {summary.seconds:.1f} s, "
        f"utilization {100 * summary.utilization:.0f} %"
    )
