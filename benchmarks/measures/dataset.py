"""How fast `attribute_dataset` gets through a whole dataset, all to 1 %, the default.

On the CPU, one device. "Ideal" is the number of gradients that the examples need, times what one
costs in a batch at best (`jit(vmap(grad))`, the best of 16, 32, 64 … 2048 at once), before and
after. The time of `attribute_dataset` is all of a call, the writing of the store included, but for
its setting up (compiling, trying how many examples at once are the fastest, fingerprints, making
the store), which is in a column of its own. It is called three times, the loop in between: medians
are shown.

The loop is what one would write: `jit(vmap(integrated_grad(f, rule=to_tolerance())))` over
batches (of 16, 64 or 256, whichever is the fastest), each until its slowest example is done; it
writes nothing. Captum takes whole batches of examples too, with as many Gauss–Legendre nodes (25,
50, 100, 200, 400, 800) as bring 95 % of 100 examples within 1 % of a reference (`gregory(2048)`);
it is timed on these, at the best of several `internal_batch_size`, and scaled up.
"""

import functools
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import igjax
from benchmarks import networks, rivals
from benchmarks._timing import interleaved, medians, seconds
from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    by_igjax,
    load,
    main_output,
    mapped,
)
from benchmarks.reference import l1_error
from igjax import quadrature
from igjax.dataset import attribute_dataset

TITLE = "Whole datasets"
_EXAMPLES = {"digits": 10_000, "drugs": 2_000}
NETWORKS = tuple(_EXAMPLES)
_RTOL, _SHARE = 0.01, 0.95
_RULE = quadrature.to_tolerance(_RTOL)
_AT_ONCE = (16, 32, 64, 128, 256, 512, 1024, 2048)
_LOOPS = (16, 64, 256)
_STEPS = (25, 50, 100, 200, 400, 800)
_COMPARED = 100  # examples, with Captum
_ROUNDS = 3


def run(settings: Settings, track: Track) -> list[Record]:
    """Attributes all examples, in each of the ways."""
    network = load(settings.network, settings.pick(_EXAMPLES[settings.network], 40))
    output = main_output(network)

    def fun(x: jax.Array, *extras: jax.Array) -> jax.Array:
        return output(network.params, x, *extras)

    attribution = igjax.integrated_grad(fun, rule=_RULE, has_report=True)
    source = network.xs, *network.extras
    gradient = _fastest_gradient(fun, network, settings.pick(_AT_ONCE, (16,)))
    loop = _fastest_loop(fun, network, settings.pick(_LOOPS, (16,)))
    whole, loops, gradients = [], [], []
    for _ in track(range(settings.pick(_ROUNDS, 1)), f"{settings.network}, all examples"):
        before = gradient()
        with tempfile.TemporaryDirectory() as out:
            whole.append(attribute_dataset(attribution, source, out=out, progress=False))
        gradients.append((before + gradient()) / 2)
        loops.append(seconds(loop))
    worked = [summary.seconds - summary.setup_seconds for summary in whole]
    took = statistics.median(worked)
    ratios = [
        seconds / (summary.num_evals * gradient)
        for seconds, summary, gradient in zip(worked, whole, gradients, strict=True)
    ]
    captum = _captum(settings, network, settings.pick(_COMPARED, 2))
    return [
        {
            "examples": len(network.xs),
            "gradients": whole[0].num_evals / len(network.xs),
            "gradient": statistics.median(gradients),
            "seconds": took,
            "setup_seconds": statistics.median(s.setup_seconds for s in whole),
            "ratio": statistics.median(ratios),
            "utilization": whole[0].utilization,
            "loop": statistics.median(loops) / took,
            "captum": captum["seconds"] / took,
            "captum_nodes": captum["nodes"],
        }
    ]


def _fastest_gradient(
    fun: Callable[..., Any], network: networks.Network, sizes: tuple[int, ...]
) -> Callable[[], float]:
    """Times a gradient in a batch of different examples, of the size that is the fastest."""
    program = jax.jit(jax.vmap(jax.grad(fun)))
    calls = {}
    for size in sizes:
        rows = np.arange(size) % len(network.xs)
        args = jax.device_put([a[rows] for a in (network.xs, *network.extras)])
        calls[size] = functools.partial(program, *args)
    times = medians(interleaved(calls, rounds=5, at_least=0.5 * len(sizes)))
    _, best = min((time / size, size) for size, time in times.items())

    def time() -> float:
        return medians(interleaved({best: calls[best]}, rounds=5, at_least=1.0))[best] / best

    return time


def _fastest_loop(
    fun: Callable[..., Any], network: networks.Network, sizes: tuple[int, ...]
) -> Callable[[], None]:
    """The loop over batches of the size that is the fastest, by a part of the examples."""
    program = jax.jit(jax.vmap(igjax.integrated_grad(fun, rule=_RULE, has_report=True)))
    arrays = (network.xs, *network.extras)

    def loop(size: int, count: int) -> None:
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)  # the last is repeated
            jax.tree.map(np.asarray, program(*(array[rows] for array in arrays)))

    part = min(max(*sizes, len(network.xs) // 10), len(network.xs))
    times = {}
    for size in sizes:
        loop(size, size)  # compiles
        times[size] = seconds(functools.partial(loop, size, part))
    return functools.partial(loop, min(times, key=lambda size: times[size]), len(network.xs))


def _captum(settings: Settings, network: networks.Network, count: int) -> dict[str, float]:
    """How many nodes Captum needs, and how long it then takes for all examples."""
    output = main_output(network)
    rows = slice(0, count)
    args = (network.params, *(a[rows] for a in (network.xs, network.baselines, *network.extras)))

    def attributions(rule: quadrature.Rule) -> Any:
        return jax.device_get(mapped(by_igjax(output, rule=rule, batch_size=16), network)(*args))

    truth = attributions(quadrature.gregory(settings.pick(2048, 64)))
    for nodes in settings.pick(_STEPS, (25,)):
        found = attributions(quadrature.gauss_legendre(nodes))
        errors = [l1_error(a, b) for a, b in zip(found, truth, strict=True)]
        if np.mean(np.array(errors) <= _RTOL) >= _SHARE:
            break
    name = next(name for name, fun in network.outputs.items() if fun is output)
    torch_output = network.torch_outputs()[name]
    call = functools.partial(
        rivals.captum_of_batch,
        torch_output,
        network.xs[rows],
        network.baselines[rows],
        tuple(extra[rows] for extra in network.extras),
        nodes,
    )
    best = min(
        min(seconds(lambda size=size: call(size)) for _ in range(settings.pick(3, 1)))
        for size in settings.pick((128, 512, 2048), (128,))
    )
    return {"nodes": nodes, "seconds": best * len(network.xs) / count}


def claims(records: list[Record]) -> list[Claim]:
    """What is claimed of each network."""
    return [
        claim
        for record in records
        for claim in (
            Claim(f"dataset, time / ideal, {record['network']}", record["ratio"], 1.08),
            Claim(f"dataset, utilization, {record['network']}", record["utilization"], 0.95, True),
            Claim(f"dataset, loop / igjax, {record['network']}", record["loop"], 1.8, True),
            Claim(f"dataset, Captum / igjax, {record['network']}", record["captum"], 3.0, True),
        )
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each network."""
    header = (
        "network",
        "examples",
        "gradients each",
        "µs a gradient",
        "seconds",
        "/ ideal",
        "setting up, s",
        "utilization",
        "loop / igjax",
        "Captum / igjax",
        "Captum's nodes",
    )
    rows = [
        (
            record["network"],
            f"{record['examples']:,}",
            f"{record['gradients']:.1f}",
            f"{1e6 * record['gradient']:.1f}",
            f"{record['seconds']:.1f}",
            f"{record['ratio']:.3f}",
            f"{record['setup_seconds']:.1f}",
            f"{100 * record['utilization']:.1f}%",
            f"{record['loop']:.2f}",
            f"{record['captum']:.2f}",
            f"{record['captum_nodes']}",
        )
        for record in records
    ]
    return [Table(header, rows)]
