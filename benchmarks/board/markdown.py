"""The board as Markdown: one table per task, then what its rows say besides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from medgraft.benchmarks.board.adapters import HEADS, adapter_rows, without_dashes
from medgraft.benchmarks.board.columns import KEPT, cells_of_row, numbers_shown, speaking
from medgraft.benchmarks.board.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.board.external import HEADS as EXTERNAL_HEADS
from medgraft.benchmarks.board.external import tested_rows
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.parts import is_part, part_tables
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.tables.groups import HEADS as GROUP_HEADS
from medgraft.benchmarks.board.tables.groups import group_rows, metrics_by_group
from medgraft.benchmarks.board.tables.probabilities import HEADS as PROBABILITY_HEADS
from medgraft.benchmarks.board.tables.probabilities import probability_rows
from medgraft.benchmarks.board.tables.sites import EXPLAINED as OF_SITES
from medgraft.benchmarks.board.tables.sites import site_heads, site_rows
from medgraft.benchmarks.board.text import prose_without_paths, with_interval, without_paths
from medgraft.benchmarks.cohorts.tables.tabular import baseline_lines
from medgraft.benchmarks.fairness.basis import why_apart
from medgraft.benchmarks.kernels.results import section
from medgraft.benchmarks.metrics.intervals import FEW
from medgraft.benchmarks.suite.text import suite_markdown
from medgraft.commands.plain_text import markdown_code, markdown_text, one_line
from medgraft.errors import ConfigError

WIDEST = 12
"""Numbers beside each other in a table of further ones; texts are judged by three times as many."""

PHANTOM_NOTE = (
    "**PHANTOM**: rows marked so were measured on generated cohorts. They show that the machinery works and how "
    "adapters compare under known conditions; they are no clinical evidence and replicate no paper."
)


def markdown(rows: Sequence[BoardRow], options: BoardOptions) -> str:
    """The board as Markdown: one table of means per task, then F1 and AUC per class, and the operations at the end.

    Args:
        rows: See :func:`board_rows`.
        options: What it shows beside them.

    Raises:
        ConfigError: No row has one of the further metrics.
    """
    numbers = {name for row in rows for name in row.metrics} | (metrics_by_group(rows) if options.groups else set())
    if unknown := [name for name in options.also if name not in numbers]:
        raise ConfigError(f"no result has the metric {unknown[0]!r}; they have {', '.join(sorted(numbers))}")
    lines = ["# Leaderboard", "", f"Made by {markdown_code(without_paths(options.command))}.", ""]
    lines += [
        "Numbers are means over seeds; brackets hold 95% intervals over test subjects and, where a row has "
        "several, seeds. They hold what other subjects of the same population and other seeds would change, and not "
        f"another cohort, split or choice of options. With fewer than {FEW} test subjects of a class (*few subjects*, "
        "with their number) some are too narrow: with three, a 95% interval of balanced accuracy holds the truth in "
        "nine of ten test sets. "
        "`train/s` and `infer/s` "
        "are samples per second (training from the cached frozen prefix, inference from prepared inputs), `tokens/s` "
        "those of texts in decoding, `step MB` is the peak of allocated tensors in one training step. "
        "Rows of one task are ranked by its primary metric. "
        "Rows share a rank unless the data separate one of them from a better one: paired differences over subjects "
        "and seeds, by Holm's procedure over the table. Brackets after a rank hold the ranks that the data allow; all "
        "of a table hold together in 95%. `marks` names rows that were tuned, scaled or trained "
        "longer than their recipe says; a speed with a star was measured on other hardware than most of its column.",
        "",
    ]
    if any(row.first.phantom for row in rows):
        lines += [PHANTOM_NOTE, ""]
    lines += suite_markdown(options.suites)
    tasks: dict[tuple[bool, str, str, str], list[BoardRow]] = defaultdict(list)
    for row in rows:
        tasks[row.section].append(row)
    reasons = why_apart(rows)
    for section_key, members in tasks.items():
        lines += _task_section(members, options.also, options.margin, reasons.get(section_key, ""))
        lines += _external_section(members)
        if table := probability_rows(members):
            heads, cells = without_dashes(PROBABILITY_HEADS, table)
            lines += ["Probabilities and conformal sets:", "", *_as_markdown(cells, heads)]
        if table := site_rows(members):
            heads, cells = without_dashes(site_heads(speaking(members).primary), table)
            lines += [OF_SITES, "", *_as_markdown(cells, heads)]
        for metric in dict.fromkeys([speaking(members).primary, *options.also]) if options.groups else ():
            if table := group_rows(members, metric):
                lines += [
                    f"By groups of test subjects, {markdown_code(metric)}:",
                    "",
                    *_as_markdown(table, GROUP_HEADS),
                ]
    if rows:
        heads, cells = without_dashes(HEADS, adapter_rows([row.first for row in rows]))
        lines += ["Adapters and how they were trained:", "", *_as_markdown(cells, heads)]
    lines += section(options.operations)
    return "\n".join(lines) + "\n"


def _beside_full(members: Sequence[BoardRow], margin: float) -> list[str]:
    """Rows beside full fine-tuning of the same encoder: gain, share of its parameters, and whether the margin holds."""
    rows = [
        [
            row.first.spec.encoder,
            row.adapter,
            with_interval((found.gain, found.low, found.high)),
            "-" if found.trainable is None else f"{found.trainable:.2%}",
            "yes" if found.within(margin) else "not shown",
        ]
        for row in members
        if (found := row.beside_full) is not None
    ]
    heads = ["encoder", "adapter", "gain over full fine-tuning", "of its trainable", f"worse by less than {margin:g}"]
    return ["Beside full fine-tuning, on the same subjects:", "", *_as_markdown(rows, heads)] if rows else []


def _unranked(members: Sequence[BoardRow]) -> list[str]:
    """Rows without a rank, or with a wide interval of it, and why."""
    said: dict[str, list[str]] = defaultdict(list)
    for row in members:
        if row.standing_note:
            said[row.standing_note].append(f"{row.first.spec.encoder} / {row.adapter}")
    lines = [f"- {markdown_text(one_line(f'{_some(names)}: {note}', 500))}" for note, names in said.items()]
    return ["Of ranks:", "", *lines, ""] if lines else []


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more rows" if len(names) > most else "")


def _fallbacks(members: Sequence[BoardRow]) -> list[str]:
    """One line per operation that was to be fused and did not always run so, with the reason."""
    lines: dict[str, None] = {}
    for row in members:
        for op, uses in row.first.ops.items():
            total = sum(use.calls for use in uses)
            for use in uses:
                if use.reason:
                    share = f"{use.calls} of {total} calls"
                    text = f"{row.adapter}, {op}: {use.form} in {share} (asked for {use.asked}): {use.reason}"
                    lines[f"- {markdown_text(text)}"] = None
    return ["Operations that did not run fused:", "", *lines, ""] if lines else []


def _failures(members: Sequence[BoardRow]) -> list[str]:
    """One line per cell that did not succeed: how it ended, why, and where its log is in the results folder."""
    lines = []
    for row in members:
        for cell in row.cells:
            if cell.status != "success":
                log = f" (log {markdown_code(cell.log)})" if cell.log else ""
                name = f"{row.first.spec.encoder} / {row.adapter} seed {cell.spec.seed}"
                message = prose_without_paths(one_line(cell.message, 300))
                lines.append(f"- {markdown_text(f'{name}: {cell.status}: {message}')}{log}")
    return ["Cells that did not succeed:", "", *lines, ""] if lines else []


def _as_markdown(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """A table and an empty line; markup in a cell, as the bar in ``pair:a|b``, is shown and not followed."""
    escaped = [[markdown_text(str(cell)) for cell in row] for row in rows]
    return [
        pd.DataFrame(escaped, columns=[markdown_text(head) for head in heads]).to_markdown(
            index=False, disable_numparse=True
        ),
        "",
    ]


def _task_section(members: Sequence[BoardRow], also: Sequence[str], margin: float, apart: str = "") -> list[str]:
    spec = members[0].first.spec
    mark = " (PHANTOM)" if members[0].first.phantom else ""
    speaker = speaking(members)
    data = speaker.data
    facts = [f"Cohort revision {markdown_code(spec.cohort.revision)}"]
    if spec.task_options:
        options = ", ".join(f"{name} {value}" for name, value in spec.task_options.items())
        facts.append(f"options {markdown_text(options)}")
    if data.get("splits"):
        facts += [
            f"{markdown_text(name)} {n['samples']} samples of {n['subjects']} subjects"
            for name, n in data["splits"].items()
        ]
        facts.append(f"split {markdown_code(data.get('split_hash', '')[:12])}")
    if data.get("generator"):
        facts.append(f"generator {markdown_text(data['generator'])}")
    if data.get("bayes_f1_macro") is not None:
        facts.append(f"Bayes-optimal F1 macro {data['bayes_f1_macro']:.3f}")
    ranked = f"Ranked by {markdown_code(speaker.primary)}."
    lines = [f"## {markdown_text(members[0].title)}", "", f"{'; '.join(facts)}. {ranked}", ""]
    if apart:
        lines += [markdown_text(one_line(apart, 1000)), ""]
    if notes := dict.fromkeys(note for row in members for note in row.notes):
        lines += [f"Of the data: {markdown_text(prose_without_paths('; '.join(notes)))}.", ""]
    numbers = numbers_shown(speaker)
    rows = [cells_of_row(row, numbers) for row in members]
    keep = KEPT if any(row.metrics for row in members) else tuple(rows[0])
    heads, cells = without_dashes(tuple(rows[0]), [list(row.values()) for row in rows], keep)
    lines += _as_markdown(cells, heads)
    named = _further(members[0], numbers, also)
    for some in (named[i : i + WIDEST] for i in range(0, len(named), WIDEST)):
        further = [
            [row.first.spec.encoder, row.adapter, *(with_interval(row.metrics.get(name)) for name in some)]
            for row in members
            if row.metrics
        ]
        heads = ["encoder", "adapter", *(f"{name}{mark}" for name in some)]
        lines += _as_markdown(further, heads)
    for heads, cells in part_tables(members):
        lines += ["Part by part:", "", *_as_markdown(cells, [*heads[:3], *(f"{name}{mark}" for name in heads[3:])])]
    lines += _beside_full(members, margin)
    lines += _unranked(members)
    lines += _fallbacks(members)
    lines += _failures(members)
    if reports := [
        [row.first.spec.encoder, row.adapter, *diagnostics]
        for row in members
        if (diagnostics := diagnostic_cells(row.cells))
    ]:
        heads, reports = without_dashes(["encoder", "adapter", *DIAGNOSTIC_COLUMNS], reports)
        lines += _as_markdown(reports, heads)
    classes = [name.removeprefix("f1_") for name in members[0].metrics if name.startswith("f1_")]
    classes = [name for name in classes if name not in ("macro", "weighted")]
    if classes:
        table = [
            [row.first.spec.encoder, row.adapter]
            + [with_interval(row.metrics.get(f"{kind}_{name}")) for name in classes for kind in ("f1", "auc")]
            for row in members
            if row.metrics
        ]
        heads = ["encoder", "adapter", *(f"{kind} {name}{mark}" for name in classes for kind in ("F1", "AUC"))]
        lines += _as_markdown(table, heads)
    return lines + baseline_lines(data.get("table_baselines", {}))


def _external_section(members: Sequence[BoardRow]) -> list[str]:
    """Grafts of the task on other cohorts, and what a reader must know of these."""
    tests = tested_rows(members)
    if not tests:
        return []
    lines = ["On other cohorts, beside the test split at home, on the classes that both have:", ""]
    lines += _as_markdown([test.cells() for test in tests], EXTERNAL_HEADS)
    if remarks := dict.fromkeys(remark for test in tests for remark in test.remarks()):
        lines += [*(f"- {markdown_text(one_line(remark, 500))}" for remark in remarks), ""]
    return lines


def _further(row: BoardRow, numbers: Sequence[str], also: Sequence[str]) -> list[str]:
    """Overall metrics that the first table has no column for: the task's variants, an objective's others, those asked.

    Of classes, only variants: theirs by class have a table of their own, as have numbers by part.
    """
    classes = "f1_macro" in row.metrics
    further = row.first.data.get("variants", ()) if classes else [name for name in row.metrics if name not in numbers]
    named = [name for name in row.metrics if name in further and not is_part(name)]
    return named + [name for name in also if name in row.metrics and name not in named]
