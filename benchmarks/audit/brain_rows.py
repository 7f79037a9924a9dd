"""The numbers of ``docs/brain.md``: read from folders of results, kept as JSON, shown as tables.

``docs/brain.json`` holds what the tables show, unrounded, so that a page can be held to its numbers where the results
that they come from are no longer at hand. Everything is a field of
:class:`~medgraft.benchmarks.results.result.CellResult`, or an interval that a board makes of several seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks.board.columns import HEADINGS
from medgraft.benchmarks.board.rows import BoardRow, board_rows, median
from medgraft.benchmarks.board.text import count
from medgraft.benchmarks.results.result import CellResult

Triple = tuple[float | None, float | None, float | None]
TITLES = {
    **HEADINGS,
    "subject_f1_macro": "F1 of subjects",
    "r1_anchor": "R@1 with T1",
    "r1_anchor_chance": "guessing",
    "r1_anchor_confounds": "by age, sex, site, head size",
    "r1_emergent": "R@1 PET and diffusion",
    "r1_emergent_chance": "guessing, PET and diffusion",
    "r1_emergent_confounds": "by age ..., PET and diffusion",
    "probe_common": "diagnosis, common part",
    "probe_specific": "specific part",
    "probe_both": "both",
}
"""Number -> heading of its column."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(_Model):
    """A row: an encoder with an adapter, all seeds; or what a regression without an encoder reaches.

    Attributes:
        task: Name of the task.
        encoder: Name of the encoder; empty for a regression.
        adapter: Name of the adapter, or of the regression.
        seeds: How many; 0 for a regression, which has none.
        epochs: Passes over the training samples, 0 for what is fitted and not trained.
        metrics: Number -> mean over seeds and the ends of its 95% interval over test subjects and seeds.
        trainable: Trainable parameters, head included.
        step_bytes: Peak of allocated tensors in a training step.
        train_rate: Samples a second in training, from the cached prefix.
        infer_rate: Samples a second of the whole model, nothing cached.
        flops: Floating-point operations of a sample's forward pass, which no other work on the machine changes.
        stages: Stages that are computed once, and all stages.
    """

    task: str
    encoder: str
    adapter: str
    seeds: int = 0
    epochs: int = 0
    metrics: dict[str, Triple]
    trainable: int | None = None
    step_bytes: float | None = None
    train_rate: float | None = None
    infer_rate: float | None = None
    flops: float | None = None
    stages: tuple[int, int] | None = None


class Saving(_Model):
    """What the cache saves of an encoder that is frozen as a whole.

    Attributes:
        encoder: Its name.
        parameters: Frozen parameters.
        samples: That went through it.
        cold: Seconds in which a cell ran it on all samples and kept what came out.
        warm: Median of the seconds in which later cells found that.
        later: How many these were.
        kept_bytes: What is kept, on disk.
    """

    encoder: str
    parameters: int
    samples: int
    cold: float
    warm: float
    later: int
    kept_bytes: int


class Table(_Model):
    """A part of the page.

    Attributes:
        title: Its heading.
        commands: What makes its results, in the order in which they run.
        numbers: Metrics that are shown.
        lines: Rows, the best first, of the first metric.
        splits: Split -> samples and subjects.
        best: What the best classifier of the phantom reaches, by number; empty where its generator does not say.
        savings: By encoder.
    """

    title: str
    commands: tuple[str, ...]
    numbers: tuple[str, ...]
    lines: tuple[Line, ...]
    splits: dict[str, tuple[int, int]]
    best: dict[str, float | str]
    savings: tuple[Saving, ...]


class Page(_Model):
    """``docs/brain.json``.

    Attributes:
        made: Day, versions and machine, a sentence.
        tables: Name of a part -> its table, in the order of the page.
    """

    made: str
    tables: dict[str, Table]


def read_table(title: str, commands: Sequence[str], numbers: Sequence[str], folders: Iterable[Path]) -> Table:
    """A part of the page from its results.

    Args:
        title: Heading.
        commands: That made the results.
        numbers: Metrics to show, the first is the one that rows are ordered by.
        folders: Of results.

    Raises:
        MedgraftError: A folder does not exist.
    """
    rows = [row for row in board_rows(folders) if row.metrics]
    cells = [cell for row in rows for cell in row.cells if cell.status == "success"]
    lines = [_line(row, numbers) for row in rows]
    data = cells[0].data
    beside = [_regression(rows[0].first.spec.task, name, facts, numbers) for name, facts in _baselines(data)]
    beside = [line for line in beside if line.metrics]  # one of the diagnosis says nothing of retrieval
    order = sorted([*lines, *beside], key=lambda line: -(line.metrics.get(numbers[0], (None,))[0] or 0.0))
    return Table(
        title=title,
        commands=tuple(commands),
        numbers=tuple(numbers),
        lines=tuple(order),
        splits={name: (each["samples"], each["subjects"]) for name, each in data["splits"].items()},
        best=_best(data),
        savings=tuple(savings(cells)),
    )


def _line(row: BoardRow, numbers: Sequence[str]) -> Line:
    spec, cost = row.first.spec, row.first.efficiency
    stages = next(iter(cost.cached_stage.values()), None) if cost and len(cost.cached_stage) == 1 else None
    return Line(
        task=spec.task,
        encoder=spec.encoder,
        adapter=row.adapter,
        seeds=len(row.cells),
        epochs=spec.train.epochs if row.first.training.get("steps") else 0,
        metrics={name: row.metrics[name] for name in numbers if name in row.metrics},
        trainable=sum(cost.trainable.values()) if cost else None,
        step_bytes=median(row, "train_step_peak_bytes"),
        train_rate=median(row, "train_samples_per_s"),
        infer_rate=median(row, "inference_samples_per_s"),
        flops=median(row, "forward_flops"),
        stages=stages,
    )


def _baselines(data: Mapping[str, object]) -> list[tuple[str, Mapping[str, list[float | None]]]]:
    found = data.get("table_baselines", {})
    assert isinstance(found, Mapping)
    return [(name, facts) for name, facts in found.items() if "unavailable" not in facts]


def _regression(task: str, name: str, facts: Mapping[str, list[float | None]], numbers: Sequence[str]) -> Line:
    """A regression without an encoder; it has no seed."""
    metrics = {number: (*facts[number],) for number in numbers if number in facts}
    return Line(task=task, encoder="", adapter=name, metrics=metrics)  # pyright: ignore[reportArgumentType]


def _best(data: Mapping[str, object]) -> dict[str, float | str]:
    """What a phantom says of its best classifier, flat."""
    found = {name.removeprefix("bayes_"): value for name, value in data.items() if name.startswith("bayes_")}
    nested = data.get("bayes")
    found |= nested if isinstance(nested, Mapping) else {}
    return {name: value for name, value in found.items() if isinstance(value, float | int | str)}


def savings(cells: Sequence[CellResult]) -> list[Saving]:
    """What the cache saved, of each encoder that some cell ran as a whole and later ones found.

    Args:
        cells: Of one part.
    """
    built: dict[str, CellResult] = {}
    found: dict[str, list[CellResult]] = {}
    for cell in cells:
        cost = cell.efficiency
        if cost is None or any(stage < stages for stage, stages in cost.cached_stage.values()):
            continue
        kept = [each for each in cell.cache["entries"] if each["kind"] in ("prefix", "condensed")]
        if kept and not any(each["hit"] for each in kept):
            built[cell.spec.encoder] = cell
        elif kept and all(each["hit"] for each in kept):
            found.setdefault(cell.spec.encoder, []).append(cell)
    return [_saving(cell, found[name]) for name, cell in built.items() if name in found]


def _saving(built: CellResult, found: Sequence[CellResult]) -> Saving:
    assert built.efficiency is not None
    kept = [each for each in built.cache["entries"] if each["kind"] in ("prefix", "condensed")]
    return Saving(
        encoder=built.spec.encoder,
        parameters=built.efficiency.encoder_parameters,
        samples=max(each["samples"] for each in kept),
        cold=built.timing["prefix"],
        warm=statistics.median(cell.timing["prefix"] for cell in found),
        later=len(found),
        kept_bytes=sum(each["size"] for each in kept),
    )


def markdown(page: Page) -> list[str]:
    """The generated part of the page."""
    lines = [page.made, ""]
    for table in page.tables.values():
        lines += [f"### {table.title}", "", *_commands(table.commands), "", _splits(table), "", *_rows(table), ""]
    saved = [(table.title, each) for table in page.tables.values() for each in table.savings]
    return [*lines, "### What the cache saves", "", *_saved(saved)] if saved else lines[:-1]


def _commands(commands: Sequence[str]) -> list[str]:
    return [f"- `{command}`" for command in commands]


def _splits(table: Table) -> str:
    parts = [f"{name} {samples} samples of {subjects} people" for name, (samples, subjects) in table.splits.items()]
    best = ", ".join(
        f"{TITLES.get(name, name)} {value if isinstance(value, str) else f'{value:.3g}'}"
        for name, value in table.best.items()
    )
    return f"{'; '.join(parts)}.{f' The best classifier of this phantom: {best}.' if best else ''}"


def _rows(table: Table) -> list[str]:
    several = len({line.task for line in table.lines}) > 1
    heads = [*(["task"] if several else []), "encoder", "adapter", *(TITLES.get(name, name) for name in table.numbers)]
    heads += ["trainable", "step, MB", "train/s", "infer/s", "MFLOP", "cached", "epochs", "seeds"]
    rows = [
        [
            *([f"`{line.task}`"] if several else []),
            f"`{line.encoder}`".replace("|", r"\|") if line.encoder else "none",
            f"`{line.adapter}`" if line.encoder else line.adapter,
            *(_interval(line.metrics.get(name)) for name in table.numbers),
            count(line.trainable) if line.encoder else "",
            "" if line.step_bytes is None else f"{line.step_bytes / 1e6:.3g}",
            _rate(line.train_rate),
            _rate(line.infer_rate),
            "" if line.flops is None else f"{line.flops / 1e6:.3g}",
            "" if line.stages is None else f"{line.stages[0]} of {line.stages[1]}",
            str(line.epochs) if line.encoder else "",
            str(line.seeds) if line.encoder else "",
        ]
        for line in table.lines
    ]
    return _as_table(heads, rows)


def _saved(saved: Sequence[tuple[str, Saving]]) -> list[str]:
    heads = [
        "",
        "frozen encoder",
        "parameters",
        "samples",
        "computed, s",
        "found, s",
        "ratio",
        "kept, MB",
        "later cells",
    ]
    rows = [
        [
            title,
            f"`{each.encoder}`".replace("|", r"\|"),
            count(each.parameters),
            str(each.samples),
            f"{each.cold:.3g}",
            f"{each.warm:.2g}",
            f"{each.cold / each.warm:.0f}" if each.warm else "",
            f"{each.kept_bytes / 1e6:.2g}",
            str(each.later),
        ]
        for title, each in sorted(saved, key=lambda one: -one[1].cold / max(one[1].warm, 1e-3))
    ]
    return _as_table(heads, rows)


def _as_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]


def _interval(triple: Triple | None) -> str:
    """A number with its interval, short: ``0.818 [.60-.93]``."""
    if triple is None or triple[0] is None:
        return ""
    value, low, high = triple
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{_end(low)}-{_end(high)}]"


def _end(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if 0 <= value < 0.995 else f"{value:.2f}"


def _rate(value: float | None) -> str:
    return "" if value is None else count(float(f"{value:.2g}"))
