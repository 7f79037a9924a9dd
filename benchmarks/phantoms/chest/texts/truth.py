"""What is true of a phantom film: findings with side, size and zone, drawn again from what its cohort's marker says.

No file of a phantom holds this, since no real cohort has such a file: seed and setting stand in the marker, and a
patient is drawn again without being rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.chest.findings import FINDING_OF
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.cohorts.tables.visit_table import marker_of
from medgraft.benchmarks.metrics.texts.statements import Statement, to_json
from medgraft.benchmarks.phantoms.chest.cohort import planned as planned_chexpert
from medgraft.benchmarks.phantoms.chest.mimic import planned as planned_mimic
from medgraft.benchmarks.phantoms.chest.scene import GENERATOR_VERSION, SETTINGS, ChestSetting
from medgraft.benchmarks.phantoms.chest.studies import Study
from medgraft.benchmarks.phantoms.chest.texts.plan import planned as planned_texts

_SIDES = {-1: "right", 1: "left", 0: "both"}
_ZONES = ("upper zone", "mid zone", "lower zone")
_SIDED = ("Lung Lesion", "Edema", "Consolidation", "Atelectasis", "Pneumothorax", "Pleural Effusion")
_SIZED = ("Edema", "Pneumothorax", "Pleural Effusion")
_SIZES = (("small", 0.3), ("moderate", 0.6), ("large", float("inf")))
"""Limits of the drawn severity, those by which the phantom's reports choose their words."""

_PLANS: Mapping[str, Callable[[Mapping[str, Any], int, ChestSetting], Mapping[str, Study]]] = {
    "chexpert": planned_chexpert,
    "mimic": planned_mimic,
    "iu_xray": planned_texts,
    "vqa_rad": planned_texts,
    "slake": planned_texts,
    "pmc_vqa": planned_texts,
}


def film_statements(study: Study) -> list[Statement]:
    """All findings of a study, there or not; side, size and zone of those that are and were drawn with one."""
    made = []
    for label, finding in FINDING_OF.items():
        if study.truth[label] != 1:
            made.append(Statement(finding, False))
            continue
        drawn = study.films[0].findings.get(label)
        side = _SIDES[drawn.side] if drawn is not None and label in _SIDED else ""
        size = next(word for word, limit in _SIZES if study.severity[label] < limit) if label in _SIZED else ""
        place = ""
        if label == "Atelectasis":
            place = "lower zone"  # always drawn at the base
        elif label == "Consolidation" and drawn is not None:
            place = _ZONES[drawn.zone]
        made.append(Statement(finding, True, side="both" if label == "Edema" else side, size=size, place=place))
    return made


def marked(root: Path) -> Path:
    """The folder that has the marker, of a folder of a phantom: itself or the one above; itself where neither has."""
    return next((folder for folder in (root, root.parent) if (folder / PHANTOM_MARKER).is_file()), root)


def truths_at(root: Path, layout: str) -> dict[str, str]:
    """The statements of a phantom's studies as JSON, by the keys of :func:`studies_at`."""
    return {key: to_json(film_statements(study)) for key, study in studies_at(root, layout).items()}


def studies_at(root: Path, layout: str) -> Mapping[str, Study]:
    """The studies of a phantom, by the key that its layout has for them; empty for what is none of this generator.

    Args:
        root: Folder with the marker.
        layout: ``chexpert`` (``patient900001/study1``), ``mimic`` (``s99000001``), or one of those of
            :mod:`medgraft.benchmarks.phantoms.chest.texts.plan` (name of the image).
    """
    marker = marker_of(root) if (root / PHANTOM_MARKER).is_file() else {}
    setting, config = marker.get("setting"), marker.get("config")
    known = marker.get("generator") == GENERATOR_VERSION and setting in SETTINGS and isinstance(config, dict)
    if not known or not isinstance(marker.get("seed"), int) or config.get("layout", layout) != layout:
        return {}
    try:
        return _PLANS[layout](config, marker["seed"], SETTINGS[setting])
    except (KeyError, TypeError, ValueError):  # a marker of another layout, or one that somebody changed
        return {}
