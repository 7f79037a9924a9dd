"""run --keep and predict, as a user types them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from own_data import picture, two_classes
from sweeping import typed as medgraft


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A sweep of two seeds with their grafts."""
    home = tmp_path_factory.mktemp("sweep")
    two_classes(home / "data", 24)
    sweep = ("run", "--adapters", "lora", "--seeds", "0,1", "--epochs", "1", "--no-baselines", "--tasks", "table")
    done = medgraft(*sweep, "--data", "table=data/cohort.csv", "--keep", "all", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept: ") == 2
    return home


def grafts(home: Path) -> list[Path]:
    return sorted((home / "results").rglob("*.adapter"))


@pytest.mark.slow
def test_a_folder_is_predicted_and_gone_on_with(home, tmp_path):
    graft = grafts(home)[0]
    for k in range(5):
        picture(tmp_path / "new" / f"{k}.png", 100 + k)
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    first = medgraft("predict", graft, "new", "--out", "p.csv", cwd=tmp_path)
    assert first.returncode == 1 and "5 predictions in p.csv" in first.stdout, first.stderr
    with (tmp_path / "p.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["input"] for row in rows] == [f"new/{k}.png" for k in range(5)] + ["new/broken.png"]
    assert all(row["prediction"] in "ab" for row in rows[:5]) and rows[5]["p:a"] == ""
    picture(tmp_path / "new" / "5.png", 200)
    again = medgraft("predict", graft, "new", "--out", "p.csv", cwd=tmp_path)
    assert again.returncode == 0 and "6 of 7 stand in p.csv already" in again.stdout and "1 predictions" in again.stdout
    other = medgraft("predict", grafts(home)[1], "new", "--out", "p.csv", cwd=tmp_path)
    assert other.returncode == 2 and "name another" in other.stderr


@pytest.mark.slow
def test_a_kill_loses_one_batch_at_most(home, tmp_path):
    for k in range(60):
        picture(tmp_path / "new" / f"{k:02d}.png", k)
    program = [sys.executable, "-m", "medgraft.benchmarks.commands.main"]
    command = [*program, "predict", str(grafts(home)[0]), "new", "--out", "p.csv", "--batch", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        (tmp_path / "p.csv").exists() and (tmp_path / "p.csv").read_bytes().count(b"\n") > 3
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = medgraft("predict", grafts(home)[0], "new", "--out", "p.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["input"] for row in rows] == [f"new/{k:02d}.png" for k in range(60)]


@pytest.mark.slow
def test_the_best_seed_is_kept_and_missing_grafts_are_made_again(home, tmp_path):
    shutil.copytree(home, tmp_path / "copy")
    copy = tmp_path / "copy"
    validation = {path: json.loads((path / "prediction.json").read_text())["validation"] for path in grafts(copy)}
    sweep = ("run", "--adapters", "lora", "--seeds", "0,1", "--epochs", "1", "--no-baselines", "--tasks", "table")
    sweep = (*sweep, "--data", "table=data/cohort.csv")
    done = medgraft(*sweep, "--keep", "best", cwd=copy)
    assert done.returncode == 0 and "2 of 2 cells are done already" in done.stdout, done.stderr
    (left,) = grafts(copy)
    assert validation[left] == max(validation.values())
    again = medgraft(*sweep, "--keep", "best", cwd=copy)  # a pruned seed is not trained again
    assert "2 of 2 cells are done already" in again.stdout and grafts(copy) == [left]
    shutil.rmtree(left)
    made = medgraft(*sweep, "--keep", "all", cwd=copy)
    assert made.returncode == 0 and len(grafts(copy)) == 2, made.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("predict", "gone.adapter", "x.png"), "holds no prediction.json"),
        (("run", "--adapters", "lora", "--tasks", "rsna_detection", "--keep", "all"), "are places in an image"),
        (("run", "--adapters", "lora", "--keep", "some"), "keep"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, arguments, problem):
    done = medgraft(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and problem in done.stderr and "Traceback" not in done.stderr, done.stderr
