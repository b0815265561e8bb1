"""The command line: ``igjax attribute``, ``igjax inspect``, ``igjax doctor``."""

import sys

from igjax._cli._exits import BAD_INPUT
from igjax._extras import needs


def main() -> None:
    """Runs the command that the arguments of the process name, and exits with its code."""
    try:
        needs("typer", "dataset")
    except ImportError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    from igjax._cli._app import app

    app(prog_name="igjax")
