"""Which matrices a folder has of whom: names as BIDS gives them, or the person's own name and a word.

``sub-01/[ses-*/]connectivity/sub-01_meas-streamlines_relmat.tsv`` or ``.dense.tsv`` (BIDS Extension Proposal 17,
suffix ``relmat``); or ``functional/01.npy``, ``01_fc.csv`` and the like. Where any name says ``relmat``, other files
are passed over. ``participants.tsv`` or ``participants.csv`` in the folder says who the people are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import column_of, only_agreed, sexes, to_floats
from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table, renamed
from medgraft.errors import DataError

ENDINGS = (".npy", ".csv", ".tsv", ".txt")
TABLES = ("participants.tsv", "participants.csv")
COLUMNS = {
    "participant_id": ("subject", "subject_id", "id"),
    "diagnosis": ("dx", "group", "dx_group", "diagnosis_group"),
    "age": ("age_at_scan", "age_years"),
    "sex": ("gender",),
    "site": ("site_id", "scanner", "scanner_id"),
}
"""Column of the table of people -> further spellings."""

TWICE = "person twice in the table with different facts; they are not used"
SEVERAL = "session with more than one matrix of a kind"
_SESSION = re.compile(r"(?<![A-Za-z0-9])ses-([A-Za-z0-9]+)")
_WORDS = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Connectomes:
    """One row for each session that has a matrix of each kind.

    Attributes:
        frame: ``subject``, ``session`` (empty where names say none), ``dx`` (a word or None), ``age`` (years), ``sex``
            (F, M or None) and ``site`` (a word or None).
        files: Of each row, one for each kind.
        report: What was used, left out and repaired.
    """

    frame: pd.DataFrame
    files: list[tuple[Path, ...]]
    report: ReadReport


def read_connectomes(root: Path, *, kinds: Sequence[str] = (), column: str = "") -> Connectomes:
    """Reads the table of people and finds their matrices.

    Args:
        root: The folder.
        kinds: A word for each kind of weights, that stands in the names of its files or of their folders; empty where a
            person has one matrix.
        column: Of the table that holds the diagnosis; found by its name where it is empty.

    Raises:
        DataError: There is no table or no such column, or nobody has a matrix of each kind, or people have several
            matrices and ``kinds`` does not tell them apart.
    """
    root, report = Path(root), ReadReport()
    people = _people(root, column, report)
    found = _matrices(root, people.index, report)
    _check_kinds(found, kinds, root)
    rows, files = [], []
    for (subject, session), named in found.items():
        chosen = [[path for words, path in named if not kinds or kind.lower() in words] for kind in kinds or ("",)]
        if any(not each for each in chosen):
            report.skip("session without a matrix of each kind")
        elif any(len(each) > 1 for each in chosen):
            report.skip(SEVERAL)
        else:
            rows.append({"subject": subject, "session": session, **people.loc[subject].to_dict()})
            files.append(tuple(each[0] for each in chosen))
    if without := len(set(people.index) - {subject for subject, _ in found}):
        report.skip("person of the table without a matrix", count=without)
    if not rows:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        raise DataError(
            f"{root} has no matrix of each kind of anybody in its table ({reasons}); name files by their people, as "
            "sub-01_relmat.tsv or 01_fc.npy"
        )
    report.used = len(rows)
    return Connectomes(pd.DataFrame(rows), files, report)


def _people(root: Path, column: str, report: ReadReport) -> pd.DataFrame:
    """Facts of people by their names, as the table has them."""
    place = next((root / name for name in TABLES if (root / name).is_file()), None)
    if place is None:
        raise DataError(f"{root} has no {' or '.join(TABLES)}; put a table of the people there")
    raw = read_table(place, (), "\t" if place.suffix == ".tsv" else ",")
    if column and column not in raw.columns:
        raise DataError(f"{place} has no column {column}; it has: {', '.join(map(str, raw.columns[:30]))}")
    table = renamed(raw, COLUMNS)
    if "participant_id" not in table:
        raise DataError(f"{place} has no column participant_id; it has: {', '.join(map(str, raw.columns[:30]))}")
    facts = pd.DataFrame(
        {
            "subject": [_word(value) or "" for value in column_of(table, "participant_id")],
            "dx": [_word(value) for value in (raw[column] if column else column_of(table, "diagnosis"))],
            "age": to_floats(column_of(table, "age")).to_numpy(),
            "sex": sexes(column_of(table, "sex"), report).to_numpy(object),
            "site": [_word(value) for value in column_of(table, "site")],
        },
        dtype=object,
    )
    facts = pd.DataFrame(facts[facts["subject"] != ""])
    before = len(set(facts["subject"]))
    repeated = facts[facts.duplicated("subject", keep=False)]
    odd = {str(name) for name, rows in repeated.groupby("subject") if rows.drop_duplicates().shape[0] > 1}
    if odd:
        report.skip(TWICE, count=len(odd))
    facts = only_agreed(facts, "subject", TWICE, ReadReport(), "row of a person that stands there already")
    assert len(set(facts["subject"])) == before
    return facts[~facts["subject"].isin(list(odd))].set_index("subject").astype({"age": float})


def _word(value: Any) -> str | None:
    """A fact as a word, None where it is missing; whole numbers lose their point."""
    if pd.isna(value) or str(value).strip().lower() in ("", "n/a", "nan"):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()


Found = dict[tuple[str, str], list[tuple[frozenset[str], Path]]]


def _matrices(root: Path, people: pd.Index, report: ReadReport) -> Found:
    """(Person, session) -> words of a file's name, and the file."""
    known = {str(name).removeprefix("sub-"): str(name) for name in people}
    files: list[tuple[bool, str]] = []
    for here in walk(root, lambda inside: inside.rpartition("/")[2].lower() in ("sourcedata", "code")):
        named = [name for name in here.files if name.lower().endswith(ENDINGS) and name.lower() not in TABLES]
        files += [("relmat" in name, here.inner(name)) for name in named if not name.startswith("PHANTOM")]
    if any(relmat for relmat, _ in files):
        files = [each for each in files if each[0]]
    found: Found = {}
    for _, inside in files:
        subject = _whose(inside, known)
        if subject is None:
            report.skip("matrix of nobody in the table")
            continue
        session = _SESSION.search(inside)
        words = frozenset(word.lower() for word in _WORDS.findall(inside.rpartition(".")[0]))
        found.setdefault((subject, session[1] if session else ""), []).append((words, root / inside))
    return {key: found[key] for key in sorted(found)}


def _whose(inside: str, known: dict[str, str]) -> str | None:
    """The person whose name a file's begins with, the longest of several, or a folder's above it is."""
    *folders, name = inside.split("/")
    stem = name.removeprefix("sub-")
    ends = [match.start() for match in re.finditer(r"[^A-Za-z0-9]", stem)]
    for end in sorted(ends, reverse=True):
        if stem[:end] in known:
            return known[stem[:end]]
    return next(
        (known[folder.removeprefix("sub-")] for folder in folders if folder.removeprefix("sub-") in known), None
    )


def _check_kinds(found: Found, kinds: Sequence[str], root: Path) -> None:
    """Refuses people with several matrices where no kinds are named, and kinds that nothing is named after."""
    several = [named for named in found.values() if len(named) > 1]
    if not kinds and len(several) > len(found) / 2:
        words = [each for each, _ in several[0]]
        apart = sorted(frozenset.union(*words) - frozenset.intersection(*words))
        raise DataError(
            f"{root} has several matrices of most sessions, such as {' and '.join(p.name for _, p in several[0][:2])}; "
            f"set kinds to a word for each that is read (they differ by: {', '.join(apart[:12]) or 'their endings'})"
        )
    words = Counter(word for named in found.values() for each, _ in named for word in each)
    if kinds and found and (unknown := [kind for kind in kinds if kind.lower() not in words]):
        raise DataError(
            f"no name of a matrix in {root} has the word {unknown[0]!r}, which kinds asks for; words there are: "
            f"{', '.join(word for word, _ in words.most_common(12))}"
        )


def upper(weights: np.ndarray) -> np.ndarray:
    """Weights above the diagonal, row by row, of matrices ``[E, R, R]``: ``[E, R (R - 1) / 2]``."""
    return weights[:, *np.triu_indices(weights.shape[1], 1)]


def whole(weights: np.ndarray) -> np.ndarray:
    """The symmetric matrices of :func:`upper`'s numbers, ``float32 [E, R, R]`` with a diagonal of 0.

    Example:
        >>> whole(np.array([[1.0, 2.0, 3.0]])).tolist()
        [[[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]]]
    """
    kinds, pairs = weights.shape
    regions = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    matrices = np.zeros((kinds, regions, regions), np.float32)
    matrices[:, *np.triu_indices(regions, 1)] = weights
    return matrices + matrices.swapaxes(1, 2)
