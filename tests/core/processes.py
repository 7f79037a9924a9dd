"""Starts the processes of a group of ``torch.distributed`` (gloo) and gathers what each found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(folder: Path, count: int, find: Callable[[int], Any], seconds: int = 240) -> list[Any]:
    """What ``find(rank)`` gives in each of ``count`` processes.

    Args:
        folder: Empty; for the rendezvous and the results.
        count: Processes.
        find: A function of a module, so that a fresh process can import it.
        seconds: Longest time for all of it.
    """
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(rank, count, str(folder), find)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
    assert [worker.exitcode for worker in workers] == [0] * count
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]


def _work(rank: int, count: int, folder: str, find: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rank=rank, world_size=count, init_method=rendezvous, timeout=timedelta(seconds=120))
    torch.save(find(rank), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
