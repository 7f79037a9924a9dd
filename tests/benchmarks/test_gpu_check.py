"""The check of a GPU, on a CPU: its parts run, keep to their time, and survive what fails in them."""

from __future__ import annotations

import json
import socket
import time

import pytest
from rich.console import Console

from medgraft.benchmarks import gpu_check
from medgraft.benchmarks.gpu.setting import Setting


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting("cpu", True, tmp_path)


@pytest.mark.slow(seconds=30)
@pytest.mark.timeout(600)
def test_every_part_runs_on_a_cpu_and_says_what_it_could_not(tmp_path, capsys):
    out = tmp_path / "found.json"
    assert gpu_check.main(["--device", "cpu", "--quick", "--out", str(out), "--minutes", "20"]) == 0
    report = json.loads(out.read_text())
    assert report["format"] == gpu_check.FORMAT and report["ok"] and report["not_run"] == []
    status = {part: each["status"] for part, each in report["parts"].items()}
    assert status == {part: "not here" if part == "graphs" else "ok" for part in gpu_check.PARTS if part != "machine"}
    assert "no CUDA graphs" in report["parts"]["graphs"]["items"]["linear_probe"]["reason"]
    fp8 = report["parts"]["precision"]["items"]["fp8"]
    assert fp8["status"] == "not here" and "8.9" in fp8["reason"]
    assert report["parts"]["parity"]["items"]["lora"]["ops"]["packed_lora"][-1]["form"] == "fused"
    assert "Triton kernel was not run" in report["parts"]["kernels"]["items"]["bottleneck"]["form"]
    assert report["machine"]["packages"]["torch"]
    text = out.read_text()
    private = [str(tmp_path), "/home/", "/root/", socket.gethostname()]
    assert not [each for each in private if each in text]
    assert "written to" in capsys.readouterr().out


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "sees_gpu", lambda: False)
    out = tmp_path / "found.json"
    assert gpu_check.main(["--out", str(out)]) == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().out and not out.exists()


ITEMS = ["a", "b", "c"]
OK = {"status": "ok"}


def processes(monkeypatch, *answers):
    """Stands for processes that send these, one after another; notes what each was told is done."""
    waiting, told = iter(answers), []

    def answer(part, done, setting, until):
        told.append(done)
        return iter(next(waiting))

    monkeypatch.setattr(gpu_check, "answers", answer)
    return told


def test_a_process_that_dies_costs_one_item(setting, monkeypatch):
    told = processes(monkeypatch, [ITEMS, ("a", OK), -11], [ITEMS, ("c", OK), 0])
    found = gpu_check.run_part("kernels", setting, time.monotonic() + 60)
    assert told == [[], ["a", "b"]]
    assert found["status"] == "failed"
    assert found["items"]["b"] == {"status": "failed", "reason": "its process ended with code -11"}
    assert found["items"]["a"] == found["items"]["c"] == OK


def test_an_item_that_raises_is_a_record_and_the_next_process_goes_on(setting, monkeypatch):
    broken = {"status": "failed", "reason": "RuntimeError: CUDA error"}
    told = processes(monkeypatch, [ITEMS, ("a", broken), 0], [ITEMS, ("b", OK), ("c", OK), 0])
    found = gpu_check.run_part("kernels", setting, time.monotonic() + 60)
    assert told == [[], ["a"]] and found["items"] == {"a": broken, "b": OK, "c": OK}


def test_what_the_time_does_not_allow_is_named(setting, monkeypatch):
    processes(monkeypatch, [ITEMS, ("a", OK), None])
    found = gpu_check.run_part("kernels", setting, time.monotonic() + 60)
    assert found["status"] == "not run"
    assert [name for name, each in found["items"].items() if each["status"] == "not run"] == ["b", "c"]


@pytest.mark.parametrize(("code", "status"), [(None, "not run"), (1, "failed")])
def test_a_part_whose_process_says_nothing_is_named_itself(setting, monkeypatch, code, status):
    processes(monkeypatch, [code])
    found = gpu_check.run_part("kernels", setting, time.monotonic() + 60)
    assert found["items"].keys() == {"kernels"} and found["status"] == status


def test_the_report_names_what_was_not_reached_and_is_not_ok_where_something_is_wrong(setting, monkeypatch):
    each = {"status": "wrong"}
    answers = {"machine": [["facts"], ("facts", OK), 0], "parity": [ITEMS, ("a", each), None]}
    monkeypatch.setattr(gpu_check, "answers", lambda part, done, *_: iter(answers.get(part, [None])))
    report = gpu_check.check(setting, 1.0, Console(quiet=True), ["parity", "graphs"])
    assert not report["ok"] and report["not_run"] == ["parity/b", "parity/c", "graphs/graphs"]
    assert gpu_check.summary(report).row_count == 2


def test_the_shares_of_the_time_are_all_of_it():
    assert sum(share for share, *_ in gpu_check.PARTS.values()) == pytest.approx(1.0)
    assert gpu_check.MINUTES < 8
