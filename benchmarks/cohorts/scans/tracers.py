"""Which tracer a PET image shows, by the names that archives and BIDS give it; images of two tracers do not compare."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from medgraft.errors import DataError

Tracer = Literal["FDG", "AV45", "FBB", "PIB", "FMM", "NAV4694", "AV1451", "MK6240", "PI2620"]
TRACERS: tuple[str, ...] = get_args(Tracer)
UNTOLD = ""
"""The tracer of an image that says none."""

_WORDS: dict[str, str] = {
    "FDG": "fdg|fluorodeoxyglucose",
    "AV45": r"av-?45|florbetapir|fbp",
    "FBB": "fbb|florbetaben",
    "PIB": "pib|pittsburgh compound",
    "FMM": "fmm|flutemetamol",
    "NAV4694": r"nav-?4694|azd-?4694|flutafuranol",
    "AV1451": r"av-?1451|flortaucipir|ftp|t807",
    "MK6240": r"mk-?6240|florquinitau",
    "PI2620": r"pi-?2620",
}


def tracers_in(text: str) -> tuple[str, ...]:
    """Every tracer that a text names.

    Example:
        >>> tracers_in("AV45 Coreg, Avg"), tracers_in("FDG, then Florbetapir"), tracers_in("Averaged")
        (('AV45',), ('FDG', 'AV45'), ())
    """
    return tuple(name for name, form in _WORDS.items() if re.search(form, text, re.IGNORECASE))


def tracer_of(text: str) -> str:
    """The one tracer that a text names; :data:`UNTOLD` for none, and for several.

    Example:
        >>> tracer_of("AV45 Coreg, Avg"), tracer_of("18FFDG"), tracer_of("Florbetapir or PIB"), tracer_of("Averaged")
        ('AV45', 'FDG', '', '')
    """
    named = tracers_in(text)
    return named[0] if len(named) == 1 else UNTOLD


def chosen_tracer(counts: Mapping[str, int], wanted: str) -> str:
    """The tracer whose images are read.

    Args:
        counts: Tracer, or :data:`UNTOLD`, -> images.
        wanted: Of :data:`TRACERS`; ``any`` for images of all; ``one`` for the only one that there is.

    Returns:
        Of :data:`TRACERS`, a label of BIDS, :data:`UNTOLD`, or ``any``.

    Raises:
        DataError: There are several and one is wanted, or none of the one that is wanted.
    """
    there = {name: count for name, count in counts.items() if count}
    said = ", ".join(sorted(f"{name or 'unnamed'}: {count}" for name, count in there.items()))
    if wanted == "any" or not there:
        return "any"
    if wanted != "one":
        if wanted not in there:
            raise DataError(f"no PET image is of tracer {wanted} (there are {said}); set tracer to one of these")
        return wanted
    if len(there) > 1:
        raise DataError(
            f"the PET images are of several tracers, whose uptake does not compare ({said}); set tracer to one of "
            "them, or to any"
        )
    return next(iter(there))
