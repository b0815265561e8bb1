"""How good answers are: what the measures of accuracy have in common."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import reference
from benchmarks.measures._measure import Settings, Track, by_igjax, example, load
from benchmarks.networks import Network
from igjax import quadrature

INPUTS = (20, 2)  # of each network: in full, in a quick run
_QUICK_NODES = {"minilm": 100, "marian": 100, "efficientnet_lite0": 60}
_OTHER_QUICK_NODES = 300
MAX_EVALS = quadrature.to_tolerance().max_evals  # unless another number is asked for


class Answer(NamedTuple):
    """An answer of ``to_tolerance``.

    Attributes:
      error: the true one, relative L1.
      reported: what its report estimates it to be.
      num_evals: gradients.
      converged: whether it says so.
    """

    error: float
    reported: float
    num_evals: int
    converged: bool


def prepare(settings: Settings, track: Track) -> tuple[Network, list[reference.Reference]]:
    """The network with its inputs, and their references."""
    name = settings.network
    network = load(name, settings.pick(*INPUTS))
    quick_nodes = _QUICK_NODES.get(name, _OTHER_QUICK_NODES)
    nodes = settings.pick(reference.NODES[name], quick_nodes)
    return network, reference.references(name, network, nodes, track)


_answers: dict[tuple[str, str, int, float, int], Answer] = {}  # two measures ask for the same


def adaptive(
    settings: Settings,
    network: Network,
    references: list[reference.Reference],
    output: str,
    max_evals: int = MAX_EVALS,
) -> Callable[[int, float], Answer]:
    """``to_tolerance`` itself, on one output: a function of the input's index and rtol."""

    @functools.cache  # one program for all tolerances
    def program() -> Callable[..., Any]:
        def attribute(rtol: jax.Array, *args: Any) -> Any:
            rule = quadrature.to_tolerance(rtol, max_evals=max_evals)
            return by_igjax(network.outputs[output], rule=rule, has_report=True)(*args)

        return jax.jit(attribute)

    def answer(index: int, rtol: float) -> Answer:
        key = (settings.network, output, index, rtol, max_evals)
        if key not in _answers:
            args = (network.params, *example(network, index))
            attributions, report = program()(np.float32(rtol), *args)
            _answers[key] = Answer(
                reference.l1_error(attributions, references[index][output]),
                float(report.error),
                int(report.num_evals),
                bool(report.converged),
            )
        return _answers[key]

    return answer
