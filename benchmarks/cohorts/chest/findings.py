"""CheXpert's labels as findings in the words of reports, and as statements of what holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medgraft.benchmarks.metrics.texts.statements import Statement

FINDING_OF: Mapping[str, str] = {
    "Enlarged Cardiomediastinum": "enlarged cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung opacity",
    "Lung Lesion": "lung nodule",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "pleural other",
    "Fracture": "fracture",
    "Support Devices": "support devices",
}
"""Label -> finding; "No Finding" is none."""

SPOKEN: Mapping[str, str] = {
    "enlarged cardiomediastinum": "a widened mediastinum",
    "cardiomegaly": "cardiomegaly",
    "lung opacity": "a lung opacity",
    "lung nodule": "a lung nodule",
    "edema": "pulmonary edema",
    "consolidation": "a consolidation",
    "pneumonia": "pneumonia",
    "atelectasis": "atelectasis",
    "pneumothorax": "a pneumothorax",
    "pleural effusion": "a pleural effusion",
    "support devices": "a support device",
}
"""Finding -> how a question names it."""


def statements_of_labels(labels: Mapping[str, float]) -> list[Statement]:
    """What labels say: 1 is there, 0 is not; of uncertain (-1) and blank ones nothing is said.

    Example:
        >>> statements_of_labels({"Edema": 1.0, "Pneumonia": -1.0, "No Finding": 0.0})
        [Statement(finding='edema', present=True, certain=True, side='', size='', place='', millimetres=None)]
    """
    told = {finding: labels.get(label, math.nan) for label, finding in FINDING_OF.items()}
    return [Statement(finding, value == 1) for finding, value in told.items() if value in (0, 1)]
