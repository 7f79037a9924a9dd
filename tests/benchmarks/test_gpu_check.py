"""The check of a GPU, on a CPU: its parts run, keep to their time, and survive what fails in them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medgraft.benchmarks import gpu_check
from medgraft.benchmarks.gpu import jobs
from medgraft.benchmarks.gpu.setting import Setting
from medgraft.benchmarks.sweep.plan import make_plan
from medgraft.benchmarks.sweep.request import Sweep


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
    private = [str(tmp_path), f"{Path.home()}/", str(Path.cwd()), socket.gethostname()]
    assert not [each for each in private if each in text]
    assert "written to" in capsys.readouterr().out


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "sees_gpu", lambda: False)
    out = tmp_path / "found.json"
    assert gpu_check.main(["--out", str(out)]) == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("out", ["", "nowhere/found.json"])
def test_what_cannot_be_written_is_said_in_one_sentence_before_anything_runs(tmp_path, monkeypatch, capsys, out):
    monkeypatch.setattr(gpu_check, "sees_gpu", lambda: pytest.fail("it had begun"))
    assert gpu_check.main(["--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --out {tmp_path / out} cannot be written (") and "choose" in line


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_are_a_positive_number(capsys, minutes):
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", "cpu", "--minutes", minutes])
    assert f"{minutes} is not above 0 and at most 1440" in capsys.readouterr().err


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


def ran(setting: Setting, part: str = "kernels") -> dict[str, Any]:
    """The records of a part's items."""
    found = dict[str, Any]()
    gpu_check.run_part(part, setting, time.monotonic() + 60, found)
    return found


def test_a_process_that_dies_costs_one_item(setting, monkeypatch):
    told = processes(monkeypatch, [ITEMS, ("a", OK), -11], [ITEMS, ("c", OK), 0])
    found = ran(setting)
    assert told == [[], ["a", "b"]]
    assert found["b"] == {"status": "failed", "reason": "its process ended with code -11"}
    assert found["a"] == found["c"] == OK


def test_an_item_that_raises_is_a_record_and_the_next_process_goes_on(setting, monkeypatch):
    broken = {"status": "failed", "reason": "RuntimeError: CUDA error"}
    told = processes(monkeypatch, [ITEMS, ("a", broken), 0], [ITEMS, ("b", OK), ("c", OK), 0])
    found = ran(setting)
    assert told == [[], ["a"]] and found == {"a": broken, "b": OK, "c": OK}


def test_what_the_time_does_not_allow_is_named(setting, monkeypatch):
    processes(monkeypatch, [ITEMS, ("a", OK), None])
    found = ran(setting)
    late = {"status": "not run", "reason": "the time was over"}
    running = {"status": "not run", "reason": "it had not ended when the time was over"}
    assert found == {"a": OK, "b": running, "c": late}


@pytest.mark.parametrize(("code", "status"), [(None, "not run"), (1, "failed")])
def test_a_part_whose_process_says_nothing_is_named_itself(setting, monkeypatch, code, status):
    processes(monkeypatch, [code])
    found = ran(setting)
    assert found.keys() == {"kernels"} and found["kernels"]["status"] == status


def test_the_report_names_what_was_not_reached_and_is_not_ok_where_something_is_wrong(setting, monkeypatch):
    each = {"status": "wrong"}
    answers = {"machine": [["facts"], ("facts", OK), 0], "parity": [ITEMS, ("a", each), None]}
    monkeypatch.setattr(gpu_check, "answers", lambda part, done, *_: iter(answers.get(part, [None])))
    reports = list[dict[str, Any]]()
    assert gpu_check.check(setting, 1.0, Console(quiet=True), reports.append, ["parity", "graphs"])
    assert [report["not_run"] for report in reports] == [
        ["parity/parity", "graphs/graphs"],  # each is whole, should it be the last that can be written
        ["parity/b", "parity/c", "graphs/graphs"],
        ["parity/b", "parity/c", "graphs/graphs"],
    ]
    assert [report["ok"] for report in reports] == [True, False, False]
    assert gpu_check.summary(reports[-1]).row_count == 2


def test_parts_that_were_asked_for_have_all_of_the_time(setting, monkeypatch):
    ends = dict[str, float]()
    monkeypatch.setattr(gpu_check, "answers", lambda part, done, _, until: ends.update({part: until}) or iter([None]))
    start = time.monotonic()
    gpu_check.check(setting, 10.0, Console(quiet=True), lambda report: None, ["parity", "graphs"])
    assert ends["graphs"] - start == pytest.approx(600, abs=1)
    share = sum(gpu_check.PARTS[part][0] for part in ("machine", "parity"))
    assert ends["parity"] - start == pytest.approx(600 * share / (share + gpu_check.PARTS["graphs"][0]), abs=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_what_was_done_and_one_line(tmp_path, monkeypatch, capsys, number):
    wrong = {"status": "wrong", "reason": "shape [2] of [/a/file]"}

    def answer(part, done, setting, until):
        yield ITEMS
        yield ("a", wrong if part == "machine" else OK)
        if part == "parity":
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # of whoever is impatient
        yield ("b", OK)
        yield ("c", OK)
        yield 0

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(gpu_check, "answers", answer)
    monkeypatch.setattr(gpu_check, "start_fork_server", lambda: None)
    out = tmp_path / "found.json"
    assert gpu_check.main(["--device", "cpu", "--out", str(out)]) == 130
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  a: wrong, shape [2] of [/a/file]"]
    assert last == f"interrupted; what was done is written to {out}"
    report = json.loads(out.read_text())
    stopped = {"status": "not run", "reason": "interrupted"}
    assert report["parts"]["parity"]["items"] == {"a": OK, "b": stopped, "c": stopped}
    assert report["parts"]["graphs"]["items"] == {"graphs": stopped} and "graphs/graphs" in report["not_run"]


def broken(*_: Any) -> Any:
    raise OSError(f"{Path.home()}/driver.so does not fit")


def breaks(item: str, setting: Setting) -> dict[str, Any]:
    """Items that raise, that end their process and that are wrong."""
    if item == "raises":
        raise RuntimeError(f"CUDA error in {setting.folder}/kernel")
    if item == "dies":
        os._exit(7)
    return {"ok": item != "wrong", "number": 1}


@pytest.fixture
def forked(monkeypatch) -> None:
    """Processes have what a test puts in the place of a part."""
    monkeypatch.setitem(gpu_check.METHOD, "cpu", "fork")
    items = ["raises", "good", "dies", "wrong"]
    monkeypatch.setitem(gpu_check.PARTS, "parity", (0.2, broken, breaks))
    monkeypatch.setitem(gpu_check.PARTS, "kernels", (0.2, lambda _: items, breaks))


def test_broken_parts_are_recorded_and_the_others_go_on(setting, forked):
    reports = list[dict[str, Any]]()
    assert gpu_check.check(setting, 9.0, Console(quiet=True), reports.append, ["parity", "kernels"])
    report = reports[-1]
    assert not report["ok"] and report["not_run"] == [] and report["machine"]["status"] == "ok"
    assert report["parts"]["parity"]["items"]["parity"]["reason"].startswith("OSError: ")
    assert str(Path.home()) not in str(report)
    items = report["parts"]["kernels"]["items"]
    assert {item: each["status"] for item, each in items.items()} == {
        "raises": "failed", "good": "ok", "dies": "failed", "wrong": "wrong",
    }  # fmt: skip
    assert items["raises"]["reason"] == "RuntimeError: CUDA error in TEMPORARY/kernel"
    assert items["dies"]["reason"] == "its process ended with code 7"


@pytest.mark.slow(seconds=10)
def test_processes_start_as_on_a_gpu(setting, monkeypatch):
    monkeypatch.setitem(gpu_check.METHOD, "cpu", gpu_check.METHOD["cuda"])
    assert ran(setting, "machine")["facts"]["status"] == "ok"


@pytest.mark.slow(seconds=20)
def test_what_a_family_is_made_of_fits():
    """The encoder of each job takes its adapter, which would otherwise be found out on a card."""
    for item in jobs.FAMILIES:
        sweep = Sweep.model_validate(jobs.request(item, Setting("cpu", True, Path("made"))))
        assert len(make_plan(sweep, Console(quiet=True)).cells) == 1


def test_the_shares_of_the_time_are_all_of_it():
    assert sum(share for share, *_ in gpu_check.PARTS.values()) == pytest.approx(1.0)
    assert gpu_check.MINUTES < 8
    page = (Path(__file__).parents[2] / "docs/how-to/gpu.md").read_text()
    for part, (share, *_) in gpu_check.PARTS.items():
        assert f"| `{part}` | {share:.0%} | {60 * gpu_check.MINUTES * share:g} s |" in page
