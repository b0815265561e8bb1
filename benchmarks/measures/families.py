"""Whether an error bar holds on functions that it was not tuned on.

Families of small functions (`benchmarks/families`): networks of every kind, and functions that are
steep, singular or saw-toothed on purpose, several draws of each. The truth is computed in float64.

`to_tolerance`, with what it takes by default, is asked for 10, 3 and 1 %. An answer is honest if it
is as good as asked for, or says that it is not; what the truth itself is uncertain by is allowed.
The fixed rule, `gregory(64)`, is covered where its report is no smaller than its true error, 1e-5
allowed for rounding, both relative to the attributions found, as reports are. What counts is the
worst family, not all together.
"""

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

import igjax
from benchmarks import families
from benchmarks.measures._measure import Claim, Record, Settings, Table, Track, mean
from benchmarks.reference import l1_error
from igjax import quadrature

TITLE = "Honest on every family"
NETWORKS = ("none",)

_RTOLS = (0.1, 0.03, 0.01)
_DRAWS = (12, 2)  # of each kind: in full, in a quick run
_QUICK = ("dense", "RMS norm first", "cancelling")
_ROUNDING = 1e-5  # of a fixed rule's attributions, relative


def run(settings: Settings, track: Track) -> list[Record]:
    """Attributes by a tolerance and by a fixed rule, and compares with the truth."""
    names = settings.pick(tuple(families.FAMILIES), _QUICK)
    kinds = [(name, kind) for name in names for kind in families.FAMILIES[name]]
    draws = settings.pick(*_DRAWS)
    return [
        {"family": name, "kind": kind.name, **record}
        for name, kind in track(kinds, "families")
        for record in of_kind(kind, draws)
    ]


def of_kind(kind: families.Kind, draws: int) -> list[Record]:
    """Attributes to some members of a kind, and compares with the truth."""
    members = families.members(kind, draws)
    truths = [families.truth(kind, member) for member in members]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    records = []
    for rule, rtol, answer in _answers(kind, stacked):
        for index, true in enumerate(truths):
            attributions, report = jax.tree.map(lambda leaf, i=index: leaf[i], answer)
            records.append(
                {
                    "index": index,
                    "rule": rule,
                    "rtol": rtol,
                    "error": l1_error(attributions, true.attributions),
                    "own_error": _own_error(attributions, true.attributions),
                    "uncertainty": true.uncertainty,
                    "reported": float(report.error),
                    "num_evals": int(report.num_evals),
                    "converged": bool(report.converged),
                }
            )
    return records


def _own_error(attributions: Any, truth: Any) -> float:
    """Returns the L1 norm of the difference, relative to that of the attributions."""
    size = np.abs(attributions).sum(dtype=np.float64)
    return float(np.abs(attributions - truth).sum() / size) if size else float(np.any(truth))


def _answers(
    kind: families.Kind, stacked: families.Member
) -> Iterable[tuple[str, float | None, Any]]:
    """Attributes to all members at once: the rule, what it is asked for, and the answers."""

    def program(rule: Callable[[Any], Any]) -> Callable[..., Any]:
        def attribute(rtol: Any, params: Any, x: Any, baseline: Any) -> Any:
            transformed = igjax.integrated_grad(
                kind.fun, argnums=1, baseline=baseline, rule=rule(rtol), has_report=True
            )
            return transformed(params, x)

        return jax.jit(jax.vmap(attribute, in_axes=(None, 0, 0, 0)))

    adaptive = program(quadrature.to_tolerance)
    for rtol in _RTOLS:
        yield "to_tolerance", rtol, jax.device_get(adaptive(np.float32(rtol), *stacked))
    fixed = program(lambda _: quadrature.gregory(64))
    yield "gregory(64)", None, jax.device_get(fixed(np.float32(0.0), *stacked))


def claims(records: list[Record]) -> list[Claim]:
    """That the worst family is honest, and converges."""
    adaptive, fixed = _by_family(records, "to_tolerance"), _by_family(records, "gregory(64)")
    most, converged = _worst(adaptive, honest), _worst(adaptive, _converged)
    return [
        Claim("to_tolerance is honest, the worst family", most, 0.99, at_least=True),
        Claim("to_tolerance converges, the worst family", converged, 0.9, at_least=True),
        Claim(
            "a fixed rule reports no less than the truth, the worst family",
            _worst(fixed, covered),
            0.98,
            at_least=True,
        ),
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each family."""
    header = (
        "family",
        "answers",
        "honest",
        "converged",
        "largest error if converged",
        "gradients",
        "gregory(64): true error, median",
        "covered by its report",
        "truth ±",
    )
    adaptive, fixed = _by_family(records, "to_tolerance"), _by_family(records, "gregory(64)")
    rows = [_row(name, adaptive[name], fixed[name]) for name in adaptive]
    every = (list(itertools.chain(*found.values())) for found in (adaptive, fixed))
    return [Table(header, [*rows, _row("all", *every)])]


def _row(name: str, adaptive: Sequence[Record], fixed: Sequence[Record]) -> tuple[str, ...]:
    converged = [record["error"] / record["rtol"] for record in adaptive if record["converged"]]
    return (
        name,
        str(len(adaptive)),
        f"{honest(adaptive):.1%}",
        f"{_converged(adaptive):.0%}",
        f"{max(converged, default=0.0):.2f} rtol",
        f"{mean(record['num_evals'] for record in adaptive):.0f}",
        f"{statistics.median(record['error'] for record in fixed):.1e}",
        f"{covered(fixed):.1%}",
        f"{max(record['uncertainty'] for record in adaptive):.0e}",
    )


def _by_family(records: list[Record], rule: str) -> dict[str, list[Record]]:
    own = [record for record in records if record["rule"] == rule]
    return {
        name: [record for record in own if record["family"] == name]
        for name in dict.fromkeys(record["family"] for record in own)
    }


def _worst(found: dict[str, list[Record]], share: Callable[[Sequence[Record]], float]) -> float:
    return min(map(share, found.values()))


def honest(records: Sequence[Record]) -> float:
    """Returns the share that is as good as asked for, or says that it is not."""
    return mean(not r["converged"] or r["error"] <= r["rtol"] + r["uncertainty"] for r in records)


def _converged(records: Sequence[Record]) -> float:
    return mean(record["converged"] for record in records)


def covered(records: Sequence[Record]) -> float:
    """Returns the share whose report is no smaller than the truth."""
    return mean(
        # Where it is infinite: JSON knows no such number.
        r["reported"] is None or r["reported"] >= r["own_error"] - r["uncertainty"] - _ROUNDING
        for r in records
    )
