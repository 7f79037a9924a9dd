"""What a worker is to do, what it says of its progress, and the result of a cell that did not end well."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.external.spec import ExternalTest
from medgraft.benchmarks.measure import environment
from medgraft.benchmarks.results.chosen import Tuning
from medgraft.benchmarks.results.result import CellResult, Efficiency, Status
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.commands.plain_text import one_line, plain

Progress = Callable[[str, float], None]
"""Called with what runs now, which begins with a text of :data:`STEPS`, and the share of it that is done."""

JOB, RESULT, PREDICTIONS, LOG, GRAFT = "job.json", "result.json", "predictions.npz", "log.txt", "graft"
"""In a job's folder: what is to be done, its outcome, what the worker wrote to its terminal, and the graft, if kept."""

UNWRITABLE = 74
"""Exit code of a worker that cannot write its outcome (EX_IOERR of ``sysexits.h``)."""

STEPS = {
    "load": "reading",
    "build": "attaching the adapter",
    "prefix": "computing the frozen prefix",
    "train": "training",
    "evaluate": "predicting",
    "external": "testing on another cohort",
    "keep": "keeping the graft",
    "measure": "measuring",
    "sites": "probing for the site",
    "write": "writing the result",
}
"""Steps of a cell, by which failures are told, and what a person reads of them."""

LONGEST_MESSAGE = 1000


class Job(BaseModel):
    """What a worker is to do.

    Attributes:
        spec: The cell.
        root: Folder of the cohort on this machine.
        concurrent_jobs: Workers that share the machine.
        keep: Leave the trained graft in the folder, too.
        external: Other cohorts to test the trained graft on.
        trial: Judge it on validation samples alone, and have no test split at all.
        tuning: How the options were chosen, for the result.
        suites: That it was asked for in, for the result.
        events: Folder for TensorBoard event files, if any are to be written.
        unfinished: Folder for the checkpoint of the training, if one is to be kept.
        checkpoint_every: Seconds between two checkpoints at least.
        devices: That the cell runs on, a process for each.
    """

    model_config = ConfigDict(extra="forbid")

    spec: CellSpec
    root: Path
    concurrent_jobs: int = 1
    keep: bool = False
    external: list[ExternalTest] = Field(default_factory=list)
    trial: bool = False
    tuning: Tuning | None = None
    suites: list[str] = Field(default_factory=list)
    events: Path | None = None
    unfinished: Path | None = None
    checkpoint_every: float = 60.0
    devices: int = Field(1, ge=1)

    def shown(self, log: str) -> str:
        """What a worker wrote to its terminal, without control sequences and names of the cohorts' files."""
        return self.without_files(plain(log, keep="\n\t"))

    def without_files(self, text: str) -> str:
        """A message without the names of files of any cohort that the job reads, and of folders of the machine."""
        for root in (self.root, *(test.root for test in self.external)):
            text = without_files(text, root)
        return without_folders(text)


def step_of(doing: str) -> str:
    """The step of :data:`STEPS` that a text of :data:`Progress` belongs to; empty before the first.

    Example:
        >>> step_of("training the routers"), step_of("starting")
        ('train', '')
    """
    return next((step for step, text in STEPS.items() if doing.startswith(text)), "")


def failure(job: Job, status: Status, message: str, doing: str = "") -> CellResult:
    """The result of a cell that did not end well.

    Args:
        job: The cell.
        status: How it ended.
        message: Why, for a person.
        doing: What ran then, as :data:`Progress` was told.
    """
    return CellResult(
        key=job.spec.key(),
        status=status,
        message=one_line(f"while {doing}: {message}" if doing else message, LONGEST_MESSAGE),
        stage=step_of(doing),
        spec=job.spec,
        phantom=job.spec.cohort.phantom,
        efficiency=Efficiency(trainable={}, encoder_parameters=0, concurrent_jobs=job.concurrent_jobs),
        env=environment.describe(job.spec.threads, job.devices),
    )


_MODULE = re.compile(r"(?<![\w./-])/(?:[^\s'\",;:/]+/)*?([^\s'\",;:/]+/[^\s'\",;:/]+\.py)\b")


@functools.cache
def _folders() -> dict[str, str]:
    """Folders of this machine, whose names may name people and projects -> what stands for them, longest first."""
    import site

    named = {str(Path.home()): "HOME"}
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        named[sysconfig.get_path(name)] = Path(sysconfig.get_path(name)).name
    named |= dict.fromkeys((*site.getsitepackages(), site.getusersitepackages()), "site-packages")
    named |= {sys.prefix: "PREFIX", sys.base_prefix: "PREFIX", str(Path(__file__).resolve().parents[2]): "medgraft"}
    return {folder: named[folder] for folder in sorted(named, key=len, reverse=True) if len(folder) > 1}


def without_folders(text: str) -> str:
    """A message without the folders of this machine: where Python, its packages, medgraft and the user are at home.

    Of a module that lies elsewhere its own folder and name stay.

    Example:
        >>> without_folders("/srv/alice/zoo/src/zoo/gain.py:3: too old")
        'zoo/gain.py:3: too old'
    """
    for folder, name in _folders().items():
        text = text.replace(f"{folder}/", f"{name}/")
    return _MODULE.sub(r"\1", text)


def without_files(text: str, root: Path) -> str:
    """A message without the names of files below the cohort's folder, which may identify a person.

    Example:
        >>> without_files("cannot read '/data/ADNI/123_S_4567/x.nii'", Path("/data/ADNI"))
        "cannot read '<file of the cohort>'"
    """
    return re.sub(re.escape(str(root)) + r"/[^\s'\",;:]+", "<file of the cohort>", text)
