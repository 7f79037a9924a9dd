"""What language models wrote, beside what they were shown and what holds: a page in Markdown with pictures.

The samples are the first of the test split with an image of their own, so nobody has chosen them, and the texts stand
there as they came out. What is said of a text is what the metrics count, see
:mod:`medgraft.benchmarks.metrics.texts.clinical.judging`.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medgraft.benchmarks.board.drawn.embedding import cohort_root
from medgraft.benchmarks.metrics.texts.clinical.judging import Verdict, judge
from medgraft.benchmarks.metrics.texts.clinical.truth import TRUTH, Truth, truth_of_json, truth_of_report
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE
from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, read_arrays
from medgraft.benchmarks.texts.table import has_texts, table_of
from medgraft.errors import DataError, MedgraftError
from medgraft.task import TaskData
from medgraft.task.names import build_task

HEIGHT, STRIP, WIDTH = 224, 112, 896
"""Pixels: height of an image, height of a strip of slices, and the most that either is wide."""

AXIAL = (0.35, 0.45, 0.55, 0.65)
"""Where a volume is cut, from its lower to its upper end."""


@dataclass(frozen=True)
class Written:
    """A result and its texts.

    Attributes:
        name: By which the page calls it.
        cell: The result.
        table: See :func:`medgraft.benchmarks.texts.table.table_of`.
    """

    name: str
    cell: CellResult
    table: pd.DataFrame


def read_written(paths: Sequence[Path]) -> list[Written]:
    """Results with their texts, all on the same test samples.

    Raises:
        MedgraftError: One cannot be read, failed, has no generated texts, or is of other samples than the first.
    """
    found: list[tuple[CellResult, pd.DataFrame]] = []
    for path in paths:
        try:
            cell = read_result(path)
            arrays = read_arrays(path.with_suffix(".npz")) if cell.status == "success" else {}
        except UnreadableError as error:
            raise MedgraftError(f"{path}: {error}") from error
        if not has_texts(arrays):
            raise MedgraftError(f"{path} is a result of {cell.spec.task} ({cell.status}) and holds no generated texts")
        found.append((cell, table_of(arrays)))
    if not found:
        raise MedgraftError("no result is named; name JSON files of results with generated texts")
    first, table = found[0]
    for path, (cell, other) in zip(paths, found, strict=True):
        same = cell.spec.task == first.spec.task and cell.data.get("split_hash") == first.data.get("split_hash")
        if not same or list(other[REFERENCE]) != list(table[REFERENCE]):
            raise MedgraftError(f"{path} is of other test samples than {paths[0]}; make a page of each")
    return [Written(name, *each) for name, each in zip(names_of([cell for cell, _ in found]), found, strict=True)]


def names_of(cells: Sequence[CellResult]) -> list[str]:
    """The adapter of each result, with those of its options, encoder and seed that are not the same in all."""
    shared = [{"encoder": cell.spec.encoder, "seed": cell.spec.seed, **cell.spec.task_options} for cell in cells]
    own = [_flat(cell.spec.adapter_options) for cell in cells]
    names = []
    for cell, facts, options in zip(cells, shared, own, strict=True):
        alike = [other for one, other in zip(cells, own, strict=True) if one.spec.adapter == cell.spec.adapter]
        told = [*_differing(facts, shared), *_differing(options, alike)]
        names.append(f"{cell.spec.adapter} ({', '.join(told)})" if told else cell.spec.adapter)
    return names


def _differing(facts: Mapping[str, Any], of_all: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{name} {value}" for name, value in facts.items() if len({str(each.get(name)) for each in of_all}) > 1]


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def rows_of(table: pd.DataFrame, data: TaskData) -> np.ndarray:
    """Which sample of the task's data each row of a table of texts is, ``int64 [n]``; -1 where that cannot be told.

    Rows are those of the test split in its order. Samples that could not be read or were beyond ``--limit`` have none;
    then a row is told by its reference alone, where no other test sample has the same.

    Raises:
        DataError: The rows are not of these data.
    """
    test = data.splits["test"]
    said = [str(text).strip() for text in table[REFERENCE]]
    meant = [str(data.columns[REFERENCE][i]).strip() for i in test]
    if len(said) == len(meant):
        rows = test if said == meant else None
    else:
        places: dict[str, list[int]] = {}
        for place, text in zip(test.tolist(), meant, strict=True):
            places.setdefault(text, []).append(place)
        found = [places.get(text, []) for text in said]
        rows = np.array([each[0] if len(each) == 1 else -1 for each in found]) if all(found) else None
    if rows is None:
        raise DataError("the texts are not of these data: their references are not those of its test split")
    return rows.astype(np.int64)


def chosen(rows: np.ndarray, subjects: np.ndarray, count: int) -> list[int]:
    """Numbers of the first ``count`` rows of different people.

    Args:
        rows: Sample of each row, ``int64 [n]``; -1 where that is not known, and the row is passed over.
        subjects: Of each sample.
        count: Rows wanted.
    """
    seen: set[str] = set()
    taken: list[int] = []
    for number, row in enumerate(rows.tolist()):
        if row >= 0 and len(taken) < count and str(subjects[row]) not in seen:
            seen.add(str(subjects[row]))
            taken.append(number)
    return taken


def write_texts_page(paths: Sequence[Path], out: Path, data: Mapping[str, str], count: int = 12) -> Path:
    """Writes the page, and its pictures into a folder of the page's name beside it.

    Args:
        paths: JSON files of results on the same test samples; predictions lie beside them.
        out: The Markdown file.
        data: Cohort -> folder, for real ones.
        count: Samples shown.

    Returns:
        The page.

    Raises:
        MedgraftError: See :func:`read_written`; the cohort is not here, or nothing can be written.
    """
    written = read_written(paths)
    spec = written[0].cell.spec
    task = build_task(spec.task, spec.task_options)
    loaded = task.load(cohort_root(spec, data))
    rows = rows_of(written[0].table, loaded)
    (modality, raw), *_ = ((name, each) for name, each in loaded.inputs.items() if name != "text")
    pictures = out.with_suffix("")
    parts = [_head(written, modality)]
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        for place, number in enumerate(chosen(rows, loaded.subjects, count), 1):
            name = f"{place:02d}.png"
            (pictures / name).write_bytes(as_png(shown(np.asarray(raw.read(int(rows[number])))), spec.cohort.phantom))
            parts.append(_sample(place, f"{pictures.name}/{name}", written, number))
        out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise MedgraftError(f"the page cannot be written to {out}: {error}; choose another --out") from error
    return out


def shown(raw: np.ndarray) -> np.ndarray:
    """An image as it is, or slices of a volume side by side: ``uint8 [H, W]`` or ``[H, W, 3]``.

    Args:
        raw: ``[H, W]``, ``[H, W, 3]``, or a volume ``[D, H, W]`` whose axes run to the right, the front and the top.
    """
    if raw.ndim == 3 and raw.shape[-1] != 3:
        slices = [raw[:, :, int(raw.shape[2] * share)].T[::-1] for share in AXIAL]
        raw = np.concatenate([*slices, _tall(raw[:, raw.shape[1] // 2].T[::-1], slices[0].shape[0])], axis=1)
    low, high = np.percentile(raw, [0.5, 99.5])
    return (np.clip((raw.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)


def _tall(cut: np.ndarray, height: int) -> np.ndarray:
    """A cut with rows added or cropped at both ends, so that it stands beside others."""
    lack = height - cut.shape[0]
    if lack < 0:
        return cut[-lack // 2 :][:height]
    return np.pad(cut, ((lack // 2, lack - lack // 2), (0, 0)), constant_values=cut.min())


def as_png(picture: np.ndarray, phantom: bool) -> bytes:
    """A picture ``uint8 [H, W]`` or ``[H, W, 3]`` as a small PNG; says in its text whether it is of a phantom."""
    from PIL.PngImagePlugin import PngInfo

    image = Image.fromarray(picture)
    scale = (HEIGHT if image.width < 2 * image.height else STRIP) / image.height
    scale = min(scale, WIDTH / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.LANCZOS)
    told, content = PngInfo(), io.BytesIO()
    told.add_text("Description", "a generated image of no person" if phantom else "an image of a real cohort")
    image.save(content, "PNG", optimize=True, pnginfo=told)
    return content.getvalue()


def _head(written: Sequence[Written], modality: str) -> str:
    cell = written[0].cell
    mark = " (PHANTOM: generated, of no person)" if cell.phantom else ""
    count = len(written[0].table)
    known = TRUTH in written[0].table.columns
    source = "is known to the task, so a reference can be wrong, too" if known else "is what the reference states"
    return "\n".join(
        [
            f"# What was written on {cell.spec.task}{mark}",
            "",
            f"Made by `medgraft texts`. Of {count} test samples the first of different people, each with its "
            f"{modality}, the reference, and what each row wrote, as it came out. An assertion that does not hold is "
            "**made up**; a finding that is there and not named is *missed*. "
            f"What holds {source}.",
        ]
    )


def _sample(place: int, picture: str, written: Sequence[Written], number: int) -> str:
    first = written[0].table.iloc[number]
    report = not str(first.get("kind", ""))
    truth = _truth(first)
    lines = [f"## {place}", "", f"![Test sample {place}]({picture})", "", f"Asked: {_cell(first['prompt'])}", ""]
    said = [("reference", first, REFERENCE), *((each.name, each.table.iloc[number], GENERATED) for each in written)]
    lines += ["| row | text | what of it |", "|---|---|---|"]
    for name, row, column in said:
        told = _verdicts(str(row[column]), truth) if report else _answer(str(row[column]), str(row[REFERENCE]))
        lines.append(f"| {_cell(name)} | {_cell(row[column])} | {told} |")
    return "\n".join(lines)


def _truth(row: pd.Series) -> Truth:
    text = str(row.get(TRUTH, "") or "")
    return truth_of_json(text) if text else truth_of_report(str(row[REFERENCE]))


def _verdicts(text: str, truth: Truth) -> str:
    found = judge(text, truth)
    made_up = [_statement(each) for each in found.verdicts if each.made_up]
    held = sum(each.asserted and not each.made_up for each in found.verdicts)
    wrong = [each.statement.finding for each in found.verdicts if each.denied and each.verdict == "contradicted"]
    denied = ["all findings" if name == NO_FINDING else name for name in wrong]
    parts = [f"{held} held" if held else ""]
    parts += [f"**made up: {'; '.join(made_up)}**" if made_up else ""]
    parts += [f"*missed: {', '.join(sorted(found.missed))}*" if found.missed else ""]
    parts += [f"denied wrongly: {', '.join(denied)}" if denied else ""]
    return ", ".join(filter(None, parts)) or "nothing asserted, nothing missed"


def _statement(each: Verdict) -> str:
    said = each.statement
    size = f"{said.millimetres:g} mm" if said.millimetres is not None else ""
    words = " ".join(filter(None, (said.size, said.side, said.finding, said.place, size)))
    return f"{words} (wrong {' and '.join(each.wrong)})" if each.wrong else words


def _answer(said: str, meant: str) -> str:
    said, meant = (" ".join(text.lower().split()).rstrip(".") for text in (said, meant))
    return "right" if said == meant else "wrong"


def _cell(text: object) -> str:
    """A text within a table of Markdown, on one line; empty ones are named."""
    said = " ".join(str(text).split())
    return html.escape(said, quote=False).replace("|", "\\|") or "(empty)"
