"""ADNI's blood arrays: ``ADNI_Gene_Expression_Profile.csv``, an Affymetrix U219 array for each of 744 people.

The table lies on its side below a block of facts: eight rows ``Phase``, ``Visit``, ``SubjectID``, ``260/280``,
``260/230``, ``RIN``, ``Affy Plate`` and ``YearofCollection``, the row ``ProbeSet, LocusLink, Symbol``, and a row for
each of 49,386 probe sets with a name of the gene in the last column again. Values are RMA-normalised, thus logarithms.
Rows and names are recalled from the distributed file and its description, not checked against a copy; facts are found
by their names in the first column, in whichever order they stand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.columns import subject_id
from medgraft.benchmarks.cohorts.adni.merge import find_merge, folders_below, read_merge, to_floats
from medgraft.benchmarks.cohorts.omics.expression import Expression, numbers_of, one_column_each, read_expression
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table
from medgraft.benchmarks.cohorts.tables.table_rows import dialect_of
from medgraft.errors import DataError

HEADER = "probeset"
FACTS = {"visit": "visit", "subjectid": "subject", "rin": "rin", "phase": "phase"}
MOST_FACTS = 40
"""Rows in which the header of the probe sets is looked for."""
PROFILE = re.compile(r".*gene[_ ]?expression[_ ]?profile.*\.csv(\.gz)?", re.IGNORECASE)
PLAIN = re.compile(r"expression\.(csv|tsv|txt)(\.gz)?|expression\.h5ad", re.IGNORECASE)
SCORES = "polygenic_scores.csv"
PTID = re.compile(r"\d{3}_S_\d{4,5}")
_MANY = re.compile(r"\s*(?:\|\||///|;)\s*")


def find_profile(root: Path) -> Path:
    """The table of expression in a folder or below it: ADNI's own, or ``expression.csv``, ``.tsv`` or ``.h5ad``.

    Raises:
        DataError: There is none, or more than one.
    """
    folders = (root, *folders_below(root))
    for form in (PROFILE, PLAIN):
        found = [path for folder in folders for path in sorted(folder.glob("*")) if form.fullmatch(path.name)]
        if len(found) > 1:
            raise DataError(f"{root} holds {len(found)} tables of expression, {found[0].name} and others; keep one")
        if found:
            return found[0]
    raise DataError(
        f"{root} holds no table of expression; put ADNI_Gene_Expression_Profile.csv there, or expression.csv, .tsv or "
        ".h5ad with a row for each PTID and a column for each gene"
    )


def read_profile(path: Path) -> tuple[Expression, pd.DataFrame]:
    """Expression by gene, and the facts of its samples.

    Args:
        path: ADNI's table, or a plain one whose rows are named by PTIDs.

    Returns:
        The expression, and a table with the columns ``subject``, ``visit`` (empty where not said) and ``rin``, a row
        for each of its rows.

    Raises:
        DataError: It is not laid out as said above.
    """
    if not PROFILE.fullmatch(path.name):
        plain = read_expression(path)
        names = [subject_id(each) for each in plain.samples]
        return plain, pd.DataFrame({"subject": names, "visit": "", "rin": np.nan})
    top = _cells(path, 0, MOST_FACTS)
    starts = [str(each).strip().lower() for each in top.iloc[:, 0]]
    if HEADER not in starts:
        raise DataError(f"{path.name} has no row ProbeSet in its first {MOST_FACTS}; it is no profile of ADNI")
    begins = starts.index(HEADER)
    header = [str(each).strip().lower() for each in top.iloc[begins]]
    facts = {FACTS[name]: top.iloc[k] for k, name in enumerate(starts[:begins]) if name in FACTS}
    if "subject" not in facts or "symbol" not in header:
        raise DataError(f"{path.name} has no row SubjectID or no column Symbol; it is no profile of ADNI")
    probes = _cells(path, begins + 1, None)
    subjects = [subject_id(each) for each in facts["subject"]]
    columns = [k for k, subject in enumerate(subjects) if PTID.fullmatch(subject)]
    if probes.empty or not columns:
        raise DataError(f"{path.name} holds {len(probes)} probe sets of {len(columns)} people; it is no profile")
    return _profile(probes, header.index("symbol"), columns, subjects, facts)


def _profile(
    probes: pd.DataFrame, symbol: int, columns: list[int], subjects: list[Any], facts: dict[str, pd.Series]
) -> tuple[Expression, pd.DataFrame]:
    """Expression of the people in ``columns``, and facts of them; ``symbol`` is the column of the probe sets' genes."""
    report = ReadReport()
    genes = [_gene(each, report) for each in probes.iloc[:, symbol]]
    values = numbers_of(probes.iloc[:, columns], report).T
    table = one_column_each(values, genes, [str(k) for k in columns], report)

    def fact(name: str) -> list[Any]:
        return [facts[name].iloc[k] if name in facts else "" for k in columns]

    rin = to_floats(pd.Series(fact("rin"))).to_numpy(float)
    visit = [str(each).strip().lower() for each in fact("visit")]
    return table, pd.DataFrame({"subject": [subjects[k] for k in columns], "visit": visit, "rin": rin})


def _gene(symbol: Any, report: ReadReport) -> str:
    """The gene of a probe set; of several the first, with a note."""
    names = [name for name in _MANY.split(str(symbol).strip()) if name]
    if len(names) > 1:
        report.note("a probe set of several genes; it counts for the first")
    return names[0] if names else ""


def _cells(path: Path, skipped: int, rows: int | None) -> pd.DataFrame:
    """Cells of some lines as they are, without names of columns."""
    dialect = dialect_of(path, ",")
    how: dict[str, Any] = {"sep": dialect.sep, "encoding": dialect.encoding, "encoding_errors": "replace"}
    how |= {"compression": "gzip" if dialect.packed else None, "skip_blank_lines": False, "low_memory": False}
    try:
        return pd.read_csv(path, header=None, skiprows=skipped + dialect.skipped, nrows=rows, **how)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, EOFError) as error:
        raise DataError(f"{path.name} could not be read as a table ({error})") from error


def people_of(root: Path, samples: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """Diagnosis and facts of each sample, from ADNIMERGE and, where it is there, a table of polygenic scores.

    The diagnosis is that of the sample's visit where its code is ADNIMERGE's (``bl``, ``m24``), else the subject's
    first one, since ADNI2's own codes (``v03``) are in no table that lies beside it.

    Args:
        root: Folder of the tables.
        samples: See :func:`read_profile`, ``n`` rows.
        report: Takes counts.

    Returns:
        ``n`` rows: ``subject``, ``dx`` (CN, MCI, AD or None), ``dx_source``, ``age``, ``sex``, ``apoe4``,
        ``education``, ``site`` and ``prs`` (NaN where unknown).

    Raises:
        DataError: There is no ADNIMERGE.
    """
    place = find_merge(root, report)
    if place is None:
        raise DataError(f"{root} has a table of expression and no ADNIMERGE, which has the diagnoses; put it there")
    visits = read_merge(place, report).sort_values("month", kind="stable")
    known: Any = visits[visits["dx"].notna()]
    first = known.drop_duplicates("subject").set_index("subject")
    by_visit = known.drop_duplicates(["subject", "session"]).set_index(["subject", "session"])
    rows = []
    for subject, visit in zip(samples["subject"], samples["visit"], strict=True):
        if (subject, visit) in by_visit.index:
            rows.append({"subject": subject, "dx_source": "the sample's visit", **by_visit.loc[(subject, visit)]})
        elif subject in first.index:
            rows.append({"subject": subject, "dx_source": "the first visit", **first.loc[subject]})
        else:
            rows.append({"subject": subject, "dx_source": "none", "dx": None})
    people: Any = pd.DataFrame(rows)
    columns = ["subject", "dx", "dx_source", "age", "sex", "apoe4", "education", "site"]
    return people.reindex(columns=columns).assign(prs=_scores(root, list(samples["subject"]), report))


def _scores(root: Path, subjects: list[str], report: ReadReport) -> np.ndarray:
    """Polygenic score of each subject, NaN where there is none."""
    if not (root / SCORES).is_file():
        return np.full(len(subjects), np.nan)
    table = read_table(root / SCORES, ("PTID", "PRS"))
    scores = dict(zip(map(subject_id, table["PTID"]), to_floats(pd.Series(table["PRS"])), strict=True))
    values = np.array([scores.get(subject, np.nan) for subject in subjects], float)
    if missing := int(np.isnan(values).sum()):
        report.note(f"a sample without a score in {SCORES}", missing)
    return values
