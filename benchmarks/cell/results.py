"""One JSON per cell: schema, key, atomic storage. Predictions stay beside it, on this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medgraft.benchmarks.calibration.conformal import COVERAGE, Method
from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.benchmarks.cell.left_out import LeftOut
from medgraft.benchmarks.cell.migrations import SCHEMA_VERSION, migrated
from medgraft.benchmarks.cell.result_files import KEPT, UnreadableError, files_below, read_json
from medgraft.benchmarks.fairness.record import Sizing, Tuning
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups
from medgraft.benchmarks.texts import table as texts
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.options import readable
from medgraft.registry import TrainDefaults
from medgraft.task_names import current_name, name_in_keys

logger = logging.getLogger(__name__)

NUMBERS_VERSION = 6
"""Raised when a change of the harness changes numbers that no other part of a cell's key tells apart.

Version 6: what use on foreign models and files showed to be wrong; pixels that DICOM, PNG and NIfTI files
mean otherwise than they were read; the probe is a logistic regression with cross-validated L2, and the heads of
adapters are fitted anew where that is clearly better; tables whose rows end in a comma, copies below ``derivatives/``,
and boxes and masks on resized images mean something else than they were read as; parameters of peft train in float32 on
encoders in half precision too.
"""

LATER_FIELDS = {
    "augment_views": 0,
    "device": "cpu",
    "plain": False,
    "calibrate": "none",
    "sets": "lac",
    "coverage": COVERAGE,
    "sets_by_class": False,
    "tune": 0,
    "budget": None,
}
"""Fields that came later -> the value that means what it was before them."""

OPERATION_SUFFIX = ".ops.json"
"""Ending of the files of ``benchmarks.kernels``, which may lie in the same folder and are no cells."""

EXTERNAL_SUFFIX = ".external.json"
"""Ending of the files of tests on another cohort, which lie beside the cells whose grafts were tested."""

TRIAL_SUFFIX = ".trial.json"
"""Ending of the files of trials of ``--tune``, in a folder beside the cells whose options they chose."""

BOARD_FILE = "leaderboard.json"
"""Name of a board's data, which may lie among the results that it was made of and is none."""

Status = Literal["success", "error", "oom", "timeout", "killed"]
"""``oom`` is lack of memory that the kernel or the library reports; ``killed`` a worker that somebody ended."""
Backend = Literal["eager", "compile", "fused", "auto"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "bf16_frozen"]
Calibrate = Literal["none", "temperature"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CohortId(_Model):
    """Which data a cell reads.

    Attributes:
        name: Name of the cohort, as ``--data`` takes it.
        revision: Digest of what the task reads there: tables, content of the samples, targets; see
            :mod:`medgraft.benchmarks.cohorts.places`.
        phantom: Generated, not collected.
    """

    name: str
    revision: str
    phantom: bool


class CellSpec(_Model):
    """Everything that defines a cell's numbers.

    Attributes:
        task: Task name; one of an earlier release becomes the name that stands for the task now.
        task_options: Options of the task.
        task_version: The task's own version.
        cohort: The data.
        encoder: Encoder name, ``source:model@weights``.
        encoder_weights: What the encoder says of its weights, a digest or ``random``; names alone do not fix them.
        adapter: Adapter name, several joined by ``+``.
        adapter_options: Options of the adapter.
        seed: Of initialisation, order and dropout; the split does not depend on it.
        backend: How the adapter runs: ``compile`` compiles the whole graft, ``fused`` and ``auto`` choose a form of
            each operation that has one, see :mod:`medgraft.ops.backends`.
        precision: ``bf16`` runs what is trained under autocast, behind frozen prefixes in fp32; ``bf16_frozen`` also
            holds the encoder's weights and the tokens between its blocks in bf16, prefixes included.
        train: Training hyper-parameters.
        threads: Threads of the worker; sums depend on their order.
        limit: Largest number of samples per split, ``None`` for all.
        augment_views: Augmented views per sample, one of which each epoch trains on; 0 trains on the samples.
        device: What the encoder runs on and the adapter trains on.
        plain: No shortcut is taken, see :mod:`medgraft.fast.switch`.
        calibrate: Probabilities are divided by a temperature from validation samples.
        sets: Score of the conformal sets, see :mod:`medgraft.benchmarks.calibration.conformal`.
        coverage: Share of the sets that should hold the right class.
        sets_by_class: Each class is to be covered so often.
        tune: Trials by which options and training were chosen on validation samples; 0 for an untuned row.
        budget: Trainable parameters that the adapter was scaled to by its size knob; ``None`` for its own size.
        plugins: Versions of the foreign distributions that take part.
        numbers_version: See :data:`NUMBERS_VERSION`.
    """

    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    task_version: int = 1
    cohort: CohortId
    encoder: str
    encoder_weights: str | None = None
    adapter: str
    adapter_options: dict[str, Any] = Field(default_factory=dict)
    seed: int
    backend: Backend = "eager"
    precision: Precision = "fp32"
    train: TrainDefaults
    threads: int = Field(1, ge=1)
    limit: int | None = None
    augment_views: int = Field(0, ge=0)
    device: Device = "cpu"
    plain: bool = False
    calibrate: Calibrate = "none"
    sets: Method = "lac"
    coverage: float = Field(COVERAGE, gt=0, lt=1)
    sets_by_class: bool = False
    tune: int = Field(0, ge=0)
    budget: int | None = Field(None, ge=1)
    plugins: dict[str, str] = Field(default_factory=dict)
    numbers_version: int = NUMBERS_VERSION

    @field_validator("task")
    @classmethod
    def _name_now(cls, name: str) -> str:
        return current_name(name)

    def key(self) -> str:
        """First 16 hex digits of the SHA-256 over the canonical JSON."""
        text = json.dumps(self.defining(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def defining(self) -> dict[str, Any]:
        """What keys are made of: fields that came later count only where they are used, so older keys stay valid.

        For the same reason a task that was given another name counts by its first one.
        """
        facts = self.model_dump(mode="json") | {"task": name_in_keys(self.task)}
        return {name: value for name, value in facts.items() if LATER_FIELDS.get(name, ...) != value}

    def row(self) -> str:
        """The same for everything but the seed: cells of one row differ in nothing else."""
        text = json.dumps({**self.defining(), "seed": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class OpUse(_Model):
    """A form that an operation ran in.

    Attributes:
        form: ``eager``, ``compile`` or ``fused``.
        asked: The backend that was asked for.
        calls: How often; under ``compile``, how often it was traced.
        reason: Why it is not the fused form, where that was asked for.
    """

    form: str
    asked: str
    calls: int
    reason: str = ""


class Efficiency(_Model):
    """What a cell costs.

    Attributes:
        trainable: Trainable parameters by part.
        trainable_dtype: Types that they are trained in, by part; float32 unless the encoder is wider.
        encoder_parameters: Frozen parameters of the towers that ran.
        forward_flops: Floating-point operations of one sample's forward pass (matrix products and convolutions).
        train_samples_per_s: Training throughput, data loading excluded, with the cached prefix that training used.
        inference_samples_per_s: Throughput of the whole model on prepared inputs, nothing cached.
        train_step_peak_bytes: Peak of allocated tensors above the start of one training step.
        process_peak_bytes: Peak resident memory of the worker process.
        cached_stage: Modality -> stage from which training ran, and the number of stages.
        concurrent_jobs: Worker processes that shared the machine while it was measured.
    """

    trainable: dict[str, int]
    trainable_dtype: dict[str, str] = Field(default_factory=dict)
    encoder_parameters: int
    forward_flops: float | None = None
    train_samples_per_s: float | None = None
    inference_samples_per_s: float | None = None
    train_step_peak_bytes: int | None = None
    process_peak_bytes: int | None = None
    cached_stage: dict[str, tuple[int, int]] = Field(default_factory=dict)
    concurrent_jobs: int = 1


class CellResult(_Model):
    """The stored result of a cell.

    Attributes:
        schema_version: Version of the schema, see :mod:`medgraft.benchmarks.cell.migrations`.
        key: First 16 hex digits of the SHA-256 over the canonical JSON of ``spec``; the name of the file.
        status: How the cell ended; all but ``success`` are tried again by the next sweep.
        message: Why it did not succeed, in a sentence; empty for a success.
        stage: Where a cell that failed did: ``load``, ``build``, ``prefix``, ``train``, ``evaluate``, ``external``,
            ``keep``, ``measure`` or ``write``.
        log: File of what the cell wrote to its terminal, relative to the results folder; empty where it wrote nothing.
        spec: Everything that defines the numbers.
        phantom: The data are generated and of no person; then nothing here says anything about people.
        primary: Metric that rows are ranked by.
        metrics: Name of each metric -> its estimate on the test split; names of classes follow an underscore.
        groups: Attribute of the subjects (sex, age) -> the metrics by its groups.
        calibration: What is said of probabilities, temperatures and conformal sets; ``None`` for other scores.
        efficiency: What the cell cost.
        training: ``epoch_loss`` (mean loss of each epoch), ``steps``, ``samples``, ``seconds``; ``stages`` of adapters
            that train in several, and under ``head`` how the head's strength of L2 was chosen.
        data: Counts and digests, no identifiers: samples and subjects of each split, ``split_hash`` (SHA-256 of who is
            in which split), classes, objective, what was left out, and ``generator`` of a phantom.
        encoder: The frozen encoder: what it reads, its width, licence, weights, and whether its pre-training saw this
            cohort (``saw_this_cohort``).
        adapters: Name of each adapter -> title, paper, licence, options, and how many places each pattern attached to.
        diagnostics: Name of each adapter -> what it reports of itself on the samples that were predicted.
        ops: Shared operation -> the forms that it ran in.
        cache: The ``entries`` that were read, each with the ``source`` that this cell made it of and the arrays that
            are ``float32`` because half precision cannot hold them; and ``hit_rate``, the share of rows read, sources
            included, that this cell did not have to compute (0 to 1).
        tuning: How the row's options were chosen: trials, their cost, the space and the values; empty unless tuned.
        sizing: How large the adapter is beside its budget; empty without one.
        metric_versions: Number -> version of the definition that it was made with; 1 where it is not named.
        suites: Names and versions of the suites in which it was asked for.
        plugins: Every plugin that took part: kind, name, target, distribution, version.
        env: Versions of packages, commit and whether it had changes (``dirty``), processor or GPU, threads and flags;
            nothing that names a user or a host.
        timing: Step -> seconds.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    status: Status
    message: str = ""
    stage: str = ""
    log: str = ""
    spec: CellSpec
    phantom: bool
    primary: str = "f1_macro"
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    groups: dict[str, Groups] = Field(default_factory=dict)
    calibration: Calibration | None = None
    efficiency: Efficiency | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    encoder: dict[str, Any] = Field(default_factory=dict)
    adapters: dict[str, Any] = Field(default_factory=dict)
    diagnostics: dict[str, Any] = Field(default_factory=dict)
    ops: dict[str, list[OpUse]] = Field(default_factory=dict)
    cache: dict[str, Any] = Field(default_factory=dict)
    tuning: Tuning | None = None
    sizing: Sizing | None = None
    metric_versions: dict[str, int] = Field(default_factory=dict)
    suites: list[str] = Field(default_factory=list)
    plugins: list[dict[str, str]] = Field(default_factory=list)
    env: dict[str, Any] = Field(default_factory=dict)
    timing: dict[str, float] = Field(default_factory=dict)


def safe_name(name: str) -> str:
    """A name as a folder: what file systems dislike becomes ``_``.

    Example:
        >>> safe_name("open_clip:hf-hub:org/Model@random")
        'open_clip_hf-hub_org_Model@random'
    """
    safe = re.sub(r"[^\w.@+-]", "_", name)
    if len(safe) <= 120:
        return safe
    return f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"  # a long path; file systems stop at 255


class ResultStore:
    """A folder of results, ``<encoder>/<adapter>/<task>/<key>.json``.

    Args:
        root: The folder; made when the first result is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Fails early where results cannot be stored.

        Raises:
            MedgraftError: The folder cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as handle:
                handle.write(b"x")
        except OSError as error:
            raise MedgraftError(
                f"results folder {self.root} cannot be written: {error}; choose another --results"
            ) from error

    def path(self, spec: CellSpec) -> Path:
        """Where the result of ``spec`` lies or will lie; one in the folder of the task's former name stays there."""
        folder, name = self.root / safe_name(spec.encoder) / safe_name(spec.adapter), f"{spec.key()}.json"
        path, former = folder / safe_name(spec.task) / name, folder / safe_name(name_in_keys(spec.task)) / name
        return former if former.is_file() and not path.is_file() else path

    def get(self, spec: CellSpec) -> CellResult | None:
        """The stored result, or ``None`` where there is none or it cannot be read."""
        path = self.path(spec)
        return _read(path) if path.is_file() else None

    def cite(self, spec: CellSpec, suites: Iterable[str]) -> None:
        """Has a stored result cite suites that it is of; nothing else in it changes.

        Raises:
            StorageError: It cannot be written.
        """
        result = self.get(spec)
        if result is None or set(suites) <= set(result.suites):
            return
        changed = result.model_copy(update={"suites": list(dict.fromkeys([*result.suites, *suites]))})
        text = changed.model_dump_json(indent=1) + "\n"
        try:
            write_atomically(self.path(spec), lambda handle: handle.write(text.encode()))
        except OSError as error:
            raise StorageError(self.root, error) from error

    def log_path(self, spec: CellSpec) -> Path:
        """Where what the cell of ``spec`` wrote to its terminal lies or will lie."""
        return self.path(spec).with_suffix(".log")

    def graft_path(self, spec: CellSpec) -> Path:
        """Where the trained graft of the cell of ``spec`` lies, or will lie if it is kept."""
        return self.path(spec).with_suffix(KEPT)

    def put_graft(self, spec: CellSpec, folder: Path) -> None:
        """Moves a trained graft to its place, in place of an earlier one.

        Raises:
            StorageError: It cannot be written.
        """
        place = self.graft_path(spec)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(folder, place)
        except OSError as error:
            raise StorageError(self.root, error) from error

    def put(
        self, result: CellResult, predictions: Mapping[str, np.ndarray] | None = None, log: str | None = None
    ) -> Path:
        """Stores a result; predictions ``[n, ...]`` first, so that a result that can be seen is complete.

        Args:
            result: Of a cell; names the log where there is one.
            predictions: Arrays to be kept beside it.
            log: What the cell wrote to its terminal, to be kept beside it; an older log goes.

        Raises:
            StorageError: It cannot be written; an earlier result of the cell is still there.
        """
        path = self.path(result.spec)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and _read(path) is None:
                os.replace(path, path.with_suffix(".json.old"))  # of another schema, or damaged: kept, not overwritten
            if log is None:
                self.log_path(result.spec).unlink(missing_ok=True)
            else:
                write_atomically(self.log_path(result.spec), lambda handle: handle.write(log.encode()))
            if predictions is not None:
                write_arrays(path.with_suffix(".npz"), predictions)
                result = _with_texts(path, result, predictions)
            text = result.model_dump_json(indent=1) + "\n"
            write_atomically(path, lambda handle: handle.write(text.encode()))
        except OSError as error:
            raise StorageError(self.root, error) from error
        return path


def _with_texts(path: Path, result: CellResult, predictions: Mapping[str, np.ndarray]) -> CellResult:
    """A result that lists the table of its generated texts, which is written beside it where it has any."""
    if not texts.has_texts(predictions):
        return result
    table, place = texts.table_of(predictions), path.with_name(f"{path.stem}{texts.SUFFIX}")
    if texts.can_write():
        write_atomically(place, lambda handle: handle.write(texts.as_parquet(table)))
    else:
        logger.warning("the texts of %s are in its predictions alone: %s", path.name, texts.MISSING)
    facts = texts.listed(place.name if texts.can_write() else "", table)
    return result.model_copy(update={"data": {**result.data, "texts": facts}})


class StorageError(MedgraftError):
    """A result cannot be stored: the disk is full, read-only or over its quota."""

    def __init__(self, folder: Path, error: OSError) -> None:
        """Builds the sentence from the folder and what the system said."""
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        super().__init__(
            f"results folder {folder} cannot be written: {reason}; make room, or give another --results; "
            "what was finished is stored, and the same command goes on from there"
        )


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


WRONG_KEY = "whose key is not that of what defines them"
"""Kind of :class:`UnreadableError` of a result whose specification somebody edited."""


def read_result(path: Path) -> CellResult:
    """The result in a file, of any known version of the schema, its key checked and nothing else.

    Raises:
        UnreadableError: It is none, of an unknown version, or its key is not that of its specification.
    """
    data = migrated(read_json(path))
    try:
        result = CellResult.model_validate(data)
    except ValidationError as error:
        raise UnreadableError(f"it is not a readable result: {one_line(readable(error), 300)}") from error
    if result.key != result.spec.key() and result.key != _key_as_written(data["spec"]):
        raise UnreadableError("its key is not that of its specification", WRONG_KEY)
    return result


def _read(path: Path) -> CellResult | None:
    try:
        return read_result(path)
    except UnreadableError as error:
        logger.warning("%s is left out: %s", path, error)
        return None


def _key_as_written(spec: Mapping[str, Any]) -> str:
    """The key of a specification as its writer knew it, which may have been a version with fewer fields."""
    facts = {name: value for name, value in spec.items() if LATER_FIELDS.get(name, ...) != value}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_candidates(folders: Iterable[Path], left_out: LeftOut) -> Iterator[tuple[Path, CellResult]]:
    """All readable results below the folders, several of one key where there are.

    Args:
        folders: Of results.
        left_out: Takes the files that are no results.

    Raises:
        MedgraftError: A folder does not exist.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise MedgraftError(f"results folder {folder} does not exist")
        for path in files_below(Path(folder), ".json"):
            if path.name == BOARD_FILE or path.name.endswith((OPERATION_SUFFIX, EXTERNAL_SUFFIX, TRIAL_SUFFIX)):
                continue
            try:
                result = read_result(path)
            except UnreadableError as error:
                left_out.add(path, error)
                continue
            yield path, result


def read_results(folders: Iterable[Path]) -> Iterator[tuple[Path, CellResult]]:
    """The same, one per key, so that folders of several machines merge.

    Of equal keys the first that succeeded wins, or the first where none did. Only their form and key are checked; see
    :func:`medgraft.benchmarks.cell.verification.verified_results` for the rest.

    Raises:
        MedgraftError: A folder does not exist.
    """
    results: dict[str, tuple[Path, CellResult]] = {}
    left_out = LeftOut()
    for path, result in read_candidates(folders, left_out):
        if result.key not in results or (results[result.key][1].status != "success" and result.status == "success"):
            results[result.key] = (path, result)
    left_out.tell()
    yield from results.values()
