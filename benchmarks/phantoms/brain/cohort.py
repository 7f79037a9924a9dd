"""Writes a phantom ADNI cohort in the layout of the real one, so that one reader and one command serve both.

Every subject is planned, rendered and written alone; the tables are written last and the folder appears under its name
only when it is complete. ``truth.json`` keeps the latents for tests and oracle baselines; no reader opens it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.phantoms.brain.latents import (
    LATENTS,
    STREAM_COHORT,
    STREAM_SCORES,
    VISIT_MONTHS,
    BrainSetting,
    bayes_macro_f1,
    clinical_scores,
    get_setting,
    make_scanners,
    plan_subject,
    setting_record,
)
from medgraft.benchmarks.phantoms.brain.layouts import Visit, write_bids_tables, write_loni_tables
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
from medgraft.benchmarks.phantoms.brain.writing import save_volume, write_processed
from medgraft.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

LAYOUTS = ("loni", "bids")
FORMS = ("processed", "raw")
VARIANT_SHARE = 0.15
"""Share of scans that exist twice, with different processing: a split by image instead of by subject leaks them."""
_MAX_SUBJECTS = 9000
_RESEARCH_GROUPS = ((("CN", 0.8), ("SMC", 0.2)), (("LMCI", 0.6), ("EMCI", 0.4)), (("AD", 1.0),))


@dataclass(frozen=True)
class _Job:
    """All that a worker needs to make one subject."""

    index: int
    seed: int
    setting: BrainSetting
    spacing: float
    layout: str
    form: str
    max_visits: int
    site_confound: float
    root: Path
    cache_dir: Path | None


def write_cohort(
    out: Path,
    *,
    n_subjects: int,
    seed: int,
    setting: str | BrainSetting = "default",
    spacing: float = 3.0,
    layout: str = "loni",
    form: str = "processed",
    max_visits: int = 5,
    jobs: int = 1,
    site_confound: float = 0.0,
    cache_dir: Path | None = None,
) -> None:
    """Renders and writes a cohort. The same arguments give the same bytes, whatever ``jobs`` is.

    A subject depends on ``seed`` and its index only: a larger cohort of one seed begins with the smaller one, and two
    settings of one seed share their random numbers, so that they can be compared in pairs.

    Args:
        out: Folder to make. It must not exist, or be empty.
        n_subjects: 1..9000.
        seed: 0 and up, below 2^32.
        setting: Name in :data:`~medgraft.benchmarks.phantoms.brain.latents.SETTINGS`, with diagnoses.
        spacing: Edge of a voxel, mm.
        layout: ``loni``: image archive tree, search table, ADNIMERGE. ``bids``: as Clinica's converter writes it, one
            image per session.
        form: ``processed``: corrected and in the template's space. ``raw``: as from the scanner, see
            :mod:`~medgraft.benchmarks.phantoms.brain.raw`; one image per session, for ``medgraft prepare``.
        max_visits: Visits per subject at most, 1..8 (bl, m06, m12, m24, m36, m48, m60, m72).
        jobs: Processes; more than 1 needs ``if __name__ == "__main__"`` around the entry of the calling script.
        site_confound: 0 for none; at 1 the site nearly tells the diagnosis.
        cache_dir: Folder of the prepared template; None for the user's cache.

    Raises:
        ConfigError: An argument is out of range, or the setting has no diagnoses.
        DataError: ``out`` is in use or cannot be written.
    """
    setting = get_setting(setting)
    _check(n_subjects, layout, form, max_visits, setting)
    check_seed(seed)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; name a new folder, or delete this one")
    with _complete_or_nothing(out) as root:
        tasks = [
            _Job(index, seed, setting, spacing, layout, form, max_visits, site_confound, root, cache_dir)
            for index in range(n_subjects)
        ]
        with contextlib.ExitStack() as stack:
            if jobs == 1:
                stack.enter_context(one_thread())
                results: Iterator[list[Visit]] = map(_make_subject, tasks)
            else:
                pool = stack.enter_context(worker_pool(jobs, spacing, cache_dir))
                results = pool.map(_make_subject, tasks, chunksize=4)
            visits = [visit for subject in results for visit in subject]
        (write_loni_tables if layout == "loni" else write_bids_tables)(root, visits)
        config = {
            "setting": setting_record(setting),
            "n_subjects": n_subjects,
            "spacing": spacing,
            "layout": layout,
            "max_visits": max_visits,
            "site_confound": site_confound,
            **({"form": form} if form == "raw" else {}),
        }
        _write_marker(root, setting, seed, config)
        _write_truth(root, visits, layout)
    logger.info("wrote %d subjects, %d visits to %s", n_subjects, len(visits), out)


def subject_visits(
    setting: BrainSetting, seed: int, index: int, *, max_visits: int = 5, site_confound: float = 0.0
) -> list[Visit]:
    """Plans the visits of one subject, with scores and dates but without images (volumes stay empty)."""
    subject = plan_subject(setting, seed, index, max_visits=max_visits, site_confound=site_confound)
    scanner = make_scanners(setting)[subject.site]
    rng = np.random.default_rng([seed, STREAM_COHORT, index])
    baseline = dt.date(2005 + int(rng.integers(9)), 1 + int(rng.integers(12)), 1 + int(rng.integers(27)))
    groups, weights = zip(*_RESEARCH_GROUPS[subject.dx], strict=True)
    research_group = str(rng.choice(groups, p=weights))
    visits = []
    for code, month in list(VISIT_MONTHS.items())[: subject.n_visits]:
        draws = np.random.default_rng([seed, STREAM_SCORES, index, month])
        wobble = 0.15 * draws.standard_normal() if month else 0.0
        cognition = subject.cognition + 1.3 * subject.rate * month / 12 + wobble
        visits.append(
            Visit(
                subject=subject,
                ptid=phantom_ptid(seed, index),
                scanner=scanner,
                code=code,
                date=baseline + dt.timedelta(days=int(month * 30.44)),
                baseline_date=baseline,
                research_group=research_group,
                scores=clinical_scores(draws, setting, cognition, subject.female, subject.education),
                cognition=cognition,
                has_variant=bool(rng.random() < VARIANT_SHARE),
            )
        )
    return visits


def phantom_ptid(seed: int, index: int) -> str:
    """Identifier of subject ``index``, ``<site>_S_<RID>``, unique within a cohort and impossible in ADNI.

    Sites count down from 999, a thousand subjects each; their RIDs come from 9000-9999, then 8000-8999 and so on, in an
    order that says nothing about the subject.
    """
    block, place = divmod(index, 1000)
    return f"{999 - block:03d}_S_{9000 - 1000 * block + int(_order(seed, block)[place]):04d}"


@lru_cache(maxsize=16)
def _order(seed: int, block: int) -> NDArray[Any]:
    return np.random.default_rng([seed, STREAM_COHORT, 2**31 + block]).permutation(1000)


def _make_subject(job: _Job) -> list[Visit]:
    """Renders and writes the images of one subject; returns its visits with volumes."""
    renderer = brain_renderer(job.spacing, job.cache_dir)
    visits = subject_visits(
        job.setting, job.seed, job.index, max_visits=job.max_visits, site_confound=job.site_confound
    )
    anatomy = subject_anatomy(renderer, job.seed, job.index, visits[0].subject.female)
    out = []
    for visit in visits:
        rng = visit_rng(job.seed, job.index, visit.month)
        image, volumes = renderer.render(rng, anatomy, visit.subject.atrophy_at(visit.month), visit.scanner)
        raw = job.form == "raw"
        if raw or job.layout == "bids":
            visit = replace(visit, has_variant=False, raw=raw)
        path = job.root / (visit.bids_path() if job.layout == "bids" else visit.loni_path())
        if raw:
            save_volume(path, *as_acquired(image, renderer.affine, job.seed, job.index, visit.month))
        elif job.layout == "bids":
            write_processed(path, image, renderer.affine)
        else:
            for variant in range(1 + visit.has_variant):
                processed = _other_processing(image) if variant else image
                write_processed(job.root / visit.loni_path(variant), processed, renderer.affine)
        out.append(replace(visit, volumes=volumes))
    return out


def _other_processing(image: NDArray[Any]) -> NDArray[Any]:
    """The same acquisition without one correction step: a shading from bottom to top and another overall scale."""
    shading = np.linspace(0.97, 1.03, image.shape[2], dtype=np.float32)
    return image * shading * np.float32(0.95)


def _check(n_subjects: int, layout: str, form: str, max_visits: int, setting: BrainSetting) -> None:
    if not 1 <= n_subjects <= _MAX_SUBJECTS:
        raise ConfigError(f"n_subjects is {n_subjects}; a phantom cohort has 1 to {_MAX_SUBJECTS} subjects")
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is unknown; choose {' or '.join(LAYOUTS)}")
    if form not in FORMS:
        raise ConfigError(f"form {form!r} is unknown; choose {' or '.join(FORMS)}")
    if not 1 <= max_visits <= len(VISIT_MONTHS):
        raise ConfigError(f"max_visits is {max_visits}; there are 1 to {len(VISIT_MONTHS)} visits")
    if not setting.diagnosed:
        raise ConfigError(f"setting {setting.name!r} has no diagnoses; use generate_ageing for it")


@contextlib.contextmanager
def _complete_or_nothing(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name at the end, or vanishes with the exception."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise DataError(f"cannot write a cohort to {out}: {error}") from error
    try:
        yield root
        root.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(root, out)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


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


def _write_truth(root: Path, visits: list[Visit], layout: str) -> None:
    """What a reader must not know: latents, conversion and the generator's own diagnosis, one record per visit."""
    records = []
    for visit in visits:
        subject = visit.subject
        path = visit.loni_path() if layout == "loni" else visit.bids_path()
        records.append(
            {
                "subject": visit.ptid,
                "session": visit.code,
                "month": visit.month,
                "image": path.as_posix(),
                "dx": visit.dx,
                **dict(zip(LATENTS, subject.atrophy_at(visit.month), strict=True)),
                "cognition": visit.cognition,
                "age": subject.age + visit.month / 12,
                "conversion_month": subject.conversion_month if math.isfinite(subject.conversion_month) else None,
                "site": visit.scanner.code,
            }
        )
    (root / "truth.json").write_text(json.dumps(records) + "\n", encoding="utf-8")
