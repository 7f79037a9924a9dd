from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.phantoms.chest.renderer import (
    FINDINGS,
    SETTINGS,
    Film,
    Finding,
    render,
    render_film,
    sample_anatomy,
)

SIGNS = ["Edema", "Consolidation", "Lung Lesion", "Atelectasis", "Pneumothorax", "Pleural Effusion"]


def film(findings=None, *, seed=7, patient=4, view="PA", devices=False, setting="default", sex=0) -> Film:
    anatomy = sample_anatomy(np.random.default_rng(patient), sex=sex, age=60)
    found = {name: Finding(0.0) for name in FINDINGS} | (findings or {})
    return Film(anatomy, view, found, devices, seed, SETTINGS[setting])


@pytest.mark.parametrize("size", [48, 128, 193, 256])
def test_size_type_and_contrast(size):
    image = render_film(film(), size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    assert image.std() > 30
    assert image.min() < 30
    assert image.max() > 200


def test_the_same_film_has_the_same_bytes_and_another_exposure_has_not():
    assert np.array_equal(render_film(film(), 128), render_film(film(), 128))
    assert not np.array_equal(render_film(film(), 128), render_film(film(seed=8), 128))


def test_films_of_two_sizes_show_the_same_picture():
    def at(size, seed=7):
        image = render_film(film({"Edema": Finding(0.6)}, seed=seed), size)
        return image.reshape(64, size // 64, 64, size // 64).mean((1, 3))

    assert np.abs(at(256) - at(192)).mean() < 0.4 * np.abs(at(256) - at(256, seed=8)).mean()


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("side", [-1, 1])
def test_a_sign_changes_its_region_on_its_side_and_little_else(name, side):
    shown = render(film({name: Finding(0.8, side, 2)}), 192, masks=True)
    change = shown.image.astype(float) - render_film(film(), 192)
    region = shown.masks[name]
    assert region.sum() > 30
    assert np.abs(change[region]).mean() > 4 * np.abs(change[~region]).mean()
    columns = np.nonzero(region)[1].mean() / 192
    if name != "Edema":  # edema is perihilar on both sides
        assert (columns > 0.5) == (side > 0), "the patient's left is on the right of the image"


@pytest.mark.parametrize("name", SIGNS)
def test_fluid_and_collapse_are_brighter_and_free_air_is_darker(name):
    shown = render(film({name: Finding(0.8, 1, 1)}), 192, masks=True)
    change = (shown.image.astype(float) - render_film(film(), 192))[shown.masks[name]].mean()
    assert change < -5 if name == "Pneumothorax" else change > 5


@pytest.mark.parametrize("name", [*SIGNS, "Cardiomegaly", "Enlarged Cardiomediastinum"])
def test_more_severe_changes_more(name):
    plain = render_film(film(), 192).astype(float)
    mild, severe = (
        np.abs(render_film(film({name: Finding(severity, 1, 1)}), 192) - plain).mean() for severity in (0.25, 0.9)
    )
    assert 0 < mild < severe


def test_cardiomegaly_widens_the_heart_to_a_larger_cardiothoracic_ratio():
    ratios = []
    for severity in (-0.5, 0.3, 1.0):
        masks = render(film({"Cardiomegaly": Finding(severity)}), 192, masks=True).masks
        widths = [np.ptp(np.nonzero(masks[name].any(0))[0]) for name in ("Heart", "Lung")]
        ratios.append(widths[0] / widths[1])
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.5 < ratios[2], "a ratio above one half is the textbook sign"


def test_invisible_findings_leave_the_film_alone():
    faint = {name: Finding(0.01, 1, 1) for name in SIGNS if name not in ("Edema", "Atelectasis")}
    assert np.array_equal(render_film(film(faint), 128), render_film(film(), 128))


def test_devices_are_drawn():
    change = render_film(film(devices=True), 192).astype(float) - render_film(film(), 192)
    assert (change > 15).mean() > 0.001


def test_masks_only_on_request_and_lungs_of_a_plausible_size():
    assert render(film(), 128).masks == {}
    masks = render(film(), 100, masks=True).masks
    assert masks["Lung"].shape == (100, 100)
    assert masks["Lung"].dtype == bool
    assert 0.2 < masks["Lung"].mean() < 0.55
    assert "Edema" not in masks


def test_the_settings_are_a_visible_domain_gap():
    both = [
        np.stack([render_film(film(seed=seed, patient=seed, setting=name), 64) for seed in range(12)])
        for name in ("default", "pretrain")
    ]
    assert np.abs(both[0].astype(float) - both[1]).mean() > 5
    assert abs(both[0].mean() - both[1].mean()) > 3


def test_harder_settings_show_fainter_findings():
    easy, hard = (dataclasses.replace(SETTINGS["default"], hard=value) for value in (0.0, 1.0))
    changes = []
    for setting in (easy, hard):
        with_it = dataclasses.replace(film({"Consolidation": Finding(0.6, 1, 1)}), setting=setting)
        without = dataclasses.replace(film(), setting=setting)
        changes.append(np.abs(render_film(with_it, 192).astype(float) - render_film(without, 192)).mean())
    assert changes[1] < changes[0]


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SETTINGS["default"].hard = 0.1  # type: ignore[misc]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    patient=st.integers(0, 2**32),
    seed=st.integers(0, 2**62),
    severity=st.floats(-0.6, 1.2),
    side=st.sampled_from([-1, 0, 1]),
    zone=st.integers(0, 2),
    view=st.sampled_from(["AP", "PA"]),
    setting=st.sampled_from(sorted(SETTINGS)),
)
def test_every_film_is_a_picture(patient, seed, severity, side, zone, view, setting):
    found = {name: Finding(severity, side, zone) for name in FINDINGS}
    with np.errstate(all="raise", under="ignore"):
        image = render_film(film(found, seed=seed, patient=patient, view=view, devices=True, setting=setting), 64)
    assert image.std() > 15
