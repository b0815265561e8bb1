"""How long `import igjax` takes beside `import jax`, each in a fresh interpreter, in turn."""

import statistics
import subprocess
import sys

from benchmarks.measures._measure import Claim, Record, Settings, Table, Track

TITLE = "Import"
NETWORKS = ("none",)


def run(settings: Settings, track: Track) -> list[Record]:
    """Imports both, round by round."""
    rounds = range(settings.pick(15, 3))
    times = [
        {module: _seconds(module) for module in ("jax", "igjax")}
        for _ in track(rounds, "importing")
    ]
    medians = {name: statistics.median(each[name] for each in times) for name in times[0]}
    ratio = statistics.median(each["igjax"] / each["jax"] for each in times)
    return [{"seconds": medians, "ratio": ratio}]


def claims(records: list[Record]) -> list[Claim]:
    """None."""
    del records
    return []


def tables(records: list[Record]) -> list[Table]:
    """One row."""
    header = ("", "import jax, s", "import igjax, s", "ratio")
    rows = [
        (
            "",
            *(f"{record['seconds'][name]:.3f}" for name in ("jax", "igjax")),
            f"{record['ratio']:.3f}",
        )
        for record in records
    ]
    return [Table(header, rows)]


def _seconds(module: str) -> float:
    """The time that importing ``module`` takes in a fresh interpreter, its start aside."""
    script = (
        f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(run.stdout)
