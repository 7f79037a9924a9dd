"""The steps of one cell: load, build, train, evaluate, measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgraft import plugins
from medgraft.adapters.kernels import backends
from medgraft.benchmarks import head_choice
from medgraft.benchmarks.cache import PreparedInputs, TowerInputs, hit_rate, prepare, tower_inputs
from medgraft.benchmarks.cohorts import saw
from medgraft.benchmarks.dense import DetectionObjective, SegmentationObjective
from medgraft.benchmarks.intact import NotIntactError, Untouched, hidden_leaves, named, report_of
from medgraft.benchmarks.intervals import few_subjects
from medgraft.benchmarks.measure import forward_flops, peak_allocation, process_peak, samples_per_second
from medgraft.benchmarks.metrics import Metric, Predictions, best_thresholds, evaluate
from medgraft.benchmarks.objectives import make_objective
from medgraft.benchmarks.prompted import PromptedObjective
from medgraft.benchmarks.results import CellSpec, Efficiency, OpUse
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.training import Runner, TrainingLog
from medgraft.benchmarks.worker import json_safe, limited, select_encoder
from medgraft.compiling import compiled
from medgraft.encoder import Encoder, TextEncoder
from medgraft.grafting import Grafted
from medgraft.registry import adapter_facts, build_adapters, resolve_adapter, resolve_encoder
from medgraft.task import SPLITS, RawInputs, TaskData

MEASURE_BATCH = {"volume": 4}
"""Samples in a measurement, where 16 would take too long."""


class Cell:
    """Holds what the steps of a cell hand to each other.

    Args:
        spec: What to run.
        root: Folder of the cohort.
    """

    data: TaskData
    untouched: Untouched
    splits: dict[str, np.ndarray]
    prepared: dict[str, PreparedInputs]
    grafted: Grafted
    runner: Runner
    inputs: dict[str, TowerInputs]
    views: dict[str, list[TowerInputs]]
    diagnostics: dict[str, Any]

    def __init__(self, spec: CellSpec, root: Path) -> None:
        self.spec, self.root = spec, root
        self.few: dict[str, int] = {}  # classes with few test subjects
        self.task = build_task(spec.task, spec.task_options)
        self._record = backends.Record()

    @contextmanager
    def operations(self) -> Iterator[None]:
        """Inside it, shared operations run in the forms that the spec asks for, and :meth:`ops` knows which they were.

        A compiled graft is compiled as a whole, so its operations are asked for in eager mode and traced.
        """
        asked: backends.Backend = "eager" if self.spec.backend == "compile" else self.spec.backend
        with backends.using(asked), backends.recording() as self._record:
            yield

    def ops(self) -> dict[str, list[OpUse]]:
        """Which form each shared operation ran in so far, how often, and why not the fused one."""
        return {op: [OpUse(**use) for use in uses] for op, uses in self._record.summary().items()}

    def load(self) -> None:
        """Reads the cohort and prepares its samples for the encoder; drops those that cannot be read."""
        self.data = self.task.load(self.root).check()
        self.encoder = select_encoder(self.spec.encoder, self.task.modalities()).to(self.spec.device)
        self.prepared = {}
        for name, tower in self.towers().items():
            identity = tower.spec.model_dump_json(exclude={"weights", "cohorts", "licence"})
            self.prepared[name] = prepare(self._raw(name), tower, identity)
        usable = np.logical_and.reduce([part.usable for part in self.prepared.values()])
        self.unreadable = int((~usable).sum())
        self.reasons = sum((Counter(part.reasons) for part in self.prepared.values()), Counter[str]())
        self.splits = limited({name: index[usable[index]] for name, index in self.data.splits.items()}, self.spec.limit)

    def _raw(self, name: str) -> RawInputs:
        """The samples; a foreign task's fingerprint may say too little, so the cohort's revision stands beside it."""
        raw = self.data.inputs[name]
        if plugins.find("task", self.spec.task).builtin:
            return raw
        return replace(raw, fingerprint=f"{raw.fingerprint}|{self.spec.cohort.revision}")

    def towers(self) -> dict[str, Encoder]:
        """The towers that the task feeds, by modality."""
        return {name: tower for name, tower in self.encoder.towers().items() if name in self.task.inputs}

    def build(self) -> None:
        """Attaches the adapters, computes what stays frozen, and adds the head."""
        self.attach()
        self.precompute()

    def attach(self) -> None:
        """Attaches the adapters."""
        self.untouched = Untouched(self.encoder, self.data)
        torch.manual_seed(self.spec.seed)
        self.grafted = Grafted(self.encoder, build_adapters(self.spec.adapter, self.spec.adapter_options))
        self.grafted.to(self.spec.device)
        self.check_untouched(self.spec.seed)
        if self.spec.precision == "bf16_frozen":
            self.grafted.encoder.hold_in_bf16()
            self.untouched.encoder.renew()

    def precompute(self) -> None:
        """Computes what stays frozen, and adds the head."""
        first = self.grafted.first_stage()
        objective = make_objective(self.task.objective, self.data, self.task.inputs)
        kept = {} if objective.reads_tokens else self.grafted.condensers()
        self.inputs, self.views = {}, {}
        for name, tower in self.towers().items():
            weights = f"{self.grafted.base_digest}|{name}"
            rows = partial(tower_inputs, self.prepared[name], tower, first[name], weights, condenser=kept.get(name))
            self.inputs[name] = rows()
            if self.spec.augment_views and self.trains():
                self.views[name] = [rows(view=view) for view in range(self.spec.augment_views)]
        self.first = first
        encode = self.grafted.encode
        if self.spec.backend == "compile":
            encode = compiled(encode, dynamic=True)
        bf16 = self.spec.precision != "fp32"
        self.runner = Runner(
            self.grafted, objective, self.data, self.inputs, encode, bf16, self.views, device=self.spec.device
        )
        self.runner.add_head(self.splits["train"])
        if isinstance(objective, PromptedObjective):
            objective.introduce(self.grafted, self.runner.outputs, self.splits["train"])

    def trains(self) -> bool:
        """Whether the cell has anything to train, so that augmented views have a reader."""
        return self.spec.train.epochs > 0

    def train(self, progress: Callable[[float], None]) -> TrainingLog:
        """Trains as the spec says, and chooses the head's strength of L2."""
        torch.manual_seed(self.spec.seed + 1)
        train, val = self.splits["train"], self.splits["val"]

        def watched(share: float) -> None:
            self.check_modes()  # whoever predicts puts the encoder's modules back, and here is where it matters
            progress(share)

        log = head_choice.train(self.runner, train, val, self.spec.train, self.spec.seed, watched)
        self.check_untouched(self.spec.seed + 1)
        return log

    def check_untouched(self, seed: int) -> None:
        """Raises where an adapter changed what it must leave as it is.

        Args:
            seed: Of PyTorch's random numbers.

        Raises:
            NotIntactError: It did.
        """
        self._refuse(self.untouched.problem(seed))

    def check_modes(self) -> None:
        """The cheap part of the same, after each step: that nothing of the encoder trains.

        Raises:
            NotIntactError: Something does.
        """
        self._refuse(self.untouched.encoder.mode_problem())

    def _refuse(self, problem: str) -> None:
        if problem:
            raise NotIntactError(
                f"adapter {self.spec.adapter!r} must leave the encoder, the data and PyTorch's settings as they are, "
                f"and did not: {problem}; `medgraft check {self.spec.adapter}` tries it alone"
            )

    def give_back(self) -> None:
        """Takes the adapters off and checks that the encoder is what it was; nothing can be run after it.

        Raises:
            NotIntactError: It is not.
        """
        self.grafted.ungraft()
        if problem := self.untouched.encoder.restored_problem():
            raise NotIntactError(
                f"adapter {self.spec.adapter!r} does not give the encoder back: it has {problem}; undo every change "
                f"with attachment.on_detach(), `medgraft check {self.spec.adapter}` tries it alone"
            )

    def evaluate(self) -> tuple[dict[str, Metric], dict[str, np.ndarray]]:
        """Metrics on the test split, and the predictions behind them, subjects as anonymous numbers."""
        test = self.splits["test"]
        _, groups = np.unique(self.data.subjects[test], return_inverse=True)
        for _, adapter in self.grafted.named_adapters():
            adapter.reset_report()
        if isinstance(self.runner.objective, SegmentationObjective | DetectionObjective):
            predictions = self.runner.objective.evaluate(self.runner.predict, self.splits, groups)
        else:
            predictions = self._classified(test, groups)
        self.check_untouched(self.spec.seed + 1)
        self.diagnostics = {
            name: told for name, adapter in self.grafted.named_adapters() if (told := report_of(name, adapter))
        }
        self.thresholds, self.few = predictions.thresholds, few_subjects(predictions)
        optional = {"mask": predictions.mask, "thresholds": predictions.thresholds, "asked": predictions.asked}
        arrays = {"scores": predictions.scores, "targets": predictions.targets, "groups": groups}
        arrays |= {name: value for name, value in optional.items() if value is not None}
        return evaluate(predictions), arrays

    def _classified(self, test: np.ndarray, groups: np.ndarray) -> Predictions:
        """Scores of classes, or of labels with thresholds that the validation split chose."""
        scores, targets = self.runner.predict(test), self.data.targets[test]
        mask = None if self.data.mask is None else self.data.mask[test]
        thresholds = None
        if targets.ndim == 2:
            val = self.splits["val"]
            val_mask = None if self.data.mask is None else self.data.mask[val]
            thresholds = best_thresholds(self.runner.predict(val), self.data.targets[val], val_mask)
        return Predictions(
            scores,
            targets,
            groups,
            self.data.classes,
            mask,
            thresholds,
            variants=self.data.variants,
            asked=None if self.data.asked is None else self.data.asked[test],
            questions=self.data.questions,
            answers=self.data.answers,
        )

    def measure(self, log: TrainingLog) -> Efficiency:
        """Costs of the trained graft."""
        size = min(min(MEASURE_BATCH.get(name, 16) for name in self.task.inputs), len(self.splits["train"]))
        index = self.splits["train"][:size]
        whole = {name: part.batch(index).to(self.spec.device) for name, part in self.prepared.items()}
        self.grafted.eval()

        objective = self.runner.objective
        with torch.no_grad():
            known = objective.context(self.grafted) if isinstance(objective, PromptedObjective) else None

        def infer() -> object:
            with torch.no_grad(), self.runner.autocast():
                outputs = self.runner.encode(whole, {})  # compiled where the cell is
                # Some methods embed the prompts anew for each image, which is most of what a prediction costs.
                prompted = isinstance(objective, PromptedObjective)
                return objective.scores(self.grafted, outputs, known) if prompted else outputs

        def step() -> None:
            loss = self.runner.loss(self.splits["train"][: self.spec.train.batch_size])
            if hidden := hidden_leaves(loss, self.grafted):
                shapes = named(str(list(leaf.shape)) for leaf in hidden)
                raise NotIntactError(
                    f"adapter {self.spec.adapter!r} trains tensors that it does not register, of shape {shapes}, so "
                    "that they are neither counted nor saved; make them nn.Parameters of the adapter"
                )
            if loss.requires_grad:
                self.runner.backward(loss)

        flops = forward_flops(lambda: self.grafted.encode(whole), size)  # a compiled graph hides its operations
        speed = samples_per_second(infer, size, self.spec.device)
        self.grafted.train()
        for parameter in self.grafted.trainable_parameters():
            parameter.grad = None
        peak = peak_allocation(step, self.spec.device) if log.steps else None
        self.check_untouched(self.spec.seed + 1)
        towers = self.towers()
        return Efficiency(
            trainable=self.grafted.trainable_count(),
            trainable_dtype=self.grafted.trainable_dtypes(),
            encoder_parameters=sum(
                p.numel()
                for name, tower in self.encoder.towers().items()
                if name in self.task.modalities()
                for p in tower.parameters()
            ),
            forward_flops=flops,
            train_samples_per_s=log.samples / log.seconds if log.seconds else None,
            inference_samples_per_s=speed,
            train_step_peak_bytes=peak,
            process_peak_bytes=process_peak(),
            cached_stage={name: (self.first[name], tower.n_stages) for name, tower in towers.items()},
        )

    # -- what the result says about the parts -------------------------------------------------------------------------

    def describe_data(self) -> dict[str, Any]:
        """Counts and digests; no identifiers."""
        counts = {
            name: {"samples": len(self.splits[name]), "subjects": len(np.unique(self.data.subjects[self.splits[name]]))}
            for name in SPLITS
        }
        return json_safe(
            {
                "splits": counts,
                "split_hash": self.data.split_hash(),
                "subjects_disjoint": True,
                "unreadable": self.unreadable,
                "unreadable_reasons": dict(self.reasons),
                "texts_at_limit": self._texts_at_limit(),
                "classes": list(self.data.classes),
                "objective": self.task.objective,
                "variants": list(self.data.variants),
                "questions": list(self.data.questions),
                "answers": [list(classes) for classes in self.data.answers],
                "few_subjects": self.few,
                "thresholds": None if self.thresholds is None else self.thresholds.tolist(),
                **self.data.provenance,
            }
        )

    def _texts_at_limit(self) -> int | None:
        """Texts that fill the encoder's context to its last token, so that what came after it is cut off."""
        tower = self.towers().get("text")  # of a sample; class prompts are no samples
        if not isinstance(tower, TextEncoder):
            return None
        used = np.concatenate([self.splits[name] for name in SPLITS])
        return int((self.prepared["text"].array[np.sort(used), -1] != tower.pad_id).sum())

    def describe_encoder(self) -> dict[str, Any]:
        """The encoder's facts, and whether its pre-training saw this cohort."""
        spec = self.encoder.spec.model_dump(mode="json")
        spec["saw_this_cohort"] = saw(self.encoder.spec.cohorts, self.task.cohort)
        return spec

    def describe_cache(self) -> dict[str, Any]:
        """Entries that the cell read or built, and the share of the rows read that it did not compute."""
        sources = [*self.inputs.values(), *(view for views in self.views.values() for view in views)]
        read = {id(source.use): source.use for source in sources if source.use is not None}
        prepared = {id(part.use): part.use for part in self.prepared.values()}
        entries = [use.told() for use in (prepared | read).values()]
        return {"entries": entries, "hit_rate": hit_rate(read.values())}

    def describe_adapters(self) -> dict[str, Any]:
        """Title, options and coverage of each adapter."""
        asked = {part.replace(".", "/"): part for part in self.spec.adapter.split("+")}
        return {
            name: {
                **adapter_facts(resolve_adapter(asked[name])).told(),
                "options": adapter.config.model_dump(mode="json"),
                "coverage": {pattern: len(hits) for pattern, hits in self.grafted.coverage()[name].items()},
            }
            for name, adapter in self.grafted.named_adapters()
        }

    def provenance(self) -> list[dict[str, str]]:
        """Every plugin that took part."""
        found = [resolve_adapter(name).plugin for name in self.spec.adapter.split("+")]
        found += [resolve_encoder(self.spec.encoder).plugin, plugins.find("task", self.spec.task)]
        return [{"kind": plugin.kind, **plugin.provenance()} for plugin in found]
