"""One small sweep over the built-in tasks on phantom cohorts: it ends well, and no identifier leaves the cohort."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult

IDENTIFIER = re.compile(rb"\d{3}_S_\d{4}|patient\d+|sub-ADNI|view\d_frontal|_Br_\d{17}")
TASKS = "adni_image_text,chexpert,chexpert_5x200"

pytestmark = pytest.mark.slow


@dataclass
class Swept:
    done: subprocess.CompletedProcess[str]
    folder: Path
    damaged: str

    def cell(self, task: str) -> tuple[Path, CellResult]:
        return next(item for item in read_results([self.folder]) if item[1].spec.task == task)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, adni_cohort: Path, chest_cohort: Path) -> Swept:
    home = tmp_path_factory.mktemp("medical")
    adni = Path(shutil.copytree(adni_cohort, home / "adni"))
    broken = sorted(adni.rglob("*.nii"))[0]
    broken.write_bytes(broken.read_bytes()[:1000])
    (home / "sweep.yaml").write_text(
        "adapters: [linear_probe, zero_shot]\nencoders: [phantom_brain@random, phantom_chest@random]\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "medgraft.benchmarks.run", "--config", str(home / "sweep.yaml"), "--tasks", TASKS),
            *("--data", f"adni={adni}", "--data", f"chexpert={chest_cohort}", "--seeds", "0", "--epochs", "2"),
            *("--limit", "12", "--no-baselines", "--results", str(home / "results"), "--jobs", "2"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        cwd=home,
        timeout=280,
    )
    return Swept(done, home / "results", broken.name)


SCARCE = "too few subjects for every split to have one, so scores say little: Atelectasis ("


def test_every_pair_that_fits_succeeds_and_the_others_say_why(swept):
    assert swept.done.returncode == 0, swept.done.stdout + swept.done.stderr
    found = {
        (cell.spec.task, cell.spec.encoder, cell.spec.adapter): cell.status for _, cell in read_results([swept.folder])
    }
    assert found == {
        ("adni_image_text", "phantom_brain@random", "linear_probe"): "success",
        ("chexpert", "phantom_chest@random", "linear_probe"): "success",
        ("chexpert_5x200", "phantom_chest@random", "zero_shot"): "success",
        ("chexpert_5x200", "phantom_chest@random", "linear_probe"): "success",
    }
    assert "skipped adni_image_text / phantom_chest@random / linear_probe: the task reads volume" in swept.done.stdout


def test_no_identifier_is_in_any_file_or_on_the_terminal(swept):
    assert not IDENTIFIER.search((swept.done.stdout + swept.done.stderr).encode())
    files = [path for path in swept.folder.rglob("*") if path.is_file()]
    logs = [path for path in files if path.suffix == ".log"]
    assert all(SCARCE in path.read_text() for path in logs) and len(logs) == 1  # chexpert's cell says what it lacks
    assert len(files) - len(logs) == 11  # four results, their predictions, the board twice, and the journal
    for path in files:
        assert not IDENTIFIER.search(path.read_bytes()) and not IDENTIFIER.search(str(path).encode()), path


def test_a_quiet_run_writes_nothing_to_stderr(swept):
    # Twelve samples per split lack classes of chexpert, which is said, and no more.
    lines = swept.done.stderr.splitlines()
    assert len(set(lines)) == 1 and SCARCE in lines[0], lines


def test_predictions_hold_numbers_only(swept):
    for path in swept.folder.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            assert {stored[name].dtype.kind for name in stored.files} <= set("fib"), path


def test_the_damaged_volume_is_counted_and_not_named(swept):
    assert swept.cell("adni_image_text")[1].data["unreadable"] == 1
    assert swept.cell("adni_image_text")[1].data["unreadable_reasons"] == {"no image, or cut": 1}
    said = next(line for line in swept.done.stdout.splitlines() if line.startswith("left out of adni_image_text"))
    assert "no image, or cut: 1" in said
    assert swept.damaged not in swept.done.stdout + swept.done.stderr


def test_everything_says_phantom(swept):
    assert all(cell.phantom for _, cell in read_results([swept.folder]))
    assert set(pd.read_csv(swept.folder / "leaderboard.csv")["data"]) == {"PHANTOM"}
    headings = [line for line in (swept.folder / "leaderboard.md").read_text().splitlines() if line.startswith("## ")]
    assert len(headings) == 3 and all("PHANTOM" in line for line in headings)
    titles = [line for line in swept.done.stdout.splitlines() if line.strip().startswith(tuple(TASKS.split(",")))]
    assert len(titles) == 3 and all("PHANTOM" in line for line in titles)


def test_costs_are_measured(swept):
    for _, cell in read_results([swept.folder]):
        found = cell.efficiency
        assert found is not None and found.encoder_parameters > 1e5 and found.process_peak_bytes
        assert found.inference_samples_per_s and found.inference_samples_per_s > 0
        assert found.forward_flops and found.forward_flops > 1e6
        trains = cell.training["steps"] > 0
        assert (found.train_samples_per_s is not None) == trains == (found.train_step_peak_bytes is not None)


def test_a_probe_trains_from_cached_features(swept):
    found = swept.cell("chexpert")[1].efficiency
    assert found is not None
    (stage, stages) = found.cached_stage["image"]
    assert stage == stages > 1


def test_stored_metrics_follow_from_stored_predictions(swept):
    from medgraft.benchmarks.board.rows import _predictions
    from medgraft.benchmarks.objectives.evaluation import evaluate

    for path, cell in read_results([swept.folder]):
        predictions = _predictions(path, cell)
        assert predictions is not None and evaluate(predictions) == cell.metrics, cell.spec.task
