"""Reports into sentences of small letters, without what is no finding: indication, history, technique, comparison.

Sentences of other languages are left out: their denials would be read as assertions.
"""

from __future__ import annotations

import re

SILENT = (
    r"indications?|history|clinical (?:history|information|indication|data|statement)|reason for (?:exam\w*|study)|"
    r"technique|comparison|examination|exam|procedure|type of exam\w*|recommendations?|notification|dictated by|"
    r"attestation"
)
SPEAKING = r"findings?|impression|conclusion|opinion|report|results?|summary|lungs|heart|pleura|mediastinum|bones|chest"
_HEADER = re.compile(rf"(?:^|(?<=[\n.]))[ \t]*(?:(?P<silent>{SILENT})|(?P<speaking>{SPEAKING}))[ \t]*:", re.IGNORECASE)
_BULLET = re.compile(r"(?:^|\n)[ \t]*(?:[-*•]|\(?\d{1,2}[.)])[ \t]+")
_INLINE_NUMBER = re.compile(r"(?<=[.;:]) +\(?\d{1,2}[.)] +(?=[a-z])", re.IGNORECASE)
_BREAK = re.compile(r"\x1e|[!?;]+|\.(?!\d)(?!\w\.)")
_SHORT = re.compile(r"\b(approx|dr|vs|incl|e\.g|i\.e|cf|no|st|ca)\.(?= +[a-z0-9])")

_WORD = re.compile(r"[^\W\d_]+")
ENGLISH = frozenset(
    _WORD.findall(
        "the is are was were and with without of in on at to for from no not there this that which be been has have "
        "may can cannot or nor but seen left right small large mild moderate severe normal"
    )
)
FOREIGN = frozenset(
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Turkish: words that no English report has
    _WORD.findall(
        "kein keine keinen keiner der die das und nicht ist sind ohne mit im beidseits links rechts kleiner kleine "
        "rechte linke rechten linken pas de du des le les un une et est sont sans avec gauche droit droite aucun "
        "aucune sin el los y con derecho izquierdo derecha izquierda hay se observa ningun ninguna senza il lo gli non "
        "destro sinistro versamento sem do da dos esquerdo direito geen het een en niet zonder met van bez nie jest po "
        "w ve yok yoktur mevcut sag sol akciger izlenmedi izlendi saptanmadi"
    )
)
"""Words that tell other languages from English; a sentence is left out where they are more than the English ones."""


def sentences(text: str) -> list[str]:
    r"""Sentences of what a report says of its images, in small letters, one blank between words.

    Example:
        >>> sentences("INDICATION: Rule out pneumonia.\nFINDINGS: Clear lungs. Nodule of 3.5 mm.")
        ['clear lungs', 'nodule of 3.5 mm']
        >>> sentences("Kein Pneumothorax.")
        []
    """
    spoken = _INLINE_NUMBER.sub("\x1e", _BULLET.sub("\x1e", _spoken(text)))
    small = re.sub(r"\n[ \t]*\n", "\x1e", spoken).lower()
    small = _SHORT.sub(r"\1", small)
    parts = (" ".join(part.split()).strip(" -*•") for part in _BREAK.split(small))
    return [part for part in parts if part and not foreign(part)]


def _spoken(text: str) -> str:
    """The text without sections that tell nothing of the images; headers become ends of sentences."""
    kept: list[str] = []
    silent, start = False, 0
    for match in _HEADER.finditer(text):
        if not silent:
            kept.append(text[start : match.start()])
        silent, start = match["silent"] is not None, match.end()
        if match["speaking"] and match["speaking"].lower() in ("lungs", "heart", "pleura", "mediastinum", "bones"):
            start = match.start("speaking")
    if not silent:
        kept.append(text[start:])
    return "\x1e".join(kept)


def foreign(sentence: str) -> bool:
    """Whether a sentence of small letters is of another language, by its short words and its letters."""
    words = _WORD.findall(sentence)
    english = sum(word in ENGLISH for word in words)
    other = sum(word in FOREIGN or not word.isascii() for word in words)
    return other > english
