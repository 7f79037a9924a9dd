"""Triton where there is one, and what the kernels need to know about the device they run on.

PyTorch wheels for CPUs and macOS come without Triton. The modules of this package then still import; asking for a
kernel gives the reason (:func:`triton_obstacle`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

OLDEST_TRITON = (3, 4)

try:
    import triton  # pyright: ignore[reportMissingTypeStubs]

    # Kernels import it from here.
    import triton.language as tl  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]
except ImportError:  # pragma: no cover
    triton: Any = None
    tl: Any = None


def jit(kernel: Any) -> Any:
    """``triton.jit``, or the plain function where there is no Triton (nothing calls it then)."""
    return kernel if triton is None else triton.jit(kernel)


def triton_obstacle() -> str | None:
    """Why Triton cannot be used, or ``None``."""
    needed = ".".join(map(str, OLDEST_TRITON))
    if triton is None:
        return f"Triton is not installed; install triton >= {needed} (pip install triton)"
    version = tuple(int(part) for part in re.findall(r"\d+", triton.__version__)[:2])
    if version < OLDEST_TRITON:
        return f"Triton {triton.__version__} is too old; install triton >= {needed}"
    return None


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


@dataclasses.dataclass(frozen=True)
class Tile:
    """Block sizes and launch options of one kernel.

    Attributes:
        blocks: Constant arguments of the kernel, for example ``{"BM": 64}``.
        num_warps: Warps per program.
        num_stages: Depth of the software pipeline.
    """

    blocks: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2

    def launch(self) -> dict[str, Any]:
        """Keyword arguments of a launch of a kernel that multiplies matrices."""
        return {**self.plain_launch(), "PRECISION": precision(torch.version.hip is not None)}

    def plain_launch(self) -> dict[str, Any]:
        """Keyword arguments of a launch of a kernel without matrix products."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
Tuned = Mapping[str, Tile]


def tuned_for(table: Tuned, device: torch.device) -> Tile:
    """The tile of the nearest architecture that is not newer than the device's.

    Consumer GPUs (8.6, 8.9, 12.x) have the shared memory of sm_80 minus a third; its tiles are made to fit them.
    """
    return table[architecture(device.type, device.index)]


@cache
def architecture(device_type: str, index: int | None) -> str:
    """The entry of :data:`TARGETS` whose tiles a device uses; a CPU (Triton's interpreter) uses those of sm_80."""
    if device_type != "cuda":
        return "sm_80"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(index)
    return {9: "sm_90", 10: "sm_100", 11: "sm_100"}.get(major, "sm_80")


def precision(amd: bool) -> str:
    """How kernels multiply float32: three TF32 products on NVIDIA (float32's accuracy on tensor cores), exact on AMD.

    Half types are multiplied exactly in any case; exact float32 products on NVIDIA would leave the tensor cores.
    """
    return "ieee" if amd else "tf32x3"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way a kernel is launched, enough to compile it ahead of time.

    Attributes:
        kernel: The ``@jit`` function.
        types: Argument -> Triton type, for example ``{"X": "*bf16", "N": "i32"}``.
        constants: Constant arguments that are not block sizes.
        tuned: Architecture -> tile.
        divisible: Integer arguments that are multiples of 16 in the tuned shapes; pointers always are.
        matrix: The kernel multiplies matrices, so it must use the tensor cores.
        label: Tells variants of one kernel apart.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    tuned: Tuned
    divisible: tuple[str, ...] = ()
    matrix: bool = True
    label: str = ""
