"""One variable that turns every shortcut off, so that a user can tell whether a wrong number comes from one."""

from __future__ import annotations

import os

from medgraft.errors import ConfigError

VARIABLE = "MEDGRAFT_PLAIN"


def is_plain() -> bool:
    """Whether PyTorch's own functions run in place of the fast forms: ``MEDGRAFT_PLAIN=1``.

    Off are then the fast linear maps and attention, the read-out of the CLS row alone, fused operations
    (:mod:`medgraft.ops`), what adapters precompute from frozen features, half precision in cached features, and batches
    of texts shorter than the encoder's context. On stays what is there to be right: shallow 3D convolutions that a CPU
    must not run in bf16.

    Raises:
        ConfigError: The variable is neither ``0`` nor ``1``.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise ConfigError(f"{VARIABLE} is {value!r}; set it to 1 for plain PyTorch, or leave it out")
    return value == "1"
