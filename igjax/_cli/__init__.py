"""The command line: ``igjax attribute``, ``igjax inspect``, ``igjax verify``, ``igjax doctor``."""

import io
import sys

from igjax._cli._exits import BAD_INPUT
from igjax._cli._text import say
from igjax._extras import needs


def main() -> None:
    """Runs the command that the arguments of the process name, and exits with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that the locale lacks
    try:
        needs("typer", "dataset")
    except ImportError as error:
        _without_typer(error)
    from igjax._cli._app import app

    app(prog_name="igjax")


def _without_typer(error: ImportError) -> None:
    """Runs ``igjax doctor``, which tells what is missing; else says that, and exits."""
    match sys.argv[1:]:
        case ["doctor", *options]:
            from igjax._cli import _doctor

            _doctor.main(debug="--debug" in options)
    say(f"Error: {error}. igjax doctor works without it.", sys.stderr)
    sys.exit(BAD_INPUT)
