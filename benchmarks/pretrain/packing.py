"""Documents as rows of tokens of one length, several in a row, none of which sees another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.pretrain.corpus.documents import Document

IGNORED = -100
"""Target of what is not learnt from: prompts and padding."""


@dataclass(frozen=True)
class Rows:
    """A batch of rows.

    Attributes:
        ids: Token ids, ``int64 [R, L]``.
        targets: The next token of each, :data:`IGNORED` where it belongs to no answer, ``int64 [R, L]``.
        document: Number of the document within the row, padding counts as one more, ``int64 [R, L]``.
        place: Position within the document, ``int64 [R, L]``.
    """

    ids: Tensor
    targets: Tensor
    document: Tensor
    place: Tensor

    @property
    def visible(self) -> Tensor:
        """True where a token (third axis) may look at another (last axis), ``bool [R, 1, L, L]``."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return (same & torch.ones(same.shape[-2:], dtype=torch.bool).tril())[:, None]


def encoded(document: Document, words: Any) -> tuple[list[int], list[int]]:
    """Tokens of a document and the targets of each; the layout is that of a language model's prompts and answers.

    Args:
        document: The document.
        words: Tokenizer of ``tokenizers``, with ``<s>`` and ``</s>``.
    """
    begin, end = words.token_to_id("<s>"), words.token_to_id("</s>")
    ids, learnt = [begin], [False]
    for prompt, answer in document.turns:
        for text, counts, tail in ((prompt, False, []), (answer, True, [end])):
            tokens = [*words.encode(text, add_special_tokens=False).ids, *tail]
            ids += tokens
            learnt += [counts] * len(tokens)
    following = [token if counts else IGNORED for token, counts in zip(ids[1:], learnt[1:], strict=True)]
    return ids, [*following, IGNORED]


def packed(documents: Iterator[Document], words: Any, rows: int, length: int, pad: int) -> Rows:
    """Fills rows with documents, one after another; one that is longer than a row is left out.

    Args:
        documents: As many as are needed, or fewer: then the last rows stay empty in part.
        words: Tokenizer.
        rows: Number of rows.
        length: Tokens of a row.
        pad: Token that fills up.
    """
    ids = torch.full((rows, length), pad)
    targets, number = torch.full((rows, length), IGNORED), torch.full((rows, length), -1)
    place = torch.zeros(rows, length, dtype=torch.long)
    row, used, count = 0, 0, 0
    for document in documents:
        tokens, following = encoded(document, words)
        if len(tokens) > length:
            continue
        if used + len(tokens) > length:
            row, used = row + 1, 0
        if row == rows:
            break
        span = slice(used, used + len(tokens))
        ids[row, span], targets[row, span] = torch.tensor(tokens), torch.tensor(following)
        number[row, span], place[row, span] = count, torch.arange(len(tokens))
        used, count = used + len(tokens), count + 1
    return Rows(ids, targets, number, place)


def losses(network: Any, rows: Rows) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token of an answer ``[n]``, and the document that it belongs to ``[n]``."""
    logits = network(input_ids=rows.ids, attention_mask=rows.visible, position_ids=rows.place, use_cache=False).logits
    learnt = rows.targets != IGNORED
    return F.cross_entropy(logits[learnt].float(), rows.targets[learnt], reduction="none"), rows.document[learnt]
