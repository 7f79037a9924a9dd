"""KgCoOp: CoOp whose classes are held to the embeddings of hand-written prompts.

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023 (arXiv 2303.13283),
equations 4 and 5, code ``htyao89/KgCoOp``: cross-entropy plus ``weight (1 - mean_k cos(w_k, t_k))`` with the learnt
embedding ``w_k`` of a class and that of its written prompt ``t_k``, which nothing trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapters.coop import CoOp


class WrittenPrompts(CoOp):
    """Base of CoOp with a term of the loss that knows the embeddings of written prompts.

    They are made once, by the text tower without the vectors, and are not part of a checkpoint: only training reads
    them. Before they are made there is no term.
    """

    _plain: bool = False
    _written: Tensor | None = None

    def contexts(self, rows: int) -> Tensor | None:
        """The vectors ``[rows, M, C]``; ``None`` while written prompts are read."""
        return None if self._plain else super().contexts(rows)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Inside it texts are read as they stand."""
        self._plain = True
        try:
            yield
        finally:
            self._plain = False


class KgCoOp(WrittenPrompts):
    """Trained vectors in front of class names, held to the task's prompts.

    A class with several prompts is held to the mean of their unit embeddings. Not the identity at the start, as CoOp.
    """

    title = "KgCoOp: CoOp held to hand-written prompts"
    paper = (
        "Yao et al., Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR 2023 (arXiv "
        "2303.13283)"
    )
    licence = "Apache-2.0"
    formula = r"\mathcal{L} = \mathrm{CE} + \lambda \left(1 - \frac{1}{K} \sum_k \cos(w_k, t_k)\right)"
    train_defaults = MappingProxyType({"lr": 0.002, "epochs": 100})
    identity_at_init = False

    class Config(CoOp.Config):
        """Options: those of CoOp, and below.

        Attributes:
            weight: Of the term that holds to written prompts; 8 in the paper.
        """

        weight: float = Field(8.0, ge=0)

    config: Config

    def fit_prompts(
        self, embed: Callable[[Sequence[str]], Tensor], names: Sequence[str], prompts: Sequence[Sequence[str]]
    ) -> None:
        """Keeps one unit vector per class, ``[K, E]``."""
        with self.plain():
            means = [embed(each).mean(dim=0) for each in prompts]
        self._written = F.normalize(torch.stack(means), dim=-1)

    def prompt_loss(self, classes: Tensor, images: Tensor, logits: Tensor) -> Tensor | None:
        """``weight (1 - mean cos)``, a scalar, for learnt embeddings ``[K, E]``."""
        if self._written is None:
            return None
        return self.config.weight * (1 - F.cosine_similarity(classes, self._written, dim=-1).mean())
