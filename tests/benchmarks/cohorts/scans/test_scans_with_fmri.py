"""A run of fMRI beside T1, PET and diffusion: what is read of it, and how it joins the space."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.objectives.space.anchored import AnchoredObjective
from medgraft.benchmarks.phantoms.brain.scans import COMMON, Painter, draw_person, paint_run, write_scans
from medgraft.benchmarks.phantoms.brain.writing import save_volume
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.cohort import write_phantom
from medgraft.encoders.fmri import statistic_maps
from medgraft.errors import ConfigError, DataError
from medgraft.metric import Predictions
from medgraft.metric.judging import values
from medgraft.task.names import build_task

ENCODER = "pair:pixels:3d|fmri:maps=deviation:pixels:3d|pet:pixels:3d|dmri:pixels:3d"
SIZES = {"n_subjects": 16, "size": 8, "missing": 0.3, "seed": 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fmri") / "scans"
    write_scans(out, volumes=6, **SIZES)
    return out


def test_all_other_files_are_as_without_it(written, tmp_path):
    write_scans(tmp_path / "without", **SIZES)
    runs = list(written.rglob("*_bold.nii.gz"))
    others = list((tmp_path / "without").rglob("*.nii.gz"))
    assert len(runs) > 8 and len(others) + len(runs) == len(list(written.rglob("*.nii.gz")))
    for path in others:
        assert path.read_bytes() == (written / path.relative_to(tmp_path / "without")).read_bytes()


def test_the_amplitude_over_time_shows_the_numbers():
    painter, person = Painter(8), draw_person(np.random.default_rng(0), 0.0)
    maps = []
    for number in (-1.5, 1.5):
        common = np.zeros(COMMON)
        common[0] = number
        (run,) = paint_run(painter, person, common, 0.0, 400, np.random.default_rng(1)).values()
        maps.append(statistic_maps(np.moveaxis(run, -1, 0), ["deviation"])[0])
        assert run.shape == (8, 8, 8, 400) and abs(run[run != 0].mean() - 1000) < 1
    painted = [
        painter.scan("bold", person, number * np.eye(COMMON)[0], np.random.default_rng(1)) for number in (-1.5, 1.5)
    ]
    change, expected = maps[1] - maps[0], painted[1] - painted[0]
    inside = maps[0] > 0
    assert np.corrcoef(change[inside], expected[inside])[0, 1] > 0.8  # what is left is the noise of 400 volumes


def test_a_run_is_of_its_session_and_its_mask_counts(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "scans"))
    (image, mask) = next(each for each in read_scans(root).fmri if each)
    assert mask is None
    brain = np.zeros((8, 8, 8), np.int16)
    brain[2:6, 2:6, 2:6] = 1
    save_volume(image.with_name(image.name.replace("desc-preproc_bold", "desc-brain_mask")), brain, Painter(8).affine)
    raw = image.with_name(image.name.replace("desc-preproc", "desc-smooth"))
    shutil.copy(image, raw)
    scans = read_scans(root)
    row = next(i for i, each in enumerate(scans.fmri) if each and each[0] == image)
    assert image.name.startswith(f"{scans.frame['subject'][row]}_{scans.frame['session'][row]}_")
    assert (scans.fmri[row] or (None, None))[1] and raw not in [each[0] for each in scans.fmri if each]
    data = build_task("brain_space:fmri", {"reference": "cerebellum"}).load(root)
    sample = data.inputs["volume_sequence"].read(row)
    assert sample.shape == (6, 8, 8, 8) and not sample[:, brain == 0].any()


def test_without_runs_it_is_said(written, tmp_path):
    write_scans(tmp_path / "without", **SIZES)
    with pytest.raises(DataError, match="nobody with a diagnosis of CN-AD has a volume_sequence scan"):
        build_task("brain_scans:fmri", {}).load(tmp_path / "without")
    with pytest.raises(DataError, match="0 people have both volume and volume_sequence scans"):
        build_task("brain_space:fmri", {}).load(tmp_path / "without")
    with pytest.raises(ConfigError, match="set volumes: 0"):
        write_phantom("brain_scans", tmp_path / "x", {"subjects": 4, "size": 8, "volumes": 5, "layout": "loni"})


def test_it_joins_the_space_and_meets_pet_and_diffusion_without_a_pair(written):
    facts = {"adapter": "linear_probe", "encoder": ENCODER, "task": "brain_space:fmri", "task_options": {}, "seed": 0}
    cohort = CohortId(name="brain_scans", revision="test", phantom=True)
    train = {"head_lr": 1e-2, "epochs": 2, "batch_size": 8}
    made = build(load(CellSpec.model_validate({**facts, "train": train, "cohort": cohort}), written))
    objective, data = made.runner.objective, made.loaded.data
    assert isinstance(objective, AnchoredObjective) and list(data.inputs)[1] == "volume_sequence"
    assert {"r1_volume_sequence_pet", "r1_volume_sequence_dmri", "auc_4_kinds"} <= set(data.provenance["bayes"])
    groups = np.unique(data.subjects[made.loaded.splits["test"]], return_inverse=True)[1]
    predicted = objective.predictions(made.runner.predict, made.loaded.splits, groups)
    numbers = values(Predictions(**{**vars(predicted), "objective": "anchored"}))
    assert sum(name.startswith("subset_") for name in numbers) == 15
    assert {"r1_anchor", "r1_emergent", "r1_emergent_chance"} <= set(numbers)
