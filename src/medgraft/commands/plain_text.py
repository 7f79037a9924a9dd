"""Foreign text made harmless to show: names, messages and notes come from plugins, files and other people's results.

A terminal obeys escape sequences, a spreadsheet runs what begins like a formula, a Markdown page follows markup, and a
reader is misled by characters that turn the direction of writing.
"""

from __future__ import annotations

import logging
import re
import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what has no glyph: controls, formats (bidirectional overrides among them), surrogates,
private and unassigned code points, separators of lines and paragraphs. Unicode Standard, section 4.5."""

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula, wide forms as well."""

MARKUP = re.compile(r"[\\`*|$~&<>_@]|\][(\[:]|://|www\.")
"""What :func:`markdown_text` changes something of; most cells of a board are numbers and have none of it."""


def plain(text: str, keep: str = "") -> str:
    r"""Text whose characters without a glyph are written out.

    Args:
        text: Any text.
        keep: Characters that stay, such as a newline.

    Example:
        >>> plain("\x1b[31mred \u202etxt.exe")
        '\\x1b[31mred \\u202etxt.exe'
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _is_hidden(c) else _written_out(c) for c in text)


def one_line(text: str, longest: int | None = None) -> str:
    r"""The same in one line, white space joined; of at most ``longest`` characters, the last one then an ellipsis.

    Example:
        >>> one_line("first\n  second\x07", 14)
        'first second\\…'
    """
    joined = plain(" ".join(text.split()))
    return joined if longest is None or len(joined) <= longest else joined[: longest - 1] + "…"


def markdown_text(text: str) -> str:
    r"""Text that a Markdown page shows as it is: no cell, code, link, tag, emphasis or formula of its own.

    Square brackets alone stay as they are, so that an interval reads well; without a target they link to nothing.

    Example:
        >>> markdown_text("pair:a|b <b> [x](y) `c`")
        'pair:a\\|b &lt;b&gt; [x]\\(y) \\`c\\`'
    """
    shown = one_line(text)
    if not MARKUP.search(shown):
        return shown
    shown = re.sub(r"([\\`*|$~])", r"\\\1", shown)
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", shown).replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"\](?=[(\[:])", r"]" + "\\\\", shown)
    shown = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)
    return re.sub(r":(?=//)|(?<=www)\.|@(?=[\w-]+\.[a-zA-Z])", r"\\\g<0>", shown)


def markdown_code(text: str) -> str:
    """Text as a code span, its fence longer than any run of backticks inside (CommonMark 0.31, section 6.1).

    Example:
        >>> markdown_code("a b"), markdown_code("a`b")
        ('`a b`', '`` a`b ``')
    """
    shown = one_line(text)
    runs = [len(run) for run in re.findall(r"`+", shown)]
    if not runs:
        return f"`{shown}`"
    fence = "`" * (max(runs) + 1)
    return f"{fence} {shown} {fence}"


def spreadsheet_text(text: str) -> str:
    """A cell that a spreadsheet takes for text: an apostrophe before what begins like a formula.

    Example:
        >>> spreadsheet_text("=1+1"), spreadsheet_text("lora")
        ("'=1+1", 'lora')
    """
    shown = plain(text.replace("\t", " ").replace("\r", " ").replace("\n", " "))
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown


class PlainFormatter(logging.Formatter):
    """Writes log records whose text is plain; lines of a traceback stay lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return plain(super().format(record), keep="\n\t")


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
