"""Adapters that change what they must leave alone, or that bring their process down: each ends in a true status."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweeping import Toy
from test_resume import stored, wait_for

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

ENDS = {
    "noise": ("error", "train", "embed.weight, embed.bias, mix.weight, mix.bias of the encoder now have other values"),
    "buffer": ("error", "train", "scale of the encoder now have other values"),
    "thaw": ("error", "build", "embed.weight, embed.bias, mix.weight, mix.bias of the encoder now require a gradient"),
    "awake": ("error", "train", "mix of the encoder are now in training mode"),
    "swap": ("error", "measure", "other modules at mix of the encoder, after ungraft()"),
    "settings": ("error", "train", "torch.get_num_threads() is now 2 and was 1"),
    "reseed": ("error", "train", "PyTorch's random numbers are now seeded with 77 in place of 1"),
    "hidden": ("error", "measure", "trains tensors that it does not register, of shape []"),
    "data": ("error", "train", "targets of the data now has other values"),
    "rows": ("error", "prefix", "the graft gives 31 rows of image features for 32 samples"),
    "blind": ("error", "train", "image features that are not finite for 32 of 32 samples"),
    "report": ("error", "evaluate", "diagnostics() of adapter 'toy_trouble:report' gives no JSON"),
    "crash": ("error", "train", "the worker ended without a result (SIGSEGV)"),
    "closed": ("error", "train", "Bad file descriptor"),
    "stuck": ("timeout", "train", "killed after 25 s"),
    "thread": ("success", "", ""),
    "children": ("success", "", ""),
    "output": ("success", "", ""),
    "place": ("success", "", ""),
    "twice": ("success", "", ""),
}


@dataclass
class Zoo:
    """A sweep of adapters that misbehave, each in its own way."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    processes: list[int]

    def row(self, how: str) -> CellResult:
        return next(each for _, each in read_results([self.folder]) if each.spec.adapter == f"toy_trouble:{how}")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path) -> Zoo:
    folder = tmp_path_factory.mktemp("zoo")
    cohort = Path(shutil.copytree(toy_cohort, folder / "toy"))
    (folder / "processes").mkdir()
    toy = Toy(toy_site, cohort, {"TOY_PROCESSES": str(folder / "processes"), "COLUMNS": "300"})
    names = ",".join(f"toy_trouble:{how}" for how in ENDS)
    more = ["--seeds", "0", "--timeout", "25", "--jobs", "4", "--results", str(folder / "results")]
    done = toy.run("--adapters", names, *toy.options(*more), cwd=folder)
    return Zoo(done, folder / "results", [int(path.name) for path in (folder / "processes").iterdir()])


@pytest.mark.parametrize("how", ENDS)
def test_the_status_the_stage_and_the_reason_are_true(zoo, how):
    status, stage, reason = ENDS[how]
    row = zoo.row(how)
    assert (row.status, row.stage) == (status, stage) and reason in row.message, row.message
    assert bool(row.metrics) == (status == "success")


def test_an_error_names_the_adapter_and_the_remedy(zoo):
    message = zoo.row("noise").message
    assert message.startswith("while training: adapter 'toy_trouble:noise' must leave the encoder")
    assert "`medgraft check toy_trouble:noise`" in message


def test_nothing_that_a_cell_started_outlives_the_sweep(zoo):
    assert len(zoo.processes) == len(ENDS) + 2  # two children of one of them, which ignore SIGTERM
    assert [pid for pid in zoo.processes if Path(f"/proc/{pid}").exists()] == []


def test_output_is_in_the_log_that_the_row_names_and_nowhere_else(zoo):
    assert "loud" not in zoo.done.stdout + zoo.done.stderr and "from a child" not in zoo.done.stdout + zoo.done.stderr
    row = zoo.row("output")
    text = (zoo.folder / row.log).read_text()
    assert text.startswith("\\x1b[2J") and "from a child" in text and "\\u202e quiet" in text
    assert len(text) < 600_000 and re.search(r"\[\.\.\. \d+ bytes left out \.\.\.\]", text)
    assert "\x1b" not in text and zoo.row("place").log == ""


def test_a_failure_has_its_calls_in_the_log_and_the_log_on_the_board(zoo):
    row = zoo.row("closed")
    assert row.log == ""  # it closed it
    crash = zoo.row("crash")
    assert "Segmentation fault" in (zoo.folder / crash.log).read_text()
    assert f"(log `{crash.log}`)" in (zoo.folder / "leaderboard.md").read_text()


def test_the_terminal_is_clean(zoo):
    shown = (zoo.done.stdout + zoo.done.stderr).replace("\n", "")
    assert shown.isprintable() and "Traceback" not in shown and zoo.done.returncode == 1


# --- kills ------------------------------------------------------------------------------------------------------------


def fork_server(launcher: int) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(launcher) and b"forkserver" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    return None


@pytest.fixture
def sleeping(toy_site, toy_cohort, tmp_path):
    """A sweep whose first cell hangs without letting a thread run, and whose second is quick."""
    (tmp_path / "processes").mkdir()
    toy = Toy(toy_site, toy_cohort, {"TOY_PROCESSES": str(tmp_path / "processes")})
    process = toy.start(
        "--adapters", "toy_trouble:stuck,toy_gain", "--seeds", "0", "--jobs", "1",
        *toy.options("--results", str(tmp_path / "results")),
    )  # fmt: skip
    wait_for(lambda: len(list((tmp_path / "processes").iterdir())) == 1, "the first worker")
    time.sleep(1)
    (pid,) = (int(path.name) for path in (tmp_path / "processes").iterdir())
    yield process, pid, tmp_path / "results"
    process.kill()
    process.communicate()


def ends(pid: int) -> None:
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the end of {pid}", 20)


def by_adapter(folder: Path) -> dict[str, CellResult]:
    return {each.spec.adapter: each for _, each in read_results([folder])}


def test_a_killed_fork_server_ends_its_workers_and_the_sweep_goes_on_with_another(sleeping):
    process, pid, folder = sleeping
    server = fork_server(process.pid)
    assert server is not None
    os.kill(server, signal.SIGKILL)
    ends(pid)
    out, error = process.communicate(timeout=120)
    found = by_adapter(folder)
    assert found["toy_trouble:stuck"].status == "killed"
    assert "the fork server was killed, and its workers with it" in found["toy_trouble:stuck"].message
    assert found["toy_gain"].status == "success", out
    assert process.returncode == 1 and "Traceback" not in error


def test_a_cell_that_is_killed_from_outside_says_so(sleeping):
    process, pid, folder = sleeping
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=120)
    found = by_adapter(folder)
    assert found["toy_trouble:stuck"].status == "killed" and found["toy_gain"].status == "success"
    assert found["toy_trouble:stuck"].message == "while training: the worker was killed from outside (SIGKILL)"


def test_a_cell_that_lets_no_thread_run_ends_with_a_killed_launcher(sleeping):
    process, pid, folder = sleeping
    process.kill()
    ends(pid)
    assert stored(folder) == {}
