"""Encoders of volumes on a run of fMRI: statistics over time against NumPy's, and that time is gone for adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft.encoder import Encoder
from medgraft.encoder.towers import grid_axes
from medgraft.encoders.fmri import FLOOR, SPREAD, FmriSource, parse, statistic_maps
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.grafting import graft
from medgraft.modality import find_modality
from medgraft.registry import build_encoder

BASE = "embedded:brain@random"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder(f"fmri:{BASE}")


def run_of(volumes: int = 15) -> np.ndarray:
    """Noise that some voxels share, at any brightness, around a background of 0."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(volumes, 6, 7, 5)) + rng.normal(size=(volumes, 1, 1, 1)) * (np.arange(5) > 2)
    run = (500 + 100 * rng.random((6, 7, 5)) + 10 * values).astype(np.float32)
    run[:, :2] = 0
    return run


def test_maps_are_the_statistics_of_numpy_up_to_a_line():
    run = run_of()
    series = run[:, 2:].reshape(len(run), -1).astype(np.float64)
    wanted = {
        "mean": series.mean(axis=0),
        "deviation": series.std(axis=0),
        "centrality": np.corrcoef(series.T).mean(axis=1),
    }
    maps = statistic_maps(run, tuple(wanted))
    assert maps.dtype == np.float32 and not maps[:, :2].any()
    for found, values in zip(maps[:, 2:].reshape(3, -1), wanted.values(), strict=True):
        scores = 1 + SPREAD * (values - values.mean()) / values.std()
        assert scores.min() > FLOOR
        np.testing.assert_allclose(found, scores, rtol=1e-5)  # single precision


def test_neither_the_order_of_volumes_nor_brightness_and_contrast_change_a_map():
    run, names = run_of(), ("mean", "deviation", "centrality")
    maps = statistic_maps(run, names)
    np.testing.assert_allclose(statistic_maps(run[::-1], names), maps, atol=1e-5)
    # 7 x + 3 in single precision, of values of 4,000: rounded by 2e-4 of a deviation of 70.
    np.testing.assert_allclose(statistic_maps(np.where(run != 0, 7 * run + 3, 0), names), maps, atol=1e-4)


def test_maps_come_in_the_order_asked_for():
    run = run_of()
    both = statistic_maps(run, ("centrality", "mean"))
    assert np.array_equal(both[::-1], statistic_maps(run, ("mean", "centrality")))


def test_a_voxel_that_never_changes_is_correlated_with_nothing():
    run = run_of()
    run[:, 3, 3, 3] = 700
    series = run[:, 2:].reshape(len(run), -1).astype(np.float64)
    still = series.std(axis=0) == 0
    correlation = np.zeros((len(still), len(still)))
    correlation[np.ix_(~still, ~still)] = np.corrcoef(series[:, ~still].T)
    values = correlation.mean(axis=1)
    scores = np.maximum(1 + SPREAD * (values - values.mean()) / values.std(), FLOOR)
    np.testing.assert_allclose(statistic_maps(run, ("centrality",))[0, 2:].ravel(), scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (run_of(1), "1 volume has no course in time; leave the run out"),
        (np.zeros((8, 4, 4, 4), np.float32), "has 0 voxels that are not 0"),
        (np.broadcast_to(run_of(1), (8, 6, 7, 5)).copy(), "none of them changes over time"),
        (np.full((8, 4, 4, 4), np.nan, np.float32), "not finite"),
        (np.zeros((4, 4, 4), np.float32), r"\[T, D, H, W\]"),
    ],
)
def test_a_run_without_a_course_in_time_is_refused(encoder, run, problem):
    with pytest.raises(DataError, match=problem):
        encoder.prepare(run)


def test_a_prepared_run_has_a_channel_for_each_map_and_no_axis_of_time(encoder):
    x = encoder.prepare(run_of())
    assert x.shape == find_modality("volume_sequence").input_shape(encoder.spec) == (3, 64, 80, 64)
    assert encoder.spec.modality == "volume_sequence" and grid_axes(encoder) == 3
    assert grid_axes(build_encoder("swift:tiny@random")) == 0
    volume = build_encoder(BASE).towers()["volume"]
    assert torch.equal(x[1:2], volume.prepare(statistic_maps(run_of(), ("deviation",))[0]))


def test_a_view_moves_all_maps_alike(encoder):
    x = encoder.prepare(run_of())[None].expand(2, -1, -1, -1, -1)
    view = find_modality("volume_sequence").view(x, np.arange(2), 0)
    assert view.shape == x.shape and not torch.equal(view, x)
    same = find_modality("volume").view(x, np.arange(2), 0)
    assert torch.equal(view, same)


def test_brain_adapter_reads_a_run(encoder):
    x = encoder.prepare(run_of())[None]
    before = encoder(x).pooled
    grafted = graft(encoder, "brain_adapter", setting="FPM")
    torch.testing.assert_close(grafted.eval()(x).pooled, before)
    assert grafted.adapters["brain_adapter"].bottleneck["volume_sequence"].reduce.in_channels == 3
    grafted.ungraft()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("maps=alff:embedded:brain", "'mean', 'deviation' or 'centrality'"),
        ("maps=mean+mean:embedded:brain", "names a map twice"),
        ("maps=:embedded:brain", "'mean', 'deviation' or 'centrality'"),
        ("colour=mean:embedded:brain", "colour"),
    ],
)
def test_maps_that_there_are_not_are_refused(name, problem):
    with pytest.raises(ConfigError, match=problem):
        FmriSource.check(name, "random")


def test_an_encoder_of_images_is_refused():
    with pytest.raises(IncompatibleError, match=r"reads image.*needs an encoder of volumes"):
        build_encoder("fmri:pixels:2d")


def test_names_say_the_maps():
    assert parse("m3d:clip") == (("mean", "deviation", "centrality"), "m3d:clip")
    assert build_encoder(f"fmri:maps=mean:{BASE}").spec.name == f"fmri:maps=mean:{BASE}"
