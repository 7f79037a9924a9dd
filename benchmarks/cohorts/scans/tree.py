"""Which scans a BIDS tree with derivatives has of whom: T1, PET with its reference region, diffusion maps.

Raw images lie in ``sub-*/[ses-*/]{anat,pet}``, maps and masks in ``derivatives/<pipeline>/`` under the same folders;
the names of the files count, not those of the folders. A map is ``*_model-tensor_param-fa_dwimap.nii.gz`` (BIDS
Extension Proposal 16) or ``*_desc-FA_dwimap.nii.gz``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.cohorts.files.walking import not_raw, walk
from medgraft.benchmarks.cohorts.scans.dmri import MAPS

_NAME = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?(.*?_?)([A-Za-z0-9]+)\.nii(?:\.gz)?$")
_PARAMETER = re.compile(r"(?:param|desc)-(fa|md|ad|rd)(?:_|$)", re.IGNORECASE)
_AT_REST = re.compile(r"task-rest.*_space-MNI152NLin[A-Za-z0-9]+_.*desc-preproc")
_LABEL = re.compile(r"label-([A-Za-z0-9]+)")
_PASSED_OVER = ("sourcedata", "code", "stimuli", "__macosx")


@dataclass
class Session:
    """The files of one person's session.

    Attributes:
        t1: T1 images, the preferred one first: derivatives before raw data.
        pet: PET images, likewise.
        atlas: Segmentations of a PET image.
        masks: Label of a region -> masks of it that lie beside PET images.
        maps: Name of a diffusion map -> files.
        runs: Preprocessed runs of fMRI at rest.
    """

    t1: list[Path] = field(default_factory=list)
    pet: list[Path] = field(default_factory=list)
    atlas: list[Path] = field(default_factory=list)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    maps: dict[str, list[Path]] = field(default_factory=dict)
    runs: list[Path] = field(default_factory=list)

    def add(self, kind: str, entities: str, path: Path, *, in_pet: bool) -> None:
        """Takes a file in.

        Args:
            kind: BIDS suffix.
            entities: What stands between session and suffix.
            path: The file.
            in_pet: It lies in a folder ``pet``.
        """
        if kind == "T1w":
            self.t1.append(path)
        elif kind == "pet":
            self.pet.append(path)
        elif kind == "dseg" and in_pet:
            self.atlas.append(path)
        elif kind == "mask" and in_pet and (label := _LABEL.search(entities)):
            self.masks.setdefault(label[1].lower(), []).append(path)
        elif kind == "bold" and _AT_REST.search(entities):
            self.runs.append(path)
        elif kind == "dwimap" and (parameter := _PARAMETER.search(entities)):
            self.maps.setdefault(parameter[1].upper(), []).append(path)

    def several(self) -> list[str]:
        """Kinds of which there is more than one file; the first is used."""
        kinds = {"T1 image": self.t1, "PET image": self.pet, "atlas of a PET image": self.atlas}
        kinds["run of fMRI"] = self.runs
        kinds |= {f"{name} map": self.maps.get(name, []) for name in MAPS}
        kinds |= {f"{name} mask": files for name, files in self.masks.items()}
        return [kind for kind, files in kinds.items() if len(files) > 1]


def find_scans(root: Path) -> tuple[dict[tuple[str, str], Session], Counter[str]]:
    """(Participant, session or empty) -> files, and notes on what there is more than one of.

    Args:
        root: Folder with ``sub-*`` and ``derivatives``.
    """
    sessions: dict[tuple[str, str], Session] = {}
    for here in sorted(walk(root, _passed_over), key=lambda each: (not _derived(each.inside), each.inside)):
        for name in here.files:
            if (match := _NAME.match(name)) is None:
                continue
            subject, session, entities, kind = match.groups()
            in_pet = here.inside.rpartition("/")[2] == "pet"
            found = sessions.setdefault((subject, session or ""), Session())
            found.add(kind, entities, Path(here.path) / name, in_pet=in_pet)
    notes = Counter(f"more than one {kind} of a session; the first is used" for s in sessions.values()
                    for kind in s.several())  # fmt: skip
    return {key: sessions[key] for key in sorted(sessions)}, notes


def _passed_over(inside: str) -> bool:
    return inside.rpartition("/")[2].lower() in _PASSED_OVER


def _derived(inside: str) -> bool:
    return any(not_raw(part) for part in inside.split("/"))
