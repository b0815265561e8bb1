"""How long `import igjax` takes beside `import jax`, each in a fresh interpreter, in turn."""

import statistics

from benchmarks import import_time
from benchmarks.measures._measure import Claim, Record, Settings, Table, Track

TITLE = "Import"
NETWORKS = ("none",)


def run(settings: Settings, track: Track) -> list[Record]:
    """Imports both, round by round."""
    rounds = range(settings.pick(import_time.ROUNDS, 3))
    times = [
        {module: import_time.seconds(module) for module in ("jax", "igjax")}
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
