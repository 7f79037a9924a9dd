"""Files that are there whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


@functools.cache
def machine_mark() -> str:
    """Eight hex digits that tell machines (and their starts) apart that share a folder, without naming one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text() if boot.is_file() else ""
    return hashlib.sha256(f"medgraft {platform.node()} {started}".encode()).hexdigest()[:8]


def write_atomically(path: Path, write: Any) -> None:
    """Calls ``write(handle)`` on a temporary file beside ``path``, then renames it.

    The temporary file's name tells the process, so that what a killed one leaves can be cleared.
    """
    prefix = f".{path.name}-{machine_mark()}-{os.getpid()}-"
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, delete=False)  # noqa: SIM115
    try:
        with handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o644)
        os.replace(handle.name, path)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays compressed, atomically; NumPy before 2.1 would store ``allow_pickle`` as one of them."""
    write_atomically(path, lambda handle: np.savez_compressed(handle, **arrays))
