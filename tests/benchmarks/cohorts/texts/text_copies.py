"""Small copies of cohorts of texts in their published layouts, made by hand; images are grey ramps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RAMP = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))


def images(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        RAMP.save(path)


def vqa_rad(root: Path, rows: list[dict[str, Any]], present: Iterable[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    base = {
        "qid": "0",
        "phrase_type": "freeform",
        "image_case_url": "",
        "image_organ": "CHEST",
        "question_type": "PRES",
        "answer_type": "CLOSED",
        "answer": "Yes",
        "question": "Is it normal?",
        "image_name": "synpic1.jpg",
    }
    records = [{**base, "qid": str(i), **row} for i, row in enumerate(rows)]
    (root / "VQA_RAD Dataset Public.json").write_text(json.dumps(records), encoding="utf-8")
    images(root / "VQA_RAD Image Folder", present)
    return root


def slake(root: Path, splits: dict[str, list[dict[str, Any]]], present: Iterable[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    base = {
        "q_lang": "en",
        "answer_type": "OPEN",
        "content_type": "Organ",
        "question": "Which organ?",
        "answer": "Lung",
    }
    qid = 0
    for name, rows in splits.items():
        records = []
        for row in rows:
            records.append({**base, "qid": qid, **row})
            qid += 1
        (root / f"{name}.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    images(root / "imgs", present)
    return root


def pmc_vqa(root: Path, tables: dict[str, list[str]], present: Iterable[str], *, label: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    head = "Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D" + (",Answer_label" if label else "")
    for name, rows in tables.items():
        (root / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    images(root / "images", present)
    return root


def openi(root: Path, reports: dict[str, tuple[str, str, list[str]]], present: Iterable[str]) -> Path:
    """``reports``: name of the file -> findings, impression, ids of images."""
    folder = root / "ecgen-radiology"
    folder.mkdir(parents=True)
    for name, (findings, impression, ids) in reports.items():
        parents = "".join(f'<parentImage id="{each}"><caption>Chest</caption></parentImage>' for each in ids)
        (folder / f"{name}.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{name.split("-")[0]}"/><MedlineCitation>'
            '<Article><Abstract><AbstractText Label="INDICATION">Cough</AbstractText>'
            f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
            f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>'
            f"{parents}</eCitation>",
            encoding="utf-8",
        )
    images(root / "NLMCXR_png", present)
    return root


def r2gen(root: Path, parts: dict[str, list[Any]], present: Iterable[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotation.json").write_text(json.dumps(parts), encoding="utf-8")
    images(root / "images", present)
    return root
