"""What is won where a network begins with a wide dense layer.

A network of 20,000 inputs, 32 examples, 64 nodes: igjax applies the layer once to the input and
once to the baseline, what one would write by hand applies it at every node.
"""

import functools

from benchmarks._timing import interleaved, medians, ratio
from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    batch,
    by_hand,
    by_igjax,
    load,
    main_output,
    mapped,
)
from benchmarks.reference import l1_error
from igjax import quadrature

TITLE = "Affine prefix"
NETWORKS = ("wide_mlp",)
_NODES = 64
_EXAMPLES = 32


def run(settings: Settings, track: Track) -> list[Record]:
    """Times igjax, and what one would write by hand."""
    del track
    network = load(settings.network, _EXAMPLES)
    output, rule = main_output(network), quadrature.gregory(_NODES)
    args = (network.params, *batch(network, _EXAMPLES))
    programs = {"igjax": by_igjax(output, rule=rule), "by hand": by_hand(output, rule)}
    calls = {
        name: functools.partial(mapped(program, network), *args)
        for name, program in programs.items()
    }
    times = interleaved(calls, settings.rounds, settings.seconds)
    return [
        {
            "examples": _EXAMPLES,
            "rounds": len(times["igjax"]),
            "seconds": medians(times),
            "ratio": ratio(times, "by hand", "igjax"),
            "difference": l1_error(calls["igjax"](), calls["by hand"]()),
        }
    ]


def claims(records: list[Record]) -> list[Claim]:
    """That it is much."""
    return [
        Claim(f"by hand / igjax, {record['network']}", record["ratio"], 15.0, at_least=True)
        for record in records
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    header = ("network", "examples", "by hand, ms", "igjax, ms", "ratio", "difference", "rounds")
    rows = [
        (
            record["network"],
            str(record["examples"]),
            f"{1e3 * record['seconds']['by hand']:.4g}",
            f"{1e3 * record['seconds']['igjax']:.4g}",
            f"{record['ratio']:.1f}",
            f"{record['difference']:.0e}",
            str(record["rounds"]),
        )
        for record in records
    ]
    return [Table(header, rows)]
