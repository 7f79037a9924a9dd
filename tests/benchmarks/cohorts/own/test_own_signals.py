"""Recordings of EEG as somebody's own data: a table that names them, a folder for each class."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from eeg_files import noise, write

from medgraft.benchmarks.cohorts.own.files import modality_of, parts_of
from medgraft.benchmarks.cohorts.own.inspection import inspected
from medgraft.benchmarks.tasks.own.folder import Folder
from medgraft.benchmarks.tasks.own.table import Table
from medgraft.errors import DataError

ENDINGS = (".edf", ".set", ".vhdr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    rows = []
    for i in range(18):
        place = root / ("calm", "restless")[i % 2] / f"p{i:02d}{ENDINGS[i % 3]}"
        write(place, noise(seed=i, seconds=4))
        rows.append({"file": str(place.relative_to(root)), "label": place.parent.name, "patient": f"p{i:02d}"})
    (root / "tables").mkdir()
    pd.DataFrame(rows).to_csv(root / "tables" / "people.csv", index=False)
    return root


def test_a_table_of_recordings_is_a_task_on_signals(folder):
    task = Table().settled(folder / "tables")
    assert task.inputs == ("signal",) and task.config.objective == "multiclass"
    data = task.load(folder / "tables").check()
    window = data.inputs["signal"].read(0)
    assert window.values.shape == (6, 512) and window.values.dtype == np.float32 and window.rate == 128
    assert 10 < np.median(window.values.std(axis=1)) < 25 and len(data.targets) == 18


def test_a_folder_for_each_class_reads_every_format_and_only_headers_count(folder):
    data = Folder().settled(folder).load(folder).check()
    assert data.classes == ("calm", "restless") and data.inputs["signal"].count == 18
    assert [modality_of(f"a{ending}") for ending in (*ENDINGS, ".eeg", ".vmrk")] == ["signal"] * 3 + ["", ""]
    header = next(folder.rglob("*.vhdr"))
    assert [part.rpartition(".")[2] for part in parts_of(str(header))] == ["vhdr", "eeg", "vmrk"]


def test_values_beside_a_header_are_part_of_what_is_read(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    before = Folder().settled(copy).load(copy).inputs["signal"].fingerprint
    values = next(copy.rglob("*.eeg"))
    values.write_bytes(values.read_bytes()[::-1])
    assert Folder().settled(copy).load(copy).inputs["signal"].fingerprint != before


def test_inspection_says_what_recordings_are(folder):
    facts = inspected(Table().read(folder / "tables")[0], read=6)
    assert facts.sizes == {"6 channels at 128 Hz": 6} and not facts.unreadable and not facts.coloured


def test_damaged_recordings_are_told_by_reason(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in sorted(copy.rglob("*.edf"))[:2]:
        path.write_bytes(b"no header")
    data = Table().settled(copy / "tables").load(copy / "tables")
    reasons = []
    for i in range(18):
        try:
            data.inputs["signal"].read(i)
        except DataError as error:
            reasons.append(error.reason)
    assert reasons == ["a file that cannot be read"] * 2
