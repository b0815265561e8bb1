"""Whether attributions are complete at every layer of a deep network.

One input, by the names of layers (`igjax.layer_names`): the integrated gradients of each
layer, and its conductance, with as many nodes as the input's own integrated gradients. All three
should sum to F(x) - F(x'): "gap" is what is missing, in parts of that. What the conductances of a
layer sum to is what the input's attributions sum to, node by node and whatever the number of nodes
("from the input's sum"). "Time" is what a call takes in parts of the input's.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import igjax
from benchmarks._timing import seconds
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
from igjax import quadrature

TITLE = "Layers"
NETWORKS = ("efficientnet_lite0", "minilm")
_NODES = 256
_BATCH_SIZE = 16
_METHODS = {
    "integrated gradients": igjax.layer_integrated_grad,
    "conductance": igjax.layer_conductance,
}


def run(settings: Settings, track: Track) -> list[Record]:
    """Attributes to every layer."""
    network = load(settings.network, 1)
    x, baseline, *extras = example(network, 0)
    output = main_output(network)

    def fun(x: jax.Array, params: Any) -> jax.Array:
        return output(params, x, *extras)

    explain: dict[str, Any] = {
        "rule": quadrature.gregory(settings.pick(_NODES, 8)),
        "batch_size": _BATCH_SIZE,
        "baseline": baseline,
        "has_report": True,
    }
    whole = _attribute(igjax.integrated_grad(fun, **explain), x, network.params)
    names = [*igjax.layer_names(fun, x, network.params)]
    records = []
    for name in track(names[:: settings.pick(1, 4)], settings.network):
        record: Record = {"layer": str(name)}
        for title, method in _METHODS.items():
            found = _attribute(method(fun, name, **explain), x, network.params)
            record[title] = {
                "gap": found["gap"],
                "time": found["seconds"] / whole["seconds"],
                "from input": abs(found["sum"] - whole["sum"]) / abs(whole["change"]),
            }
            record["size"] = found["size"]
        records.append(record)
    return records


def _attribute(transformed: Callable[..., Any], *args: Any) -> dict[str, float]:
    """What becomes of the attributions, and how long they take."""
    call = functools.partial(jax.jit(transformed), *args)
    attributions, report = jax.block_until_ready(call())
    change = report.value - report.baseline_value
    return {
        "size": attributions.size,
        "sum": float(jnp.sum(attributions)),
        "change": float(change),
        "gap": float(jnp.abs(report.completeness_gap / change)),
        "seconds": seconds(call),
    }


def claims(records: list[Record]) -> list[Claim]:
    """That nothing is missing at any layer."""
    return [
        Claim(text, max(figures), limit)
        for network in dict.fromkeys(record["network"] for record in records)
        for own in [[record for record in records if record["network"] == network]]
        for text, figures, limit in (
            *(
                (f"{title} of layers, gap, {network}", [r[title]["gap"] for r in own], 0.02)
                for title in _METHODS
            ),
            (
                f"conductances, from the input's sum, {network}",
                [r["conductance"]["from input"] for r in own],
                1e-3,
            ),
        )
    ]


def tables(records: list[Record]) -> list[Table]:
    """A row for each layer."""
    header = (
        "network",
        "layer",
        "neurons",
        "integrated gradients: gap",
        "time",
        "conductance: gap",
        "from the input's sum",
        "time",
    )
    rows = [
        (
            record["network"],
            record["layer"],
            f"{record['size']:,}",
            f"{record['integrated gradients']['gap']:.1e}",
            f"{record['integrated gradients']['time']:.2f}",
            f"{record['conductance']['gap']:.1e}",
            f"{record['conductance']['from input']:.0e}",
            f"{record['conductance']['time']:.2f}",
        )
        for record in records
    ]
    return [Table(header, rows)]
