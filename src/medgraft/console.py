"""What a person sees on the terminal: errors as one sentence, exit codes, logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from medgraft.errors import MedgraftError
from medgraft.plain_text import PlainFormatter, plain

BAD_INPUT, INTERRUPTED = 2, 130


@contextmanager
def guarded(*, debug: bool = False, verbose: bool = False) -> Iterator[None]:
    """Runs a command: known errors become one sentence and exit code 2, Ctrl-C one line and exit code 130.

    Args:
        debug: Let tracebacks through.
        verbose: Log at INFO, which may name files of the cohort.
    """
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    try:
        yield
    except MedgraftError as error:
        if debug:
            raise
        _say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        _say("interrupted; what was finished is stored, and the same command goes on from there")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _say(f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback")
        sys.exit(1)


def _say(text: str) -> None:
    sys.stderr.write(f"{plain(text, keep=chr(10))}\n")
