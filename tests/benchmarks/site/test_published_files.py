"""The files of a board: the same numbers in all of them, plain text, no paths, a schema."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import many
import numpy as np
import pandas as pd
import pytest
from browsing import HOSTILE, hostile_rows, regression_rows

from medgraft.benchmarks.board.document import Document, document
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.board.text import prose_without_paths
from medgraft.benchmarks.commands.arguments import parse_seeds
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.site.publish import publish
from medgraft.benchmarks.site.reproduce import command_of, shown_command
from medgraft.benchmarks.sweep.assignments import split_assignments
from medgraft.errors import MedgraftError

HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("board")
    publish(
        [*many.rows(2, 2, 3, 2), *regression_rows(), *hostile_rows()],
        home,
        BoardOptions("medgraft leaderboard /srv/private/r"),
    )
    return home


def data_of(path: Path) -> Any:
    return json.loads(re.search(r'type="application/json" id="\w+">(.*?)</script>', path.read_text(), re.S)[1])  # type: ignore[index]


def test_all_files_have_the_same_numbers(folder):
    whole = Document.model_validate_json((folder / "leaderboard.json").read_text())
    csv, parquet = pd.read_csv(folder / "leaderboard.csv"), pd.read_parquet(folder / "leaderboard.parquet")
    for name in ("auc_macro", "mae", "auc_macro_ci_low", "trainable"):
        assert np.allclose(csv[name], parquet[name], equal_nan=True)
    values = [row.metrics.get("auc_macro", (None,))[0] for row in whole.rows]
    assert np.allclose(np.array(values, float), parquet["auc_macro"], equal_nan=True)
    assert set(parquet["rank"].dropna()) == {1, 3, 5}
    data = data_of(folder / "index.html")
    assert sum(len(section["rows"]) for section in data["sections"]) == len(whole.rows) == len(csv)


def test_the_primary_metric_stands_first_and_errors_are_known_to_be_errors(folder):
    whole = Document.model_validate_json((folder / "leaderboard.json").read_text())
    section = next(section for section in whole.sections if section.task == "brain_age")
    assert section.shown[0] == section.primary == "mae" and {"mae", "rmse"} <= set(section.lower_is_better)
    assert "pearson" not in section.lower_is_better
    text = (folder / "leaderboard.md").read_text()
    head = next(
        line for line in text.split("## brain\\_age")[-1].splitlines() if line.startswith("|") and "mae" in line
    )
    assert [cell.strip() for cell in head.strip("|").split("|")][2:4] == ["rank", "mae"]


def test_nothing_that_a_terminal_obeys_and_no_path_is_in_any_file(folder):
    for path in [folder / name for name in ("index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json")] + [
        *(folder / "rows").iterdir()
    ]:
        text = path.read_text()
        assert not HIDDEN.search(text), path
        assert "secret" not in text and "/srv/private" not in text, path
    frame = pd.read_parquet(folder / "leaderboard.parquet")
    assert not any(HIDDEN.search(value) for name in frame for value in frame[name] if isinstance(value, str))


def test_markup_of_others_stays_within_quotes(folder):
    for path in (folder / "index.html", *(folder / "rows").iterdir()):
        text = path.read_text()
        assert text.count("<script") == text.count("</script>") == 3, path  # the theme, the data and the page's own
        assert "onerror=alert(1)>" not in text and "<b>quoted" not in text
    adapters = {row[1] for section in data_of(folder / "index.html")["sections"] for row in section["rows"]}
    assert "<script>alert(1)</script>" in adapters and len(adapters) >= len(HOSTILE)


def test_a_page_lets_in_nothing_but_its_own(folder):
    for path in (folder / "index.html", *(folder / "rows").iterdir()):
        text = path.read_text()
        assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
        assert not re.search(r'(src|href)="(https?:)?//', text) and not re.search(r"\sstyle=", text)


def test_a_board_without_pyarrow_says_how_to_have_parquet(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pyarrow" else found(name, *more)
    )
    published = publish(many.rows(1, 1, 2, 1), tmp_path, BoardOptions("x"))
    assert "medgraft[parquet]" in published.notice and not (tmp_path / "leaderboard.parquet").exists()
    assert "parquet" not in (tmp_path / "index.html").read_text().lower()


def test_a_second_board_takes_the_pages_of_the_first_away_and_nobody_elses(tmp_path):
    publish(many.rows(2, 1, 2, 1), tmp_path, BoardOptions("x"))
    (tmp_path / "rows" / "mine.html").touch()
    publish(many.rows(1, 1, 2, 1), tmp_path, BoardOptions("x"))
    assert sorted(path.name[:7] for path in (tmp_path / "rows").iterdir()) == ["mine.ht", "task-00"]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in "ab":
        publish(many.rows(2, 1, 2, 1), tmp_path / name, BoardOptions("x"))
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_a_board_among_its_results_is_no_result(tmp_path, caplog):
    cell = many.result("task_00", "e", "a", 0, 0.0)
    ResultStore(tmp_path).put(cell)
    publish(board_rows([tmp_path]), tmp_path, BoardOptions("x"))
    caplog.clear()
    assert len(board_rows([tmp_path])) == 1 and caplog.text == ""


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "rows").touch()
    with pytest.raises(MedgraftError, match=r"cannot be written to .*choose another folder"):
        publish(many.rows(1, 1, 1, 1), tmp_path, BoardOptions("x"))


# --- the command that makes a row again -------------------------------------------------------------------------------


def test_the_command_says_all_that_a_specification_does():
    cell = many.result(
        "task_00", "timm:vit@/home/me/w.pt", "lora", 0, 0.0,
        spec={
            "limit": 64, "calibrate": "temperature", "sets_by_class": True, "augment_views": 2,
            "adapter_options": {"rank": 4, "targets": ["q", "v"], "bias": None, "fast": True, "inner": {"scale": 0.5}},
            "task_options": {"templates": ["a chest X-ray of {}.", "Findings: {}."]},
            "cohort": {"name": "chexpert", "revision": "r", "phantom": False}, "train": {"epochs": 3, "lr": 0.01},
        },
    )  # fmt: skip
    words = command_of(cell.spec, [0, 1, 2])
    after = dict(pairwise(words))
    assert (after["--adapters"], after["--tasks"], after["--limit"]) == ("lora", "task_00", "64")
    assert parse_seeds(after["--seeds"]) == [0, 1, 2] and after["--data"] == "chexpert=PATH"
    assert after["--calibrate"] == "temperature" and "--sets-by-class" in words and after["--augment-views"] == "2"
    settings = dict(split_assignments([value for flag, value in pairwise(words) if flag == "--set"]))
    assert settings["lora.targets"] == "q,v" and settings["lora.bias"] == "none" and settings["lora.fast"] == "true"
    assert settings["lora.inner.scale"] == "0.5" and settings["train.lr"] == "0.01"
    assert settings["task_00.templates"] == "a chest X-ray of {}.,Findings: {}."
    shown = shown_command(cell.spec, [0])
    assert (
        "/home" not in shown
        and "timm:vit@w.pt" in shown
        and "'task_00.templates=a chest X-ray of {}.,Findings" in shown
    )


def test_the_command_of_a_cell_gives_its_key_again(toy, medgraft, tmp_path):
    asked = (
        "run",
        "--adapters",
        "toy_gain",
        *toy.options("--seeds", "1", "--results", str(tmp_path), "--set", "train.lr=0.02"),
    )
    assert medgraft(*asked).exit_code == 0
    (row,) = board_rows([tmp_path])
    words = command_of(row.first.spec, [1])[1:]
    again = medgraft(*words, "--data", f"toy={toy.cohort}", "--results", str(tmp_path / "again"))
    assert again.exit_code == 0, again.output
    (other,) = board_rows([tmp_path / "again"])
    assert other.first.key == row.first.key and CellSpec.model_validate(other.first.spec) == row.first.spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no file /a/b/c.nii here", "no file PATH here"), ("at ~/x/y", "at PATH"),
        ("3 samples/s and 1/2", "3 samples/s and 1/2"),
        ("file:///srv/x", "PATH"), (r"in C:\Users\me\x.png", "in PATH"), ("https://a.org/b/c", "https://a.org/b/c"),
    ],
)  # fmt: skip
def test_prose_has_no_absolute_paths(text, expected):
    assert prose_without_paths(text) == expected


def test_a_row_has_the_same_name_in_every_board():
    first, second = document(many.rows(1, 1, 3, 1), "x"), document(many.rows(2, 1, 3, 1)[:3], "y")
    assert {row.id for row in first.rows} == {row.id for row in second.rows}
