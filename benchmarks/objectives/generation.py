"""``generation``: a text for each sample by a frozen language model, trained on the right ones."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.adapter.protocols import Asked, CopiesReports, looking_at, soft_tokens
from medgraft.benchmarks.metrics.texts import choices, selection
from medgraft.benchmarks.metrics.texts.clinical.truth import TRUTH
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.coverage import DRAFT
from medgraft.benchmarks.metrics.texts.kinds import KIND
from medgraft.benchmarks.metrics.texts.learned.judges import judged_columns
from medgraft.benchmarks.metrics.texts.statements import from_json
from medgraft.benchmarks.objectives.heads import joined
from medgraft.benchmarks.objectives.support import embed
from medgraft.benchmarks.texts.choices import Options
from medgraft.benchmarks.texts.decoded import DecodedFile
from medgraft.benchmarks.texts.grounding import Draft, Grounding, Samples
from medgraft.benchmarks.texts.preferences import PREFERENCES
from medgraft.benchmarks.texts.prompting import retrieved, sentence_likelihoods
from medgraft.benchmarks.texts.stored import grounding_in, truths_of
from medgraft.benchmarks.texts.table import ENDING, ENDINGS
from medgraft.benchmarks.texts.tuning import PreferenceTuning
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.grafting import Grafted
from medgraft.language_model import Decoding, Generated, LanguageModel, Prompts
from medgraft.metric import Predictions
from medgraft.modality import TEXT
from medgraft.objective import Batch, Objective, Outputs
from medgraft.schedule import Phase
from medgraft.task import TaskData
from medgraft.task.text_options import CounterMeasures
from medgraft.world import World

PROMPT = "prompt"
NO_TOKEN = -1
DECODED_AT_ONCE = 16
"""Samples whose texts are decoded, and kept, together."""
FROM_TASK, FROM_REFERENCE = "the task's own facts", "the reference reports, read by rules"
"""What clinical numbers take for true; a result says which, under ``clinical_truth``."""
LIBRARIES = ("sacrebleu", "rouge_score")
"""What the metrics of texts are made with; asked for before anything is trained."""


class GenerationObjective(Objective):
    """Cross-entropy of the right answer's tokens, given the prompt and what an adapter shows of the sample.

    ``data.columns`` has ``prompt`` and ``reference``, texts ``[n]``. An adapter shows an image as soft tokens
    (``soft_prefix``) or between the blocks (``xattn``); without one the language model answers blindly, which is a
    baseline that every table needs. ``data.countermeasures`` says what is done against statements that nobody saw.

    Args:
        data: The task's data.
        inputs: Modalities of a sample.
    """

    needs = frozenset({"text tower", "tokens"})
    primary = "rouge_l"
    metrics = (*selection.ALL, "statement_coverage", "choices")
    columns = (
        "rouge_l",
        "bleu_4",
        "bleu_1_by_sample",
        "exact_match",
        "choice_accuracy",
        "choice_likelihood_accuracy",
        "clinical_f1_micro",
        "hallucination_rate",
        "hallucinated_reports",
        "missed_findings",
    )
    writes = True
    baselines = ("blind",)
    resumes = True

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self.prompts = [str(text) for text in data.columns.get(PROMPT, ())]
        self.references = [str(text) for text in data.columns.get(REFERENCE, ())]
        self.decoding = Decoding.model_validate(dict(data.decoding))
        self.measures = CounterMeasures.model_validate(dict(data.countermeasures))
        self.grounding = Grounding(self.measures)
        self.tuning = PreferenceTuning(data, self.references, self.measures)
        self._model: LanguageModel | None = None
        self._copying: CopiesReports | None = None
        self._features: dict[int, np.ndarray] = {}
        self._reports: dict[int, list[str]] = {}
        self._asked: dict[int, str] = {}
        self._drafts: dict[int, Draft] = {}
        self._decoded: DecodedFile | None = None
        self.options = Options(data.columns)
        self._tokens, self._seconds = 0, 0.0
        if KIND not in data.columns:
            data.provenance["clinical_truth"] = FROM_TASK if TRUTH in data.columns else FROM_REFERENCE

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
        for text in {str(data.columns[TRUTH][i]) for i in used} if TRUTH in data.columns else ():
            from_json(text)

    # -- before training ----------------------------------------------------------------------------------------------

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Shows training reports, of samples ``[n]``, to an adapter that copies; learns what counter-measures need."""
        grafted.eval()
        if (copier := _copier(grafted)) is not None:
            features = embed(lambda outputs: joined(outputs, self.inputs), run, index)
            copier.fit_reports(features, [self.references[i] for i in index], self._questions(index))
        if not self.measures.need_features and not self.measures.abstain:
            return
        splits = {name: np.asarray(self.data.splits.get(name, ()), np.int64) for name in ("val", "test")}
        everything = np.unique(np.concatenate([index, *splits.values()]))
        frozen = _frozen(grafted, run, self.inputs, everything)
        self._features = dict(zip(map(int, everything), frozen, strict=True))
        self.grounding = Grounding.fit(self.measures, self._samples(index), self._samples(splits["val"]))
        subjects = [str(self.data.subjects[i]) for i in everything]
        self._reports = dict(zip(map(int, everything), self.grounding.similar(frozen, subjects), strict=True))

    def _questions(self, index: np.ndarray) -> list[Asked]:
        """What the samples ``index`` are asked, ``[n]``."""
        kinds = self.data.columns.get(KIND)
        return [Asked(self.prompts[i], "" if kinds is None else str(kinds[i])) for i in index]

    def _samples(self, index: np.ndarray) -> Samples:
        width = len(next(iter(self._features.values())))
        return Samples(
            np.array([self._features[int(i)] for i in index]).reshape(-1, width),
            [self.references[i] for i in index],
            [str(self.data.subjects[i]) for i in index],
            truths_of(self.data, self.references, index),
        )

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean over samples of the mean cross-entropy of their answers' tokens, a scalar; in the last phase another."""
        assert batch.index is not None
        model, adapters = language_model(grafted), [adapter for _, adapter in grafted.named_adapters()]
        answers = model.answers([self.references[i] for i in batch.index])
        prompts = self._prompts(grafted, outputs, batch.index, answers[0].shape[1])
        with looking_at(adapters, outputs):
            if self.tuning.begun:
                return self.tuning.loss(model, prompts, batch.index)
            return model.answer_loss(prompts, answers).mean()

    def last_phase(self) -> Phase | None:
        """The phase of preferences, where the counter-measures ask for one."""
        return Phase("preferences", share=self.measures.preferences) if self.measures.preferences else None

    def begin_last_phase(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Makes or reads pairs of texts of samples ``[n]``; notes how likely each is before they are preferred."""
        model, adapters = language_model(grafted), [adapter for _, adapter in grafted.named_adapters()]
        grafted.eval()
        self.tuning.find_pairs(index)
        with torch.no_grad():
            for part in self.tuning.batches(index):
                outputs = run(part)
                with looking_at(adapters, outputs):
                    longest = model.answers(self.tuning.texts(part))[0].shape[1]
                    self.tuning.note(model, self._prompts(grafted, outputs, part, longest), part)
        grafted.train()

    def _prompts(self, grafted: Grafted, outputs: Outputs, index: np.ndarray, answer: int) -> Prompts:
        """Prompts of samples, soft tokens and similar reports among them, with room for ``answer`` tokens."""
        model, adapters = language_model(grafted), [adapter for _, adapter in grafted.named_adapters()]
        soft, mask = soft_tokens(adapters, outputs)
        texts = [self.prompts[i] for i in index]
        if self.measures.retrieval:
            places = 0 if soft is None else soft.shape[1]
            reports = [self._reports[int(i)] for i in index]
            texts = retrieved(model, texts, reports, places, max(answer, self.decoding.limit))
        self._asked |= dict(zip(map(int, index), texts, strict=True))
        return model.prompts(texts, soft, mask)

    # -- predicting ---------------------------------------------------------------------------------------------------

    def context(self, grafted: Grafted) -> Any:
        """Keeps the language model, which turns tokens into texts, and what copies texts in its place."""
        self._model, self._copying = language_model(grafted), _copier(grafted)
        return None

    def resume_at(self, stem: Path) -> None:
        """Goes on with what was decoded before a kill."""
        self._decoded = DecodedFile(stem.with_suffix(".jsonl"))

    def scores_of(self, grafted: Grafted, outputs: Outputs, context: Any, index: np.ndarray) -> Tensor:
        """Tokens of the generated texts of the samples ``index``, ``[B, limit]``, -1 behind their ends."""
        ids = torch.full((len(index), self.decoding.limit), NO_TOKEN)
        for start in range(0, len(index), DECODED_AT_ONCE):  # few at once, since a kill takes what is being decoded
            rows = slice(start, start + DECODED_AT_ONCE)
            part = {name: features.of(rows) for name, features in outputs.items()}
            for row, drawn in zip(ids[rows], self._decoded_part(grafted, part, index[rows]), strict=True):
                row[: len(drawn)] = torch.tensor(drawn, dtype=torch.long)
        return ids

    def _decoded_part(self, grafted: Grafted, outputs: Outputs, index: np.ndarray) -> tuple[tuple[int, ...], ...]:
        """Tokens of the texts of a few samples, whose drafts are noted."""
        prompts = self._prompts(grafted, outputs, index, self.decoding.limit)
        made = self._decode(grafted, outputs, prompts, index)
        if self.options and _copier(grafted) is None:
            with looking_at([adapter for _, adapter in grafted.named_adapters()], outputs):
                self.options.score(language_model(grafted), prompts, index)
        likelihoods: list[dict[str, float]] = [{} for _ in index]
        if self.measures.abstain and self.measures.confidence == "likelihood":
            with looking_at([adapter for _, adapter in grafted.named_adapters()], outputs):
                likelihoods = sentence_likelihoods(language_model(grafted), prompts, made.ids)
        rows = zip(map(int, index), made.texts, made.endings, likelihoods, strict=True)
        self._drafts |= {i: Draft(text, ending, likely) for i, text, ending, likely in rows}
        return made.ids

    def _decode(self, grafted: Grafted, outputs: Outputs, prompts: Prompts, index: np.ndarray) -> Generated:
        """Texts of a batch: kept ones, those of an adapter that copies reports, or the language model's."""
        if (copier := _copier(grafted)) is not None:
            texts = tuple(copier.reports_for(joined(outputs, self.inputs), self._questions(index)))
            return Generated(texts, tuple(() for _ in texts), tuple("end" for _ in texts))
        if self._decoded is not None and (kept := self._decoded.get(index.tolist())) is not None:
            return kept
        start = time.perf_counter()
        with looking_at([adapter for _, adapter in grafted.named_adapters()], outputs):
            made = language_model(grafted).generate(prompts, self.decoding)
        self._seconds += time.perf_counter() - start
        self._tokens += sum(len(ids) for ids in made.ids)
        if self._decoded is not None:
            self._decoded.put(index.tolist(), made)
        return made

    def generation_rate(self) -> float | None:
        """Tokens a second, prompts included in the time; texts that were kept or copied do not count."""
        return self._tokens / self._seconds if self._tokens else None

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`; texts stand in columns of their bytes."""
        test, val = splits["test"], splits["val"]
        if self.measures.abstain and self.grounding.threshold is None:
            predict(val)
            drafts, truths = self._of_all(val), truths_of(self.data, self.references, val)
            self.grounding.choose_threshold(drafts, self._samples(val).features, truths)
        tokens = predict(test)
        drafts = self._of_all(test)
        texts = [self._revised(draft, int(i)) for draft, i in zip(drafts, test, strict=True)]
        columns = {GENERATED: as_column(texts)} | self._text_columns(test)
        columns[ENDING] = np.array([ENDINGS.index(draft.ending) for draft in drafts], np.int64)
        if self.measures.change_texts:
            columns[DRAFT] = as_column([draft.text for draft in drafts])
        if self.options:
            columns[choices.OPTION_SCORES] = self.options.column(test)
        judged = judged_columns(texts, [self.references[i] for i in test])
        if self._copying is not None and KIND in self.data.columns:
            self.data.provenance["copied_from"] = dict(Counter(self._copying.copied_from(self._questions(test))))
        if judged.facts:
            self.data.provenance["judges"] = judged.facts
        columns |= judged.columns
        ends = (tokens != NO_TOKEN).sum(axis=1).astype(np.int64)
        return Predictions(tokens, ends, groups, (), variants=self.data.variants, columns=columns)

    def _of_all(self, index: np.ndarray) -> list[Draft]:
        """Drafts of the samples ``index``, whichever process decoded them."""
        for drafts, asked in World().gather_objects((self._drafts, self._asked)):
            self._drafts, self._asked = self._drafts | drafts, self._asked | asked
        return [self._drafts[int(i)] for i in index]

    def _revised(self, draft: Draft, sample: int) -> str:
        return self.grounding.revised(draft, self._features[sample]) if self.measures.change_texts else draft.text

    def _text_columns(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The data's own columns of texts that predictions hold, and the prompts as they were asked."""
        columns = {  # truths and kinds, which metrics read again
            name: as_column([str(column[i]) for i in index])
            for name, column in self.data.columns.items()
            if np.asarray(column).dtype.kind in "UO" and name != PREFERENCES
        }
        return columns | {PROMPT: as_column([self._asked[int(i)] for i in index])}

    # -- judging, keeping ---------------------------------------------------------------------------------------------

    @classmethod
    def judged_by(cls, p: Predictions) -> tuple[str, ...]:
        """Names of the metrics whose columns are there and whose libraries are installed."""
        by_columns = {DRAFT: "statement_coverage", choices.ANSWER: "choices"}
        return (*selection.fitting(p), *(name for column, name in by_columns.items() if column in p.columns))

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        if fault := selection.misfit(p) or choices.misfit(p):
            return fault
        draft, ending = p.columns.get(DRAFT), p.columns.get(ENDING)
        if draft is not None and (draft.ndim != 2 or draft.dtype.kind not in "ui"):
            return f"it has no column {DRAFT!r} of texts"
        if ending is not None and (ending.ndim != 1 or ending.dtype.kind not in "ui" or (ending >= len(ENDINGS)).any()):
            return f"its column {ENDING!r} is none of {', '.join(ENDINGS)}"
        return ""

    def state(self) -> dict[str, Any]:
        """The prompt that most samples have, how texts are decoded, and the counter-measures."""
        names, counts = np.unique(np.array(self.prompts or [""]), return_counts=True)
        prompt = str(names[int(counts.argmax())])
        return {"prompt": prompt, "decoding": self.decoding.model_dump(mode="json"), **self.grounding.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Objective.restore`."""
        self.prompts = [str(state["prompt"])]
        self.decoding = Decoding.model_validate({**state["decoding"], "stop": tuple(state["decoding"]["stop"])})
        self._state = state
        self.measures = CounterMeasures.model_validate(state["measures"])

    def save(self, folder: Path) -> None:
        """Writes the training reports that are retrieved, and the head of findings."""
        self.grounding.save(folder)

    def load(self, folder: Path) -> None:
        """See :meth:`Objective.load`."""
        self.grounding = grounding_in(folder, self._state)

    def texts_for(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], count: int) -> list[str]:
        """See :meth:`Objective.texts_for`."""
        index = np.arange(count)
        self.prompts = [self.prompts[0]] * count
        self._drafts, self._asked = {}, {}
        if self.measures.need_features:
            frozen = _frozen(grafted, run, self.inputs, index)
            self._features = dict(enumerate(frozen))
            self._reports = dict(enumerate(self.grounding.similar(frozen, [None] * count)))
        elif self.measures.change_texts:
            self._features = dict.fromkeys(range(count), np.zeros(1))
        self.scores_of(grafted, run(index), None, index)
        return [self._revised(self._drafts[i], i) for i in range(count)]


def _copier(grafted: Grafted) -> CopiesReports | None:
    """The adapter that copies training reports, if the graft has one.

    Raises:
        ConfigError: Another adapter acts beside it, whose training would change the features that it was fitted on.
    """
    adapters = dict(grafted.named_adapters())
    for name, adapter in adapters.items():
        if isinstance(adapter, CopiesReports):
            if len(adapters) > 1:
                raise ConfigError(f"adapter {name!r} copies reports by frozen features; graft it alone")
            return adapter
    return None


def _frozen(
    grafted: Grafted, run: Callable[[np.ndarray], Outputs], inputs: tuple[str, ...], index: np.ndarray
) -> np.ndarray:
    """Pooled features ``[n, D]`` of the samples ``index``, ``int64 [n]``, by the encoder without its adapters."""
    names = grafted.active
    grafted.activate()
    try:
        return embed(lambda outputs: joined(outputs, inputs), run, index).cpu().numpy()
    finally:
        grafted.activate(*names)


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
