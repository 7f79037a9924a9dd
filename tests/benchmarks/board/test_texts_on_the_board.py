"""Generated texts on the board: hallucination beside the primary number, and a line for each kind and finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_leaderboard import sections

from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.statements import Statement, to_json
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.metric import Predictions

N = 24
TRUTH = to_json([Statement("pleural effusion", True, side="left"), Statement("pneumothorax", False)])
REPORTS = {"reference": ["Left pleural effusion."] * N, "truth": [TRUTH] * N}
KINDS = ["closed:plane", "closed:organ", "open:organ", "open:organ"] * (N // 4)
QUESTIONS = {"reference": ["left lung", "yes", "axial", "no"] * (N // 4), "kind": KINDS}


def put(folder: Path, task: str, adapter: str, texts: list[str], columns: dict[str, list[str]]) -> None:
    values = {
        "cohort": {"name": "mimic", "revision": "rev-phantom", "phantom": True},
        "seed": 0,
        "train": {"epochs": 1},
    }
    spec = CellSpec.model_validate({"task": task, "encoder": "tiny", "adapter": adapter, **values})
    arrays = {name: as_column(column) for name, column in columns.items()}
    arrays |= {GENERATED: as_column(texts), REFERENCE: as_column(columns["reference"])}
    scores, targets, groups = np.zeros((N, 1)), np.zeros(N, np.int64), np.arange(N)
    p = Predictions(scores, targets, groups, (), objective="generation", columns=arrays)
    result = CellResult(
        key=spec.key(),
        status="success",
        spec=spec,
        primary="rouge_l",
        phantom=True,
        metrics=evaluate(p, resamples=50),
        data={"classes": [], "objective": "generation", "split_hash": "ab" * 32},
    )
    ResultStore(folder).put(result, {"scores": scores, "targets": targets, "groups": groups, **arrays})


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    made_up = ["Right pleural effusion. Emphysema."] * 12 + ["Left pleural effusion."] * 12
    put(folder, "a_reports", "soft_prefix", REPORTS["reference"], REPORTS)
    put(folder, "a_reports", "lora", made_up, REPORTS)
    put(folder, "a_questions", "lora", ["left lung"] * N, QUESTIONS)
    return markdown(board_rows([folder]), BoardOptions("medgraft leaderboard"))


def lines_of(text: str, *cells: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|") and all(cell in line for cell in cells)]


def test_hallucination_stands_beside_the_primary_number(board):
    section = next(part for title, part in sections(board).items() if "reports" in title)
    head = next(line for line in section.splitlines() if line.startswith("| encoder"))
    named = [cell.strip().replace("\\", "") for cell in head.strip("|").split("|")]
    assert {"rouge_l", "clinical_f1_micro", "hallucination_rate", "hallucinated_reports", "missed_findings"} <= set(
        named
    )
    assert "exact_match_of" not in section
    row = lines_of(section, "tiny", "lora")[0]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[named.index("hallucination_rate")].startswith("0.667 [")
    assert cells[named.index("hallucinated_reports")].startswith("0.500 [")
    clean = [cell.strip() for cell in lines_of(section, "tiny", "soft")[0].strip("|").split("|")]
    assert clean[named.index("hallucination_rate")].startswith("0.000 [")


def test_every_finding_has_a_line(board):
    section = next(part for title, part in sections(board).items() if "reports" in title)
    assert len(lines_of(section, "pleural effusion", "tiny")) == 2
    assert "clinical\\_f1\\_of" not in section and "clinical_f1_of" not in section


def test_every_kind_of_question_has_a_line(board):
    section = next(part for title, part in sections(board).items() if "questions" in title)
    assert "Part by part:" in section and "hallucination" not in section
    for kind, value in (("closed plane", "1.000"), ("closed organ", "0.000"), ("open", "0.000"), ("closed", "0.500")):
        (line,) = [each for each in lines_of(section, "lora") if each.split("|")[1].strip() == kind]
        assert value in line
    widths = {line.count("|") for line in section.split("Part by part:")[1].split("\n\n")[1].splitlines()}
    assert len(widths) == 1
