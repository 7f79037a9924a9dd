"""Model cards say what the result says, loudly where data are generated, and are read by huggingface_hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from made_grafts import kept

from medgraft.benchmarks.export.card import card_of, cell
from medgraft.benchmarks.export.writing import export
from medgraft.benchmarks.external.results import ExternalResult, external_path
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.checkpoints.model_card import MARK
from medgraft.errors import CheckpointError, ConfigError


def estimate(value: float | None, **more: Any) -> dict[str, Any]:
    return {"value": value, "ci_low": 0.6, "ci_high": 0.95, "n": 40, "n_subjects": 30, **more}


def result(phantom: bool = False, **changes: Any) -> CellResult:
    spec = CellSpec.model_validate(
        {
            "task": "liver",
            "cohort": {"name": "table", "revision": "r7", "phantom": phantom},
            "encoder": "phantom_chest",
            "adapter": "linear_probe",
            "seed": 3,
            "train": {"epochs": 2},
        }
    )
    given = {
        "key": spec.key(),
        "status": "success",
        "spec": spec,
        "phantom": phantom,
        "primary": "auc_macro",
        "metrics": {"f1_macro": estimate(0.7), "auc_macro": estimate(0.8125), "auc_a": estimate(None)},
        "groups": {
            "sex": {
                "metric": "auc_macro",
                "groups": {"F": estimate(0.9), "M|x": estimate(0.7)},
                "worst": "M|x",
                "gap": estimate(0.2),
                "left_out": {"other": 3},
            }
        },
        "data": {
            "splits": {"train": {"samples": 100, "subjects": 90}, "test": {"samples": 40, "subjects": 30}},
            "subjects_disjoint": True,
            "few_subjects": {"a": 12},
            "notes": ["left <b>out</b>: 2"],
        },
    }
    return CellResult.model_validate(given | changes)


@pytest.fixture
def graft(tmp_path) -> Path:
    """A kept graft of a real cohort beside its result."""
    found = result()
    facts = {"key": found.key, "task": "liver", "cohort": "table", "split_hash": "5" * 64, "phantom": False}
    folder = kept(tmp_path / f"{found.key}.adapter", "linear_probe", **facts)
    folder.with_suffix(".json").write_text(found.model_dump_json())
    return folder


def test_a_card_has_what_the_result_has(graft):
    card: Any = ModelCard(card_of(graft))
    metrics = {each.metric_type: each for each in card.data.eval_results}
    assert set(metrics) == {"auc_macro", "f1_macro"} and metrics["auc_macro"].metric_value == 0.8125
    one = metrics["auc_macro"]
    assert (one.dataset_name, one.dataset_revision, one.task_type) == ("table", "5" * 64, "image-classification")
    assert card.data.library_name == "medgraft" and card.data.license == "apache-2.0"
    assert "phantom-data" not in card.data.tags and card.data.model_name == "linear_probe on phantom_chest for liver"
    text = card.text
    for part in (
        "| auc_macro (primary) | 0.812 | 0.600 to 0.950 | 40 | 30 |",
        "| train | 100 samples of 90 subjects |",
        "| split | SHA-256 " + "5" * 64,
        "auc_macro by sex; worst: M\\|x; gap 0.200 (0.600 to 0.950).",
        "| F | 0.900 | 0.600 to 0.950 | 40 | 30 |",
        "Too small and left out: other (3).",
        "Few test subjects: a 12;",
        "left &lt;b>out&lt;/b>: 2",
        "Not a medical device",
        "No external validation",
        "| seed | 3 |",
    ):
        assert part in text, part
    assert "PHANTOM" not in text and "{{" not in text and "Not evaluated" not in text


def test_a_card_has_what_was_lost_on_other_cohorts(graft):
    """The number at home, there, and the drop; a test that failed is none."""
    path = graft.with_suffix(".json")
    trained = CellResult.model_validate_json(path.read_text())
    number = {"auc_macro": estimate(0.8)}
    for task, status in (("table:other", "success"), ("nih", "error")):
        cohort = {"name": task, "revision": "r1", "phantom": task == "nih"}
        test = ExternalResult.model_validate(
            {
                "key": trained.key,
                "status": status,
                "trained": trained.spec,
                "tested": {"task": task, "cohort": cohort},
                "phantom": task == "nih",
                "primary": "auc_macro",
                "classes": ["a", "b|c"],
                "home": number,
                "away": {"auc_macro": estimate(0.65)},
                "drop": {"auc_macro": estimate(0.15)},
                "data": {"notes": ["rated, not diagnosed"]},
            }
        )
        external_path(path, test.tested.mark()).write_text(test.model_dump_json())
    text = card_of(graft)
    assert "On table:other (all of its samples), auc_macro on a, b\\|c:" in text and "nih" not in text
    assert "| drop | 0.150 | 0.600 to 0.950 | 40 | 30 |" in text and "- rated, not diagnosed" in text
    assert "No external validation" not in text


def test_a_card_says_whether_temperatures_were_fitted(graft):
    assert "no temperature was fitted" in card_of(graft)
    path = graft.with_suffix(".json")
    found = json.loads(path.read_text())
    scaling = {"temperatures": [1.5], "loss": [0.7, 0.6], "before": {}}
    found["calibration"] = {"scaling": scaling, "reliability": {}}
    path.write_text(json.dumps(found))
    assert "divided by temperatures that validation samples chose: 1.500" in card_of(graft)


def test_phantoms_say_so_first(tmp_path):
    card: Any = ModelCard(card_of(kept(tmp_path / "g", "linear_probe", test=(0.75, 0.5, None))))
    assert card.text.index("> **PHANTOM.**") < card.text.index("## Data")
    assert "PHANTOM: generated data" in card.data.eval_results[0].dataset_name
    assert card.data.eval_results[0].metric_value == 0.75 and "phantom-data" in card.data.tags
    assert "does not lie beside the graft" in card.text and "No subject is in two splits" not in card.text


@pytest.mark.parametrize("objective", ["regression", "multilabel"])
def test_other_objectives(objective, tmp_path):
    state = {"mean": 1.0, "deviation": 2.0} if objective == "regression" else {}
    thresholds = (0.25, 0.5) if objective == "multilabel" else None
    facts = {"objective": objective, "state": state, "thresholds": thresholds, "test": (2.5, 2.0, 3.0)}
    card: Any = ModelCard(card_of(kept(tmp_path / "g", "linear_probe", **facts)))
    assert ("a 0.250, b 0.500; chosen on validation samples" in card.text) == (objective == "multilabel")
    assert ("predicts a number" in card.text) == (objective == "regression")


def test_names_from_anywhere_stay_names(tmp_path):
    hostile = ("a | b\n---\n# x", "{{ 7 * 7 }}<script>")
    card: Any = ModelCard(
        card_of(kept(tmp_path / "g", "linear_probe", classes=hostile, cohort="c: [1,\n- y", test=(0.5,) * 3))
    )
    assert "{{ 7 * 7 }}" in card.text and "<script>" not in card.text and "\n# x" not in card.text
    assert card.data.eval_results[0].dataset_type == "medgraft-c: [1,\n- y"
    assert cell("x" * 999) == cell("x" * 999)[:300]


def test_the_result_must_be_the_grafts(graft):
    path = graft.with_suffix(".json")
    path.write_text(result(phantom=True).model_dump_json())
    with pytest.raises(CheckpointError, match="and the graft beside it is of"):
        card_of(graft)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        card_of(graft)


def test_a_card_alone(graft, tmp_path):
    export(graft, "card", graft)  # in place of the one that was written when the graft was kept
    assert "## Metrics" in (graft / "README.md").read_text()
    (tmp_path / "mine.md").write_text("my own words")
    with pytest.raises(ConfigError, match=r"mine.md is there and was not written by medgraft; name another --out"):
        export(graft, "card", tmp_path / "mine.md")
    (tmp_path / "mine.md").write_text(MARK)
    assert export(graft, "card", tmp_path / "mine.md").paths == (tmp_path / "mine.md",)
    assert json.dumps((tmp_path / "mine.md").read_text()).count("model-index") == 1
