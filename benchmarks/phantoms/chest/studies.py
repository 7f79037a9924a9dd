"""Patients and studies of the chest phantom, arrays for pre-training, and the ceiling of what can be known.

Patient ``index`` of stream ``stream`` is drawn from ``default_rng([seed, stream, index])`` and each film from a seed of
its own, so any patient can be made again alone, and the number of processes never changes a byte.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.phantoms.chest.labels import (
    Visits,
    Wording,
    drift,
    report_text,
    sample_disease,
    sample_place,
    sample_visits,
)
from medgraft.benchmarks.phantoms.chest.renderer import render_film
from medgraft.benchmarks.phantoms.chest.scene import (
    FINDINGS,
    GENERATOR_VERSION,
    SETTINGS,
    Anatomy,
    ChestSetting,
    Film,
    Finding,
    sample_anatomy,
)
from medgraft.errors import ConfigError, UnknownNameError

__all__ = [
    "GENERATOR_VERSION",
    "SETTINGS",
    "STREAMS",
    "ChestArrays",
    "ChestSetting",
    "Study",
    "generate",
    "iter_studies",
    "map_chunks",
    "render_study",
    "sample_study",
    "setting_named",
    "severity_ceiling",
]

STREAMS = {
    name: number
    for number, name in enumerate(
        (
            *("train", "valid", "test", "5x200", "pretrain", "ceiling", "5x200 search", "rsna", "siim", "nih", "mimic"),
            *("iu_xray", "vqa_rad", "slake", "pmc_vqa"),
        )
    )
}
"""Purpose -> random stream: equal indices of two streams are different patients, whatever the seed."""

MAX_STUDIES = 5
_STUDY_AGAIN = 0.5  # geometric, cut at MAX_STUDIES: 1.8 studies per patient
_SECOND_VIEW = 0.10  # studies with a second frontal film
_PLACE_MOVES = 0.2  # a finding changes its side or zone between studies

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Study:
    """One study of one phantom patient, not yet rendered.

    Attributes:
        patient: Index of the patient in its stream, from 0.
        number: Number of the study, from 1.
        sex: 1 for female, 0 for male.
        age: Years.
        view: ``"AP"`` or ``"PA"``.
        films: One or two frontal films of the same moment, positioned anew.
        severity: Drawn severity of each of ``FINDINGS``.
        reported: The 14 labels of the simulated report: 1, 0, -1 or NaN.
        truth: The 14 labels of a consensus: 0 or 1.
        report: Text of the report, in agreement with ``reported``.
    """

    patient: int
    number: int
    sex: int
    age: int
    view: str
    films: tuple[Film, ...]
    severity: dict[str, float]
    reported: dict[str, float]
    truth: dict[str, float]
    report: str

    def labels(self, scheme: str) -> dict[str, float]:
        """The 14 labels by ``"report"`` (as in a training table) or ``"truth"`` (as in validation and test)."""
        if scheme not in ("report", "truth"):
            raise UnknownNameError("label scheme", scheme, ("report", "truth"))
        return self.reported if scheme == "report" else self.truth


def setting_named(setting: str | ChestSetting) -> ChestSetting:
    """Returns the setting of that name, or the setting itself.

    Raises:
        UnknownNameError: No setting has the name.
    """
    if isinstance(setting, ChestSetting):
        return setting
    if setting not in SETTINGS:
        raise UnknownNameError("chest setting", setting, SETTINGS)
    return SETTINGS[setting]


def iter_studies(seed: int, stream: str, index: int, setting: str | ChestSetting = "default") -> Iterator[Study]:
    """Draws the studies of one patient, lazily and in order, without rendering anything.

    Anatomy lasts; disease drifts from study to study, so that two studies of one patient resemble each other more than
    those of two patients, and a split by image leaks.

    Args:
        seed: Seed of the cohort, not negative.
        stream: Key of ``STREAMS``.
        index: Number of the patient in the stream, from 0.
        setting: Name of a setting, or a setting.

    Yields:
        One to ``MAX_STUDIES`` studies.
    """
    site = setting_named(setting)
    rng = np.random.default_rng([seed, STREAMS[stream], index])
    disease = sample_disease(rng)
    person = sample_person(disease.factors[0, 0], rng)
    places = {name: sample_place(name, rng) for name in FINDINGS}
    for number in range(1, MAX_STUDIES + 1):
        visits = sample_visits(disease, site.ap_log_odds, rng)
        yield study_of(visits, 0, person, places, site, rng, patient=index, number=number)
        if rng.random() >= _STUDY_AGAIN:
            return
        disease = drift(disease, rng)
        places = {name: sample_place(name, rng) if rng.random() < _PLACE_MOVES else places[name] for name in FINDINGS}


def sample_person(heart_failure: float, rng: np.random.Generator) -> Anatomy:
    """Draws sex, age and lasting anatomy; patients with heart failure (standard normal) are somewhat older."""
    sex = int(rng.random() < 0.41)
    age = int(np.clip(rng.normal(60 + 4 * heart_failure, 16), 18, 90))
    return sample_anatomy(rng, sex, age)


def study_of(
    visits: Visits,
    row: int,
    person: Anatomy,
    places: Mapping[str, tuple[int, int]],
    site: ChestSetting,
    rng: np.random.Generator,
    *,
    patient: int,
    number: int,
) -> Study:
    """Makes a study of one row of ``visits``: draws the seeds of its films and words its report."""
    severity: dict[str, float] = dict(zip(map(str, FINDINGS), visits.severity[row].tolist(), strict=True))
    grades = dict(zip(FINDINGS, visits.grade[row].tolist(), strict=True))
    reported = dict(zip(CHEXPERT_14, visits.reported[row].tolist(), strict=True))
    findings = {name: Finding(severity[name], *places[name]) for name in FINDINGS}
    view = "AP" if visits.bedside[row] else "PA"
    seeds = rng.integers(2**62, size=1 + int(rng.random() < _SECOND_VIEW)).tolist()
    return Study(
        patient=patient,
        number=number,
        sex=person.sex,
        age=person.age,
        view=view,
        films=tuple(Film(person, view, findings, bool(visits.devices[row]), seed, site) for seed in seeds),
        severity=severity,
        reported=reported,
        truth=dict(zip(CHEXPERT_14, visits.truth[row].tolist(), strict=True)),
        report=report_text(reported, {name: Wording(grades[name], *places[name]) for name in FINDINGS}, rng),
    )


def sample_study(seed: int, stream: str, index: int, setting: str | ChestSetting = "default") -> Study:
    """Draws the first study of a patient; see ``iter_studies``."""
    return next(iter_studies(seed, stream, index, setting))


def render_study(study: Study, size: int, film: int = 0) -> np.ndarray:
    """Renders one film of a study as uint8 ``[size, size]``, bright is dense."""
    return render_film(study.films[film], size)


def map_chunks(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], jobs: int, chunk: int = 24
) -> Iterator[Result]:
    """Applies ``work`` to chunks of ``items`` in order, in ``jobs`` processes, or in this one if ``jobs`` is 1.

    Args:
        work: A function at the top level of a module, or a partial of one, so that a fresh process can import it.
        items: What to work on; picklable.
        jobs: Number of processes. Scripts that ask for more than 1 need the ``if __name__ == "__main__"`` guard.
        chunk: Items per call.

    Yields:
        The results, in the order of the items.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be at least 1")
    parts = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    if jobs == 1 or len(parts) < 2:
        yield from map(work, parts)
        return
    # A forked copy of a process that runs threads (torch does) may deadlock: start clean ones.
    method = "forkserver" if os.name == "posix" else "spawn"
    with ProcessPoolExecutor(min(jobs, len(parts)), multiprocessing.get_context(method)) as pool:
        yield from pool.map(work, parts)


@dataclass(frozen=True)
class ChestArrays:
    """Generated films in memory; row i of everything belongs to image i.

    Attributes:
        images: uint8 ``[n, size, size]``, bright is dense.
        reports: Report texts.
        truth: Consensus labels, columns ``CHEXPERT_14``, 0 or 1.
        labels: Report labels, columns ``CHEXPERT_14``: 1, 0, -1 or NaN.
        severity: Drawn severity of each of ``FINDINGS``.
        info: ``patient`` and ``study`` numbers, ``sex`` (1 female), ``age`` in years and ``view`` (``AP`` or ``PA``).
    """

    images: np.ndarray
    reports: list[str]
    truth: pd.DataFrame
    labels: pd.DataFrame
    severity: pd.DataFrame
    info: pd.DataFrame

    @property
    def patients(self) -> np.ndarray:
        """Patient number ``[n]`` of each image, for splits by patient."""
        return self.info["patient"].to_numpy()


def plan_films(
    n_images: int, seed: int, stream: str, setting: str | ChestSetting, max_studies: int = MAX_STUDIES
) -> list[tuple[Study, int]]:
    """Draws patients until they have ``n_images`` films; returns (study, number of the film from 0) for each film."""
    plan: list[tuple[Study, int]] = []
    index = 0
    while len(plan) < n_images:
        for study in iter_studies(seed, stream, index, setting):
            plan.extend((study, k) for k in range(len(study.films)))
            if study.number >= max_studies:
                break
        index += 1
    return plan[:n_images]


def generate(
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "pretrain",
    size: int = 128,
    jobs: int = 1,
    *,
    stream: str = "pretrain",
    max_studies: int = MAX_STUDIES,
) -> ChestArrays:
    """Generates films in memory, for pre-training and for tests.

    Args:
        n_images: Number of films.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels; films below 192 px are drawn at 192 and reduced.
        jobs: Processes; any number gives the same bytes.
        stream: Key of ``STREAMS``; the default shares no patient with any benchmark split of any seed.
        max_studies: Studies per patient at most.

    Returns:
        Images, reports and tables.
    """
    plan = plan_films(n_images, seed, stream, setting, max_studies)
    films = [study.films[k] for study, k in plan]
    images = np.empty((len(films), size, size), np.uint8)
    done = 0
    for part in map_chunks(functools.partial(_render_chunk, size=size), films, jobs):
        images[done : done + len(part)] = part
        done += len(part)
    studies = [study for study, _ in plan]
    return ChestArrays(
        images=images,
        reports=[study.report for study in studies],
        truth=pd.DataFrame([study.truth for study in studies], columns=list(CHEXPERT_14)),
        labels=pd.DataFrame([study.reported for study in studies], columns=list(CHEXPERT_14)),
        severity=pd.DataFrame([study.severity for study in studies], columns=list(FINDINGS)),
        info=pd.DataFrame(
            [(s.patient, s.number, s.sex, s.age, s.view) for s in studies],
            columns=["patient", "study", "sex", "age", "view"],
        ),
    )


def _render_chunk(films: Sequence[Film], size: int) -> np.ndarray:
    return np.stack([render_film(film, size) for film in films])


def severity_ceiling(setting: str | ChestSetting = "default", n: int = 4000, seed: int = 0) -> dict[str, float]:
    """AUC of the drawn severity against the truth: what a model that read the films perfectly would reach.

    Args:
        setting: Name of a setting, or a setting.
        n: Number of patients, one study each; nothing is rendered.
        seed: Seed, not negative.

    Returns:
        Finding -> AUC in [0, 1], NaN where all or none of the patients have it.
    """
    rng = np.random.default_rng([seed, STREAMS["ceiling"]])
    visits = sample_visits(sample_disease(rng, n), setting_named(setting).ap_log_odds, rng)
    truth = {name: visits.truth[:, CHEXPERT_14.index(name)] == 1 for name in FINDINGS}
    return {name: _auc(visits.severity[:, i], truth[name]) for i, name in enumerate(FINDINGS)}


def _auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return math.nan
    ranks = pd.Series(score).rank().to_numpy()
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
