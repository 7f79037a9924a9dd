"""The stored result of a cell: one JSON file, of which this is the schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups
from medgraft.benchmarks.results.chosen import Sizing, Tuning
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION
from medgraft.benchmarks.results.site_report import SiteReport
from medgraft.benchmarks.results.spec import CellSpec, StoredModel

Status = Literal["success", "error", "oom", "timeout", "killed"]
"""``oom`` is lack of memory that the kernel or the library reports; ``killed`` a worker that somebody ended."""


class OpUse(StoredModel):
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


class Efficiency(StoredModel):
    """What a cell costs.

    Attributes:
        trainable: Trainable parameters by part.
        trainable_dtype: Types that they are trained in, by part; float32 unless the encoder is wider.
        encoder_parameters: Frozen parameters of the towers that ran.
        forward_flops: Floating-point operations of one sample's forward pass (matrix products and convolutions).
        train_samples_per_s: Training throughput, data loading excluded, with the cached prefix that training used.
        inference_samples_per_s: Throughput of the whole model on prepared inputs, nothing cached.
        generated_tokens_per_s: Tokens of texts a second in decoding the test split, batches of several together.
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
    generated_tokens_per_s: float | None = None
    train_step_peak_bytes: int | None = None
    process_peak_bytes: int | None = None
    cached_stage: dict[str, tuple[int, int]] = Field(default_factory=dict)
    concurrent_jobs: int = 1


class CellResult(StoredModel):
    """The stored result of a cell.

    Attributes:
        schema_version: Version of the schema, see :mod:`medgraft.benchmarks.results.migrations`.
        key: First 16 hex digits of the SHA-256 over the canonical JSON of ``spec``; the name of the file.
        status: How the cell ended; all but ``success`` are tried again by the next sweep.
        message: Why it did not succeed, in a sentence; empty for a success.
        stage: Where a cell that failed did: ``load``, ``build``, ``prefix``, ``train``, ``evaluate``, ``external``,
            ``keep``, ``measure``, ``sites`` or ``write``.
        log: File of what the cell wrote to its terminal, relative to the results folder; empty where it wrote nothing.
        spec: Everything that defines the numbers.
        phantom: The data are generated and of no person; then nothing here says anything about people.
        primary: Metric that rows are ranked by.
        metrics: Name of each metric -> its estimate on the test split; names of classes follow an underscore.
        groups: Attribute of the subjects (sex, age) -> the metrics by its groups.
        calibration: What is said of probabilities, temperatures and conformal sets; ``None`` for other scores.
        sites: How much the frozen encoder's features say of the site, beside the task; ``None`` where the data know of
            fewer than two sites.
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
    sites: SiteReport | None = None
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
