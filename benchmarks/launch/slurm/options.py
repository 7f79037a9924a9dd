"""Options of the launcher ``slurm``."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from medgraft.launcher import LauncherConfig, Resources


class SlurmConfig(LauncherConfig):
    """Options of the launcher ``slurm``; what is not set, the cluster decides.

    Attributes:
        partition: Partition of the jobs.
        account: Account that they are charged to.
        qos: Quality of service.
        constraint: Features that a node must have.
        exclude: Nodes that are not to be used.
        minutes: Time limit of a job; by default what ``--timeout`` says for each of its cells and five minutes more.
        group_minutes: Minutes that a job may take with cells that read the same frozen features, one after another,
            each counted with its ``--timeout``; by default a job runs one cell.
        memory_gb: Memory of a job in GB.
        cpus: Cores of a job; by default as many as ``--threads`` says, for each of ``--devices``.
        gpus: GPUs of a job; by default as many as ``--devices`` says with ``--device cuda``.
        setup: Shell commands before the worker, such as ``module load cuda``.
        extra: Other options of sbatch by their long names: ``{reservation: lab, nice: 100}``.
        queued: Jobs that are submitted at the same time at most; ``--jobs`` says how many of them may run.
        requeues: How often a job may run again, because Slurm put it back in line or it is submitted again, that was
            preempted or lost its node.
        timeouts: How often a job is submitted again that reached Slurm's time limit; its training goes on behind its
            last epoch.
        poll: Seconds between two questions to Slurm.
        patience: Minutes for which Slurm may give no answer.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    minutes: int | None = Field(None, ge=1, le=60 * 24 * 366)
    group_minutes: int | None = Field(None, ge=1, le=60 * 24 * 366)
    memory_gb: float | None = Field(None, gt=0, le=1e5)
    cpus: int | None = Field(None, ge=1, le=4096)
    gpus: int | None = Field(None, ge=0, le=64)
    setup: list[str] = Field(default_factory=list)
    extra: dict[str, str | int | bool] = Field(default_factory=dict)
    queued: int = Field(500, ge=1, le=100_000)
    requeues: int = Field(3, ge=0, le=100)
    timeouts: int = Field(1, ge=0, le=100)
    poll: float = Field(5.0, ge=0.5, le=600)
    patience: float = Field(30.0, ge=0, le=60 * 24)

    def cells(self, resources: Resources) -> int:
        """Cells of one group that a job runs at most."""
        return 1 if self.group_minutes is None else max(1, int(60 * self.group_minutes // resources.timeout))

    def parameters(self, name: str, resources: Resources) -> dict[str, Any]:
        """Options of sbatch, by submitit's names.

        Args:
            name: Of the jobs.
            resources: What each may use.
        """
        gpus = self.gpus if self.gpus is not None else resources.gpus
        chosen = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "time": self.minutes or math.ceil(self.cells(resources) * resources.timeout / 60) + 5,
            "mem": None if self.memory_gb is None else f"{math.ceil(self.memory_gb * 1024)}M",
            "cpus_per_task": self.cpus or resources.cores,
            "gpus_per_node": gpus or None,
            "setup": self.setup or None,
            # Where it preempts by cancelling, the launcher submits again; it counts both.
            "additional_parameters": {**({} if "no-requeue" in self.extra else {"requeue": True}), **self.extra},
            "use_srun": False,
            "stderr_to_stdout": True,
        }
        return {key: value for key, value in chosen.items() if value is not None} | {"wckey": None}
