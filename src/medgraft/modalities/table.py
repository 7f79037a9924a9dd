"""``table``: numbers ``float32 [G]``, one for each column, such as the expression of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.modality import Modality
from medgraft.typed.values import is_a

if TYPE_CHECKING:
    from medgraft.encoder import EncoderSpec


class Table(Modality):
    """A row of a table; prepared, ``float32 [G]``, ``input_size`` being ``(G,)``. Missing numbers are ``nan``."""

    name = "table"
    raw = "a row of a table, float32 [G], nan where a number is missing"
    dtype = "float32"
    rank = 1

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Noise ``float32 [32]``."""
        return random.standard_normal(32).astype(np.float32)

    def check(self, raw: Any) -> None:
        """Refuses other types and ranks, and numbers without an end."""
        if is_a(raw, np.ndarray) and raw.dtype == np.dtype(self.dtype):
            raw = np.nan_to_num(raw, nan=0.0, posinf=np.inf, neginf=-np.inf)
        super().check(raw)

    def input_shape(self, spec: EncoderSpec) -> tuple[int, ...]:
        """``(G,)``."""
        return spec.input_size
