"""Files of EEG: one signal whatever the format, and each flaw in one sentence with a reason to count it by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from eeg_files import noise, write

from medgraft.benchmarks.cohorts.eeg.recordings import NO_ELECTRODE, header, microvolts, saturated
from medgraft.benchmarks.cohorts.eeg.windows import Filters, Window, WindowOptions, cut, evenly, read_window
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import ConfigError, DataError
from medgraft.options import checked


def cuts(**options) -> WindowOptions:
    return WindowOptions(**options)


@pytest.mark.parametrize("ending", [".edf", ".set", ".vhdr"])
def test_every_format_gives_the_microvolts_that_were_written(tmp_path, ending):
    values = noise()
    path = write(tmp_path / f"one{ending}", values)
    facts = header(path)
    assert (facts.channels[:2], facts.rate, facts.length) == (("FP1", "FP2"), 128.0, 1024) and not facts.unknown
    part = microvolts(path, "", 100, 400)
    assert part.values.dtype == np.float32
    # EDF has 16 bits for the whole range.
    np.testing.assert_allclose(part.values, values[:, 100:400], atol=np.ptp(values) / 2**16 + 1e-4)


def test_names_that_nobody_knows_are_left_out_and_others_have_one_spelling(tmp_path):
    path = write(tmp_path / "one.edf", noise(6), ("EEG T3-REF", "EEG FP1-REF", "EEG Pz-REF", "LOC", "26", "EKG1"))
    facts = header(path)
    assert facts.channels == ("T7", "FP1", "PZ") and facts.unknown == ("LOC", "26")
    other = write(tmp_path / "other.edf", noise(4), ("A", "B", "C", "Cz"))
    with pytest.raises(DataError, match="names that the 10-05 system knows") as caught:
        header(other)
    assert caught.value.reason == NO_ELECTRODE


def test_volts_that_were_taken_for_microvolts_are_told_and_the_option_reads_them(tmp_path):
    values = noise()
    path = write(tmp_path / "one.vhdr", values, factor=1.0)  # the header says volts, the numbers are microvolts
    with pytest.raises(DataError, match="say unit=uV"):
        microvolts(path, "", 0, 512)
    np.testing.assert_allclose(microvolts(path, "", 0, 512, "uV").values, values[:, :512], rtol=1e-4, atol=1e-3)
    right = write(tmp_path / "right.set", values)
    with pytest.raises(DataError, match="say unit=V") as caught:
        microvolts(right, "", 0, 512, "uV")
    assert "not the amplitude" in caught.value.reason


def test_saturated_channels_are_silent_and_silence_alone_is_refused(tmp_path):
    values = noise()
    values[1, 200:500] = values.max() + 1
    values[2] = 0
    assert saturated(values).tolist() == [False, True, False, False, False, False]
    part = microvolts(write(tmp_path / "one.set", values), "", 0, 1024).values
    assert not part[1].any() and not part[2].any() and part[[0, 3, 4, 5]].std(axis=1).min() > 10
    with pytest.raises(DataError, match="flat or saturated"):
        microvolts(write(tmp_path / "flat.set", np.zeros((6, 1024))), "", 0, 1024)


@pytest.mark.parametrize("cut_at", [0, 100, 700])
def test_a_damaged_header_is_one_sentence(tmp_path, cut_at):
    path = write(tmp_path / "one.edf", noise())
    whole = (tmp_path / "one.edf").read_bytes()
    (tmp_path / "one.edf").write_bytes(whole[:cut_at])
    with pytest.raises(DataError, match="cannot be read as a recording of EEG") as caught:
        header(path)
    assert "\n" not in str(caught.value) and caught.value.reason == "a file that cannot be read"


def test_a_recording_that_changes_is_read_again(tmp_path):
    path = write(tmp_path / "one.set", noise(seconds=8))
    assert header(path).length == 1024
    (tmp_path / "one.set").unlink()
    write(tmp_path / "one.set", noise(seconds=4))
    assert header(path).length == 512
    with pytest.raises(DataError, match="has 512 samples"):
        microvolts(path, "", 0, 1024)


@pytest.mark.parametrize(
    ("length", "size", "most"), [(100, 20, 3), (100, 20, 9), (59, 20, 5), (20, 20, 2), (19, 20, 2)]
)
def test_windows_are_spread_and_never_overlap(length, size, most):
    starts = evenly(length, size, most)
    assert len(starts) == min(most, length // size)
    assert all(0 <= start <= length - size for start in starts)
    assert all(b - a >= size for a, b in itertools.pairwise(starts))


def test_filters_take_drift_and_mains_and_leave_the_rest_where_it_is():
    rate, times = 256.0, np.arange(256 * 20) / 256.0
    kept = np.sin(2 * np.pi * 10 * times)
    added = 30 * times / times[-1] + 2 * np.sin(2 * np.pi * 50 * times) + np.sin(2 * np.pi * 100 * times)
    got = Filters(0.5, 75.0, 50.0)((kept + added)[None], rate)[0]
    middle = slice(5 * 256, 15 * 256)
    np.testing.assert_allclose(got[middle], kept[middle], atol=0.06)
    np.testing.assert_array_equal(Filters(0, 0, 0)(kept[None], rate)[0], kept)
    assert not Filters(0.5, 0, 0)(np.full((1, 512), 7.0), rate).any()


def test_a_window_is_filtered_with_what_lies_around_it(tmp_path):
    path = write(tmp_path / "one.set", noise(seconds=30))
    options = cuts(seconds=4, high_pass=0.5, notch=0)
    got = read_window(Window(0, path, 1500, 512), options)
    whole = microvolts(path, "", 0, 3840).values
    np.testing.assert_allclose(got.values, options.filters(whole, 128.0)[:, 1500:2012], atol=0.5)
    assert got.values.shape == (6, 512)


def test_a_band_that_is_empty_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing"):
        checked(WindowOptions, {"high_pass": 30, "low_pass": 20}, "options")


def test_what_differs_between_recordings_is_noted_and_short_ones_are_counted(tmp_path):
    paths = [
        write(tmp_path / "a.set", noise()),
        write(tmp_path / "b.set", noise(rate=250), rate=250.0),
        write(tmp_path / "short.set", noise(seconds=2)),
        write(tmp_path / "bipolar.set", noise(3), ("Fp1-F3", "F3-C3", "C3-P3")),
        str(tmp_path / "absent.set"),
    ]
    report = ReadReport()
    pieces = cut(paths, cuts(seconds=4), report)
    assert {window.recording for window in pieces.windows} == {0, 1, 3}
    assert report.skipped == {"a recording shorter than a window of 4 s": 1, "a recording left out: no such file": 1}
    assert sorted(report.notes.items()) == [
        ("a bipolar recording, which few encoders take", 1),
        ("a recording of 128 Hz; the cohort has several rates, and encoders resample", 2),
        ("a recording of 250 Hz; the cohort has several rates, and encoders resample", 1),
    ]
    with pytest.raises(DataError, match="no window of 60 s"):
        cut(paths[:2], cuts(seconds=60), ReadReport())
