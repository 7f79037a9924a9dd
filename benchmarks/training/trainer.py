"""Trains a graft and predicts with it: plain PyTorch, one thread of control, seeded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medgraft.adapter.protocols import set_task_ids
from medgraft.benchmarks.prefix_cache.rows import TowerInputs, drawn_rows, widened
from medgraft.benchmarks.training.best_weights import BestWeights
from medgraft.benchmarks.training.epoch_checkpoints import Checkpoints
from medgraft.benchmarks.training.observer import Observer
from medgraft.benchmarks.training.phases import Phases, learning_rate
from medgraft.benchmarks.training.read_ahead import Drawn, ReadAhead
from medgraft.benchmarks.training.training_state import TrainingLog, TrainingState
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.compiling import CompiledEncode
from medgraft.fast.forms import backward, fast_forms
from medgraft.fast.short_texts import cut_texts
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Objective, Outputs
from medgraft.registry import TrainDefaults
from medgraft.task import TaskData
from medgraft.world import World

Encode = Callable[[Mapping[str, Tensor | Features], Mapping[str, int]], dict[str, Features]]
Rows = Mapping[str, Tensor | Features]
"""Modality -> rows ``[B, ...]`` in the types that the cache keeps them in."""
Read = tuple[Rows | None, Rows | None]
"""Rows of a batch and, for an objective that compares two views, of the other."""
SCALE_SAMPLES = 128
"""Training samples that the head's scale is fitted on."""

EVAL_BATCH = 64


@dataclass
class Runner:
    """Feeds a graft from cached inputs.

    Attributes:
        grafted: What is trained.
        objective: What it is trained for.
        data: Targets and splits.
        inputs: Modality -> cached rows.
        encode: The graft's ``encode``, compiled or not.
        bf16: Run it under autocast; losses and heads stay in fp32.
        views: Modality -> cached rows of each augmented view, to train on in their place.
        augmented: They are; else only an objective that compares two views reads them, beside the samples as they are.
        phase: The phase that trains now, where an adapter declares several; empty otherwise.
        device: Where encoder, adapters and head are.
        world: The processes that train it together; this one alone unless ``torch.distributed`` has a group.
        observer: Is told of every step, outside of the time that is measured.
        checkpoints: Keep training between two epochs.
    """

    grafted: Grafted
    objective: Objective
    data: TaskData
    inputs: Mapping[str, TowerInputs]
    encode: Encode
    bf16: bool = False
    views: Mapping[str, Sequence[TowerInputs]] = field(default_factory=dict)
    augmented: bool = True
    phase: str = ""
    device: str = "cpu"
    world: World = field(default_factory=World)
    observer: Observer = field(default_factory=Observer)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def read(self, index: np.ndarray, draw: np.ndarray | None = None) -> Rows:
        """Cached rows of the samples ``index``, ``[B]``; of the views that were drawn, if any."""
        if draw is None:
            return {name: source.stored(index) for name, source in self.inputs.items()}
        return {name: drawn_rows(self.views[name], index, draw) for name in self.inputs}

    def read_step(self, drawn: Drawn) -> tuple[Rows, Rows | None]:
        """What a step reads of its batch, of which each of several processes runs a part: rows, and of other views."""
        mine = self.world.rows(len(drawn.part))
        index = drawn.part[mine]
        rows = self.read(index, None if drawn.draw is None else drawn.draw[mine])
        return rows, None if drawn.other is None else self.read(index, drawn.other[mine])

    def outputs(
        self, index: np.ndarray, draw: np.ndarray | None = None, read: Rows | None = None
    ) -> dict[str, Features]:
        """Features of the samples ``index``, ``[B]``, adapters included; of the views that were drawn, if any.

        Args:
            index: Samples ``int64 [B]``.
            draw: View of each.
            read: Their rows, where they were read before.
        """
        stages = {name: source.stage for name, source in self.inputs.items()}
        rows = self.cut(self.read(index, draw) if read is None else read, stages)
        towers = self.grafted.towers()
        for name, row in rows.items():
            rows[name] = row = widened(row.to(self.device))
            if isinstance(row, Tensor) and self.inputs[name].stage:
                rows[name] = row.to(towers[name].dtype)
        questions = None if self.data.asked is None else torch.from_numpy(self.data.asked[index]).to(self.device)
        for _, adapter in self.grafted.named_adapters():
            set_task_ids(adapter, questions)
        with self.autocast(), self.forms():
            result = self.encode(rows, stages)
        for name, features in result.items():
            _check_rows(name, features, len(index), finite=not self.grafted.training)
        return result

    def cut(
        self, rows: Mapping[str, Tensor | Features], stages: Mapping[str, int] | None = None
    ) -> dict[str, Tensor | Features]:
        """Rows ``[B, ...]`` of each modality, texts no longer than their longest.

        A compiled graph has one length, and so have tokens that are gathered from several processes.

        Args:
            rows: Modality -> what its tower is fed.
            stages: Modality -> stage of its rows; 0 where absent.
        """
        gathered = self.world.size > 1 and "tokens" in self.objective.needs
        return dict(rows) if self.compiled or gathered else cut_texts(self.grafted, rows, stages)

    def autocast(self) -> torch.autocast:
        """The context that what is trained runs in."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def forms(self) -> AbstractContextManager[None]:
        """The context in which what is trained is fast; a compiled graph chooses its own forms."""
        if self.compiled:
            return nullcontext()
        read_out = None if "tokens" in self.objective.needs else self._cls_read_out
        return fast_forms(self.device, self.bf16, read_out)

    @cached_property
    def _cls_read_out(self) -> ClsReadOut:
        return ClsReadOut(self.grafted)

    @property
    def compiled(self) -> bool:
        """Whether the graft runs as a compiled graph."""
        return self.encode != self.grafted.encode

    def batch(self, index: np.ndarray) -> Batch:
        """Targets of the samples ``index``, ``int64 [B]``."""

        def rows(values: np.ndarray | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values[index]).to(self.device)

        targets = rows(self.data.targets)
        assert targets is not None
        return Batch(targets, rows(self.data.mask), rows(self.data.labels), index)

    def add_head(self, train: np.ndarray) -> None:
        """Makes the objective's head from the first features of some of the training samples ``index``, ``[n]``."""
        self.grafted.eval()
        chosen = np.sort(np.random.default_rng(0).permutation(train)[:SCALE_SAMPLES])
        with torch.no_grad():
            parts = [self.outputs(part) for part in batches(chosen, EVAL_BATCH)]
        whole = {name: _join([part[name] for part in parts]) for name in parts[0]}
        head = self.objective.make_head(whole)
        self.grafted.head = None if head is None else head.to(self.device)

    def loss(
        self,
        index: np.ndarray,
        draw: np.ndarray | None = None,
        other: np.ndarray | None = None,
        read: Read = (None, None),
    ) -> Tensor:
        """The task's loss of a batch and what the adapters add to it, a scalar.

        Args:
            index: Samples ``int64 [B]``.
            draw: View of each, ``int64 [B]``; ``None`` for the samples as they are.
            other: Another view of each, for an objective that compares two.
            read: What :meth:`read_step` gives of them, where it was called before.

        Of several processes each runs a part of the batch, and the loss is of the whole. What adapters add is of the
        part, and counts as much as the part's samples, so that its mean over processes is that of the whole.
        """
        if not self.world.splits(len(index)):
            with self.world.alone():
                return self._loss_of(index, slice(0, len(index)), draw, other, read)
        return self._loss_of(index, self.world.rows(len(index)), draw, other, read)

    def _loss_of(
        self, index: np.ndarray, rows: slice, draw: np.ndarray | None, other: np.ndarray | None, read: Read
    ) -> Tensor:
        """The loss of the samples ``index``, ``int64 [B]``, of which this process runs some; see :meth:`loss`."""
        mine = index[rows]
        with self.world.own_draws(self.device):
            outputs: Outputs = self.outputs(mine, None if draw is None else draw[rows], read[0])
            extra = self.grafted.extra_loss(outputs)
            again = None if other is None else self.outputs(mine, other[rows], read[1])
        batch = self.batch(mine if self.objective.gathers else index)
        batch.again = None if again is None else self._whole(again)
        loss = self.objective.loss(self.grafted, self._whole(outputs), batch)
        return loss if extra is None else loss + extra * (len(mine) * self.world.size / len(index))

    def _whole(self, outputs: Outputs) -> Outputs:
        """Features of all processes' parts, unless the objective gathers what it needs of them."""
        if self.world.size == 1 or self.objective.gathers:
            return outputs
        tokens = "tokens" in self.objective.needs
        return {name: self.world.gather_features(each, tokens=tokens) for name, each in outputs.items()}

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, a scalar; an activation that is computed again for them takes the forms that it had.

        Raises:
            IncompatibleError: The loss depends on nothing that is trained.
        """
        if not loss.requires_grad:
            names = ", ".join(name for name, _ in self.grafted.named_adapters())
            raise IncompatibleError(
                f"nothing that {names} trains reaches what the loss of this task reads of "
                f"{self.grafted.encoder.spec.name}; choose a task with another objective or inputs"
            )
        with self.forms():
            backward(loss)

    def optimizer(self, train: TrainDefaults) -> torch.optim.Optimizer:
        """AdamW with the adapters' own factors on the learning rate, and the head's own rate."""
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for _, adapter in self.grafted.named_adapters():
            for name, parameter in adapter.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(train.lr * adapter.learning_rate_scale(name), []).append(parameter)
        if self.grafted.head is not None:
            groups.setdefault(train.head_lr, []).extend(self.grafted.head.parameters())
        return torch.optim.AdamW(
            [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups.items()],
            weight_decay=train.weight_decay,
            fused=True,
        )

    def require_trainable(self) -> None:
        """Raises :class:`DataError` where the task has nothing to train on."""
        if self.data.untrainable:
            raise DataError(self.data.untrainable)

    def fit(self, index: np.ndarray, train: TrainDefaults, seed: int, progress: Callable[[float], None]) -> TrainingLog:
        """Trains for ``train.epochs`` passes over ``index``, ``[n]``; the last short batch of a pass is kept.

        Args:
            index: Training samples.
            train: Hyper-parameters.
            seed: Of the order of the samples.
            progress: Called with the share that is done.

        Raises:
            DataError: There is something to train, and the task has nothing to train it on.
        """
        log = TrainingLog()
        if train.epochs == 0 or not self.grafted.trainable_parameters():
            return log
        self.require_trainable()
        order = np.random.default_rng([seed, 17])
        optimizer = self.optimizer(train)
        best = BestWeights(self.grafted.trained_modules()) if train.keep == "lowest_loss" else None
        each = math.ceil(len(index) / train.batch_size)
        total = train.epochs * each
        phases = Phases(self.grafted, total, self.objective.last_phase())
        if best is not None and phases.phases:
            raise ConfigError(f"{' and '.join(phases.phases)} trains in phases, so no earlier epoch can be kept")
        self.grafted.train()
        views = np.random.default_rng([seed, 23])
        state = TrainingState(self.grafted, optimizer, phases, best, log, {"order": order, "views": views})
        with phases.running():
            done = self.checkpoints.resume(state)
            self._start_alike(done)
            for epoch, loss in enumerate(log.epoch_loss, 1):
                self.observer.epoch(epoch, epoch * each, loss)
            for epoch in range(done + 1, train.epochs + 1):
                losses: list[float] = []
                drawn = self._draw_views(views) if self.augmented else None
                other = self._other_views(views, drawn) if self.objective.views else None
                arranged = self.objective.arrange(order.permutation(index), train.batch_size)
                steps = [Drawn.of(part, drawn, other) for part in batches(arranged, train.batch_size)]
                with ReadAhead(self.read_step, steps, self.device, self._bytes(train.batch_size)) as ahead:
                    for step, rows in ahead:
                        rate = learning_rate(*phases.enter(log.steps), train.warmup)
                        self.phase = phases.name
                        if phases.begins_last(log.steps):
                            self.objective.begin_last_phase(self.grafted, self.outputs, index)
                        losses.append(self._step(optimizer, step, rate, log, rows))
                        phases.record(losses[-1])
                        self.observer.step(log.steps, losses[-1], _rates(optimizer))
                        progress(log.steps / total)
                log.epoch_loss.append(float(np.mean(losses)))
                self.observer.epoch(epoch, log.steps, log.epoch_loss[-1])
                if not math.isfinite(log.epoch_loss[-1]):
                    raise FloatingPointError(
                        f"the loss is {log.epoch_loss[-1]} after {log.steps} steps; lower the learning rate"
                    )
                if best is not None:
                    best.after_epoch(log.epoch_loss[-1])
                self.checkpoints.after_epoch(epoch, state)
        if best is not None:
            best.restore()
        self.phase, log.stages = "", phases.summary()
        return log

    def _bytes(self, batch: int) -> int:
        """Of the rows of so many samples, as they are kept."""
        arrays = [array for source in self.inputs.values() for array in source.arrays.values()]
        return sum(batch * math.prod(array.shape[1:]) * array.dtype.itemsize for array in arrays)

    def _start_alike(self, done: int) -> None:
        """Of several processes all go on behind the same epoch, with the first one's weights.

        Raises:
            DataError: One has found another checkpoint than the first.
        """
        if self.world.size > 1:
            self.world.require_agreement({"the epoch that training goes on behind": done}, "give the command again")
            modules = self.grafted.trained_modules()
            self.world.share(each for module in modules for each in (*module.parameters(), *module.buffers()))

    def _draw_views(self, source: np.random.Generator) -> np.ndarray | None:
        """A view of each sample for an epoch; ``None`` without views."""
        count = len(next(iter(self.views.values()), ()))
        return source.integers(count, size=len(self.data.targets)) if count else None

    def _other_views(self, source: np.random.Generator, drawn: np.ndarray | None) -> np.ndarray:
        """Of each sample a view that is not the one drawn, ``int64 [n]``; any where none was, or there is but one."""
        count, n = len(next(iter(self.views.values()))), len(self.data.targets)
        if drawn is None or count == 1:
            return source.integers(count, size=n)
        return (drawn + 1 + source.integers(count - 1, size=n)) % count

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        drawn: Drawn,
        rate: float,
        log: TrainingLog,
        rows: tuple[Rows, Rows | None],
    ) -> float:
        """One optimisation step at a share of the peak learning rate; its loss."""
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        start = time.perf_counter()
        if isinstance(self.encode, CompiledEncode):
            self.encode.begin_step()
        loss = self.loss(drawn.part, drawn.draw, drawn.other, rows)
        optimizer.zero_grad(set_to_none=True)
        self.backward(loss)
        self.world.average_gradients(self.grafted.trainable_parameters())
        optimizer.step()
        for _, adapter in self.grafted.named_adapters():
            adapter.after_step()
        value = self.world.mean(loss.detach(), 1).item()  # each process's holds what adapters add to its part
        log.seconds += time.perf_counter() - start
        log.steps += 1
        log.samples += len(drawn.part)
        return value

    @torch.no_grad()
    def predict(self, index: np.ndarray) -> np.ndarray:
        """Scores of the samples, ``float64 [n, K]``; each process runs a part of them, and all get all."""
        self.grafted.eval()
        mine = index[self.world.rows(len(index))]
        part_of_all = nullcontext() if self.world.splits(len(index)) else self.world.alone()
        with self.world.together(), part_of_all:
            with self.autocast():
                context = self.objective.context(self.grafted)
            rows = [
                _checked(
                    self.objective.scores_of(self.grafted, self.outputs(part), context, part).double().cpu().numpy(),
                    len(part),
                )
                for part in batches(mine, EVAL_BATCH)
            ]
        return self.gathered(np.concatenate(rows), len(index))

    def gathered(self, rows: np.ndarray, count: int) -> np.ndarray:
        """All ``count`` rows ``[n, ...]`` in their order, of which each process has those of :meth:`World.rows`."""
        if not self.world.splits(count):
            return rows
        return self.world.gather(torch.from_numpy(rows).to(self.device)).cpu().numpy()


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate of each group of parameters now, by its peak."""
    return {f"peak_{group['peak']:g}": float(group["lr"]) for group in optimizer.param_groups}


def _check_rows(tower: str, features: Features, samples: int, *, finite: bool) -> None:
    """Raises where a graft's features are not one row for each sample, or (asked for ``finite``) no numbers."""
    if len(features.pooled) != samples:
        raise ValueError(f"the graft gives {len(features.pooled)} rows of {tower} features for {samples} samples")
    if finite and not (finite_rows := torch.isfinite(features.pooled.detach())).all():
        bad = int((~finite_rows).flatten(1).any(dim=1).sum())
        raise FloatingPointError(f"the graft gives {tower} features that are not finite for {bad} of {samples} samples")


def _checked(scores: np.ndarray, samples: int) -> np.ndarray:
    """Scores of one batch, which are one finite row for each sample."""
    if len(scores) != samples:
        raise ValueError(f"the graft gives {len(scores)} predictions for {samples} samples")
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"{int((~np.isfinite(scores)).sum())} of {scores.size} predicted scores are not finite"
        )
    return scores


def batches(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive parts ``[B]`` of ``index``, ``[n]``."""
    for start in range(0, len(index), size):
        yield index[start : start + size]


def _join(parts: list[Features]) -> Features:
    return parts[0].replace(pooled=torch.cat([part.pooled for part in parts]))
