"""What a watcher reads of sweeps: planned, done, at work, failed, time left; alive, ended, killed or silent."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from medgraft.benchmarks.cell.job import Job, failure
from medgraft.benchmarks.cell.progress import ProgressWriter
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.writing import machine_mark
from medgraft.benchmarks.watch import journal
from medgraft.benchmarks.watch.following import SILENT, Folder, Status
from medgraft.benchmarks.watch.journal import Journal, planned
from medgraft.benchmarks.watch.screen import folder_lines, sweep_lines

DEAD = 4_194_305
"""Above the largest process number."""
SECRET = "/data/patients"


def cell(adapter: str = "lora", seed: int = 0, **changes) -> CellSpec:
    facts = {"name": "adni", "revision": "r", "phantom": True}
    fields = {"task": "adni_image_text", "encoder": "phantom_brain", "train": {"epochs": 3}, "cohort": facts}
    return CellSpec.model_validate({**fields, "adapter": adapter, "seed": seed, **changes})


CELLS = [cell(adapter, seed) for adapter in ("lora", "attentive_probe") for seed in range(3)]


def good(spec: CellSpec, seconds: float = 10.0) -> CellResult:
    result = failure(Job(spec=spec, root=Path(SECRET)), "error", "")
    return result.model_copy(update={"status": "success", "message": "", "stage": "", "timing": {"train": seconds}})


def bad(spec: CellSpec) -> CellResult:
    result = failure(Job(spec=spec, root=Path(SECRET)), "oom", "no memory\x1b[31m left", "training")
    return result.model_copy(update={"timing": {"failed": 1.0}})


def sweep(root: Path, cells=CELLS, kept=(), process: int | None = None, machine: str | None = None, **more) -> Journal:
    plan = planned(cells, {}, kept, launcher="local", at_once=2, work=".work-1-0")
    changes = {"process": process or os.getpid(), "machine": machine or machine_mark(), **more}
    return Journal(root, plan.model_copy(update=changes))


def at_work(root: Path, spec: CellSpec, doing: str = "training", share: float = 0.4, work: str = ".work-1-0") -> Path:
    folder = root / work / spec.key()
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(Job(spec=spec, root=Path(SECRET)).model_dump_json())
    if doing:
        writer = ProgressWriter(folder)
        writer.step(doing, share)
        writer.close()
    return folder


def only(root: Path, now: float | None = None) -> Status:
    (status,) = Folder(root).look(now)
    return status


def test_a_running_sweep_is_told_in_full(tmp_path):
    log = sweep(tmp_path, kept=[CELLS[0].key()])
    log.cell(good(CELLS[1], 20.0), 20.0)
    log.cell(bad(CELLS[2]), 20.0)
    log.row([each.key() for each in CELLS[:3]], "f1_macro 0.512 [.42-.61], 3 seeds")
    at_work(tmp_path, CELLS[3])
    at_work(tmp_path, CELLS[4], doing="")
    status = only(tmp_path)
    assert (status.standing, status.total, status.kept, status.done) == ("running", 6, 1, 1)
    assert [(each.name, each.status) for each in status.failed] == [
        ("adni_image_text / phantom_brain / lora seed 2", "oom")
    ]
    assert status.failed[0].message == "while training: no memory\\x1b[31m left"
    assert sorted((each.doing, each.share) for each in status.working) == [("starting", 0.0), ("training", 0.4)]
    assert status.rows == ["adni_image_text / phantom_brain / lora: f1_macro 0.512 [.42-.61], 3 seeds"]
    # Three cells are ahead, of an adapter of which none has ended: the mean of 20 and 1 seconds each, two at a time.
    assert status.left == pytest.approx(3 * 10.5 / 2, abs=1.0)


@pytest.mark.parametrize(
    ("error", "how"), [(None, "finished"), (KeyboardInterrupt, "interrupted"), (OSError, "stopped")]
)
def test_an_end_is_told_as_what_it_was(tmp_path, error, how):
    log = sweep(tmp_path)
    with pytest.raises(error) if error else open(os.devnull), log.ending([]):
        if error:
            raise error
    at_work(tmp_path, CELLS[0])
    status = only(tmp_path, time.time() + 10 * SILENT)
    assert status.standing == how and status.working == [] and status.left is None


def test_a_sweep_whose_process_is_gone_was_killed(tmp_path):
    sweep(tmp_path, process=DEAD)
    at_work(tmp_path, CELLS[0])
    status = only(tmp_path)
    assert status.standing == "killed" and len(status.working) == 1
    text = "\n".join(sweep_lines(status, 80))
    assert "killed" in text and "1 left at work" in text and "5 not run" in text and "left," not in text


def test_on_another_machine_a_sign_of_life_counts(tmp_path):
    log = sweep(tmp_path, process=DEAD, machine="00000000")
    folder, now = Folder(tmp_path), time.time()
    assert folder.look(now)[0].standing == "running"
    late = now + 2 * SILENT
    (status,) = folder.look(late)
    assert status.standing == "silent" and "no sign of life for 2 min" in "\n".join(sweep_lines(status, 200))
    os.utime(log.path, (now - 5000, now - 4000))  # by a clock that is an hour behind, and yet a change
    assert folder.look(late + 1)[0].standing == "running"


def test_the_sweep_gives_signs_of_life_and_not_too_many(tmp_path, monkeypatch):
    log = sweep(tmp_path)
    os.utime(log.path, (1, 1))
    log.beat()
    assert log.path.stat().st_mtime == 1, "not before its time"
    log.beaten -= journal.BEAT
    log.beat()
    assert time.time() - log.path.stat().st_mtime < 60


def test_a_worker_that_says_nothing_for_long_is_told(tmp_path):
    sweep(tmp_path)
    folder = at_work(tmp_path, CELLS[0], "computing the frozen prefix", 0.0)
    os.utime(folder / "progress.jsonl", (time.time() - 600, time.time() - 600))
    assert "computing the frozen prefix 0%, 0 s, no word for 10 min" in "\n".join(sweep_lines(only(tmp_path), 200))


def test_several_sweeps_are_shown_the_running_one_first(tmp_path):
    with sweep(tmp_path, cells=CELLS[:1], process=1111, started=5000.0).ending([]):
        pass
    sweep(tmp_path, cells=CELLS[:2], process=DEAD, started=1000.0)
    sweep(tmp_path, cells=CELLS, started=3000.0)
    found = Folder(tmp_path).look()
    assert [(each.standing, each.total) for each in found] == [("running", 6), ("finished", 1), ("killed", 2)]
    text = "\n".join(folder_lines(found, 200))
    assert text.index("running") < text.index("earlier") < text.index("finished") < text.index("killed")


def test_a_sweep_of_an_earlier_version_is_seen_by_its_work(tmp_path):
    at_work(tmp_path, CELLS[0], work=f".work-{os.getpid()}")
    (tmp_path / f".work-{os.getpid()}" / "machine").write_text(machine_mark())
    result = tmp_path / "a" / "b" / "c" / f"{CELLS[1].key()}.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    status = only(tmp_path)
    assert (status.standing, status.planned, status.done, len(status.working)) == ("running", False, 1, 1)
    assert "what is still ahead is not known" in " ".join(sweep_lines(status, 80))


def test_damaged_and_foreign_files_are_passed_over(tmp_path):
    log = sweep(tmp_path)
    with log.path.open("ab") as file:
        file.write(b'nonsense\n[1]\n{"cell": "unknown", "status": "success", "seconds": 1}\n{"cell": 3}\n\xff\n')
        file.write(b"[" * 50_000 + b'\n{"row": "' + CELLS[0].key().encode() + b'", "metric": "\\u001b[31mred"}\n{"end')
    folder = log.path.parent
    (folder / f"x{journal.ENDING}").write_text("[]\n")
    (folder / f"y{journal.ENDING}").write_text(json.dumps({"version": 99}) + "\n")
    (folder / f"z{journal.ENDING}").write_text("")
    os.mkfifo(folder / f"pipe{journal.ENDING}")
    broken = tmp_path / ".work-1-0" / "k"
    broken.mkdir(parents=True)
    (broken / "job.json").write_text('{"spec": 3}')
    status = only(tmp_path)
    assert status.standing == "running" and status.working == [] and status.done == 0
    assert status.rows == ["adni_image_text / phantom_brain / lora: \\x1b[31mred"]


def test_a_journal_grows_while_it_is_followed_and_may_go(tmp_path):
    log, folder = sweep(tmp_path), Folder(tmp_path)
    assert folder.look()[0].done == 0
    log.cell(good(CELLS[0]), 20.0)
    assert folder.look()[0].done == 1 and folder.look()[0].done == 1
    log.path.unlink()
    assert folder.look() == []


def test_nothing_of_the_machine_but_its_name_stands_in_a_journal(tmp_path):
    log = sweep(tmp_path)
    log.cell(bad(CELLS[0]), 20.0)
    text = log.path.read_text()
    assert SECRET not in text and str(tmp_path) not in text and os.path.expanduser("~/") not in text
    assert socket.gethostname() in text and all(json.loads(line) for line in text.splitlines())


def test_journals_of_long_ago_go_when_another_sweep_begins(tmp_path):
    for k in range(journal.KEPT + 5):
        path = sweep(tmp_path, cells=CELLS[:1], process=k + 1).path
        os.utime(path, (1000 + k, 1000 + k))
    sweep(tmp_path)
    left = sorted((tmp_path / journal.FOLDER).iterdir())
    assert len(left) == journal.KEPT + 1 and not any(path.name.endswith("-1.sweep.jsonl") for path in left)


def test_a_folder_that_takes_no_journal_costs_only_the_journal(tmp_path, caplog):
    (tmp_path / journal.FOLDER).write_text("a file in its place")
    log = sweep(tmp_path)
    log.cell(good(CELLS[0]), 20.0)
    log.beat()
    assert "medgraft watch will not see this sweep" in caplog.text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("height", [None, 10, 24])
def test_lines_fit_and_break_between_words_alone(tmp_path, width, height):
    log = sweep(tmp_path)
    log.cell(bad(CELLS[0]), 20.0)
    for spec in CELLS[1:3]:
        at_work(tmp_path, spec)
    log.row([CELLS[0].key()], "f1_macro 0.512 [.42-.61], 3 seeds")
    lines = folder_lines(Folder(tmp_path).look(), width, height)
    assert max(map(len, lines)) <= width and (height is None or len(lines) <= height)
    if height is None:
        words = " ".join(lines).split()
        for name in ("adni_image_text", "phantom_brain", "lora:", "oom", "training", "40%,", "[.42-.61],"):
            assert name in words


def test_looking_changes_nothing_in_the_folder(tmp_path):
    sweep(tmp_path, process=DEAD)
    at_work(tmp_path, CELLS[0])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Folder(tmp_path).look()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
