"""Which of the two libraries that PyTorch carries multiplies matrices in fp32 on this machine: measured once, and kept.

MKL keeps its widest instructions for one maker's processors, oneDNN writes its own code for what the processor has.
Which is faster differs even between processors of one maker and one instruction set, so a short product is timed by
both. The choice is stored under the cache folder by processor, instruction set and version of PyTorch, and the first
one stored holds: sums in another order are other numbers in the last bits, and runs on one machine must agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Product = Literal["mkl", "onednn"]
VARIABLE = "MEDGRAFT_FP32_PRODUCT"
"""``mkl`` or ``onednn`` decides without a measurement."""
ROWS, INNER, COLUMNS = 788, 384, 1536
"""Four images of 197 tokens through the first map of a ViT-S's MLP: 0.5 Gmac, some 10 ms."""
ROUNDS = 4
TIE = 1.05
"""oneDNN is taken unless MKL is faster by more than this: at a tie its code is the same on all makers' processors."""

Linear = Callable[[Tensor, Tensor], Tensor]


class Choice(NamedTuple):
    """What multiplies, and why.

    Attributes:
        product: Which library.
        mkl_ms: Processor time of MKL's product in ms, one thread, the least of :data:`ROUNDS`; ``None`` if unmeasured.
        onednn_ms: The same of oneDNN's.
    """

    product: Product
    mkl_ms: float | None = None
    onednn_ms: float | None = None

    @property
    def ratio(self) -> float | None:
        """Time of MKL over time of oneDNN, 2 where oneDNN is twice as fast."""
        return None if not self.mkl_ms or not self.onednn_ms else self.mkl_ms / self.onednn_ms


@cache
def processor() -> str:
    """Name of the processor's model, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def identity() -> dict[str, str]:
    """What a choice holds for: processor (name, family, model), instruction set, PyTorch."""
    facts = {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return facts
    fields = ("cpu family", "model", "stepping")
    pairs = (line.partition(":") for line in lines)
    return facts | {name.strip(): value.strip() for name, _, value in pairs if name.strip() in fields}


def measured(mkl: Linear, onednn: Linear) -> Choice:
    """Times both products in turns on one thread.

    Args:
        mkl: ``x [M, K], weight [N, K] -> [M, N]`` as PyTorch does it.
        onednn: The same by oneDNN.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.rand(rows, INNER, generator=generator) for rows in (ROWS, COLUMNS))
    spent: dict[str, list[float]] = {"mkl": [], "onednn": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(ROUNDS + 1):  # the first of each warms up
                for name, run in (("mkl", mkl), ("onednn", onednn)):
                    start = time.process_time()
                    run(x, weight)
                    spent[name].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    mkl_ms, onednn_ms = (round(min(times[1:]) * 1e3, 3) for times in spent.values())
    return Choice("onednn" if onednn_ms <= TIE * mkl_ms else "mkl", mkl_ms, onednn_ms)


def kept(folder: Path, measure: Callable[[], Choice]) -> Choice:
    """The choice that is stored in a folder for this processor, measured and stored if there is none.

    Where several processes measure at once, the first one stored holds for all. In a folder that cannot be written
    the measurement holds for this process alone.
    """
    facts = identity()
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / "fp32_product" / f"{digest}.json"
    if (stored := _read(path)) is not None:
        return stored
    choice = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False) as file:
            json.dump({**choice._asdict(), "for": facts}, file)
        try:
            if path.exists() and _read(path) is None:
                os.replace(file.name, path)  # damaged
            else:
                os.link(file.name, path)
        except FileExistsError:
            pass
        finally:
            Path(file.name).unlink(missing_ok=True)
    except OSError:
        return choice
    return _read(path) or choice


def _read(path: Path) -> Choice | None:
    try:
        stored = json.loads(path.read_text())
        choice = Choice(stored["product"], stored["mkl_ms"], stored["onednn_ms"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return choice if choice.product in ("mkl", "onednn") else None
