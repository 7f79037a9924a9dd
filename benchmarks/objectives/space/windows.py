"""What contrast between windows of a run shares: a window's embedding, and how often a person is found again.

The windows are those that an encoder of runs reads, such as ``swift:hcp,windows=4``; its tokens say which is whose.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.objectives.heads import scale_of
from medgraft.benchmarks.objectives.space.judging import SpaceObjective, predictions_of
from medgraft.benchmarks.objectives.space.probes import Embedded
from medgraft.errors import DataError, IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch, Outputs
from medgraft.task import TaskData

logger = logging.getLogger(__name__)

WIDTH = 128
TEMPERATURE = 0.1
AXES = 5
"""Of a grid of tokens of several windows: the window, three of space, and time."""
NAMES = ("first", "last")
LEAST = 2


class Windows(NamedTuple):
    """Windows of a batch of runs.

    Attributes:
        rows: Mean token of each, ``float32 [B, K, C]``, those that a run has before those that it lacks.
        counts: How many each run has, ``int64 [B]``, from 1 to ``K``.
    """

    rows: Tensor
    counts: Tensor

    def last(self) -> Tensor:
        """Each run's last window, ``[B, C]``."""
        return self.rows[torch.arange(len(self.rows), device=self.rows.device), self.counts - 1]


def windows_of(features: Features) -> Windows:
    """The windows of runs, by the grid of their tokens.

    Raises:
        DataError: The tokens are not those of several windows.
    """
    if len(features.grid) != AXES or features.n_prefix:
        raise DataError(
            f"the tokens of a run lie on the grid {tuple(features.grid)}, and windows of a run are told from each "
            "other by one of windows, space and time; choose an encoder that reads several windows, such as "
            "swift:hcp,windows=4"
        )
    count = features.grid[0]
    rows = features.tokens.float().unflatten(1, (count, -1)).mean(dim=2)
    if features.mask is None:
        return Windows(rows, torch.full((len(rows),), count, device=rows.device))
    real = features.mask.unflatten(1, (count, -1))[:, :, 0]
    order = real.long().argsort(dim=1, descending=True, stable=True)
    return Windows(rows.take_along_dim(order[:, :, None], dim=1), real.sum(dim=1))


class WindowHead(nn.Module):
    """Standardised features of a window to a unit vector, by one linear map without bias.

    Args:
        dim: Width of the features.
        width: Of the vectors.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.linear = nn.Linear(dim, width, bias=False)

    @torch.no_grad()
    def fit_scale(self, rows: Tensor) -> None:
        """Takes mean and deviation from ``[n, dim]``, as other heads do."""
        mean, deviation = scale_of(rows)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def standardised(self, rows: Tensor) -> Tensor:
        """``[..., dim]`` -> the same with the mean taken off, in deviations."""
        return (rows - self.mean) / self.deviation

    def forward(self, rows: Tensor) -> Tensor:
        """Features of windows ``[..., dim]`` -> unit vectors ``[..., width]``."""
        return F.normalize(self.linear(self.standardised(rows)), dim=-1)


class WindowObjective(SpaceObjective):
    """Learns from windows of runs without labels; subclasses say which are told from which, by :meth:`contrast`.

    Of the two windows that a loss compares, one is of the run as it is, the other of an augmented view of it (with
    ``--augment-views`` both are of views). A run with one window teaches nothing and is no part of the retrieval; it is
    counted. Judged are how often the first window of a test run finds that run's last among those of other people, and
    the other way round, and linear probes of the targets, which nothing else learns from, on both windows' embeddings.

    Kim et al., "SwiFT", NeurIPS 2023 (arXiv 2307.05916), normalise the embeddings by the batch before they bring them
    to unit length; here the features are standardised by training runs instead, as for every other head, so that what
    a window becomes does not depend on the others of its batch.

    Args:
        data: The task's data; ``data.columns["confounds"]``, ``float [n, F]``, what two windows of a person share
            besides.
        inputs: ``volume_sequence`` alone.
    """

    needs = frozenset({"tokens"})
    primary = "r1_anchor"
    metrics = ("retrieval", "space_probes")
    columns = ("r1_anchor_chance", "r1_anchor_confounds", "r5_anchor", "probe_common")
    views = 2

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`.

        Raises:
            DataError: The samples are no runs, there is nobody to tell a person from, or targets are no classes.
        """
        if inputs != ("volume_sequence",):
            raise DataError(f"windows are of runs (volume_sequence) alone, and the task reads {' and '.join(inputs)}")
        if data.targets.ndim != 1 or data.targets.dtype.kind not in "iu":
            raise DataError("probes of windows need one class for each run (int64 [n])")
        for split in ("train", "test"):
            if len(np.unique(data.subjects[data.splits[split]])) < LEAST:
                raise DataError(
                    f"the runs of the {split} split are all of one person, who is told from others; give runs of more "
                    "people"
                )

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self.people = np.unique(data.subjects, return_inverse=True)[1].astype(np.int64)

    def make_head(self, sample: Outputs) -> WindowHead:
        """A head for the windows of ``sample``, scaled by them.

        Raises:
            DataError: No run has two windows, or the encoder reads one.
        """
        windows = windows_of(sample[self.inputs[0]])
        places = torch.arange(windows.rows.shape[1], device=windows.counts.device)
        there = places < windows.counts[:, None]
        if int(windows.counts.max()) < LEAST:
            raise DataError(
                f"none of {len(windows.counts)} training runs has two windows, and one is compared with another; take "
                "longer runs or an encoder of shorter windows"
            )
        head = WindowHead(windows.rows.shape[-1]).to(windows.rows.device, windows.rows.dtype)
        head.fit_scale(windows.rows[there])
        return head

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Refuses adapters behind the tokens of the samples ``index``, ``int64 [n]``, where no window would see them.

        Raises:
            IncompatibleError: There is one.
        """
        adapters = {name: [p for p in each.parameters() if p.requires_grad] for name, each in grafted.named_adapters()}
        if not any(adapters.values()):
            return
        with torch.enable_grad():
            total = windows_of(run(index[:1])[self.inputs[0]]).rows.sum()
        for name, parameters in adapters.items():
            reached = parameters and total.requires_grad
            grads = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True) if reached else ()
            if parameters and all(grad is None for grad in grads):
                raise IncompatibleError(
                    f"adapter {name!r} changes what stands for a whole run, and contrast between windows reads each of "
                    "them; choose one inside the encoder, such as lora, st_adapter or full_finetune"
                )

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """What a batch costs, a scalar; 0 where no run has two windows. Without a view the runs are their own."""
        assert batch.index is not None
        head, windows = head_of(grafted), windows_of(outputs[self.inputs[0]])
        z = head(windows.rows)
        again = z if batch.again is None else head(windows_of(batch.again[self.inputs[0]]).rows)
        counts = windows.counts.cpu().numpy()
        rows = np.flatnonzero(counts >= LEAST)
        if not len(rows):
            return (z.sum() + again.sum()) * 0
        return self.contrast(z, again, counts, rows, self.people[batch.index])

    def contrast(self, z: Tensor, again: Tensor, counts: np.ndarray, rows: np.ndarray, people: np.ndarray) -> Tensor:
        """The loss of the runs ``rows``, a scalar.

        Args:
            z: Unit vectors of the windows, ``[B, K, E]``.
            again: Those of a view of each, ``[B, K, E]``.
            counts: Windows that each run has, ``int64 [B]``; the others stand behind them.
            rows: Runs with two windows or more, ``int64 [n]``, one at least.
            people: Whose run each is, ``int64 [B]``.
        """
        raise TypeError(f"{type(self).__name__} must implement contrast()")

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Vectors of the first and the last window, their standardised features, and the number of windows.

        ``[B, 2 E + 2 C + 1]``.
        """
        head, windows = head_of(grafted), windows_of(outputs[self.inputs[0]])
        ends = (windows.rows[:, 0], windows.last())
        parts = [head(each) for each in ends] + [head.standardised(each) for each in ends]
        return torch.cat([*parts, windows.counts[:, None].to(parts[0].dtype)], dim=1)

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`.

        Raises:
            DataError: Fewer than two people of the test split have runs of two windows.
        """
        parts: dict[str, Embedded] = {}
        lacking: dict[str, int] = {}
        for split in ("train", "test"):
            scores = predict(splits[split])
            both = scores[:, -1] >= LEAST
            lacking[split] = int((~both).sum())
            present = np.stack([np.ones(len(both), bool), both], axis=1)
            width = (scores.shape[1] - 1) // 2 - WIDTH
            dims: dict[str, int] = dict.fromkeys(NAMES, width)
            parts[split] = Embedded.of(scores[:, :-1], present, dims, WIDTH, share=1.0)
        if (people := len(np.unique(groups[parts["test"].present[:, 1]]))) < LEAST:
            raise DataError(
                f"{people} people of the test split have a run of two windows, and one is told from another; take "
                "longer runs or more people"
            )
        if any(lacking.values()):
            said = ", ".join(f"{count} of the {split} split" for split, count in lacking.items() if count)
            logger.warning("runs with one window take no part in finding people again: %s", said)
        self.data.provenance["one_window"] = lacking
        return predictions_of(parts["train"], parts["test"], self.data, splits, groups)


def head_of(grafted: Grafted) -> WindowHead:
    """The head that :meth:`WindowObjective.make_head` made."""
    assert isinstance(grafted.head, WindowHead)
    return grafted.head
