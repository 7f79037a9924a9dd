"""What a comparison of two rows says, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.board.compared.choosing import label
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import stored_predictions
from medgraft.benchmarks.statistics.comparison import Comparison, compare_predictions
from medgraft.benchmarks.statistics.pairs import holm
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions


@dataclass(frozen=True)
class Compared:
    """Two rows of one table.

    Attributes:
        first: The one.
        second: The other.
        outcome: What came of it, or why the two are not compared.
    """

    first: BoardRow
    second: BoardRow
    outcome: Comparison | str


def compare_rows(first: BoardRow, second: BoardRow) -> Compared:
    """Compares two rows of a table in the metric that ranks it, where both have their predictions."""
    try:
        if len(splits := {str(row.first.data.get("split_hash", "")) for row in (first, second)}) > 1:
            shown = " and ".join(sorted(each[:12] or "unknown" for each in splits))
            raise MedgraftError(f"they were tested on different splits ({shown})")
        if first.first.primary != second.first.primary:
            raise MedgraftError(f"one is ranked by {first.first.primary}, the other by {second.first.primary}")
        outcome = compare_predictions(predictions_of(first), predictions_of(second), first.first.primary)
    except MedgraftError as error:
        return Compared(first, second, str(error))
    return Compared(first, second, outcome)


def predictions_of(row: BoardRow) -> list[Predictions]:
    """Test predictions of the seeds that succeeded.

    Raises:
        MedgraftError: There are none, or those of a seed are missing or unreadable.
    """
    found: list[Predictions] = []
    for path, cell in zip(row.files, row.cells, strict=True):
        if cell.status != "success":
            continue
        try:
            found.append(stored_predictions(path, cell))
        except UnreadableError as error:
            raise MedgraftError(
                f"the predictions of {label(row)}, seed {cell.spec.seed}, cannot be read ({error}), and rows are "
                "paired subject by subject; put the .npz files beside the results"
            ) from error
    if not found:
        raise MedgraftError(f"no seed of {label(row)} succeeded")
    return found


def sentences(compared: Sequence[Compared], margin: float | None = None) -> list[str]:
    """One paragraph per task; p-values are adjusted over the tasks by Holm's procedure.

    Args:
        compared: Pairs of rows.
        margin: Of non-inferiority, in the metric's own unit; ``None`` where that is not asked.
    """
    tests = [each.outcome.p_value for each in compared if isinstance(each.outcome, Comparison)]
    known = [p for p in tests if p is not None]
    adjusted = iter(holm(np.array(known)).tolist())
    lines: list[str] = []
    for each in compared:
        if isinstance(each.outcome, str):
            lines.append(f"{_place(each)}: {_pair(each)} are not compared: {each.outcome}.")
            continue
        p_value = next(adjusted) if each.outcome.p_value is not None else None
        lines.append(" ".join(_about(each, each.outcome, p_value, len(known), margin)))
    return [one_line(line, 2000) for line in lines]


def _about(each: Compared, outcome: Comparison, adjusted: float | None, tasks: int, margin: float | None) -> list[str]:
    side = "better" if outcome.gain > 0 else "worse"
    word = "no difference" if outcome.gain == 0 else f"{abs(outcome.gain):.3g} {side}"
    parts = [
        f"{_place(each)}: {label(each.first)} has {outcome.number} {outcome.first:.3f}, {label(each.second)} "
        f"{outcome.second:.3f}: {word}{_interval(outcome)}{_tests(outcome, adjusted, tasks)}, on {outcome.n_subjects} "
        f"subjects with {_seeds(outcome)}."
    ]
    parts.append(_board(each))
    if margin is not None:
        shown, p_value = outcome.within(margin)
        parts.append(
            f"That the first is worse by less than {margin:g} is {'shown' if shown else 'not shown'} (one-sided "
            f"{_p(p_value)}, limit .025)."
        )
    parts.append(_needed(outcome))
    return parts


def _place(each: Compared) -> str:
    return each.first.title


def _pair(each: Compared) -> str:
    return f"{label(each.first)} and {label(each.second)}"


def _interval(outcome: Comparison) -> str:
    if outcome.low is None or outcome.high is None:
        return " (no interval: some class has one test subject)"
    ends = (outcome.low, outcome.high) if outcome.higher_is_better else (-outcome.high, -outcome.low)
    return f" (95% interval of the gain {ends[0]:.3f} to {ends[1]:.3f})"


def _tests(outcome: Comparison, adjusted: float | None, tasks: int) -> str:
    if outcome.p_value is None or adjusted is None:
        return ""
    further = [f"adjusted for {tasks} comparisons {_p(adjusted)}"] if tasks > 1 else []
    if outcome.permutation is not None:
        further.append(f"permutation of subjects {_p(outcome.permutation)}")
    if outcome.delong is not None:
        further.append(f"DeLong {_p(outcome.delong)}")
    return f", {_p(outcome.p_value)}" + (f" ({', '.join(further)})" if further else "")


def _p(p_value: float) -> str:
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def _seeds(outcome: Comparison) -> str:
    one, other = outcome.seeds
    if one == other:
        return f"{one} seed{'s' if one > 1 else ''} each"
    return f"{one} and {other} seeds"


def _board(each: Compared) -> str:
    one, other = each.first.standing, each.second.standing
    if one is None or other is None:
        reason = next((row.standing_note for row in (each.first, each.second) if row.standing_note), "")
        return f"The board does not rank both{f', {reason}' if reason else ''}."
    ranks = f"ranks {one.rank} ({one.low} to {one.high}) and {other.rank} ({other.low} to {other.high})"
    return f"The board {'gives them one rank' if one.rank == other.rank else 'gives them different ranks'}: {ranks}."


def _needed(outcome: Comparison) -> str:
    if outcome.difference == 0:
        return "There is no difference, so no number of subjects would show one."
    if outcome.needed is None:
        return "More subjects alone would not show a difference of this size: seeds differ by as much; run more seeds."
    return (
        f"It takes about {outcome.needed} subjects to show a difference of this size in 80% of test sets at 5%; "
        f"{outcome.n_subjects} are at hand."
    )
