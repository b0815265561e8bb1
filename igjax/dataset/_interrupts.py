"""Ctrl-C and SIGTERM, noted instead of obeyed at once: so that what is done can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], signal.Signals | None]]:
    """Gives a function that tells which of ``SIGNALS`` has come, if one has.

    A second one does what it always does. Outside of the main thread nothing is noted: there Python
    has no signals.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def note(number: int, _: FrameType | None) -> None:
        came.append(signal.Signals(number))
        obey()

    def obey() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: came[0] if came else None
    finally:
        obey()
