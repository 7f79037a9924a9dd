"""Plain English from a grammar: who did what where, how many, what is larger, what is not, and questions on it."""

from __future__ import annotations

import numpy as np

from medgraft.benchmarks.pretrain.corpus.documents import Document, capital, chance, listed, pick, shuffled

PART = "plain sentences"

_PEOPLE = (
    *("the doctor", "the nurse", "the patient", "a child", "my sister", "the driver", "our teacher", "the cook"),
    *("Anna", "Tom", "Maria", "the old man", "a student", "the farmer", "her brother", "the engineer", "the woman"),
)
_THINGS = (
    *("book", "letter", "chair", "apple", "key", "cup", "coat", "map", "lamp", "box", "bottle", "phone", "ticket"),
    *("stone", "flower", "shirt", "table", "picture", "bag", "pen", "clock", "mirror", "bread", "ladder", "blanket"),
)
_PLACES = (
    *("in the garden", "at the station", "in the kitchen", "near the river", "at school", "in the hospital"),
    *("on the roof", "behind the house", "under the bridge", "in the waiting room", "at the market", "by the window"),
)
_TIMES = ("yesterday", "today", "last week", "in the morning", "at noon", "two years ago", "every day", "on Monday")
_ADJECTIVES = ("old", "new", "red", "blue", "heavy", "light", "small", "large", "clean", "broken", "warm", "empty")
_VERBS = (
    *(("find", "found"), ("see", "saw"), ("bring", "brought"), ("lose", "lost"), ("buy", "bought"), ("take", "took")),
    *(("carry", "carried"), ("need", "needed"), ("forget", "forgot"), ("paint", "painted"), ("hold", "held")),
)
_ACTS = (
    *(("sleep", "slept"), ("work", "worked"), ("wait", "waited"), ("sing", "sang"), ("walk", "walked")),
    *(("read", "read"), ("laugh", "laughed"), ("rest", "rested"), ("talk", "talked"), ("run", "ran")),
)
_SCALES = (
    *(("taller", "shorter"), ("older", "younger"), ("heavier", "lighter"), ("faster", "slower"), ("warmer", "colder")),
    *(("larger", "smaller"), ("longer", "shorter"), ("stronger", "weaker"), ("wider", "narrower")),
)
_OPPOSITES = (
    *(("left", "right"), ("up", "down"), ("large", "small"), ("early", "late"), ("open", "closed"), ("hot", "cold")),
    *(("present", "absent"), ("upper", "lower"), ("normal", "abnormal"), ("mild", "severe"), ("full", "empty")),
)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def thing(rng: np.random.Generator) -> str:
    """A thing, perhaps with an adjective."""
    return f"{pick(rng, _ADJECTIVES)} {pick(rng, _THINGS)}" if chance(rng, 0.5) else pick(rng, _THINGS)


def plain(rng: np.random.Generator) -> Document:
    """A few sentences that go together, a small story with questions, or an exercise."""
    form = int(rng.integers(8))
    if form < 3:
        text = " ".join(statement(rng) for _ in range(int(rng.integers(1, 5))))
        return Document(PART, (("", text),))
    if form < 6:
        return Document(PART, _story(rng))
    return Document(PART, tuple(exercise(rng) for _ in range(int(rng.integers(1, 4)))))


def statement(rng: np.random.Generator) -> str:
    """A sentence, perhaps of two clauses."""
    form = int(rng.integers(10))
    who, other = pick(rng, _PEOPLE), pick(rng, _PEOPLE)
    now, past = pick(rng, _VERBS)
    _, acted = pick(rng, _ACTS)
    what, where, when = thing(rng), pick(rng, _PLACES), pick(rng, _TIMES)
    if form == 0:
        text = f"{who} {past} {a(what)} {where}"
    elif form == 1:
        text = f"{who} did not {now} the {what}"
    elif form == 2:
        text = f"{who} {past} {int(rng.integers(2, 60))} {pick(rng, _THINGS)}s {when}"
    elif form == 3:
        text = f"{who} is {pick(rng, pick(rng, _SCALES))} than {other}"
    elif form == 4:
        text = f"there is no {what} {where}" if chance(rng, 0.5) else f"there is {a(what)} {where}"
    elif form == 5:
        things = [a(thing(rng)) for _ in range(int(rng.integers(2, 5)))]
        text = f"{who} {past} {listed(things)}"
    elif form == 6:
        text = f"{when}, {who} {acted} {where} because {other} {past} the {what}"
    elif form == 7:
        text = f"if {who} {acted} {where}, {other} {past} nothing" if chance(rng, 0.5) else f"nobody {past} the {what}"
    elif form == 8:
        text = (
            f"{who} neither {acted} nor {past} {a(what)}"
            if chance(rng, 0.4)
            else f"{who} {acted} while {other} {past} it"
        )
    else:
        count = int(rng.integers(2, 13))
        text = f"the {pick(rng, _THINGS)} costs {count * 5} dollars, the {pick(rng, _THINGS)} {_DIGITS[count]}"
    return f"{capital(text)}."


def _story(rng: np.random.Generator) -> tuple[tuple[str, str], ...]:
    """Who has what where, and questions that only the story answers."""
    people = shuffled(rng, _PEOPLE)[: int(rng.integers(2, 5))]
    things, places = shuffled(rng, _THINGS), shuffled(rng, _PLACES)
    counts = [int(n) for n in rng.integers(1, 100, len(people))]
    rows = list(zip(people, things, places, counts, strict=False))
    forms = ("{p} has {n} {t}s {w}.", "{p} {w} has {n} {t}s.", "{w} {p} keeps {n} {t}s.")
    form = pick(rng, forms)
    told = " ".join(capital(form.format(p=p, t=t, w=w, n=n)) for p, t, w, n in rows)
    turns: list[tuple[str, str]] = []
    for p, t, w, n in shuffled(rng, rows):
        asked = (
            (f"Who has the {t}s?", capital(p)),
            (f"How many {t}s are there?", str(n)),
            (f"Where are the {t}s?", capital(w)),
            (f"What does {p} have?", f"{n} {t}s"),
            (f"Does {p} have {t}s?", "Yes"),
            (f"Does {p} have {things[-1]}s?", "No"),
        )
        turns.append(pick(rng, asked))
    if chance(rng, 0.4):
        most = max(rows, key=lambda row: row[3])
        turns.append(("Who has the most?", capital(most[0])))
    later = tuple((f" {q}", r) for q, r in turns)
    if chance(rng, 0.5):
        return ("", told), *later
    return (told + later[0][0], later[0][1]), *later[1:]


def exercise(rng: np.random.Generator) -> tuple[str, str]:
    """An instruction that what follows it tells how to carry out."""
    form = int(rng.integers(8))
    x, y = (int(n) for n in rng.choice(200, 2, replace=False))
    words = [pick(rng, _THINGS) for _ in range(int(rng.integers(2, 6)))]
    if form == 0:
        return f"Which number is larger, {x} or {y}?", str(max(x, y))
    if form == 1:
        return f"Which number is smaller, {x} or {y}?", str(min(x, y))
    if form == 2:
        one, two = shuffled(rng, pick(rng, _OPPOSITES))
        return f"What is the opposite of {one}?", two
    if form == 3:
        text = statement(rng)
        return f"Repeat: {text}", text
    if form == 4:
        return f"Put in reverse order: {', '.join(words)}", ", ".join(reversed(words))
    if form == 5:
        return f"How many words are these: {', '.join(words)}?", str(len(words))
    if form == 6:
        x, y = x % 13, y % 13
        return f"What is {x} plus {y}?", str(x + y)
    wanted = int(rng.integers(len(words)))
    place = ("first", "second", "third", "fourth", "fifth")[wanted]
    return f"What is the {place} of {', '.join(words)}?", words[wanted]
