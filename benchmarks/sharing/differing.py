"""What moved between two folders of results, told: for a terminal, for a program, and as an exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.board.text import count
from medgraft.benchmarks.results.left_out import LeftOut
from medgraft.benchmarks.results.verification import Verified, verified_results
from medgraft.benchmarks.sharing import difference
from medgraft.benchmarks.sharing.finding import Found, grouped, name_of, read_one
from medgraft.benchmarks.sharing.matching import EXACTLY, Matched, Pair, match
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError, MedgraftError

SHOWN = 20
"""Lines of one kind; of more, the count is given."""


@dataclass(frozen=True)
class Differences:
    """Everything that moved.

    Attributes:
        matched: Rows of both folders.
        metrics: Of the rows in both.
        costs: Speeds and memory that moved, on the same hardware.
        elsewhere: Rows that ran on other hardware, whose speeds are not compared.
        parameters: Rows with other numbers of trainable parameters, before and now.
        statuses: Seeds that ended otherwise: row, seed, before, now.
        versions: What was installed -> before and now.
        left_out: Of each folder, what was left out, in words.
    """

    matched: Matched
    metrics: Sequence[difference.Moved]
    costs: Sequence[difference.CostMoved]
    elsewhere: Sequence[Pair]
    parameters: Sequence[tuple[Pair, int, int]]
    statuses: Sequence[tuple[Pair, int, str, str]]
    versions: dict[str, tuple[str, str]]
    left_out: tuple[str, str]

    @property
    def worse(self) -> bool:
        """Some metric is worse by more than noise, or a cell that succeeded does no longer."""
        failed = any(before == "success" for _, _, before, _ in self.statuses)
        return failed or any(each.change == "worse" for each in self.metrics)

    @property
    def any(self) -> bool:
        """Some metric is not the same, a row is in one folder alone, or a status changed."""
        rows = self.matched.only_old or self.matched.only_new
        return bool(rows or self.statuses or any(each.change != "same" for each in self.metrics))


def differences(old: Path, new: Path, metrics: Sequence[str] = (), share: float = 0.2) -> Differences:
    """Compares two folders, or two results.

    Args:
        old: Folder of results, or the file of one.
        new: The same.
        metrics: Further metrics than the primary ones.
        share: Of a speed or of memory that counts as moved.

    Raises:
        MedgraftError: One does not exist, holds no result, or rows of neither match.
        ConfigError: No row has one of the metrics.
    """
    sides: list[list[Found]] = []
    left: list[str] = []
    for place in (old, new):
        left_out = LeftOut()
        results = _results(place, left_out)
        if not results:
            raise MedgraftError(f"there is no result in {place} that can be compared")
        sides.append(grouped(results))
        left.append(left_out.told())
    matched = match(*sides)
    known = {name for pair in matched.pairs for cell in pair.new.row.cells for name in cell.metrics}
    if unknown := [name for name in metrics if name not in known]:
        raise ConfigError(f"no row of both has the metric {unknown[0]!r}; they have {', '.join(sorted(known))}")
    costs, elsewhere = difference.costs_moved(matched.pairs, share)
    return Differences(
        matched,
        difference.moved(matched.pairs, metrics),
        costs,
        elsewhere,
        difference.parameters_moved(matched.pairs),
        difference.statuses_moved(matched.pairs),
        dict(difference.versions_moved(*sides)),
        (left[0], left[1]),
    )


def _results(place: Path, left_out: LeftOut) -> list[Verified]:
    return [read_one(place)] if place.is_file() or place.suffix == ".json" else verified_results([place], left_out)


def told(found: Differences) -> Iterator[str]:
    """Lines for a person, what matters first."""
    yield from _summary(found)
    yield from _some([_metric_line(each) for each in found.metrics if each.change in ("worse", "better")])
    unclear = [each for each in found.metrics if each.change in ("within noise", "undefined")]
    yield from _some([_metric_line(each) for each in unclear])
    yield from _some(
        [f"{name_of(p.new.row)} seed {s}: {before} before, {now} now" for p, s, before, now in found.statuses]
    )
    yield from _some([f"{name_of(p.new.row)}: trainable parameters {a:,}, now {b:,}" for p, a, b in found.parameters])
    yield from _some([_cost_line(each) for each in found.costs])
    if found.elsewhere:
        yield f"speed and memory of {len(found.elsewhere)} rows are not compared: they ran on other hardware"
    yield from _some([f"only in the first: {name_of(each.row)}" for each in found.matched.only_old])
    yield from _some([f"only in the second: {name_of(each.row)}" for each in found.matched.only_new])
    for name, (before, now) in found.versions.items():
        yield f"{name}: {before}, now {now}"
    for which, text in zip(("first", "second"), found.left_out, strict=True):
        if text:
            yield f"of the {which}: {text}"


def _summary(found: Differences) -> Iterator[str]:
    pairs, metrics = found.matched.pairs, found.metrics
    counts = {change: sum(each.change == change for each in metrics) for change in ("worse", "better")}
    noise = sum(each.change in ("within noise", "undefined") for each in metrics)
    same = sum(each.change == "same" for each in metrics)
    yield (
        f"{len(pairs)} rows in both: {counts['worse']} worse and {counts['better']} better by more than noise, "
        f"{noise} moved within it, {same} the same; {len(found.matched.only_old)} only in the first, "
        f"{len(found.matched.only_new)} only in the second"
    )
    if not pairs:
        yield "no row is in both; `medgraft compare` compares different rows of one task"
    if others := [pair for pair in pairs if pair.by != EXACTLY]:
        changed = ", ".join(dict.fromkeys(text for pair in others for text in pair.changed))
        yield f"{len(others)} of them were matched by {others[0].by}: {one_line(changed, 200)}"


def _metric_line(each: difference.Moved) -> str:
    values = [f"{value:.4g}" if value is not None else "undefined" for value in (each.old, each.new)]
    line = f"{each.change}: {name_of(each.pair.new.row)}: {each.metric} {values[0]}, now {values[1]}"
    if each.old is not None and each.new is not None:
        interval = "" if each.low is None else f" [{each.low:+.4f}, {each.high:+.4f}]"
        how = "same subjects" if each.paired else "intervals of both added up"
        seeds = f"{len(each.seeds)} seed{'s' if len(each.seeds) != 1 else ''}"
        line += f" ({each.new - each.old:+.4f}{interval}; {how}, {seeds}, p {each.p:.2g})"
    return line


def _cost_line(each: difference.CostMoved) -> str:
    word = "costs more" if each.worse else "costs less"
    share = each.new / each.old - 1
    return f"{word}: {name_of(each.pair.new.row)}: {each.name} {count(each.old)}, now {count(each.new)} ({share:+.0%})"


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more like these"


def as_json(found: Differences) -> dict[str, Any]:
    """The same for a program."""
    return {
        "worse": found.worse,
        "any": found.any,
        "metrics": [
            {
                "row": name_of(m.pair.new.row),
                "key_old": m.pair.old.key,
                "key_new": m.pair.new.key,
                "matched_by": m.pair.by,
            }
            | {name: getattr(m, name) for name in ("metric", "old", "new", "low", "high", "paired", "p", "change")}
            | {"seeds": list(m.seeds)}
            for m in found.metrics
        ],
        "statuses": [
            {"row": name_of(p.new.row), "seed": seed, "old": before, "new": now}
            for p, seed, before, now in found.statuses
        ],
        "parameters": [{"row": name_of(p.new.row), "old": a, "new": b} for p, a, b in found.parameters],
        "costs": [
            {"row": name_of(c.pair.new.row), "name": c.name, "old": c.old, "new": c.new, "worse": c.worse}
            for c in found.costs
        ],
        "only_old": [name_of(each.row) for each in found.matched.only_old],
        "only_new": [name_of(each.row) for each in found.matched.only_new],
        "versions": {name: list(pair) for name, pair in found.versions.items()},
        "left_out": list(found.left_out),
    }
