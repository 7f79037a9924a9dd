"""Operations that adapters share, a folder each: ``op`` with its plain reference, and its ``triton`` kernels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

OPS = ("info_nce", "hypergraph", "packed_lora", "perceiver", "moe", "bottleneck")


def load_op(name: str) -> Any:
    """The module of an operation, imported on first use (it brings Triton with it)."""
    return import_module(f"{__name__}.{name}.op")
