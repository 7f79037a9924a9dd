"""Options of the launcher ``ray``."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field

from medgraft.launcher import LauncherConfig, Resources

LOCAL = "local"
"""Address of a cluster that is started for the sweep, on this machine."""

AS_HERE = ("PYTHONPATH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
"""Variables that a worker gets as they are here, beside all of medgraft's own; no secrets, for Ray keeps them."""


class RayConfig(LauncherConfig):
    """Options of the launcher ``ray``.

    Attributes:
        address: ``host:port`` of a cluster's head, ``auto`` for the cluster that this machine is a node of, or
            ``local`` for one that is started for the sweep; by default what ``RAY_ADDRESS`` says, else ``local``.
        cpus: Cores of a task; by default as many as ``--threads`` says, for each of ``--devices``.
        gpus: GPUs of a task, which may be a part of one; by default as many as ``--devices`` says, with
            ``--device cuda``.
        memory_gb: Memory of a task in GB, by which Ray places it.
        resources: The cluster's own resources that a task needs: ``{a100: 1}``.
        env: Names of further variables that a worker gets as they are here; none that hold a secret.
        queued: Tasks that are submitted at the same time at most, where ``--jobs`` says nothing.
        restarts: How often a cell is started again whose worker died or whose node was lost.
        connect: Seconds in which the cluster must answer.
    """

    address: str | None = None
    cpus: float | None = Field(None, ge=0, le=4096)
    gpus: float | None = Field(None, ge=0, le=64)
    memory_gb: float | None = Field(None, gt=0, le=1e5)
    resources: dict[str, float] = Field(default_factory=dict)
    env: list[str] = Field(default_factory=list)
    queued: int = Field(500, ge=1, le=100_000)
    restarts: int = Field(3, ge=0, le=100)
    connect: float = Field(120.0, ge=1, le=3600)

    def where(self) -> str:
        """Address of the cluster."""
        return self.address or os.environ.get("RAY_ADDRESS") or LOCAL

    def needs(self, resources: Resources) -> dict[str, Any]:
        """What a task needs, by Ray's names.

        Args:
            resources: What each job may use.
        """
        gpus = self.gpus if self.gpus is not None else float(resources.gpus)
        chosen = {
            "num_cpus": self.cpus if self.cpus is not None else resources.cores,
            "num_gpus": gpus or None,
            "memory": None if self.memory_gb is None else int(self.memory_gb * 2**30),
            "resources": self.resources or None,
        }
        return {key: value for key, value in chosen.items() if value is not None}

    def environment(self) -> dict[str, str]:
        """Variables of this process that a worker gets."""
        names = {*AS_HERE, *self.env, *(name for name in os.environ if name.startswith("MEDGRAFT_"))}
        return {name: os.environ[name] for name in sorted(names) if name in os.environ}
