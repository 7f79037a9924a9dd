"""Ways to run the harness: in this process, and as a person would."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result


@dataclass
class Toy:
    """The toy distribution, installed, and the commands on it.

    Attributes:
        site: Where it is installed.
        cohort: Its cohort.
        environment: Further variables for :meth:`start`.
        deaf: Started with Ctrl-C ignored, as a shell starts what it puts into the background of a script.
    """

    site: Path
    cohort: Path
    environment: dict[str, str] = field(default_factory=dict)
    deaf: bool = False

    def options(self, *more: str) -> list[str]:
        """``run`` on the toy task and encoder, one thread, no reference rows."""
        own = ["--tasks", "toy", "--encoders", "toy:tiny", "--data", f"toy={self.cohort}", "--epochs", "2"]
        return [*own, "--no-baselines", *more]

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """The command in a process of its own (and a session, so that a test can signal all of it)."""
        path = os.pathsep.join([str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "200"} | self.environment
        return subprocess.Popen(
            [sys.executable, "-m", "medgraft.benchmarks.run", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            # A script's `nohup make test &` ignores Ctrl-C, and children inherit that; here it has to arrive.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if self.deaf else signal.SIG_DFL),
        )

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.start(*arguments, cwd=cwd)
        out, error = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def command(*arguments: str) -> Result:
    """``medgraft ...`` in this process."""
    from medgraft.benchmarks.commands.main import app

    return CliRunner().invoke(app, list(arguments))


def typed(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``medgraft ...`` in a folder, on a wide terminal, in this process: imports and the fork server are paid once."""
    with contextlib.chdir(cwd), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        done = command(*map(str, arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # a process of its own would have ended with a traceback
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
