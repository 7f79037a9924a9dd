"""An encoder as the checks see it: how to make one, and its towers."""

from __future__ import annotations

import copy
import functools
import unittest
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.towers import reads_text
from medgraft.errors import CheckpointError, ConfigError
from medgraft.modalities.text import EXAMPLES
from medgraft.modality import find_modality
from medgraft.registry import build_encoder
from medgraft.testing.tiny import example_inputs


class EncoderSubject:
    """One encoder; a case is a tower.

    Args:
        encoder: A built encoder, a builder of one, or a registered name ``source:model``.

    Raises:
        ConfigError: It is none of them.
    """

    def __init__(self, encoder: Encoder | Callable[[], Encoder] | str) -> None:
        self.build: Callable[[], Encoder] | None = None
        self.name: str | None = encoder if isinstance(encoder, str) else None
        if isinstance(encoder, Encoder):
            self._built: Encoder | None = encoder
            self.label = encoder.spec.name
            return
        self._built = None
        if isinstance(encoder, str):
            name = encoder
            self.build, self.label = (lambda: build_encoder(name)), name
        elif callable(encoder):
            self.build, self.label = encoder, getattr(encoder, "__name__", "encoder")
        else:
            raise ConfigError(f"{encoder!r} is no encoder; pass an Encoder, a function that builds one, or a name")

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The encoder, built once; checks leave it as it is."""
        if self._built is not None:
            return self._built
        assert self.build is not None
        return self.build()

    def tower(self, case: str) -> Encoder:
        """One tower."""
        return self.encoder.towers()[case]

    def copy(self, case: str) -> Encoder:
        """A tower that may be changed."""
        return copy.deepcopy(self.tower(case))

    def batch(self, case: str, size: int = 2) -> Tensor:
        """A prepared batch ``[B, ...]``; of texts, prepared ones where the tower has a tokenizer at hand."""
        tower = self.tower(case)
        if not reads_text(tower):
            return next(iter(example_inputs(tower, size).values()))
        try:
            rows = [tower.prepare(EXAMPLES[i % len(EXAMPLES)]) for i in range(size)]
        except CheckpointError:  # its tokenizer cannot be fetched here
            return self._made_up(tower, size)
        batch = torch.stack(rows)
        fits = batch.max() < self.vocabulary(tower).num_embeddings  # else the check of prepare() says so
        return batch if fits else self._made_up(tower, size)

    def vocabulary(self, tower: Encoder) -> torch.nn.Embedding:
        """The table of a text tower that token ids index: its first, positions and segments come after the words."""
        return next(module for module in tower.modules() if isinstance(module, torch.nn.Embedding))

    def _made_up(self, tower: Encoder, size: int) -> Tensor:
        """Token ids as those of CLIP and BERT: an end token higher than any word, then padding."""
        words, length = self.vocabulary(tower).num_embeddings, tower.spec.input_size[0]
        ids = torch.randint(2, max(words - 3, 3), (size, length), generator=torch.Generator().manual_seed(1))
        ids[:, 0] = words - 2
        ids[0, -1] = words - 1
        if size > 1:
            ids[1:, length // 2] = words - 1
            ids[1:, length // 2 + 1 :] = getattr(tower, "pad_id", 0)
        return ids

    def raw(self, case: str) -> Any:
        """A raw sample of the tower's modality."""
        return find_modality(self.tower(case).spec.modality).example(np.random.default_rng(0))

    def cases(self) -> Sequence[str]:
        """The towers' modalities."""
        return list(self.encoder.towers())

    def without_cases(self) -> str:
        """Why there are none."""
        return "it has no tower"

    def layout(self, case: str) -> AttentionLayout:
        """The last attention of a tower whose CLS row means something; skips the check where there is none."""
        tower = self.tower(case)
        if not tower.has_scores:
            raise unittest.SkipTest(f"its {case} tower has no CLS attention, and says so")
        return tower.attention[-1]
