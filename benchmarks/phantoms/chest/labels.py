"""Label model of the chest phantom: latent disease, what it looks like, and what a simulated report says of it.

Three latent factors of a patient (heart failure, infection, intensive care) make the findings co-occur as in CheXpert.
A finding is present when its liability passes a threshold, and its visible severity grows with the distance from it,
with noise, so that the pixels never decide it fully. Training labels come from a report that misses, hedges and
overcalls; validation and test labels are the truth, as a radiologist consensus would give it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.phantoms.chest.scene import FINDINGS

MISSED = 0.05
"""Share of present findings that the report does not mention."""

FALSE_POSITIVE = 0.025
"""Share of positive mentions of a finding, about, that are wrong."""

FAINT = 0.05
"""An absent finding of at least this severity is visible enough to be hedged about."""


@dataclass(frozen=True)
class FindingModel:
    """How one finding arises and how it is reported.

    Attributes:
        loadings: Weights of heart failure, infection and intensive care in the liability.
        threshold: Liability (standard normal) above which the finding is present.
        denied: Probability that a report names an absent finding as absent.
        hedged: Probability that a report hedges about a present finding, before faintness is weighed in.
        doubted: Probability that a report hedges about an absent finding that is faintly visible.
        suspected: Probability that a report hedges about an absent finding that is not visible.
        both_sides: Probability that both lungs are affected; else the sides are equally likely.
    """

    loadings: tuple[float, float, float]
    threshold: float
    denied: float
    hedged: float
    doubted: float = 0.25
    suspected: float = 0.0
    both_sides: float = 0.0

    @property
    def residual(self) -> float:
        """Weight of the finding's own latent, which brings the liability to unit variance."""
        return math.sqrt(max(0.05, 1 - sum(w * w for w in self.loadings)))

    @property
    def prevalence(self) -> float:
        """Share of studies in which the finding is present."""
        return 0.5 * math.erfc(self.threshold / math.sqrt(2))

    @property
    def overcalled(self) -> float:
        """Probability that a report asserts an absent finding; makes ``FALSE_POSITIVE`` of all assertions wrong."""
        asserted = self.prevalence * (1 - MISSED - self.hedged)
        return FALSE_POSITIVE / (1 - FALSE_POSITIVE) * asserted / (1 - self.prevalence)


MODEL: Mapping[str, FindingModel] = {
    "Enlarged Cardiomediastinum": FindingModel((0.35, 0.0, 0.2), 1.45, denied=0.12, hedged=0.50),
    "Cardiomegaly": FindingModel((0.75, 0.0, 0.0), 0.85, denied=0.25, hedged=0.20),
    "Lung Lesion": FindingModel((0.0, 0.1, 0.0), 1.50, denied=0.02, hedged=0.15),
    "Edema": FindingModel((0.70, 0.05, 0.25), 0.70, denied=0.22, hedged=0.18, both_sides=1.0),
    "Consolidation": FindingModel(
        (0.0, 0.75, 0.15), 1.10, denied=0.30, hedged=0.50, doubted=0.35, suspected=0.04, both_sides=0.20
    ),
    "Atelectasis": FindingModel(
        (0.1, 0.2, 0.55), 0.65, denied=0.03, hedged=0.42, doubted=0.40, suspected=0.07, both_sides=0.30
    ),
    "Pneumothorax": FindingModel((-0.1, 0.0, 0.45), 1.20, denied=0.45, hedged=0.10),
    "Pleural Effusion": FindingModel((0.45, 0.25, 0.35), 0.45, denied=0.40, hedged=0.10, both_sides=0.30),
}
"""Thresholds and reporting rates give marginals near those of CheXpert's training table."""

_OPAQUE = ("Edema", "Consolidation", "Atelectasis", "Lung Lesion")
_INFECTED = 0.6  # infection factor above which a consolidation counts as pneumonia
_SIDE = {-1: "right", 1: "left", 0: "bilateral"}
_ZONE = ("upper", "mid", "lower")
_DENIED = {
    "Enlarged Cardiomediastinum": "The mediastinal contours are normal.",
    "Cardiomegaly": "The heart size is normal.",
    "Lung Lesion": "No pulmonary nodule.",
    "Edema": "No pulmonary edema.",
    "Consolidation": "No focal consolidation.",
    "Atelectasis": "No atelectasis.",
    "Pneumothorax": "No pneumothorax.",
    "Pleural Effusion": "No pleural effusion.",
}
_HEDGES = ("possible", "may represent", "cannot exclude")
_DEVICES = ("Support devices are in place.", "Lines and tubes as described.", "Unchanged support apparatus.")


_LOADINGS = np.array([MODEL[name].loadings for name in FINDINGS])
_RESIDUAL, _THRESHOLD, _DENIED_RATE, _HEDGED, _DOUBTED, _SUSPECTED, _OVERCALLED = (
    np.array([getattr(MODEL[name], attribute) for name in FINDINGS])
    for attribute in ("residual", "threshold", "denied", "hedged", "doubted", "suspected", "overcalled")
)
_HEART, _CONTOUR = FINDINGS.index("Cardiomegaly"), FINDINGS.index("Enlarged Cardiomediastinum")
_COLUMN = {name: i for i, name in enumerate(CHEXPERT_14)}
_FINDING_COLUMNS = [_COLUMN[name] for name in FINDINGS]
_OPAQUE_COLUMNS = [_COLUMN[name] for name in _OPAQUE]


@dataclass(frozen=True)
class Disease:
    """The latent state of ``n`` patients at one visit each.

    Attributes:
        factors: ``[n, 3]`` heart failure, infection and intensive care, each standard normal.
        own: ``[n, 8]`` the findings' own latents in the order of ``FINDINGS``, each standard normal.
    """

    factors: np.ndarray
    own: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """How far each liability is above its threshold, ``[n, 8]`` in standard deviations."""
        shared = sum(self.factors[:, i, None] * _LOADINGS[:, i] for i in range(3))
        return shared + _RESIDUAL * self.own - _THRESHOLD


def sample_disease(rng: np.random.Generator, n: int = 1) -> Disease:
    """Draws the state of ``n`` patients at their first visit."""
    return Disease(rng.standard_normal((n, 3)), rng.standard_normal((n, len(FINDINGS))))


def drift(disease: Disease, rng: np.random.Generator) -> Disease:
    """The state at the next visit: factors change slowly, findings faster, and marginals stay standard normal."""

    def step(values: np.ndarray, kept: float) -> np.ndarray:
        return kept * values + math.sqrt(1 - kept**2) * rng.standard_normal(values.shape)

    return Disease(step(disease.factors, 0.85), step(disease.own, 0.70))


def sample_place(finding: str, rng: np.random.Generator) -> tuple[int, int]:
    """Draws side (-1, 1, or 0 for both) and zone (0 upper, 1 mid, 2 lower) of a finding."""
    u, both = rng.random(), MODEL[finding].both_sides
    side = 0 if u < both else -1 if u < both + (1 - both) / 2 else 1
    v = rng.random()
    return side, 0 if v < 0.2 else 1 if v < 0.5 else 2


@dataclass(frozen=True)
class Visits:
    """One visit of each of ``n`` patients: what the film will show, what is true and what the report will say.

    Attributes:
        bedside: ``[n]`` whether the film is AP.
        devices: ``[n]`` whether lines, tubes or leads lie over the chest.
        grade: ``[n, 8]`` visible severity in [0, 1] that a reader would put into words.
        severity: ``[n, 8]`` what the renderer draws; the grade, but for the sizes of heart and mediastinum.
        truth: ``[n, 14]`` labels of a radiologist consensus, 0 or 1.
        reported: ``[n, 14]`` labels of the simulated report: 1 asserted, 0 denied, -1 hedged, NaN not mentioned.
    """

    bedside: np.ndarray
    devices: np.ndarray
    grade: np.ndarray
    severity: np.ndarray
    truth: np.ndarray
    reported: np.ndarray


def sample_visits(disease: Disease, ap_log_odds: float, rng: np.random.Generator) -> Visits:
    """Draws one visit of each patient; ``ap_log_odds`` is that of the site's ``ChestSetting``."""
    margins, n = disease.margins, len(disease.factors)
    bedside = rng.random(n) < 1 / (1 + np.exp(-(ap_log_odds + disease.factors[:, 2])))
    devices = rng.random(n) < np.where(bedside, 0.70, 0.15)
    # A finding just under its threshold stays faintly visible.
    grade = np.clip(0.08 + 0.34 * margins + 0.07 * rng.standard_normal(margins.shape), 0, 1) * (margins > -0.30)
    severity = grade.copy()  # sizes, unlike signs, vary below the threshold too
    severity[:, _HEART] = np.clip(0.30 + 0.30 * margins[:, _HEART] + 0.08 * rng.standard_normal(n), -0.6, 1.2)
    severity[:, _CONTOUR] = np.clip(0.25 + 0.45 * margins[:, _CONTOUR], -0.3, 1.2)
    infected = disease.factors[:, 1] > _INFECTED
    truth = _true_labels(margins > 0, infected, devices)
    return Visits(bedside, devices, grade, severity, truth, _report_labels(margins > 0, grade, infected, devices, rng))


def _true_labels(present: np.ndarray, infected: np.ndarray, devices: np.ndarray) -> np.ndarray:
    labels = np.zeros((len(present), len(CHEXPERT_14)))
    labels[:, _FINDING_COLUMNS] = present
    labels[:, _COLUMN["Lung Opacity"]] = labels[:, _OPAQUE_COLUMNS].any(1)
    labels[:, _COLUMN["Pneumonia"]] = (labels[:, _COLUMN["Consolidation"]] == 1) & infected
    labels[:, _COLUMN["Support Devices"]] = devices
    labels[:, _COLUMN["No Finding"]] = ~labels[:, 1:-1].any(1)
    return labels


def _report_labels(
    present: np.ndarray, grade: np.ndarray, infected: np.ndarray, devices: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    n = len(present)
    labels = np.full((n, len(CHEXPERT_14)), np.nan)
    mentions = _mentions(present, grade, rng.random(present.shape))
    labels[:, _FINDING_COLUMNS] = mentions
    u = rng.random((5, n))
    opaque = labels[:, _OPAQUE_COLUMNS]
    asserted, hedged = (opaque == 1).any(1), (opaque == -1).any(1)
    labels[:, _COLUMN["Lung Opacity"]] = np.select(
        [asserted & (u[0] < 0.8), asserted, hedged & (u[0] < 0.35), hedged, u[0] < 0.05],
        [1.0, np.nan, np.where(u[1] < 0.7, 1.0, -1.0), np.nan, 0.0],
        np.nan,
    )
    consolidated = np.abs(labels[:, _COLUMN["Consolidation"]]) == 1
    labels[:, _COLUMN["Pneumonia"]] = np.where(consolidated & infected, np.where(u[2] < 0.25, 1.0, -1.0), np.nan)
    labels[:, _COLUMN["Support Devices"]] = np.where(devices & (u[3] < 0.95), 1.0, np.nan)
    nothing = ~(np.abs(labels[:, 1:-1]) == 1).any(1)
    labels[:, _COLUMN["No Finding"]] = np.where(nothing, 1.0, np.nan)
    return labels


def _mentions(present: np.ndarray, grade: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Labels ``[n, 8]`` of the findings, from one uniform draw each."""
    hedged = _HEDGED * np.where(grade < 0.25, 1.6, 0.6)  # faint findings are hedged about
    if_present = np.select([u < MISSED, u < MISSED + hedged], [np.nan, -1.0], 1.0)
    wrong = _OVERCALLED
    doubted = wrong + np.where(grade > FAINT, _DOUBTED, _SUSPECTED)
    denied = doubted + (1 - doubted) * _DENIED_RATE
    if_absent = np.select([u < wrong, u < doubted, u < denied], [1.0, -1.0, 0.0], np.nan)
    return np.where(present, if_present, if_absent)


@dataclass(frozen=True)
class Wording:
    """What the report needs to know to word a finding.

    Attributes:
        grade: Visible severity in [0, 1].
        side: -1 right, 1 left, 0 both.
        zone: 0 upper, 1 mid, 2 lower lung.
    """

    grade: float
    side: int
    zone: int


def report_text(labels: Mapping[str, float], wordings: Mapping[str, Wording], rng: np.random.Generator) -> str:
    """Words the labels: one sentence for each label that is 1, 0 or -1, none for a blank one, in random order."""
    sentences = [
        _sentence(name, labels[name], wordings[name], rng) for name in FINDINGS if not math.isnan(labels[name])
    ]
    opacity, pneumonia = labels["Lung Opacity"], labels["Pneumonia"]
    if not math.isnan(opacity):
        sentences.append({1.0: "Lung opacity.", -1.0: "Possible lung opacity.", 0.0: "No lung opacity."}[opacity])
    if not math.isnan(pneumonia):
        verb = "are consistent with" if pneumonia == 1 else "may represent"
        sentences.append(f"Findings {verb} pneumonia.")
    if labels["Support Devices"] == 1:
        sentences.append(_DEVICES[rng.integers(len(_DEVICES))])
    if labels["No Finding"] == 1:
        # With devices in place the film as such is not normal.
        other = "No acute cardiopulmonary process." if labels["Support Devices"] == 1 else "Normal chest radiograph."
        sentences.append(("No acute cardiopulmonary abnormality.", other)[rng.integers(2)])
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def _sentence(name: str, label: float, wording: Wording, rng: np.random.Generator) -> str:
    if label == 0:
        return _DENIED[name]
    hedge = f"{_HEDGES[rng.integers(len(_HEDGES))]} " if label == -1 else ""
    sentence = hedge + _phrase(name, wording, rng.random())
    return f"{sentence[0].upper()}{sentence[1:]}."


def _phrase(name: str, wording: Wording, u: float) -> str:
    """Names a finding with its grade, side and zone; ``u`` in [0, 1) picks a variant."""
    step = 0 if wording.grade < 0.3 else 1 if wording.grade < 0.6 else 2
    side = _SIDE[wording.side]
    amount, size = ("mild", "moderate", "severe")[step], ("small", "moderate", "large")[step]
    return {
        "Enlarged Cardiomediastinum": "widened mediastinum",
        "Cardiomegaly": f"{amount} cardiomegaly",
        "Lung Lesion": f"{side} lung nodule",
        "Edema": f"{amount} pulmonary edema",
        "Consolidation": f"{side} {_ZONE[wording.zone]} lung zone consolidation",
        "Atelectasis": f"{side}{' basilar' if u < 0.6 else ''} atelectasis",
        "Pneumothorax": f"{size} {side} pneumothorax",
        "Pleural Effusion": f"{size} {side} pleural effusion{'s' if wording.side == 0 else ''}",
    }[name]
