"""A graft as a classifier of scikit-learn: ``fit``, ``predict_proba``, ``clone``, ``cross_val_score`` with groups."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from medgraft.benchmarks.calibration.conformal import sets
from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.keeping import keep
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.cohorts.own.files import modality_of, parts_of
from medgraft.benchmarks.cohorts.own.readers import reader_of
from medgraft.benchmarks.cohorts.own.splits import new_splits
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.errors import ConfigError, DataError
from medgraft.files.content import file_facts
from medgraft.modality import TEXT
from medgraft.registry import adapter_facts, build_adapters, resolve_adapter
from medgraft.task import RawInputs, Task, TaskData

HELD_OUT = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Shares of the subjects: validation chooses the head's strength of L2, the rest is what ``held_out_`` is of."""


class _InMemory(Task):
    """The samples of a call of ``fit``."""

    objective = "multiclass"
    primary = "auc_macro"
    cohort = "memory"

    def __init__(self, data: TaskData, modality: str) -> None:
        super().__init__()
        self.data, self.inputs = data, (modality,)

    def load(self, root: Path) -> TaskData:
        return self.data


class GraftClassifier(ClassifierMixin, BaseEstimator):
    """A frozen encoder with an adapter and a head, trained by the harness, as an estimator of scikit-learn.

    Args:
        encoder: Name of the encoder.
        adapter: Name of the adapter; several are joined by ``+``.
        options: Options of the adapter; of several, by name.
        epochs: Passes over the samples; the adapter's own number by default.
        lr: Peak learning rate; the adapter's own by default.
        seed: Of initial weights, order of the samples and the held-out part.
        colour: Files of images are read as ``"grey"`` values or as ``"rgb"``; arrays are what they are.

    Attributes:
        classes_: Labels as ``fit`` got them, sorted.
        held_out_: Metric -> value on a tenth of the subjects, which took no part in training.

    Example:
        >>> from sklearn.model_selection import GroupKFold, cross_val_score
        >>> classifier = GraftClassifier("phantom_chest", "lora")
        >>> cross_val_score(classifier, paths, labels, groups=patients, cv=GroupKFold(3))  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: str = "phantom_chest",
        adapter: str = "linear_probe",
        *,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        lr: float | None = None,
        seed: int = 0,
        colour: Literal["grey", "rgb"] = "grey",
    ) -> None:
        self.encoder, self.adapter, self.options = encoder, adapter, options
        self.epochs, self.lr, self.seed, self.colour = epochs, lr, seed, colour

    def fit(self, X: Any, y: Any, groups: Any = None) -> GraftClassifier:
        """Trains on samples.

        Args:
            X: ``n`` samples: paths of images or volumes, images ``uint8 [n, H, W]`` or in colour
                ``[n, H, W, 3]``, or a list of such arrays, volumes ``float32 [n, D, H, W]``, or texts.
            y: ``[n]`` labels.
            groups: ``[n]`` subjects, none of whom is in two parts of the split; every sample is its own by default.

        Raises:
            DataError: The samples are of no known kind, or a class has fewer than three subjects.
            MedgraftError: A name or an option does not exist, or adapter and encoder do not fit.
        """
        labels = np.asarray(y)
        samples, modality, facts = samples_of(X)
        if labels.ndim != 1 or len(labels) != len(samples):
            raise DataError(f"{len(samples)} samples have labels of shape {list(labels.shape)}; give one for each")
        self.classes_, targets = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(f"all labels are {self.classes_.tolist()}; there is nothing to tell apart")
        subjects = np.array([str(g) for g in (range(len(labels)) if groups is None else groups)])
        if len(subjects) != len(labels):
            raise DataError(f"{len(labels)} samples have {len(subjects)} groups; give one for each")
        files = isinstance(samples[0], str)
        colour = modality == "image" and (self._reads_colour() if files else samples[0].ndim == 3)
        facts = f"{facts}|rgb" if colour and files else facts
        raw = RawInputs(lambda i: self._read(samples[i], modality), len(samples), facts, colour=colour)
        data = TaskData(
            inputs={modality: raw},
            targets=targets.astype(np.int64),
            subjects=subjects,
            splits=new_splits(subjects, targets, HELD_OUT, self.seed),
            classes=tuple(str(name) for name in self.classes_),
        )
        self._train(_InMemory(data, modality))
        self.n_features_in_ = 1  # a sample is one thing
        return self

    def _reads_colour(self) -> bool:
        if self.colour not in ("grey", "rgb"):
            raise ConfigError(f"colour is {self.colour!r}; it is 'grey' or 'rgb'")
        return self.colour == "rgb"

    def _read(self, sample: Any, modality: str) -> Any:
        is_file = isinstance(sample, str) and modality != TEXT
        return reader_of(modality, colour=self._reads_colour())(sample) if is_file else sample

    def _spec(self) -> CellSpec:
        names = [resolve_adapter(part.strip()) for part in self.adapter.split("+")]
        recipe: dict[str, Any] = {}
        for name in names:
            recipe |= adapter_facts(name).train.model_dump()
        recipe |= {key: value for key, value in (("epochs", self.epochs), ("lr", self.lr)) if value is not None}
        options = dict(self.options or {})
        build_adapters(self.adapter, options)
        return CellSpec.model_validate(
            {
                "task": "table",  # of which the samples are in memory
                "cohort": CohortId(name="memory", revision="memory", phantom=False),
                "encoder": self.encoder,
                "adapter": self.adapter,
                "adapter_options": options,
                "seed": self.seed,
                "train": recipe,
            }
        )

    def _train(self, task: Task) -> None:
        spec = self._spec()
        with operations(spec):
            loaded = load(spec, Path(), task)
            if loaded.unreadable:
                why = ", ".join(f"{count} x {reason}" for reason, count in loaded.reasons.items())
                raise DataError(f"{loaded.unreadable} samples cannot be read ({why}); leave them and their labels out")
            ready = build(loaded)
            train(ready, lambda share: None)
            evaluated = evaluate(ready)
        with tempfile.TemporaryDirectory(prefix="medgraft-") as folder:
            keep(ready, evaluated, Path(folder))
            self.graft_ = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        ready.attached.give_back()
        self.held_out_ = {name: metric.value for name, metric in evaluated.metrics.items()}
        self._predictor: Predictor | None = None

    def save(self, folder: str | Path) -> Path:
        """Writes the graft as ``run --keep`` does, for :func:`medgraft.load`.

        Args:
            folder: A folder that does not exist or is empty.

        Raises:
            ConfigError: The folder is not empty.
        """
        check_is_fitted(self, "graft_")
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConfigError(f"{place} is not empty; name a new folder")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.graft_.items():
            (place / name).write_bytes(content)
        return place

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of samples as :meth:`fit` takes them, ``float64 [n, classes]``.

        Raises:
            DataError: A sample cannot be read; unlike ``medgraft predict``, none is left out.
        """
        check_is_fitted(self, "graft_")
        samples, modality, _ = samples_of(X)
        if self._predictor is None:
            with tempfile.TemporaryDirectory(prefix="medgraft-") as folder:
                self._predictor = Predictor(self.save(folder))
        predictor = self._predictor
        if (modality,) != predictor.facts.inputs:
            raise DataError(
                f"the samples are {modality}s, and the classifier was fitted on {predictor.facts.inputs[0]}s"
            )
        raw = [{modality: self._read(sample, modality)} for sample in samples]
        return np.concatenate([predictor.scores(raw[k : k + 16]) for k in range(0, len(raw), 16)])

    def predict(self, X: Any) -> np.ndarray:
        """Labels of samples, ``[n]``, those of the likeliest classes."""
        scores = self.predict_proba(X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_sets(self, X: Any) -> np.ndarray:
        """Conformal sets of samples, ``bool [n, classes]``: nine in ten hold the right class.

        A set has the classes that cannot be excluded; the threshold is from the tenth of the subjects that chose the
        head's strength of L2, so the share holds approximately, for samples of the same population. With too few of
        them every class is in every set. See :mod:`medgraft.benchmarks.calibration.conformal`.

        Raises:
            DataError: A sample cannot be read.
        """
        scores = self.predict_proba(X)
        assert self._predictor is not None
        rule = self._predictor.facts.sets
        return np.ones(scores.shape, bool) if rule is None else sets(rule, scores, labels=False)

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_predictor": None} if "_predictor" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = tags.input_tags.string = True
        return tags


def samples_of(X: Any) -> tuple[Sequence[Any], str, str]:
    """Samples, their modality, and a digest of them.

    Args:
        X: See :meth:`GraftClassifier.fit`.

    Raises:
        DataError: They are of no known kind.
    """
    samples: list[Any] = list(X)
    if not samples:
        raise DataError("there is no sample")
    first = samples[0]
    if isinstance(first, (str, Path)):
        paths = [str(each) for each in samples]
        kinds = {modality_of(path) for path in paths}
        if kinds == {""}:
            digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
            return paths, TEXT, digest
        if len(kinds) != 1:
            raise DataError("the paths name images, volumes and other files mixed; give one kind")
        return paths, kinds.pop(), file_facts([part for path in paths for part in parts_of(path)], Path())
    arrays = [np.asarray(each) for each in samples]
    kinds = {_kind_of(each) for each in arrays}
    if len(kinds) != 1 or "" in kinds:
        raise DataError(
            f"samples have {sorted({each.ndim for each in arrays})} axes; an image is uint8 [H, W] or [H, W, 3], a "
            "volume float32 [D, H, W], and all are of one kind"
        )
    digest = hashlib.sha256()
    for each in arrays:
        digest.update(f"{each.shape}{each.dtype}".encode() + np.ascontiguousarray(each).tobytes())
    return arrays, kinds.pop().split()[0], digest.hexdigest()


def _kind_of(array: np.ndarray) -> str:
    """``image``, ``image in colour`` or ``volume``; empty for an array of other axes."""
    if array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] == 3:
        return "image in colour"
    return {2: "image", 3: "volume"}.get(array.ndim, "")
