"""The commands and their options. What they do is imported when one is called: help is fast."""

import enum
import json
import logging
import os
from typing import Annotated, Any

import typer

from igjax._cli._exits import OK, SOME_FAILED, exits
from igjax._cli._text import say

# \b keeps the lines of the paragraph that it begins.
_IGJAX = """Integrated Gradients of whole datasets.

\b
Exit codes:
  0    all is done
  1    attribute: some examples failed, and are recorded as such
       verify: some examples give something else now
       doctor: a check failed
  2    wrong usage, or an input that is not right:
       the function, the data, the options or the store
  3    results could not be written; the same command goes on
  130  after Ctrl-C; the same command goes on
  143  after SIGTERM; likewise
"""
_ATTRIBUTE = """Attribute all examples of a dataset.

\b
  igjax attribute my_module:score --data xs.npy --out attr.zarr
  igjax attribute my_module:attribution --data xs.npy --out attr.zarr

A function of one example to a scalar is attributed by integrated
gradients, to a tolerance. What igjax's transforms return, such as
igjax.layer_conductance(score, "block3", has_report=True), is called as it is.
A run that has ended early is gone on with by the same command. Modules are looked for in the
current folder too, behind those that are installed.

\b
DATA holds the examples along the first axis of arrays:
  xs.npy     the argument of the function
  data.npz   its arguments, in the order in which they are stored
  data.zarr  a Zarr array: the argument; a group: the arguments, its
             arrays in the order of their names
Several, each with --data, are arguments one after the other. Or it is
  module:source  whatever attribute_dataset takes, or a function
                 without arguments that makes it
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # so that errors are lines, and brackets are brackets
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Options of several commands.
_Function = Annotated[
    str,
    typer.Argument(
        help="module:name of a function of one example to a scalar, or of an attribution."
    ),
]
_Data = Annotated[
    list[str],
    typer.Option(help="The examples: a file, several, or module:source, as attribute says."),
]
_Rtol = Annotated[
    float | None, typer.Option(help="Relative error of the attributions. [default: 0.01]")
]
_Atol = Annotated[
    float | None, typer.Option(help="Absolute error of the attributions. [default: 0]")
]
_MaxEvals = Annotated[
    int | None, typer.Option(help="Gradients for an example, at most. [default: 594]")
]
_Nodes = Annotated[
    int | None, typer.Option(help="A fixed rule of so many gradients, instead of a tolerance.")
]
_Baseline = Annotated[
    str | None,
    typer.Option(help="A number, a function of igjax.baselines, or module:name. [default: 0]"),
]
_Path = Annotated[
    str | None, typer.Option(help="module:name of a path. [default: a straight line]")
]
_AsIs = Annotated[
    bool,
    typer.Option("--as-is", help="The function is an attribution of your own: call it as it is."),
]
_Bucket = Annotated[
    list[int] | None, typer.Option(help="A length to pad inputs to; give it several times.")
]
_Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


class OnError(enum.StrEnum):
    """What to do with an example that can't be attributed."""

    RECORD = "record"
    RAISE = "raise"


@app.callback(help=_IGJAX)
def _igjax() -> None:
    """What all commands have in common: nothing but the help."""


@app.command(no_args_is_help=True, help=_ATTRIBUTE)
def attribute(
    function: _Function,
    data: _Data,
    out: Annotated[str, typer.Option(help="The Zarr store to write, or to go on with.")],
    rtol: _Rtol = None,
    atol: _Atol = None,
    max_evals: _MaxEvals = None,
    nodes: _Nodes = None,
    baseline: _Baseline = None,
    path: _Path = None,
    as_is: _AsIs = False,
    batch_size: Annotated[
        str, typer.Option(help="Examples at once on a device; auto tries which is fastest.")
    ] = "auto",
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Fail if there is such a store already.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    field: Annotated[
        list[str] | None,
        typer.Option(help="What to store; give it several times. [default: all]"),
    ] = None,
    bucket: _Bucket = None,
    on_error: Annotated[
        OnError, typer.Option(help="An example that can't be attributed: record it, or stop.")
    ] = OnError.RECORD,
    debug: _Debug = False,
) -> None:
    """Attributes all examples of a dataset, and tells what has become of them."""
    with exits(debug=debug):
        from igjax._cli import _attribute
        from igjax._cli._data import source
        from igjax._cli._named import load
        from igjax.dataset import attribute_dataset

        options: dict[str, Any] = {
            "batch_size": _attribute.batch_size_of(batch_size),
            "buckets": bucket or (),
        }
        if field:
            options["fields"] = field
        method = _attribute.Options(rtol, atol, max_evals, nodes, baseline, path)
        attribution = _attribute.attribution_of(load(function), function, method, as_is=as_is)
        examples = source(data)
        # Where there is no terminal for a bar, it is told in messages how far the run is.
        _attribute.show_log(logging.WARNING if quiet else logging.INFO)
    with exits(debug=debug, writes=True):
        summary = attribute_dataset(
            attribution,
            examples,
            out=out,
            resume=not no_resume,
            progress=not quiet,
            on_error=on_error.value,
            **options,
        )
    say(_attribute.told(summary))
    raise SystemExit(SOME_FAILED if summary.failed else OK)


@app.command("inspect", no_args_is_help=True)
def inspect_store(
    out: Annotated[str, typer.Argument(help="The Zarr store that attribute has written.")],
    failures: Annotated[int, typer.Option(min=0, help="Failures to list, at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: _Debug = False,
) -> None:
    """Show how far and how good a store is, and what failed.

    Completeness gaps are relative to the difference of the values at the input and the baseline.
    """
    with exits(debug=debug):
        from igjax._cli._facts import facts
        from igjax.dataset._creation import to_read

        found = facts(to_read(out), failures)
        if as_json:
            print(json.dumps(found, indent=2, allow_nan=False))  # ASCII, with escapes of its own
            return
        from rich.console import Console

        from igjax._cli._tables import tables

        console = Console(color_system=None if os.environ.get("NO_COLOR") else "auto")
        console.print(*tables(found), sep="\n")


@app.command("verify", no_args_is_help=True)
def verify_store(
    out: Annotated[str, typer.Argument(help="The Zarr store that attribute has written.")],
    function: _Function,
    data: _Data,
    rtol: _Rtol = None,
    atol: _Atol = None,
    max_evals: _MaxEvals = None,
    nodes: _Nodes = None,
    baseline: _Baseline = None,
    path: _Path = None,
    as_is: _AsIs = False,
    bucket: _Bucket = None,
    examples: Annotated[int, typer.Option(min=1, help="How many to attribute again.")] = 10,
    within: Annotated[
        float, typer.Option(min=0.0, help="The relative L1 distance that is allowed.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of the examples.")] = 0,
    debug: _Debug = False,
) -> None:
    """Attribute some examples of a store again, and compare.

    Everything but --examples, --within and --seed is as it was given to attribute.
    """
    with exits(debug=debug):
        from igjax._cli import _attribute
        from igjax._cli._data import source
        from igjax._cli._named import load
        from igjax.dataset import verify

        method = _attribute.Options(rtol, atol, max_evals, nodes, baseline, path)
        found = verify(
            _attribute.attribution_of(load(function), function, method, as_is=as_is),
            source(data),
            out=out,
            examples=examples,
            within=within,
            seed=seed,
            buckets=bucket or (),
        )
    say(_attribute.compared(found))
    raise SystemExit(OK if found.agrees else SOME_FAILED)


@app.command()
def doctor(debug: _Debug = False) -> None:
    """Show versions, devices and what extras would add, and check what works here."""
    from igjax._cli import _doctor

    _doctor.main(debug=debug)
