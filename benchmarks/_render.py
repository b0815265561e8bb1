"""Results for people to read: Markdown, tables on the screen, and a picture."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table as ScreenTable

from benchmarks import _results
from benchmarks.measures import MEASURES, accuracy
from benchmarks.measures._measure import Claim, Table

# Why a claim is missed, by its text, as far as that is known.
REASONS: Mapping[str, str] = {
    "to_tolerance is honest, the worst family": (
        "trained tanh networks leave an unstable state at 1e-14 of the path; where the parts "
        "cancel in F, nothing shows it to observers at 2^-16. The others: 98.6 % or more"
    ),
    "to_tolerance converges, the worst family": (
        "waves that 512 nodes do not resolve (aliasing, positional encodings), and bfloat16, whose "
        "rounding is above 1 %"
    ),
    "a fixed rule reports no less than the truth, the worst family": (
        "trained tanh networks, as above; all others are covered in every case"
    ),
    "dataset, time / ideal, digits": (
        "1.05 to 1.17 in eight calls, on a machine that is not steady; F(x) and F(x') take 5 %, "
        "finishing and moving examples 3 %"
    ),
    "dataset, time / ideal, drugs": (
        "16 points of one molecule take XLA 8 % longer than 16 molecules (0.71 and 0.66 ms a "
        "gradient), sums 2 % more, and F of a single molecule, twice, 7 % of the first step"
    ),
    "dataset, Captum / igjax, digits": (
        "25 gradients, Captum's fewest, are enough, where igjax takes 18.7; and XLA's take as long "
        "as torch's"
    ),
    "dataset, Captum / igjax, drugs": (
        "100 gradients are enough for Captum, where igjax takes 92; and XLA's take longer than "
        "torch's (see One gradient)"
    ),
}

_HEAD = """\
# Benchmark

Written by `python -m benchmarks` from `results.json`; not to be edited. To run it again:

    pip install ".[bench]" && python -m benchmarks

`--quick` only looks whether it works. `--only` and `--networks` measure a part again and keep the
rest. The references are computed once and kept; that takes hours (`benchmarks/reference.py`).
"""


def claims(results: _results.Results) -> list[Claim]:
    """What is claimed of the measures that there are results of."""
    return [claim for name, found in _measured(results) for claim in MEASURES[name].claims(found)]


def markdown(results: _results.Results) -> str:
    """RESULTS.md."""
    places = _places(results)
    parts = [_HEAD, *_claims_section(results)]
    if _panels(results):
        parts.append("![Time to accuracy, overhead and tolerance](results.png)\n")
    for name, measure in MEASURES.items():
        if name not in results:
            continue
        parts.append(f"## {measure.TITLE}\n\n{(measure.__doc__ or '').strip()}\n")
        found = _results.records(results[name])
        if found:
            parts += map(_markdown_table, measure.tables(found))
        for run in results[name]:
            parts += [
                f"**Error** on {network}: `{_one_line(message)}`\n"
                for network, message in run["errors"].items()
            ]
        parts += [_when(run, places) for run in results[name]]
    return "\n".join([*parts, *_places_section(places)])


def screen_tables(results: _results.Results) -> Iterator[ScreenTable]:
    """The claims, and before them the tables of the measures."""
    for name, found in _measured(results):
        for table in MEASURES[name].tables(found):
            yield _screen_table(MEASURES[name].TITLE, table)
    found_claims = claims(results)
    if found_claims:
        yield _screen_table("Claims", _claims_table(found_claims))


def _measured(results: _results.Results) -> Iterator[tuple[str, list[_results.Record]]]:
    """The measures that have records, and these."""
    for name in MEASURES:
        found = _results.records(results.get(name, []))
        if found:
            yield name, found


def _claims_section(results: _results.Results) -> list[str]:
    found = claims(results)
    if not found:
        return []
    met = sum(claim.met for claim in found)
    title = f"## Claims: {met} of {len(found)} met\n"
    return [title, _markdown_table(_claims_table(found))]


def _claims_table(found: list[Claim]) -> Table:
    def row(claim: Claim) -> tuple[str, ...]:
        return (
            claim.text,
            f"{'≥' if claim.at_least else '≤'} {claim.limit:g}",
            "–" if claim.measured is None else _figure(claim.measured),
            "met" if claim.met else "MISSED",
            "" if claim.met else REASONS.get(claim.text, "not explained yet"),
        )

    return Table(("claim", "limit", "measured", "", "reason"), [row(claim) for claim in found])


def _figure(number: float) -> str:
    return f"{number:.3f}" if number >= 0.001 or number == 0.0 else f"{number:.0e}"


def _markdown_table(table: Table) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|---" + "|--:" * (len(table.header) - 1) + "|"
    return "\n".join([line(table.header), rule, *map(line, table.rows)]) + "\n"


def _screen_table(title: str, table: Table) -> ScreenTable:
    screen = ScreenTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(table.header):
        screen.add_column(name, justify="right" if number else "left")
    for row in table.rows:
        screen.add_row(*row)
    return screen


def _one_line(message: str) -> str:
    line = " ".join(message.replace("`", "'").split())
    return line if len(line) <= 300 else f"{line[:300]} …"


def _places(results: _results.Results) -> list[dict[str, Any]]:
    """The machines, with versions, that the runs were made on."""
    found = [_place(run) for name in MEASURES for run in results.get(name, [])]
    return [place for number, place in enumerate(found) if place not in found[:number]]


def _place(run: _results.Run) -> dict[str, Any]:
    return {"machine": run["machine"], "versions": run["versions"]}


def _when(run: _results.Run, places: list[dict[str, Any]]) -> str:
    networks = list(dict.fromkeys(record["network"] for record in run["records"]))
    where = f", on {_letter(places.index(_place(run)))}" if len(places) > 1 else ""
    quick = ", a quick run" if run["quick"] else ""
    return (
        f"*{run['date']}{where}{quick}, {run['seconds'] / 60:.1f} min"
        f"{': ' + ', '.join(networks) if networks != ['none'] else ''}.*\n"
    )


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _places_section(places: list[dict[str, Any]]) -> list[str]:
    parts = ["## Where\n"]
    for number, place in enumerate(places):
        machine = place["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
        name = f"{_letter(number)}: " if len(places) > 1 else ""
        parts.append(
            f"{name}{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, "
            f"{machine['platform']}; {versions}.\n"
        )
    return parts


def _panels(results: _results.Results) -> dict[str, list[_results.Record]]:
    """What the picture shows, as far as it is there."""
    measured = dict(_measured(results))
    return {
        name: measured[name] for name in ("accuracy", "tolerance", "overhead") if name in measured
    }


def draw(results: _results.Results) -> Figure | None:
    """A picture of time to accuracy, tolerance and overhead; None if none of these is there."""
    panels = _panels(results)
    if not panels:
        return None
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    painters = {
        "accuracy": _draw_accuracy,
        "tolerance": _draw_tolerance,
        "overhead": _draw_overhead,
    }
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        painters[name](axes, panels[name])
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_accuracy(axes: Axes, records: list[_results.Record]) -> None:
    cases = list(dict.fromkeys((r["network"], r["output"]) for r in records))
    # Dots, for bars on a logarithmic axis begin nowhere in particular.
    markers = {
        "igjax": "o",
        accuracy.ASKED: "D",
        "captum": "s",
        accuracy.RESTARTED: "X",
        "by hand": "|",
    }
    for library, marker in markers.items():
        own = [record for record in records if record["library"] == library]
        places = [cases.index((record["network"], record["output"])) for record in own]
        axes.plot(
            [record["seconds"] for record in own], places, marker, markersize=7, label=library
        )
    axes.set_yticks(range(len(cases)), [" ".join(case) for case in cases], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", linewidth=0.4)
    axes.set_xscale("log")
    axes.set_xlabel("seconds until 95 % of the inputs are within 3 %")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Time to accuracy")


def _draw_tolerance(axes: Axes, records: list[_results.Record]) -> None:
    for number, network in enumerate(dict.fromkeys(r["network"] for r in records)):
        own = [r for r in records if r["network"] == network and r["converged"]]
        # A little to the side of one another, so that all are seen.
        rtols = [r["rtol"] * 1.12 ** (number - 1.5) for r in own]
        axes.scatter(rtols, [max(r["error"], 1e-7) for r in own], s=6, alpha=0.6, label=network)
    asked = sorted({record["rtol"] for record in records})
    ends = [asked[0] / 1.4, asked[-1] * 1.4]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(asked, [f"{rtol:g}" for rtol in asked])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("asked for (rtol)")
    axes.set_ylabel("true relative L1 error, where converged")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title("Honest tolerance")


def _draw_overhead(axes: Axes, records: list[_results.Record]) -> None:
    names = [record["network"] for record in records]
    bars = axes.barh(names, [record["ratio"] for record in records])
    axes.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("time, igjax / by hand")
    axes.set_title("Overhead")
