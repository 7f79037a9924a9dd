"""CheXbert's network: BERT, and a linear map of its first token for each of 14 labels.

The folder holds what is published: ``chexbert.pth`` (a dictionary with ``model_state_dict``, names behind ``module.``),
and the configuration and tokenizer of ``bert-base-uncased`` (``config.json``, ``vocab.txt``). File layout, order of the
labels and of the four classes were checked against the package ``f1chexbert`` 0.0.2; the weights were not at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.texts.learned.chexbert_labels import NAMES
from medgraft.errors import DataError
from medgraft.metric import Array

WEIGHTS, PREFIX = "chexbert.pth", "module."
CLASSES = (4,) * 13 + (2,)
"""Classes of each label."""
LONGEST, BATCH = 512, 16


def chexbert_labels(folder: Path, texts: Sequence[str]) -> Array:
    """Classes of each text, ``int64 [n, 14]``, see :data:`~.chexbert_labels.NAMES`.

    Args:
        folder: With the weights, the configuration and the tokenizer.
        texts: Reports.

    Raises:
        DataError: A file is missing, or holds other weights.
    """
    import torch
    from transformers import AutoTokenizer

    bert, heads = _opened(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    different = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    longest = min(LONGEST, bert.config.max_position_embeddings)
    found: dict[str, list[int]] = {}
    with torch.no_grad():
        for start in range(0, len(different), BATCH):
            batch = different[start : start + BATCH]
            encoded = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=longest)
            first = bert(encoded["input_ids"], attention_mask=encoded["attention_mask"])[0][:, 0]
            labels = torch.stack([head(first).argmax(dim=1) for head in heads], dim=1)
            found.update(zip(batch, labels.tolist(), strict=True))
    return np.array([found[" ".join(text.split())] for text in texts], np.int64).reshape(-1, len(NAMES))


def _opened(folder: Path) -> tuple[Any, Any]:
    """BERT and the heads, ready to read."""
    import torch
    from torch import nn
    from transformers import BertConfig, BertModel

    if missing := [name for name in (WEIGHTS, "config.json", "vocab.txt") if not (folder / name).is_file()]:
        raise DataError(f"the folder of CheXbert has no {' and no '.join(missing)}; put it there as it is published")
    bert = BertModel(BertConfig.from_pretrained(folder, local_files_only=True))
    width = bert.config.hidden_size
    network = nn.ModuleDict({"bert": bert, "linear_heads": nn.ModuleList(nn.Linear(width, n) for n in CLASSES)})
    stored = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict) or "model_state_dict" not in stored:
        raise DataError(f"{WEIGHTS} has no model_state_dict, so it holds no weights of CheXbert")
    weights = {name.removeprefix(PREFIX): value for name, value in stored["model_state_dict"].items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    # Older releases of transformers stored the numbers of positions, which are no weights.
    unexpected = [name for name in unexpected if not name.endswith("position_ids")]
    if missing or unexpected:
        raise DataError(f"{WEIGHTS} holds other weights: {len(missing)} are missing, {len(unexpected)} are not known")
    network.eval()
    return network["bert"], network["linear_heads"]
