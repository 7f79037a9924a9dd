"""Identifiers that only the generators give: a phantom cohort is known by them where its marker was not copied along.

Each form is one that no real cohort can have, and a cohort is a phantom only if every identifier in it has that form:
ADNI ends at site 941, CheXpert has five digits, the RSNA challenge has random UUIDs (version 4), SIIM-ACR identifiers
begin with 1.2.276, NIH ChestX-ray14 ends at patient 30,805, MIMIC-CXR at subject 19,999,999, OASIS-1, -2 and -3 at
subjects 457, 186 and about 1,500, where the phantoms begin at 9,000, and CT-RATE at patient 20,000 and M3D-Cap below
case 30,000, where they begin at 900,001. IU X-ray ends at study 3,999, VQA-RAD has images of five digits, SLAKE ends at
image 641, and PMC-VQA's articles have numbers of seven digits. ABIDE I ends at subject 51,607 and calls no site
``Site1``. fMRIPrep's derivatives have any names; those of the phantom are of its own form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PTID = re.compile(r"(\d{3})_S_(\d{4})")
_FORMS = {
    "chexpert": re.compile(r"patient9\d{5}"),
    "rsna": re.compile(r"ffffffff-0000-4000-8000-[0-9a-f]{12}"),
    "siim": re.compile(r"2\.25\.999\.\d+\.\d+\.\d+"),
    "nih": re.compile(r"00(?:09\d{4}|[1-9]\d{5})"),
    "mimic": re.compile(r"p99\d{6}"),
    "oasis": re.compile(r"OAS(?:[12]_|3|IS[123])9\d{3}"),
    "iu_xray": re.compile(r"CXR9\d{4}"),
    "vqa_rad": re.compile(r"synpic99\d{4}"),
    "slake": re.compile(r"xmlab9\d{4}"),
    "pmc_vqa": re.compile(r"PMC99\d{6}"),
    "ct_rate": re.compile(r"(?:train|valid)_9\d{5}"),
    "m3d": re.compile(r"9\d{5}"),
    "abide": re.compile(r"Site\d+_009\d{4}"),
    "fmriprep": re.compile(r"sub-90\d{4}"),
    "bids_eeg": re.compile(r"sub-phantom\d{3}"),
    "tuh": re.compile(r"phantom\d{3}"),
}
_IN_PATHS = {
    "adni": re.compile(r"\d{3}_S_\d{4,5}|(?<=sub-ADNI)\d{3}S\d{4,5}"),
    "chexpert": re.compile(r"(?<![^/])patient\d+(?=/)"),
    "rsna": re.compile(r"(?<![^/])[^/]+(?=\.(?:dcm|dicom|png|jpe?g)$)", re.IGNORECASE),
    "siim": re.compile(r"(?<![^/])[^/]+(?=\.(?:dcm|dicom|png|jpe?g)$)", re.IGNORECASE),
    "nih": re.compile(r"(?<![^/])\d{8}(?=_\d{3}\.(?:png|jpe?g)$)", re.IGNORECASE),
    "mimic": re.compile(r"(?<![^/])p\d{8}(?=/s\d{8}/)"),
    "oasis": re.compile(r"OAS(?:[12]_|3|IS[123])\d{4}(?!\d)"),
    "iu_xray": re.compile(r"(?<![^/])CXR\d+"),
    "vqa_rad": re.compile(r"(?<![^/])synpic\d+"),
    "slake": re.compile(r"(?<![^/])xmlab\d+(?=/)"),
    "pmc_vqa": re.compile(r"(?<![^/])PMC\d+"),
    "ct_rate": re.compile(r"(?<![^/])(?:train|valid)_\d+(?=_?[a-z]+(?:_\d+\.nii(?:\.gz)?$|/))"),
    "abide": re.compile(r"(?<![^/])[^/]+(?=_(?:func|rois)_)"),
    "fmriprep": re.compile(r"(?<![^/])sub-[A-Za-z0-9]+(?=/)"),
    "m3d": re.compile(r"(?<=ct_case/)[^/]+(?=/)|(?<=ct_quizze/)[^/]+(?=/)"),
    "bids_eeg": re.compile(r"(?<![^/])sub-[A-Za-z0-9]+(?=/)"),
    "tuh": re.compile(r"(?<![^/])[a-z0-9]+(?=_s?\d+_?[^/]*\.edf$)"),
}
_OF_MIMIC = re.compile(r"(?:^|/)p\d{8}/s\d{8}/")


def made_up(kind: str, identifiers: Iterable[str]) -> bool:
    """Whether there are identifiers, and all of them are the generator's.

    Args:
        kind: ``adni`` (PTIDs), ``chexpert`` (``patient...``), ``rsna`` and ``siim`` (names of images), ``nih`` (eight
            digits of a patient), ``mimic`` (``p...``), ``oasis`` (``OAS1_...``, ``OAS3...``), ``ct_rate``
            (``train_...``, ``valid_...``), ``m3d`` (numbers of cases), ``iu_xray`` (``CXR...``), ``vqa_rad``
            (``synpic...``), ``slake`` (``xmlab...``), ``pmc_vqa`` (``PMC...``), ``abide`` (``Site1_009...``),
            ``fmriprep`` (``sub-90....``), ``bids_eeg`` (``sub-...``) or ``tuh`` (names of patients); of any other kind
            nothing is known, so the answer is no.
        identifiers: Of people or images.

    Example:
        >>> made_up("adni", ["999_S_9123"]), made_up("adni", ["999_S_9123", "941_S_1311"]), made_up("adni", [])
        (True, False, False)
    """
    different = set(map(str, identifiers))
    return bool(different) and all(_is_made_up(kind, each) for each in different)


def _is_made_up(kind: str, identifier: str) -> bool:
    if kind == "adni":  # sites count down from 999, a thousand subjects each: 999_S_9000 and up, 998_S_8000 and up
        match = _PTID.fullmatch(identifier)
        return match is not None and int(match[1]) == 990 + int(match[2]) // 1000
    return kind in _FORMS and _FORMS[kind].fullmatch(identifier) is not None


def made_up_paths(kind: str, paths: Iterable[str]) -> bool:
    """The same from the names of files and of the folders above them, relative to the cohort's folder.

    Pairs of MIMIC-CXR beside another cohort say nothing of that cohort.
    """
    form = _IN_PATHS.get(kind)
    if form is None:
        return False
    phantoms: set[str] = set()
    for path in paths:
        if kind in ("rsna", "siim") and _OF_MIMIC.search(path):
            continue
        phantoms.update(form.findall(path))
    return made_up(
        kind, (f"{each[:3]}_S_{each[4:]}" if kind == "adni" and each[3] == "S" else each for each in phantoms)
    )
