"""What Slurm says of the jobs of one launcher, and ways to end them: ``squeue``, ``sacct`` and ``scancel``.

``squeue`` alone is enough: it shows ended jobs too, for as long as the controller remembers them (``MinJobAge``, five
minutes by default). ``sacct`` is asked for older ones, where the cluster keeps accounts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from medgraft.errors import MedgraftError

ANSWER_WITHIN = 60.0
"""Seconds in which a command of Slurm must answer."""

WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"})
AT_WORK = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
"""States of jobs that are not over; every other is final (https://slurm.schedmd.com/squeue.html, job state codes)."""

ORDINARY = frozenset({"", "None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime"})
"""Reasons to wait that need nobody's help."""


class SlurmAwayError(MedgraftError):
    """Slurm does not answer just now."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job.

    Attributes:
        name: State in capitals: ``PENDING``, ``RUNNING``, ``TIMEOUT``.
        reason: Why it waits, in Slurm's word.
    """

    name: str
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it has not started."""
        return self.name in WAITING

    @property
    def over(self) -> bool:
        """Whether nothing of it runs, and nothing will."""
        return self.name not in WAITING | AT_WORK


def jobs_called(name: str) -> dict[str, JobState]:
    """States of all jobs of a name that the controller remembers, by id (``12_3`` in an array).

    Raises:
        SlurmAwayError: It does not answer.
    """
    fields = "JobArrayID:|,State:|,Reason:|"
    text = _asked("squeue", "--noheader", "--array", "--states=all", f"--name={name}", f"--Format={fields}")
    return _parsed(text)


def jobs_in_accounts(ids: Iterable[str]) -> dict[str, JobState]:
    """The same of jobs that the controller has forgotten; none where the cluster keeps no accounts."""
    arrays = ",".join(sorted({each.partition("_")[0] for each in ids}))
    try:
        text = _asked("sacct", "-n", "-P", "-X", "--delimiter=|", f"--jobs={arrays}", "--format=JobID,State")
    except SlurmAwayError:
        return {}
    return _parsed(text)


def end_jobs(*which: str) -> None:
    """Has jobs cancelled; those that have ended are no error.

    Args:
        which: Ids, or an option such as ``--name=NAME``.

    Raises:
        SlurmAwayError: Slurm does not answer.
    """
    _asked("scancel", "--quiet", *which)


def _parsed(text: str) -> dict[str, JobState]:
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        name, state, reason, *_ = (*line.strip().split("|"), "", "", "")
        if name and state:
            found[name] = JobState(state.split()[0].rstrip("+"), reason)  # sacct says "CANCELLED by 1000"
    return found


def _asked(*command: str) -> str:
    """Output of a command; Ctrl-C in the terminal does not reach it."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_WITHIN, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmAwayError(f"{command[0]} gave no answer within {ANSWER_WITHIN:g} s") from error
    except OSError as error:
        raise SlurmAwayError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        raise SlurmAwayError(f"{command[0]}: {in_slurms_words(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def in_slurms_words(text: str) -> str:
    """What a command of Slurm complains of, on one line without the prefixes of its log.

    Example:
        >>> in_slurms_words("sbatch: error: invalid partition specified: x")
        'invalid partition specified: x'
    """
    lines = [
        re.sub(r"^\s*(?:(?:sbatch|squeue|scancel|sacct): )?(?:error: |fatal: )?", "", line).strip()
        for line in text.splitlines()
    ]
    return "; ".join(dict.fromkeys(line for line in lines if line))
