"""How long it takes until the answers are good: 95 % of the inputs within 3 % of the reference.

The error is the relative L1 distance to the reference. Two libraries do without being told it:

- igjax, asked: `to_tolerance(0.03)`, 16 at once.
- captum, restarted (torch): Gauss–Legendre of 16, 32, 64 … 1024 nodes, until two answers in a row
  agree to within 3 %; all of them are counted and timed. Who is to know the error of Captum's
  answers can do no less.

The others are told, and have the cheapest settings that do it:

- igjax: the fastest of a fixed rule, `gregory(n)` of 8, 10, 12, 14, 16, 20 … 256 nodes, 8, 16 or
  (up to 64) all of them at once; of `to_tolerance` with 15, 10, 7, 5, 4 or 3 %, 16 at once; and of
  48, 80, 144 or 272 nodes that it places, whatever the error. One example after the other, through
  one compiled function.
- captum (torch): Gauss–Legendre of 6, 8, 10, 12, 14, 16, 20 … 800 nodes; the fastest of 8, 16, 32
  at once, and of all at once up to 100 nodes (so it is when restarted, too). Its number of nodes is
  found with the same rule in JAX, and its own answers are then compared with those on the inputs
  that are timed ("off by").
- by hand (JAX): as many nodes as Captum, the loop over compiled chunks of 16.
- UnifiedIG (JAX): as many nodes as Captum, for its rule is the same. It compiles anew at every
  call, which is most of what is timed here.
- saliency (PAIR, with gradients by JAX): its own rule, which needs more nodes, at most 800.

Some inputs are timed, the libraries in turn, and the seconds are scaled to all: igjax's by the
gradients that the other inputs take, and so are Captum's when it is restarted, the others' by the
number of inputs. Compilation is not in
them, except for UnifiedIG's.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import networks, rivals
from benchmarks._timing import interleaved, medians
from benchmarks.measures._answers import MAX_EVALS, adaptive, prepare
from benchmarks.measures._measure import (
    Claim,
    Record,
    Settings,
    Table,
    Track,
    by_igjax,
    by_loop,
    example,
    geometric_mean,
)
from benchmarks.measures.tolerance import restart
from benchmarks.reference import Reference, by_rule, l1_error
from igjax import quadrature

TITLE = "Time to accuracy"
NETWORKS = (*networks.REAL, "mlp", "cnn")
_ERROR, _SHARE = 0.03, 0.95

_FIXED = (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_RTOLS = (0.15, 0.1, 0.07, 0.05, 0.04, 0.03)
_PLACED = (50, 82, 146, 274)
_NEVER = 1e-9  # a tolerance that is never met, to have all the nodes
_AT_ONCE = 64  # nodes that igjax is tried with all at once
_FEW_STEPS = (6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 100, 128, 160, 200)
_STEPS = ((*_FEW_STEPS, 256, 320, 400, 512, 640, 800), _FEW_STEPS)
_LAST = 1024  # nodes with which one gives up to restart
_ALL_AT_ONCE = 100  # nodes at most: with more of them Captum is slower, and runs out of memory
_TIMED = {"efficientnet_lite0": 2}  # inputs
_OTHER_TIMED = 5
_CHOICE_SECONDS = 2.0  # at least, to see which settings are the fastest


class _Case(NamedTuple):
    """One output of a network."""

    settings: Settings
    network: networks.Network
    references: list[Reference]
    output: str

    @property
    def inputs(self) -> int:
        return len(self.network.xs)

    @property
    def timed(self) -> range:
        most = _TIMED.get(self.settings.network, _OTHER_TIMED)
        return range(min(self.inputs, self.settings.pick(most, 1)))


class _Chosen(NamedTuple):
    """A library with the settings that are timed.

    Attributes:
      method: the settings, for people to read.
      nodes: gradients an input, on average.
      within: the share of the inputs within the error.
      call: the attributions of an input.
      scale: from the seconds of the timed inputs to those of all.
      compile_seconds: if it is compiled ahead.
    """

    method: str
    nodes: float
    within: float
    call: Callable[[int], Any]
    scale: float
    compile_seconds: float | None = None


def run(settings: Settings, track: Track) -> list[Record]:
    """Finds the settings of each library, and times them."""
    network, references = prepare(settings, track)
    outputs = list(network.outputs)
    return [
        record
        for output in track(settings.pick(outputs, outputs[:1]), f"{settings.network} to accuracy")
        for record in _compare(_Case(settings, network, references, output))
    ]


def _compare(case: _Case) -> list[Record]:
    """A record for each library."""
    steps = case.settings.pick(*_STEPS)
    nodes, within = _smallest(case, quadrature.gauss_legendre, steps)
    chosen = {
        "igjax": _igjax(case),
        "captum": _captum(case, nodes, within),
        ASKED: _asked(case),
        RESTARTED: _restarted(case),
    }
    chosen["by hand"] = _by_hand(case, nodes, within)
    if case.settings.network in ("mlp", "minilm"):
        chosen["unifiedig"] = _unifiedig(case, nodes, within)
    if case.settings.network in ("mlp", "cnn"):
        chosen["saliency"] = _saliency(case, *_smallest(case, both_ends, steps))

    answers: dict[tuple[str, int], Any] = {}

    def answer(name: str, index: int) -> Any:
        answers[name, index] = jax.block_until_ready(chosen[name].call(index))

    times: dict[str, list[float]] = {name: [] for name in chosen}
    for index in case.timed:
        calls = {name: functools.partial(answer, name, index) for name in chosen}
        rounds, at_least = case.settings.pick((3, 1.0), (1, 0.0))
        in_turn = interleaved(calls, rounds, at_least, warm_up=index == 0)
        for name, median in medians(in_turn).items():
            times[name].append(median)

    total = {name: sum(times[name]) * chosen[name].scale for name in chosen}
    gauss = by_rule(case.settings.network, case.network, quadrature.gauss_legendre)
    records = []
    for name, choice in chosen.items():
        errors = [l1_error(answers[name, i], case.references[i][case.output]) for i in case.timed]
        record = {
            "output": case.output,
            "library": name,
            "method": choice.method,
            "nodes": choice.nodes,
            "within": choice.within,
            "seconds": total[name],
            "ratio": total[name] / total["igjax"],
            "compile_seconds": choice.compile_seconds,
            "timed": len(case.timed),
            "timed_error": max(errors),
        }
        if name in ("captum", "by hand", "unifiedig"):
            record["off_by"] = max(
                l1_error(answers[name, i], gauss(i, nodes)[case.output]) for i in case.timed
            )
        records.append(record)
    return records


ASKED, RESTARTED = "igjax, asked", "captum, restarted"  # who is not told the reference


class _Candidate(NamedTuple):
    """What igjax might be asked for.

    Attributes:
      name: for people to read.
      rule: what is passed on.
      batch_sizes: with it, one of these.
      within: the share of the inputs within the error.
      num_evals: gradients, of each input.
    """

    name: str
    rule: quadrature.Rule | quadrature.Tolerance
    batch_sizes: Sequence[int]
    within: float
    num_evals: Sequence[int]


def _igjax(case: _Case) -> _Chosen:
    """The fastest of what does it; if nothing does, the finest fixed rule."""
    fixed = _fixed(case)
    found = [fixed, _first(case, [(rtol, MAX_EVALS) for rtol in _RTOLS])]
    found.append(_first(case, [(_NEVER, max_evals) for max_evals in _PLACED]))
    candidates = [each for each in found if each and each.within >= _SHARE] or [fixed]
    chosen, calls, inputs = {}, {}, {}
    for candidate in candidates:
        for size in candidate.batch_sizes:
            key = candidate.name, size
            chosen[key] = _compiled(case, candidate, size)
            calls[key] = functools.partial(chosen[key].call, 0)
            num_evals = candidate.num_evals
            inputs[key] = sum(num_evals) / num_evals[0]  # all, in units of the first
    seconds = medians(interleaved(calls, 1, at_least=_CHOICE_SECONDS, warm_up=False))
    return chosen[min(chosen, key=lambda each: seconds[each] * inputs[each])]


def _asked(case: _Case) -> _Chosen:
    """``to_tolerance``, asked for the error itself; what does not say that it is good is not."""
    answer = adaptive(*case)
    answers = [answer(index, _ERROR) for index in range(case.inputs)]
    within = statistics.mean(each.converged and each.error <= _ERROR for each in answers)
    candidate = _tolerance(case, _ERROR, MAX_EVALS)
    return _compiled(case, candidate._replace(within=within), 16)


def _compiled(case: _Case, candidate: _Candidate, size: int) -> _Chosen:
    """A candidate, compiled for so many nodes at once."""
    name, rule, _, within, num_evals = candidate
    start = time.perf_counter()
    attribute = by_igjax(case.network.outputs[case.output], rule=rule, batch_size=size)
    args = (case.network.params, *example(case.network, 0))
    program = jax.jit(attribute).lower(*args).compile()
    return _Chosen(
        f"{name}, batch_size={size}",
        statistics.mean(num_evals),
        within,
        functools.partial(_call, program, case.network),
        sum(num_evals) / sum(num_evals[index] for index in case.timed),
        time.perf_counter() - start,
    )


def _call(program: Callable[..., Any], network: networks.Network, index: int) -> Any:
    return program(network.params, *example(network, index))


def _fixed(case: _Case) -> _Candidate:
    """The smallest of the fixed rules that does it, or the largest of all."""
    nodes, within = _smallest(case, quadrature.gregory, _FIXED)
    rule, sizes = quadrature.gregory(nodes), case.settings.pick((8, 16), (16,))
    if sizes[-1] < nodes <= _AT_ONCE:
        sizes = (*sizes, nodes)
    return _Candidate(f"gregory({nodes})", rule, sizes, within, [nodes] * case.inputs)


def _first(case: _Case, tolerances: Sequence[tuple[float, int]]) -> _Candidate | None:
    """The first of ``(rtol, max_evals)`` with which ``to_tolerance`` does it; None if none does."""
    for rtol, max_evals in tolerances:
        answer = adaptive(*case, max_evals)
        if _enough(lambda index: answer(index, rtol).error, case.inputs):  # noqa: B023
            return _tolerance(case, rtol, max_evals)
    return None


def _tolerance(case: _Case, rtol: float, max_evals: int) -> _Candidate:
    """``to_tolerance``, and how it does."""
    answer = adaptive(*case, max_evals)
    answers = [answer(index, rtol) for index in range(case.inputs)]
    return _Candidate(
        f"to_tolerance({rtol:g}, max_evals={max_evals})",
        quadrature.to_tolerance(rtol, max_evals=max_evals),
        (16,),
        _within([each.error for each in answers]),
        [each.num_evals for each in answers],
    )


def _captum(case: _Case, nodes: int, within: float) -> _Chosen:
    """Captum, with as many nodes at once as is fastest on the first input."""
    call = _by_captum(case)
    best = _fastest_size(case, call, nodes)
    return _Chosen(
        f"{nodes} nodes, internal_batch_size={best}",
        nodes,
        within,
        functools.partial(call, nodes, best),
        case.inputs / len(case.timed),
    )


def _restarted(case: _Case) -> _Chosen:
    """Captum, with more and more nodes until two answers agree."""
    gauss = by_rule(case.settings.network, case.network, quadrature.gauss_legendre)
    found = [
        restart(functools.partial(gauss, index), case.output, _ERROR, _LAST)
        for index in range(case.inputs)
    ]
    within = statistics.mean(
        agreed and l1_error(answer, case.references[index][case.output]) <= _ERROR
        for index, (_, agreed, answer) in enumerate(found)
    )
    total = [evals for evals, _, _ in found]
    call = _by_captum(case)
    best = _fastest_size(case, call, _AT_ONCE)

    def restarted(index: int) -> Any:
        nodes = 16
        while 2 * nodes - 16 <= total[index]:  # 16 and 32 and … and so many
            size = best if best or nodes <= _ALL_AT_ONCE else 32
            answer = call(nodes, size, index)
            nodes *= 2
        return answer

    return _Chosen(
        f"until two agree, internal_batch_size={best}",
        statistics.mean(total),
        within,
        restarted,
        sum(total) / sum(total[index] for index in case.timed),
    )


def _by_captum(case: _Case) -> Callable[[int, int | None, int], Any]:
    """Captum: of the number of nodes, how many at once, and the index of the input."""
    output = case.network.torch_outputs()[case.output]

    def call(nodes: int, internal_batch_size: int | None, index: int) -> Any:
        x, baseline, *extras = example(case.network, index)
        return rivals.captum(output, x, baseline, tuple(extras), nodes, internal_batch_size)

    return call


def _fastest_size(
    case: _Case, call: Callable[[int, int | None, int], Any], nodes: int
) -> int | None:
    """How many of these nodes at once are fastest on the first input; None: all."""
    sizes = [*case.settings.pick((8, 16, 32), (16,)), *([None] if nodes <= _ALL_AT_ONCE else [])]
    call(nodes, 8, 0)  # warms up
    calls = {size: functools.partial(call, nodes, size, 0) for size in sizes}
    seconds = medians(interleaved(calls, 1, at_least=_CHOICE_SECONDS, warm_up=False))
    return min(sizes, key=lambda size: seconds[size])


def _by_hand(case: _Case, nodes: int, within: float) -> _Chosen:
    program = by_loop(case.network.outputs[case.output], quadrature.gauss_legendre(nodes), 16)
    return _Chosen(
        f"{nodes} nodes, chunks of 16",
        nodes,
        within,
        functools.partial(_call, program, case.network),
        case.inputs / len(case.timed),
    )


def _unifiedig(case: _Case, nodes: int, within: float) -> _Chosen:
    output = functools.partial(case.network.outputs[case.output], case.network.params)

    def call(index: int) -> Any:
        x, baseline, *extras = example(case.network, index)
        return rivals.unifiedig_jax(output, x, baseline, tuple(extras), nodes, None)

    scale = case.inputs / len(case.timed)
    return _Chosen(f"{nodes} nodes, one by one", nodes, within, call, scale)


def _saliency(case: _Case, nodes: int, within: float) -> _Chosen:
    output = functools.partial(case.network.outputs[case.output], case.network.params)

    def call(index: int) -> Any:
        x, baseline, *extras = example(case.network, index)
        return rivals.saliency(output, x, baseline, tuple(extras), nodes, 16)

    scale = case.inputs / len(case.timed)
    return _Chosen(f"{nodes} nodes, batch_size=16", nodes, within, call, scale)


def both_ends(n: int) -> quadrature.Rule:
    """The rule of ``saliency``: n equal weights, both ends counting in full."""
    return quadrature.Rule(np.linspace(0.0, 1.0, n), np.full(n, 1.0 / n))


def _smallest(
    case: _Case,
    rule: Callable[[int], quadrature.Rule],
    numbers: Sequence[int],
) -> tuple[int, float]:
    """The smallest number of nodes that does it, or the largest, and the share it gets there."""
    attributions = by_rule(case.settings.network, case.network, rule)

    def error(index: int, nodes: int) -> float:
        answer = attributions(index, nodes)[case.output]
        return l1_error(answer, case.references[index][case.output])

    for nodes in numbers:
        if _enough(functools.partial(error, nodes=nodes), case.inputs):
            break
    return nodes, _within([error(index, nodes) for index in range(case.inputs)])


def _enough(error: Callable[[int], float], count: int) -> bool:
    """Whether enough of the inputs are within the error, looking at no more than need be."""
    allowed = int(count * (1.0 - _SHARE) + 1e-9)
    failed = 0
    for index in range(count):
        failed += not error(index) <= _ERROR
        if failed > allowed:
            return False
    return True


def _within(errors: Sequence[float]) -> float:
    return statistics.mean(float(error <= _ERROR) for error in errors)


def claims(records: list[Record]) -> list[Claim]:
    """That a known accuracy takes a good deal less time than by the library that is used most."""
    cases: dict[str, dict[tuple[str, str], Record]] = {name: {} for name in networks.REAL}
    for record in records:
        if record["network"] in cases and record["library"] in (ASKED, RESTARTED):
            cases[record["network"]][record["output"], record["library"]] = record
    means = {name: _speedup(found) for name, found in cases.items() if found}
    if not means:
        return []
    known = [mean for mean in means.values() if mean is not None]
    overall = geometric_mean(known) if len(known) == len(means) else None
    text = "time to a known accuracy, Captum restarted / igjax asked"
    return [
        *(Claim(f"{text}, {name}", mean, 2.0, at_least=True) for name, mean in means.items()),
        Claim(f"{text}, geometric mean of the networks", overall, 3.0, at_least=True),
    ]


def _speedup(records: Mapping[tuple[str, str], Record]) -> float | None:
    """How many times as long Captum takes on a network; None if igjax does not get there."""
    outputs = [output for output, library in records if library == ASKED]
    if any(records[output, ASKED]["within"] < _SHARE for output in outputs):
        return None
    return geometric_mean(
        records[output, RESTARTED]["seconds"] / records[output, ASKED]["seconds"]
        for output in outputs
    )


def tables(records: list[Record]) -> list[Table]:
    """A row for each network, output and library."""
    header = (
        "network",
        "output",
        "library",
        "settings",
        "gradients",
        "within 3 %",
        "seconds, all inputs",
        "/ igjax",
        "compile, s",
        "off by",
    )
    rows = [
        (
            record["network"],
            record["output"],
            record["library"],
            record["method"],
            f"{record['nodes']:.0f}",
            f"{record['within']:.0%}",
            f"{record['seconds']:.3g}",
            f"{record['ratio']:.2f}",
            _or_dash(record["compile_seconds"], ".1f"),
            _or_dash(record.get("off_by"), ".0e"),
        )
        for record in records
    ]
    return [Table(header, rows)]


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
