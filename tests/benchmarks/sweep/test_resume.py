"""A sweep that is killed at any moment goes on where it stopped, and ends with the numbers of an undisturbed one."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sweeping import Toy, command
from typer.testing import Result

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

NUMBERS = {"key", "status", "spec", "phantom", "primary", "metrics", "data", "encoder", "adapters", "plugins"}
"""What two runs of a cell must agree on; the rest says how long it took, and on which machine."""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


def stored(folder: Path) -> dict[str, Path]:
    """Results in their place, by key; not what a worker has just left for its launcher."""
    return {path.stem: path for path in folder.glob("[!.]*/*/*/*.json")}


def running(folder: Path) -> list[int]:
    """Workers that reported themselves and still exist."""
    return [int(path.name) for path in folder.iterdir() if Path(f"/proc/{path.name}").exists()]


def numbers(folder: Path) -> dict[str, object]:
    found = {}
    for path, each in read_results([folder]):
        with np.load(path.with_suffix(".npz")) as arrays:
            predictions = {name: arrays[name].tolist() for name in arrays.files}
        training = {name: each.training[name] for name in ("epoch_loss", "steps", "samples")}
        found[each.key] = (each.model_dump(include=NUMBERS), training, predictions)
    return found


@dataclass
class Story:
    """A sweep of three cells that is killed after its first result, then completed, and the same sweep in peace."""

    orphans: list[int]
    before: dict[str, bytes]
    after: dict[str, bytes]
    resumed: Result
    killed: Path
    peaceful: Path

    def results(self, folder: Path) -> dict[str, CellResult]:
        return {each.key: each for _, each in read_results([folder])}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path) -> Iterator[Story]:
    home = tmp_path_factory.mktemp("resume")
    (home / "processes").mkdir()
    # The cell of seed 1 gets stuck, so that the kill falls into it.
    toy = Toy(toy_site, toy_cohort, {"TOY_PROCESSES": str(home / "processes"), "TOY_STUCK": "1"})
    arguments = ["--adapters", "toy_gain", *toy.options("--seeds", "0,1,2")]
    killed, peaceful = home / "killed", home / "peaceful"
    process = toy.start(*arguments, "--jobs", "1", "--results", str(killed))
    wait_for(lambda: len(stored(killed)) == 1, "the first result")
    wait_for(lambda: len(list((home / "processes").iterdir())) == 2, "the second worker")
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    end = time.monotonic() + 10
    while running(home / "processes") and time.monotonic() < end:
        time.sleep(0.05)
    orphans = running(home / "processes")
    before = {path.name: path.read_bytes() for path in stored(killed).values()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(toy_site))
        patch.setenv("COLUMNS", "200")
        resumed = command("run", *arguments, "--jobs", "1", "--results", str(killed))
        command("run", *arguments, "--jobs", "2", "--results", str(peaceful))
    after = {path.name: path.read_bytes() for path in stored(killed).values()}
    yield Story(orphans, before, after, resumed, killed, peaceful)


def test_workers_end_with_a_launcher_that_was_killed(story):
    assert story.orphans == []


def test_only_what_is_missing_is_run(story):
    assert "1 of 3 cells are done already" in story.resumed.output
    assert story.resumed.output.count("success toy / toy:tiny / toy_gain") == 2


def test_what_was_stored_before_the_kill_is_not_touched(story):
    assert len(story.before) == 1 and story.before.items() <= story.after.items()


def test_the_completed_sweep_succeeds(story):
    assert story.resumed.exit_code == 0
    assert {each.status for each in story.results(story.killed).values()} == {"success"}


def test_nothing_of_the_killed_sweep_is_left_behind(story):
    assert [path for path in story.killed.iterdir() if path.name.startswith(".")] == []


def test_the_numbers_are_those_of_an_undisturbed_sweep_with_more_jobs(story):
    assert len(numbers(story.killed)) == 3
    assert numbers(story.killed) == numbers(story.peaceful)


def test_seeds_differ(story):
    losses = [each.training["epoch_loss"] for each in story.results(story.peaceful).values()]
    assert len({tuple(loss) for loss in losses}) == 3


def test_the_split_is_one_for_all_seeds(story):
    assert len({each.data["split_hash"] for each in story.results(story.peaceful).values()}) == 1


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@dataclass
class Interrupted:
    process: subprocess.Popen[str]
    out: str
    error: str
    folder: Path
    workers: list[int]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path) -> Interrupted:
    """A quick cell, then one that sleeps, and Ctrl-C to the whole process group as a terminal sends it."""
    home = tmp_path_factory.mktemp("interrupt")
    (home / "processes").mkdir()
    toy = Toy(toy_site, toy_cohort, {"TOY_PROCESSES": str(home / "processes")})
    names = ["--adapters", "toy_gain,toy_trouble:sleep", "--seeds", "0", "--jobs", "1"]
    process = toy.start(*names, *toy.options("--results", str(home / "results")))
    wait_for(lambda: len(stored(home / "results")) == 1, "the first result")
    wait_for(lambda: len(running(home / "processes")) == 1, "the sleeping worker")
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=180)
    time.sleep(0.5)
    return Interrupted(process, out, error, home / "results", running(home / "processes"))


def test_ctrl_c_ends_with_code_130_and_one_line(interrupted):
    assert interrupted.process.returncode == 130
    assert interrupted.error.splitlines() == [
        "interrupted; what was finished is stored, and the same command goes on from there"
    ]


def test_ctrl_c_keeps_what_was_stored_and_stores_no_half_cell(interrupted):
    assert [each.status for _, each in read_results([interrupted.folder])] == ["success"]


def test_ctrl_c_leaves_no_process(interrupted):
    assert interrupted.workers == []


def test_ctrl_c_leaves_no_work_folder(interrupted):
    assert [path for path in interrupted.folder.iterdir() if path.name.startswith(".")] == []


def test_ctrl_c_while_workers_are_being_started_is_one_line_too(toy, tmp_path):
    process = toy.start(
        "--adapters", "toy_gain", "--seeds", "0-20", *toy.options("--results", str(tmp_path / "results"))
    )
    # The folder of results appears before the fork server, whose imports then take seconds.
    wait_for(lambda: any((tmp_path / "results").glob(".work-*/*")), "the first worker's folder")
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 130 and "Traceback" not in error and len(error.splitlines()) == 1


def test_a_sweep_that_cannot_be_interrupted_says_so_once_and_how_to_end_it(toy, tmp_path):
    toy = dataclasses.replace(toy, deaf=True)
    process = toy.start("--adapters", "toy_gain", "--seeds", "0", *toy.options("--results", str(tmp_path)))
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=180)
    assert process.returncode == 0 and "written: " in out
    said = f"Ctrl-C (SIGINT) is ignored, as whoever started this asked for; `kill {process.pid}` ends it"
    assert error.splitlines() == [said]


# --- fresh, failing and stale -----------------------------------------------------------------------------------------


def run_toy(toy: Toy, folder: Path, *more: str) -> Result:
    return command("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(folder), *more))


def test_a_finished_sweep_runs_nothing_again_and_fresh_runs_it_all(toy, medgraft, tmp_path):
    run_toy(toy, tmp_path)
    path = next(iter(stored(tmp_path).values()))
    first = path.stat().st_mtime_ns
    assert "1 of 1 cells are done already" in run_toy(toy, tmp_path).output and path.stat().st_mtime_ns == first
    assert run_toy(toy, tmp_path, "--fresh").exit_code == 0 and path.stat().st_mtime_ns != first


def test_a_failed_cell_is_tried_again(toy, medgraft, tmp_path):
    name = ["--adapters", "toy_trouble:raise", *toy.options("--seeds", "0", "--results", str(tmp_path))]
    assert command("run", *name).exit_code == 1
    again = command("run", *name)
    assert again.exit_code == 1 and "done already" not in again.output


def test_a_damaged_result_is_run_again(toy, medgraft, tmp_path):
    run_toy(toy, tmp_path)
    path = next(iter(stored(tmp_path).values()))
    path.write_text("{")
    assert run_toy(toy, tmp_path).exit_code == 0
    assert [each.status for _, each in read_results([tmp_path])] == ["success"]


def test_the_work_of_a_living_launcher_is_not_cleared(toy, medgraft, tmp_path):
    living, dead = tmp_path / f".work-{os.getppid()}", tmp_path / ".work-4194305"  # above the largest process number
    for folder in (living, dead):
        folder.mkdir()
    run_toy(toy, tmp_path)
    assert living.exists() and not dead.exists()
