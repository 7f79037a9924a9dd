"""Reports of the chest-CT phantom: sentences made of the same facts as the voxels.

As in life, wordings vary, some negatives are said and most are not, a minor finding is now and then passed over, and a
few are only suspected. What is said decides the labels, as CT-RATE's were read from reports; what is there is kept
apart (:func:`statements`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.texts.statements import Statement
from medgraft.benchmarks.phantoms.ct.anatomy import Body
from medgraft.benchmarks.phantoms.ct.findings import KINDS, MASS_FROM, Finding
from medgraft.benchmarks.phantoms.ct.renderer import STREAMS, Person

PRESENT: dict[str, tuple[str, ...]] = {
    "lung nodule": (
        "A {measure} nodule is observed in the {lobe}.",
        "There is a {measure} pulmonary nodule in the {lobe}.",
        "In the {lobe}, a {measure} lung nodule is seen.",
    ),
    "consolidation": (
        "A {measure} consolidation with air bronchograms is seen in the {lobe}.",
        "There is a {measure} area of consolidation in the {lobe}.",
        "Consolidation is observed in the {lobe}.",
    ),
    "lung opacity": (
        "A {measure} ground-glass opacity is observed in the {lobe}.",
        "There is a {measure} ground-glass opacity in the {lobe}.",
        "Ground-glass opacity is seen in the {lobe}.",
    ),
    "pleural effusion": (
        "There is a {measure} {side} pleural effusion.",
        "A {side} pleural effusion is seen, {size} in amount.",
        "{Side} pleural effusion with a thickness of {mm} mm is observed.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {side} pneumothorax with a thickness of {mm} mm is observed.",
    ),
    "emphysema": ("Emphysema is observed in both lungs.", "There are emphysematous changes in both lungs."),
    "atelectasis": ("Atelectasis is seen in the {lobe}.", "There is linear atelectasis in the {lobe}."),
    "bronchiectasis": ("Bronchiectasis is observed in the {lobe}.", "There is bronchiectasis in the {lobe}."),
    "pulmonary fibrotic sequela": (
        "Fibrotic sequela changes are seen in the {lobe}.",
        "There are fibrotic bands in the {lobe}.",
    ),
    "mosaic attenuation pattern": (
        "A mosaic attenuation pattern is observed in both lungs.",
        "There is mosaic attenuation in both lungs.",
    ),
    "peribronchial thickening": (
        "Peribronchial thickening is observed in both lungs.",
        "There is peribronchial thickening in both lungs.",
    ),
    "interlobular septal thickening": (
        "Interlobular septal thickening is observed in both lungs.",
        "There is interlobular septal thickening in both lungs.",
    ),
    "cardiomegaly": ("Cardiomegaly is observed.", "The heart is enlarged.", "There is cardiomegaly."),
    "pericardial effusion": (
        "There is a {size} pericardial effusion.",
        "A pericardial effusion with a thickness of {mm} mm is observed.",
    ),
    "coronary artery wall calcification": (
        "There are calcified plaques in the coronary arteries.",
        "Coronary artery wall calcification is observed.",
    ),
    "arterial wall calcification": (
        "Calcified atheroma plaques are observed in the aorta.",
        "There is arterial wall calcification.",
    ),
    "lymphadenopathy": (
        "There is mediastinal lymphadenopathy with a short axis of {mm} mm.",
        "{Size} mediastinal lymphadenopathy is observed.",
    ),
    "hiatal hernia": ("There is a {size} hiatal hernia.", "A hiatal hernia of {mm} mm is observed."),
    "support devices": (
        "A pacemaker is seen on the left anterior chest wall.",
        "A cardiac pacemaker with its lead is observed.",
    ),
}
MASS = (
    "A {measure} mass with spiculated borders is observed in the {lobe}.",
    "There is a {measure} mass in the {lobe}.",
    "In the {lobe}, a {measure} lung mass is seen.",
)
"""Of large nodules."""
SUSPECTED = ("Findings may represent {name}.", "Possible {name} is noted.")
"""Of kinds that are hard to tell, in the place of :data:`PRESENT` now and then."""
ABSENT: dict[str, tuple[str, ...]] = {
    "lung nodule": ("No nodule or mass is detected in either lung.", "There is no mass or nodule in the lungs."),
    "consolidation": ("No consolidation is observed.", "There is no consolidation."),
    "lung opacity": ("No ground-glass opacity is observed.",),
    "pleural effusion": ("No pleural effusion is detected.", "There is no pleural effusion."),
    "pneumothorax": ("No pneumothorax is seen.", "There is no pneumothorax."),
    "emphysema": ("There is no emphysema.",),
    "cardiomegaly": ("Heart size is normal.", "There is no cardiomegaly."),
    "pericardial effusion": ("No pericardial effusion is detected.", "There is no pericardial effusion."),
    "lymphadenopathy": ("No lymphadenopathy is observed in the mediastinum.", "There is no lymphadenopathy."),
    "hiatal hernia": ("There is no hiatal hernia.",),
}
MINOR = frozenset(
    ("atelectasis", "pulmonary fibrotic sequela", "mosaic attenuation pattern", "coronary artery wall calcification")
    + ("arterial wall calcification", "hiatal hernia", "peribronchial thickening")
)
UNSAID, UNSURE, NEGATIVES = 0.1, 0.08, 0.45
"""Shares: of minor findings that are passed over, of hard ones that are only suspected, of negatives that are said."""
HARD = frozenset(("emphysema", "mosaic attenuation pattern", "interlobular septal thickening", "atelectasis"))
COMPLAINTS = ("Cough.", "Shortness of breath.", "Chest pain.", "Control.", "Fever.", "Not given.")


@dataclass(frozen=True)
class Report:
    """A report in the parts that CT-RATE has.

    Attributes:
        clinical: Clinical information.
        technique: How the images were taken.
        findings: Sentences on findings.
        impression: The positive ones again, in short.
        said: Kinds of findings that it asserts or suspects.
    """

    clinical: str
    technique: str
    findings: str
    impression: str
    said: frozenset[str]


def write_report(person: Person, seed: int, stream: str, index: int, scan: int = 0) -> Report:
    """The report of a person's scan; each scan of a person has wordings of its own."""
    rng = np.random.default_rng([seed, STREAMS[stream], index, 1000 + scan])
    by_kind = {finding.kind: finding for finding in person.findings}
    positive: list[tuple[str, str]] = []
    negative: list[str] = []
    for name in KINDS:
        draws = rng.random(4)
        if name not in by_kind:
            if name in ABSENT and draws[0] < NEGATIVES:
                negative.append(ABSENT[name][int(draws[1] * len(ABSENT[name]))])
        elif name not in MINOR or draws[0] >= UNSAID:
            positive.append((name, _sentence(by_kind[name], draws)))
    sentences = [sentence for _, sentence in positive] + negative
    rng.shuffle(sentences)
    impression = " ".join(_short(by_kind[name]) for name, _ in positive) or "No acute abnormality is detected."
    return Report(
        clinical=COMPLAINTS[int(rng.integers(len(COMPLAINTS)))],
        technique=_technique(person.body),
        findings=" ".join(sentences) or "No abnormality is detected in the lungs, the heart and the mediastinum.",
        impression=impression,
        said=frozenset(name for name, _ in positive),
    )


def _technique(body: Body) -> str:
    given = "after intravenous contrast medium" if body.contrast else "without contrast medium"
    return f"Axial images of the chest were taken {given}."


def _sentence(finding: Finding, draws: np.ndarray) -> str:
    if finding.kind in HARD and draws[2] < UNSURE:
        return SUSPECTED[int(draws[1] * len(SUSPECTED))].format(name=finding.kind)
    mass = finding.kind == "lung nodule" and finding.millimetres >= MASS_FROM
    choices = MASS if mass else PRESENT[finding.kind]
    return choices[int(draws[1] * len(choices))].format(**_words(finding, float(draws[3])))


def _words(finding: Finding, draw: float) -> dict[str, Any]:
    millimetres = f"{finding.millimetres:.0f}"
    side = "bilateral" if finding.side == "both" else finding.side
    return {
        "measure": f"{millimetres} mm" if draw < 0.7 else finding.size,
        "mm": millimetres,
        "size": finding.size,
        "Size": finding.size.capitalize(),
        "side": side,
        "Side": side.capitalize(),
        "lobe": finding.lobe,
    }


def _short(finding: Finding) -> str:
    if finding.lobe:
        return f"{finding.kind.capitalize()} in the {finding.lobe}."
    side = "bilateral" if finding.side == "both" else finding.side
    return f"{side} {finding.kind}.".strip().capitalize()


def statements(person: Person) -> list[Statement]:
    """What is there and what is not; every kind of finding once, an effusion on both sides as one."""
    by_kind = {finding.kind: finding for finding in person.findings}
    return [_statement(name, by_kind.get(name)) for name in KINDS]


def _statement(name: str, finding: Finding | None) -> Statement:
    if finding is None:
        return Statement(name, False)
    return Statement(
        name,
        True,
        side=finding.side,
        size=finding.size,
        place=finding.lobe,
        millimetres=finding.millimetres or None,
    )
