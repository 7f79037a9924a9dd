"""A cell on several sites: its report is of the frozen encoder, whatever the adapter did, and stands on every board."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import spec
from rich.console import Console

from medgraft.benchmarks.board.document import document
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import make_row
from medgraft.benchmarks.board.tables.sites import site_rows
from medgraft.benchmarks.board.terminal import show_board
from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.worker import run_cell
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.site.pages import write_site
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom


def cell(adapter: str, root: Path | None = None, **options) -> CellResult:
    made = spec(
        task="abide",
        encoder="swift:tiny,windows=1@random",
        adapter=adapter,
        cohort={"name": "abide", "revision": "r", "phantom": True},
        task_options={"baseline": False, **options},
        train={"epochs": 1, "batch_size": 8},
    )
    return run_cell(Job(spec=made, root=root or small_phantom("abide")), lambda text, share: None)[0]


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list[CellResult]:
    """Of two adapters, the second with a cache of its own, so that it has to make the frozen features anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "combatlearn", None)
        found = []
        for adapter in ("linear_probe", "lora"):
            patch.setenv("MEDGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
            found.append(cell(adapter))
        return found


def test_the_report_is_of_the_frozen_encoder(cells):
    probe, lora = cells
    assert probe.sites is not None and probe.sites == lora.sites
    assert probe.sites.sites == 3 and probe.sites.features == 24 and probe.sites.metric == "auc_macro"
    # The probe's row and the report's own probe are one regression, on the same people.
    assert probe.sites.frozen.task == probe.metrics["auc_macro"]
    assert probe.sites.frozen.site_auc.value > 0.75  # the phantom's sites have a brightness of their own
    assert CellResult.model_validate_json(probe.model_dump_json()) == probe


def test_no_name_of_a_site_is_in_a_result(cells):
    assert "SITE1" not in cells[0].sites.model_dump_json()


def test_boards_and_pages_show_it(cells, tmp_path):
    rows = [make_row([(Path("none.json"), each)]) for each in cells]
    assert len(site_rows(rows)) == 1
    value = f"{cells[0].sites.frozen.site_auc.value:.3f} ["
    text = markdown(rows, BoardOptions(command="test"))
    assert value in text and "not harmonised" in text
    console = Console(record=True, width=100)
    show_board(rows, console)
    said = " ".join(console.export_text().split())
    assert f"site AUC {value}" in said and "not harmonised" in said
    write_site(rows, document(rows, "test"), tmp_path)
    pages = "".join(path.read_text() for path in (tmp_path / "rows").glob("*.html"))
    assert "What the frozen features say of the site" in pages and value in pages


def test_sites_held_out_leave_nothing_to_score_and_say_so():
    found: Any = cell("linear_probe", holdout="site")
    assert found.sites.frozen is None and "two are needed" in found.sites.note
    assert found.data["split_by"] == "site" and found.metrics["auc_macro"].value is not None


def test_data_of_one_site_have_no_report_and_no_split(tmp_path):
    root = Path(shutil.copytree(small_phantom("abide"), tmp_path / "abide"))
    table = pd.read_csv(root / "Phenotypic_V1_0b_preprocessed1.csv", index_col=0)
    table.assign(SITE_ID="ONE").to_csv(root / "Phenotypic_V1_0b_preprocessed1.csv")
    assert cell("linear_probe", root).sites is None
    with pytest.raises(DataError, match="1 site"):
        cell("linear_probe", root, holdout="site")


def test_runs_that_cannot_be_used_are_counted(tmp_path):
    from nibabel.loadsave import save
    from nibabel.nifti1 import Nifti1Image, load

    root = Path(shutil.copytree(small_phantom("abide"), tmp_path / "abide"))
    runs = sorted(root.rglob("*_func_preproc.nii.gz"))
    image = load(runs[0])
    values = np.asarray(image.dataobj)
    for path, odd in zip(runs, (values[..., :3], values[..., :1], 0 * values, values[:12]), strict=False):
        save(Nifti1Image(odd, image.affine), path)
    found = cell("linear_probe", root)
    assert found.data["unreadable"] == 4
    assert found.data["unreadable_reasons"] == {
        "shorter than a window": 1,
        "one volume and no run": 1,
        "zero in every voxel": 1,
        "a mask of another shape": 1,
    }
    assert "0090000" not in json.dumps(found.data)
