"""Volumes cut into slices: which ones, how grey, how padded, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medgraft.encoders.slices import pad_slices, slice_positions, spaced, take_slices
from medgraft.errors import ConfigError, DataError


@given(depth=st.integers(1, 400), count=st.integers(1, 64), step=st.none() | st.floats(0.05, 50))
def test_slices_ascend_within_the_volume_and_lie_about_its_middle(depth, count, step):
    places = slice_positions(depth, count, step)
    assert 1 <= len(places) <= count and (len(places) == count or step is not None)
    assert places.min() >= 0 and places.max() < depth and (np.diff(places) >= 0).all()
    assert abs((places[0] + places[-1]) - (depth - 1)) <= 1  # each end is rounded by at most half a slice


@given(depth=st.integers(1, 100))
def test_as_many_slices_as_there_are_take_each_once(depth):
    assert slice_positions(depth, depth).tolist() == list(range(depth))


def test_equal_anatomy_gives_equal_steps_whatever_the_slice_thickness():
    thin, thick = slice_positions(120, 32, step=5.0 / 1.0), slice_positions(40, 32, step=5.0 / 3.0)
    millimetres = (thin + 0.5) * 1.0, (thick + 0.5) * 3.0
    assert len(thin) == len(thick) == 24
    assert np.abs(millimetres[0] - millimetres[1]).max() <= 2.0  # half a thin and half a thick slice of rounding


def test_a_volume_longer_than_the_slices_cover_is_spread_over_its_whole_length():
    places = slice_positions(300, 10, step=2.0)
    assert len(places) == 10 and places[0] < 30 and places[-1] >= 270


def test_slices_are_grey_images_along_the_axis():
    volume = np.zeros((4, 5, 6), np.float32)
    volume[:, :, 2] = 1.0
    grey = take_slices(volume, 2, 6, None)
    assert grey.shape == (6, 4, 5) and grey.dtype == np.uint8
    assert (grey[2] == 255).all() and (np.delete(grey, 2, axis=0) == 0).all()
    assert take_slices(volume, 0, 3, None).shape == (3, 5, 6)


def test_a_constant_volume_is_black_and_finite():
    assert (take_slices(np.full((3, 4, 5), 7.0, np.float32), 2, 2, None) == 0).all()


def test_the_size_of_voxels_is_known_to_the_volume_alone():
    volume = spaced(np.ones((4, 5, 6), np.float32), (1.0, 1.0, 2.5))
    assert volume.spacing == (1.0, 1.0, 2.5) and volume[1:].spacing is None and (volume * 2).spacing is None
    assert len(take_slices(volume, 2, 16, 5.0)) == 3


@pytest.mark.parametrize("shape", [(4, 5, 0), (0, 5, 5), (4, 5), (1, 4, 5, 6)])
def test_no_slice_and_no_volume_are_refused(shape):
    with pytest.raises(DataError, match="at least one slice"):
        take_slices(np.ones(shape, np.float32), 0, 4, None)


def test_other_bad_volumes_are_refused():
    with pytest.raises(DataError, match="NaN"):
        take_slices(np.full((2, 2, 2), np.nan, np.float32), 0, 2, None)
    with pytest.raises(DataError, match="size of the voxels"):
        take_slices(np.ones((2, 2, 2), np.float32), 0, 2, 5.0)
    with pytest.raises(DataError, match="three positive sizes"):
        spaced(np.ones((2, 2, 2), np.float32), (1.0, 0.0, 1.0))


def test_short_volumes_are_padded_with_what_no_voxel_can_be():
    padded = pad_slices(torch.ones(3, 2, 4, 4), 5)
    assert padded.shape == (3, 5, 4, 4) and padded[:, :2].eq(1).all() and padded[:, 2:].isnan().all()
    for have in (0, 6):
        with pytest.raises(ConfigError, match=f"{have} slices"):
            pad_slices(torch.ones(3, have, 4, 4), 5)
