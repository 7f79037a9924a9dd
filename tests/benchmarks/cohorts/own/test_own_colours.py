"""Own data in colour: asked for by an option, remarked on by inspect, and read by predictions as by the task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cells import ran, spec
from own_data import picture, table, task, two_classes
from PIL import Image

from medgraft.benchmarks.cell.kept import raw_facts, read_facts
from medgraft.benchmarks.cell.steps.keeping import keep
from medgraft.benchmarks.cohorts.images.load import load_photograph, load_radiograph
from medgraft.benchmarks.cohorts.own.inspection import has_colour, inspected
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.predict.samples import items_of
from medgraft.benchmarks.prefix_cache.inputs import preprocessing_digest
from medgraft.benchmarks.tasks.own.folder import Folder
from medgraft.errors import ConfigError
from medgraft.modality import find_modality, prepared
from medgraft.options import checked
from medgraft.registry import build_encoder
from medgraft.task import RawInputs


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Twenty coloured pictures of each of two classes, which differ in hue and not in brightness."""
    folder = tmp_path_factory.mktemp("colours")
    random, names = np.random.default_rng(0), []
    for k in range(40):
        image = random.integers(60, 120, (24, 20, 3)).astype(np.int16)
        image += np.array((40, -20, -1) if k % 2 else (-40, 20, 1), np.int16)  # 0.299 * 40 = 0.587 * 20 + 0.114 * 2
        names.append(f"{k}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / names[-1])
    return table(folder, {"image": names, "label": ["ab"[k % 2] for k in range(40)], "patient": range(40)})


def test_colour_is_an_option_that_results_of_before_do_not_know(cohort):
    grey, rgb = task().settled(cohort), task(colour="rgb").settled(cohort)
    assert "colour" not in grey.config.recorded() and rgb.config.recorded()["colour"] == "rgb"
    raw, coloured = (each.load(cohort).check().inputs["image"] for each in (grey, rgb))
    path = cohort.parent / "3.png"
    assert np.array_equal(raw.read(3), load_radiograph(path)) and not raw.colour
    assert np.array_equal(coloured.read(3), load_photograph(path)) and coloured.colour
    assert raw.fingerprint != coloured.fingerprint
    find_modality("image").check(coloured.read(3))
    with pytest.raises(ConfigError, match="colour"):
        task(colour="blue")


def test_a_folder_has_the_option_too(tmp_path):
    for k in range(8):
        picture(tmp_path / "ab"[k % 2] / f"{k}.png", k, (12, 10, 3))
    data = Folder(checked(Folder.Config, {"colour": "rgb"}, "")).load(tmp_path)
    assert data.inputs["image"].read(0).shape == (12, 10, 3)


@pytest.mark.parametrize("name", ["phantom_chest", "pixels:2d", "timm:test_vit@random"])
def test_one_channel_takes_the_luminance_and_three_the_colours(cohort, name):
    tower = build_encoder(name).towers()["image"]
    path = cohort.parent / "3.png"
    colour, grey = (prepared(tower, load(path)) for load in (load_photograph, load_radiograph))
    assert tuple(colour.shape) == find_modality("image").input_shape(tower.spec)
    assert bool((colour == grey).all()) == (tower.spec.channels == 1)
    # Three equal channels are grey, for every encoder.
    assert bool((prepared(tower, np.dstack([load_radiograph(path)] * 3)) == grey).all())


def test_pictures_with_colour_are_told_from_grey_ones():
    grey = np.random.default_rng(0).integers(0, 250, (40, 40), np.uint8)
    same = np.dstack([grey] * 3)
    tinted, mark = same.copy(), same.copy()
    tinted[..., 0] += 4
    mark[:2, :2] = (255, 0, 0)  # 4 of 1600 pixels
    rounded = same + np.random.default_rng(1).integers(0, 3, same.shape, np.uint8)
    assert [has_colour(each) for each in (same, rounded, tinted, mark)] == [False, False, True, True]


def test_inspect_remarks_on_colour_that_is_not_used(cohort, tmp_path):
    data, _ = task().read(cohort)
    facts = inspected(data, 10)
    assert (facts.coloured, facts.looked_at) == (10, 10) and facts.sizes == {"20 x 24": 10}
    assert any("10 of 10 files that were read are in colour" in each for each in facts.warnings)
    facts = inspected(data, 10, colour=True)
    assert facts.sizes == {"20 x 24": 10} and not any("colour" in each for each in facts.warnings)
    grey, _ = task().read(two_classes(tmp_path))
    assert not any("colour" in each for each in inspected(grey, 10).warnings)
    assert any("none of the 10 files" in each for each in inspected(grey, 10, colour=True).warnings)


def test_a_kept_graft_reads_new_images_as_its_task_did(cohort, tmp_path):
    options = task(colour="rgb").settled(cohort).config.model_dump(mode="json")
    cell = spec(
        task="table",
        encoder="timm:test_vit@random",
        adapter="linear_probe",
        task_options=options,
        train={"epochs": 8, "batch_size": 8},
    )
    run = ran(cell, cohort)
    assert run.evaluated.metrics["auc_macro"].value > 0.95, "the hue tells the classes apart"
    keep(run.ready, run.evaluated, tmp_path / "graft")
    assert read_facts(tmp_path / "graft").colour
    predictor = Predictor(tmp_path / "graft")
    read = items_of([cohort.parent / "3.png"], ("image",), colour=predictor.facts.colour)[0].read["image"]()
    assert read.shape == (24, 20, 3)
    test = run.loaded.splits["test"]
    names = [str(cohort.parent / f"{i}.png") for i in test]
    frame = predictor.predict(names)
    assert (frame["status"] == "ok").all() and (frame["warning"] == "").all()
    np.testing.assert_allclose(frame[["p:a", "p:b"]].to_numpy(), run.arrays["scores"], rtol=5e-3, atol=5e-3)


def test_the_third_axis_of_a_coloured_image_is_no_side():
    assert raw_facts(np.zeros((4, 6, 3), np.uint8))["longer side over shorter"] == 1.5


@pytest.mark.parametrize("name", ["phantom_chest", "timm:test_vit@random"])
def test_the_cache_probes_in_colour_only_where_samples_are(name, monkeypatch):
    """What was cached of grey images before there were coloured ones stays known by the same digest."""
    tower = build_encoder(name).towers()["image"]
    seen: list[tuple[int, ...]] = []
    prepare = tower.prepare
    monkeypatch.setattr(tower, "prepare", lambda raw: (seen.append(raw.shape), prepare(raw))[1])
    digests = [
        preprocessing_digest(RawInputs(pytest.fail, 3, "same", colour=colour), tower) for colour in (False, True)
    ]
    probes = [(97, 131, 3) if tower.spec.channels == 3 else (97, 131)]
    assert seen == [(97, 131), (97, 131), *probes] and digests[0] != digests[1]
