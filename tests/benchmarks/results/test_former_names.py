"""Results of tasks by the names of earlier releases: read, resumed, verified, and in one row with new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard import store

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified_results

SPEC: dict[str, Any] = {
    "task_options": {"split_seed": 0, "deep": {"b": 1, "a": [1, 2]}},
    "task_version": 1,
    "cohort": {"name": "toy", "revision": "r1", "phantom": True},
    "encoder": "toy:tiny",
    "encoder_weights": "random",
    "adapter": "toy_gain",
    "adapter_options": {"noise": 0.1},
    "seed": 0,
    "train": {"epochs": 2, "lr": 0.001, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.1},
    "plugins": {"medgraft-toy": "1.5"},
    "numbers_version": 1,
}
KEYS = {
    "adni_image_nogap": ("adni_image:nogap", "0081b9aac51d4dae"),
    "adni_ad_cn": ("adni_image:ad_cn", "e24a3effac224d22"),
    "adni_mci_cn": ("adni_image:mci_cn", "2c96de976e88e60b"),
    "adni_ad_mci": ("adni_image:ad_mci", "e78ad2991d5b9dff"),
    "adni_mci_conversion_text": ("adni_mci_conversion:text", "b47127a82eecd5f0"),
    "adni_mci_conversion_image_text": ("adni_mci_conversion:image_text", "0076f09b725d6f2f"),
    "brain_prompts_without_text": ("brain_prompts:without_text", "eaa27b716fdf3d0d"),
    "brain_prompts_diagnosis": ("brain_prompts:diagnosis", "4217fef5f6e43aca"),
    "brain_prompts_age": ("brain_prompts:age", "299e462ebc6189d0"),
    "brain_prompts_sex": ("brain_prompts:sex", "fe9aa2b159d270f2"),
    "brain_prompts_ventricles": ("brain_prompts:ventricles", "f6fea6482eb9b628"),
    "chest_prompts_without_text": ("chest_prompts:without_text", "700656f6e02b91fb"),
    "chest_prompts_atelectasis": ("chest_prompts:atelectasis", "4ed5da1587bda7de"),
    "chest_prompts_cardiomegaly": ("chest_prompts:cardiomegaly", "74f6f0768604752f"),
    "chest_prompts_consolidation": ("chest_prompts:consolidation", "fbbecaab27b6ce81"),
    "chest_prompts_edema": ("chest_prompts:edema", "f1705ab43accf727"),
    "chest_prompts_pleural_effusion": ("chest_prompts:pleural_effusion", "a5d52be380432171"),
    "chexpert_nogap": ("chexpert:nogap", "392621af703bacb4"),
}
"""Former name -> name, and the key that :data:`SPEC` of the former name had when the task had that name."""


def written_before(folder: Path, former: str, seed: int) -> Path:
    """A result as it was written when the task had its former name: in that name's folder, that name in its spec."""
    path = ResultStore(folder).path(store(folder, seed, task=former).spec)
    data = json.loads(path.read_text())
    data["spec"]["task"] = former
    path.write_text(json.dumps(data))
    before = path.parent.parent / former
    before.mkdir(exist_ok=True)
    for part in (path.with_suffix(".npz"), path):
        part.rename(before / part.name)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return before / path.name


@pytest.mark.parametrize(("former", "name", "key"), [(former, *each) for former, each in KEYS.items()])
def test_keys_are_what_they_were(former, name, key):
    spec, before = (CellSpec.model_validate({"task": task, **SPEC}) for task in (name, former))
    assert spec == before and spec.task == name
    assert spec.key() == before.key() == key
    assert spec.row() == before.row()


def test_a_result_of_a_former_name_is_read_verified_and_says_the_new_name(tmp_path):
    path = written_before(tmp_path, "adni_ad_cn", 0)
    assert json.loads(path.read_text())["spec"]["task"] == "adni_ad_cn"
    ((place, cell),) = read_results([tmp_path])
    assert (place, cell.spec.task, cell.key) == (path, "adni_image:ad_cn", path.stem)
    (found,) = verified_results([tmp_path])
    assert found.cell == cell and not found.unverified


def test_a_result_of_a_former_name_that_was_edited_is_still_found_out(tmp_path, caplog):
    path = written_before(tmp_path, "adni_ad_cn", 0)
    data = json.loads(path.read_text())
    data["metrics"]["f1_macro"]["value"] = 0.99
    path.write_text(json.dumps(data))
    assert verified_results([tmp_path]) == [] and "f1_macro is 0.99" in caplog.text


def test_a_result_of_a_former_name_is_not_run_again(tmp_path):
    path, results = written_before(tmp_path, "adni_ad_cn", 0), ResultStore(tmp_path)
    ((_, cell),) = read_results([tmp_path])
    spec = CellSpec.model_validate({**cell.spec.model_dump(), "task": "adni_image:ad_cn"})
    assert results.path(spec) == path and results.get(spec) == cell
    results.put(cell)
    assert [each for each, _ in read_results([tmp_path])] == [path]


def test_results_of_both_names_are_seeds_of_one_row(tmp_path):
    written_before(tmp_path, "adni_ad_cn", 0)
    new = store(tmp_path, 1, task="adni_image:ad_cn")
    assert ResultStore(tmp_path).path(new.spec).parent.name != "adni_ad_cn"
    (row,) = board_rows([tmp_path])
    assert {cell.spec.seed for cell in row.cells} == {0, 1}
    assert row.title == "adni_image:ad_cn (PHANTOM)"


def test_folders_of_both_names_are_merged(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    written_before(old, "chexpert_nogap", 0)
    store(new, 0, task="chexpert:nogap")
    assert len(list(read_results([old, new]))) == 1
