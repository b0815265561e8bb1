"""The command line: ``igjax attribute``, ``igjax inspect``, ``igjax verify``, ``igjax doctor``."""

import io
import signal
import sys

from igjax._cli._exits import BAD_INPUT, INTERRUPTED
from igjax._cli._text import say
from igjax._extras import needs


def main() -> None:
    """Runs the command that the arguments of the process name, and ends the process with it.

    After Ctrl-C it ends by that signal, of which shells make the exit code, and at once: Python
    would take down one thread after the other, and crash if XLA is at work in one.
    """
    try:
        command()
    except KeyboardInterrupt:
        say("Interrupted.", sys.stderr)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
    sys.exit(INTERRUPTED)  # the first process of a container outlives it


def command() -> None:
    """Runs that command, and exits with its code."""
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
