"""Makes ``docs/leaderboard.md`` anew: ``make board``. The one place where its command stands.

The board's head says the command, the date, the versions and how long it took, so that a reader knows of which code
the numbers are. Nothing is written unless every cell has succeeded. A run that was ended goes on from the folder of its
results; then the head says how many cells were there already, since the time is not that of the whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from medgraft import __version__
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.spec import NUMBERS_VERSION

SWEEP = ("run", "--adapters", "ace_lora,brain_adapter")
"""What is run, behind ``medgraft``."""
BOARD = Path("docs/leaderboard.md")
RESULTS = Path("build/phantom-board")
"""Below it, each command has a folder of results of its own, so that no board holds another command's rows."""
MADE_BY = re.compile(r"\A# Leaderboard\n\nMade by [^\n]*\n")
"""The head of a board, whose line on the command is replaced."""


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(42.3), duration(333), duration(7260)
        ('42 s', '5 min 33 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def machine() -> str:
    """Processor and cores: ``AMD EPYC 7763, 2 cores``; the architecture where the processor has no name."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", facts.read_text()) if facts.is_file() else None
    return f"{found[1].strip() if found else platform.machine()}, {os.cpu_count()} cores"


def headed(board: str, command: Sequence[str], day: str, seconds: float, before: int, cells: int) -> str:
    """A board with a head that says how it was made.

    Args:
        board: Markdown of ``medgraft leaderboard``.
        command: What made the results, behind ``medgraft``.
        day: The date.
        seconds: Wall time of the command.
        before: Cells that were finished when it began.
        cells: All of its cells.

    Raises:
        ValueError: The text does not begin as a board does.
    """
    took = f"in {duration(seconds)}" if not before else f"with {before} of {cells} cells from an earlier run"
    line = (
        f"Made by `make board` (`{shlex.join(['medgraft', *command])}`) on {day} with medgraft {__version__}, numbers "
        f"version {NUMBERS_VERSION}, {took} on {machine()}, cohorts included."
    )
    text, found = MADE_BY.subn(lambda _: f"# Leaderboard\n\n{line}\n", board)
    if not found:
        raise ValueError("the board does not begin with '# Leaderboard' and the command that made it")
    return text


def make(out: Path, folder: Path, extra: Sequence[str]) -> int:
    """Sweeps, and writes the board; returns the exit code of what failed, 0 where nothing did.

    Args:
        out: The Markdown file, replaced as a whole.
        folder: Where the folder of results lies.
        extra: Further options of ``medgraft run``.
    """
    command = [*SWEEP, *extra]
    results = folder / hashlib.sha256(shlex.join(command).encode()).hexdigest()[:12]
    before = _finished(results)
    begun = time.monotonic()
    if code := _medgraft(*command, "--results", str(results)):
        sys.stderr.write(f"make board: the sweep ended with {code}; {out} stays as it was, the same command goes on\n")
        return code
    seconds, day = time.monotonic() - begun, datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as written:
        if code := _medgraft("leaderboard", str(results), "--out", written):
            return code
        board = (Path(written) / "leaderboard.md").read_text(encoding="utf-8")
    text = headed(board, command, day, seconds, before, _finished(results))
    part = out.with_name(f".{out.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)
    sys.stdout.write(f"written: {out}\n")
    return 0


def _finished(results: Path) -> int:
    if not results.is_dir():
        return 0
    return sum(cell.status == "success" for _, cell in read_results([results]))


def _medgraft(*words: str) -> int:
    """Exit code of a command of medgraft, in a process of its own as a user's is."""
    return subprocess.run([sys.executable, "-m", "medgraft.benchmarks.commands.main", *words], check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    """Entry point; options that are not its own are the sweep's: ``--limit 20 --epochs 1``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.phantom_board", description=__doc__)
    parser.add_argument("--out", type=Path, default=BOARD, help="the board's file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    options, extra = parser.parse_known_args(arguments)
    return make(options.out, options.results, extra)


if __name__ == "__main__":
    sys.exit(main())
