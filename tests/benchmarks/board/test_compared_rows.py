"""``medgraft compare`` and the ranks of a board, from files of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medgraft.benchmarks.board.compared.choosing import pairs_of
from medgraft.benchmarks.board.compared.sentences import compare_rows, sentences
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult, Efficiency
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.errors import ConfigError, MedgraftError, UnknownNameError
from medgraft.metric import Predictions

CLASSES = ("CN", "AD")
Y = np.repeat(np.arange(60) % 2, 2)
GROUPS = np.repeat(np.arange(60), 2)
HARD = np.random.default_rng(0).normal(size=60)[GROUPS]


def store(folder: Path, adapter: str, skill: float, seed: int = 0, *, split: str = "ab", **changes: Any) -> None:
    """Writes a result on 60 subjects of two scans each, whose difficulty all rows share."""
    spec = CellSpec.model_validate(
        {
            "task": "adni_image",
            "cohort": {"name": "adni", "revision": "rev", "phantom": True},
            "encoder": "phantom_brain",
            "adapter": adapter,
            "seed": seed,
            "train": {"epochs": 3},
            **changes,
        }
    )
    own = np.random.default_rng([seed, len(adapter), ord(adapter[0])]).normal(size=120)
    ad = 1 / (1 + np.exp(-(skill * (2 * Y - 1) + HARD + 0.3 * own)))
    p = Predictions(np.stack([1 - ad, ad], axis=1), Y, GROUPS, CLASSES)
    count = 1_000_000 if adapter == "full_finetune" else 20_000
    result = CellResult(
        key=spec.key(),
        status="success",
        spec=spec,
        phantom=True,
        metrics=evaluate(p, resamples=50),
        efficiency=Efficiency(trainable={adapter: count}, encoder_parameters=9),
        data={"classes": list(CLASSES), "split_hash": split * 32, "objective": "multiclass"},
    )
    ResultStore(folder).put(result, {"scores": p.scores, "targets": Y, "groups": GROUPS})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for seed in range(2):
        store(folder, "full_finetune", 1.0, seed)
        store(folder, "lora", 1.0, seed)
        store(folder, "bitfit", -0.2, seed)
    return folder


def test_a_board_is_ordered_by_ranks_and_shows_them(results):
    rows = board_rows([results])
    assert [row.standing.rank for row in rows if row.standing] == [1, 1, 3]
    assert [(row.standing.low, row.standing.high) for row in rows if row.standing] == [(1, 2), (1, 2), (3, 3)]
    assert rows[2].adapter == "bitfit" and all(row.evidence is None for row in rows)
    text = markdown(rows, BoardOptions("x"))
    assert "1 (1-2)" in text and "3 (3-3)" in text


def test_rows_beside_full_fine_tuning_say_whether_they_are_within_the_margin(results):
    rows = {row.adapter: row for row in board_rows([results])}
    assert rows["full_finetune"].beside_full is None
    lora, bitfit = rows["lora"].beside_full, rows["bitfit"].beside_full
    assert lora is not None and bitfit is not None
    assert lora.trainable == pytest.approx(0.02) and lora.low < lora.gain < lora.high
    assert lora.within(-lora.low + 1e-9) and not lora.within(-lora.low - 1e-9) and bitfit.high < 0
    text = markdown(list(rows.values()), BoardOptions("x", margin=0.5))
    assert "worse by less than 0.5" in text and "2.00%" in text


def test_a_row_without_predictions_has_a_wide_rank_and_one_of_another_split_a_table_of_its_own(results, tmp_path):
    for adapter, skill in (("lora", 1.0), ("bitfit", -0.2), ("knn", 0.9)):
        store(tmp_path, adapter, skill)
    store(tmp_path, "ssf", 1.0, split="cd")
    for path in tmp_path.rglob("*.npz"):
        if "knn" in str(path):
            path.unlink()
    rows = {row.adapter: row for row in board_rows([tmp_path])}
    assert rows["ssf"].section != rows["lora"].section
    assert rows["knn"].standing is not None and "not at hand" in rows["knn"].standing_note
    assert rows["lora"].standing is not None and rows["lora"].standing_note == ""
    with pytest.raises(MedgraftError, match="cannot be read"):
        raise MedgraftError(str(compare_rows(rows["lora"], rows["knn"]).outcome))
    assert "different splits" in str(compare_rows(rows["lora"], rows["ssf"]).outcome)


def test_names_find_their_rows_or_say_why_not(results, tmp_path):
    rows = board_rows([results])
    for first in ("lora", "phantom_brain/lora", "LoRA"):
        [(one, other)] = pairs_of(rows, first, "bitfit")
        assert (one.adapter, other.adapter) == ("lora", "bitfit")
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        pairs_of(rows, "lorra", "bitfit")
    with pytest.raises(UnknownNameError, match="task"):
        pairs_of(rows, "lora", "bitfit", "adni_imag")
    with pytest.raises(ConfigError, match="are both phantom_brain/lora"):
        pairs_of(rows, "lora", "phantom_brain/lora")
    store(tmp_path, "lora", 1.0)
    store(tmp_path, "lora", 1.0, train={"epochs": 5})
    store(tmp_path, "bitfit", 0.0)
    store(tmp_path, "ssf", 0.0, cohort={"name": "adni", "revision": "other", "phantom": True})
    several = board_rows([tmp_path])
    with pytest.raises(ConfigError, match=r"several rows .*epochs 3.*epochs 5"):
        pairs_of(several, "lora", "bitfit")
    label = next(row.adapter for row in several if "epochs 5" in row.adapter)
    assert pairs_of(several, label, "bitfit")[0][0].first.spec.train.epochs == 5
    with pytest.raises(MedgraftError, match="no table in common"):
        pairs_of(several, "bitfit", "ssf")


def test_the_answer_holds_difference_interval_tests_ranks_and_power(results):
    rows = board_rows([results])
    compared = [compare_rows(*pair) for pair in pairs_of(rows, "lora", "bitfit")]
    [text] = sentences(compared, margin=0.01)
    for part in ("better (95% interval", "permutation of subjects p = 0.0005", "2 seeds each", "different ranks"):
        assert part in text
    assert "worse by less than 0.01 is shown" in text and "It takes about" in text
    [turned] = sentences([compare_rows(*pair) for pair in pairs_of(rows, "bitfit", "lora")], margin=0.01)
    assert "worse (95% interval" in turned and "is not shown" in turned


def test_the_command_answers_and_refuses(results):
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["compare", *words])

    good = run("lora", "full_finetune", str(results), "--margin", "0.2")
    assert good.exit_code == 0 and "adni_image (PHANTOM): phantom_brain/lora has f1_macro" in good.output
    for words in (
        ("lora", "nothing", str(results)),
        ("lora", "bitfit", str(results), "--margin", "nan"),
        ("a", "b", "no"),
    ):
        assert run(*words).exit_code == 2
