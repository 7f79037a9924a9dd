"""Writes phantom OASIS cohorts, each in the layout of its study or of Clinica's conversion of it.

The people are those of the brain phantom's setting ``oasis``. Their diagnosis becomes a Clinical Dementia Rating: 0 for
CN, 0.5 for MCI, 1 or 2 for AD. What is special to a study is there too: OASIS-1 has people under 60 without a rating
and second sessions within 90 days; OASIS-2 people who convert, blank scores and further scans of a session; OASIS-3
clinical visits on other days than the scans, and some scans too far from any.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.phantoms.brain.latents import (
    DIAGNOSES,
    LATENTS,
    STREAM_AGEING,
    STREAM_COHORT,
    STREAM_SCORES,
    BrainSetting,
    Subject,
    bayes_macro_f1,
    clinical_scores,
    draw_ageing,
    get_setting,
    make_scanners,
    plan_subject,
    setting_record,
)
from medgraft.benchmarks.phantoms.brain.oasis_layouts import Session, image_path, write_tables
from medgraft.benchmarks.phantoms.brain.raw import as_acquired
from medgraft.benchmarks.phantoms.brain.renderer import (
    GENERATOR_VERSION,
    brain_renderer,
    check_seed,
    one_thread,
    subject_anatomy,
    visit_rng,
    worker_pool,
)
from medgraft.benchmarks.phantoms.brain.writing import in_thousandths, save_volume, write_analyze, write_processed
from medgraft.errors import ConfigError

STUDIES = ("oasis1", "oasis2", "oasis3")
LAYOUTS = ("archive", "bids")
DAYS_PER_MONTH = 365.25 / 12
MOST_SUBJECTS = 1000
_YOUNG, _REPEATED, _CONVERTS, _LATE = 5, 6, 4, 9
"""Every so manieth person is under 60 and unrated, has a second session, converts, or is scanned long after."""


@dataclass(frozen=True)
class _Job:
    """All that a worker needs to make one subject."""

    index: int
    study: str
    seed: int
    setting: BrainSetting
    spacing: float
    layout: str
    form: str
    max_visits: int
    root: Path
    cache_dir: Path | None


def write_oasis(
    out: Path,
    *,
    study: str,
    n_subjects: int,
    seed: int,
    setting: str | BrainSetting = "oasis",
    spacing: float = 3.0,
    layout: str = "archive",
    form: str = "processed",
    max_visits: int = 3,
    jobs: int = 1,
    cache_dir: Path | None = None,
) -> None:
    """Renders and writes a cohort. The same arguments give the same bytes, whatever ``jobs`` is.

    Args:
        out: Folder that does not exist or is empty.
        study: ``oasis1``, ``oasis2`` or ``oasis3``.
        n_subjects: 1..1000.
        seed: 0 and up, below 2^32.
        setting: Name in :data:`~medgraft.benchmarks.phantoms.brain.latents.SETTINGS`, with diagnoses.
        spacing: Edge of a voxel, mm.
        layout: ``archive``: as distributed. ``bids``: as Clinica's converter writes OASIS-1 and OASIS-3.
        form: ``processed``: corrected and in the template's space. ``raw``: as from the scanner, see
            :mod:`~medgraft.benchmarks.phantoms.brain.raw`; what OASIS-1 distributes is processed.
        max_visits: Visits per subject at most, 1..5; OASIS-1 has one, and OASIS-2 two or more.
        jobs: Processes.
        cache_dir: Folder of the prepared template; None for the user's cache.

    Raises:
        ConfigError: An argument is out of range, or they do not go together.
    """
    setting = get_setting(setting)
    _check(study, n_subjects, layout, form, max_visits, setting)
    check_seed(seed)
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    tasks = [
        _Job(index, study, seed, setting, spacing, layout, form, max_visits, root, cache_dir)
        for index in range(n_subjects)
    ]
    with contextlib.ExitStack() as stack:
        if jobs == 1:
            stack.enter_context(one_thread())
            results: Iterator[list[Session]] = map(_make_subject, tasks)
        else:
            results = stack.enter_context(worker_pool(jobs, spacing, cache_dir)).map(_make_subject, tasks, chunksize=4)
        sessions = [session for subject in results for session in subject]
    write_tables(root, sessions, study, layout)
    config = {
        "study": study,
        "setting": setting_record(setting),
        "n_subjects": n_subjects,
        "spacing": spacing,
        "layout": layout,
        "form": form,
        "max_visits": max_visits,
    }
    _write_marker(root, setting, seed, config)
    _write_truth(root, sessions, layout)


def subject_sessions(setting: BrainSetting, study: str, seed: int, index: int, *, max_visits: int = 3) -> list[Session]:
    """Plans the sessions of one subject, with scores and days but without images (volumes stay empty)."""
    subject, rated = _person(setting, study, seed, index, max_visits)
    scanners = make_scanners(setting)
    scanner = scanners[subject.site if study == "oasis3" else 0]  # one scanner at 1.5 T in OASIS-1 and -2
    rng = np.random.default_rng([seed, STREAM_COHORT, index])
    months = (0,) if study == "oasis1" else tuple(12 * k for k in range(_count(subject, study, max_visits)))
    converts = study == "oasis2" and subject.dx == 0 and index % _CONVERTS == 0
    sessions = []
    for number, month in enumerate(months, start=1):
        draws = np.random.default_rng([seed, STREAM_SCORES, index, month])
        dx = subject.dx_at(month)
        shift = 0.0
        if converts and number > 1:
            dx, shift = 1, 1.0
        cognition = subject.cognition + 1.3 * subject.rate * month / 12
        cognition += shift * (setting.cognition[1] - setting.cognition[0])
        clinic_day = 0 if not month else int(month * DAYS_PER_MONTH + rng.integers(-20, 21))
        late = study == "oasis3" and number == len(months) > 1 and index % _LATE == 0
        sessions.append(
            Session(
                subject=subject,
                study=study,
                code=_code(seed, index),
                number=number,
                month=month,
                clinic_day=clinic_day,
                day=clinic_day + (int(rng.integers(0, 181)) if study == "oasis3" else 0) + (500 if late else 0),
                scanner=scanner,
                dx=dx if rated else None,
                rating=(0.0, 0.5, 2.0 if cognition > setting.cognition[2] + 1.5 else 1.0)[dx] if rated else math.nan,
                scores=clinical_scores(draws, setting, cognition, subject.female, subject.education),
                atrophy=_atrophy(setting, subject, month, shift),
                sessions=len(months),
                converts=converts,
            )
        )
    if study == "oasis1" and subject.dx == 0 and index % _REPEATED == 0:
        again = replace(sessions[0], number=2, month=1, day=int(rng.integers(1, 90)))
        sessions.append(again)
    return sessions


def _person(setting: BrainSetting, study: str, seed: int, index: int, max_visits: int) -> tuple[Subject, bool]:
    """One person, and whether there is a rating: OASIS-1's people under 60 are healthy and have none."""
    subject = plan_subject(setting, seed, index, max_visits=max_visits)
    if study != "oasis1" or index % _YOUNG != _YOUNG - 1:
        return subject, True
    age, female, atrophy = draw_ageing(np.random.default_rng([seed, STREAM_AGEING, index]), setting)
    return replace(subject, dx=0, age=age, female=female, atrophy=atrophy, conversion_month=math.inf, rate=0.0), False


def _count(subject: Subject, study: str, max_visits: int) -> int:
    return max(2, subject.n_visits) if study == "oasis2" else min(subject.n_visits, max_visits)


def _atrophy(setting: BrainSetting, subject: Subject, month: int, shift: float) -> tuple[float, float, float]:
    step = shift * (setting.mu[1] - setting.mu[0])
    hippocampus, ventricles, sulci = (
        value + step * loading for value, loading in zip(subject.atrophy_at(month), setting.loading, strict=True)
    )
    return hippocampus, ventricles, sulci


def _code(seed: int, index: int) -> int:
    """Number of subject ``index``, 9000 to 9999, in an order that says nothing about the subject."""
    return 9000 + int(_order(seed)[index])


@lru_cache(maxsize=16)
def _order(seed: int) -> Any:
    return np.random.default_rng([seed, STREAM_COHORT, 2**31]).permutation(MOST_SUBJECTS)


def _make_subject(job: _Job) -> list[Session]:
    """Renders and writes the images of one subject; returns its sessions with volumes."""
    renderer = brain_renderer(job.spacing, job.cache_dir)
    sessions = subject_sessions(job.setting, job.study, job.seed, job.index, max_visits=job.max_visits)
    if job.layout == "bids":  # Clinica keeps the first of two sessions that it gives one name
        sessions = list({session.bids_names: session for session in reversed(sessions)}.values())[::-1]
    anatomy = subject_anatomy(renderer, job.seed, job.index, sessions[0].subject.female)
    out = []
    for session in sessions:
        rng = visit_rng(job.seed, job.index, session.month)
        image, volumes = renderer.render(rng, anatomy, session.atrophy, session.scanner)
        path = job.root / image_path(session, job.layout)
        if job.study == "oasis1" and job.layout == "archive":
            write_analyze(path, in_thousandths(image), job.spacing)
        elif job.form == "raw":
            save_volume(path, *as_acquired(image, renderer.affine, job.seed, job.index, session.month))
        else:
            write_processed(path, image, renderer.affine)
        out.append(replace(session, volumes=volumes))
    return out


def _check(study: str, n_subjects: int, layout: str, form: str, max_visits: int, setting: BrainSetting) -> None:
    if study not in STUDIES:
        raise ConfigError(f"study {study!r} is unknown; choose {', '.join(STUDIES)}")
    if not 1 <= n_subjects <= MOST_SUBJECTS:
        raise ConfigError(f"n_subjects is {n_subjects}; a phantom of OASIS has 1 to {MOST_SUBJECTS} subjects")
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is unknown; choose {' or '.join(LAYOUTS)}")
    if form not in ("processed", "raw"):
        raise ConfigError(f"form {form!r} is unknown; choose processed or raw")
    if layout == "bids" and study == "oasis2":
        raise ConfigError("Clinica does not convert OASIS-2, so there is no BIDS layout of it; use layout archive")
    if form == "raw" and study == "oasis1" and layout == "archive":
        raise ConfigError("OASIS-1 distributes processed images in atlas space (T88_111); use form processed")
    least = 2 if study == "oasis2" else 1
    if not least <= max_visits <= 5:
        raise ConfigError(f"max_visits is {max_visits}; {study} has {least} to 5 visits")
    if not setting.diagnosed:
        raise ConfigError(f"setting {setting.name!r} has no diagnoses; choose one that has, such as oasis")


def _write_marker(root: Path, setting: BrainSetting, seed: int, config: dict[str, Any]) -> None:
    record = {
        "generator": GENERATOR_VERSION,
        "setting": setting.name,
        "seed": seed,
        "config": config,
        "bayes": {name: round(value, 4) for name, value in bayes_macro_f1(setting).items()},
        "statement": "generated; no person",
    }
    (root / PHANTOM_MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_truth(root: Path, sessions: list[Session], layout: str) -> None:
    """What a reader must not know: latents and the generator's own diagnosis, one record per session."""
    records = [
        {
            "subject": session.name,
            "number": session.number,
            "day": session.day,
            "image": image_path(session, layout).as_posix(),
            "dx": DIAGNOSES[session.subject.dx if session.dx is None else session.dx],
            "rated": session.dx is not None,
            **dict(zip(LATENTS, session.atrophy, strict=True)),
            "age": session.age,
        }
        for session in sessions
    ]
    (root / "truth.json").write_text(json.dumps(records) + "\n", encoding="utf-8")
