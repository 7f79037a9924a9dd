"""Writes figures as SVG with alternative text, byte for byte the same for the same numbers."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg_text(figure: Figure, title: str, description: str) -> str:
    """A figure as SVG for people who see it, who hear it read and who search it.

    ``title`` and ``desc`` come first, as SVG 2 (section 5.7) and WAI-ARIA Graphics ask; the text in the figure stays
    text. No date and no version stands in it.

    Args:
        figure: Made inside of :func:`medgraft.benchmarks.figures.style.styled`.
        title: What it is, in a few words.
        description: What is seen in it, with the numbers that matter.
    """
    from medgraft.benchmarks.figures.style import styled

    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    name, said = escape(one_line(title)), escape(one_line(description))
    mark = hashlib.sha256(f"{name}\n{said}".encode()).hexdigest()[:8]  # several figures may stand on one page
    spoken = f'<title id="title-{mark}">{name}</title>\n <desc id="desc-{mark}">{said}</desc>'
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), count=1, flags=re.DOTALL)
    drawn = re.sub(
        r"(<svg\b[^>]*)>",
        lambda found: f'{found[1]} role="img" aria-labelledby="title-{mark} desc-{mark}">\n {spoken}',
        drawn,
        count=1,
    )
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def write_svg(figure: Figure, out: Path, title: str, description: str) -> None:
    """Writes a figure as :func:`svg_text` gives it.

    Raises:
        MedgraftError: The file cannot be written.
    """
    text = svg_text(figure, title, description)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MedgraftError(f"the figure cannot be written to {out}: {error}; choose another --out") from error
