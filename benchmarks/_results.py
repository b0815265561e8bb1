"""What has been measured so far, on disk: a run of the command replaces what it measures anew.

By measure there is a list of runs, the newest last. Each has its own date, machine and versions,
and the records of the networks that no later run has measured again.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]
Run = dict[str, Any]
Results = dict[str, list[Run]]


def new_run(about: Mapping[str, Any]) -> Run:
    """A run of one measure, with nothing measured yet; ``about`` is its date, machine and so on."""
    return {**about, "seconds": 0.0, "errors": {}, "records": []}


def add(
    results: Results, measure: str, run: Run, network: str, outcome: list[Record] | str
) -> Results:
    """``results`` with what a run has measured on a network: records, or the message of an error.

    An error leaves the records of earlier runs as they are.
    """
    for earlier in results.setdefault(measure, []):
        earlier["errors"].pop(network, None)
        if not isinstance(outcome, str):
            earlier["records"] = [r for r in earlier["records"] if r["network"] != network]
    if isinstance(outcome, str):
        run["errors"][network] = outcome
    else:
        run["records"] += [{"network": network, **record} for record in outcome]
    others = [r for r in results[measure] if r is not run and (r["records"] or r["errors"])]
    results[measure] = [*others, run]
    return results


def records(runs: list[Run]) -> list[Record]:
    """All records of a measure."""
    return [record for run in runs for record in run["records"]]


def read(path: pathlib.Path) -> Results:
    """What is on disk; nothing if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: pathlib.Path, results: Results) -> None:
    """Saves the results, a record a line, so that two versions can be compared."""
    measures = [f"{json.dumps(name)}: [\n{_lines(runs)}\n]" for name, runs in results.items()]
    unfinished = path.with_suffix(".part")
    unfinished.write_text("{\n" + ",\n".join(measures) + "\n}\n")
    unfinished.replace(path)


def _lines(runs: list[Run]) -> str:
    def run_lines(run: Run) -> str:
        about = {key: value for key, value in run.items() if key != "records"}
        head = json.dumps(_plain(about))[:-1]
        rows = ",\n".join(json.dumps(_plain(record)) for record in run["records"])
        return f'{head}, "records": [\n{rows}\n]}}'

    return ",\n".join(map(run_lines, runs))


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become null. Four digits are enough of any other."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
