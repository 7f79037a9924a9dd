"""Titles that are whole: broken between words, and between the parts of long names, by measured widths."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from medgraft.benchmarks.figures.style import SMALL, TEXT
from medgraft.commands.plain_text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEPARATORS = (r"(?<=[:|,/+])", r"(?<=[_=@.-])")
"""Where names may be broken that are too long for a line, the better places first."""
MARGIN = 0.2
"""Inches beside a title that stay free."""


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Inches that a line of text takes at a size in points; a dollar sign is no formula."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        text.replace("$", r"\$"), FontProperties(family="DejaVu Sans", size=size), ismath=False
    )
    return float(width) / 72


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """Lines of a text that are no wider than ``inches``, where its parts allow that.

    Example:
        >>> wrapped("pair:phantom_chest|phantom_brain lora", 1.6, 10)
        ['pair:phantom_chest|', 'phantom_brain lora']
    """
    lines = [""]
    for word in text.split():
        for k, part in enumerate(_parts(word, inches, size)):
            joined = f"{lines[-1]} {part}".lstrip() if k == 0 else lines[-1] + part
            if lines[-1] and text_width(joined, size) > inches:
                lines.append(part)
            else:
                lines[-1] = joined
    return lines


def _parts(word: str, inches: float, size: float, level: int = 0) -> list[str]:
    """A word, or what it is put together of where it is too wide."""
    if level == len(SEPARATORS) or text_width(word, size) <= inches:
        return [word]
    return [
        piece for part in re.split(SEPARATORS[level], word) if part for piece in _parts(part, inches, size, level + 1)
    ]


def _fitted(text: str, inches: float, size: float) -> tuple[str, float]:
    """Lines of a title and the size at which they fit; what cannot be broken is made smaller, never cut."""
    room = inches - MARGIN
    lines = [line for each in text.split("\n") for line in wrapped(one_line(each), room, size)]
    widest = max(text_width(line, size) for line in lines)
    return "\n".join(lines), size if widest <= room else size * room / widest


def panel_title(axis: Axes, text: str, inches: float) -> None:
    """Puts a title above a panel that is ``inches`` wide, all of it."""
    title, size = _fitted(text, inches, SMALL)
    axis.set_title(title, fontsize=size, parse_math=False)


def figure_title(figure: Figure, text: str) -> None:
    """Puts a title above a figure, all of it."""
    title, size = _fitted(text, figure.get_figwidth(), TEXT)
    figure.suptitle(title, fontsize=size, parse_math=False)


def side_label(axis: Axes, text: str, inches: float) -> None:
    """Puts a label at the left side of a panel that is ``inches`` high, all of it."""
    title, size = _fitted(text, inches, SMALL)
    axis.set_ylabel(title, fontsize=size, parse_math=False)
