"""Batches are read from the memory map while the step before them runs; on a GPU they are copied there as well.

One thread reads in the order of the steps, so numbers and their order are what they are without it. On a GPU it puts
the rows into pinned memory, in the types that the cache keeps, and copies them on a stream of its own; what the step
runs on waits for that copy and not for the thread. Token ids stay in the CPU's memory, where batches of texts are cut.

Handing over costs what a small read costs. Batches below :data:`LEAST` bytes are read by the trainer itself on a CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

Item = TypeVar("Item")
AHEAD = 2
"""Batches that are read before they are asked for."""

LEAST = 4 << 20
"""Bytes of a batch from which on a CPU reads ahead."""


class Drawn(NamedTuple):
    """The samples of a step.

    Attributes:
        part: Samples ``int64 [B]``.
        draw: View of each, ``int64 [B]``; ``None`` for the samples as they are.
        other: Another view of each, for an objective that compares two.
    """

    part: np.ndarray
    draw: np.ndarray | None
    other: np.ndarray | None

    @classmethod
    def of(cls, part: np.ndarray, drawn: np.ndarray | None, other: np.ndarray | None) -> Drawn:
        """Of the samples ``part``, ``[B]``, with the views of all samples, ``[n]``."""
        return cls(part, None if drawn is None else drawn[part], None if other is None else other[part])


class ReadAhead(Generic[Item]):
    """Reads what the steps will ask for, in their order; a context that ends its thread.

    Args:
        read: Rows of a step, a tree of tensors ``[B, ...]`` in the CPU's memory. Called in another thread.
        items: Of the steps.
        device: What the steps run on.
        size: Bytes of what ``read`` gives, roughly; decides on a CPU.

    Example:
        >>> with ReadAhead(lambda i: torch.full((1,), i), [3, 4], "cpu", size=LEAST) as ahead:
        ...     [(item, rows.item()) for item, rows in ahead]
        [(3, 3), (4, 4)]
    """

    def __init__(self, read: Callable[[Item], Any], items: Sequence[Item], device: str, size: int) -> None:
        self.read, self.items = read, items
        self.copies = Copies() if device.startswith("cuda") else None
        self._pool = None if self.copies is None and size < LEAST else ThreadPoolExecutor(1, "read-ahead")

    def __enter__(self) -> ReadAhead[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the thread, whatever happened; a read that has begun is waited for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Item, Any]]:
        """Each item with its rows; an error of a read is raised where its rows would come."""
        if self._pool is None:
            yield from ((item, self.read(item)) for item in self.items)
            return
        waiting: deque[tuple[Item, Future[tuple[Any, Any]]]] = deque()
        for item in self.items:
            waiting.append((item, self._pool.submit(self._fetch, item)))
            if len(waiting) > AHEAD:
                yield self._given(*waiting.popleft())
        while waiting:
            yield self._given(*waiting.popleft())

    def _fetch(self, item: Item) -> tuple[Any, Any]:
        rows = self.read(item)
        return (rows, None) if self.copies is None else self.copies.begin(rows)

    def _given(self, item: Item, future: Future[tuple[Any, Any]]) -> tuple[Item, Any]:
        rows, copied = future.result()
        if self.copies is not None:
            self.copies.wait(rows, copied)
        return item, rows


class Copies:
    """Copies to the GPU that is current where this is made, beside what it computes."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())  # another thread has a current one of its own
        self.stream = torch.cuda.Stream(self.device)

    def begin(self, rows: Any) -> tuple[Any, Any]:
        """The rows on the device, and the event after which they are there."""

        def moved(part: Any) -> Any:
            if not isinstance(part, Tensor) or not (part.is_floating_point() or part.dtype == torch.bool):
                return part
            # The allocator of pinned memory keeps it until the copy is done, and then for the next batch.
            return part.pin_memory().to(self.device, non_blocking=True)

        with torch.cuda.stream(self.stream):
            return pytree.tree_map(moved, rows), self.stream.record_event()

    def wait(self, rows: Any, copied: Any) -> None:
        """What is computed from now on comes behind the copy, and its memory is not given away before that."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for part in pytree.tree_leaves(rows):
            if isinstance(part, Tensor) and part.device == self.device:
                part.record_stream(current)
