"""What a person sees on the terminal: a first line at once, errors as one sentence, exit codes, logging."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from medgraft.commands.plain_text import PlainFormatter, plain
from medgraft.errors import MedgraftError
from medgraft.plugins import check_disabled

BAD_INPUT, INTERRUPTED = 2, 130
FOR_AUTHORS = "torch.utils._pytree"
"""Warns, whenever transformers or peft imports an installed torchao, of what only its authors can change."""


@contextmanager
def guarded(*, debug: bool = False, verbose: bool = False, resumes: bool = True) -> Generator[None]:
    """Runs a command: known errors become one sentence and exit code 2, Ctrl-C one line and exit code 130.

    Args:
        debug: Let tracebacks through.
        verbose: Log at INFO, which may name files of the cohort.
        resumes: The command goes on where it was interrupted.
    """
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if not (debug or verbose):
        logging.getLogger(FOR_AUTHORS).setLevel(logging.ERROR)
    try:
        check_disabled()
        yield
    except MedgraftError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        stored = "; what was finished is stored, and the same command goes on from there" if resumes else ""
        say(f"interrupted{stored}")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        say(f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback")
        sys.exit(1)


def say(text: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:
        sys.stderr.write(f"{plain(text, keep=chr(10))}\n")
        sys.stderr.flush()


def tell_if_deaf() -> None:
    """Says how to end this process where it was started deaf to Ctrl-C, as a script's ``nohup ... &`` does."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        say(f"Ctrl-C (SIGINT) is ignored, as whoever started this asked for; `kill {os.getpid()}` ends it")


class Tolerant:
    """A text stream that goes on in silence once what it writes to is closed or full.

    Attributes:
        failure: The first error of writing; ``None`` while all is well.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Writes, or drops the text."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self.failure is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed in this process
            self.failure = error
            with suppress(OSError, ValueError):  # what is still in the buffer must not fail again when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def entered(name: str, command: Callable[[], object]) -> None:
    """Runs the whole of a command line from its first line to its exit code.

    A standard stream that is closed, or closes or fills up on the way, costs what would have been shown and nothing
    else: results and the leaderboard are written all the same. Where the reader of a pipe has gone the exit code is
    that of the work; where the output could not be written for another reason it is 1 at least, and standard error
    says so.

    Args:
        name: Of the command, as typed: ``medgraft run``.
        command: What to run; may raise ``SystemExit``.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # or a file that is opened later would be written to by every print
    sys.stdout = out = Tolerant(sys.stdout if sys.stdout is not None else open(os.devnull, "w"))  # noqa: SIM115
    sys.stderr = Tolerant(sys.stderr if sys.stderr is not None else open(os.devnull, "w"))  # noqa: SIM115
    code: Any = 0
    try:
        _announce(name)
        command()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    out.flush()
    if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
        say(f"standard output could not be written ({out.failure}); what was to be shown is lost, files are not")
        code = code or 1
    sys.exit(code)


def _announce(name: str) -> None:
    """A first line before anything heavy is imported: on standard output, since standard error is for what is wrong."""
    words, command = sys.argv[1:], name.rpartition(" ")[2]
    quick = command == "new" or (command == "ls" and "--broken" not in words)
    if not words or quick or any(word in ("--help", "--version") for word in words):
        return
    program = command == "ls" or "--json" in words  # a list, and JSON, are often read by a program
    stream = sys.stderr if program else sys.stdout
    stream.write(f"{name}: loading\n")
    stream.flush()
