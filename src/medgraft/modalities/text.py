"""``text``: a string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.modality import TEXT, Modality

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from medgraft.encoder import Encoder, EncoderSpec

EXAMPLES = ("mild atrophy of the left hippocampus", "no acute finding")


class Text(Modality):
    """A text; prepared, token ids ``int64 [L]`` that end in padding."""

    name = TEXT
    raw = "a text, str"
    dtype = "str"
    rank = 0
    text = True

    def example(self, random: np.random.Generator) -> str:
        """A finding."""
        return EXAMPLES[0]

    def blank(self) -> str:
        """An empty text."""
        return ""

    def check(self, raw: Any) -> None:
        """Refuses what is no string; an empty one is a report that is missing."""
        if not isinstance(raw, str):
            self.refuse(f"is a {type(raw).__name__}")

    def probes(self) -> Sequence[str]:
        """None: the cohort's own texts hold its vocabulary."""
        return []

    def input_shape(self, spec: EncoderSpec) -> tuple[int, ...]:
        """``(L,)``."""
        return spec.input_size

    def blank_batch(self, tower: Encoder) -> Tensor:
        """Token ids ``int64 [1, L]`` of which the second half is padding."""
        import torch  # here, since planning does without

        padding = int(getattr(tower, "pad_id", 0))
        ids = torch.full((1, *tower.spec.input_size), padding, dtype=torch.long, device=tower.device)
        ids[:, : -(-ids.shape[1] // 2)] = 0 if padding else 1
        return ids

    def example_batch(self, tower: Encoder, size: int, generator: Generator) -> Tensor:
        """Token ids ``int64 [size, L]``, all rows but the first ending in padding."""
        import torch  # here, since planning does without

        shape = tower.spec.input_size
        ids = torch.randint(2, 38, (size, *shape), generator=generator)
        ids[:, 0] = 1
        ids[1:, shape[0] - 3 :] = getattr(tower, "pad_id", 0)
        return ids
