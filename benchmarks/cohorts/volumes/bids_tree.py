"""One walk through a BIDS tree, as Clinica's converters write it, or through a CAPS folder with registered images.

Sessions are ``ses-M00`` in old releases and ``ses-M000`` in new ones; both are read, and compared as numbers of months.
A session whose name is no month (``ses-01``) is left out: no table says when it was.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.files.walking import bids_ignored, walk
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

_IMAGE_NAME = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:ses-([A-Za-z0-9]+)_)?(.*_)?T1w\.nii(\.gz)?$")
_SESSION_NAME = re.compile(r"^(?:ses-)?(?:M(\d+)|bl)$", re.IGNORECASE)
_REGISTERED = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
_OWN_FOLDER = re.compile(r"(?:subjects/)?sub-[A-Za-z0-9]+(?:/|$)")
UNNAMED_SESSION = "image of a session that is not named ses-M<month>"


@dataclass
class BidsTree:
    """What one walk through a BIDS or CAPS tree finds.

    Attributes:
        images: (Participant, month) -> candidates, the smallest of which is used: whether it lies outside the subject's
            own folder, kind, name, path relative to the root.
        sessions: ``sub-*_sessions.tsv``.
        scans: ``*_scans.tsv``.
        sidecars: JSON files of images.
    """

    images: dict[tuple[str, int], list[tuple[bool, int, str, str]]] = field(default_factory=dict)
    sessions: list[Path] = field(default_factory=list)
    scans: list[Path] = field(default_factory=list)
    sidecars: set[str] = field(default_factory=set)


def looks_like_bids(root: Path) -> bool:
    """True for a folder with participants.tsv, or with ``sub-*`` folders directly or below ``subjects`` (CAPS)."""
    return (root / "participants.tsv").is_file() or any(root.glob("sub-*/")) or any(root.glob("subjects/sub-*/"))


def walk_bids(root: Path, report: ReadReport) -> BidsTree:
    """One walk. Below ``derivatives/`` only the images that CAPS registered are candidates, by their name."""
    tree, passed_over = BidsTree(), bids_ignored(root)

    def ignored(inside: str) -> bool:
        parts = inside.split("/")
        if parts[0].lower() != "derivatives":
            return passed_over(inside)
        return "subjects" not in parts[1:3] and len(parts) > 2  # derivatives/<pipeline>/subjects, as CAPS may lie there

    for here in walk(root, ignored):
        derived = here.inside.lower().startswith("derivatives")
        raw_folder = _OWN_FOLDER.match(here.inside) is not None
        for name in here.files:
            if name.endswith("_T1w.json"):
                tree.sidecars.add(f"{here.path}/{name}")
            elif name.endswith("_scans.tsv") and raw_folder:
                tree.scans.append(Path(here.path, name))
            elif name.endswith("_sessions.tsv") and raw_folder:
                tree.sessions.append(Path(here.path, name))
            elif match := _IMAGE_NAME.match(name):
                entities = match.group(3) or ""
                if derived and _REGISTERED not in entities:
                    continue
                month = months_of(match.group(2) or "")
                if month is None:
                    report.skip(UNNAMED_SESSION)
                    continue
                rank = (not raw_folder and not derived, _kind(entities), name, here.inner(name))
                tree.images.setdefault((match.group(1), month), []).append(rank)
    extra = sum(len(candidates) - 1 for candidates in tree.images.values())
    if extra:
        report.skip("another image of the same session", count=extra)
    return tree


def _kind(entities: str) -> int:
    """What is preferred: registered by CAPS, the plain image, another run of it, what was computed from it."""
    if _REGISTERED in entities:
        return 0
    return 1 if not entities else 3 if re.search(r"(?:^|_)(?:desc|space|res)-", f"_{entities}") else 2


def no_image(root: Path) -> DataError:
    """The error for a tree without a raw T1 image; names the folder of derived ones where there are only these."""
    homes = sorted({here.inside.split("/")[0] for here in walk(root) if any(map(_IMAGE_NAME.match, here.files))})
    if homes:
        where = " and ".join(f"{home}/" for home in homes)
        return DataError(
            f"{root} holds no raw T1 image, only others below {where}, no raw data in BIDS; to use these, name "
            "the folder in it that holds sub-*"
        )
    return DataError(f"{root} holds no T1 image; looked for sub-*_ses-M*_T1w.nii.gz in its sub-* or subjects folders")


def months_of(session: str) -> int | None:
    """Months since baseline from a session's name, with or without ``ses-``; None for a name that does not say."""
    match = _SESSION_NAME.match(session)
    return None if match is None else int(match.group(1) or 0)


def sidecar_of(image: Path, there: set[str]) -> dict[str, Any]:
    """The image's JSON sidecar; empty where there is none that can be read."""
    path = re.sub(r"\.nii(\.gz)?$", ".json", str(image))
    if path not in there:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
