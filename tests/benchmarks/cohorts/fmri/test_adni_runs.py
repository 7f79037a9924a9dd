"""ADNI's runs: whose they are, and the visit whose diagnosis they have."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.fmri.adni import read_adni_rest
from medgraft.benchmarks.tasks.fmri.adni import AdniFmri
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom


def made(task: Any, **options: Any) -> Any:
    """A task with options."""
    return task(task.Config(**options))


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(small_phantom("adni_fmri"), tmp_path / "adni"))


def moved(folder: Path, subject: str, session: str) -> None:
    """Calls a subject's session otherwise."""
    home = folder / f"sub-ADNI{subject.replace('_', '')}"
    for path in list((home / "ses-M000" / "func").iterdir()):
        path.rename(path.with_name(path.name.replace("ses-M000", session)))
    (home / "ses-M000").rename(home / session)


def test_a_run_has_the_facts_of_its_visit(folder):
    table = read_adni_rest(folder)
    first = table.frame.set_index("subject").loc["999_S_9001"]
    assert len(table.frame) == 36 and table.layout == "adni" and first["site"] == "998"
    assert first["dx"] == "CN" and 55 <= first["age"] <= 88 and first["sex"] == "M"
    data = made(AdniFmri, baseline=False).load(folder)
    assert data.classes == ("CN", "AD") and np.bincount(data.targets).tolist() == [18, 18] and data.phantom


def test_the_nearest_diagnosed_visit_counts_up_to_six_months(folder):
    merge = folder / "ADNIMERGE.csv"
    table = pd.read_csv(merge)
    base = table.set_index("PTID").loc["999_S_9000"]
    rows = [("m06", 6, "MCI"), ("m12", 12, None), ("m18", 18, "Dementia"), ("m36", 36, "Dementia")]
    more = [{**base, "PTID": "999_S_9000", "VISCODE": code, "Month": month, "DX": dx} for code, month, dx in rows]
    pd.concat([table, pd.DataFrame(more)]).to_csv(merge, index=False)
    expected = {"ses-M000": "CN", "ses-M005": "MCI", "ses-M013": "AD", "ses-M026": None, "ses-M040": "AD"}
    for session, dx in expected.items():
        place = folder.parent / session
        shutil.copytree(folder, place)
        if session != "ses-M000":
            moved(place, "999_S_9000", session)
        found = read_adni_rest(place).frame.set_index("subject").loc["999_S_9000"]
        assert found["dx"] == dx, session
        assert found["age"] == pytest.approx(base["AGE"] + int(session[5:]) / 12)


def test_runs_of_no_visit_are_counted(folder):
    moved(folder, "999_S_9000", "ses-01")
    table = pd.read_csv(folder / "ADNIMERGE.csv")
    table[table["PTID"] != "999_S_9001"].to_csv(folder / "ADNIMERGE.csv", index=False)
    assert read_adni_rest(folder).report.skipped == {
        "a run of a session that is not named ses-M<month>": 1,
        "a run of nobody in ADNIMERGE": 1,
    }
    with pytest.raises(DataError, match="no run is of MCI"):
        made(AdniFmri, contrast="CN-MCI-AD").load(folder)


def test_without_its_table_a_copy_is_refused(folder):
    before = cohort_class("adni_fmri")().revision(folder)
    table = folder / "ADNIMERGE.csv"
    table.write_text(table.read_text().replace("Dementia", "MCI", 1))
    assert cohort_class("adni_fmri")().revision(folder) not in ("", before)
    table.unlink()
    for read in (read_adni_rest, cohort_class("adni_fmri")().revision):
        with pytest.raises(DataError, match="no ADNIMERGE"):
            read(folder)
