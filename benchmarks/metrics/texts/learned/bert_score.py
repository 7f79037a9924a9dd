"""BERTScore of generated texts: how near each token's embedding comes to one of the other text's.

Zhang et al., "BERTScore: Evaluating Text Generation with BERT", ICLR 2020, without weights by rarity and without a
baseline, as the package ``bert-score`` does by default: tokens at the ends of a text can be matched and do not count
themselves, and an empty text scores 0. The layer is the package's for the models of its table, told by their shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

COLUMN = "bert_score"
"""Column of precision, recall and F1 of each text, ``float64 [n, 3]``."""

LAYERS: Mapping[tuple[str, int], int] = {
    ("roberta", 24): 17,  # roberta-large, what M3D's scripts use for English
    ("roberta", 12): 10,
    ("bert", 12): 9,
    ("bert", 24): 18,
    ("distilbert", 6): 5,
    ("deberta", 48): 40,
}
"""Type of a model and its layers -> the layer whose output is compared; the last for any other."""


class BertScore(Metric):
    """``bert_score_f1``, ``bert_score_precision`` and ``bert_score_recall``, means over samples of cosines."""

    title = "BERTScore"
    numbers = ("bert_score_f1", "bert_score_precision", "bert_score_recall")
    bounds = (-1.0, 1.0)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p`` has the column that :func:`bert_scores` makes."""
        scores = p.columns[COLUMN]
        return {name: weighted_mean(scores[:, k]) for name, k in zip(self.numbers, (2, 0, 1), strict=True)}


def bert_scores(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Array:
    """Precision, recall and F1 of each text, ``float64 [n, 3]``.

    Args:
        folder: Of a model and tokenizer of transformers.
        texts: Generated ones.
        references: The right ones, as many.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    layer = LAYERS.get((model.config.model_type, model.config.num_hidden_layers), model.config.num_hidden_layers)
    made: dict[str, tuple[Any, Any]] = {}
    with torch.no_grad():
        for text in dict.fromkeys([*texts, *references]):
            made[text] = _embedded(model, tokenizer, text.strip(), layer)
        return np.array(
            [_scores(made[text], made[reference]) for text, reference in zip(texts, references, strict=True)]
        ).reshape(-1, 3)


def _embedded(model: Any, tokenizer: Any, text: str, layer: int) -> tuple[Any, Any]:
    """Unit vectors of a text's tokens ``[t, C]`` at a layer, and which of them count, ``[t]``."""
    import torch

    # RoBERTa begins to count positions behind that of its padding, which takes two.
    room = getattr(model.config, "max_position_embeddings", 512) - 2 * ("roberta" in model.config.model_type)
    longest = min(tokenizer.model_max_length, room)
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
    hidden = model(**encoded, output_hidden_states=True).hidden_states[layer][0].double()
    ids = encoded["input_ids"][0]
    ends = torch.tensor([i for i in (tokenizer.sep_token_id, tokenizer.cls_token_id) if i is not None])
    return hidden / hidden.norm(dim=-1, keepdim=True), ~torch.isin(ids, ends)


def _scores(text: tuple[Any, Any], reference: tuple[Any, Any]) -> tuple[float, float, float]:
    (said, counts), (meant, wanted) = text, reference
    if not counts.any() or not wanted.any():
        return 0.0, 0.0, 0.0
    near = said @ meant.T
    precision = float(near.max(dim=1).values[counts].mean())
    recall = float(near.max(dim=0).values[wanted].mean())
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0
