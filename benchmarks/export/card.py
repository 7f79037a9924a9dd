"""The model card of a kept graft: data, metrics with intervals, groups, options, intended use and limits.

Numbers come from the result beside the graft (``KEY.json`` beside ``KEY.adapter``); a graft without its result has a
card that says so. The head of the card is Hugging Face's, with a ``model-index`` of the primary and the shown metrics.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cell.kept import KeptFacts, graft_folder, read_facts
from medgraft.benchmarks.external.results import external_beside
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import KEPT, UnreadableError, read_json
from medgraft.checkpoints.folder import read_config
from medgraft.checkpoints.model_card import MARK
from medgraft.commands.plain_text import one_line
from medgraft.errors import CheckpointError
from medgraft.objective import objective_class

TASK_TAGS = {"image": "image-classification", "text": "text-classification"}
"""Modality of the samples -> the task of Hugging Face that classification of them is."""


def card_of(folder: str | Path, opening: str = "") -> str:
    """The text of a kept graft's model card.

    Args:
        folder: The kept graft.
        opening: Python code that opens what the card lies beside; ``medgraft.load`` of the folder by default.

    Raises:
        CheckpointError: It is no kept graft, or the result beside it is of another cell.
    """
    from huggingface_hub import ModelCard

    folder = graft_folder(folder)
    facts, config = read_facts(folder), read_config(folder)
    result = result_of(folder, facts)
    shown = _shown(facts, result)
    template = resources.files("medgraft.benchmarks.export").joinpath("templates/card.md").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        _head(facts, config, result, shown),
        template_str=template,
        mark=MARK,
        facts=facts,
        config=config,
        result=result,
        metrics=[_row(name, estimate) for name, estimate in shown.items()],
        groups=_groups(result),
        external=_external(folder, result),
        calibrated=_calibrated(result),
        counts=_counts(result),
        thresholds=[f"{cell(n)} {_number(t)}" for n, t in zip(facts.classes, facts.thresholds or (), strict=False)],
        few=[f"{cell(n)} {count}" for n, count in ((result and result.data.get("few_subjects")) or {}).items()],
        notes=[cell(note) for note in ((result and result.data.get("notes")) or [])],
        classes=[cell(name) for name in facts.classes],
        json=lambda value: cell(json.dumps(value, sort_keys=True)),
        cell=cell,
        opening=opening or 'import medgraft\n\npredictor = medgraft.load("path/to/this/folder")',
    )
    return str(card).rstrip() + "\n"


def result_of(folder: Path, facts: KeptFacts) -> CellResult | None:
    """The result beside a kept graft; ``None`` where it does not lie beside one.

    Raises:
        CheckpointError: There is one of another cell.
    """
    if folder.suffix != KEPT:
        return None
    path = folder.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        result = CellResult.model_validate(read_json(path))
    except (UnreadableError, ValueError) as error:
        raise CheckpointError(
            f"{path}, the result of {folder.name}, cannot be read: {one_line(str(error), 200)}"
        ) from error
    if result.key != facts.key:
        raise CheckpointError(f"{path} is the result {result.key}, and the graft beside it is of {facts.key}")
    return result


def _shown(facts: KeptFacts, result: CellResult | None) -> dict[str, Estimate]:
    """The primary metric first, then those that a board shows, then those of each class."""
    if result is None:
        value, low, high = facts.test
        return {facts.primary: Estimate(value=value, ci_low=low, ci_high=high, n=0, n_subjects=0)}
    columns = [facts.primary, *objective_class(facts.objective).columns]
    names = [*columns, *(name for name in result.metrics if name.startswith(("auc_", "f1_", "ece", "brier")))]
    return {name: result.metrics[name] for name in dict.fromkeys(names) if name in result.metrics}


def _head(facts: KeptFacts, config: dict[str, Any], result: CellResult | None, shown: dict[str, Estimate]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    base = config["base_encoder"]
    kind = _task_tag(facts)
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=f"medgraft-{facts.cohort}",
            dataset_name=f"{facts.cohort}{' (PHANTOM: generated data)' if facts.phantom else ''}",
            dataset_config=facts.task,
            dataset_split="test",
            dataset_revision=facts.split_hash or None,
            metric_type=name,
            metric_name=name,
            metric_value=float(estimate.value),
        )
        for name, estimate in shown.items()
        if estimate.value is not None
    ]
    licence = str(base.get("licence") or "")
    tags = ["medgraft", "adapter", *config["adapters"], *(["phantom-data"] if facts.phantom else [])]
    return ModelCardData(
        library_name="medgraft",
        license=licence.lower() if licence and licence != "unknown" else None,
        base_model=str(base["name"]),
        pipeline_tag=kind if kind in TASK_TAGS.values() else None,
        tags=list(dict.fromkeys(tags)),
        model_name=f"{'+'.join(config['adapters'])} on {facts.encoder} for {facts.task}",
        eval_results=results or None,
        ignore_metadata_errors=False,
    )


def _task_tag(facts: KeptFacts) -> str:
    if not facts.classes:
        return "survival-analysis" if facts.objective == "survival" else "regression"
    tags = [TASK_TAGS[name] for name in facts.inputs if name in TASK_TAGS]
    return tags[0] if len(facts.inputs) == 1 and tags else "classification"


def cell(value: object) -> str:
    r"""A word from a table of someone's as part of a Markdown table: one line, no mark-up.

    Example:
        >>> cell("a | b <img src=x>")
        'a \\| b &lt;img src=x>'
    """
    return one_line(str(value), 300).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(name: str, estimate: Estimate) -> dict[str, str]:
    low, high = estimate.ci_low, estimate.ci_high
    return {
        "name": cell(name),
        "value": _number(estimate.value),
        "interval": "-" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        "samples": str(estimate.n or "-"),
        "subjects": str(estimate.n_subjects or "-"),
    }


def _groups(result: CellResult | None) -> list[dict[str, Any]]:
    """The primary metric by groups, one entry for each attribute."""
    if result is None:
        return []
    return [
        {
            "attribute": cell(attribute),
            "metric": groups.metric,
            "rows": [_row(name, estimate) for name, estimate in groups.groups.items()],
            "worst": cell(groups.worst),
            "gap": _row("gap", groups.gap),
            "left_out": [f"{cell(name)} ({count})" for name, count in groups.left_out.items()],
        }
        for attribute, groups in result.groups.items()
    ]


def _external(folder: Path, result: CellResult | None) -> list[dict[str, Any]]:
    """What it lost on other cohorts, one entry for each that it was tested on."""
    if result is None:
        return []
    path = folder.with_suffix(".json")
    tests = [test.result for test in external_beside([path]).get(path, []) if test.result.status == "success"]
    return [
        {
            "on": cell(f"{test.tested.task}{' (PHANTOM)' if test.phantom else ''}"),
            "part": test.part,
            "metric": cell(test.primary),
            "classes": ", ".join(cell(name) for name in test.classes),
            "rows": [_row(side, getattr(test, side)[test.primary]) for side in ("home", "away", "drop")],
            "notes": [cell(note) for note in test.data.get("notes", ())],
        }
        for test in tests
        if test.primary in test.drop
    ]


def _calibrated(result: CellResult | None) -> str:
    """What was done about the probabilities, in a sentence."""
    scaling = result.calibration.scaling if result is not None and result.calibration is not None else None
    if scaling is None:
        return "Probabilities are as the graft gives them; no temperature was fitted."
    known = [_number(each) for each in scaling.temperatures]
    return f"Probabilities are divided by temperatures that validation samples chose: {', '.join(known)}."


def _counts(result: CellResult | None) -> list[tuple[str, int, int]]:
    """Split, samples and subjects."""
    splits = (result.data.get("splits") or {}) if result else {}
    return [(name, int(each["samples"]), int(each["subjects"])) for name, each in splits.items()]
