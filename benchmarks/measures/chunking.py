"""Chunks of nodes in one program, beside the best loop in Python over compiled chunks.

One example, 64 nodes, 8 or 16 at once: the better of the two, on either side. The loop is the
fastest there is on a CPU, for the compiler sees no control flow; but it can be neither mapped nor
differentiated nor compiled. The ratio is the median of those of the single rounds.
"""

import functools
from collections.abc import Callable

import jax

from benchmarks._timing import interleaved, medians, ratio
from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    by_igjax,
    by_loop,
    example,
    load,
    main_output,
)
from benchmarks.reference import l1_error
from igjax import quadrature

TITLE = "Chunking"
NETWORKS = ("mlp", "cnn", "transformer", "efficientnet_lite0")
SIZES = (8, 16)
_FEWER_ROUNDS = {"efficientnet_lite0": 5}  # of half a minute each


def run(settings: Settings, track: Track) -> list[Record]:
    """Times both with both sizes."""
    del track
    network = load(settings.network, 1)
    output, rule = main_output(network), quadrature.gregory(64)
    args = (network.params, *example(network, 0))
    programs: dict[str, Callable[..., jax.Array]] = {}
    for size in SIZES:
        programs[f"igjax {size}"] = jax.jit(by_igjax(output, rule=rule, batch_size=size))
        programs[f"loop {size}"] = by_loop(output, rule, size)
    calls = {name: functools.partial(program, *args) for name, program in programs.items()}
    rounds = min(settings.rounds, _FEWER_ROUNDS.get(settings.network, settings.rounds))
    times = interleaved(calls, rounds, settings.seconds)
    seconds = medians(times)
    igjax, loop = (
        min((f"{kind} {size}" for size in SIZES), key=lambda name: seconds[name])
        for kind in ("igjax", "loop")
    )
    return [
        {
            "rounds": len(times[igjax]),
            "seconds": seconds,
            "best": igjax,
            "best_loop": loop,
            "ratio": ratio(times, igjax, loop),
            "difference": l1_error(calls[igjax](), calls[loop]()),
        }
    ]


def claims(records: list[Record]) -> list[Claim]:
    """That one needs no loop of one's own."""
    return [
        Claim(f"chunks in one program / Python loop, {record['network']}", record["ratio"], 1.15)
        for record in records
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    names = [f"{kind} {size}" for kind in ("igjax", "loop") for size in SIZES]
    header = ("network", *(f"{name}, ms" for name in names), "ratio", "difference", "rounds")
    rows = [
        (
            record["network"],
            *(f"{1e3 * record['seconds'][name]:.4g}" for name in names),
            f"{record['ratio']:.3f}",
            f"{record['difference']:.0e}",
            str(record["rounds"]),
        )
        for record in records
    ]
    return [Table(header, rows)]
