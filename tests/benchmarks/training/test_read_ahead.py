"""Rows that are read ahead come in order and unchanged, errors arrive where rows would, and the thread ends."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from medgraft.benchmarks.training import read_ahead
from medgraft.benchmarks.training.read_ahead import AHEAD, LEAST, Copies, ReadAhead


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("read-ahead")]


@pytest.mark.parametrize("size", [0, LEAST])
def test_rows_come_in_order_and_are_those_of_a_plain_loop(tmp_path, size):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 3)).astype(np.float16))
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    parts = list(np.random.default_rng(1).permutation(40).reshape(-1, 5))
    with ReadAhead(lambda part: torch.from_numpy(rows[part]), parts, "cpu", size) as ahead:
        assert bool(threads()) is False  # it starts with the first batch
        found = [(part.tolist(), batch) for part, batch in ahead]
    assert [part for part, _ in found] == [part.tolist() for part in parts]
    assert all(torch.equal(batch, torch.from_numpy(rows[part])) for part, batch in found)
    assert threads() == []


def test_it_reads_so_many_batches_ahead_and_in_another_thread():
    read: list[int] = []
    names: set[str] = set()

    def note(item: int) -> int:
        read.append(item)
        names.add(threading.current_thread().name)
        return item

    with ReadAhead(note, list(range(10)), "cpu", LEAST) as ahead:
        first, _ = next(iter(ahead))
        assert first == 0
    assert set(read) <= set(range(AHEAD + 1)) and 0 in read  # what was not begun is left
    assert names and all(name.startswith("read-ahead") for name in names)


@pytest.mark.parametrize("size", [0, LEAST])
def test_an_error_of_a_read_is_raised_where_its_rows_would_come(size):
    def read(item: int) -> int:
        if item == 2:
            raise OSError("the disk is gone")
        return item

    seen = []
    with pytest.raises(OSError, match="the disk is gone"), ReadAhead(read, [0, 1, 2, 3], "cpu", size) as ahead:
        seen.extend(item for item, _ in ahead)
    assert seen == [] or seen == [0, 1]
    assert threads() == []


def test_the_thread_ends_with_a_trainer_that_fails():
    with pytest.raises(FloatingPointError), ReadAhead(lambda item: item, list(range(50)), "cpu", LEAST) as ahead:
        for item, _ in ahead:
            if item == 3:
                raise FloatingPointError
    assert threads() == []


def test_on_a_gpu_rows_are_pinned_copied_beside_and_waited_for(monkeypatch):
    """The order of calls, on stand-ins for CUDA's: real numbers are pinned and copied, token ids stay."""
    calls: list[str] = []
    current = SimpleNamespace(wait_event=lambda event: calls.append(f"wait {event}"))
    side = SimpleNamespace(record_event=lambda: "copied")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(calls.append("beside")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: calls.append(f"pin {self.dtype}") or self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: calls.append("keep"))

    class OnCpu(Copies):
        def __init__(self) -> None:
            super().__init__()
            self.device = torch.device("cpu")

    monkeypatch.setattr(read_ahead, "Copies", OnCpu)
    rows = {"image": torch.ones(2, dtype=torch.float16), "text": torch.ones(2, dtype=torch.int32)}
    with ReadAhead(lambda item: rows, [0], "cuda", 0) as ahead:
        ((_, got),) = ahead
    assert calls[:2] == ["beside", "pin torch.float16"] and "pin torch.int32" not in calls
    assert "wait copied" in calls and calls.index("wait copied") < calls.index("keep")
    assert got["text"] is rows["text"]
