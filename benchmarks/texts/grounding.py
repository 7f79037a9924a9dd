"""What counter-measures know of the training samples, and what they make of prompts and texts with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.texts.statements import Statement
from medgraft.benchmarks.texts.checking import abstained, judged_statements, supported, threshold_for
from medgraft.benchmarks.texts.findings import FindingHead
from medgraft.benchmarks.texts.neighbours import ReportIndex
from medgraft.errors import ConfigError
from medgraft.task.text_options import CounterMeasures

INDEX, HEAD = "reports.safetensors", "findings.safetensors"
"""Files beside a kept graft: training reports with their features, and the head of findings."""


@dataclass(frozen=True)
class Draft:
    """A text as the language model wrote it.

    Attributes:
        text: It.
        ending: How it ended.
        likelihood: Sentence -> geometric mean of the probabilities of its tokens; empty unless asked for.
    """

    text: str
    ending: str
    likelihood: Mapping[str, float]


@dataclass(frozen=True)
class Samples:
    """Samples whose texts are known.

    Attributes:
        features: Frozen features ``[n, D]``.
        texts: Right text of each.
        subjects: Whom each is of.
        truths: What holds of each.
    """

    features: np.ndarray
    texts: Sequence[str]
    subjects: Sequence[str]
    truths: Sequence[Sequence[Statement]]


@dataclass
class Grounding:
    """The counter-measures of one cell, or of a kept graft.

    Attributes:
        measures: Which ones.
        index: Training reports, for retrieval.
        head: Which findings the features support.
        threshold: Least confidence of what is stated, once it was chosen.
    """

    measures: CounterMeasures
    index: ReportIndex | None = None
    head: FindingHead | None = None
    threshold: float | None = None

    @classmethod
    def fit(cls, measures: CounterMeasures, train: Samples, val: Samples) -> Grounding:
        """Learns what the counter-measures need of training samples; validation samples choose thresholds.

        Raises:
            ConfigError: Abstention is asked for, and there is no validation sample.
            DataError: No training text asserts a finding, and a head is asked for.
        """
        if measures.abstain > 0 and not len(val.features):
            raise ConfigError("abstain= chooses its threshold on validation samples, and there are none; leave it out")
        made = cls(measures)
        if measures.retrieval:
            made.index = ReportIndex(train.features, train.texts, train.subjects)
        if measures.need_head:
            made.head = FindingHead.fit(train.features, train.truths, val.features, val.truths)
        return made

    def similar(self, features: np.ndarray, subjects: Sequence[str | None]) -> list[list[str]]:
        """Training reports of the most similar samples of other subjects, nearest first.

        Args:
            features: ``[B, D]``.
            subjects: Whom each sample is of, ``None`` where nobody knows.
        """
        if self.index is None:
            return [[] for _ in features]
        found = self.index.nearest(features, self.measures.retrieval, subjects)
        return [[self.index.texts[i] for i in row] for row in found]

    def choose_threshold(
        self, drafts: Sequence[Draft], features: np.ndarray, truths: Sequence[Sequence[Statement]]
    ) -> None:
        """Chooses the least confidence of what is stated, on validation samples.

        Args:
            drafts: What was generated for them.
            features: ``[m, D]``.
            truths: What holds of each.
        """
        if not self.measures.abstain:
            return
        judged: list[tuple[float, bool]] = []
        for draft, row, truth in zip(drafts, features, truths, strict=True):
            judged += judged_statements(self._supported(draft.text, row), self._confidence(draft, row), truth)
        self.threshold = threshold_for(judged, self.measures.abstain)

    def revised(self, draft: Draft, features: np.ndarray) -> str:
        """A text as it may stand: unsupported assertions first, then what is not sure enough.

        Args:
            draft: What was generated.
            features: Of the sample, ``[D]``; any where no head is asked.

        Raises:
            ConfigError: Abstention is asked for, and no threshold was chosen.
        """
        text = self._supported(draft.text, features)
        if not self.measures.abstain:
            return text
        if self.threshold is None:
            raise ConfigError("abstain= has no threshold yet; it is chosen where validation samples are predicted")
        return abstained(text, self._confidence(draft, features), self.threshold)

    def _supported(self, text: str, features: np.ndarray) -> str:
        if self.measures.supported == "keep" or self.head is None:
            return text
        head, probabilities = self.head, self.head.probabilities(features[None])[0]
        negate = self.measures.supported == "negate"
        return supported(text, lambda finding: head.supports(finding, probabilities), negate=negate)

    def _confidence(self, draft: Draft, features: np.ndarray):
        """How sure a statement of a sentence is; what the head itself put there is sure by likelihood."""
        if self.measures.confidence == "likelihood" or self.head is None:
            return lambda sentence, statement: draft.likelihood.get(sentence, 1.0)
        head, probabilities = self.head, self.head.probabilities(features[None])[0]
        return lambda sentence, statement: head.confidence(statement, probabilities)

    def state(self) -> dict[str, Any]:
        """What :meth:`load` needs beside the files, as JSON."""
        threshold = None if self.threshold is None else "never" if math.isinf(self.threshold) else self.threshold
        names = [] if self.head is None else list(self.head.names)
        return {"measures": self.measures.model_dump(mode="json"), "findings": names, "threshold": threshold}

    def save(self, folder: Path) -> None:
        """Writes index and head into a folder."""
        if self.index is not None:
            self.index.save(folder / INDEX)
        if self.head is not None:
            from safetensors.numpy import save_file

            save_file(self.head.arrays(), folder / HEAD)

    @classmethod
    def load(cls, state: Mapping[str, Any], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> Grounding:
        """What :meth:`state` and :meth:`save` kept.

        Args:
            state: As it was given.
            arrays: File -> its arrays, read with care; ``[n, ...]`` and ``[F, ...]`` each.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        measures = CounterMeasures.model_validate(state["measures"])
        index = ReportIndex.load(arrays.get(INDEX, {})) if measures.retrieval else None
        head = FindingHead.of(state["findings"], arrays.get(HEAD, {})) if measures.need_head else None
        threshold = state["threshold"]
        return cls(measures, index, head, math.inf if threshold == "never" else threshold)
