"""Damaged runs, recordings and expressions in a cohort: the rest is read, and what is left out is counted with why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eeg_files import noise, write

from medgraft.benchmarks.cell.steps.loading import Loaded, load
from medgraft.benchmarks.cohorts.eeg.recordings import header, microvolts
from medgraft.benchmarks.cohorts.omics.adni_blood import find_profile, read_profile
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.errors import DataError
from medgraft.task.names import build_task
from medgraft.testing.phantoms import small_phantom


def loaded(folder: Path, task: str, encoder: str, **options: Any) -> Loaded:
    cohort = CohortId(name=task, revision="test", phantom=True)
    facts = {
        "adapter": "linear_probe",
        "encoder": encoder,
        "task": task,
        "task_options": options,
        "seed": 0,
        "train": {},
    }
    return load(CellSpec.model_validate({**facts, "cohort": cohort}), folder)


# -- fMRI -------------------------------------------------------------------------------------------------------------


def rewrite(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    import nibabel

    image: Any = nibabel.load(path)  # pyright: ignore[reportPrivateImportUsage]
    values = edit(np.asanyarray(image.dataobj).copy())
    nibabel.Nifti1Image(values, image.affine).to_filename(path)  # pyright: ignore[reportPrivateImportUsage]


def test_a_cell_counts_runs_that_are_too_short_empty_or_masked_otherwise_and_reads_the_rest(tmp_path):
    folder = Path(shutil.copytree(small_phantom("fmriprep"), tmp_path / "runs"))
    runs = sorted(folder.rglob("*_run-1_*_bold.nii.gz"))
    masks = [run.with_name(run.name.replace("preproc_bold", "brain_mask")) for run in runs]
    rewrite(runs[0], lambda run: run[..., :3])
    rewrite(runs[1], lambda run: run[..., :1])
    rewrite(runs[2], lambda run: run * 0)
    rewrite(masks[3], lambda mask: mask[:-1])
    found = loaded(folder, "fmriprep", "swift:tiny@random")
    reasons = {"shorter than a window": 1, "one volume and no run": 1, "zero in every voxel": 1}
    assert dict(found.reasons) == {**reasons, "a mask of another shape": 1} and found.unreadable == 4
    everyone = len(found.data.targets)
    assert 0 < sum(map(len, found.splits.values())) <= everyone - 4


# -- EEG --------------------------------------------------------------------------------------------------------------


def edf(path: Path, signals: dict[str, np.ndarray], seconds: int) -> Path:
    """An EDF file by hand, a record a second, each signal at the rate of its length, in microvolts of 16 bits."""

    def cells(values: list[object], width: int) -> bytes:
        return b"".join(str(value).ljust(width)[:width].encode() for value in values)

    count, rates = len(signals), [len(values) // seconds for values in signals.values()]
    head = cells(["0"], 8) + cells(["X X X X", "Startdate 01-JAN-2020 X X X"], 80) + cells(["01.01.20", "00.00.00"], 8)
    head += cells([256 * (count + 1)], 8) + cells([""], 44) + cells([seconds, 1], 8) + cells([count], 4)
    head += cells(list(signals), 16) + cells([""] * count, 80) + cells(["uV"] * count, 8)
    for limit in (-3276.8, 3276.7, -32768, 32767):
        head += cells([limit] * count, 8)
    head += cells([""] * count, 80) + cells(list(rates), 8) + cells([""] * count, 32)
    records = [
        np.round(values[rate * k : rate * (k + 1)] * 10).astype("<i2").tobytes()
        for k in range(seconds)
        for rate, values in zip(rates, signals.values(), strict=True)
    ]
    path.write_bytes(head + b"".join(records))
    return path


def test_channels_of_other_rates_in_one_file_do_not_move_those_that_are_read(tmp_path):
    """The heart's channel at half the rate is left out; an electrode at half the rate is brought to the others'."""
    fast, slow = noise(4), noise(1, rate=64.0)[0]
    times = np.arange(512) / 64
    wave = 40 * np.sin(2 * np.pi * 5 * times)
    names = ("EEG Fp1-REF", "EEG Fp2-REF", "EEG F3-REF", "EEG F4-REF")
    signals = dict(zip(names, fast, strict=True)) | {"EEG Cz-REF": wave, "EKG1": slow}
    path = str(edf(tmp_path / "mixed.edf", signals, 8))
    facts = header(path)
    assert (facts.channels, facts.rate, facts.length) == (("FP1", "FP2", "F3", "F4", "CZ"), 128.0, 1024)
    found = microvolts(path, "", 0, 1024).values
    np.testing.assert_allclose(found[:4], fast, atol=0.06)  # a step of the 16 bits is 0.1
    middle = slice(128, 896)
    expected = 40 * np.sin(2 * np.pi * 5 * np.arange(1024) / 128)
    assert np.corrcoef(found[4, middle], expected[middle])[0, 1] > 0.99


def test_a_recording_in_another_unit_is_told_and_the_others_are_read(tmp_path):
    from medgraft.benchmarks.cohorts.eeg.windows import WindowOptions, cut, read_window
    from medgraft.benchmarks.cohorts.tables.reading import ReadReport

    paths = [write(tmp_path / "right.set", noise()), write(tmp_path / "wrong.vhdr", noise(seed=1), factor=1.0)]
    options = WindowOptions(seconds=4, notch=0)  # pyright: ignore[reportCallIssue]
    windows = cut(paths, options, ReadReport()).windows
    right = [window for window in windows if window.recording == 0]
    assert all(np.isfinite(read_window(window, options).values).all() for window in right)
    with pytest.raises(DataError, match="say unit=uV") as caught:
        read_window(next(window for window in windows if window.recording == 1), options)
    assert "\n" not in str(caught.value) and caught.value.reason


# -- expression -------------------------------------------------------------------------------------------------------


@pytest.fixture
def blood(tmp_path) -> Path:
    return Path(shutil.copytree(small_phantom("adni_expression"), tmp_path / "blood"))


def change(folder: Path, edit: Callable[[int, list[str]], list[str]]) -> None:
    """Edits the cells of the rows of probe sets; the first two of a row and its last name the gene."""
    path = find_profile(folder)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    begins = next(k for k, cells in enumerate(lines) if cells[0].strip().lower() == "probeset") + 1
    edited = [cells if k < begins else edit(k - begins, cells) for k, cells in enumerate(lines)]
    path.write_text("\n".join(",".join(cells) for cells in edited))


def test_logarithms_are_not_taken_twice(blood):
    """ADNI's values are logarithms already: taken by force they are refused, by default left alone."""
    with pytest.raises(DataError, match="look like logarithms already; set log: no, or auto"):
        build_task("adni_expression", {"log": "yes"}).load(blood)
    assert build_task("adni_expression", {}).load(blood).provenance["scale"] == "as given"


def test_numbers_that_are_none_are_missing_and_a_sample_without_any_is_left_out(blood):
    _, samples = read_profile(find_profile(blood))
    before = build_task("adni_expression", {}).load(blood)
    gone = str(samples["subject"][0])
    change(blood, lambda k, cells: [*cells[:3], "NaN", "inf" if k == 0 else cells[4], *cells[5:]])
    after = build_task("adni_expression", {}).load(blood)
    assert gone in set(before.subjects) and gone not in set(after.subjects)
    assert after.provenance["left_out"]["no number of expression"] == 1
    assert after.provenance["reader"]["notes"]["an expression that is no number; treated as missing"] == 1
