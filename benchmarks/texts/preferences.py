"""Better and worse texts of a sample, made of the labels or read from people's feedback, and the loss that prefers.

Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023 (arXiv
2305.18290), equation 7. TRL's ``DPOTrainer`` has the same loss, and a test holds the two together, gradients too; its
others are in :mod:`medgraft.benchmarks.texts.trl_losses`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.metrics.texts.statements import Statement, statements_of
from medgraft.benchmarks.texts.checking import sentences_of
from medgraft.benchmarks.texts.findings import found_in
from medgraft.errors import DataError
from medgraft.language_model import LanguageModel, Prompts

PREFERENCES = "preferences"
"""Column of a task's data: for each sample pairs of texts as JSON, the better one first."""
NAMES, TEXTS, FURTHER = ("sample", "image"), ("chosen", "rejected"), ("rater", "comment")

_SIDES = {"left": "right", "right": "left"}
_SIZES = ("small", "moderate", "large")


def dpo_loss(chosen: Tensor, rejected: Tensor, before: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """``-log sigmoid(beta * ((chosen - before[0]) - (rejected - before[1])))``, equation 7, ``[B]``.

    Args:
        chosen: Log-probabilities of the better texts, summed over their tokens, ``[B]``.
        rejected: Those of the worse ones, ``[B]``.
        before: Both by the model that is held to, ``[B]`` each.
        beta: How strongly it is held.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> dpo_loss(zero, zero, (zero, zero), 0.1)
        tensor([0.6931])
    """
    return -F.logsigmoid(beta * ((chosen - before[0]) - (rejected - before[1])))


def log_probability(model: LanguageModel, prompts: Prompts, texts: Sequence[str]) -> Tensor:
    """Log-probability of each text behind its prompt, summed over its tokens and its end, ``[B]``."""
    ids, real = model.answers(texts)
    return -model.answer_loss(prompts, (ids, real)) * real.sum(dim=1)


def worse_text(text: str, truth: Sequence[Statement], known: Sequence[str], draw: np.random.Generator) -> str | None:
    """A text with one fault that the right one has not; ``None`` where none can be made.

    Drawn of: a finding that is not there is asserted, a sentence that asserts one that is there is left out, the side
    of one is the other, its size is another.

    Args:
        text: The right text.
        truth: What holds of the sample.
        known: Findings that training texts assert.
        draw: Chance.
    """
    sentences, made = sentences_of(text), []
    there = found_in(truth)
    if absent := [name for name in known if name not in there]:
        false = f"There is {absent[int(draw.integers(len(absent)))]}."
        made.append(" ".join([*_without_denial(sentences, false), false]))
    for i, sentence in enumerate(sentences):
        if not found_in(statements_of(sentence)) & there:
            continue
        others = [*sentences[:i], *sentences[i + 1 :]]
        if others:
            made.append(" ".join(others))
        for changed in (_other_side(sentence), _other_size(sentence, draw)):
            if changed != sentence:
                made.append(" ".join([*sentences[:i], changed, *sentences[i + 1 :]]))
    made = [each for each in dict.fromkeys(made) if each != text]
    return made[int(draw.integers(len(made)))] if made else None


def _without_denial(sentences: Sequence[str], assertion: str) -> list[str]:
    """Sentences without those that deny what another one is to assert."""
    asserted = {each.finding for each in statements_of(assertion)}
    return [
        sentence
        for sentence in sentences
        if not any(not each.present and each.finding in asserted for each in statements_of(sentence))
    ]


def _other_side(sentence: str) -> str:
    return re.sub(r"\b(left|right)\b", lambda m: _cased(_SIDES[m[0].lower()], m[0]), sentence, flags=re.IGNORECASE)


def _other_size(sentence: str, draw: np.random.Generator) -> str:
    def other(match: re.Match[str]) -> str:
        sizes = [size for size in _SIZES if size != match[0].lower()]
        return _cased(sizes[int(draw.integers(len(sizes)))], match[0])

    return re.sub(rf"\b(?:{'|'.join(_SIZES)})\b", other, sentence, flags=re.IGNORECASE)


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word


def made_pairs(
    references: Sequence[str], truths: Mapping[int, Sequence[Statement]], index: np.ndarray
) -> dict[int, list[tuple[str, str]]]:
    """A pair for each of the samples ``index`` ``[n]`` of which one can be made, the same on every run."""
    known = sorted(set().union(*(found_in(truths[int(i)]) for i in index)) if len(index) else set())
    pairs: dict[int, list[tuple[str, str]]] = {}
    for i in map(int, index):
        worse = worse_text(references[i], truths[i], known, np.random.default_rng([29, i]))
        if worse:
            pairs[i] = [(references[i], worse)]
    return pairs


def stored_pairs(column: np.ndarray, index: np.ndarray) -> dict[int, list[tuple[str, str]]]:
    """Pairs of the samples ``index`` ``[m]`` out of the column :data:`PREFERENCES`; those without any are left out."""
    pairs = {int(i): [(str(a), str(b)) for a, b in json.loads(str(column[i]) or "[]")] for i in index}
    return {i: each for i, each in pairs.items() if each}


def feedback_columns(file: str, root: Path | None, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The column of feedback for a task's data; none where no table is asked for.

    Args:
        file: Name of the table in the folder of the data; empty for none.
        root: That folder; ``None`` of a task that takes no feedback.
        names: By which the table names the ``n`` samples.

    Raises:
        DataError: See :func:`read_feedback`; or the name is that of a file elsewhere.
    """
    if not file:
        return {}
    if root is None:
        raise DataError(f"feedback={file!r}: this task takes no feedback; leave the option out")
    if Path(file).name != file:
        raise DataError(f"feedback={file!r} must be the name of a file in the folder of the data, without a folder")
    return {PREFERENCES: read_feedback(root / file, names)}


def read_feedback(path: Path, names: Sequence[str]) -> np.ndarray:
    """People's feedback as the column :data:`PREFERENCES`, texts ``[n]``.

    The table is CSV with the columns ``sample`` (or ``image``), ``chosen`` and ``rejected``; ``rater`` and ``comment``
    may stand beside them. A sample may have several rows.

    Args:
        path: The table.
        names: By which it names the ``n`` samples.

    Raises:
        DataError: It is none, lacks a column, names other samples, or a row has no two different texts.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"feedback {path.name} is no readable CSV table: {' '.join(str(error).split())[:120]}"
        ) from error
    columns = [str(name) for name in table.columns]
    named = [name for name in NAMES if name in columns]
    if len(named) != 1 or (missing := [name for name in TEXTS if name not in columns]):
        lacking = " and ".join(missing) if len(named) == 1 else f"one column of {' or '.join(NAMES)}"
        raise DataError(f"feedback {path.name} lacks {lacking}; it has {', '.join(columns)}")
    if strange := [name for name in columns if name not in (*NAMES, *TEXTS, *FURTHER)]:
        known = ", ".join((*named, *TEXTS, *FURTHER))
        raise DataError(f"feedback {path.name} has a column {strange[0]!r}; it may have {known}")
    places = {str(name): i for i, name in enumerate(names)}
    times = Counter(map(str, names))
    pairs: list[list[tuple[str, str]]] = [[] for _ in names]
    rows = zip(table[named[0]], table["chosen"], table["rejected"], strict=True)
    for number, (name, chosen, rejected) in enumerate(rows, 2):  # as an editor counts lines
        where = f"feedback {path.name}, line {number}"
        if name not in places:
            raise DataError(f"{where} names a sample that the data have not; names are those of the cohort's table")
        if times[name] > 1:
            raise DataError(
                f"{where} names {times[name]} samples at once; only tasks with one text for each image take it"
            )
        if not chosen.strip() or not rejected.strip():
            raise DataError(f"{where} has an empty text; give both, or leave the row out")
        if " ".join(chosen.split()) == " ".join(rejected.split()):
            raise DataError(f"{where} prefers a text to itself; give two different ones, or leave the row out")
        pairs[places[name]].append((chosen, rejected))
    if not any(pairs):
        raise DataError(f"feedback {path.name} has no row")
    return np.array([json.dumps(each) if each else "" for each in pairs])
