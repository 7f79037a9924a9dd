"""A cell on several devices: the same numbers, one row whatever becomes of a rank, and another number of them later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from cells import spec
from sweeping import Toy, typed
from test_resume import running, stored, wait_for

from medgraft.benchmarks.cell import devices
from medgraft.benchmarks.cell.job import PREDICTIONS, RESULT, UNWRITABLE, Job, failure
from medgraft.benchmarks.launch.unfinished import UNFINISHED
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

QUIET = ("--set", "toy_gain.noise=0")
"""Every rank draws noise of its own, so that no number of them gives the numbers of another."""


def only(folder: Path) -> tuple[CellResult, Mapping[str, np.ndarray]]:
    ((path, result),) = read_results([folder])
    return result, dict(np.load(path.with_suffix(".npz")))


# --- real ranks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory, toy_site: Path, toy_cohort: Path) -> Path:
    """Results of the cell on one device, left in peace."""
    folder = tmp_path_factory.mktemp("peace")
    toy = Toy(toy_site, toy_cohort)
    options = toy.options("--seeds", "0", *QUIET, "--results", str(folder / "results"))
    done = toy.run("--adapters", "toy_gain", *options, "--epochs", "4", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_killed_cell_goes_on_with_another_number_of_devices_to_the_same_numbers(toy, tmp_path, peace, first, then):
    processes, folder = tmp_path / "processes", tmp_path / "results"
    processes.mkdir()
    arguments = ["run", "--adapters", "toy_gain", *toy.options("--seeds", "0", *QUIET, "--checkpoint-every", "0")]
    arguments += ["--epochs", "4", "--results", str(folder), "--devices"]
    toy.environment = {"TOY_STUCK_AT": "8", "TOY_PROCESSES": str(processes)}  # three steps are an epoch
    sweep = toy.start(*arguments[1:], str(first))
    wait_for(lambda: sweep.poll() is not None or any(folder.glob(f"{UNFINISHED}/*.safetensors")), "a checkpoint", 500)
    os.killpg(sweep.pid, signal.SIGKILL)
    wait_for(lambda: not running(processes), "the end of every rank", 60)
    assert len(list(processes.iterdir())) == first
    sweep.communicate()
    assert stored(folder) == {}
    toy.environment = {}
    again = toy.run(*arguments[1:], str(then), cwd=tmp_path)  # ranks are processes of their own, and find the toy
    assert again.returncode == 0 and "training goes on behind epoch " in again.stderr, again.stderr
    (result, found), (alone, expected) = only(folder), only(peace)
    assert (result.key, result.env["devices"], alone.env["devices"]) == (alone.key, then, 1)
    assert {name: each.value for name, each in result.metrics.items()} == pytest.approx(
        {name: each.value for name, each in alone.metrics.items()}, abs=1e-6
    )
    assert result.training["epoch_loss"] == pytest.approx(alone.training["epoch_loss"], rel=1e-5)  # fp32
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_becomes_of_one_rank_is_the_row_and_no_rank_outlives_it(toy_site, toy_cohort, tmp_path):
    processes = tmp_path / "processes"
    processes.mkdir()
    toy = Toy(toy_site, toy_cohort, {"TOY_TROUBLE_ON": "1", "TOY_PROCESSES": str(processes)})
    names = "toy_trouble:raise,toy_trouble:kill"
    options = toy.options("--seeds", "0", "--devices", "2", "--jobs", "1", "--results", str(tmp_path / "results"))
    done = toy.run("--adapters", names, *options, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    found = {result.spec.adapter: result for _, result in read_results([tmp_path / "results"])}
    raised, killed = found["toy_trouble:raise"], found["toy_trouble:kill"]
    logs = {name: (tmp_path / "results" / each.log).read_text() for name, each in found.items()}
    assert raised.status == "error" and "RuntimeError: this adapter always fails" in raised.message, logs
    assert killed.status == "killed" and "the worker was killed from outside (SIGKILL)" in killed.message
    assert "rank 1 of 2 ended by SIGKILL" in logs["toy_trouble:kill"]
    assert len(list(processes.iterdir())) == 4 and not running(processes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_that_read_other_samples_are_refused_before_training(toy_site, toy_cohort, tmp_path):
    toy = Toy(toy_site, toy_cohort, {"TOY_FEWER_ON": "1"})
    options = toy.options("--seeds", "0", "--devices", "2", "--results", str(tmp_path / "results"))
    done = toy.run("--adapters", "toy_gain", *options, cwd=tmp_path)
    ((_, result),) = read_results([tmp_path / "results"])
    assert done.returncode == 1 and (result.status, result.stage) == ("error", "load")
    assert "number of samples of toy is 60 on rank 0 and 56 on rank 1; see to it that all ranks read" in result.message


# --- what the ranks' ends come to -------------------------------------------------------------------------------------


def job(count: int = 2, **changes: object) -> Job:
    return Job(spec=spec(**changes), root=Path("/nowhere"), devices=count)


def left(folder: Path, rank: int, status: str, message: str = "") -> None:
    place = devices.rank_folder(folder, rank)
    place.mkdir()
    (place / RESULT).write_text(failure(job(), status, message).model_dump_json())  # pyright: ignore[reportArgumentType]


def outcome(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    ends: Mapping[int, int] | signal.Signals,
    leave: Callable[[], None] = lambda: None,
) -> tuple[int, CellResult | None]:
    """Of ranks that end so, once they have left something."""

    def launched(job: Job, folder: Path) -> Mapping[int, int] | signal.Signals:
        leave()
        return ends

    monkeypatch.setattr(devices, "_launched", launched)
    code = devices.run_on_devices(job(), folder)
    place = folder / RESULT
    return code, CellResult.model_validate_json(place.read_text()) if place.is_file() else None


def test_what_rank_0_leaves_is_the_outcome(monkeypatch, tmp_path):
    def leave() -> None:
        left(tmp_path, 0, "success")
        (tmp_path / "rank0" / PREDICTIONS).write_bytes(b"x")
        (tmp_path / "rank0" / "graft").mkdir()
        left(tmp_path, 1, "success")

    (tmp_path / "graft").mkdir()
    (tmp_path / "graft" / "half").write_bytes(b"x")  # an attempt before was killed while it moved its graft
    code, result = outcome(monkeypatch, tmp_path, {}, leave)
    assert code == 0 and result is not None and result.status == "success"
    assert (tmp_path / PREDICTIONS).is_file() and list((tmp_path / "graft").iterdir()) == []


def test_the_first_failure_is_told_and_not_that_of_ranks_that_lost_it(monkeypatch, tmp_path):
    def leave() -> None:
        left(tmp_path, 1, "oom", "no memory")
        left(tmp_path, 0, "error", "later")
        for rank, second in ((1, 10), (0, 20)):
            os.utime(tmp_path / f"rank{rank}" / RESULT, (second, second))

    code, result = outcome(monkeypatch, tmp_path, {0: 1, 1: 1}, leave)
    assert code == 1 and result is not None and (result.status, result.message) == ("oom", "no memory")
    assert result.env["devices"] == 2


def test_what_a_rank_saw_of_the_others_is_told_where_none_failed(monkeypatch, tmp_path):
    def leave() -> None:
        (tmp_path / "rank1").mkdir()
        (tmp_path / "rank1" / devices.LOSS).write_text("ncclUnhandledCudaError")

    _, result = outcome(monkeypatch, tmp_path, {1: devices.LOST, 0: devices.LOST}, leave)
    assert result is not None and result.message.endswith("lost each other; rank 1 says: ncclUnhandledCudaError")


def test_results_of_an_earlier_attempt_in_the_folder_are_not_read(monkeypatch, tmp_path):
    left(tmp_path, 1, "error", "of the attempt before")
    code, result = outcome(monkeypatch, tmp_path, {1: 7})
    assert code == 7 and result is None


def test_ranks_that_torchrun_cannot_start_are_a_row(monkeypatch, tmp_path):
    def broken(*_: object) -> NoReturn:
        raise OSError("no port is free")

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", broken)
    assert devices.run_on_devices(job(), tmp_path) == 1
    result = CellResult.model_validate_json((tmp_path / RESULT).read_text())
    assert result.message == "its 2 ranks cannot be started on this machine: OSError: no port is free"


def test_a_worker_that_is_told_to_end_takes_its_ranks_along(monkeypatch, tmp_path):
    (tmp_path / "sleeping_rank.py").write_text("import os, time; os.kill(os.getppid(), 15); time.sleep(600)")
    monkeypatch.setattr(devices, "RANK", "sleeping_rank")
    monkeypatch.setattr(devices, "_ended_like", lambda code: code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    assert devices.run_on_devices(job(), tmp_path) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before and not (tmp_path / RESULT).exists()


@pytest.mark.parametrize(
    ("ends", "code", "message"),
    [
        ({0: devices.LOST, 1: 7}, 7, None),
        ({0: UNWRITABLE, 1: devices.LOST}, UNWRITABLE, None),
        ({1: -signal.SIGTERM, 0: devices.LOST}, -signal.SIGTERM, None),  # preempted, with all that is on its node
        ({0: devices.LOST, 1: -signal.SIGTERM}, 1, "its 2 ranks lost each other and none says why"),  # by torchrun
        (signal.SIGTERM, -signal.SIGTERM, None),
    ],
)
def test_an_end_without_a_result_is_that_of_the_cell(monkeypatch, tmp_path, ends, code, message):
    monkeypatch.setattr(devices, "_ended_like", lambda code: code)
    found, result = outcome(monkeypatch, tmp_path, ends)
    assert found == code and (result.message if result else None) == message


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's end is told by Linux alone")
@pytest.mark.parametrize(("lives", "code", "said"), [(True, 0, "False"), (False, 1, "")])
def test_a_rank_whose_worker_has_ended_ends_and_knows_it_before_torch(lives, code, said):
    parent = os.getpid() if lives else 1 << 30
    text = f"import sys; from {devices.RANK} import end_with; end_with({parent}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (code, said), done.stderr


def test_fewer_gpus_than_ranks_are_a_row_with_the_remedy(tmp_path):
    assert devices.run_on_devices(job(2, device="cuda"), tmp_path) == 1
    result = CellResult.model_validate_json((tmp_path / RESULT).read_text())
    assert "run on 2 GPUs, and PyTorch sees" in result.message and "ask the launcher for as many" in result.message


def test_more_devices_than_there_are_are_refused_in_one_sentence(toy, tmp_path):
    options = toy.options("--seeds", "0", "--devices", "1000", "--results", str(tmp_path / "results"))
    done = typed("run", "--adapters", "toy_gain", *options, cwd=tmp_path)
    assert done.returncode == 2 and stored(tmp_path / "results") == {}
    assert f"--devices 1000: this machine has {os.cpu_count()} CPU cores; give --devices" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
