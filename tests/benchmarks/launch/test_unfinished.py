"""A sweep that is killed in the middle of a cell's training goes on there, by the same command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sweeping import typed
from test_resume import numbers, running, stored, wait_for

from medgraft.benchmarks.launch.unfinished import OLD, UNFINISHED, forget, forget_old
from medgraft.benchmarks.results.reading import read_results


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{UNFINISHED}/*.safetensors"))


@pytest.mark.timeout(900)
def test_kill_9_in_the_middle_of_training_costs_an_epoch_and_changes_no_number(toy, tmp_path):
    processes = tmp_path / "processes"
    processes.mkdir()
    arguments = ["run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--checkpoint-every", "0")]
    arguments += ["--epochs", "4", "--results"]
    toy.environment = {"TOY_STUCK_AT": "8", "TOY_PROCESSES": str(processes)}  # three steps are an epoch
    sweep = toy.start(*arguments[1:], str(tmp_path / "killed"))
    wait_for(lambda: sweep.poll() is not None or bool(kept(tmp_path / "killed")), "a checkpoint", 500)
    os.killpg(sweep.pid, signal.SIGKILL)
    wait_for(lambda: not running(processes), "the end of the cell", 60)
    sweep.communicate()
    assert stored(tmp_path / "killed") == {}
    again = typed(*arguments, tmp_path / "killed", cwd=tmp_path)
    assert again.returncode == 0 and "training goes on behind epoch " in again.stderr, again.stderr
    typed(*arguments, tmp_path / "peace", cwd=tmp_path)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "peace")
    ((_, result),) = read_results([tmp_path / "killed"])
    assert len(result.training["resumed"]) == 1 and len(result.training["epoch_loss"]) == 4
    assert not (tmp_path / "killed" / UNFINISHED).exists()


def test_what_nobody_comes_back_for_goes(tmp_path):
    folder = tmp_path / UNFINISHED
    folder.mkdir()
    old, new = folder / "a-1.safetensors", folder / "b-1.safetensors"
    old.touch(), new.touch()
    os.utime(old, (0, new.stat().st_mtime - OLD - 60))
    forget_old(tmp_path)
    assert [each.name for each in folder.iterdir()] == ["b-1.safetensors"]
    (folder / "b-1.safetensors.damaged").touch(), (folder / ".b-1.safetensors-x").touch()
    forget(tmp_path, "b")
    forget_old(tmp_path)
    assert not folder.exists()
