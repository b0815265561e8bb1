"""What ``igjax inspect`` tells, as tables for people."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from igjax._cli._facts import QUANTILES
from igjax._cli._text import printable


def tables(facts: dict[str, Any]) -> Iterator[Table | Text]:
    """Yields tables of what ``facts`` holds."""
    yield _pairs(facts["out"], {**facts["settings"], **facts["fingerprints"]})
    yield _pairs("versions", {**facts["versions"], "device": facts["device"]})
    yield _pairs("examples", _progress(facts))
    if facts["distributions"]:
        yield _distributions(facts["distributions"])
    if facts["failures"]:
        yield _failures(facts["failures"], facts["progress"]["failed"])


def _pairs(title: str, values: dict[str, Any]) -> Table:
    table = Table("", "", title=_text(title), title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(_text(name), _text(value))
    return table


def _progress(facts: dict[str, Any]) -> dict[str, Any]:
    progress = dict(facts["progress"])
    progress["all"] = progress.pop("examples")
    if facts["converged"] is not None:
        progress["converged"] = f"{100 * facts['converged']:.1f} % of those done"
    # Who has not converged, and why: no row where there is none.
    for name, count in (facts["reasons"] or {}).items():
        if count:
            progress[f"ended by {name.replace('_', ' ')}"] = count
    return progress


def _distributions(distributions: dict[str, Any]) -> Table:
    """Makes a column for each, so that numbers have room."""
    table = Table("of those done", title="distributions", title_justify="left")
    for field in distributions:
        table.add_column(_text(field.replace("_", " ")), justify="right")
    for name in QUANTILES:
        values = [column[name] for column in distributions.values()]
        table.add_row(name, *("-" if value is None else _said(value) for value in values))
    table.add_row("not finite", *(str(c["not_finite"]) for c in distributions.values()))
    return table


def _failures(failures: list[dict[str, Any]], number: int) -> Table:
    title = "failures" if number == len(failures) else f"failures, {len(failures)} of {number}"
    table = Table("example", "reason", title=title, title_justify="left")
    for failure in failures:
        table.add_row(str(failure["example"]), _text(failure["reason"]))
    return table


def _text(value: Any) -> Text:
    return Text(printable(_said(value)))


def _said(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    return str(value)
