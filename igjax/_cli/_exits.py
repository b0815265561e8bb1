"""Exit codes: what scripts learn from a command, and people from a line."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

from igjax._cli._text import say

OK = 0
SOME_FAILED = 1
BAD_INPUT = 2
NOT_WRITTEN = 3
INTERRUPTED = 130  # what shells make of SIGINT

_LONGEST = 500  # characters of a message
# Of these the message says enough; of others the name is needed to understand it.
_SPEAKING = (TypeError, ValueError, ImportError, OSError)


@contextlib.contextmanager
def exits(*, debug: bool, writes: bool = False) -> Iterator[None]:
    """Turns what is raised into a line on stderr and an exit code.

    Args:
      debug: whether to show the traceback too.
      writes: whether results are being written, with which the same command goes on.

    Raises:
      SystemExit: instead of all else.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        hint = ": the same command goes on" if writes else ""
        say(f"Interrupted{hint}. {error}".rstrip(), sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BaseException as error:
        if debug:
            say(traceback.format_exc(), sys.stderr)
        say(f"Error: {one_line(error)}", sys.stderr)
        raise SystemExit(_code(error, writes=writes)) from None


def one_line(error: BaseException) -> str:
    """Returns the first line of what an error says."""
    if isinstance(error, SystemExit):
        return f"what was loaded or called ended by sys.exit({error.code!r}): not all is done."
    first, *rest = str(error).strip().splitlines() or [""]
    name = "" if first and isinstance(error, _SPEAKING) else type(error).__name__
    said, cut = first[:_LONGEST], len(first) > _LONGEST
    more = " (--debug shows more)" if rest or cut else ""
    return ": ".join(part for part in (name, said) if part) + (" …" if cut else "") + more


def _code(error: BaseException, *, writes: bool) -> int:
    # FileExistsError is no trouble with a disk: it says that something else was asked for.
    trouble = isinstance(error, OSError) and not isinstance(error, FileExistsError)
    return NOT_WRITTEN if writes and trouble else BAD_INPUT
