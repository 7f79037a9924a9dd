"""What a result records about the machine and the software that made it, and the threads that a cell may use."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "medgraft", "torch", "torchvision", "timm", "transformers", "peft", "open_clip_torch", "monai", "torch-geometric",
    "numpy", "scipy", "scikit-learn", "pandas", "nibabel", "nilearn", "safetensors", "pydantic",
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Installed packages that numbers depend on -> version."""
    return {name: version for name in PACKAGES if (version := _version(name)) is not None}


@cache
def commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that runs and whether it has local changes; ``(None, None)`` for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def use_threads(threads: int) -> None:
    """Keeps PyTorch and NumPy's products to so many threads: cells side by side would wait for each other's."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def describe(threads: int, devices: int = 1) -> dict[str, Any]:
    """Packages, commit, processor, threads and determinism flags; nothing that names the user or the host.

    Args:
        threads: Of each process.
        devices: Processes that ran the cell together, each on a device of its own.
    """
    import torch

    from medgraft.fast.fp32_product import processor
    from medgraft.fast.linear import fp32_choice
    from medgraft.fast.switch import is_plain

    head, dirty = commit()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
        "commit": head,
        "dirty": dirty,
        "cpu": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "fp32_product": fp32_choice().product,
        "plain": is_plain(),
        "cpu_count": os.cpu_count(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "threads": threads,
        "devices": devices,
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
