"""Sections of the free-text reports of MIMIC-CXR.

Johnson et al., "MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports",
Scientific Data 2019. A report is plain text with headings in capitals and a colon; which headings it has varies, and
names and dates are replaced by underscores.
"""

from __future__ import annotations

import re
from typing import Literal

Wanted = Literal["findings+impression", "impression", "findings"]
WANTED: tuple[Wanted, ...] = ("findings+impression", "impression", "findings")

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ()/,&-]{2,60}):", re.MULTILINE)
_SAME = {
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "summary": "impression",
    "findings": "findings",
    "finding": "findings",
    "findings and impression": "findings and impression",
    "findings/impression": "findings and impression",
}
_UNDERSCORES = re.compile(r"_{2,}")


def report_sections(text: str) -> dict[str, str]:
    """Splits a report at its headings.

    Args:
        text: The report.

    Returns:
        Heading in lower case, spelling variants joined -> its text on one line, de-identification marks taken out.
        Of a heading that comes twice the last text that is not empty counts, as addenda repeat headings.
    """
    heads = list(_HEADING.finditer(text))
    sections: dict[str, str] = {}
    for i, head in enumerate(heads):
        end = heads[i + 1].start() if i + 1 < len(heads) else len(text)
        name = " ".join(head[1].lower().split())
        body = one_line(text[head.end() : end])
        if body:
            sections[_SAME.get(name, name)] = body
    return sections


def one_line(text: str) -> str:
    """Text without line breaks, repeated blanks and de-identification marks.

    Example:
        >>> one_line("No change   since ___ .")
        'No change since .'
    """
    return " ".join(_UNDERSCORES.sub("", text).split())


def caption(sections: dict[str, str], section: Wanted) -> str:
    """The part of a report that is paired with the image; empty where the report has none of it.

    Args:
        sections: What :func:`report_sections` found.
        section: Findings, impression, or both in this order. Where only one of them was asked for and the report has
            only the other, that one is taken.
    """
    both = sections.get("findings and impression", "")
    findings, impression = (sections.get(name, "") for name in ("findings", "impression"))
    if section == "findings":
        return findings or both or impression
    if section == "impression":
        return impression or both or findings
    return " ".join(part for part in (findings, both, impression) if part)
