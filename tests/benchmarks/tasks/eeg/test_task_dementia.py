"""Dementia from BIDS-EEG: which recordings are used, what is counted, and what every result holds beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from medgraft.benchmarks.phantoms.eeg.dementia import CLASSES, MEANS, SHARES, bayes_macro_f1, subject
from medgraft.benchmarks.phantoms.eeg.signals import ELECTRODES, drawn, recording
from medgraft.benchmarks.tasks.eeg.dementia import Dementia
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom

STEM = f"sub-{subject(0)}"


@pytest.fixture(scope="module")
def phantom() -> Path:
    return small_phantom("bids_eeg")


@pytest.fixture
def folder(tmp_path, phantom) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "eeg"))


def task(**options) -> Dementia:
    return Dementia(Dementia.Config(**({"seconds": 4, "baselines": False} | options)))


def rewrite(folder: Path, old: str, new: str) -> None:
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace(old, new))


def test_a_sample_is_a_window_and_subjects_are_in_one_split(phantom):
    data = task(windows=2).load(phantom).check()
    assert data.phantom and data.classes == CLASSES and len(data.targets) == 24 == data.inputs["signal"].count
    for name in np.unique(data.subjects):
        assert len(np.unique(data.targets[data.subjects == name])) == 1
    window = data.inputs["signal"].read(3)
    assert window.values.shape == (19, 512) and window.rate == 128 and 3 < np.median(window.values.std(axis=1)) < 60
    assert set(data.attributes) == {"sex", "age"} and data.variants == ("by_subject",)
    assert data.provenance["bayes_f1_macro"] == pytest.approx(0.776, abs=5e-4)


def test_plain_features_stand_beside_the_result(phantom):
    found = task(baselines=True, windows=2).load(phantom).provenance["table_baselines"]
    assert list(found) == ["age, sex", "band powers", "Riemannian tangent space"]
    for facts in found.values():
        value, low, high = facts["subject_f1_macro"]
        assert facts["n_train"] == 14 and low <= value <= high


def test_contrasts_leave_out_the_third_group(phantom):
    data = task(contrast="AD-CN").load(phantom)
    assert data.classes == ("AD", "CN") and data.provenance["bayes_f1_macro"] == pytest.approx(0.878, abs=5e-4)
    left_out = data.provenance["reader"]["skipped"]["a recording of a group outside of the contrast"]
    assert left_out + len(np.unique(data.subjects)) == 12


def test_the_authors_cleaned_copies_are_read_where_asked(phantom):
    raw, cleaned = (task(cleaned=each, notch=0, low_pass=0).load(phantom).inputs["signal"] for each in (False, True))
    assert raw.fingerprint != cleaned.fingerprint
    frequencies = np.fft.rfftfreq(512, 1 / 128)
    powers = [np.abs(np.fft.rfft(each.read(0).values)).mean(axis=0)[frequencies > 49].sum() for each in (raw, cleaned)]
    assert powers[1] < 0.2 * powers[0]


def test_who_is_only_in_the_table_or_only_a_file_is_counted(folder):
    rewrite(folder, f"{STEM}\t", "sub-nobody\t")
    word = next(line.split("\t")[3] for line in (folder / "participants.tsv").read_text().splitlines()[2:])
    rows = (folder / "participants.tsv").read_text().splitlines()
    cells = rows[2].split("\t")
    rows[2] = "\t".join([*cells[:3], "Q", cells[4]])
    (folder / "participants.tsv").write_text("\n".join(rows))
    skipped = task().load(folder).provenance["reader"]["skipped"]
    assert skipped == {
        "a recording whose subject is not in participants.tsv": 1,
        "a participant of participants.tsv without a recording": 1,
        "a recording of a group that nobody knows: Q": 1,
    }
    assert word in "AFC"


def test_sites_are_attributes_and_odd_ages_are_none(folder):
    rows = (folder / "participants.tsv").read_text().splitlines()
    sites = [f"{row}\t{'site' if not k else 'ab'[k % 2]}" for k, row in enumerate(rows)]
    cells = sites[1].split("\t")
    sites[1] = "\t".join([cells[0], "x", "n/a", *cells[3:]])
    (folder / "participants.tsv").write_text("\n".join(sites))
    data = task().load(folder)
    mine = data.subjects == STEM
    assert set(data.attributes["site"]) == {"a", "b"}
    assert set(data.attributes["sex"][mine]) == {None} and np.isnan(data.attributes["age"][mine].astype(float)).all()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: (root / "participants.tsv").unlink(), "participants.tsv does not exist"),
        (lambda root: rewrite(root, "\tGroup\t", "\tKind\t"), "no column Group"),
        (lambda root: rewrite(root, "002\t", "001\t"), "names a participant twice"),
        (lambda root: [shutil.rmtree(each) for each in root.glob("sub-*")], "holds no recording of EEG"),
        (lambda root: [each.write_bytes(b"x") for each in root.glob("sub-*/eeg/*.set")], "no window of 4 s can be cut"),
    ],
)
def test_what_is_missing_is_named(folder, spoil, why):
    spoil(folder)
    with pytest.raises(DataError, match=why):
        task().load(folder)


def test_a_damaged_file_is_left_out_and_counted(folder):
    (folder / STEM / "eeg" / f"{STEM}_task-eyesclosed_eeg.set").write_bytes(b"MATLAB 5.0 MAT-file")
    data = task().load(folder)
    assert len(np.unique(data.subjects)) == 11 and STEM not in data.subjects
    assert data.provenance["reader"]["skipped"] == {"a recording left out: a file that cannot be read": 1}


def test_content_of_recordings_and_tables_is_the_revision(folder):
    cohort = cohort_class("bids_eeg")()
    before, read = cohort.revision(folder), task().load(folder).inputs["signal"].fingerprint
    assert cohort.made_up(["participants.tsv", f"{STEM}/eeg/x.set"]) and not cohort.made_up(["sub-001/eeg/x.set"])
    shutil.copy(
        folder / f"sub-{subject(1)}" / "eeg" / f"sub-{subject(1)}_task-eyesclosed_eeg.set",
        folder / STEM / "eeg" / f"{STEM}_task-eyesclosed_eeg.set",
    )
    assert cohort.revision(folder) != before and task().load(folder).inputs["signal"].fingerprint != read
    (folder / "participants.tsv").unlink()
    with pytest.raises(DataError, match=r"has no participants\.tsv"):
        cohort.revision(folder)


def test_a_phantom_has_a_slower_rhythm_where_it_says_so():
    frequencies = np.fft.rfftfreq(128 * 40, 1 / 128)
    band = (frequencies > 6) & (frequencies < 12)
    back = [ELECTRODES.index(name) for name in ("O1", "O2", "P3", "P4")]
    peaks = []
    for slow in (0.0, 3.0):
        rng = np.random.default_rng(5)
        power = np.abs(np.fft.rfft(recording(rng, drawn(rng, slow, 0.0), 40, 128.0, 50.0)[back])) ** 2
        peaks.append((frequencies[band] * power[:, band].mean(axis=0)).sum() / power[:, band].mean(axis=0).sum())
    assert 1.0 < peaks[0] - peaks[1] < 2.5


def test_the_best_score_is_that_of_the_generators_numbers():
    few, many = bayes_macro_f1(50_000), bayes_macro_f1()
    assert few == pytest.approx(many, abs=0.01) and SHARES.sum() == pytest.approx(1) and MEANS.shape == (3, 2)
    # Two normal classes whose means lie d apart have an error of Phi(-d / 2) where both are as frequent.
    assert many["AD-CN"] == pytest.approx(1 - norm.cdf(-np.linalg.norm(MEANS[0] - MEANS[2]) / 2), abs=0.005)
