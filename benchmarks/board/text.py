"""Numbers as a board shows them, and what its files may hold: no formula for a spreadsheet, no path of the machine."""

from __future__ import annotations

import re
import shlex

import pandas as pd

from medgraft.commands.plain_text import spreadsheet_text


def with_interval(metric: tuple[float | None, float | None, float | None] | None) -> str:
    """``value [low, high]``."""
    if metric is None or metric[0] is None:
        return "-"
    value, low, high = metric
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def count(value: float | None) -> str:
    """Large counts in thousands and millions.

    Example:
        >>> count(969217), count(512), count(None)
        ('969.2k', '512', '-')
    """
    if value is None:
        return "-"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:g}"


def as_csv(frame: pd.DataFrame) -> str:
    """A table as CSV in which no cell is a formula to a spreadsheet; such a one begins with an apostrophe."""
    safe = frame.map(lambda value: spreadsheet_text(value) if isinstance(value, str) else value)
    return safe.rename(columns=spreadsheet_text).to_csv(index=False)


PATH = re.compile(r"(?P<before>^|[=@:,|])(?:file://)?(?:~[^/\s]*)?/[^,|@]*?(?P<name>[^/,|@]*)(?=$|[,|@])")
"""An absolute path in a word of a command: at its start, or behind what separates names from places."""


def without_paths(command: str) -> str:
    """A command without absolute paths, which may name people, projects and machines.

    The folder of a cohort becomes ``PATH``, of any other path the last part stays.

    Example:
        >>> without_paths("medgraft run --data adni=/data/x/ADNI --encoders timm:vit@/home/me/w.pt --results /srv/r1")
        'medgraft run --data adni=PATH --encoders timm:vit@w.pt --results r1'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # no command line of a shell
        return re.sub(r"(?<![\w.])/\S+", "PATH", command)
    shown, data = [], False
    for word in words:
        name = word.partition("=")[0]
        if data or name == "--data":
            cohort = word.removeprefix("--data=") if name == "--data" else word
            left = f"{word.removesuffix(cohort)}{cohort.partition('=')[0]}"
            word = f"{left}=PATH" if "=" in cohort else word
        else:
            word = PATH.sub(lambda match: f"{match['before']}{match['name'] or 'PATH'}", word)
        data = word == "--data"
        shown.append(word)
    return shlex.join(shown)


PLACES = re.compile(r"file://\S+|(?<![\w.:/<])~?/[\w.~@+-]+(?:/[\w.~@+-]*)+|\b[A-Za-z]:\\[\w.~@+ -]*(?:\\[\w.~@+ -]*)*")
"""Absolute paths of two parts or more in prose; addresses of the web are none."""


def prose_without_paths(text: str) -> str:
    r"""Text of others, such as a message, without absolute paths, whose last part may name a person's file.

    Example:
        >>> prose_without_paths("cannot read /srv/data/p17/scan.nii: 3 samples/s, see https://example.org/a/b")
        'cannot read PATH: 3 samples/s, see https://example.org/a/b'
    """
    return PLACES.sub("PATH", text)
