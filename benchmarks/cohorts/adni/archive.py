"""Image files of a download from ADNI's archive, by their numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.cohorts.files.walking import not_raw, walk

_IMAGE_NAME = re.compile(r"_I(\d+)\.(nii|nii\.gz|dcm)$", re.IGNORECASE)


@dataclass
class ImageIndex:
    """Image files below a folder, by image id.

    Attributes:
        volumes: Image id -> NIfTI file.
        dicom: Ids that exist as DICOM slices only.
        ambiguous: Ids that files of different names claim; which one is meant cannot be told.
        copies: Files left out because the same one lies there again (``.nii`` beside ``.nii.gz``).
    """

    volumes: dict[int, Path] = field(default_factory=dict)
    dicom: set[int] = field(default_factory=set)
    ambiguous: set[int] = field(default_factory=set)
    copies: int = 0


def index_images(root: Path) -> ImageIndex:
    """Walks the tree once and keeps every file whose name ends in ``_I<number>`` and a known suffix.

    Of one file that lies there several times the first by its path counts; what BIDS calls no raw data comes after all
    else, and files of one name and different sizes are different files.
    """
    index, files = ImageIndex(), {}
    for here in walk(root):
        late = any(not_raw(part) for part in here.inside.split("/"))
        for name in here.files:
            match = _IMAGE_NAME.search(name)
            if match is None:
                continue
            uid = int(match.group(1))
            if match.group(2).lower() == "dcm":
                index.dicom.add(uid)
            else:
                files.setdefault(uid, []).append((late, here.inner(name)))
    home = root.absolute()
    for uid, copies in files.items():
        raw = sorted(each for each in copies if not each[0]) or sorted(copies)
        index.volumes[uid] = home / raw[0][1]
        names = {each[1].rpartition("/")[2].lower() for each in raw}
        if len({name.split(".nii")[0] for name in names}) > 1 or (len(names) == 1 and _differ(home, raw)):
            index.ambiguous.add(uid)
        else:
            index.copies += len(copies) - 1
    index.dicom -= index.volumes.keys()
    return index


def _differ(home: Path, copies: list[tuple[bool, str]]) -> bool:
    return len(copies) > 1 and len({(home / inside).stat().st_size for _, inside in copies}) > 1
