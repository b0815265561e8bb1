"""What attributions are compared with: many nodes, in float64, kept on disk.

    python -m benchmarks.reference NETWORK COUNT

computes those of the first COUNT inputs of a network, for all its outputs, that are not there yet.
It saves each as it is done, and so goes on where it was interrupted. Delete benchmarks/.cache to
have them computed anew: a change of the weights or the inputs is noticed, one of the network's code
is not. Of igjax itself nothing is used but the nodes and weights of its rules.
"""

import argparse
import functools
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks import networks
from igjax import quadrature

CACHE = pathlib.Path(__file__).parent / ".cache"
CHUNK = 16  # nodes at once

# None is a power of two: the rules that are looked at have those, and so other nodes than these.
NODES: Mapping[str, int] = {
    "mlp": 2000,
    "wide_mlp": 500,
    "cnn": 1000,
    "transformer": 500,
    "efficientnet_lite0": 2000,
    "minilm": 500,
    "marian": 2000,
    "dmpnn": 2000,
}

# Gradients in float32, whose sums are in float64 all the same. Here more nodes are worth more than
# more digits: with 1,000 nodes float32 differed from float64 by 2e-4 of the L1 norm, and 500 nodes
# from 1,000 by 1e-2.
SINGLE = ("efficientnet_lite0",)

Reference = dict[str, NDArray[Any]]
Program = Callable[..., jax.Array]


def references(
    name: str,
    network: networks.Network,
    nodes: int,
    track: Callable[[Iterable[int], str], Iterable[int]],
) -> list[Reference]:
    """The references of all inputs of ``network``, as ``compute`` returns them.

    What is missing is computed in a process of its own, for float64 is a setting of the process.
    """
    indices = range(len(network.xs))
    path = functools.partial(_path, name, f"reference-{nodes}")
    if any(_load(path(index), network, index) is None for index in indices):
        command = [sys.executable, "-m", "benchmarks.reference", name, str(len(indices))]
        command += ["--nodes", str(nodes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in track(indices, f"references of {name}, kept for later"):
                process.stdout.readline()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    found = [_load(path(index), network, index) for index in indices]
    return [reference for reference in found if reference is not None]


def fill(name: str, network: networks.Network, nodes: int, tell: Callable[[str], None]) -> None:
    """Computes the references of all inputs that are not there, and tells of each."""
    program, dtype = _program(network), np.float32 if name in SINGLE else np.float64
    for index in range(len(network.xs)):
        start = time.perf_counter()
        path = _path(name, f"reference-{nodes}", index)
        arrays = _load(path, network, index)
        if arrays is None:
            arrays = compute(network, index, nodes, dtype, program)
            _save(path, network, index, arrays)
        seconds = time.perf_counter() - start
        change = arrays["change"].max()
        tell(f"{name} {index}: {seconds:.1f} s, half the nodes change it by {change:.1e} at most")


def compute(
    network: networks.Network,
    index: int,
    nodes: int,
    dtype: Any = np.float64,
    program: Program | None = None,
) -> Reference:
    """The reference of one input.

    Args:
      network: the network.
      index: which of its inputs.
      nodes: how many, an even number.
      dtype: of the gradients; float64 needs JAX's setting.
      program: that of the network, to use it again.

    Returns:
      By name of the output its attributions, float64. Under "change", of each output, by how much
      they differ from those of half as many nodes, relative L1: at least twice their own error
      where a network has kinks, and many times it where it is smooth.
    """
    alphas, *weights = quadrature.gregory(nodes)
    program = program or _program(network)
    fine, coarse = _integrals(network, index, alphas, np.stack(weights), dtype, program)
    change = np.array([l1_error(*pair) for pair in zip(coarse, fine, strict=True)])
    return dict(zip(network.outputs, fine, strict=True)) | {"change": change}


def by_rule(
    name: str, network: networks.Network, rule: Callable[[int], quadrature.Rule]
) -> Callable[[int, int], Reference]:
    """Attributions by a fixed rule, in float32, kept on disk too.

    Returns:
      A function of the input's index and the number of nodes, that returns by name of the output
      its attributions.
    """
    program = _program(network)

    def attributions(index: int, nodes: int) -> Reference:
        path = _path(name, f"{rule.__name__}-{nodes}", index)
        arrays = _load(path, network, index)
        if arrays is None:
            alphas, weights, _ = rule(nodes)
            (row,) = _integrals(network, index, alphas, weights[None], np.float32, program)
            arrays = dict(zip(network.outputs, row.astype(np.float32), strict=True))
            _save(path, network, index, arrays)
        return arrays

    return attributions


def l1_error(attributions: Any, reference: Any) -> float:
    """The L1 norm of the difference, relative to that of the reference."""
    reference = np.asarray(reference, np.float64)
    return float(np.abs(np.asarray(attributions) - reference).sum() / np.abs(reference).sum())


def _integrals(
    network: networks.Network,
    index: int,
    alphas: NDArray[np.float64],
    weights: NDArray[np.float64],
    dtype: Any,
    program: Program,
) -> NDArray[np.float64]:
    """Shape ``(rules, outputs, ...)``, by the rules of ``weights`` on the same nodes."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    params = _as(dtype, network.params)
    x, baseline = _as(dtype, (network.xs[index], network.baselines[index]))
    extras = tuple(extra[index] for extra in network.extras)
    padding = -len(alphas) % CHUNK  # with weights of 0: a last chunk of its own would be compiled
    alphas, weights = np.pad(alphas, (0, padding)), np.pad(weights, ((0, 0), (0, padding)))
    sums = np.zeros(())
    for start in range(0, len(alphas), CHUNK):
        part = _as(dtype, (alphas[start : start + CHUNK], weights[:, start : start + CHUNK]))
        # Waiting for each keeps one chunk in memory, not all.
        sums = sums + np.asarray(program(params, x, baseline, extras, *part), np.float64)
    return sums * (network.xs[index].astype(np.float64) - network.baselines[index])


def _program(network: networks.Network) -> Program:
    """Weighted sums of the Jacobians of all outputs, that the forward pass be made but once."""

    def outputs(x: jax.Array, params: Any, extras: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.stack([output(params, x, *extras) for output in network.outputs.values()])

    @jax.jit
    def program(
        params: Any,
        x: jax.Array,
        baseline: jax.Array,
        extras: tuple[jax.Array, ...],
        alphas: jax.Array,
        weights: jax.Array,
    ) -> jax.Array:
        def jacobian(alpha: jax.Array) -> jax.Array:
            return jax.jacrev(outputs)(baseline + alpha * (x - baseline), params, extras)

        return jnp.tensordot(weights, jax.vmap(jacobian)(alphas), 1)

    return program


def _as(dtype: Any, tree: Any) -> Any:
    """The tree with its floating-point arrays in ``dtype``."""

    def leaf(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jnp.asarray(array, dtype if array.dtype.kind == "f" else array.dtype)

    return jax.tree.map(leaf, tree)


def _path(name: str, kind: str, index: int) -> pathlib.Path:
    return CACHE / name / kind / f"{index}.npz"


def _save(path: pathlib.Path, network: networks.Network, index: int, arrays: Reference) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    unfinished = path.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, fingerprint=_fingerprint(network, index), **arrays)
    unfinished.replace(path)


def _load(path: pathlib.Path, network: networks.Network, index: int) -> Reference | None:
    """What has been saved, if it was for the same network and input."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        return None
    saved, now = arrays.pop("fingerprint"), _fingerprint(network, index)
    same = saved.shape == now.shape and np.allclose(saved, now, rtol=0.0, atol=1e-6)
    return arrays if same and {*network.outputs} <= {*arrays} else None


def _fingerprint(network: networks.Network, index: int) -> NDArray[np.float64]:
    """A few numbers that tell weights and inputs from others, and that rounding hardly changes.

    A hash would not do: some of the weights are computed, which rounds otherwise from run to run.
    """

    def mark(array: Any) -> float:
        flat = np.asarray(array).ravel()
        flat = flat[:: 1 + len(flat) // 4096].astype(np.float64)
        return float(flat @ np.cos(np.arange(len(flat)))) / (1.0 + float(np.abs(flat).sum()))

    example = jax.tree.map(lambda a: a[index], (network.xs, network.baselines, network.extras))
    return np.array([mark(leaf) for leaf in jax.tree.leaves((network.params, example))])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", choices=networks.NAMES)
    parser.add_argument("count", type=int, help="how many inputs")
    parser.add_argument("--nodes", type=int, help="an even number; by default as many as it takes")
    options = parser.parse_args(arguments)
    # Loaded in float32, as the benchmark itself does it.
    network = networks.load(options.network, options.count)
    jax.config.update("jax_enable_x64", True)
    fill(
        options.network,
        network,
        options.nodes or NODES[options.network],
        lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    main()
