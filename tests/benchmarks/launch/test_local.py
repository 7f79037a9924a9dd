"""One process per cell: whatever a cell does, it is a row, the sweep goes on, and no identifier leaks."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from medgraft_toy import SECRET
from sweeping import Toy

from medgraft.benchmarks.cell.job import Job, without_files
from medgraft.benchmarks.cell.limit import limited
from medgraft.benchmarks.cell.worker import execute, main
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

TROUBLES = ("raise", "exit", "leave", "kill", "sleep", "memory", "path", "nan")


@dataclass
class Chaos:
    """A sweep in which all but one adapter come to grief."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    processes: list[int]

    def row(self, adapter: str) -> CellResult:
        return next(each for _, each in read_results([self.folder]) if each.spec.adapter == adapter)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path) -> Chaos:
    folder = tmp_path_factory.mktemp("chaos")
    cohort = Path(shutil.copytree(toy_cohort, folder / "toy"))
    (cohort / f"{SECRET}-003-1.npy").write_bytes(b"damaged")
    (folder / "processes").mkdir()
    environment = {"TOY_PROCESSES": str(folder / "processes"), "TOY_COHORT": str(cohort)}
    toy = Toy(toy_site, cohort, environment)
    names = ",".join(["toy_gain", *(f"toy_trouble:{how}" for how in TROUBLES)])
    more = ["--seeds", "0", "--timeout", "30", "--jobs", "3", "--results", str(folder / "results")]
    done = toy.run("--adapters", names, *toy.options(*more), cwd=folder)
    return Chaos(done, folder / "results", [int(path.name) for path in (folder / "processes").iterdir()])


@pytest.mark.parametrize(
    ("adapter", "status", "message"),
    [
        ("toy_gain", "success", ""),
        ("toy_trouble:raise", "error", "RuntimeError: this adapter always fails (in medgraft_toy.py:"),
        ("toy_trouble:exit", "error", "without a result (exit code 7)"),
        ("toy_trouble:leave", "error", "while attaching the adapter: SystemExit: 3 (in medgraft_toy.py:"),
        ("toy_trouble:kill", "killed", "the worker was killed from outside (SIGKILL)"),
        ("toy_trouble:sleep", "timeout", "while attaching the adapter: killed after 30 s; raise --timeout"),
        ("toy_trouble:memory", "oom", "MemoryError"),
        (
            "toy_trouble:nan",
            "error",
            "while training: FloatingPointError: the loss is nan after 1 steps; lower the learning rate",
        ),
    ],
)
def test_every_end_of_a_cell_is_a_row_with_its_status(chaos, adapter, status, message):
    row = chaos.row(adapter)
    assert row.status == status and message in row.message


def test_a_failure_says_how_long_it_took(chaos):
    assert 8 <= chaos.row("toy_trouble:sleep").timing["failed"] < 60


def test_the_exit_code_says_that_something_failed(chaos):
    assert chaos.done.returncode == 1


def test_the_summary_names_every_failure(chaos):
    for how in TROUBLES:
        assert f"toy_trouble:{how} seed 0: " in chaos.done.stdout


def test_failing_cells_show_no_traceback(chaos):
    assert "Traceback" not in chaos.done.stderr + chaos.done.stdout


def test_a_quiet_run_writes_nothing_to_stderr(chaos):
    assert chaos.done.stderr == ""


def test_no_worker_outlives_the_sweep(chaos):
    assert len(chaos.processes) == len(TROUBLES) + 1
    assert [pid for pid in chaos.processes if Path(f"/proc/{pid}").exists()] == []


def test_no_work_folder_is_left(chaos):
    assert [path.name for path in chaos.folder.iterdir() if path.name.startswith(".")] == []


def test_an_unreadable_file_is_counted_in_the_result(chaos):
    assert chaos.row("toy_gain").data["unreadable"] == 1


def test_no_identifier_is_in_any_file_or_on_the_terminal(chaos):
    assert SECRET not in chaos.done.stdout + chaos.done.stderr
    files = [path for path in chaos.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".npz", ".md", ".csv"}
    for path in files:
        assert SECRET.encode() not in path.read_bytes() and SECRET not in str(path), path


def test_every_file_says_phantom(chaos):
    for path in chaos.folder.rglob("*"):
        if path.suffix in (".md", ".csv"):
            assert "PHANTOM" in path.read_text(), path
        if path.suffix == ".json":
            assert json.loads(path.read_text())["phantom"] is True, path
    assert "PHANTOM" in chaos.done.stdout


def test_predictions_hold_anonymous_subject_numbers(chaos):
    import numpy as np

    path = next(path for path, each in read_results([chaos.folder]) if each.status == "success")
    with np.load(path.with_suffix(".npz")) as stored:
        assert stored["groups"].dtype.kind == "i"
        assert sorted(set(stored["groups"].tolist())) == list(range(stored["groups"].max() + 1))


def test_a_result_describes_everything_that_made_it(chaos):
    found = chaos.row("toy_gain")
    assert {"torch", "numpy", "medgraft"} <= found.env["packages"].keys() and found.env["threads"] == 1
    assert {plugin["kind"] for plugin in found.plugins} == {"adapter", "encoder", "task"}
    assert {(plugin["distribution"], plugin["version"]) for plugin in found.plugins} == {("medgraft-toy", "1.5")}
    assert len(found.data["split_hash"]) == 64 and found.data["subjects_disjoint"] is True
    assert set(found.timing) == {"load", "prefix", "train", "evaluate", "measure"}
    assert found.efficiency is not None and found.efficiency.cached_stage == {"image": (2, 2)}
    assert found.efficiency.trainable == {"toy_gain": 8, "head": 18}


def test_the_result_names_neither_user_nor_host_nor_folder(chaos):
    import getpass
    import platform

    found = chaos.row("toy_gain").model_dump_json()
    assert platform.node() not in found and str(chaos.folder.parent) not in found
    assert getpass.getuser() == "root" or getpass.getuser() not in found


# --- the worker alone, as Slurm would start it ------------------------------------------------------------------------


@pytest.fixture
def job(chaos: Chaos, toy: Toy) -> Job:
    return Job(spec=chaos.row("toy_gain").spec, root=toy.cohort)


@pytest.fixture(autouse=True)
def same_threads():
    """A worker sets its own number of threads and determinism; this process gets its own back."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_a_worker_takes_json_and_leaves_json(job, tmp_path):
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert main([str(tmp_path / "job.json"), str(tmp_path / "out")]) == 0
    found = CellResult.model_validate_json((tmp_path / "out" / "result.json").read_text())
    assert found.status == "success" and (tmp_path / "out" / "predictions.npz").is_file()


def test_a_worker_that_fails_leaves_a_result_and_exit_code_1(job, tmp_path):
    failing = job.model_copy(update={"root": tmp_path / "nowhere"})
    (tmp_path / "job.json").write_text(failing.model_dump_json())
    assert main([str(tmp_path / "job.json"), str(tmp_path / "out")]) == 1
    found = CellResult.model_validate_json((tmp_path / "out" / "result.json").read_text())
    assert found.status == "error" and "does not exist" in found.message


def test_a_task_that_reports_no_json_is_an_error_row(job, tmp_path, monkeypatch):
    from medgraft.benchmarks.cell.steps import description

    monkeypatch.setattr(description, "describe_encoder", lambda loaded: {"odd": object()})
    assert execute(job, tmp_path, lambda stage, share: None) == "error"
    assert not (tmp_path / "predictions.npz").exists()


def test_messages_keep_no_file_of_the_cohort():
    root = Path("/data/ADNI")
    text = "cannot read '/data/ADNI/123_S_4567/a b.nii': truncated; see /data/ADNI/x.csv, or /usr/lib/y"
    assert "123_S_4567" not in without_files(text, root) and "/usr/lib/y" in without_files(text, root)


def test_a_limit_keeps_an_even_spread_of_each_split():
    import numpy as np

    found = limited({"train": np.arange(100, 200), "test": np.arange(3)}, 5)
    assert found["train"].tolist() == [100, 124, 149, 174, 199] and found["test"].tolist() == [0, 1, 2]
