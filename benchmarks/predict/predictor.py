"""A kept graft at work on samples that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medgraft.benchmarks.calibration.conformal import SetRule, sets
from medgraft.benchmarks.calibration.temperature import scaled
from medgraft.benchmarks.cell.encoder import select_encoder
from medgraft.benchmarks.cell.kept import KeptFacts, graft_folder, raw_facts, read_facts
from medgraft.benchmarks.explain.maps import Explanation, explain, spatial_modality
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.benchmarks.predict.samples import Item, items_of
from medgraft.benchmarks.results.spec import Precision
from medgraft.checkpoints.folder import load as load_weights
from medgraft.checkpoints.folder import read_config
from medgraft.errors import CheckpointError, DataError
from medgraft.fast.float8 import hold_frozen
from medgraft.fast.short_texts import cut_texts
from medgraft.grafting import Grafted
from medgraft.modality import TEXT, find_modality, prepared
from medgraft.objective import Outputs, objective_class
from medgraft.registry import build_adapter

MARGIN = 0.5
"""By how much of its width a range of the training samples is widened before a sample outside is remarked on."""

OK = "ok"


class Predictor:
    """Predicts with a kept graft.

    Args:
        folder: What ``--keep`` left beside a result, ``<key>.adapter``, or what ``export --to hf`` wrote.
        device: Where it runs.
        precision: What it runs in; by default what it was trained and judged in.

    Raises:
        CheckpointError: The folder is none of a kept graft, is damaged, or belongs to another encoder.
        ConfigError: It runs in fp8, and this device does not.

    Example:
        >>> import medgraft  # doctest: +SKIP
        >>> medgraft.load("results/.../KEY.adapter").predict(["film.png", "folder/"])  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, device: str = "cpu", precision: Precision | None = None) -> None:
        self.folder, self.device = graft_folder(folder), device
        self.facts: KeptFacts = read_facts(self.folder)
        self.precision = precision or self.facts.precision
        config = read_config(self.folder)
        self.digest = str(config["weights_sha256"])[:12]
        self.objective = self.facts.make_objective()
        modalities = list(self.facts.inputs)
        if "text tower" in objective_class(self.facts.objective).needs and TEXT not in modalities:
            modalities.append(TEXT)
        encoder = select_encoder(self.facts.encoder, tuple(modalities)).to(device)
        self.towers = encoder.towers()
        self.grafted = Grafted(
            encoder, {n: build_adapter(_plugin(n, a), a["config"]) for n, a in config["adapters"].items()}
        )
        self.grafted.to(device).eval()
        if config.get("head") is not None:  # adapters that classify by their training features have none
            self._add_head()
        load_weights(self.grafted, self.folder)
        self.objective.load(self.folder)
        self.grafted.to(device).eval()
        hold_frozen(self.grafted.encoder, self.precision, device)
        with torch.no_grad(), self._autocast():
            self._context = self.objective.context(self.grafted)

    @torch.no_grad()
    def _add_head(self) -> None:
        blank = {name: find_modality(name).blank_batch(self.towers[name]) for name in self.facts.inputs}
        head = self.objective.make_head(self.grafted.encode({name: torch.cat([x, x]) for name, x in blank.items()}))
        self.grafted.head = None if head is None else head.to(self.device)

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16)

    @property
    def _labels(self) -> bool:
        """Whether scores are those of labels, which do not exclude each other."""
        return self.facts.thresholds is not None

    @property
    def columns(self) -> list[str]:
        """Columns of a table of predictions behind ``input`` and ``status``."""
        if self.objective.writes:
            return ["text", "warning"]
        names = [f"p:{name}" for name in self.facts.classes] or ["value"]
        decided = ["prediction"] if self.facts.classes else []
        return [*names, *decided, *(["set"] if self.facts.sets is not None else []), "warning"]

    @torch.no_grad()
    def scores(self, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores of raw samples, ``float64 [n, K]`` for ``K`` classes, or ``[n, 1]`` for numbers and risks.

        Args:
            samples: Each modality -> raw sample, as :mod:`medgraft.modality` says; one batch.

        Raises:
            DataError: A raw sample is none of its modality.
        """
        return self.scores_of(self._rows(samples))

    def _rows(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return {
            name: torch.stack([torch.as_tensor(prepared(self.towers[name], each[name])) for each in samples]).to(
                self.device
            )
            for name in self.facts.inputs
        }

    @torch.no_grad()
    def texts(self, samples: Sequence[Mapping[str, Any]]) -> list[str]:
        """A text for each raw sample, by a graft whose objective writes, with its counter-measures.

        Args:
            samples: As :meth:`scores` takes them; one batch.

        Raises:
            DataError: A raw sample is none of its modality.
            CheckpointError: The graft writes no texts.
        """
        if not self.objective.writes:
            raise CheckpointError(f"{self.folder} is of {self.facts.objective}, which writes no texts; use predict()")
        rows = self._rows(samples)

        def run(index: np.ndarray) -> Outputs:
            return self.grafted.encode(cut_texts(self.grafted, {name: row[index] for name, row in rows.items()}))

        with self._autocast():
            return self.objective.texts_for(self.grafted, run, len(samples))

    @torch.no_grad()
    def scores_of(self, rows: Mapping[str, Tensor]) -> np.ndarray:
        """Scores ``float64 [n, K]`` of prepared samples, modality -> ``[n, ...]``; see :meth:`scores`."""
        with self._autocast():
            outputs = self.grafted.encode(cut_texts(self.grafted, rows))
            scores = self.objective.scores(self.grafted, outputs, self._context).double().cpu().numpy()
        if self.facts.temperatures is None:
            return scores
        return scaled(scores, self.facts.temperatures, labels=self._labels)

    def predict(self, inputs: Iterable[str | Path] | pd.DataFrame, batch: int = 16) -> pd.DataFrame:
        """Predictions for files, folders and tables.

        Args:
            inputs: Paths; a folder means all files of the graft's kind below it, a table the files and texts that it
                names. Or a table that is read already.
            batch: Samples at once.

        Returns:
            A row for each sample: ``input``, ``status`` (``ok``, or why there is no prediction), probabilities
            ``p:<class>``, the ``prediction`` and the conformal ``set``, or the ``value``; and a ``warning`` where a
            sample is unlike those that were trained on. A set names what cannot be excluded, joined by bars; of labels
            it has ``name`` for present, ``name?`` for undecided, ``name??`` where neither answer fits, and leaves out
            what is absent.

        Raises:
            DataError: An input does not exist, or none is of the graft's kind.
        """
        rows = [row for part in self.batches(self.items(inputs), batch) for row in part]
        return pd.DataFrame(rows, columns=["input", "status", *self.columns])

    def items(self, inputs: Iterable[str | Path] | pd.DataFrame) -> list[Item]:
        """The samples that some inputs stand for, to be read as the graft's task read its own.

        Args:
            inputs: As :meth:`predict` takes them.

        Raises:
            DataError: An input does not exist, or none is of the graft's kind.
        """
        return items_of(inputs, self.facts.inputs, colour=self.facts.colour)

    def batches(self, items: Iterable[Item], batch: int = 16) -> Iterator[list[dict[str, Any]]]:
        """The rows of :meth:`predict`, one list for each batch.

        Args:
            items: The samples, not read yet.
            batch: Samples at once.
        """
        waiting = iter(items)
        while part := list(islice(waiting, batch)):
            samples: list[Mapping[str, Any]] = []
            rows: list[dict[str, Any]] = []
            for item in part:
                row: dict[str, Any] = {"input": item.name, "status": item.problem or OK}
                rows.append(row)
                if item.problem:
                    continue
                try:
                    sample = {name: read() for name, read in item.read.items()}
                    for name, raw in sample.items():
                        find_modality(name).check(raw)
                except DataError as error:
                    row["status"] = error.reason or "cannot be read"
                    continue
                row["warning"] = self._unlike(sample)
                samples.append(sample)
            if samples:
                decided = [{"text": text} for text in self.texts(samples)] if self.objective.writes else None
                good = iter(decided or [self._decided(each) for each in self.scores(samples)])
                for row in rows:
                    if row["status"] == OK:
                        row |= next(good)
            yield rows

    def explain(
        self, sample: str | Path | Mapping[str, Any], method: str, target: str | None = None, **options: Any
    ) -> Explanation:
        """A map of where the decision on one image or volume comes from; see :mod:`medgraft.benchmarks.explain`.

        Args:
            sample: A file, or each modality -> raw sample.
            method: ``rollout``, ``gradcam`` or ``occlusion``.
            target: Name of the class to explain; the one with the highest score by default.
            **options: ``window`` and ``stride`` of occlusion, in values of the prepared input.

        Raises:
            DataError: The file cannot be read.
            UnknownNameError: No such method or class.
            ConfigError: The method does not apply to this graft, or captum is missing.
        """
        raw = self.sample_of(sample)
        modality = spatial_modality(self.facts.inputs)
        others = {
            name: torch.as_tensor(self.towers[name].prepare(raw[name]))[None].to(self.device)
            for name in self.facts.inputs
            if name != modality
        }
        return explain(self.scorer(modality, others), raw[modality], method, self.facts.classes, target, **options)

    def sample_of(self, source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """A file's raw sample by its modality, or a raw sample as it is, checked.

        Raises:
            DataError: The file cannot be read, or is none of the graft's.
        """
        if isinstance(source, Mapping):
            sample = dict(source)
        else:
            (item,) = items_of([source], self.facts.inputs)
            sample = {name: read() for name, read in item.read.items()}
        if missing := [name for name in self.facts.inputs if name not in sample]:
            raise DataError(f"a sample is {' and '.join(self.facts.inputs)}, and this one has no {missing[0]}")
        for name in self.facts.inputs:
            find_modality(name).check(sample[name])
        return sample

    def scorer(self, modality: str, others: Mapping[str, Tensor]) -> Scorer:
        """The graft as a function of one prepared modality, the sample's ``others`` ``[1, ...]`` held fixed."""
        return Scorer(self.grafted, self.objective, self._context, modality, others, self._autocast)

    def _decided(self, scores: np.ndarray) -> dict[str, Any]:
        """Columns of one sample's scores ``[K]``."""
        classes = self.facts.classes
        if not classes:
            return {"value": float(scores[0])}
        row: dict[str, Any] = {f"p:{name}": float(score) for name, score in zip(classes, scores, strict=True)}
        if self.facts.sets is not None:
            row["set"] = self._set(self.facts.sets, scores)
        if self.facts.thresholds is None:
            return row | {"prediction": classes[int(scores.argmax())]}
        chosen = [name for name, p, t in zip(classes, scores, self.facts.thresholds, strict=True) if p >= t]
        return row | {"prediction": "|".join(chosen)}

    def _set(self, rule: SetRule, scores: np.ndarray) -> str:
        """The conformal set of one sample's scores ``[K]``: what cannot be excluded, with ``?`` behind what may be."""
        inside, names = sets(rule, scores[None], labels=self._labels)[0], self.facts.classes
        if not self._labels:
            return "|".join(name for name, there in zip(names, inside, strict=True) if there)
        doubt = {(False, True): "", (True, True): "?", (False, False): "??"}
        answers = zip(names, map(tuple, inside.tolist()), strict=True)
        return "|".join(f"{name}{doubt[answer]}" for name, answer in answers if answer in doubt)

    def _unlike(self, sample: Mapping[str, Any]) -> str:
        """In what a sample is unlike those that were trained on; empty for nothing."""
        remarks: list[str] = []
        for name, raw in sample.items():
            for fact, value in raw_facts(raw).items():
                known = self.facts.ranges.get(name, {}).get(fact)
                margin = MARGIN * (known.high - known.low) + 0.1 * abs(known.high) if known else 0.0
                if known and not known.low - margin <= value <= known.high + margin:
                    remarks.append(f"{name} {fact} {value:.4g}, trained on {known.low:.4g} to {known.high:.4g}")
        return "; ".join(remarks)


def _plugin(name: str, stored: Mapping[str, Any]) -> str:
    if stored["plugin"] is None:
        raise CheckpointError(f"adapter {name!r} is {stored['class']}, which no installed plugin registers")
    return str(stored["plugin"])


def load(folder: str | Path, device: str = "cpu") -> Predictor:
    """Opens a kept graft to predict with, see :class:`Predictor`."""
    return Predictor(folder, device)
