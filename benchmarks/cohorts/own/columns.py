"""Which column of somebody's table is what, by its name.

A name is compared without case, blanks and punctuation. Of each role the strong names count first; a weak one, such as
``id``, counts where no strong one is there. Two strong names of one role are not chosen between: the user says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from medgraft.benchmarks.cohorts.tables.reading import folded
from medgraft.errors import DataError, UnknownNameError

AUTO, NONE = "auto", "none"
"""What an option says of a column that is to be found by its name, and of one that is not to be used."""


class Role(NamedTuple):
    """What a column may be.

    Attributes:
        strong: Names that mean it.
        weak: Names that may mean it; the first that is there counts.
        needed: Two strong names are an error; otherwise neither is used.
    """

    strong: tuple[str, ...]
    weak: tuple[str, ...] = ()
    needed: bool = True


ROLES = {
    "image": Role(
        ("image", "path", "file", "filename", "filepath", "imagepath", "imagefile", "imagefilename", "img", "imgpath"),
        ("scan", "volume", "nifti", "dicom", "relativepath", "imageindex", "imageid", "imagename"),
    ),
    "label": Role(
        ("label", "labels", "diagnosis", "target", "class", "dx", "finding", "findinglabels"),
        ("category", "outcome", "group", "y"),
    ),
    "subject": Role(
        ("patient", "subject", "participant", "patientid", "subjectid", "participantid", "ptid", "mrn"),
        ("pid", "person", "personid", "case", "caseid", "id"),
        needed=False,
    ),
    "text": Role(
        ("text", "report", "reporttext"),
        ("impression", "caption", "note", "notes", "description", "sentence"),
        needed=False,
    ),
    "split": Role(("split", "partition"), ("subset", "set", "phase"), needed=False),
    "time": Role(("time", "timetoevent", "survivaltime", "followuptime"), ("duration", "followup"), needed=False),
    "event": Role(("event", "eventobserved"), ("observed", "death", "status"), needed=False),
}
"""Role -> the names of its columns, folded."""


class Found(NamedTuple):
    """The column of a role.

    Attributes:
        column: Its name as the table has it; empty where there is none.
        others: Further columns that could be it.
    """

    column: str = ""
    others: tuple[str, ...] = ()


def find_column(role: str, header: Sequence[str], table: str) -> Found:
    """The column of a role by its name.

    Args:
        role: Of :data:`ROLES`.
        header: Names of the columns.
        table: Name of the file, for the error.

    Raises:
        DataError: Two names could be it, and one is needed.
    """
    kind = ROLES[role]
    strong = [name for name in header if folded(name) in kind.strong]
    if len(strong) > 1:
        exact = [name for name in strong if folded(name) == role]
        if role == "subject" and len(exact) == 1:  # `patient` beside `patient id` of a study
            return Found(exact[0], tuple(name for name in strong if name != exact[0]))
        if kind.needed:
            raise DataError(
                f"{table}: {' and '.join(strong)} could both be the {role}; say which: --set table.{role}={strong[0]}"
            )
        return Found("", tuple(strong))
    if strong:
        return Found(strong[0])
    weak = sorted(
        (name for name in header if folded(name) in kind.weak), key=lambda name: kind.weak.index(folded(name))
    )
    return Found(weak[0], tuple(weak[1:])) if weak else Found()


def named_column(role: str, name: str, header: Sequence[str]) -> str:
    """The column that a user names, whatever its case; empty for ``none``.

    Raises:
        UnknownNameError: The table has no such column; near ones are suggested.
    """
    if name == NONE:
        return ""
    if name in header:
        return name
    alike = [column for column in header if folded(column) == folded(name)]
    if len(alike) == 1:
        return alike[0]
    raise UnknownNameError(f"column for table.{role}", name, header)


@dataclass(frozen=True)
class Columns:
    """Which column is what; empty for none.

    Attributes:
        image: Of files.
        label: Of labels, one or several.
        subject: Of patients.
        text: Of texts, joined by line where there are several.
        split: Of splits.
        time: Of times.
        event: That says whether the event was seen.
        attributes: Further facts of a sample, such as sex, age or scanner.
        unused: Role -> columns that could be it and are not.
    """

    image: str = ""
    label: tuple[str, ...] = ()
    subject: str = ""
    text: tuple[str, ...] = ()
    split: str = ""
    time: str = ""
    event: str = ""
    attributes: tuple[str, ...] = ()
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def understood(header: Sequence[str], options: Any, table: str) -> Columns:
    """The columns of a table, by name as far as the options do not say otherwise.

    Args:
        header: Names of the columns.
        options: Of the task, see :class:`medgraft.benchmarks.cohorts.own.options.OwnConfig`.
        table: Name of the file, for errors.

    Raises:
        DataError: Two columns could be one thing that is needed.
        UnknownNameError: An option names a column that is not there.
    """
    hits: dict[str, tuple[str, ...]] = {}
    unused: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        said = getattr(options, role)
        if said not in (AUTO, (AUTO,)):
            names = (said,) if isinstance(said, str) else said
            hits[role] = tuple(column for name in names if (column := named_column(role, name, header)))
        elif role == "label" and options.objective == "survival":
            hits[role] = ()
        else:
            column, others = find_column(role, header, table)
            hits[role] = (column,) if column else ()
            unused |= {role: others} if others else {}
    if options.objective not in (AUTO, "survival") or hits["label"]:
        hits |= {role: () for role in ("time", "event") if getattr(options, role) == AUTO}
    used = {column for columns in hits.values() for column in columns}
    rest = tuple(name for name in header if name and name not in used and not name.startswith("Unnamed:"))
    one = {role: next(iter(hits[role]), "") for role in ("image", "subject", "split", "time", "event")}
    return Columns(**one, label=hits["label"], text=hits["text"], attributes=rest, unused=unused)
