"""Processes that train one graft together: each runs a part of every batch, and all see the whole batch's features.

The trainer hands each process its rows (:meth:`World.rows`), gathers the features that the graft makes of them with
their gradient (:meth:`World.gather_features`), and has every process compute the same loss of the whole batch. So any
objective is right as it is, those included whose samples compare each other (contrastive pairs, the risk sets of a
survival model). The mean over processes of each parameter's gradient is then the gradient of one process
(:meth:`World.average_gradients`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.errors import DataError, MedgraftError
from medgraft.features import TENSORS, Features
from medgraft.typed.pytorch import fork_random, seed_random

_alone: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether what runs now is no part of a whole, though there are other processes: each runs all of it."""


class LostRanksError(MedgraftError):
    """Another process of the group has ended, so that this one cannot go on."""


class FailedRankError(LostRanksError):
    """What another process of the group did has failed, and that one says why.

    Attributes:
        of_values: Whether it was a ``ValueError`` or an ``ArithmeticError``, by which values are judged.
    """

    def __init__(self, text: str, of_values: bool) -> None:
        super().__init__(text)
        self.of_values = of_values


def lost_others(error: BaseException) -> bool:
    """Whether an exception says no more than that another process of the group is gone."""
    if isinstance(error, LostRanksError):
        return True
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return False
    if not (dist.is_available() and dist.is_initialized()) or isinstance(error, MedgraftError):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    inside = Path(dist.__file__).parent
    return place is not None and inside in Path(place.tb_frame.f_code.co_filename).parents


class World:
    """The processes of a group of ``torch.distributed``; one alone where no group was initialised.

    Args:
        group: Process group; the default one if ``None``.

    Example:
        >>> world = World()
        >>> world.rank, world.size, world.rows(8)
        (0, 1, slice(0, 8, None))
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    @property
    def size(self) -> int:
        """Number of processes; 1 inside :meth:`alone`."""
        started = dist.is_available() and dist.is_initialized() and not _alone.get()
        return dist.get_world_size(self.group) if started else 1

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return dist.get_rank(self.group) if self.size > 1 else 0

    @property
    def repeats(self) -> bool:
        """Whether the first process runs the same as this one inside :meth:`alone`, so that it is counted there."""
        return _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_rank(self.group) > 0

    def splits(self, count: int) -> bool:
        """Whether ``count`` samples are divided; of fewer than there are processes, every process runs all."""
        return 1 < self.size <= count

    def rows(self, count: int) -> slice:
        """Samples that are this process's of ``count``: consecutive ones, at most one more than another's."""
        if not self.splits(count):
            return slice(0, count)
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    @contextmanager
    def alone(self) -> Generator[None]:
        """Inside it every process runs all of a batch, so that nothing is to be gathered."""
        token = _alone.set(True)
        try:
            yield
        finally:
            _alone.reset(token)

    def lengths(self, rows: Tensor) -> list[int]:
        """Rows that each process holds, where this one holds ``rows``, ``[n, ...]``."""
        if self.size == 1:
            return [len(rows)]
        mine = torch.tensor([len(rows)], device=rows.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine, group=self.group)
        return [int(length.item()) for length in every]

    def gather(self, rows: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Rows of all processes in the order of the ranks, with the gradient of what every process makes of them.

        Args:
            rows: ``[n, ...]``, of one type and, but for ``n``, one shape on all processes.
            lengths: Rows of each process, where they are known.

        Returns:
            ``[sum of n, ...]``.
        """
        if self.size == 1:
            return rows
        lengths = self.lengths(rows) if lengths is None else lengths
        if rows.is_floating_point():
            return _Gather.apply(rows, list(lengths), self.group)
        return _gathered(rows.to(torch.uint8) if rows.dtype == torch.bool else rows, lengths, self.group).to(rows.dtype)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes of ``values``, ``[...]`` of one shape, with the gradient of what all make of it."""
        return values if self.size == 1 else self.gather(values[None], [1] * self.size).sum(dim=0)

    def mean(self, values: Tensor, count: int) -> Tensor:
        """Mean over what all processes count, without a gradient.

        Args:
            values: Mean over what this process counts, ``[...]`` of one shape on all.
            count: How many that are; 0 on some, but not on all.
        """
        if self.size == 1:
            return values
        total = torch.cat([values.detach().reshape(-1) * count, values.new_tensor([float(count)])])
        dist.all_reduce(total, group=self.group)
        return (total[:-1] / total[-1]).view_as(values)

    def gather_features(self, features: Features, *, tokens: bool) -> Features:
        """Features of the whole batch, from those of this process's part.

        Args:
            features: Of :meth:`rows`.
            tokens: Whether the tokens are read; else the first of each sample stands for them.

        Where only some processes have a mask, since an encoder gives one by what is in a batch, the others' is of ones.

        Raises:
            DataError: Only some have another field; every process raises the same.
        """
        if not tokens:
            mask = None if features.mask is None else features.mask[:, :1]
            features = features.replace(tokens=features.tokens[:, :1], mask=mask, cls_scores=None, cls_probs=None)
        parts = {name: getattr(features, name) for name in TENSORS}
        lengths, somewhere, everywhere = self._presence(len(features.pooled), parts)
        if "mask" in somewhere and parts["mask"] is None:  # of a batch that is part here, and whole there
            parts["mask"] = torch.ones_like(features.tokens[..., 0], dtype=torch.bool)
        if odd := sorted(somewhere - everywhere - {"mask"}):
            raise DataError(
                f"the ranks of this cell disagree: their features have {' and '.join(odd)} on some ranks only; make "
                "the encoder or the adapter give them for every batch or for none"
            )
        return features.replace(
            **{name: self.gather(part, lengths) for name, part in parts.items() if part is not None}
        )

    def _presence(self, rows: int, parts: Mapping[str, Tensor | None]) -> tuple[list[int], set[str], set[str]]:
        """Rows of each process, and which of ``parts`` some process has, and which all have."""
        device = next(part.device for part in parts.values() if part is not None)
        mine = torch.tensor([[rows, *(part is not None for part in parts.values())]], device=device)
        lengths, *there = self.gather(mine, [1] * self.size).unbind(dim=1)
        has = dict(zip(parts, there, strict=True))
        everywhere = {name for name in has if bool(has[name].all())}
        return [int(each.item()) for each in lengths], {name for name in has if bool(has[name].any())}, everywhere

    def gather_objects(self, mine: Any) -> list[Any]:
        """What each process has, in the order of the ranks; pickled, so from processes of one program alone."""
        if self.size == 1:
            return [mine]
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, mine, group=self.group)
        return every

    @contextmanager
    def together(self) -> Generator[None]:
        """Inside it a process does its part, without the others; behind it all go on, or all raise.

        Raises:
            FailedRankError: Another process has failed inside, and this one has not; with that one's words.
        """
        try:
            yield
        except Exception as error:
            if not lost_others(error):
                text = str(error) if isinstance(error, MedgraftError) else f"{type(error).__name__}: {error}"
                with suppress(Exception):  # what failed here is what is to be told
                    self.gather_objects((text, isinstance(error, ValueError | ArithmeticError)))
            raise
        for failure in self.gather_objects(None):
            if failure is not None:
                raise FailedRankError(*failure)

    def require_agreement(self, facts: Mapping[str, Any], remedy: str) -> None:
        """Refuses processes of which one knows other facts than the first.

        Args:
            facts: Name -> what this process has, short and comparable.
            remedy: What mends it, for a person.

        Raises:
            DataError: They differ; every process raises the same.
        """
        first, *others = self.gather_objects(dict(facts))
        for rank, each in enumerate(others, 1):
            for name in first:
                if each.get(name) != first[name]:
                    raise DataError(
                        f"the ranks of this cell disagree: {name} is {first[name]} on rank 0 and {each.get(name)} on "
                        f"rank {rank}; {remedy}"
                    )

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Every process takes the first one's values of tensors ``[...]``, in the same order on all."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in tensors:
                    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach().contiguous()
                    dist.broadcast(sent, group_src=0, group=self.group)
                    tensor.copy_(sent)

    @contextmanager
    def own_draws(self, device: str) -> Generator[None]:
        """Inside it each process draws random numbers of its own; behind it all go on with the same ones.

        Where nothing is drawn inside, what follows draws what one process would.

        Args:
            device: ``cpu`` or ``cuda``, whose current device draws too.
        """
        if self.size == 1:
            yield
            return
        devices = [torch.device("cuda", torch.cuda.current_device())] if device == "cuda" else []
        with fork_random(devices):
            seed_random(int(torch.randint(2**62, ()).item()) + self.rank)
            before = _random_states(devices)
            yield
            drew = any(not torch.equal(old, new) for old, new in zip(before, _random_states(devices), strict=True))
        if drew:
            torch.randint(2**62, ())  # so that the next time draws others

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each parameter's gradient, of any shape, becomes its mean over the processes; one without any keeps none."""
        if self.size == 1:
            return
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            kinds.setdefault(parameter.dtype, []).append(parameter)
        for group in kinds.values():
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            present = parts[0].new_tensor([float(p.grad is not None) for p in group])
            flat = torch.cat([*(part.reshape(-1) for part in parts), present])
            dist.all_reduce(flat, group=self.group)
            *sums, counts = torch.split(flat, [*(part.numel() for part in parts), len(parts)])
            for parameter, total, count in zip(group, sums, counts, strict=True):
                if count > 0:
                    parameter.grad = (total / self.size).view_as(parameter)


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _gathered(rows: Tensor, lengths: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks, in the order of the ranks; short ranks are filled up for the exchange and cut again."""
    longest = max(lengths)
    sent = F.pad(rows.detach(), (*[0, 0] * (rows.dim() - 1), 0, longest - len(rows))).contiguous()
    received = [torch.empty_like(sent) for _ in lengths]
    dist.all_gather(received, sent, group=group)
    return torch.cat([part[:length] for part, length in zip(received, lengths, strict=True)])


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds up what every rank's loss asks of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        start = sum(lengths[: dist.get_rank(group)])
        ctx.own = slice(start, start + len(rows))
        return _gathered(rows, lengths, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.own], None, None
