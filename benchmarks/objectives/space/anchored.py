"""``anchored``: several modalities of a person in one space, in which each was paired with the first alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.anchored_losses import AnchoredLoss, Temperature, Weights, split_parts
from medgraft.benchmarks.objectives.heads import scale_of
from medgraft.benchmarks.objectives.space.judging import SpaceObjective, predictions_of
from medgraft.benchmarks.objectives.space.probes import Embedded
from medgraft.benchmarks.training.grouped_batches import group_similar
from medgraft.errors import DataError
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch, Outputs
from medgraft.task import TaskData
from medgraft.task.alignment_options import Alignment


class SpaceHead(nn.Module):
    """A linear map of each modality's features into the space, and the temperatures of its two parts.

    Features are standardised by training samples first, as those of all heads are.

    Args:
        dims: Modality -> width of its features.
        width: Of the space.
        temperature: At the start.
        specific: Whether the specific part has a loss, and so a temperature, of its own.
    """

    def __init__(self, dims: Mapping[str, int], width: int, temperature: float, specific: bool) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(dim, width) for name, dim in dims.items()})
        self.scale, self.specific_scale = Temperature(temperature), Temperature(temperature) if specific else None
        for name, dim in dims.items():
            self.register_buffer(f"mean_{name}", torch.zeros(dim))
            self.register_buffer(f"deviation_{name}", torch.ones(dim))

    @torch.no_grad()
    def fit_scale(self, name: str, features: Tensor) -> None:
        """Takes mean and deviation of a modality from ``[n, dim]``."""
        mean, deviation = scale_of(features)
        self.get_buffer(f"mean_{name}").copy_(mean)
        self.get_buffer(f"deviation_{name}").copy_(deviation)

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Modality -> embeddings ``[B, width]``."""
        return {name: linear(self.standardised(name, outputs)) for name, linear in self.maps.items()}

    def standardised(self, name: str, outputs: Outputs) -> Tensor:
        """Features of a modality, ``[B, dim]``."""
        features = outputs[name].pooled.float()
        return (features - self.get_buffer(f"mean_{name}")) / self.get_buffer(f"deviation_{name}")


class AnchoredObjective(SpaceObjective):
    """The first modality is the anchor; see :mod:`medgraft.anchored_losses` for the losses.

    A sample is a visit, of which any modality may be missing. Judged are retrieval between modalities, those included
    that were never trained together, and linear probes of the targets on the parts of the embeddings and on every
    subset of the modalities. Targets are not learnt from by the space, only by the probes.

    Args:
        data: The task's data; ``data.alignment`` holds the options, ``data.columns["confounds"]``, ``float [n, F]``,
            what two scans of a person share besides.
        inputs: Modalities, the anchor first.

    Attributes:
        options: See :class:`medgraft.task.alignment_options.Alignment`.
    """

    primary = "r1_emergent"
    metrics = ("retrieval", "space_probes")
    columns = ("r1_anchor", "r5_anchor", "r5_emergent", "probe_common", "probe_specific")
    missing_inputs = True
    baselines = ()

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`; people with the anchor and another modality in training, two at least to tell apart.

        Raises:
            DataError: There are not.
        """
        if len(inputs) < 2:
            raise DataError(f"one space needs two modalities or more, and the task reads {' and '.join(inputs)}")
        if data.targets.ndim != 1 or data.targets.dtype.kind not in "iu":
            raise DataError("probes of the space need one class for each sample (int64 [n])")
        for split in ("train", "test"):
            index = data.splits[split]
            for other in inputs[1:]:
                both = index[_present(data, inputs[0])[index] & _present(data, other)[index]]
                if (people := len(np.unique(data.subjects[both]))) < 2:
                    raise DataError(
                        f"{people} subjects of the {split} split have both {inputs[0]} and {other}, and pairs are told "
                        "apart from those of other subjects; two are the least"
                    )

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self.options = options = Alignment.model_validate(dict(data.alignment))
        self.views = 2 if options.specific_weight > 0 and options.common_share < 1 else 0
        self.terms = AnchoredLoss(
            inputs[0],
            options.common_share,
            Weights(options.specific_weight, options.orthogonal_weight),
            options.pairs,
            options.same_subject,
            options.near if options.near < 1 else None,
        )
        self.present = np.stack([_present(data, name) for name in inputs], axis=1)
        self.people = np.unique(data.subjects, return_inverse=True)[1].astype(np.int64)
        self.dims: dict[str, int] = {}
        self.seen = np.full((len(data.targets), 1), np.nan, np.float32)

    def make_head(self, sample: Outputs) -> SpaceHead:
        """A head for the features of ``sample``."""
        self.dims = {name: sample[name].pooled.shape[-1] for name in self.inputs}
        return SpaceHead(self.dims, self.options.width, self.options.temperature, specific=self.views > 0)

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Scales the head by some of the training samples ``index``, ``int64 [n]``, that have a modality."""
        head = _head(grafted)
        with torch.no_grad():
            for k, name in enumerate(self.inputs):
                there = index[self.present[index, k]]
                chosen = np.sort(np.random.default_rng(0).permutation(there)[:SCALE_SAMPLES])
                parts = [run(chosen[i : i + BATCH])[name].pooled.float() for i in range(0, len(chosen), BATCH)]
                if parts:
                    head.fit_scale(name, torch.cat(parts))

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """The sum of the terms of a batch, a scalar."""
        assert batch.index is not None
        head = _head(grafted)
        z = head(outputs)
        device = next(iter(z.values())).device
        present = {
            name: torch.from_numpy(self.present[batch.index, k]).to(device) for k, name in enumerate(self.inputs)
        }
        again = None if batch.again is None else head(batch.again)
        self._remember(z[self.inputs[0]], batch.index)
        people = torch.from_numpy(self.people[batch.index]).to(device)
        specific = None if head.specific_scale is None else head.specific_scale()
        return self.terms(z, head.scale(), people, present, again, specific_scale=specific).total

    def _remember(self, anchor: Tensor, index: np.ndarray) -> None:
        """Keeps the anchor's common parts, by which the next epoch's batches are grouped."""
        if not self.options.grouped:
            return
        rows = split_parts(anchor.detach(), self.options.common_share)[0].cpu().numpy()
        if self.seen.shape[1] != rows.shape[1]:
            self.seen = np.full((len(self.seen), rows.shape[1]), np.nan, np.float32)
        self.seen[index] = np.where(self.present[index, :1], rows, np.nan)

    def arrange(self, index: np.ndarray, size: int) -> np.ndarray:
        """Samples that were alike in the last epoch follow each other, where batches are grouped; ``int64 [n]``."""
        return group_similar(index, self.seen, size) if self.options.grouped else index

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Embeddings of all modalities side by side, then their standardised features, ``[B, M * K + sum of dims]``."""
        head = _head(grafted)
        z = head(outputs)
        rows = [z[name] for name in self.inputs] + [head.standardised(name, outputs) for name in self.inputs]
        return torch.cat(rows, dim=1)

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`; probes and the matcher of confounds are fitted on training samples."""
        train, test = splits["train"], splits["test"]
        parts = [
            Embedded.of(predict(index), self.present[index], self.dims, self.options.width, self.options.common_share)
            for index in (train, test)
        ]
        return predictions_of(parts[0], parts[1], self.data, splits, groups)


SCALE_SAMPLES, BATCH = 128, 64


def _present(data: TaskData, name: str) -> np.ndarray:
    present = data.inputs[name].present
    return np.ones(len(data.targets), bool) if present is None else np.asarray(present, bool)


def _head(grafted: Grafted) -> SpaceHead:
    assert isinstance(grafted.head, SpaceHead)
    return grafted.head
