"""Writer of phantom chest cohorts in the layout of the real CheXpert download, marked as generated."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14, COMPETITION_5, exclusive_class
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.phantoms.chest.labels import sample_disease, sample_place, sample_visits
from medgraft.benchmarks.phantoms.chest.renderer import render_film
from medgraft.benchmarks.phantoms.chest.studies import (
    FINDINGS,
    GENERATOR_VERSION,
    SETTINGS,
    STREAMS,
    ChestArrays,
    ChestSetting,
    Film,
    Study,
    generate,
    iter_studies,
    map_chunks,
    plan_films,
    render_study,
    sample_person,
    sample_study,
    setting_named,
    severity_ceiling,
    study_of,
)
from medgraft.errors import ConfigError, DataError

__all__ = [
    "GENERATOR_VERSION",
    "SETTINGS",
    "ChestArrays",
    "ChestSetting",
    "Study",
    "exclusive_studies",
    "generate",
    "iter_studies",
    "render_study",
    "sample_study",
    "setting_named",
    "severity_ceiling",
    "write_cohort",
]

logger = logging.getLogger(__name__)

FOLDER = "CheXpert-v1.0-small"
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_14)
PLUS_COLUMNS = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order"),
    *("report", "section_narrative", "section_clinical_history", "section_history", "section_comparison"),
    *("section_technique", "section_procedure_comments", "section_findings", "section_impression"),
    *("section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race"),
    *("ethnicity", "interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split"),
)

# The real patients end below 65,000, so a phantom can never be taken for one of them or be joined with one.
_FIRST_PATIENT = {"train": 900_001, "valid": 970_001, "test": 980_001, "5x200": 990_001, "end": 1_000_001}
_SEARCH_BLOCK = 8192
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class _Row:
    """One image of the cohort: its study, which film of it, the split and the number that the patient goes by."""

    study: Study
    film: int
    split: str
    patient: str

    @property
    def path(self) -> str:
        # The real five-class set is drawn from the training images, so its files lie among them.
        folder = "train" if self.split == "5x200" else self.split
        return f"{folder}/{self.patient}/study{self.study.number}/view{self.film + 1}_frontal.jpg"


def exclusive_studies(per_class: int, seed: int, setting: str | ChestSetting = "default") -> list[Study]:
    """Draws studies whose report asserts exactly one of the five competition findings, and nothing else.

    This is the rule of the CheXpert 5x200 set (Huang et al. 2021, GLoRIA). Such studies are rare, so latents and report
    labels are drawn in blocks, and only the accepted patients are completed; nothing is rendered.

    Args:
        per_class: Studies per finding.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.

    Returns:
        ``5 * per_class`` studies, each of a patient of its own, in the order of ``COMPETITION_5``.
    """
    site, by_target = setting_named(setting), {target: [] for target in range(len(COMPETITION_5))}
    block = 0
    while any(len(studies) < per_class for studies in by_target.values()):
        search = np.random.default_rng([seed, STREAMS["5x200 search"], block])
        disease = sample_disease(search, _SEARCH_BLOCK)
        visits = sample_visits(disease, site.ap_log_odds, search)
        targets = exclusive_class(pd.DataFrame(visits.reported, columns=list(CHEXPERT_14)))
        for row in np.flatnonzero(targets >= 0).tolist():
            studies = by_target[int(targets[row])]
            if len(studies) == per_class:
                continue
            index = block * _SEARCH_BLOCK + row
            rng = np.random.default_rng([seed, STREAMS["5x200"], index])
            person = sample_person(disease.factors[row, 0], rng)
            places = {name: sample_place(name, rng) for name in FINDINGS}
            studies.append(study_of(visits, row, person, places, site, rng, patient=index, number=1))
        block += 1
    return [study for studies in by_target.values() for study in studies]


def write_cohort(
    out: Path,
    *,
    n_train: int,
    n_valid: int,
    n_test: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    n_5x200_per_class: int = 200,
    jobs: int = 1,
) -> None:
    """Writes a phantom cohort in the layout of CheXpert: tables, JPEG files, reports and the phantom marker.

    Training labels are those of simulated reports; validation and test labels are the truth, and their patients have
    one study each, as in the real cohort. Patients of all splits and of the five-class set are disjoint. The folder
    appears whole or not at all.

    Args:
        out: Folder to create; it may exist if it is empty.
        n_train: Images in the training split; likewise ``n_valid`` and ``n_test``. A split of 0 is not written.
        n_valid: See ``n_train``.
        n_test: See ``n_train``.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels.
        n_5x200_per_class: Images per class of ``chexpert_5x200.csv``; 0 leaves the file out.
        jobs: Processes; any number gives the same bytes.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    counts = {"train": n_train, "valid": n_valid, "test": n_test, "5x200": n_5x200_per_class}
    if min(counts.values()) < 0 or not any(counts.values()) or seed < 0 or size < 16:
        raise ConfigError(f"image counts {counts}, seed {seed} and size {size} must not be negative, and size >= 16")
    site = setting_named(setting)
    rows = {split: _plan(split, count, seed, site) for split, count in counts.items() if count}
    with appearing(out) as folder:
        images = folder / FOLDER
        images.mkdir()
        files = [(row.study.films[row.film], str(images / row.path)) for part in rows.values() for row in part]
        for _ in map_chunks(functools.partial(_write_films, size=size), files, jobs):
            pass
        for split, part in rows.items():
            _write_table(images, split, part)
        _plus_table(row for split in ("train", "valid") for row in rows.get(split, ())).to_csv(
            images / "df_chexpert_plus_240401.csv", index=False
        )
        marker = {
            "generator": GENERATOR_VERSION,
            "setting": site.name,
            "seed": seed,
            "config": {"images": counts, "size": size, "site": site.__dict__},
            "statement": "generated; no person",
        }
        (folder / PHANTOM_MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %d phantom radiographs to %s", len(files), out)


def _plan(split: str, count: int, seed: int, site: ChestSetting) -> list[_Row]:
    """Draws the images of one split and numbers its patients."""
    if split == "5x200":
        films = [(study, 0) for study in exclusive_studies(count, seed, site)]
    elif split == "train":
        films = plan_films(count, seed, split, site)
    else:
        films = plan_films(count, seed, split, site, max_studies=1)
    numbers = {index: i for i, index in enumerate(dict.fromkeys(study.patient for study, _ in films))}
    first, splits = _FIRST_PATIENT[split], list(_FIRST_PATIENT)
    room = _FIRST_PATIENT[splits[splits.index(split) + 1]] - first
    if len(numbers) > room:
        raise ConfigError(f"{split} would need {len(numbers)} patients; a phantom cohort has room for {room}")
    return [_Row(study, film, split, f"patient{first + numbers[study.patient]}") for study, film in films]


def planned(config: Mapping[str, Any], seed: int, site: ChestSetting) -> dict[str, Study]:
    """``patient900001/study1`` -> what was drawn, of what a marker says; nothing is rendered.

    The five-class set, whose studies are searched for, is left out.
    """
    counts = config["images"]
    parts = [_plan(split, int(counts[split]), seed, site) for split in ("train", "valid", "test") if counts[split]]
    return {f"{row.patient}/study{row.study.number}": row.study for part in parts for row in part}


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yields a new folder beside ``out`` that takes its name at the end, or vanishes if anything fails."""
    out = Path(out)
    refusal = f"{out} exists and is not an empty folder; name a new one or remove it first"
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(refusal)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{uuid.uuid4().hex[:12]}"
    partial.mkdir()
    try:
        yield partial
        if out.is_dir():
            out.rmdir()
        os.rename(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and out.exists():  # another process was faster
            raise DataError(refusal) from error
        raise


def _write_films(files: Sequence[tuple[Film, str]], size: int) -> int:
    for film, path in files:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        image = Image.fromarray(render_film(film, size))
        image.save(path, "JPEG", quality=_JPEG_QUALITY, comment=b"phantom; not a person")
    return len(files)


def _write_table(folder: Path, split: str, rows: Sequence[_Row]) -> None:
    scheme = "report" if split in ("train", "5x200") else "truth"
    records = []
    for row in rows:
        study = row.study
        person = (f"{FOLDER}/{row.path}", "Female" if study.sex else "Male", study.age, "Frontal", study.view)
        records.append(person + tuple(study.labels(scheme)[label] for label in CHEXPERT_14))
    table = pd.DataFrame(records, columns=list(COLUMNS))
    name = f"{split}.csv"
    if split == "5x200":
        name, table = "chexpert_5x200.csv", table.fillna(dict.fromkeys(CHEXPERT_14, 0.0))
        table["Report Impression"] = [row.study.report for row in rows]
    table.to_csv(folder / name, index=False)


def _plus_table(rows: Iterable[_Row]) -> pd.DataFrame:
    """Reports in the columns of CheXpert Plus (Chambon et al. 2024); what a phantom does not have stays blank."""
    records = []
    for row in rows:
        study = row.study
        narrative = f"RADIOGRAPHIC EXAMINATION OF THE CHEST, {study.view} VIEW."
        records.append(
            {
                "path_to_image": row.path,
                "frontal_lateral": "Frontal",
                "ap_pa": study.view,
                "deid_patient_id": row.patient,
                "patient_report_date_order": study.number,
                "report": f"NARRATIVE:\n{narrative}\n\nIMPRESSION:\n{study.report}",
                "section_narrative": narrative,
                "section_impression": study.report,
                "age": study.age,
                "sex": "Female" if study.sex else "Male",
                "split": row.split,
            }
        )
    return pd.DataFrame(records, columns=list(PLUS_COLUMNS))
