"""Band powers and tangent spaces against their definitions, and what the baselines must not know."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from eeg_files import noise
from pyriemann.tangentspace import TangentSpace

from medgraft.benchmarks.cohorts.eeg import handcrafted
from medgraft.benchmarks.cohorts.eeg.handcrafted import BANDS, band_covariances, relative_powers
from medgraft.errors import DataError


@pytest.mark.parametrize(("frequency", "band"), [(2, 0), (6, 1), (10, 2), (20, 3), (40, 4)])
@pytest.mark.parametrize("rate", [128.0, 250.0])
def test_a_sine_has_its_power_in_its_band(frequency, band, rate):
    values = np.sin(2 * np.pi * frequency * np.arange(round(10 * rate)) / rate)[None]
    powers = relative_powers(np.concatenate([values, 0 * values]), rate)
    assert powers[0, band] > 0.98 and powers[0].sum() == pytest.approx(1)
    assert np.isnan(powers[1]).all()


def test_covariances_are_definite_whatever_the_channels_are():
    values = noise(4)
    values[1], values[2] = 0, values[0]
    found = band_covariances(values, 128.0)
    assert found.shape == (len(BANDS), 4, 4) and np.linalg.eigvalsh(found).min() > 0
    with pytest.raises(DataError, match="no frequencies"):
        band_covariances(noise(4, rate=60), 60.0)


def test_the_tangent_space_is_pyriemanns_at_the_mean_of_training_windows_alone():
    train, test = (np.stack([band_covariances(noise(3, seed=s), 128.0) for s in range(k, k + 6)]) for k in (0, 10))
    here, there = handcrafted._tangents(train, test)
    assert here.shape == (6, len(BANDS) * 6)
    space = TangentSpace().fit(train[:, 1])
    np.testing.assert_allclose(here[:, 6:12], space.transform(train[:, 1]), atol=1e-9)
    np.testing.assert_allclose(there[:, 6:12], space.transform(test[:, 1]), atol=1e-9)
    np.testing.assert_array_equal(handcrafted._tangents(train, 3 * test)[0], here)


def test_windows_that_cannot_be_read_or_lack_a_channel_are_left_out():
    def read(i):
        if i == 2:
            raise DataError("a file that ends too early", "shorter")
        return SimpleNamespace(values=noise(3, seed=i), rate=128.0, channels=("FZ", "CZ", "PZ" if i != 3 else "OZ"))

    splits = {"train": np.array([0, 2, 4]), "test": np.array([1, 3]), "val": np.array([5])}
    rows, powers, covariances = handcrafted._features(
        SimpleNamespace(read=read, channels=("CZ", "PZ"), splits=splits)  # pyright: ignore[reportArgumentType]
    )
    assert rows.tolist() == [0, 1, 4]
    assert powers.shape == (3, 2 * len(BANDS)) and covariances.shape == (3, len(BANDS), 2, 2)
