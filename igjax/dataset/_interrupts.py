"""Ctrl-C and SIGTERM, noted while a run lasts, so that none is lost and what is done is saved."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_logger = logging.getLogger("igjax")


class Interrupted(BaseException):
    """A signal has come, and what goes on has to end. The message is for people."""


class Signals:
    """What has come of ``SIGNALS``.

    Attributes:
      came: the first, or None.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self._held = False
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raises Interrupted if one has come.

        A Python function that is called by something else, as JAX's are at a garbage collection,
        can't be left by an exception. What has been raised there is raised here.
        """
        if self.came is not None:
            raise Interrupted

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lets a signal be noted only: it is for ``check`` to raise. A second one is obeyed."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def note(self) -> None:
        """Begins to note those that are not ignored."""
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._before = {n: h for n, h in handlers.items() if h not in (None, signal.SIG_IGN)}
        for number in self._before:
            signal.signal(number, self._noted)

    def obey(self) -> None:
        """Lets signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self, message: str) -> None:
        """Does what the signal that has come asks for, and says why."""
        if self.came == signal.SIGTERM:
            _logger.warning("SIGTERM: %s", message)
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt(message)

    def _noted(self, number: int, _: FrameType | None) -> None:
        self.came = signal.Signals(number)
        self.obey()
        if not self._held:
            signal.raise_signal(number)


@contextlib.contextmanager
def noted() -> Iterator[Signals]:
    """Notes signals, and obeys them at the latest at the end.

    Outside of the main thread nothing is noted: there Python has no signals.

    Raises:
      KeyboardInterrupt: if one has come, and has not ended the process.
    """
    signals = Signals()
    if threading.current_thread() is threading.main_thread():
        signals.note()
    try:
        yield signals
        signals.check()
    except Interrupted as interrupted:
        signals.obey()
        signals.leave(str(interrupted))
    finally:
        signals.obey()
