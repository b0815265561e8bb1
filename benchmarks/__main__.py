"""The benchmark: what igjax costs, how good its answers are, and what others need for the same.

    pip install "igjax[bench]"
    python -m benchmarks

It prints tables, and writes RESULTS.md, results.json and results.png. All is saved after each
network: --only and --networks measure a part again and keep the rest, so that what was interrupted
can be gone on with.
"""

import argparse
import contextlib
import datetime
import functools
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import _machine, _render, _results, networks
from benchmarks.measures import MEASURES
from benchmarks.measures._measure import Settings

HERE = pathlib.Path(__file__).parent
RESULTS = "results.json"
QUICK_NETWORKS = ("mlp", "cnn", "wide_mlp", "dmpnn", "minilm", "digits", "none")
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns how often a measure failed on a network."""
    options = _parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    _use_all_cores()
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = _results.read(options.out / RESULTS)
    try:
        failures = _measure(options, results, console)
    finally:  # also of what has been interrupted
        (options.out / "RESULTS.md").write_text(_render.markdown(results), encoding="utf-8")
        figure = _render.draw(results)
        if figure is not None:
            figure.savefig(options.out / "results.png", dpi=110)
    for table in _render.screen_tables(results):
        console.print(table)
    console.print(f"Written to {options.out / 'RESULTS.md'}", soft_wrap=True, highlight=False)
    return failures


def _measure(options: argparse.Namespace, results: _results.Results, console: Console) -> int:
    """Runs the measures, and saves the results of each network as they come."""
    wanted = options.networks or (QUICK_NETWORKS if options.quick else (*networks.NAMES, "none"))
    failures = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        track = functools.partial(_track, progress)
        for name in track(MEASURES if options.only is None else options.only, "benchmark"):
            measure = MEASURES[name]
            run = _results.new_run(
                {
                    "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
                    "quick": options.quick,
                    "machine": _machine.machine(),
                    "versions": _machine.versions(),
                }
            )
            for network in track([n for n in measure.NETWORKS if n in wanted], name):
                start = time.perf_counter()
                try:
                    outcome = measure.run(Settings(network, options.quick), track)
                except Exception as error:  # the other measures are to be run all the same
                    failures += 1
                    outcome = f"{type(error).__name__}: {error}"
                    console.print(f"{name}, {network}:\n{traceback.format_exc()}", markup=False)
                run["seconds"] += time.perf_counter() - start
                _results.add(results, name, run, network, outcome)
                _results.write(options.out / RESULTS, results)
    return failures


def _track(progress: Progress, items: Iterable[T], description: str) -> Iterator[T]:
    """The items, with a bar of their own for as long as there are more."""
    items = list(items)
    task = progress.add_task(description, total=len(items))
    try:
        for item in items:
            yield item
            progress.advance(task)
    finally:
        progress.remove_task(task)


def _use_all_cores() -> None:
    # Torch takes the physical cores alone; JAX takes all.
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        torch.set_num_threads(os.cpu_count() or 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="see whether it works, in minutes; few inputs"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=MEASURES,
        metavar="NAME",
        help=f"of {', '.join(MEASURES)}; with no name nothing is measured, but all written again",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=networks.NAMES,
        metavar="NAME",
        help=f"of {', '.join(networks.NAMES)}",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="where to write (benchmarks; of a quick run build/benchmarks)",
    )
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = HERE.parent / "build" / "benchmarks" if options.quick else HERE
    return options


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
