"""Sweeps by a real Slurm: the same numbers, and what becomes of jobs that are cancelled, cut short or pushed aside."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_here import Slurm, absent, skip_or_fail, start, stop_all
from sweeping import Toy, command, typed
from test_resume import numbers, stored
from typer.testing import Result

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

pytestmark = [pytest.mark.slow(seconds=84), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    skip_or_fail(absent())
    # A short path: that of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = start(Path(folder))
        try:
            yield cluster
        finally:
            stop_all(cluster)


def asked(toy: Toy, folder: Path, *more: str, adapters: str = "toy_gain", launcher: str = "slurm") -> list[str]:
    quick = ["--set", "slurm.poll=0.5"] if launcher == "slurm" else []
    options = toy.options("--results", str(folder), "--launcher", launcher, *quick, *more)
    return ["--adapters", adapters, *options]


def rows(folder: Path) -> dict[int, CellResult]:
    """Seed -> result."""
    return {each.spec.seed: each for _, each in read_results([folder])}


def ended(process: subprocess.Popen[str]) -> str:
    """What a sweep wrote as errors, once it has ended."""
    return process.communicate(timeout=150)[1]


def sent(process: subprocess.Popen[str]) -> bool:
    """Always true, of a sweep that goes on."""
    assert process.poll() is None, ended(process)
    return True


# --- a sweep of two cells on a cluster that has its troubles ----------------------------------------------------------


@dataclass
class Story:
    """A sweep through a drained node, a controller that restarts and a job that is cancelled by hand; then the rest."""

    folder: Path
    local: Path
    code: int
    errors: str
    first: dict[int, CellResult]
    kept: bytes
    cancelled: str
    second: Result
    jobs: dict[str, str]


@pytest.fixture(scope="module")
def story(slurm: Slurm, toy_site: Path, toy_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = tmp_path_factory.mktemp("story")
    toy, folder = Toy(toy_site, toy_cohort, slurm.environment | {"TOY_STUCK": "1"}), home / "slurm"
    slurm.ask("scontrol", "update", "nodename=node1", "state=drain", "reason=repair")
    process = toy.start(*asked(toy, folder, "--seeds", "0,1"))
    ours = f"medgraft-{process.pid}-"
    slurm.until(lambda: sent(process) and list(slurm.jobs(ours).values()) == ["PENDING"] * 2, 100, "the array")
    slurm.ask("scontrol", "update", "nodename=node1", "state=resume")
    slurm.until(lambda: list(slurm.jobs(ours).values()) == ["RUNNING"] * 2, what="running")
    slurm.stop(slurm.root / "slurmctld.pid")
    time.sleep(2)  # the sweep asks meanwhile
    slurm.controller()
    slurm.until(lambda: len(stored(folder)) == 1, 100, "the first result")
    (cancelled,) = [number for number, state in slurm.jobs(ours).items() if state == "RUNNING"]
    slurm.ask("scancel", cancelled)
    errors, first = ended(process), rows(folder)
    kept = stored(folder)[first[0].key].read_bytes()
    before = slurm.jobs()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(toy_site))
        path = os.pathsep.join([str(toy_site), *filter(None, [os.environ.get("PYTHONPATH")])])
        for name, value in {**slurm.environment, "COLUMNS": "200", "PYTHONPATH": path}.items():
            patch.setenv(name, value)
        second = command("run", *asked(toy, folder, "--seeds", "0,1"))
        command("run", *asked(toy, home / "local", "--seeds", "0,1", launcher="local"))
    jobs = {number: state for number, state in slurm.jobs().items() if number not in before}
    return Story(folder, home / "local", process.returncode, errors, first, kept, cancelled, second, jobs)


def test_a_job_that_was_cancelled_by_hand_is_a_row_that_says_so(story):
    assert story.code == 1 and {seed: each.status for seed, each in story.first.items()} == {0: "success", 1: "killed"}
    assert f"its job {story.cancelled} was cancelled in Slurm, and not by this sweep" in story.first[1].message


def test_a_drained_node_and_a_restart_are_said_and_lived_through(story):
    assert "jobs wait, Slurm says: " in story.errors
    assert "Traceback" not in story.errors


def test_the_same_command_runs_what_is_missing_and_no_more(story):
    assert story.second.exit_code == 0 and "1 of 2 cells are done already" in story.second.output
    assert list(story.jobs.values()) == ["COMPLETED"]
    assert stored(story.folder)[story.first[0].key].read_bytes() == story.kept


def test_its_numbers_are_those_of_the_local_launcher(story):
    assert len(numbers(story.folder)) == 2 and numbers(story.folder) == numbers(story.local)


def test_nothing_is_left_beside_the_results(story):
    assert [path for path in story.folder.iterdir() if path.name.startswith(".")] == []


# --- jobs that come to no end of their own ----------------------------------------------------------------------------


@dataclass
class CutShort:
    """A sweep whose jobs run out of time and are pushed aside, and beside it one that is interrupted."""

    rows: dict[int, CellResult]
    tries: dict[str, str]
    errors: str
    interrupted: int
    said: str
    folder: Path
    at_once: list[str]
    after: list[str]


@pytest.fixture(scope="module")
def cut_short(slurm: Slurm, toy_site: Path, toy_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> CutShort:
    home = tmp_path_factory.mktemp("short")
    toy = Toy(toy_site, toy_cohort, slurm.environment)
    again = ("--set", "slurm.timeouts=0", "--set", "slurm.requeues=1")
    late = toy.start(*asked(toy, home / "late", "--seeds", "0,1", *again, adapters="toy_trouble:sleep"))
    limited = asked(toy, home / "stopped", "--seeds", "0-2", "--jobs", "1", adapters="toy_trouble:sleep")
    stopped = toy.start(*limited)
    theirs, ours = f"medgraft-{late.pid}-", f"medgraft-{stopped.pid}-"
    slurm.until(lambda: sent(late) and list(slurm.jobs(theirs).values()) == ["RUNNING"] * 2, 100, "jobs")
    first, second = sorted(slurm.jobs(theirs))
    slurm.ask("scontrol", "update", f"JobId={first}", "EndTime=now")  # Slurm looks every 30 s
    slurm.until(lambda: "RUNNING" in slurm.jobs(ours).values(), 100, "the other sweep")
    at_once = sorted(slurm.jobs(ours).values())
    os.killpg(stopped.pid, signal.SIGINT)
    said = ended(stopped)
    after = sorted(slurm.jobs(ours).values())
    slurm.until(lambda: slurm.jobs()[first] == "TIMEOUT", 60, "the time limit")
    for state in ("PREEMPTED", "PREEMPTED"):
        slurm.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.5")
        slurm.until(lambda number=second, state=state: slurm.jobs()[number] == state, what="preemption")
        if len(slurm.jobs(theirs)) < 3:
            slurm.until(lambda: "RUNNING" in slurm.jobs(theirs).values(), what="the second try")
            (second,) = [number for number, each in slurm.jobs(theirs).items() if each == "RUNNING"]
    errors = ended(late)
    found = rows(home / "late")
    return CutShort(found, slurm.jobs(theirs), errors, stopped.returncode, said, home / "stopped", at_once, after)


def test_a_job_that_reached_its_time_limit_is_a_row_with_the_remedy(cut_short):
    assert cut_short.rows[0].status == "timeout"
    assert "reached Slurm's time limit; raise --set slurm.minutes" in cut_short.rows[0].message


def test_slurms_own_words_stand_in_the_log(cut_short):
    log = (cut_short.folder.parent / "late" / cut_short.rows[0].log).read_text()
    assert "DUE TO TIME LIMIT" in log


def test_a_preempted_job_is_submitted_again_as_often_as_allowed(cut_short):
    assert sorted(cut_short.tries.values()) == ["PREEMPTED", "PREEMPTED", "TIMEOUT"]
    assert cut_short.rows[1].status == "killed" and "was preempted by other jobs" in cut_short.rows[1].message
    assert cut_short.errors.count("it is submitted again") == 1


def test_jobs_limits_how_many_of_an_array_run(cut_short):
    assert cut_short.at_once == ["PENDING", "PENDING", "RUNNING"]


def test_ctrl_c_cancels_what_runs_and_what_waits(cut_short):
    assert cut_short.interrupted == 130
    assert cut_short.said.splitlines()[-1].startswith("interrupted; what was finished is stored")
    assert set(cut_short.after) == {"CANCELLED"}  # those that wait become one line
    assert rows(cut_short.folder) == {} and not list(cut_short.folder.glob(".work*"))


def test_a_job_that_slurm_puts_back_in_line_goes_on_behind_its_last_epoch(slurm, toy, tmp_path):
    more = ("--seeds", "0", "--epochs", "3", "--checkpoint-every", "0")
    toy.environment = slurm.environment | {
        "TOY_STUCK_AT": "8"
    }  # of nine steps, and of no more than six the second time
    process = toy.start(*asked(toy, tmp_path / "slurm", *more))
    unfinished = tmp_path / "slurm" / ".unfinished"
    slurm.until(lambda: sent(process) and bool(list(unfinished.glob("*.safetensors"))), 150, "a checkpoint")
    (job,) = slurm.jobs(f"medgraft-{process.pid}-")
    slurm.ask("scontrol", "requeue", job)
    errors = ended(process)
    assert process.returncode == 0 and f"Slurm has put job {job} back in line" in errors, errors
    assert "training goes on behind epoch " in errors and not unfinished.exists()
    command("run", *asked(toy, tmp_path / "local", *more, launcher="local"))
    assert len(numbers(tmp_path / "slurm")) == 1 and numbers(tmp_path / "slurm") == numbers(tmp_path / "local")


def test_cells_of_one_frozen_prefix_are_one_job_with_the_local_numbers(slurm, toy, tmp_path):
    toy.environment = dict(slurm.environment)
    more = ("--seeds", "0-2", "--timeout", "40", "--set", "slurm.group_minutes=2")
    process = toy.start(*asked(toy, tmp_path / "slurm", *more))
    errors = ended(process)
    assert process.returncode == 0, errors
    assert list(slurm.jobs(f"medgraft-{process.pid}-").values()) == ["COMPLETED"]
    command("run", *asked(toy, tmp_path / "local", *more[:4], launcher="local"))
    assert len(numbers(tmp_path / "slurm")) == 3 and numbers(tmp_path / "slurm") == numbers(tmp_path / "local")


# --- what ends before anything is submitted ---------------------------------------------------------------------------


def refused(toy: Toy, folder: Path, *more: str) -> str:
    """The one sentence of a request that is refused."""
    options = toy.options("--results", str(folder), "--launcher", "slurm", *more)
    done = typed("run", "--adapters", "toy_gain", "--seeds", "0", *options, cwd=folder.parent)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and stored(folder) == {}, line
    return line


def test_what_only_a_submission_tells_ends_the_sweep_with_one_sentence(slurm, toy, tmp_path, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    before = slurm.jobs()
    line = refused(toy, tmp_path / "r", "--set", "slurm.memory_gb=9000")
    assert line.startswith("error: Slurm refused a job: Memory specification can not be satisfied; ")
    new = {state for number, state in slurm.jobs().items() if number not in before}
    assert new <= {"FAILED"} and not list((tmp_path / "r").glob(".work*"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("partition=nope", "invalid partition specified: nope"),
        ("minutes=10", "Requested time limit is invalid"),
        ("partition=staff", "Invalid account or account/partition combination"),
        ("gpus=1", "Invalid generic resource"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(slurm, toy, tmp_path, monkeypatch, option, words):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    before = slurm.jobs()
    more = ["--set", "slurm.partition=short"] if option.startswith("minutes") else []
    line = refused(toy, tmp_path / "r", "--set", f"slurm.{option}", *more)
    assert line.startswith("error: Slurm does not accept the jobs of launcher 'slurm': ") and words in line
    assert line.endswith("; nothing was submitted") and slurm.jobs() == before
