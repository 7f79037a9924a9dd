"""``medgraft texts``: the right picture beside the right text, what is said of each, and what is refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sweeping import command

from medgraft.benchmarks.board.drawn.texts_page import as_png, chosen, names_of, rows_of, shown
from medgraft.benchmarks.cohorts import places
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.errors import DataError
from medgraft.metric import Predictions
from medgraft.task import TaskData
from medgraft.task.names import build_task

TASK = "iu_xray_reports"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "iu"
    done = command("cohort", "iu_xray", "--out", str(folder), "--images", "60", "--size", "96")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def data(cohort) -> TaskData:
    return build_task(TASK, {}).load(cohort)


def store(folder: Path, cohort: Path, data: TaskData, texts: list[str], rows: np.ndarray, **spec: object) -> Path:
    """A result whose language model wrote these texts on these test samples."""
    revision = places.cohort_at("iu_xray", cohort, {TASK: data}).of(TASK).revision
    fields = {"adapter": "soft_prefix", "seed": 0, "task_options": {}} | spec
    made = CellSpec.model_validate(
        {"task": TASK, "cohort": {"name": "iu_xray", "revision": revision, "phantom": True}, "encoder": "pair:tiny",
         "train": {"epochs": 1}, **fields}
    )  # fmt: skip
    columns = {name: as_column([str(column[i]) for i in rows]) for name, column in data.columns.items()}
    columns[GENERATED] = as_column(texts)
    n, groups = len(rows), np.unique(data.subjects[rows], return_inverse=True)[1]
    scores, targets = np.zeros((n, 1)), np.zeros(n, np.int64)
    p = Predictions(scores, targets, groups, (), objective="generation", columns=columns)
    result = CellResult(
        key=made.key(), status="success", spec=made, primary="rouge_l", phantom=True, metrics=evaluate(p, resamples=50),
        data={"classes": [], "objective": "generation", "split_hash": data.split_hash()},
    )  # fmt: skip
    arrays = {"scores": scores, "targets": targets, "groups": groups, **columns}
    return ResultStore(folder).put(result, arrays)


def references(data: TaskData, rows: np.ndarray) -> list[str]:
    return [str(data.columns[REFERENCE][i]) for i in rows]


def test_each_picture_stands_beside_its_own_text(cohort, data, tmp_path):
    rows = data.splits["test"][1:]  # one that could not be read is not there
    right = store(tmp_path / "r", cohort, data, references(data, rows), rows)
    wrong = store(tmp_path / "r", cohort, data, ["Large left pneumothorax."] * len(rows), rows, adapter="blind")
    out = tmp_path / "deep" / "page.md"
    done = command("texts", str(right), str(wrong), "--out", str(out), "--count", "3", "--data", f"iu_xray={cohort}")
    assert done.exit_code == 0, done.output
    page = out.read_text()
    assert page.startswith(f"# What was written on {TASK} (PHANTOM")
    assert page.count("![Test sample") == 3 and page.count("| soft_prefix |") == 3 == page.count("| blind |")
    raw, told = next(iter(data.inputs.values())), rows_of_page(page)
    for place, row in enumerate(chosen(rows, data.subjects, 3), 1):
        picture = (out.parent / "page" / f"{place:02d}.png").read_bytes()
        assert picture == as_png(shown(np.asarray(raw.read(int(rows[row])))), phantom=True)
        assert told[place - 1]["soft_prefix"][0] == told[place - 1]["reference"][0]
        assert told[place - 1]["soft_prefix"] == told[place - 1]["reference"]  # its verdict is that on the same text
    # the phantom's truth says which of these films has that pneumothorax
    assert any("made up: large left pneumothorax" in each["blind"][1] for each in told)


def rows_of_page(page: str) -> list[dict[str, tuple[str, str]]]:
    """Of each sample row -> (text, what is said of it)."""
    samples = []
    for part in page.split("\n## ")[1:]:
        cells = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
        samples.append({name: (text, *more, "")[:2] for name, text, *more in cells[1:]})
    return samples


def test_other_samples_and_results_without_texts_are_refused(cohort, data, tmp_path, toy):
    rows = data.splits["test"]
    one = store(tmp_path / "a", cohort, data, references(data, rows), rows)
    fewer = store(tmp_path / "b", cohort, data, references(data, rows[:-1]), rows[:-1])
    done = command("texts", str(one), str(fewer), "--data", f"iu_xray={cohort}")
    assert done.exit_code == 2 and "other test samples" in done.output
    done = command("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(tmp_path / "t")))
    classes = next((tmp_path / "t").rglob("*.json"))
    done = command("texts", str(classes))
    assert done.exit_code == 2 and "no generated texts" in done.output
    done = command("texts", str(tmp_path / "nothing.json"))
    assert done.exit_code == 2 and "nothing.json" in done.output
    done = command("texts", str(one))
    assert done.exit_code == 2 and "--data iu_xray=PATH" in done.output


def test_texts_of_other_data_and_texts_that_several_samples_have_find_no_place(data):
    rows, texts = data.splits["test"], references(data, data.splits["test"])
    assert rows_of(pd.DataFrame({REFERENCE: texts}), data).tolist() == rows.tolist()
    expected = [row if texts.count(text) == 1 else -1 for row, text in zip(rows.tolist(), texts, strict=True)]
    assert rows_of(pd.DataFrame({REFERENCE: texts[1:]}), data).tolist() == expected[1:]
    twice = replace(data, columns={REFERENCE: np.where(np.arange(len(data.subjects)) % 2, "Clear.", "A nodule.")})
    assert set(rows_of(pd.DataFrame({REFERENCE: references(twice, rows[1:])}), twice)) == {-1}
    for strange in (["Nobody wrote this."], texts[::-1]):
        with pytest.raises(DataError, match="not of these data"):
            rows_of(pd.DataFrame({REFERENCE: strange}), data)


def test_a_person_is_shown_once():
    subjects = np.array(["a", "a", "b", "c", "c", "d"])
    assert chosen(np.array([1, 0, 2, 4, 3]), subjects, 3) == [0, 2, 3]
    assert chosen(np.array([-1, 0, 2]), subjects, 3) == [1, 2]


def test_rows_are_told_apart_by_what_differs(cohort, data, tmp_path):
    from medgraft.benchmarks.results.reading import read_result

    rows = data.splits["test"]
    texts = references(data, rows)
    variants = ({}, {"adapter_options": {"projector": "linear", "size": 2}}, {"task_options": {"retrieval": 2}})
    variants += ({"adapter": "blind"},)
    cells = [read_result(store(tmp_path, cohort, data, texts, rows, **each)) for each in variants]
    assert names_of(cells[:1]) == ["soft_prefix"]
    assert names_of(cells) == [
        "soft_prefix", "soft_prefix (projector linear, size 2)", "soft_prefix (retrieval 2)", "blind"
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(90, 60), (40, 80), (50, 50, 3), (30, 40, 35), (12, 12, 60), (60, 10, 10)])
def test_any_image_or_volume_has_a_picture(shape):
    raw = np.random.default_rng(0).normal(size=shape)
    picture = Image.open(io.BytesIO(as_png(shown(raw), phantom=False)))
    assert picture.mode == ("RGB" if shape[-1] == 3 else "L") and max(picture.size) <= 896
    assert "real" in picture.text["Description"]
