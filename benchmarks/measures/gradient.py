"""What a single gradient costs: the ground that everything else stands on.

Gradients at 16 points of one example's path, at once: JAX's `jit(vmap(grad))`, and
`torch.autograd.grad` of the outputs' sum, the weights needing none. The memory is what the compiled
program asks for besides its arguments and its result; torch does not say. No claim is made.
"""

import time
from typing import Any

import jax
import numpy as np

from benchmarks import networks
from benchmarks._timing import interleaved, medians, ratio
from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    example,
    load,
    main_output,
)
from benchmarks.reference import l1_error

TITLE = "One gradient"
NETWORKS = networks.NAMES
_POINTS = 16


def run(settings: Settings, track: Track) -> list[Record]:
    """Times both on the same points."""
    del track
    import torch

    network = load(settings.network, 1)
    output = main_output(network)
    (name,) = (name for name, candidate in network.outputs.items() if candidate is output)
    x, baseline, *extras = example(network, 0)
    alphas = np.linspace(0.1, 1.0, _POINTS, dtype=np.float32)
    xs = np.stack([baseline + alpha * (x - baseline) for alpha in alphas])

    gradient = jax.vmap(jax.grad(output, argnums=1), (None, 0, *(None for _ in extras)))
    args = (network.params, jax.device_put(xs), *extras)
    start = time.perf_counter()
    compiled = jax.jit(gradient).lower(*args).compile()
    compile_seconds = time.perf_counter() - start
    analysis: Any = compiled.memory_analysis()

    torch_output = network.torch_outputs()[name]
    points = torch.tensor(xs, requires_grad=True)
    rows = tuple(torch.tensor(np.asarray(extra)[None]) for extra in extras)

    def by_torch() -> Any:
        return torch.autograd.grad(torch_output(points, *rows).sum(), points)[0]

    calls = {"jax": lambda: compiled(*args), "torch": by_torch}
    times = interleaved(calls, settings.rounds, settings.pick(5.0, 0.2))
    return [
        {
            "rounds": len(times["jax"]),
            "seconds": {kind: median / _POINTS for kind, median in medians(times).items()},
            "ratio": ratio(times, "torch", "jax"),
            "bytes": analysis.temp_size_in_bytes,
            "compile_seconds": compile_seconds,
            "difference": l1_error(by_torch().numpy(), calls["jax"]()),
        }
    ]


def claims(records: list[Record]) -> list[Claim]:
    """None."""
    del records
    return []


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    header = (
        "network",
        "JAX, ms",
        "torch, ms",
        "torch / JAX",
        "memory of 16, MB",
        "compile, s",
        "difference",
    )
    rows = [
        (
            record["network"],
            *(f"{1e3 * record['seconds'][kind]:.3g}" for kind in ("jax", "torch")),
            f"{record['ratio']:.2f}",
            f"{record['bytes'] / 1e6:.1f}",
            f"{record['compile_seconds']:.1f}",
            f"{record['difference']:.0e}",
        )
        for record in records
    ]
    return [Table(header, rows)]
