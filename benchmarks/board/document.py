"""The board as data: ``leaderboard.json``, of a documented and versioned schema; the pages are made of it, too.

Numbers are as the results have them, not rounded. Names and messages of others are plain text: characters that a
terminal would obey, or that turn the direction of writing, are written out.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import metadata

from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks.board.adapters import recipe, title
from medgraft.benchmarks.board.columns import HEADINGS, numbers_shown, speaking
from medgraft.benchmarks.board.rows import BoardRow, median, metrics_of
from medgraft.benchmarks.board.text import prose_without_paths, without_paths
from medgraft.benchmarks.results.result import CellResult
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.metric.judging import metric, metric_of
from medgraft.task.names import task_facts

SCHEMA_VERSION = 1
"""Of ``leaderboard.json``. Raised when a field changes its meaning or goes; a new field alone does not raise it."""

Triple = tuple[float | None, float | None, float | None]
SEPARATORS = re.compile(r"[^a-z0-9]+")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rank(_Model):
    """Where a row stands in its table.

    Attributes:
        rank: 1 is best; rows that the data do not separate share it.
        low: Lower end of the 95% interval of the rank.
        high: Upper end.
        tie: Number of the group of rows that share the rank.
    """

    rank: int
    low: int
    high: int
    tie: int


class Seed(_Model):
    """One result of a row.

    Attributes:
        seed: The seed.
        key: Key of the result, the name of its file.
        status: ``success``, or how it ended.
        value: Primary metric on the test split; ``None`` where it is undefined or the cell did not succeed.
        low: Lower end of its 95% interval over test subjects.
        high: Upper end.
    """

    seed: int
    key: str
    status: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Row(_Model):
    """One row: all seeds of one task, encoder, adapter and set of hyper-parameters.

    Attributes:
        id: Its name, the same for the same row in every board; its page is ``rows/SECTION.html#ID``.
        section: ``id`` of the table that it stands in.
        encoder: Name of the encoder.
        encoder_weights: What the encoder says of its weights.
        saw_cohort: Pre-training of the encoder saw this cohort; ``None`` where that is not known.
        adapter: Name of the adapter.
        note: What tells it from rows of the same encoder and adapter.
        title: The adapter's title.
        recipe: How it was trained, in words.
        status: ``success``, or how many seeds ended otherwise; how many could not be checked.
        warning: Classes with too few test subjects for their intervals.
        marks: What sets it apart from rows of the same table, such as tuning.
        standing: Its rank; ``None`` where the data say nothing of it.
        metrics: Name -> mean over the seeds, and both ends of its 95% interval.
        trainable: Trainable parameters.
        encoder_parameters: Frozen parameters of the towers that ran.
        train_samples_per_s: Training throughput, median over the seeds.
        inference_samples_per_s: Inference throughput.
        generated_tokens_per_s: Tokens of texts a second in decoding; ``None`` where nothing is generated.
        train_step_peak_bytes: Peak of allocated tensors in one training step.
        process_peak_bytes: Peak resident memory of the worker.
        forward_flops: Floating-point operations of one sample's forward pass.
        backend: How the adapter ran.
        precision: Of what is trained.
        device: ``cpu`` or ``cuda``.
        epochs: Epochs of training.
        split_hash: Digest of the split.
        suite: The suite that the results cite; empty for none.
        seeds: Its results.
    """

    id: str
    section: str
    encoder: str
    encoder_weights: str | None = None
    saw_cohort: bool | None = None
    adapter: str
    note: str = ""
    title: str = ""
    recipe: str = ""
    status: str
    warning: str = ""
    marks: tuple[str, ...] = ()
    standing: Rank | None = None
    metrics: dict[str, Triple]
    trainable: int | None = None
    encoder_parameters: int | None = None
    train_samples_per_s: float | None = None
    inference_samples_per_s: float | None = None
    generated_tokens_per_s: float | None = None
    train_step_peak_bytes: float | None = None
    process_peak_bytes: float | None = None
    forward_flops: float | None = None
    backend: str
    precision: str
    device: str
    epochs: int
    split_hash: str = ""
    suite: str = ""
    seeds: tuple[Seed, ...]


class Section(_Model):
    """One table: rows of one task on one cohort, with the same options.

    Attributes:
        id: Its anchor on the page.
        title: Heading.
        task: Name of the task.
        phantom: The cohort is generated.
        cohort: Name of the cohort.
        revision: Digest of the data.
        tags: Words that choose the task.
        options: Options of the task.
        limit: Largest number of samples per split.
        primary: Metric that the rows are ranked by.
        shown: Metrics that stand first in a table, the primary one before the others.
        lower_is_better: Metrics of which less is better.
        labels: Metric -> what a heading calls it.
        splits: Split -> samples and subjects.
        notes: What a reader must know of the data.
    """

    id: str
    title: str
    task: str
    phantom: bool
    cohort: str
    revision: str
    tags: tuple[str, ...] = ()
    options: dict[str, str] = {}
    limit: int | None = None
    primary: str
    shown: tuple[str, ...]
    lower_is_better: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    splits: dict[str, tuple[int, int]] = {}
    notes: tuple[str, ...] = ()


class Document(_Model):
    """``leaderboard.json``.

    Attributes:
        schema_version: See :data:`SCHEMA_VERSION`.
        medgraft: Version that made it.
        command: That made it, without paths.
        sections: The tables.
        rows: Their rows, in the order of the board.
    """

    schema_version: int = SCHEMA_VERSION
    medgraft: str
    command: str
    sections: tuple[Section, ...]
    rows: tuple[Row, ...]


def document(rows: Sequence[BoardRow], command: str) -> Document:
    """The board as data.

    Args:
        rows: See :func:`medgraft.benchmarks.board.rows.board_rows`.
        command: That makes it; absolute paths in it are left out.
    """
    tables = tables_of(rows)
    ids = {key: section_id(key) for key in tables}
    return Document(
        medgraft=metadata.version("medgraft"),
        command=one_line(without_paths(command)),
        sections=tuple(_section(ids[key], members) for key, members in tables.items()),
        rows=tuple(_row(ids[key], row) for key, members in tables.items() for row in members),
    )


def tables_of(rows: Sequence[BoardRow]) -> dict[tuple[bool, str, str, str], list[BoardRow]]:
    """The rows of each table, in the order of the board."""
    tables: dict[tuple[bool, str, str, str], list[BoardRow]] = {}
    for row in rows:
        tables.setdefault(row.section, []).append(row)
    return tables


def section_id(key: tuple[bool, str, str, str]) -> str:
    """Anchor of a table: the task in letters that every address takes, and a digest of all that makes the table.

    Example:
        >>> section_id((True, "oasis:text", "rev", "[]"))
        'oasis-text-966337'
    """
    digest = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:6]
    return f"{SEPARATORS.sub('-', key[1].lower()).strip('-')[:40] or 'task'}-{digest}"


def row_id(row: BoardRow) -> str:
    """Name of a row, the same in every board."""
    return row.first.spec.row()


@functools.cache
def tags_of(task: str) -> tuple[str, ...]:
    """Tags of a task; none where it is not installed here."""
    try:
        return task_facts(task).tags
    except MedgraftError:
        return ()


def suite_of(cell: CellResult) -> str:
    """The suites that a result cites; empty for none."""
    return one_line(", ".join(cell.suites), 200)


def metric_title(name: str, cell: CellResult) -> str:
    """What a number is, in a few words, as its metric says; the name itself where none knows it."""
    found = next((each for each in map(metric, metrics_of(cell)) if name in each.numbers), None)
    return found.title if found is not None and found.title else name


def _section(name: str, members: Sequence[BoardRow]) -> Section:
    cell = speaking(members)
    spec, metrics = cell.spec, dict.fromkeys(name for row in members for name in row.metrics)
    judges = metrics_of(cell)
    splits = cell.data.get("splits") or {}
    return Section(
        id=name,
        title=one_line(members[0].title),
        task=one_line(spec.task),
        phantom=cell.phantom,
        cohort=one_line(spec.cohort.name),
        revision=one_line(spec.cohort.revision, 64),
        tags=tuple(one_line(tag) for tag in tags_of(spec.task)),
        options={
            one_line(name): prose_without_paths(one_line(str(value), 200)) for name, value in spec.task_options.items()
        },
        limit=spec.limit,
        primary=one_line(cell.primary),
        shown=tuple(map(one_line, numbers_shown(cell))),
        lower_is_better=tuple(one_line(m) for m in metrics if not metric_of(_overall(m), judges).higher_is_better),
        labels={one_line(name): HEADINGS[name] for name in metrics if name in HEADINGS},
        splits={one_line(name): (each["samples"], each["subjects"]) for name, each in splits.items()},
        notes=tuple(
            prose_without_paths(one_line(note, 500)) for note in dict.fromkeys(n for row in members for n in row.notes)
        ),
    )


def _overall(name: str) -> str:
    """The overall number that a number by class goes with: ``brier_edema`` is as ``brier``."""
    first = name.partition("_")[0]
    return first if first in ("brier", "ece") else name


def _row(section: str, row: BoardRow) -> Row:
    cell, spec, standing = row.first, row.first.spec, row.standing
    cost = cell.efficiency if cell.metrics else None
    return Row(
        id=row_id(row),
        section=section,
        encoder=one_line(spec.encoder),
        encoder_weights=_text(cell.encoder.get("weights")),
        saw_cohort=cell.encoder.get("saw_this_cohort"),
        adapter=one_line(spec.adapter),
        note=one_line(row.note),
        title=one_line(title(cell)),
        recipe=recipe(cell),
        status=one_line(row.status),
        warning=one_line(row.warning),
        marks=tuple(one_line(mark) for mark in row.marks),
        standing=None if standing is None else Rank(**vars(standing)),
        metrics=_plain_names(row.metrics),
        trainable=sum(cost.trainable.values()) if cost else None,
        encoder_parameters=cost.encoder_parameters if cost else None,
        train_samples_per_s=median(row, "train_samples_per_s"),
        inference_samples_per_s=median(row, "inference_samples_per_s"),
        generated_tokens_per_s=median(row, "generated_tokens_per_s"),
        train_step_peak_bytes=median(row, "train_step_peak_bytes"),
        process_peak_bytes=median(row, "process_peak_bytes"),
        forward_flops=median(row, "forward_flops"),
        backend=spec.backend,
        precision=spec.precision,
        device=spec.device,
        epochs=spec.train.epochs,
        split_hash=one_line(str(cell.data.get("split_hash", "")), 64),
        suite=suite_of(cell),
        seeds=tuple(_seed(each) for each in row.cells),
    )


def _plain_names(metrics: Mapping[str, Triple]) -> dict[str, Triple]:
    return {name if name.isprintable() else one_line(name): triple for name, triple in metrics.items()}


def _seed(cell: CellResult) -> Seed:
    found = cell.metrics.get(cell.primary) if cell.status == "success" else None
    ends = {} if found is None else {"value": found.value, "low": found.ci_low, "high": found.ci_high}
    return Seed(seed=cell.spec.seed, key=cell.key, status=cell.status, **ends)


def _text(value: object) -> str | None:
    return None if value is None else one_line(str(value), 200)
