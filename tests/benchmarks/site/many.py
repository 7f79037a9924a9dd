"""Boards of any size, from results that are written and not trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.board.rows import BoardRow, make_row
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.statistics.ranks import Standing

CLASSES = ("Atelectasis", "Edema", "Pleural Effusion")
COUNTS = {"f1": 0.6, "auc": 0.8, "recall": 0.6, "precision": 0.6, "brier": 0.15}


def estimate(value: float, half: float = 0.05) -> dict[str, Any]:
    return {
        "value": value, "ci_low": max(value - half, 0), "ci_high": min(value + half, 1), "n": 250, "n_subjects": 200
    }  # fmt: skip


def metrics(skill: float) -> dict[str, Any]:
    overall = {"auc_macro": 0.8, "f1_macro": 0.6, "f1_weighted": 0.62, "accuracy": 0.65, "brier": 0.2, "ece": 0.05}
    by_class = {f"{kind}_{name.lower().replace(' ', '_')}": base for kind, base in COUNTS.items() for name in CLASSES}
    return {name: estimate(base + skill) for name, base in (overall | by_class).items()}


def result(task: str, encoder: str, adapter: str, seed: int, skill: float, **changes: Any) -> CellResult:
    """One result, as a cell would write it."""
    spec = CellSpec.model_validate(
        {
            "task": task,
            "cohort": {"name": "chexpert", "revision": f"rev-{task}", "phantom": True},
            "encoder": encoder,
            "adapter": adapter,
            "adapter_options": {"rank": 4, "targets": ["q", "v"]},
            "seed": seed,
            "train": {"epochs": 3},
        }
        | changes.pop("spec", {})
    )
    bins = [0.1, 0.3, 0.5, 0.7, 0.9]
    curve = {
        "confidence": bins, "observed": [0.15, 0.2, 0.55, 0.6, 0.95], "ci_low": [0.05, 0.1, 0.4, 0.5, 0.8],
        "ci_high": [0.3, 0.35, 0.7, 0.75, 1.0], "samples": [50] * 5, "subjects": [40] * 5,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "key": spec.key(),
        "status": "success",
        "spec": spec.model_dump(),
        "phantom": spec.cohort.phantom,
        "primary": "auc_macro",
        "metrics": metrics(skill),
        "groups": {
            "sex": {
                "metric": "auc_macro",
                "groups": {"Female": estimate(0.8 + skill), "Male": estimate(0.78 + skill)},
                "worst": "Male",
                "gap": estimate(0.02),
            }
        },
        "calibration": {"reliability": {"likeliest": curve, "classes": dict.fromkeys(CLASSES, curve)}},
        "efficiency": {
            "trainable": {adapter: 1000 * (1 + seed) + int(1e6 * (skill + 0.1)), "head": 20},
            "encoder_parameters": 2_379_072,
            "train_samples_per_s": 90.0 + 100 * skill,
            "inference_samples_per_s": 250.0 - 100 * skill,
            "train_step_peak_bytes": int(1e8 * (1 + skill)),
            "process_peak_bytes": int(1e9),
            "forward_flops": 3.7e8,
        },
        "training": {"epoch_loss": [3.0, 2.5, 2.3], "steps": 117, "samples": 3741, "seconds": 41.3},
        "data": {
            "classes": list(CLASSES),
            "objective": "multiclass",
            "split_hash": "c2" * 32,
            "splits": {"train": {"samples": 1247, "subjects": 593}, "test": {"samples": 250, "subjects": 200}},
            "generator": "chest-1",
        },
        "encoder": {"weights": "pretrained:2fac", "licence": "Apache-2.0", "saw_this_cohort": False},
        "adapters": {
            adapter: {"title": "Low rank", "paper": "Hu et al., 2021", "licence": "MIT", "options": {"rank": 4}}
        },
        "plugins": [
            {"kind": "adapter", "name": adapter, "target": "m:A", "distribution": "medgraft", "version": "0.1"}
        ],
        "env": {"python": "3.11", "platform": "Linux x86_64", "cpu": "a processor", "packages": {"torch": "2.14"}},
        "timing": {"load": 2.9, "prefix": 2.2, "train": 41.4, "evaluate": 2.2, "measure": 1.1},
    }
    return CellResult.model_validate(fields | changes)


def cells(tasks: int, encoders: int, adapters: int, seeds: int) -> Iterator[CellResult]:
    """Every combination, of skills that differ."""
    skills = np.random.default_rng(0).uniform(-0.1, 0.1, (tasks, encoders, adapters, seeds)).round(5)
    for (t, e, a, s), skill in np.ndenumerate(skills):
        yield result(f"task_{t:02}", f"timm:encoder_{e}", f"adapter_{a}", s, float(skill))


def rows(tasks: int, encoders: int, adapters: int, seeds: int) -> list[BoardRow]:
    """The same as rows of a board, with ranks in which pairs share one."""
    by_row: dict[str, list[CellResult]] = {}
    for cell in cells(tasks, encoders, adapters, seeds):
        by_row.setdefault(cell.spec.row(), []).append(cell)
    made = [make_row([(Path(f"{cell.key}.json"), cell) for cell in each]) for each in by_row.values()]
    made.sort(key=lambda row: (row.section, -(row.metrics["auc_macro"][0] or 0)))
    place: dict[Any, int] = {}
    for row in made:
        n = place[row.section] = place.get(row.section, -1) + 1
        row.standing = Standing(rank=n // 2 * 2 + 1, low=max(1, n), high=n + 3, tie=n // 2 + 1)
    return made


def write_folder(folder: Path, results: Iterator[CellResult], broken: int) -> None:
    """Writes results, and as many files that are none: cut short, of another schema, with a key of another cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(results):
        text = cell.model_dump_json(indent=1)
        if number < broken:
            data = json.loads(text)
            wrong = [
                text[: len(text) // 2],
                *(json.dumps(data | each) for each in ({"schema_version": 99}, {"key": "0" * 16})),
            ]
            text = wrong[number % 3]
        (folder / f"{cell.key}.json").write_text(text)
