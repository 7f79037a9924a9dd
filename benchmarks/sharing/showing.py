"""One row or cell on the terminal: what it reached, for whom, at what cost, how, and where it is from."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgraft.benchmarks.board.adapters import recipe, title
from medgraft.benchmarks.board.columns import numbers_shown
from medgraft.benchmarks.board.rows import BoardRow, median
from medgraft.benchmarks.board.tables.groups import HEADS as GROUP_HEADS
from medgraft.benchmarks.board.tables.groups import group_rows
from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.board.text import count, with_interval
from medgraft.benchmarks.external.results import external_beside
from medgraft.benchmarks.metrics.weighted import slug
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import KEPT
from medgraft.benchmarks.sharing.finding import Found, name_of
from medgraft.commands.plain_text import one_line
from medgraft.options import as_text

LOSSES = 6
"""Epochs whose losses are shown; of more, the first and the last ones."""


def show(found: Found, console: Console) -> None:
    """Shows a row, or a single cell.

    Args:
        found: The row.
        console: The terminal.
    """
    row = found.row
    cell = row.first
    console.print(Text(name_of(row), style="bold"), soft_wrap=True)
    for line in _standing(found):
        say(console, line)
    if row.metrics:
        _metrics(row, console)
        if table := group_rows([row]):
            _table(console, f"{cell.primary} by groups", GROUP_HEADS[2:], [cells[2:] for cells in table])
    for heading, facts in (
        ("cost", _costs(row)),
        ("training", _training(row)),
        ("data", _data(cell)),
        ("made by", _provenance(found)),
        ("files", _files(found)),
    ):
        _facts(console, heading, dict(facts))
    say(console, f"to run it again: {command_of(found.results[0].path)}")


def command_of(path: Path) -> str:
    """The command that runs the cell of a result again and compares."""
    return shlex.join(["medgraft", "reproduce", str(path)])


def _standing(found: Found) -> Iterator[str]:
    row = found.row
    seeds = ", ".join(str(each.cell.spec.seed) for each in found.results)
    yield f"{row.status}; {'seeds' if len(found.results) > 1 else 'seed'} {seeds}"
    if row.first.phantom:
        yield "PHANTOM: measured on generated data; it says nothing about people"
    for each in found.results:
        if each.unverified:
            yield f"seed {each.cell.spec.seed} is unverified: {each.unverified}"
        if each.cell.status != "success":
            log = f" (log: {each.path.with_suffix('.log').name})" if each.cell.log else ""
            yield f"seed {each.cell.spec.seed}: {each.cell.status}: {each.cell.message}{log}"
    if row.warning:
        yield f"{row.warning} in the test split; intervals are too narrow"
    yield from (note for note in row.notes)


def _metrics(row: BoardRow, console: Console) -> None:
    by_class, overall = metrics_by_class(row)
    first = [name for name in numbers_shown(row.first) if name in overall]
    names = dict.fromkeys([row.first.primary, *first, *overall])
    named = [name for name in names if name in overall]
    mark = " (PHANTOM)" if row.first.phantom else ""
    estimate = row.first.metrics[row.first.primary]
    title = f"metrics{mark}, {estimate.n} test samples of {estimate.n_subjects} subjects, 95% intervals"
    cells = [[f"{name} *" if name == row.first.primary else name, with_interval(row.metrics[name])] for name in named]
    _table(console, title, ("metric (* ranked by)", "value"), cells)
    if by_class:
        kinds = list(dict.fromkeys(kind for numbers in by_class.values() for kind in numbers))
        cells = [
            [name, *(with_interval(numbers.get(kind)) for kind in kinds[:4])] for name, numbers in by_class.items()
        ]
        _table(console, "by class", ("class", *kinds[:4]), cells)
        if kinds[4:]:
            cells = [[name, *(with_interval(numbers.get(k)) for k in kinds[4:])] for name, numbers in by_class.items()]
            _table(console, "", ("class", *kinds[4:]), cells)


Number = tuple[float | None, float | None, float | None]


def metrics_by_class(row: BoardRow) -> tuple[dict[str, dict[str, Number]], dict[str, Number]]:
    """The metrics of each class by kind (``f1``, ``auc``), and those that are of no class."""
    ends = {f"_{slug(name)}": name for name in row.first.data.get("classes", ())}
    by_class: dict[str, dict[str, Number]] = {name: {} for name in ends.values()}
    overall: dict[str, Number] = {}
    for name, number in row.metrics.items():
        end = max((each for each in ends if name.endswith(each)), key=len, default="")
        if end:
            by_class[ends[end]][name.removesuffix(end)] = number
        else:
            overall[name] = number
    return {name: numbers for name, numbers in by_class.items() if numbers}, overall


def _costs(row: BoardRow) -> Iterator[tuple[str, str]]:
    costs = row.first.efficiency
    if costs is None or not costs.trainable:
        return
    total, parts = sum(costs.trainable.values()), costs.trainable
    share = f", {total / costs.encoder_parameters:.2%} of the encoder's" if costs.encoder_parameters else ""
    yield "trainable", f"{count(total)} ({', '.join(f'{name} {count(n)}' for name, n in parts.items())}){share}"
    yield "frozen", f"{count(costs.encoder_parameters)} parameters of the encoder"
    for name, head, unit in (
        ("forward_flops", "forward pass", "FLOPs a sample"),
        ("train_samples_per_s", "training", "samples/s"),
        ("inference_samples_per_s", "inference", "samples/s"),
        ("generated_tokens_per_s", "decoding", "tokens/s"),
    ):
        if (value := median(row, name)) is not None:
            yield head, f"{count(float(f'{value:.3g}'))} {unit}"
    for name, head in (("train_step_peak_bytes", "training step"), ("process_peak_bytes", "whole process")):
        if (value := median(row, name)) is not None:
            yield head, f"{value / 2**20:,.0f} MiB at the peak"
    yield "shared with", f"{costs.concurrent_jobs} worker{'s' if costs.concurrent_jobs > 1 else ''} on the machine"
    times = ", ".join(f"{step} {seconds:.1f}" for step, seconds in row.first.timing.items())
    if times:
        yield "seconds", times


def _training(row: BoardRow) -> Iterator[tuple[str, str]]:
    cell = row.first
    spec = cell.spec
    yield "recipe", recipe(cell)
    if spec.adapter_options:
        yield "options", _options(spec.adapter_options)
    yield "runs as", f"{spec.backend}, {spec.precision}, {spec.device}, {spec.threads} thread{'s' * (spec.threads > 1)}"
    losses = [f"{loss:.3g}" for loss in cell.training.get("epoch_loss", ()) if isinstance(loss, float | int)]
    if losses:
        half = LOSSES // 2
        shown = losses if len(losses) <= LOSSES else [*losses[:half], "…", *losses[-half:]]
        yield "loss by epoch", ", ".join(shown)
    for name, facts in cell.adapters.items():
        if coverage := facts.get("coverage"):
            yield f"{name} at", ", ".join(f"{pattern} {hits}" for pattern, hits in coverage.items())


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {as_text(value)}" for name, value in options.items())


def _data(cell: CellResult) -> Iterator[tuple[str, str]]:
    spec = cell.spec
    yield "cohort", f"{spec.cohort.name}, revision {spec.cohort.revision}"
    if splits := cell.data.get("splits"):
        parts = [f"{name} {n['samples']} samples of {n['subjects']} subjects" for name, n in splits.items()]
        yield "splits", "; ".join(parts)
    if split := cell.data.get("split_hash"):
        yield "split hash", split
    if spec.task_options:
        yield "task options", _options(spec.task_options)
    if cell.data.get("generator"):
        yield "generator", str(cell.data["generator"])
    weights = spec.encoder_weights or cell.encoder.get("weights")
    saw = "; pre-training saw this cohort" if cell.encoder.get("saw_this_cohort") else ""
    yield "encoder", f"{spec.encoder}, weights {weights}{saw}"


def _provenance(found: Found) -> Iterator[tuple[str, str]]:
    cell = found.row.first
    if named := title(cell):
        papers = [str(facts["paper"]) for facts in cell.adapters.values() if facts.get("paper")]
        yield "method", f"{named}{f' ({papers[0]})' if papers else ''}"
    for each in cell.plugins:
        yield each["kind"], f"{each['name']} of {each['distribution']} {each['version']}"
    for text in dict.fromkeys(environment_of(each.cell) for each in found.results if each.cell.env):
        yield "environment", text
    yield "numbers version", str(cell.spec.numbers_version)


def environment_of(cell: CellResult) -> str:
    """Machine and versions that made a result, in a line."""
    env = cell.env
    packages = {name: version for name, version in (env.get("packages") or {}).items() if name in ("medgraft", "torch")}
    commit = (
        f"commit {str(env['commit'])[:10]}{' with changes' if env.get('dirty') else ''}" if env.get("commit") else ""
    )
    parts = [
        env.get("gpu") or env.get("cpu"), env.get("cpu_capability"), f"Python {env.get('python')}",
        *(f"{name} {version}" for name, version in packages.items()), commit,
    ]  # fmt: skip
    return ", ".join(str(part) for part in parts if part)


def _files(found: Found) -> Iterator[tuple[str, str]]:
    for each in found.results:
        path = each.path
        beside = [ending for ending in (".npz", ".log", KEPT) if path.with_suffix(ending).exists()]
        tests = [test.result.tested.task for test in external_beside([path]).get(path, [])]
        more = [*(f"KEY{ending}" for ending in beside), *(f"a test on {task}" for task in tests)]
        yield f"seed {each.cell.spec.seed}", f"{path}{f' (and {chr(44).join(more)})' if more else ''}"


def _facts(console: Console, heading: str, facts: Mapping[str, str]) -> None:
    """Lines of ``name  value`` under a heading."""
    if not facts:
        return
    console.print(Text(heading, style="bold"))
    width = max(len(one_line(name)) for name in facts) + 2
    for name, value in facts.items():
        line = one_line(value)
        room = max(20, console.width - width - 2)
        parts = textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
        parts = parts if console.is_terminal else [line]
        for i, part in enumerate(parts):
            start = one_line(name) if i == 0 else ""
            console.print(f"  {start:<{width}}{part}", markup=False, highlight=False, soft_wrap=True)


def _table(console: Console, heading: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 2))
    for head in heads:
        table.add_column(Text(one_line(head)), overflow="fold")
    for cells in rows:
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    if heading:
        console.print(Text(one_line(heading), style="bold"), soft_wrap=True)
    console.print(table)
