"""Judges with trained weights: opened from a local folder, left out without one, equal to their published formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import AutoTokenizer, BertConfig, BertModel

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.learned.bert_score import BertScore, bert_scores
from medgraft.benchmarks.metrics.texts.learned.chexbert_labels import (
    FIVE,
    GENERATED_LABELS,
    NAMES,
    REFERENCE_LABELS,
    ChexbertF1,
)
from medgraft.benchmarks.metrics.texts.learned.chexbert_model import chexbert_labels
from medgraft.benchmarks.metrics.texts.learned.judges import judged_columns
from medgraft.benchmarks.metrics.texts.selection import fitting, misfit
from medgraft.errors import DataError
from medgraft.metric import Predictions, value_of

REPORT = "heart is enlarged small left right pleural effusion no clear lungs . , pneumonia edema"
WORDS = REPORT.split()
TEXTS = ["heart is enlarged .", "no pleural effusion", "small left effusion , edema", ""]
REFERENCES = ["heart enlarged .", "clear lungs", "small left pleural effusion", "edema"]


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> Path:
    """Both judges as published, with tiny random weights."""
    home = tmp_path_factory.mktemp("judges")
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    for name in ("bert_score", "chexbert"):
        (home / name).mkdir()
        (home / name / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
        kind = {"tokenizer_class": "BertTokenizer", "model_max_length": 24}
        (home / name / "tokenizer_config.json").write_text(json.dumps(kind))
    torch.manual_seed(0)
    model = BertModel(config)
    model.save_pretrained(home / "bert_score")
    config.save_pretrained(home / "chexbert")
    state = {f"module.bert.{name}": value for name, value in model.state_dict().items()}
    state["module.bert.embeddings.position_ids"] = torch.arange(24)[None]
    for i in range(14):
        head = torch.nn.Linear(32, 4 if i < 13 else 2)
        state |= {f"module.linear_heads.{i}.{name}": value for name, value in head.state_dict().items()}
    torch.save({"model_state_dict": state}, home / "chexbert" / "chexbert.pth")
    return home


def by_definition(judges: Path, text: str, reference: str) -> list[float]:
    """Equations of Zhang et al., section 3, token by token."""
    tokenizer = AutoTokenizer.from_pretrained(judges / "bert_score")
    model = BertModel.from_pretrained(judges / "bert_score").eval()
    with torch.no_grad():
        said, meant = (model(**tokenizer(each, return_tensors="pt"))[0][0].double() for each in (text, reference))

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    precision = float(np.mean([max(cosine(a, b) for b in meant) for a in said[1:-1]]))
    recall = float(np.mean([max(cosine(a, b) for a in said) for b in meant[1:-1]]))
    return [precision, recall, 2 * precision * recall / (precision + recall)]


def test_bert_score_is_its_definition(judges):
    found = bert_scores(judges / "bert_score", TEXTS, REFERENCES)
    for k in range(3):
        assert found[k] == pytest.approx(by_definition(judges, TEXTS[k], REFERENCES[k]), abs=1e-6)  # of float32
    assert found[3].tolist() == [0, 0, 0]
    assert bert_scores(judges / "bert_score", TEXTS[:1], TEXTS[:1])[0] == pytest.approx(1, abs=1e-6)


def test_chexbert_reads_its_published_file_and_padding_changes_nothing(judges):
    together = chexbert_labels(judges / "chexbert", TEXTS)
    alone = np.concatenate([chexbert_labels(judges / "chexbert", [text]) for text in TEXTS])
    assert together.shape == (4, 14) and (together == alone).all()
    assert together[:, :13].max() <= 3 and together[:, 13].max() <= 1
    stored = torch.load(judges / "chexbert" / "chexbert.pth", weights_only=True)["model_state_dict"]
    model = BertModel.from_pretrained(judges / "bert_score").eval()
    tokenizer = AutoTokenizer.from_pretrained(judges / "chexbert")
    with torch.no_grad():
        first = model(**tokenizer(TEXTS[2], return_tensors="pt"))[0][0, 0]
    for i in range(14):
        logits = stored[f"module.linear_heads.{i}.weight"] @ first + stored[f"module.linear_heads.{i}.bias"]
        assert together[2, i] == logits.argmax()


def labelled(said: np.ndarray, meant: np.ndarray) -> Predictions:
    n = len(said)
    columns = {GENERATED_LABELS: said, REFERENCE_LABELS: meant}
    columns |= {GENERATED: as_column(["edema"] * n), REFERENCE: as_column(["edema"] * n)}
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def test_chexbert_f1_is_scikit_learns_in_both_conventions():
    said, meant = np.random.default_rng(0).integers(0, 4, (2, 30, 14))
    meant[:, 3] = 0  # a label that no reference has counts as 0
    found = ChexbertF1().statistics(labelled(said, meant))
    five = [NAMES.index(name) for name in FIVE]
    for ending, classes in (("", (1, 3)), ("_positive_only", (1,))):
        for count, labels in ((14, list(range(14))), (5, five)):
            for kind in ("micro", "macro"):
                true, decided = np.isin(meant[:, labels], classes), np.isin(said[:, labels], classes)
                options: dict[str, Any] = {"average": kind, "zero_division": 0}
                expected = f1_score(true, decided, **options)
                assert value_of(found[f"chexbert_f1_{kind}_{count}{ending}"], 30) == pytest.approx(expected, abs=1e-12)


def test_judges_whose_folders_are_there_add_their_columns(judges, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDGRAFT_JUDGES", str(judges))
    added = judged_columns(TEXTS, REFERENCES)
    assert set(added.columns) == {"bert_score", GENERATED_LABELS, REFERENCE_LABELS}
    here = {"bert_score", "chexbert"}
    assert {name for name, fact in added.facts.items() if fact.startswith("weights ")} == here
    assert not any(str(judges) in fact for fact in added.facts.values())
    columns = {GENERATED: as_column(TEXTS), REFERENCE: as_column(REFERENCES), **added.columns}
    p = Predictions(np.zeros((4, 1)), np.zeros(4, np.int64), np.arange(4), (), columns=columns)
    assert not misfit(p) and {"bert_score", "chexbert_f1"} <= set(fitting(p))
    mean = value_of(BertScore().statistics(p)["bert_score_f1"], 4)
    assert mean == pytest.approx(added.columns["bert_score"][:, 2].mean())

    monkeypatch.setenv("MEDGRAFT_JUDGES", str(tmp_path))
    (tmp_path / "chexbert").mkdir()
    without = judged_columns(TEXTS, REFERENCES)
    assert not without.columns and all(fact.startswith("left out: ") for fact in without.facts.values())
    monkeypatch.delenv("MEDGRAFT_JUDGES")
    assert judged_columns(TEXTS, REFERENCES) == ({}, {})


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("bert_score", np.zeros((2, 2))),
        (GENERATED_LABELS, np.zeros((2, 14), np.int64)),
        (REFERENCE_LABELS, np.zeros((2, 14))),
    ],
)
def test_columns_of_other_shapes_are_no_judges(name, column):
    columns = {GENERATED: as_column(["a", "b"]), REFERENCE: as_column(["a", "b"]), name: column}
    assert misfit(Predictions(np.zeros((2, 1)), np.zeros(2, np.int64), np.arange(2), (), columns=columns))


def test_weights_of_something_else_are_refused(judges, tmp_path):
    for file in ("config.json", "vocab.txt"):
        (tmp_path / file).write_bytes((judges / "chexbert" / file).read_bytes())
    with pytest.raises(DataError, match=r"has no chexbert\.pth"):
        chexbert_labels(tmp_path, TEXTS)
    torch.save({"model_state_dict": {"module.other": torch.zeros(1)}}, tmp_path / "chexbert.pth")
    with pytest.raises(DataError, match="1 are not known"):
        chexbert_labels(tmp_path, TEXTS)
