"""Whether `to_tolerance` keeps its word, and how many gradients that takes.

Real networks, all their outputs. The true error is the relative L1 distance to the reference. An
answer is honest if that is at most rtol, or if the report says that it has not converged. (How good
the reference is: "±" is half of what it changed by when its nodes were doubled, at worst.)

Beside it stands what one would do otherwise: Gauss–Legendre of 16, 32, 64 … nodes, restarted until
two answers in a row agree to within rtol, all gradients counted. Where they still do not agree at
the last number of nodes (1024; 512 on EfficientNet-Lite0) no more are counted, in its favour.
EfficientNet-Lite0 takes long: see below on how many cases.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import networks
from benchmarks.measures._answers import adaptive, prepare
from benchmarks.measures._measure import Claim, Record, Settings, Table, Track, mean
from benchmarks.reference import by_rule, l1_error
from igjax import quadrature

TITLE = "Honest tolerance"
NETWORKS = networks.REAL

_RTOLS = ((0.1, 0.03, 0.01), (0.1, 0.03))
_LAST = {"efficientnet_lite0": 512}  # gradients that take a tenth of a second each
_OTHER_LAST = 1024
_RESTARTED = {"efficientnet_lite0": 2}  # inputs at most, with Gauss–Legendre


def run(settings: Settings, track: Track) -> list[Record]:
    """Runs `to_tolerance` on every case, and Gauss–Legendre as far as needed."""
    network, references = prepare(settings, track)
    last = _LAST.get(settings.network, _OTHER_LAST)
    gauss = by_rule(settings.network, network, quadrature.gauss_legendre)
    answers = {name: adaptive(settings, network, references, name) for name in network.outputs}
    changes = [dict(zip(network.outputs, r["change"].tolist(), strict=True)) for r in references]
    cases = [
        (rtol, index, output)
        for rtol in settings.pick(*_RTOLS)
        for index in range(len(network.xs))
        for output in network.outputs
    ]
    records = []
    for rtol, index, output in track(cases, f"{settings.network} to a tolerance"):
        answer = answers[output](index, rtol)
        record = {"output": output, "index": index, "rtol": rtol, **answer._asdict()}
        record["reference_change"] = changes[index][output]
        if index < _RESTARTED.get(settings.network, len(cases)):
            evals, agreed, attributions = restart(
                functools.partial(gauss, index), output, rtol, last
            )
            record["gauss_evals"] = evals
            record["gauss_agreed"] = agreed
            record["gauss_error"] = l1_error(attributions, references[index][output])
        records.append(record)
    return records


def restart(
    attributions: Callable[[int], Mapping[str, Any]], output: str, rtol: float, last: int
) -> tuple[int, bool, Any]:
    """Answers with 16, 32, 64 … ``last`` nodes, until two in a row agree.

    Args:
      attributions: of so many nodes, by name of the output.
      output: the one that is asked for.
      rtol: by how much the two may differ, relative L1.
      last: the number of nodes at which to give up.

    Returns:
      How many nodes there were in all; whether two have agreed; and the last answer.
    """
    nodes, evals, answer = 16, 16, attributions(16)[output]
    while nodes < last:
        nodes *= 2
        evals += nodes
        previous, answer = answer, attributions(nodes)[output]
        if l1_error(previous, answer) <= rtol:
            return evals, True, answer
    return evals, False, answer


def claims(records: list[Record]) -> list[Claim]:
    """That it is honest, and cheap."""
    return [
        Claim("honest answers of to_tolerance, share", _honest(records), 0.99, at_least=True),
        Claim("gradients, to_tolerance / Gauss–Legendre restarted", _evals_ratio(records), 0.6),
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network and tolerance."""
    header = (
        "network",
        "rtol",
        "cases",
        "honest",
        "converged",
        "true error, median",
        "largest if converged",
        "gradients",
        "Gauss–Legendre",
        "ratio",
        "agreed",
        "reference ±",
    )
    names = list(dict.fromkeys(record["network"] for record in records))
    groups = [
        (name, rtol, [r for r in records if (r["network"], r["rtol"]) == (name, rtol)])
        for name in names
        for rtol in sorted({r["rtol"] for r in records if r["network"] == name}, reverse=True)
    ]
    groups += [(name, None, [r for r in records if r["network"] == name]) for name in names]
    groups.append(("all", None, records))
    return [Table(header, [_row(*group) for group in groups])]


def _row(name: str, rtol: float | None, records: list[Record]) -> tuple[str, ...]:
    compared = _compared(records)
    converged = [record for record in records if record["converged"]]
    ratio = _evals_ratio(records)
    return (
        name,
        "all" if rtol is None else f"{rtol:g}",
        str(len(records)),
        f"{_honest(records):.1%}",
        f"{len(converged) / len(records):.0%}",
        f"{statistics.median(record['error'] for record in records):.1e}",
        # In units of what was asked for, as the tolerances of several rows differ.
        f"{max((r['error'] / r['rtol'] for r in converged), default=0.0):.2f} rtol",
        f"{mean(record['num_evals'] for record in records):.0f}",
        f"{mean(record['gauss_evals'] for record in compared):.0f}" if compared else "–",
        "–" if ratio is None else f"{ratio:.2f}",
        f"{mean(r['gauss_agreed'] for r in compared):.0%} of {len(compared)}" if compared else "–",
        f"{max(r['reference_change'] for r in records) / 2:.0e}",
    )


def _honest(records: Sequence[Record]) -> float:
    return mean(r["error"] <= r["rtol"] or not r["converged"] for r in records)


def _evals_ratio(records: Sequence[Record]) -> float | None:
    """Of the cases that have both."""
    compared = _compared(records)
    if not compared:
        return None
    return sum(r["num_evals"] for r in compared) / sum(r["gauss_evals"] for r in compared)


def _compared(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if "gauss_evals" in record]
