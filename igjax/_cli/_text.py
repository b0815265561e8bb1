"""Text on its way to a terminal, a pipe or a log: what would steer a terminal is shown instead.

Reasons, messages and names come from data, models and folders, which others may have made.
"""

import sys
from typing import TextIO


def printable(text: str) -> str:
    """Returns ``text`` in one line, with what can't be seen in it escaped as Python does it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints lines, each as ``printable`` makes it; by default on stdout."""
    print("\n".join(map(printable, text.split("\n"))), file=file or sys.stdout)
