"""Which reports can be learned from: not those that are empty, only phrases of the office, or not English.

Rules, not a model: a report of five words is too short for identifiers of languages, and a rule can be read. Each rule
errs towards keeping a text.
"""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "any"]
"""Whether texts in other languages than English are left out, or kept."""

EMPTY, BOILERPLATE, FOREIGN = "text empty", "text is only boilerplate", "text not English"

_SENTENCES = re.compile(r"[.;!?]+(?:\s+|$)|\n+")
_TITLE = re.compile(r"\b(dr|md|mr|mrs|ms|prof)\.", re.IGNORECASE)
_HEADING = re.compile(r"^(?:findings?|impressions?|conclusions?|reports?|summary)\s*:\s*", re.IGNORECASE)
_SAID_NOTHING = re.compile(
    r"""
    \W* | (?:x{3,}|_+|\W)+                                                     # marks of de-identification
    | none | nil | null | nan | n/?a | not\ applicable
    | (?:same\ )?as\ (?:above|below|described|dictated|noted)(?:\ above)? | see\ (?:above|below)
    | (?:final|preliminary|addended|unread)?\ ?(?:report|read|addendum|wet\ read)
    | (?:the\ )?(?:final\ )?(?:report|dictation|interpretation|findings?|impressions?|results?)\ (?:is\ |are\ |was\ )?
      (?:pending|to\ follow|not\ available|unavailable|not\ provided|as\ (?:above|below|described|dictated).*)
    | no\ (?:report|dictation|interpretation|text)(?:\ (?:is|was))?(?:\ (?:available|provided|found|dictated))?
    | (?:please\ )?(?:see|refer\ to)\ .*(?:report|dictation|note|addendum|section)s?(?:\ .*)?
    | (?:this\ (?:report|study|examination)\ (?:was|has\ been)\ )?(?:electronically\ )?
      (?:signed|dictated|transcribed|approved|verified|interpreted|reviewed)\ (?:and\ \w+\ )?(?:by|on|at)\b.*
    | (?:i|we)(?:,\ .*,)?\ have\ (?:personally\ )?(?:reviewed|examined)\b.*
    | .*\b(?:discussed|communicated|telephoned|relayed|conveyed)\b.*\b(?:by|with|to)\b.*
      \b(?:dr|doctor|nurse|physician|phone|team)\b.*
    | (?:clinical\ )?correlation(?:\ is)?\ (?:recommended|advised|suggested)
    | comparison\b.* | technique\b.* | indication\b.* | exam(?:ination)?\s*:.* | dr\b.* | thank\ you\b.*
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ENGLISH = frozenset(
    (
        *(
            "the",
            "is",
            "are",
            "of",
            "and",
            "with",
            "there",
            "was",
            "were",
            "has",
            "have",
            "be",
            "been",
            "this",
            "which",
        ),
        *("or", "at", "not", "for", "to", "from"),
    )
)
# Words of German, French, Spanish, Italian, Portuguese and Dutch reports that are in no English ones, capitals aside:
# "no", "as", "die", "do", "met", "non", "os", "im" and single letters are left to both.
_OTHER = frozenset(
    (
        *(
            "der",
            "das",
            "und",
            "ist",
            "nicht",
            "kein",
            "keine",
            "keinen",
            "mit",
            "des",
            "ein",
            "eine",
            "auf",
            "zum",
            "zur",
        ),
        *("beim", "sowie", "links", "rechts", "le", "la", "les", "du", "est", "et", "une", "sans", "avec", "au", "aux"),
        *("dans", "ou", "droite", "gauche", "el", "los", "las", "del", "sin", "con", "se", "en", "por", "para", "una"),
        *(
            "es",
            "izquierdo",
            "derecho",
            "izquierda",
            "derecha",
            "il",
            "di",
            "della",
            "nel",
            "senza",
            "dei",
            "alla",
            "da",
        ),
        *("sem", "uma", "direita", "esquerda", "het", "een", "geen", "niet", "bij"),
    )
)
_WORD = re.compile(r"[^\W\d_]+")


def is_boilerplate(text: str) -> bool:
    """Whether no sentence of a report says anything about the images; a normal finding says something.

    Example:
        >>> is_boilerplate("FINAL REPORT. Electronically signed by ___."), is_boilerplate("Normal chest.")
        (True, False)
    """
    parts = (_HEADING.sub("", part.strip()) for part in _SENTENCES.split(_TITLE.sub(r"\1", text)))
    return all(_SAID_NOTHING.fullmatch(" ".join(part.split()).strip(" .:")) for part in parts)


def is_english(text: str) -> bool:
    """Whether a text may be English: Latin letters, and not more words of other languages than of English.

    A text is taken for another language when at least two different words are that language's, or have letters that
    English has not, and they outnumber English's articles, verbs and prepositions.

    Example:
        >>> is_english("Heart size normal. No effusion."), is_english("Sin derrame pleural ni neumotórax.")
        (True, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    if sum(ord(letter) > 0x24F for letter in letters) > 0.3 * len(letters):
        return False
    words = [word.lower() for word in _WORD.findall(text)]
    other = [word for word in words if word in _OTHER or not word.isascii()]
    english = sum(word in _ENGLISH for word in words)
    return not (len(set(other)) >= 2 and len(other) > english)


def fault_of(report: str, language: Language) -> str:
    """Why a report cannot be learned from: one of the three reasons above, or empty where it can."""
    if not report.strip():
        return EMPTY
    if is_boilerplate(report):
        return BOILERPLATE
    return FOREIGN if language == "en" and not is_english(report) else ""
