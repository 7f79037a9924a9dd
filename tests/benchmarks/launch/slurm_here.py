"""A real Slurm of one node on this machine, in a temporary folder: munged, slurmctld and slurmd, without systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CPUS = 4
"""Of the node, whatever the machine has (``config_overrides``): most jobs of the tests sleep."""
PARTITIONS = """
PartitionName=main Nodes=node1 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=node1 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
PartitionName=short Nodes=node1 MaxTime=5 State=UP
PartitionName=staff Nodes=node1 State=UP AllowAccounts=staff AllowGroups=nobody-has-this
"""
CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmctldParameters=enable_configless
SlurmdPidFile={root}/slurmd.pid
SlurmdLogFile={root}/slurmd.log
SlurmdSpoolDir={root}/slurmd
SlurmdParameters=config_overrides
StateSaveLocation={root}/slurmctld
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={each}
ReturnToService=2
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
KillWait=2
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1,preempt_youngest_first
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@dataclass
class Slurm:
    """A cluster that runs.

    Attributes:
        root: Folder of its files.
        environment: Variables by which its commands find it.
        started: Daemons by their pid files, last first.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[Path] = field(default_factory=list)

    def ask(self, *command: str, check: bool = True) -> str:
        """Output of one of its commands."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=os.environ | self.environment, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}{self.logs()}"
        return done.stdout

    def jobs(self, of: str = "") -> dict[str, str]:
        """Id of every job that it remembers -> state.

        Args:
            of: Beginning of the jobs' name.
        """
        lines = self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %j").splitlines()
        return {number: state for number, state, name in map(str.split, lines) if name.startswith(of)}

    def logs(self) -> str:
        """The end of what its daemons wrote."""
        return "".join(f"\n{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.log")))

    def until(self, wanted: Callable[[], bool], seconds: float = 40.0, what: str = "") -> None:
        """Waits until something holds."""
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, f"{what or 'it'} did not come to be: {self.jobs()}{self.logs()}"
            time.sleep(0.1)

    def daemon(self, pid: str, *command: str) -> None:
        """Starts a daemon, which goes into the background by itself."""
        self.started.insert(0, self.root / pid)
        self.ask(*command)
        self.until(lambda: (self.root / pid).is_file(), 20, command[0])

    def controller(self) -> None:
        """Starts the controller, with what it knew before."""
        self.daemon("slurmctld.pid", "slurmctld", "-f", str(self.root / "slurm.conf"))

    def stop(self, pid: Path) -> None:
        """Ends a daemon, by its pid file."""
        try:
            number = int(pid.read_text())
            os.kill(number, 15)
        except (OSError, ValueError):
            return
        end = time.monotonic() + 15
        while Path(f"/proc/{number}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        if Path(f"/proc/{number}").exists():
            os.kill(number, 9)
        pid.unlink(missing_ok=True)


def absent() -> str:
    """Why no Slurm can be started here; empty where one can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"Slurm is not installed (no {missing[0]}); `make slurm` installs it"
    return "" if os.geteuid() == 0 else "Slurm's daemons must be started as root"


def start(root: Path, partitions: str = PARTITIONS) -> Slurm:
    """Starts a cluster in a folder and waits until its node is idle."""
    memory = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20 * 0.8)
    facts = {"host": socket.gethostname(), "port": free_port(), "node_port": free_port(), "root": root}
    facts |= {"cpus": CPUS, "memory": memory, "each": memory // CPUS}
    conf = root / "slurm.conf"
    conf.write_text(CONF.format(**facts) + partitions)
    slurm = Slurm(root, {"SLURM_CONF": str(conf)})
    for name in ("slurmctld", "slurmd"):
        (root / name).mkdir()
    try:
        slurm.ask("mungekey", "--create", f"--keyfile={root}/munge.key")
        files = {"key": "munge.key", "log": "munged.log", "pid": "munged.pid", "seed": "munge.seed"}
        words = [f"--{what}-file={root}/{name}" for what, name in files.items()]
        slurm.daemon("munged.pid", "munged", "--force", f"--socket={root}/munge.socket", *words)
        slurm.controller()
        slurm.daemon("slurmd.pid", "slurmd", "-f", str(conf), "-N", "node1")
        slurm.until(lambda: slurm.ask("sinfo", "-h", "-o", "%T", "-n", "node1", check=False).startswith("idle"), 30)
    except BaseException:
        stop_all(slurm)
        raise
    return slurm


def stop_all(slurm: Slurm) -> None:
    """Ends what it runs, and all its daemons."""
    subprocess.run(["scancel", "--full", "--user=root"], env=os.environ | slurm.environment, timeout=60, check=False)
    for pid in dict.fromkeys(slurm.started):
        slurm.stop(pid)


def skip_or_fail(reason: str) -> None:
    """Skips where Slurm cannot be had; where everything must pass, that is a failure."""
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
