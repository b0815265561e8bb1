"""What more nodes cost besides time: memory, and compilation.

One example, 64 and 4096 nodes, 8 at once. The memory is what the compiled program asks for besides
its arguments and its result (`memory_analysis().temp_size_in_bytes`). The nodes and their weights
are constants of the program, 8 bytes a node, and not in it. To compile is to trace, to lower and to
compile, JAX's caches being empty: the median of three.
"""

import statistics
import time
from typing import Any

import jax

from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    by_igjax,
    example,
    load,
    main_output,
)
from igjax import quadrature

TITLE = "Scaling"
NETWORKS = ("mlp", "cnn", "transformer")
NODES = (64, 4096)
_BATCH = 8


def run(settings: Settings, track: Track) -> list[Record]:
    """Compiles both programs in turn."""
    network = load(settings.network, 1)
    output = main_output(network)
    args = (network.params, *example(network, 0))
    seconds: dict[int, list[float]] = {nodes: [] for nodes in NODES}
    memory: dict[int, int] = {}
    repeats = settings.pick(3, 1)
    for nodes in track(NODES * repeats, f"compiling {settings.network}"):
        attribute = by_igjax(output, rule=quadrature.gregory(nodes), batch_size=_BATCH)
        jax.clear_caches()
        start = time.perf_counter()
        compiled = jax.jit(attribute).lower(*args).compile()
        seconds[nodes].append(time.perf_counter() - start)
        analysis: Any = compiled.memory_analysis()
        memory[nodes] = analysis.temp_size_in_bytes
    few, many = NODES
    compile_seconds = {nodes: statistics.median(times) for nodes, times in seconds.items()}
    return [
        {
            "bytes": [memory[few], memory[many]],
            "compile_seconds": [compile_seconds[few], compile_seconds[many]],
            "memory_ratio": memory[many] / memory[few],
            "compile_ratio": compile_seconds[many] / compile_seconds[few],
        }
    ]


def claims(records: list[Record]) -> list[Claim]:
    """That they cost none."""
    few, many = NODES
    return [
        claim
        for record in records
        for claim in (
            Claim(
                f"memory, {many} / {few} nodes, {record['network']}", record["memory_ratio"], 1.05
            ),
            Claim(
                f"compile, {many} / {few} nodes, {record['network']}", record["compile_ratio"], 1.5
            ),
        )
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    few, many = NODES
    header = (
        "network",
        f"memory {few}, MB",
        f"memory {many}, MB",
        "ratio",
        f"compile {few}, s",
        f"compile {many}, s",
        "ratio ",
    )
    rows = [
        (
            record["network"],
            *(f"{size / 1e6:.2f}" for size in record["bytes"]),
            f"{record['memory_ratio']:.3f}",
            *(f"{seconds:.2f}" for seconds in record["compile_seconds"]),
            f"{record['compile_ratio']:.2f}",
        )
        for record in records
    ]
    return [Table(header, rows)]
