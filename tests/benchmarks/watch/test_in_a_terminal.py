"""A sweep, and somebody who watches it, in real terminals: what stands on their screens at the end."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pyte
import pytest
from sweeping import Toy
from test_following import CELLS, at_work, bad, sweep

from medgraft.benchmarks.watch.following import Folder, Status

COLUMNS, LINES = 40, 24


class Terminal:
    """A program in a terminal of 40 columns, and its screen with all that was scrolled off."""

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str] | None = None) -> None:
        self.screen = pyte.HistoryScreen(COLUMNS, LINES, history=5000, ratio=1.0)
        self.stream = pyte.ByteStream(self.screen)
        variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.child = pexpect.spawn(
            sys.executable, arguments, cwd=str(cwd), env=variables | {"TERM": "xterm-256color"} | (environment or {}),
            dimensions=(LINES, COLUMNS), timeout=120,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def read(self, seconds: float = 0.2) -> bool:
        """Takes what was written; ``False`` at the end."""
        try:
            self.stream.feed(self.child.read_nonblocking(1 << 16, seconds))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        return True

    def finish(self) -> int:
        """Waits for the end; gives the exit code."""
        while self.read(1.0):
            pass
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    def lines(self) -> list[str]:
        """Everything that stood on the screen last, scrolled lines first."""
        scrolled = ["".join(line[k].data for k in range(COLUMNS)) for line in self.screen.history.top]
        return [*scrolled, *self.screen.display]

    def text(self) -> str:
        return " ".join(" ".join(self.lines()).split())

    def broken_words(self) -> list[str]:
        """Words that go on in another line, though a line has room for them."""
        pairs = itertools.pairwise(self.lines())
        words = [a.split()[-1] + b.split()[0] for a, b in pairs if a[-1:].strip() and b[:1].strip()]
        return [word for word in words if len(word) <= COLUMNS]


@dataclass
class Session:
    """What a sweep showed and left, and what a watcher saw meanwhile."""

    terminal: Terminal
    code: int
    folder: Path
    seen: list[Status]


@pytest.fixture(scope="module")
def session(toy_site, toy_cohort, tmp_path_factory) -> Session:
    home = tmp_path_factory.mktemp("terminal")
    toy = Toy(toy_site, toy_cohort)
    path = os.pathsep.join([str(toy_site), *filter(None, [os.environ.get("PYTHONPATH")])])
    names = ["--adapters", "toy_gain,toy_trouble:raise", "--seeds", "0,1", "--jobs", "1", "--results", "r"]
    arguments = ["-m", "medgraft.benchmarks.run", *toy.options(*names)]
    terminal = Terminal(arguments, home, {"PYTHONPATH": path})
    folder, seen = Folder(home / "r"), []
    while terminal.read():
        if (home / "r").is_dir():
            seen += folder.look()
    return Session(terminal, terminal.finish(), home / "r", seen)


def test_a_finished_row_keeps_its_line_with_metric_interval_and_seeds(session):
    text = session.terminal.text()
    assert session.code == 1, "a cell failed"
    assert re.search(r"toy / toy:tiny / toy_gain: f1_macro \d\.\d{3} \[[.\d-]+\], 2 seeds", text)
    assert text.count("toy_gain: f1_macro") == 1
    assert "toy / toy:tiny / toy_trouble:raise: no seed succeeded, 2 of 2: error" in text


def test_no_word_is_broken_and_every_line_of_the_board_is_there(session):
    assert session.terminal.broken_words() == []
    text = session.terminal.text()
    assert "cells" in text and "4/4" in text and "toy (PHANTOM)" in text and "F1 macro" in text
    assert "written: r/, r/leaderboard.md, r/leaderboard.csv" in text


def test_a_watcher_saw_it_begin_work_and_finish(session):
    assert all(each.total == 4 and each.planned for each in session.seen)
    assert {"running"} <= {each.standing for each in session.seen}
    doing = {worker.doing.split(" ")[0] for each in session.seen for worker in each.working}
    assert doing, "cells were seen at work"
    (last,) = Folder(session.folder).look()
    assert (last.standing, last.done, len(last.failed), last.working) == ("finished", 2, 2, [])
    assert any("toy_gain: f1_macro" in row for row in last.rows)
    assert [path.name for path in session.folder.iterdir() if path.name.startswith(".")] == []


def test_watching_ends_quietly_on_ctrl_c(tmp_path):
    log = sweep(tmp_path)
    log.cell(bad(CELLS[0]), 1.0)
    at_work(tmp_path, CELLS[1])
    before = sorted(tmp_path.rglob("*"))
    watcher = Terminal(
        ["-m", "medgraft.benchmarks.commands.main", "watch", str(tmp_path), "--interval", "0.2"], tmp_path
    )
    end = time.monotonic() + 100
    while "40%" not in watcher.text() and time.monotonic() < end:
        watcher.read()
    assert "lora seed 1: training 40%" in watcher.text() and watcher.broken_words() == []
    watcher.child.sendintr()
    assert watcher.finish() == 0
    assert "Traceback" not in watcher.text() and "interrupted" not in watcher.text().replace("interrupted with", "")
    assert sorted(tmp_path.rglob("*")) == before, "a watcher never writes"


def test_without_a_terminal_it_prints_once(medgraft, tmp_path):
    sweep(tmp_path)
    done = medgraft("watch", str(tmp_path))
    assert done.exit_code == 0 and "6 cells ended" in done.output and "\x1b" not in done.output
    (tmp_path / "empty").mkdir()
    assert "no sweep has left anything" in medgraft("watch", str(tmp_path / "empty"), "--once").output
    missing = medgraft("watch", str(tmp_path / "none"))
    assert missing.exit_code == 2 and "does not exist" in missing.output and "Traceback" not in missing.output
