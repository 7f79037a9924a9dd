"""RadGraph-F1: the package's model opened from a local folder, and its F1 on annotations made by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.learned import radgraph_model
from medgraft.benchmarks.metrics.texts.learned.judges import judged_columns
from medgraft.benchmarks.metrics.texts.learned.radgraph_f1 import COLUMN, RadGraphF1
from medgraft.benchmarks.metrics.texts.learned.radgraph_model import agreement, annotated, radgraph_f1
from medgraft.benchmarks.metrics.texts.selection import fitting, misfit
from medgraft.errors import DataError
from medgraft.metric import Predictions, value_of

REPORT = "heart is enlarged small left right pleural effusion no clear lungs . , pneumonia edema"
WORDS = [*REPORT.split(), "a", "b", "1", "2"]
LABELS = tuple(f"{kind}::definitely {how}" for kind in ("Observation", "Anatomy") for how in ("present", "absent"))
RELATIONS = ("located_at", "modify", "suggestive_of")
TEXTS = ["heart is enlarged .", "no pleural effusion", "small left effusion , edema", "", "  ", "no pneumonia"]
REFERENCES = ["heart is enlarged .", "clear lungs", "small left pleural effusion", "edema .", "no edema", ""]


@pytest.fixture(scope="module")
def judges(tmp_path_factory) -> Path:
    """``radgraph/radgraph-xl`` as the package unpacks it, with tiny random weights, and its encoder beside it."""
    folder = tmp_path_factory.mktemp("judges") / "radgraph"
    home, encoder = folder / "radgraph-xl", folder / "encoder"
    for each in (home / "vocabulary", encoder):
        each.mkdir(parents=True)
    (encoder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    (encoder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    BertConfig(vocab_size=5 + len(WORDS), max_position_embeddings=16, **shape).save_pretrained(encoder)
    bert = {"type": "pretrained_transformer_mismatched", "model_name": "nobody/on-no-hub", "max_length": 16}
    modules = {
        "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
        "ner": {},
        "relation": {"spans_per_word": 0.5},
        "events": {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8, "loss_weights": {"trigger": 1.0}},
    }
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": {"bert": bert}},
        "initializer": {},
        "module_initializer": {},
        "feature_size": 4,
        "max_span_width": 3,
        "target_task": "relation",
        "feedforward_params": {"num_layers": 1, "hidden_dims": 8, "dropout": 0.4},
        "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
        "modules": modules,
    }
    reader = {"type": "dygie", "token_indexers": {"bert": bert}, "max_span_width": 3}
    (home / "config.json").write_text(json.dumps({"dataset_reader": reader, "model": model}))
    lists = {"ner": ("", *LABELS), "relation": RELATIONS}  # of entities the first is none
    for name, entries in lists.items():
        (home / "vocabulary" / f"radgraph-xl__{name}_labels.txt").write_text("\n".join(entries) + "\n")
    (home / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
    torch.manual_seed(0)
    torch.save({}, home / "weights.th")
    with pytest.MonkeyPatch.context() as patch:
        from radgraph.dygie.models.dygie import DyGIE

        patch.setattr(DyGIE, "load_state_dict", lambda self, *_, **__: None)
        torch.save(radgraph_model._opened(folder, "radgraph-xl").model.state_dict(), home / "weights.th")
    return folder.parent


@pytest.fixture(scope="module")
def read(judges):
    return annotated(judges / "radgraph", [*TEXTS, *REFERENCES])


def test_the_packages_model_annotates_texts_from_a_local_folder(judges, read):
    for text, found in zip([*TEXTS, *REFERENCES], read, strict=True):
        assert bool(found["entities"]) <= bool(text.strip())
        words = text.split()
        for entity in found["entities"].values():
            assert entity["tokens"] == " ".join(words[entity["start_ix"] : entity["end_ix"] + 1])
            assert entity["label"] in LABELS
            assert all(kind in RELATIONS and other in found["entities"] for kind, other in entity["relations"])
    assert any(entity["relations"] for found in read for entity in found["entities"].values())
    assert annotated(judges / "radgraph", TEXTS[2:3]) == read[2:3], "other texts change nothing"


def test_longer_texts_than_the_encoder_reads_are_annotated_in_parts(judges):
    (found,) = annotated(judges / "radgraph", ["small left effusion . " * 10])
    assert max(entity["end_ix"] for entity in found["entities"].values()) > 16


def test_the_weights_are_those_of_the_file(judges, read):
    stored = torch.load(judges / "radgraph" / "radgraph-xl" / "weights.th", weights_only=True)
    prefix = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
    own = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    bert = BertModel(BertConfig.from_pretrained(judges / "radgraph" / "encoder")).eval()
    bert.load_state_dict(own)
    ids = torch.tensor([[2, 5, 6, 7, 3]])  # [CLS] heart is enlarged [SEP]
    with torch.no_grad():
        x = bert(ids)[0][0, 1:-1]
    widths = stored["_endpoint_span_extractor._span_width_embedding.weight"]
    hidden, out = (stored[f"_ner._ner_scorers.radgraph-xl__ner_labels.{i}._module{name}.weight"] for i, name in PARTS)
    bias = stored["_ner._ner_scorers.radgraph-xl__ner_labels.0._module._linear_layers.0.bias"]
    last = stored["_ner._ner_scorers.radgraph-xl__ner_labels.1._module.bias"]
    expected = {}
    for start in range(3):
        for end in range(start, 3):
            span = torch.cat([x[start], x[end], widths[end - start]])
            scores = out @ torch.relu(hidden @ span + bias) + last
            if scores.max() > 0:  # the score of no entity is 0
                expected[start, end] = LABELS[int(scores.argmax())]
    (found,) = annotated(judges / "radgraph", ["heart is enlarged"])
    assert expected == {(each["start_ix"], each["end_ix"]): each["label"] for each in found["entities"].values()}


PARTS = ((0, "._linear_layers.0"), (1, ""))
"""Layers of the scorer of entities."""


def test_columns_and_numbers_with_the_same_text_empty_texts_and_no_weights_needed_later(judges, read, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_JUDGES", str(judges))
    added = judged_columns(TEXTS, REFERENCES)
    scores = added.columns[COLUMN]
    assert scores.shape == (6, 3) and scores.dtype == np.float64
    assert scores[0].tolist() == [1, 1, 1] and read[0]["entities"]
    assert (scores[3:] == 0).all(), "a text or a reference is empty"
    assert scores[1].tolist() == list(agreement(read[1], read[7]))
    assert added.facts["radgraph"].startswith("weights ") and added.facts["radgraph"].endswith("; radgraph-xl")
    assert "left out" in added.facts["chexbert"]
    columns = {GENERATED: as_column(TEXTS), REFERENCE: as_column(REFERENCES), **added.columns}
    p = Predictions(np.zeros((6, 1)), np.zeros(6, np.int64), np.arange(6), (), columns=columns)
    assert not misfit(p) and "radgraph_f1" in fitting(p)
    numbers = RadGraphF1().statistics(p)
    assert [value_of(numbers[name], 6) for name in RadGraphF1.numbers] == pytest.approx(scores.mean(axis=0), abs=1e-12)
    columns[COLUMN] = scores[:, :2]
    assert misfit(Predictions(np.zeros((6, 1)), np.zeros(6, np.int64), np.arange(6), (), columns=columns))


def by_hand(*entities: tuple[str, str, list[tuple[str, str]]]) -> dict:
    """Annotations in RadGraph's form, of words, labels and relations."""
    return {
        "entities": {
            str(i): {"tokens": tokens, "label": label, "start_ix": i, "end_ix": i, "relations": [*map(list, relations)]}
            for i, (tokens, label, relations) in enumerate(entities, 1)
        }
    }


PRESENT, ABSENT, ANATOMY = LABELS[0], LABELS[1], LABELS[2]
MEANT = by_hand(
    ("effusion", PRESENT, [("located_at", "2")]), ("left", ANATOMY, []), ("edema", ABSENT, []), ("heart", ANATOMY, [])
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (MEANT, (1, 1, 1)),
        # Another side: 3 of 4 entities in each; the relation points elsewhere.
        (
            by_hand(
                ("effusion", PRESENT, [("located_at", "2")]),
                ("right", ANATOMY, []),
                ("edema", ABSENT, []),
                ("heart", ANATOMY, []),
            ),
            (3 / 4, 3 / 4, 2 / 4),
        ),
        # No relation: all of 3 entities, of 4 meant; the effusion is no longer the same with its relation.
        (
            by_hand(("effusion", PRESENT, []), ("left", ANATOMY, []), ("edema", ABSENT, [])),
            (2 * 1 * 0.75 / 1.75, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        ),
        # Said twice counts once; present is not absent.
        (by_hand(("edema", PRESENT, []), ("heart", ANATOMY, []), ("heart", ANATOMY, [])), (1 / 3, 1 / 3, 1 / 3)),
        (by_hand(("fracture", PRESENT, [])), (0, 0, 0)),
        (by_hand(), (0, 0, 0)),
    ],
)
def test_f1_of_annotations_by_hand(said, expected):
    assert agreement(said, MEANT) == pytest.approx(expected, abs=1e-12)
    assert agreement(MEANT, said) == pytest.approx(expected, abs=1e-12), "an F1 is the same both ways"


def test_f1_lies_between_0_and_1_and_stricter_conventions_find_no_more():
    rng = np.random.default_rng(0)

    def drawn() -> dict:
        n = int(rng.integers(1, 6))
        related = [[("modify", str(rng.integers(1, n + 1)))] * int(rng.integers(0, 2)) for _ in range(n)]
        return by_hand(*((WORDS[rng.integers(0, 4)], LABELS[rng.integers(0, 2)], each) for each in related))

    for _ in range(50):
        said, meant = drawn(), drawn()
        found = agreement(said, meant)
        assert all(0 <= value <= 1 for value in found)
        assert agreement(said, said) == (1, 1, 1)
        assert found == pytest.approx(agreement(meant, said), abs=1e-12)


def test_what_is_missing_is_named(judges, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="none of the folders"):
        radgraph_f1(tmp_path, TEXTS, REFERENCES)
    (tmp_path / "radgraph-xl").mkdir()
    with pytest.raises(DataError, match=r"no radgraph-xl/config\.json and no .* and no encoder/config\.json"):
        radgraph_f1(tmp_path, TEXTS, REFERENCES)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "radgraph" else found(name))
    monkeypatch.setenv("MEDGRAFT_JUDGES", str(judges))
    added = judged_columns(TEXTS, REFERENCES)
    assert not added.columns and "pip install medgraft[judges]" in added.facts["radgraph"]


def test_weights_of_something_else_leave_the_judge_out(judges, monkeypatch, tmp_path):
    import shutil

    shutil.copytree(judges, tmp_path / "judges")
    torch.save({"other": torch.zeros(1)}, tmp_path / "judges" / "radgraph" / "radgraph-xl" / "weights.th")
    monkeypatch.setenv("MEDGRAFT_JUDGES", str(tmp_path / "judges"))
    added = judged_columns(TEXTS, REFERENCES)
    assert not added.columns and added.facts["radgraph"].startswith("left out: DataError")
    with pytest.raises(DataError, match="radgraph cannot run radgraph-xl: RuntimeError"):
        radgraph_f1(tmp_path / "judges" / "radgraph", TEXTS, REFERENCES)
