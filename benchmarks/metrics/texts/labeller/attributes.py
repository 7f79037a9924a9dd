"""Side, size, place and millimetres that a sentence gives a finding.

Words between two findings belong to the first up to the last comma, verb, "and", "or" or "with", and to the second
behind it.
Nothing is inherited: in "left effusion and atelectasis" the atelectasis has no side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medgraft.benchmarks.metrics.texts.labeller.findings import Mention

BOTH, LEFT, RIGHT = "both", "left", "right"
SMALL, MODERATE, LARGE = "small", "moderate", "large"

_JOINTS = re.compile(
    r",|;|\b(?:and|or|nor|with|without|versus|vs|plus|as well as|but|however|while|whereas|although|is|are|was|were|"
    r"may|might|could|likely|probably|possibly|represents?|reflects?|suggest\w*|concerning|suspicious|consistent|compatible)\b"
)
_ELSEWHERE = re.compile(r",? ?(?:and |but )?\b(?:absent|not|none|no)\b(?= (?:on|in|at) )")
_COMPARED = re.compile(
    r"\b(?:left|right)(?: side| lung)? ?(?:is |being )?(?:greater|larger|more|worse|bigger|less|smaller|>) ?(?:than)? ?"
    r"(?:on )?(?:the )?(?:left|right)\b|\b(?:left|right) ?[>] ?(?:left|right)\b|\b(?:left and right|right and left)\b"
)
_THAN = re.compile(r"\b(?:than|compared (?:to|with)) (?:on |in )?(?:the )?(?:left|right)\b")
_NO_SIDE = re.compile(r"\b(?:left|right) (?:heart|atri\w+|ventricular|main(?:stem)? bronch\w+)\b")
_BOTH = re.compile(r"\b(?:bilateral(?:ly)?|both|bi-?basilar|bi-?basal|bi-?apical|two-sided)\b")
_SIDE = re.compile(r"\b(left|right)(?:-sided|sided)?\b")
_SIZES = (
    (SMALL, re.compile(r"\b(?:small|tiny|trace|minimal|minimally|mild|mildly|slight|slightly|minor|subtle|little)\b")),
    (MODERATE, re.compile(r"\b(?:moderate|moderately|medium|mid-sized)\b")),
    (LARGE, re.compile(r"\b(?:large|severe|severely|marked|markedly|massive|extensive|big|huge|advanced)\b")),
)
_LOBE = re.compile(
    r"\b(?:(right|left)[ -](?:lung )?)?(upper|middle|lower)[ -](?:lobe|lobar)s?\b|\b(rul|rml|rll|lul|lll)\b|"
    r"\b(lingula)r?\b"
)
_ABBREVIATED = {
    "rul": "right upper lobe",
    "rml": "right middle lobe",
    "rll": "right lower lobe",
    "lul": "left upper lobe",
    "lll": "left lower lobe",
}
_ZONES = (
    ("upper zone", re.compile(r"\bupper (?:lung )?zones?\b|\bupper lungs?\b|\b(?:bi-?)?apical\b|\bap(?:ex|ices)\b")),
    ("mid zone", re.compile(r"\bmid(?:dle)?[ -](?:lung )?zones?\b|\bmid(?:dle)? lungs?\b|\bperihilar\b")),
    (
        "lower zone",
        re.compile(
            r"\blower (?:lung )?zones?\b|\blower lungs?\b|\b(?:bi-?)?bas(?:ilar|al)\b|\blung bases?\b|\bbases?\b"
        ),
    ),
)
_REGIONS = (
    ("periventricular", re.compile(r"\bperiventricular\b")),
    ("subcortical", re.compile(r"\bsubcortical\b")),
    *(
        (f"{name} lobe", re.compile(rf"(?<!medial )(?<!mesial )\b{name}\b"))
        for name in ("frontal", "temporal", "parietal", "occipital")
    ),
)
_LENGTH = re.compile(
    r"(?P<first>\d+(?:\.\d+)?)(?P<more>(?: ?(?:mm|cm)? ?(?:x|×|by|to|-) ?\d+(?:\.\d+)?)*)[ -]?"
    r"(?P<unit>mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b(?P<behind>[^,.;]{0,22})"
)
_DISTANCE = re.compile(r"^ *(?:above|below|from|proximal|distal|superior to|inferior to|cranial|caudal|slice)\b")
_EARLIER = re.compile(r"\b(?:previously|prior|before|formerly|compared (?:to|with)|from) *(?:measur\w+ |of |was )*$")


@dataclass(frozen=True)
class Attributes:
    """What is said of one finding at one place; see :class:`medgraft.benchmarks.metrics.texts.statements.Statement`."""

    side: str = ""
    size: str = ""
    place: str = ""
    millimetres: float | None = None


def attributes_of(sentence: str, found: Sequence[Mention], i: int) -> list[Attributes]:
    """Attributes of mention ``i`` of a sentence in small letters; more than one where it names several places.

    Example:
        >>> from medgraft.benchmarks.metrics.texts.labeller.findings import mentions
        >>> text = "8 mm nodule in the right upper lobe and small effusion"
        >>> attributes_of(text, mentions(text), 0)
        [Attributes(side='right', size='', place='right upper lobe', millimetres=8.0)]
    """
    own = own_words(sentence, found, i)
    side, size, places, lengths = side_in(own), size_in(own), places_in(own), lengths_in(own)
    longest = max(lengths, default=None)
    if not places:
        return [Attributes(side, size, "", longest)]
    # "4 mm in the right upper lobe and 5 mm in the left lower lobe": as many lengths as places are theirs in turn
    own_lengths = lengths if len(lengths) == len(places) else [longest] * len(places)
    return [
        Attributes(_side_of_place(place, side, len(places)), size, place, length)
        for place, length in zip(places, own_lengths, strict=True)
    ]


def own_words(sentence: str, found: Sequence[Mention], i: int) -> str:
    """The mention with the words around it that are its own."""
    mention = found[i]
    before = sentence[found[i - 1].end if i else 0 : mention.start]
    if i:
        joints = list(_JOINTS.finditer(before))
        before = before[joints[-1].end() :] if joints else before
    behind = sentence[mention.end : found[i + 1].start if i + 1 < len(found) else len(sentence)]
    if i + 1 < len(found):
        joints = list(_JOINTS.finditer(behind))
        behind = behind[: joints[-1].start()] if joints else ""
    behind = _ELSEWHERE.split(behind)[0]
    return f"{before}{sentence[mention.start : mention.end]}{behind}"


def side_in(words: str) -> str:
    """``left``, ``right``, ``both`` or nothing.

    Example:
        >>> side_in("effusions, left greater than right"), side_in("effusion on the left"), side_in("effusion")
        ('both', 'left', '')
    """
    words = _NO_SIDE.sub(" ", words)
    if _COMPARED.search(words) or _BOTH.search(words):
        return BOTH
    named = set(_SIDE.findall(_THAN.sub(" ", words)))
    named |= {_ABBREVIATED[m].split()[0] for m in re.findall(r"\b(rul|rml|rll|lul|lll)\b", words)}
    if re.search(r"\blingula", words):
        named.add(LEFT)
    return BOTH if len(named) == 2 else next(iter(named), "")


def size_in(words: str) -> str:
    """``small``, ``moderate``, ``large`` or nothing; of "small to moderate" the larger."""
    return next((size for size, expression in reversed(_SIZES) if expression.search(words)), "")


def places_in(words: str) -> list[str]:
    """Lobes, zones of the lungs or regions of the brain, each once; lobes where there are any.

    Example:
        >>> places_in("nodules of the right upper lobe and lll"), places_in("basilar atelectasis")
        (['right upper lobe', 'left lower lobe'], ['lower zone'])
    """
    lobes = list(dict.fromkeys(_lobe(match, words) for match in _LOBE.finditer(words)))
    if lobes:
        return lobes
    return [name for name, expression in (*_ZONES, *_REGIONS) if expression.search(words)]


def _lobe(match: re.Match[str], words: str) -> str:
    side, level, short, lingula = match.groups()
    if lingula:
        return "lingula"
    if short:
        return _ABBREVIATED[short]
    if not side:  # "the upper lobe of the right lung"; only the right lung has a middle lobe
        named = side_in(words)
        side = "right" if level == "middle" else named if named in (LEFT, RIGHT) else ""
    return f"{side} {level} lobe".strip()


def _side_of_place(place: str, side: str, count: int) -> str:
    own = LEFT if place == "lingula" or place.startswith("left ") else RIGHT if place.startswith("right ") else ""
    return own if own and (count > 1 or not side or side == BOTH) else side


def millimetres_in(words: str) -> float | None:
    """The longest length that is a size, not a distance and not one of an earlier scan.

    Example:
        >>> millimetres_in("nodule of 1.2 x 0.8 cm"), millimetres_in("tube 3 cm above the carina")
        (12.0, None)
    """
    return max(lengths_in(words), default=None)


def lengths_in(words: str) -> list[float]:
    """Lengths in millimetres that are sizes, the longest side of each."""
    found: list[float] = []
    for match in _LENGTH.finditer(words):
        if _DISTANCE.match(match["behind"]) or _EARLIER.search(words[: match.start()]):
            continue
        numbers = [float(match["first"]), *map(float, re.findall(r"\d+(?:\.\d+)?", match["more"]))]
        # Units may stand behind each number, "10 mm x 1 cm"; they are one in all reports that were seen.
        found.append(round(max(numbers) * (10 if match["unit"].startswith("c") else 1), 6))
    return found
