"""What igjax costs beside the same integral written by hand.

`jit(vmap(integrated_grad(f)))` beside `jit(vmap(…))` of a weighted sum of `jax.grad(f)` over the
same nodes, one batch of examples. The ratios are medians of those of the single rounds. "Plain" is
igjax with `affine_prefix=False`.
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
    geometric_mean,
    load,
    main_output,
    mapped,
)
from benchmarks.reference import l1_error
from igjax import quadrature

TITLE = "Overhead"

_SIZES = {  # nodes and examples: what fits in memory all at once
    "mlp": (64, 16),
    "cnn": (64, 2),
    "transformer": (64, 2),
    "efficientnet_lite0": (16, 2),
    "minilm": (16, 4),
    "marian": (16, 4),
    "dmpnn": (64, 4),
}
NETWORKS = tuple(_SIZES)


def run(settings: Settings, track: Track) -> list[Record]:
    """Times igjax with and without the affine prefix, and what one would write by hand."""
    del track
    nodes, count = _SIZES[settings.network]
    count = settings.pick(count, 2)
    network = load(settings.network, count)
    output, rule = main_output(network), quadrature.gregory(nodes)
    programs = {
        "by hand": by_hand(output, rule),
        "plain": by_igjax(output, rule=rule, affine_prefix=False),
        "igjax": by_igjax(output, rule=rule),
    }
    args = (network.params, *batch(network, count))
    calls = {
        name: functools.partial(mapped(program, network), *args)
        for name, program in programs.items()
    }
    times = interleaved(calls, settings.rounds, settings.seconds)
    return [
        {
            "nodes": nodes,
            "examples": count,
            "rounds": len(times["igjax"]),
            "seconds": medians(times),
            "ratio": ratio(times, "igjax", "by hand"),
            "plain_ratio": ratio(times, "plain", "by hand"),
            "affine_ratio": ratio(times, "igjax", "plain"),
            "difference": l1_error(calls["igjax"](), calls["by hand"]()),
        }
    ]


def claims(records: list[Record]) -> list[Claim]:
    """That it costs next to nothing."""
    ratios = [record["ratio"] for record in records]
    return [
        Claim("overhead, geometric mean of the networks", geometric_mean(ratios), 1.02),
        Claim("overhead, the worst network", max(ratios), 1.08),
        *(
            Claim(f"affine prefix on / off, {record['network']}", record["affine_ratio"], 1.02)
            for record in records
        ),
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    header = (
        "network",
        "nodes × examples",
        "by hand, ms",
        "igjax, ms",
        "igjax / by hand",
        "plain / by hand",
        "igjax / plain",
        "difference",
        "rounds",
    )
    rows = [
        (
            record["network"],
            f"{record['nodes']} × {record['examples']}",
            f"{1e3 * record['seconds']['by hand']:.4g}",
            f"{1e3 * record['seconds']['igjax']:.4g}",
            f"{record['ratio']:.3f}",
            f"{record['plain_ratio']:.3f}",
            f"{record['affine_ratio']:.3f}",
            f"{record['difference']:.0e}",
            str(record["rounds"]),
        )
        for record in records
    ]
    return [Table(header, rows)]
