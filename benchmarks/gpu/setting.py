"""What the parts of a check run with, and the device that they find."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.errors import MedgraftError


class NotHereError(MedgraftError):
    """A part cannot run on this machine, which is no failure."""


@dataclass(frozen=True)
class Setting:
    """What a part runs with.

    Attributes:
        device: ``cuda`` or ``cpu``.
        quick: Small shapes and few items, for a test of this program.
        folder: For caches and results.
    """

    device: str
    quick: bool
    folder: Path


def facts(item: str, setting: Setting) -> dict[str, Any]:
    """The device and the software."""
    import torch

    from medgraft.benchmarks.measure import environment
    from medgraft.ops.triton_runtime import triton_obstacle

    found: dict[str, Any] = {**environment.describe(torch.get_num_threads()), "triton_obstacle": triton_obstacle()}
    if setting.device != "cuda":
        return found
    if not torch.cuda.is_available():
        raise MedgraftError("PyTorch sees no GPU")
    card = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = ""
    if shutil.which(query[0]):
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()
    return found | {
        "gpu": card.name, "capability": [card.major, card.minor], "memory": card.total_memory, "driver": driver or None,
        "multiprocessors": card.multi_processor_count, "cudnn": torch.backends.cudnn.version(),
        "hip": torch.version.hip, "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }  # fmt: skip
