"""Phantom twin of the Indiana University chest films (OpenI), in any of the three forms that it is handed on in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import pandas as pd

from medgraft.benchmarks.phantoms.chest.cohort import appearing
from medgraft.benchmarks.phantoms.chest.studies import ChestSetting, Study, setting_named
from medgraft.benchmarks.phantoms.chest.texts.plan import films_of, parted
from medgraft.benchmarks.phantoms.chest.writing import Job, check_numbers, drawn_masks, mark

Form = Literal["r2gen", "openi", "kaggle"]
_SERIES = "IM-{:04d}"


def write_iu_xray(
    out: Path,
    *,
    n_images: int,
    seed: int,
    setting: str | ChestSetting = "default",
    size: int = 256,
    form: Form = "r2gen",
    jobs: int = 1,
) -> None:
    """Writes a phantom of IU X-ray: one study of each person, with one frontal film.

    Args:
        out: Folder to create; it may exist if it is empty.
        n_images: Films, and persons.
        seed: Seed of the cohort, not negative.
        setting: Name of a setting, or a setting.
        size: Side of the images in pixels.
        form: ``r2gen`` has ``annotation.json`` with a split and ``images/CXR.../0.png``; ``openi`` the XML reports
            ``ecgen-radiology/*.xml`` and ``NLMCXR_png``; ``kaggle`` two tables and ``images/images_normalized``.
        jobs: Processes; any number gives the same bytes.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` is a file or a folder with something in it.
    """
    check_numbers(n_images, seed, size)
    site = setting_named(setting)
    films = films_of("iu_xray", n_images, seed, site)
    writer = {"r2gen": _r2gen, "openi": _openi, "kaggle": _kaggle}[form]
    with appearing(out) as folder:
        paths = writer(folder, films)
        plan = [Job(study, 0, name, paths[name]) for name, study in films.items()]
        drawn_masks(plan, size, jobs)
        mark(folder, site, seed, layout="iu_xray", form=form, images=n_images, size=size)


def _sections(study: Study) -> tuple[str, str]:
    """Findings and impression: the last sentence of a simulated report is its impression."""
    sentences = [f"{part.strip()}." for part in study.report.split(".") if part.strip()]
    return " ".join(sentences[:-1]), sentences[-1] if sentences else ""


def _r2gen(folder: Path, films: Mapping[str, Study]) -> dict[str, Path]:
    parts: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
    paths = {}
    for (name, split), study in zip(parted(list(films), 0.2, 0.1).items(), films.values(), strict=True):
        key = f"{name}_{_SERIES.format(1)}"
        paths[name] = folder / "images" / key / "0.png"
        record = {"id": key, "report": study.report, "image_path": [f"{key}/0.png"], "split": split}
        parts[split].append(record)
    (folder / "annotation.json").write_text(json.dumps(parts), encoding="utf-8")
    return paths


def _openi(folder: Path, films: Mapping[str, Study]) -> dict[str, Path]:
    (folder / "ecgen-radiology").mkdir()
    paths = {}
    for number, (name, study) in enumerate(films.items(), start=1):
        image = f"{name}_{_SERIES.format(number)}-1001"
        paths[name] = folder / "NLMCXR_png" / f"{image}.png"
        findings, impression = _sections(study)
        labelled = {"COMPARISON": "None.", "INDICATION": "Phantom.", "FINDINGS": findings, "IMPRESSION": impression}
        texts = "".join(f'<AbstractText Label="{key}">{escape(text)}</AbstractText>' for key, text in labelled.items())
        xml = (
            f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><uId id="{name}"/><MedlineCitation><Article><Abstract>'
            f"{texts}</Abstract></Article></MedlineCitation><MeSH/>"
            f'<parentImage id="{image}"><figureId>F1</figureId><caption>Chest, {study.view}</caption></parentImage>'
            "</eCitation>\n"
        )
        (folder / "ecgen-radiology" / f"{name.removeprefix('CXR')}.xml").write_text(xml, encoding="utf-8")
    return paths


def _kaggle(folder: Path, films: Mapping[str, Study]) -> dict[str, Path]:
    reports, projections, paths = [], [], {}
    for number, (name, study) in enumerate(films.items(), start=1):
        uid = int(name.removeprefix("CXR"))
        file = f"{uid}_{_SERIES.format(number)}-1001.dcm.png"
        paths[name] = folder / "images" / "images_normalized" / file
        words = (f"Xray Chest {study.view}", "Phantom.", "None.")
        reports.append((uid, "", "", *words, *_sections(study)))
        projections.append((uid, file, "Frontal"))
    columns = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    pd.DataFrame(reports, columns=columns).to_csv(folder / "indiana_reports.csv", index=False)
    table = pd.DataFrame(projections, columns=["uid", "filename", "projection"])
    table.to_csv(folder / "indiana_projections.csv", index=False)
    return paths
