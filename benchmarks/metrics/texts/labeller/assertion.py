"""Whether a sentence asserts, denies or doubts a finding that it names.

After NegEx (Chapman et al., "A simple algorithm for identifying negated findings and diseases in discharge summaries",
Journal of Biomedical Informatics 34, 2001): triggers before and behind a mention, whose scope ends at words such as
"but"; what looks like a denial and is none ("no change in") comes first. Doubt is told apart as in CheXpert's labeller
(Irvin et al., AAAI 2019): "possible", "may represent", "cannot be excluded" are uncertain, "consistent with" is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medgraft.benchmarks.metrics.texts.labeller.findings import Mention

_CLAUSE = re.compile(
    r",? ?\b(?:but|however|although|though|whereas|while|yet|except(?: for)?|apart from|aside from|other than|"
    r"besides|otherwise|which (?:is|are))\b"
)
_ASSERTING = re.compile(
    r" *(?:and )?(?:there (?:is|are|remains?)|with\b|possib|probab|likely|suspected|suspicious|questionable|stable|"
    r"unchanged|persistent|persisting|again|new\b|now\b|(?:is|are) (?:seen|noted))"
)
_VERB = re.compile(r"\b(?:is|are|has|have|remains?|shows?|demonstrates?|was|were|persists?|appears?)\b")
_OR = re.compile(r"\b(?:or|nor)\b")
_FOUND = re.compile(
    r"\b(?:is|are|was|were) (?:seen|present|identified|noted|detected|observed|evident|demonstrated|found|"
    r"visuali[sz]ed)\b"
)

_NO_DENIAL = re.compile(
    r"\b(?:no (?:significant |definite |appreciable |substantial |interval |relevant |other )*(?:change|increase|"
    r"decrease|improvement|progression|difference|enlargement) (?:in|of|to|from)|not (?:significantly |substantially )*"
    r"(?:changed|increased|decreased|improved)|without (?:significant |interval |any )*(?:change|increase|decrease)"
    r"(?: in| of)?|no longer (?:as|so)|not only|no doubt(?: of)?|without doubt|not (?:without|free of|absent|clear of|"
    r"negative for)|no (?:absence|lack|resolution) of|not (?:yet |completely |fully |entirely )*resolved|not cleared)\b"
)
_DOUBT_OF_DENIAL = re.compile(
    r"\b(?:can(?:not|'t| not)|could not|couldn't|does not|do not|not|difficult to|hard to|unable to) (?:\w+ )?(?:be )?"
    r"(?:\w+ )?(?:exclude[ds]?|rule[ds]? out|ruled out)\b|\bnot (?:\w+ )?excluded\b"
)
_DENIED_BEFORE = re.compile(
    r"\b(?:no|not|without|negative for|free of|clear of|absence of|lack of|absent|neither|nor|never|denies|excludes?|"
    r"excluded|rule[sd] out|resolution of|clearance of|removal of|(?<!un)(?<!nearly )(?<!partially )(?<!almost )"
    r"(?<!partly )(?<!incompletely )(?<!completely )resolved|completely resolved|rather than|non(?=-))\b"
)
_DENIED_BEHIND = re.compile(
    r"\b(?:(?:is|are|was|were|has been|have been|has|have)? ?(?:not|no longer) (?:\w+ )?(?:seen|present|"
    r"identified|visuali[sz]ed|visible|evident|demonstrated|detected|noted|observed|found|appreciated|apparent|shown|"
    r"there|suspected|recogni[sz]ed|any ?more)|absent|(?:has|have|had)? ?(?:now |since |completely |fully )*"
    r"(?<!nearly )(?<!partially )(?<!almost )(?<!partly )(?<!not )(?<!incompletely )(?<!un)resolved|has cleared|"
    r"have cleared|(?:is|are|was|were|has been|have been) (?:excluded|ruled out|removed)|(?:is|are) "
    r"(?:no longer|negative))\b|^ *[:=-] *(?:none|no|absent|negative|nil)\b"
)
_UNRESOLVED = re.compile(r"\b(?:nearly|partially|almost|partly|incompletely|mostly|largely)(?: completely)? resolved\b")
_DOUBTED_BEFORE = re.compile(
    r"\b(?:possibl[ey]|possibility of|probabl[ey]|likely|presum(?:ed|ably)|perhaps|potential(?:ly)?|suspected|suspect|"
    r"suspicio(?:n|us) (?:for|of)|concern(?:ing)? (?:for|of)|question(?:able)?(?: of)?|equivocal|may|might|could|"
    r"suggest(?:s|ed|ing|ive)?(?: of)?|consider|differential (?:includes|of)|worrisome for|cannot exclude|"
    r"favou?r(?:s|ed|ing)?|versus|vs|raises?)\b"
)
_DOUBTED_BEHIND = re.compile(
    r"\b(?:(?:is|are|remains?) (?:also )?(?:possible|likely|probable|suspected|questionable|questioned|considered|"
    r"uncertain|equivocal|in the differential)|(?:may|might|could) be (?:present|considered|seen)|suspected|versus|vs|"
    r"not definite)\b|\?$"
)
_UNLIKELY = re.compile(r"\b(?:unlikely|less likely)\b")
_NOT_NOW = re.compile(
    r"\b(?:history of|prior history of|known history of|status post|s/p|evaluate for|evaluation for|assess for|"
    r"(?:please |to )rule out|^rule out|r/o|risk of|to exclude)\b[^,]{0,40}$"
)
_NOT_ASSESSED = re.compile(r"\b(?:not|cannot be|could not be|can't be) (?:\w+ )?(?:assessed|evaluated)\b")
_PART = re.compile(r",|\band\b")
_PAIRED = re.compile(r"^(?: \w+){0,2} (?:or|versus|vs|and/or)(?: \w+){0,3} $")


def assertion_of(sentence: str, found: Sequence[Mention], i: int) -> tuple[bool, bool] | None:
    """Whether mention ``i`` of a sentence is present, and whether that is certain; ``None`` where nothing is said.

    Args:
        sentence: In small letters.
        found: All its mentions, by place.
        i: Which of them.
    """
    mention = found[i]
    before, behind = _scopes(sentence, found, i)
    if _NOT_NOW.search(before) or _NOT_ASSESSED.search(before) or _NOT_ASSESSED.search(behind):
        return None
    before, behind = _NO_DENIAL.sub(" ", before), _NO_DENIAL.sub(" ", _UNRESOLVED.sub(" ", behind))
    before, doubted_denials = _DOUBT_OF_DENIAL.subn(" ", before)
    behind, more = _DOUBT_OF_DENIAL.subn(" ", behind)
    denials = bool(_denied_before(_UNRESOLVED.sub(" ", before), sentence, mention)) + bool(
        _DENIED_BEHIND.search(behind)
    )
    present = (denials % 2 == 0) != mention.normal
    doubt = doubted_denials + more or _DOUBTED_BEHIND.search(behind) or _paired(sentence, found, i)
    if _UNLIKELY.search(before) or _UNLIKELY.search(behind):
        return False, False
    doubted = _DOUBTED_BEFORE.search(before)
    if not present:  # "no definite", "no possible": a denial is a denial
        return False, not (doubted_denials + more)
    return True, not (doubt or doubted)


def _denied_before(before: str, sentence: str, mention: Mention) -> re.Match[str] | None:
    if sentence[mention.start : mention.end].startswith("no "):
        return None
    return _DENIED_BEFORE.search(before)


def _scopes(sentence: str, found: Sequence[Mention], i: int) -> tuple[str, str]:
    """What stands before and behind a mention in its part of the sentence.

    Before it: back to the last word that ends a scope, over commas of a list. Behind it: to the next such word or
    comma; other mentions in between only where words such as "or" join them.
    """
    mention = found[i]
    starts = [m.end() for m in _CLAUSE.finditer(sentence, 0, mention.start)]
    ends = [m.start() for m in _CLAUSE.finditer(sentence, mention.end)]
    start, end = (starts or [0])[-1], (ends or [len(sentence)])[0]
    if mention.key >= mention.end:  # "the heart is not enlarged": what is denied of others before it is another matter
        head = _PART.split(sentence[start : mention.start])[-1] + sentence[mention.start : mention.key]
    else:
        head = _list_before(sentence[start : mention.key], sentence[mention.start : end])
    return head, _own_part_behind(sentence, found, i, end)


def _list_before(head: str, tail: str) -> str:
    """The part of a clause before a mention that still governs it: over commas of lists, not over a new statement."""
    pieces = head.split(",")
    kept = [pieces[-1]]
    following = pieces[-1] + tail.split(",")[0]
    for piece in reversed(pieces[:-1]):
        own = _DENIED_BEFORE.search(_NO_DENIAL.sub(" ", following)) or _DENIED_BEHIND.search(following)
        verb = _VERB.search(following)
        # "no effusion, and no ... is seen" goes on with a list; "no effusion, and the heart is large" does not.
        joined = (
            not verb
            or _OR.search(following[: verb.start()])
            or (" and " in f" {following}" and _FOUND.search(following))
        )
        if _ASSERTING.match(following) or own or not joined:
            break
        kept.insert(0, piece)
        following = piece
    return _after_joined_denial(",".join(kept))


def _after_joined_denial(head: str) -> str:
    """What is left of a head once "without" or "with" turned it: "no effusion with a nodule" denies no nodule."""
    turn = [m.end() for m in re.finditer(r"\b(?:with\b|and there (?:is|are)\b|and (?=an? ))", head)]
    return head[turn[-1] :] if turn and not re.search(r"\b(?:consistent|compatible) with$", head.strip()) else head


def _own_part_behind(sentence: str, found: Sequence[Mention], i: int, end: int) -> str:
    position = found[i].end
    for following in found[i + 1 :]:
        if following.start >= end:
            break
        gap = sentence[position : following.start]
        if not re.fullmatch(
            r"(?:[, ]|\b(?:or|nor|and|a|an|the|left|right|small|large|pleural|focal|any|versus)\b)*", gap
        ):
            return sentence[found[i].end : following.start] if position == found[i].end else ""
        position = following.end
    part = sentence[position:end]
    comma = part.find(",")
    return (
        part
        if comma < 0 or re.match(r", *(?:which|not|no longer|possib|likely|suspected|cannot)", part[comma:])
        else part[:comma]
    )


def _paired(sentence: str, found: Sequence[Mention], i: int) -> bool:
    """Whether it is one of two that are offered: "atelectasis or pneumonia" asserts neither."""
    gaps = [(a, a + 1) for a in (i - 1, i) if a >= 0 and a + 1 < len(found)]
    return any(_PAIRED.match(sentence[found[a].end : found[b].start]) for a, b in gaps)
