"""``generation``: a text for each sample by a frozen language model, trained on the right ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.adapter_protocols import looking_at, soft_tokens
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.grafting import Grafted
from medgraft.language_model import Decoding, LanguageModel
from medgraft.metric import Predictions
from medgraft.modality import TEXT
from medgraft.objective import Batch, Objective, Outputs
from medgraft.task import TaskData

PROMPT = "prompt"
NO_TOKEN = -1
LIBRARIES = ("sacrebleu", "rouge_score")
"""What the metrics of texts are made with; asked for before anything is trained."""


class GenerationObjective(Objective):
    """Cross-entropy of the right answer's tokens, given the prompt and what an adapter shows of the sample.

    ``data.columns`` has ``prompt`` and ``reference``, texts ``[n]``. An adapter shows an image as soft tokens
    (``soft_prefix``) or between the blocks (``xattn``); without one the language model answers blindly, which is a
    baseline that every table needs.

    Args:
        data: The task's data.
        inputs: Modalities of a sample.
    """

    needs = frozenset({"text tower", "tokens"})
    primary = "rouge_l"
    metrics = ("rouge", "bleu", "agreement")
    columns = ("rouge_l", "bleu_4", "bleu_1", "exact_match")

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self.prompts = [str(text) for text in data.columns[PROMPT]]
        self.references = [str(text) for text in data.columns[REFERENCE]]
        self.decoding = Decoding.model_validate(dict(data.decoding))
        self._model: LanguageModel | None = None

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`; a prompt and a reference for each sample, none of the latter empty.

        Raises:
            DataError: A text is missing.
            ConfigError: A library is.
        """
        if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
            raise ConfigError(f"texts are judged by {' and '.join(missing)}: pip install medgraft[language]")
        for name in (PROMPT, REFERENCE):
            column = data.columns.get(name)
            if column is None or np.asarray(column).dtype.kind not in "UO":
                raise DataError(f"generation needs columns={{'{name}': ...}}, a text for each sample")
        used = np.concatenate([np.asarray(index) for index in data.splits.values()])
        if empty := sum(not str(data.columns[REFERENCE][i]).strip() for i in used):
            raise DataError(f"{empty} samples have no reference text; leave them out")

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean over samples of the mean cross-entropy of their answers' tokens, a scalar."""
        assert batch.index is not None
        model, adapters = language_model(grafted), [adapter for _, adapter in grafted.named_adapters()]
        prompts = model.prompts([self.prompts[i] for i in batch.index], *soft_tokens(adapters, outputs))
        with looking_at(adapters, outputs):
            return model.answer_loss(prompts, model.answers([self.references[i] for i in batch.index])).mean()

    def context(self, grafted: Grafted) -> Any:
        """Keeps the language model, which turns tokens into texts."""
        self._model = language_model(grafted)
        return None

    def scores_of(self, grafted: Grafted, outputs: Outputs, context: Any, index: np.ndarray) -> Tensor:
        """Tokens of the generated texts of the samples ``index``, ``[B, limit]``, -1 behind their ends."""
        model, adapters = language_model(grafted), [adapter for _, adapter in grafted.named_adapters()]
        prompts = model.prompts([self.prompts[i] for i in index], *soft_tokens(adapters, outputs))
        with looking_at(adapters, outputs):
            made = model.generate(prompts, self.decoding)
        ids = torch.full((len(index), self.decoding.limit), NO_TOKEN)
        for row, drawn in zip(ids, made.ids, strict=True):
            row[: len(drawn)] = torch.tensor(drawn, dtype=torch.long)
        return ids

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`; texts stand in columns of their bytes."""
        test = splits["test"]
        tokens = predict(test)
        assert self._model is not None
        texts = [self._model.text_of([int(t) for t in row if t != NO_TOKEN]) for row in tokens]
        columns = {GENERATED: as_column(texts), REFERENCE: as_column([self.references[i] for i in test])}
        ends = (tokens != NO_TOKEN).sum(axis=1).astype(np.int64)
        return Predictions(tokens, ends, groups, (), variants=self.data.variants, columns=columns)

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        for name in (GENERATED, REFERENCE):
            column = p.columns.get(name)
            if column is None or column.ndim != 2 or column.dtype.kind not in "ui":
                return f"it has no column {name!r} of texts"
        return ""


def language_model(grafted: Grafted) -> LanguageModel:
    """The language model of a graft.

    Raises:
        IncompatibleError: Its encoder has none.
    """
    tower = grafted.towers().get(TEXT)
    if not isinstance(tower, LanguageModel):
        raise IncompatibleError(
            f"encoder {grafted.encoder.spec.name} continues no text; name one with a language model, such as "
            "pair:embedded:chest|causal_lm:embedded"
        )
    return tower
