"""What adapters ask of an encoder that feeds images to a language model."""

from __future__ import annotations

from medgraft.adapter import Support
from medgraft.encoder import Encoder
from medgraft.language_model import LanguageModel
from medgraft.towers import text_tower, visual_tower


def beside_language_model(encoder: Encoder) -> Support:
    """Whether an encoder is a visual tower beside a language model."""
    reader = text_tower(encoder)
    if visual_tower(encoder) is None or reader is None:
        return Support(False, "it needs a visual tower and a language model; pair:<visual>|causal_lm:<model> is both")
    if not isinstance(reader[1], LanguageModel):
        return Support(False, f"{reader[1].spec.name} reads texts and continues none; name a causal_lm")
    return Support(True)
