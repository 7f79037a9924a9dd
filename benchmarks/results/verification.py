"""Whether a stored result is what it says it is: its key, its phantom mark, its facts, its metrics.

Results travel between machines as files, so none is believed. The key is recomputed from the specification, the mark of
a phantom is held against what the data say of themselves and against other results of the same cohort, and the points
are recomputed from the predictions beside the result. What contradicts itself is left out by name. A result without
predictions (they may stay on the machine that made them) is kept, and its row says ``unverified``.

There is no secret in a result: whoever rewrites specification, key, predictions and metrics together is not found out.
"""

from __future__ import annotations

import hashlib
import logging
import marshal
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgraft.benchmarks.calibration.conformal import set_statistics
from medgraft.benchmarks.calibration.reliability import Curve, curves
from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.results import verified_before
from medgraft.benchmarks.results.duplicates import COPIED, OTHER_NAME, TOLERANCE, conflict, measured
from medgraft.benchmarks.results.left_out import LeftOut
from medgraft.benchmarks.results.reading import candidates, read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, read_arrays
from medgraft.benchmarks.texts.table import problem_of as texts_problem
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import objective_of, values

logger = logging.getLogger(__name__)

OTHER_METRICS = "whose numbers do not follow from their predictions"
FALSE_PHANTOM = "that take a phantom for real data"
OTHER_TEXTS = "whose texts are not those that they list"
OTHER_FACTS = "with facts of another kind than a board reads"
"""Kinds of :class:`UnreadableError` by which what is left out is counted."""

KNOWN = ("scores", "targets", "groups", "mask", "thresholds", "asked")
"""Arrays of predictions with a name of their own; the others are an objective's further columns."""

PHANTOM_FACTS = ("generator", "bayes_f1_macro", "bayes")
"""What only a generated cohort can say of itself."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Split(_Facts):
    samples: int
    subjects: int


class _Reader(_Facts):
    skipped: dict[str, int] = Field(default_factory=dict)


class DataFacts(_Facts):
    """What a board reads of a result's ``data``."""

    splits: dict[str, _Split] = Field(default_factory=dict)
    split_hash: str = ""
    classes: tuple[str, ...] = ()
    objective: str = ""
    variants: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    generator: str | None = None
    bayes_f1_macro: float | None = None
    table_baselines: dict[str, dict[str, list[str] | int | tuple[float | None, float | None, float | None]]] = Field(
        default_factory=dict
    )
    reader: _Reader | None = None
    left_out: dict[str, int] = Field(default_factory=dict)
    few_subjects: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    unreadable_reasons: dict[str, int] = Field(default_factory=dict)


class _Stage(_Facts):
    stage: str
    adapter: str
    steps: int
    trainable: int


class _Head(_Facts):
    regression: str = "logistic regression"
    C: float | None = None
    folds: int = 0


class TrainingFacts(_Facts):
    """What a board reads of a result's ``training``."""

    stages: list[_Stage] = Field(default_factory=list)
    head: _Head = Field(default_factory=_Head)


class EncoderFacts(_Facts):
    """What a board reads of a result's ``encoder``."""

    weights: str | None = None
    saw_this_cohort: bool | None = None


class _Report(_Facts):
    router_entropy: float | None = None
    load_entropy: dict[str, float] = Field(default_factory=dict)
    task_accuracy: float | None = None
    dense_blocks: list[str] = Field(default_factory=list)
    expert_load: dict[str, list[float]] = Field(default_factory=dict)


class DiagnosticFacts(_Facts):
    """What a board reads of a result's ``diagnostics``."""

    reports: dict[str, _Report] = Field(default_factory=dict)


@dataclass(frozen=True)
class Verified:
    """A result that does not contradict itself.

    Attributes:
        path: Its file.
        cell: The result.
        unverified: Why its metrics could not be checked; empty where they were, and where there are none.
        conflict: What another result of its key says otherwise, in words; empty for none.
        digest: See :func:`medgraft.benchmarks.results.verified_before.digest`; empty where predictions are not at hand.
        run: Hash of what was measured while it ran, see :func:`medgraft.benchmarks.results.duplicates.measured`;
            ``None`` where nothing was.
    """

    path: Path
    cell: CellResult
    unverified: str = ""
    conflict: str = ""
    digest: str = ""
    run: int | None = None


def stored_predictions(path: Path, cell: CellResult) -> Predictions:
    """The predictions beside a result.

    Args:
        path: File of the result.
        cell: The result.

    Raises:
        UnreadableError: There are none, or they are no predictions of its classes.
    """
    arrays = read_arrays(path.with_suffix(".npz"))
    if missing := [name for name in ("scores", "targets", "groups") if name not in arrays]:
        raise UnreadableError(f"it has no array {missing[0]!r}")
    data = cell.data
    predictions = Predictions(
        arrays["scores"],
        arrays["targets"],
        arrays["groups"],
        tuple(data.get("classes", ())),
        arrays.get("mask"),
        arrays.get("thresholds"),
        data.get("objective", ""),
        tuple(data.get("variants", ())),
        arrays.get("asked"),
        tuple(data.get("questions", ())),
        tuple(tuple(classes) for classes in data.get("answers", ())),
        {name: array for name, array in arrays.items() if name not in KNOWN},
    )
    if problem := shape_problem(predictions):
        raise UnreadableError(problem)
    return predictions


def shape_problem(p: Predictions) -> str:
    """What makes the arrays no predictions of one test split; empty if nothing does."""
    n = len(p.scores) if p.scores.ndim else 0
    if n == 0 or p.targets.ndim == 0 or len(p.targets) != n or p.groups.shape != (n,):
        return f"{p.scores.shape}, {p.targets.shape} and {p.groups.shape} are no scores, targets and subjects"
    if p.groups.dtype.kind not in "iu" or p.groups.min() < 0 or p.groups.max() >= n:
        return f"its {n} samples have other subject numbers than 0 to {n - 1}"
    if not (np.isfinite(p.scores).all() and np.isfinite(p.targets).all()):
        return "it holds numbers that are not finite"
    if short := [name for name, column in p.columns.items() if column.ndim and len(column) != n]:
        return f"its column {short[0]!r} is not of {n} samples"
    return objective_of(p).misfit(p)


def check(path: Path, cell: CellResult) -> Verified:
    """A result whose parts agree.

    Raises:
        UnreadableError: They do not; the message says which.
    """
    _check_facts(cell)
    _check_phantom(cell)
    if cell.status != "success":
        return Verified(path, cell)
    if problem := texts_problem(path, cell.data.get("texts")):
        raise UnreadableError(problem, OTHER_TEXTS)
    if not path.with_suffix(".npz").exists():
        return Verified(path, cell, "its predictions are not beside it")
    try:
        digest = verified_before.digest(path)
        if verified_before.is_known(digest):
            return Verified(path, cell, digest=digest)
        predictions = stored_predictions(path, cell)
    except UnreadableError as error:
        return Verified(path, cell, f"{path.with_suffix('.npz').name}: {error}")
    try:
        computed = values(predictions)
    except (ValueError, TypeError, IndexError, KeyError, AssertionError, ArithmeticError) as error:
        text = f"no metric can be computed from its predictions: {one_line(str(error), 120)}"
        raise UnreadableError(text, OTHER_METRICS) from error
    if problem := _metric_problem(cell, computed, predictions) or _calibration_problem(cell, predictions):
        raise UnreadableError(problem, OTHER_METRICS)
    verified_before.remember(digest)
    return Verified(path, cell, digest=digest)


def _check_facts(cell: CellResult) -> None:
    """Raises where a board would read something of another kind than it expects."""
    try:
        DataFacts.model_validate(cell.data)
        TrainingFacts.model_validate(cell.training)
        EncoderFacts.model_validate(cell.encoder)
        DiagnosticFacts.model_validate({"reports": cell.diagnostics})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableError(f"{one_line(where, 80)}: {one_line(first['msg'], 120)}", OTHER_FACTS) from None


def _check_phantom(cell: CellResult) -> None:
    """Raises where a result on a generated cohort says that it is not one."""
    if cell.phantom:
        return
    if cell.spec.cohort.phantom:
        raise UnreadableError("it says phantom: false, and its cohort says phantom: true", FALSE_PHANTOM)
    if facts := [name for name in PHANTOM_FACTS if cell.data.get(name) is not None]:
        text = f"it says phantom: false, and its data have a {facts[0]}, as generated cohorts do"
        raise UnreadableError(text, FALSE_PHANTOM)


def _metric_problem(cell: CellResult, computed: dict[str, float], predictions: Predictions) -> str:
    """The first metric that its predictions do not give, in words; empty if there is none."""
    if cell.primary not in cell.metrics:
        return f"it is a success without its metric {one_line(cell.primary, 60)}"
    stored, n, n_subjects = cell.metrics, len(predictions.targets), int(predictions.groups.max()) + 1
    for name, metric in stored.items():
        if name not in computed:
            return f"its predictions give no {one_line(name, 60)}"
        value = computed[name]
        same = metric.value is None if math.isnan(value) else _close(metric.value, value)
        if not same:
            shown = "undefined" if math.isnan(value) else f"{value:.6g}"
            return f"{one_line(name, 60)} is {metric.value}, and its predictions give {shown}"
        if (metric.n, metric.n_subjects) != (n, n_subjects):
            return f"{one_line(name, 60)} is said to be of {metric.n} samples, and there are {n}"
        ends = (metric.ci_low, metric.ci_high)
        if any(end is not None and not math.isfinite(end) for end in ends) or (None not in ends and ends[0] > ends[1]):  # pyright: ignore
            return f"{one_line(name, 60)} has the interval {ends}"
    return ""


def _calibration_problem(cell: CellResult, predictions: Predictions) -> str:
    """What a result says of probabilities and sets that its predictions do not give, in words; empty for nothing."""
    said = cell.calibration
    if said is None:
        return ""
    likeliest, classes = curves(predictions)
    pairs = [(said.reliability.likeliest, likeliest)]
    pairs += [(said.reliability.classes.get(name), classes.get(name)) for name in classes | said.reliability.classes]
    if not all(_same_curve(one, other) for one, other in pairs):
        return "its predictions give other reliability curves"
    if said.sets is None:
        return ""
    needed = len(predictions.classes) * predictions.targets.ndim
    if len(said.sets.rule.thresholds) != needed:
        return f"its conformal sets have {len(said.sets.rule.thresholds)} thresholds, and there should be {needed}"
    statistics = set_statistics(said.sets.rule, predictions)
    for name, number in said.sets.numbers.items():
        value = value_of(statistics[name], len(predictions.targets)) if name in statistics else math.nan
        if not (number.value is None if math.isnan(value) else _close(number.value, value)):
            return f"{one_line(name, 60)} of its conformal sets is {number.value}, and its predictions give {value:.6g}"
    return ""


def _same_curve(said: Curve | None, found: Curve | None) -> bool:
    if said is None or found is None:
        return said is found
    one, other = said.model_dump(), found.model_dump()
    return all(len(one[name]) == len(other[name]) and np.allclose(one[name], other[name], atol=1e-5) for name in one)


def _close(value: float | None, expected: float) -> bool:
    return value is not None and math.isfinite(value) and abs(value - expected) <= TOLERANCE * max(1.0, abs(expected))


def checked(path: Path, hold: Callable[[Path, CellResult], CellResult] | None = None) -> Verified:
    """The result in a file, whose parts agree.

    Args:
        path: The file.
        hold: Makes of a file and its result the same result in less memory; without it the result is held as it is.

    Raises:
        UnreadableError: It is none, or they do not.
    """
    cell = read_result(path)
    each = check(path, cell)
    run = measured(cell) if cell.status == "success" else None
    return replace(each, cell=cell if hold is None else hold(path, cell), run=None if run is None else _hash(run))


def _hash(run: Any) -> int:
    """64 bits that are the same in every process, as Python's own of texts are not."""
    return int.from_bytes(hashlib.blake2b(marshal.dumps(run, 2), digest_size=8).digest())


Read = Callable[[Iterable[Path]], Iterable[tuple[Path, Verified | UnreadableError]]]
"""From files to what :func:`checked` gives or raises of each, in the same order."""


def one_by_one(paths: Iterable[Path]) -> Iterator[tuple[Path, Verified | UnreadableError]]:
    """Reads and checks results, held as they are."""
    for path in paths:
        try:
            yield path, checked(path)
        except UnreadableError as error:
            yield path, error


def verified_results(
    folders: Iterable[Path], left_out: LeftOut | None = None, read: Read = one_by_one
) -> list[Verified]:
    """All results below the folders that do not contradict themselves, one per key, so that folders merge.

    What does is left out; the log names the first few with the reason and counts the others. Of equal keys a success
    that was checked wins, then one that could not be, then a failure, then what was read first; what else is said of
    results that are there twice, see :mod:`medgraft.benchmarks.results.duplicates`.

    Args:
        folders: Of results.
        left_out: Takes what is left out.
        read: Reads the files; for many of them see :func:`medgraft.benchmarks.results.held.beside.read_held`.

    Raises:
        MedgraftError: A folder does not exist.
    """
    left_out = LeftOut() if left_out is None else left_out
    results: dict[str, Verified] = {}
    with uncollected():
        for path, each in read(candidates(folders)):
            if isinstance(each, UnreadableError):
                left_out.add(path, each)
                continue
            known = results.get(each.cell.key)
            results[each.cell.key] = each if known is None else _of_both(known, each, left_out)
        kept = _true_to_their_cohort(_without_copies(list(results.values()), left_out), left_out)
    left_out.tell()
    return kept


def _rank(result: Verified) -> int:
    return 2 if result.cell.status != "success" else 1 if result.unverified else 0


def _misnamed(result: Verified) -> bool:
    return result.path.stem != result.cell.key


def _of_both(known: Verified, each: Verified, left_out: LeftOut) -> Verified:
    """Which of two results of one key counts, with what the other says otherwise."""
    # min() keeps the first of equals, which is the one that was read first.
    counted = min((known, each), key=lambda result: (_rank(result), _misnamed(result)))
    other = each if counted is known else known
    if problem := conflict(counted.cell, other.cell):
        why = "its predictions were checked" if _rank(counted) < _rank(other) else "it was read first"
        logger.warning(
            "%s (%s) and %s: %s; the former counts, %s", counted.path, known.cell.key, other.path, problem, why
        )
        return replace(counted, conflict=f"{problem} (counted since {why})")
    if _misnamed(other) and other.path.parent == counted.path.parent:
        left_out.add(other.path, UnreadableError(f"it is a copy of {counted.path.name}", OTHER_NAME))
    return replace(counted, conflict=counted.conflict or known.conflict)


def _without_copies(results: Sequence[Verified], left_out: LeftOut) -> list[Verified]:
    """Leaves out copies under two keys: all but one of a row, all of them where they are of several rows."""
    by_hash: dict[int, list[Verified]] = {}
    for each in results:
        if each.run is not None:
            by_hash.setdefault(each.run, []).append(each)
    dropped: dict[str, str] = {}
    for copies in _of_one_run(by_hash.values()):
        one_row = len({each.cell.spec.row() for each in copies}) == 1
        for each in copies[1:] if one_row else copies:
            others = [other.path.name for other in copies if other is not each]
            dropped[each.cell.key] = f"it has all times and numbers of {others[0]} and another key"
    for each in results:
        if text := dropped.get(each.cell.key):
            left_out.add(each.path, UnreadableError(text, COPIED))
    return [each for each in results if each.cell.key not in dropped]


def _of_one_run(alike: Iterable[Sequence[Verified]]) -> Iterator[list[Verified]]:
    """Results that were measured in one run, of those whose runs have one hash; none that stand alone."""
    for several in alike:
        by_run: dict[Any, list[Verified]] = {}
        for each in several if len(several) > 1 else ():
            by_run.setdefault(measured(each.cell), []).append(each)
        yield from (copies for copies in by_run.values() if len(copies) > 1)


def _true_to_their_cohort(results: Sequence[Verified], left_out: LeftOut) -> list[Verified]:
    """Leaves out results that say a cohort is real which others, with the same tables or split, say is generated."""
    generated = {mark for each in results if each.cell.phantom for mark in _marks(each.cell)}
    kept = []
    for each in results:
        if not each.cell.phantom and not generated.isdisjoint(_marks(each.cell)):
            text = "it says phantom: false, and other results of the same cohort or split say phantom: true"
            left_out.add(each.path, UnreadableError(text, FALSE_PHANTOM))
            continue
        kept.append(each)
    return kept


def _marks(cell: CellResult) -> set[tuple[str, Any]]:
    marks: set[tuple[str, Any]] = {("revision", (cell.spec.cohort.name, cell.spec.cohort.revision))}
    if split := cell.data.get("split_hash"):
        marks.add(("split", (cell.spec.task, split)))
    return marks


def verified(path: Path, cell: CellResult | None) -> CellResult | None:
    """A stored result to resume from: ``None`` where it contradicts itself, or its predictions are damaged."""
    if cell is None:
        return None
    try:
        result = check(path, cell)
        if cell.status == "success" and path.with_suffix(".npz").exists() and result.unverified:
            raise UnreadableError(result.unverified)
    except MedgraftError as error:
        logger.warning("%s is run again: %s", path, error)
        return None
    return cell


def succeeded(path: Path) -> bool:
    """Whether a stored result is that of a success and is sound; files that were found so before are not read again.

    Args:
        path: File of the result.
    """
    try:
        stamp = verified_before.stamp(path)
    except OSError:
        return False
    if verified_before.is_known(stamp):
        return True
    try:
        result = verified(path, read_result(path))
    except UnreadableError as error:
        logger.warning("%s is left out: %s", path, error)
        return False
    if result is None or result.status != "success":
        return False
    verified_before.remember(stamp)
    return True
