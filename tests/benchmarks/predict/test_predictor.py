"""A kept graft predicts what it predicted in its cell, for every objective whose predictions are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Ran, ran, spec
from own_data import picture, pictures, table, two_classes, volume

import medgraft
from medgraft.benchmarks.cell.kept import FACTS, read_facts
from medgraft.benchmarks.cell.steps.keeping import keep
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.tasks.own.table import Table
from medgraft.errors import CheckpointError, DataError
from medgraft.options import checked

SMALL = {"epochs": 1, "batch_size": 8}


def cell(root: Path, task: str = "table", encoder: str = "phantom_chest", adapter: str = "lora", **more: Any) -> Ran:
    options = more.pop("task_options", {})
    if task == "table":
        options = Table(checked(Table.Config, options, "")).settled(root).config.model_dump(mode="json")
    return ran(
        spec(
            task=task,
            encoder=encoder,
            adapter=adapter,
            task_options=options,
            train={**SMALL, **more.pop("train", {})},
            **more,
        ),
        root,
    )


def kept(run: Ran, folder: Path) -> Predictor:
    keep(run.ready, run.evaluated, folder)
    return Predictor(folder)


def same_scores(run: Ran, folder: Path) -> Predictor:
    """The test samples, read as raw samples and predicted by the kept graft, have the scores of the cell."""
    predictor = kept(run, folder)
    test = run.loaded.splits["test"]
    samples = [{name: run.loaded.data.inputs[name].read(int(i)) for name in predictor.facts.inputs} for i in test]
    scores = np.concatenate([predictor.scores(samples[k : k + 5]) for k in range(0, len(samples), 5)])
    # Training and cell read prepared inputs and frozen features in half precision, see docs/speed.md.
    np.testing.assert_allclose(scores, run.arrays["scores"], rtol=5e-3, atol=5e-3)
    return predictor


def labels(folder: Path, **columns: Any) -> Path:
    return table(folder, {"image": pictures(folder, 40), "patient": range(40), **columns})


def test_classes(tmp_path):
    run = cell(two_classes(tmp_path / "data", 40))
    predictor = same_scores(run, tmp_path / "graft")
    facts = predictor.facts
    assert facts.classes == ("a", "b") and facts.thresholds is None and facts.primary == "auc_macro"
    assert facts.validation is not None and facts.test[0] == run.evaluated.metrics["auc_macro"].value
    assert facts.split_hash == run.loaded.data.split_hash()


def test_labels_with_thresholds(tmp_path):
    root = labels(tmp_path / "data", label=["x", "y", "x|y", "none"] * 10)
    predictor = same_scores(cell(root), tmp_path / "graft")
    frame = predictor.predict([tmp_path / "data" / "x0.png"])
    thresholds = dict(zip(predictor.facts.classes, predictor.facts.thresholds, strict=True))
    chosen = [name for name, threshold in thresholds.items() if frame[f"p:{name}"][0] >= threshold]
    assert frame["prediction"][0] == "|".join(chosen)


def test_numbers(tmp_path):
    run = cell(labels(tmp_path / "data", target=[40.5 + k for k in range(40)]))
    predictor = kept(run, tmp_path / "graft")
    assert predictor.facts.state == run.runner.objective.state() and predictor.facts.state["deviation"] > 5
    value = predictor.predict(tmp_path / "data" / "x3.png")["value"][0]
    assert 0 < value < 120
    test = run.loaded.splits["test"]
    samples = [{"image": run.loaded.data.inputs["image"].read(int(i))} for i in test]
    np.testing.assert_allclose(predictor.scores(samples), run.arrays["scores"], rtol=2e-2)


def test_times(tmp_path):
    root = labels(tmp_path / "data", time=[1.0 + k for k in range(40)], event=[k % 2 for k in range(40)])
    same_scores(cell(root), tmp_path / "graft")


@pytest.mark.slow
def test_volumes_with_spacing(tmp_path):
    names = [volume(tmp_path / "data" / f"v{k}.nii.gz", k).name for k in range(20)]
    root = table(tmp_path / "data", {"scan": names, "label": ["a", "b"] * 10, "patient": range(20)})
    predictor = same_scores(cell(root, encoder="phantom_brain"), tmp_path / "graft")
    assert predictor.facts.ranges["volume"]["largest voxel side in mm"].low == 2.0


@pytest.mark.slow
def test_image_and_text(tmp_path):
    root = labels(tmp_path / "data", label=["a", "b"] * 20, text=[f"opacity {k % 7} seen" for k in range(40)])
    predictor = same_scores(cell(root), tmp_path / "graft")
    frame = predictor.predict([root])
    assert list(frame["status"].unique()) == ["ok"] and len(frame) == 40
    with pytest.raises(DataError, match="a sample is image and text; name a table with a column for each"):
        predictor.predict([tmp_path / "data" / "x0.png"])


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["zero_shot", "clip_lora", "coop", "tip_adapter"])
def test_classes_by_prompts(adapter, chest_cohort, tmp_path):
    options = {"shots": 4}
    run = cell(chest_cohort, "chexpert_few_shot", adapter=adapter, task_options=options, train={"batch_size": 4})
    same_scores(run, tmp_path / "graft")


def test_plain_runs_agree_to_rounding(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_PLAIN", "1")
    run = cell(two_classes(tmp_path / "data", 24))
    predictor = kept(run, tmp_path / "graft")
    test = run.loaded.splits["test"]
    scores = predictor.scores([{"image": run.loaded.data.inputs["image"].read(int(i))} for i in test])
    np.testing.assert_allclose(scores, run.arrays["scores"], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def graft(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("graft")
    run = cell(two_classes(home / "data", 24))
    keep(run.ready, run.evaluated, home / "graft")
    return home / "graft"


def test_bad_files_are_rows_with_a_reason(graft, tmp_path):
    picture(tmp_path / "good.png", 7)
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    picture(tmp_path / "black.png", shape=(9, 9), dtype=np.bool_)
    (tmp_path / "one.png").write_bytes(picture(tmp_path / "x.png", shape=(1, 1)).read_bytes())
    volume(tmp_path / "v.nii")
    frame = medgraft.load(graft).predict([tmp_path])
    status = {Path(row.input).name: row.status for row in frame.itertuples()}
    assert status["good.png"] == "ok" and frame.loc[frame.status == "ok", "p:a"].notna().all()
    assert status["v.nii"] == "a volume, and the graft reads images" and status["one.png"] == "one value in every pixel"
    assert status["cut.png"] not in ("ok", "")


def test_samples_unlike_those_of_training_are_remarked_on(graft, tmp_path):
    long = picture(tmp_path / "long.png", 3, shape=(4, 200))
    dark = tmp_path / "dark.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 5, (12, 10)).astype(np.uint8)).save(dark)
    usual = picture(tmp_path / "usual.png", 11)
    warnings = dict(
        zip(["long", "dark", "usual"], medgraft.load(graft).predict([long, dark, usual])["warning"], strict=True)
    )
    assert "longer side over shorter 50, trained on 1.2 to 1.2" in warnings["long"]
    assert "image mean" in warnings["dark"] and warnings["usual"] == ""


def test_batches_do_not_matter(graft, tmp_path):
    paths = [picture(tmp_path / f"{k}.png", k) for k in range(7)]
    one, many = (medgraft.load(graft).predict(paths, batch=size) for size in (1, 7))
    assert list(one["input"]) == list(map(str, paths))
    np.testing.assert_allclose(one["p:a"], many["p:a"], rtol=1e-4)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / FACTS).unlink(), "holds no prediction.json; it has adapters and no task"),
        (lambda folder: (folder / FACTS).write_text("{"), "prediction.json"),
        (lambda folder: (folder / FACTS).write_text('{"format": 99}'), "has format 99; this medgraft reads 1"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "adapter_model.safetensors"),
    ],
)
def test_damaged_grafts_are_refused(graft, tmp_path, damage, problem):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in graft.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(CheckpointError, match=problem):
        medgraft.load(folder)


def test_no_identifier_is_kept(graft):
    text = (graft / FACTS).read_text()
    assert str(graft.parent) not in text and "x3" not in text
    assert read_facts(graft).model_dump(mode="json") == json.loads(text)


def test_inputs_that_do_not_exist(graft, tmp_path):
    predictor = medgraft.load(graft)
    with pytest.raises(DataError, match="does not exist; name files, folders or tables"):
        predictor.predict([tmp_path / "gone.png"])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no input is image, which the graft reads"):
        predictor.predict([tmp_path / "notes.txt"])
