"""CLIP-LoRA: LoRA of rank 2 on q, k and v of every block of both towers.

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024 (arXiv 2405.18541).
The authors' code scales by ``alpha / sqrt(r)`` and trains with the cross-entropy over class prompts of one template:
AdamW at 2e-4 with weight decay 0.01, a half cosine, batches of 32, 500 steps per shot, dropout 0.25 on the branch.
"""

from __future__ import annotations

from types import MappingProxyType

from pydantic import Field

from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.lora import Lora


class ClipLora(Lora):
    """LoRA with the published settings."""

    paper = (
        "Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR Workshops 2024 (arXiv "
        "2405.18541)"
    )
    licence = "Apache-2.0"
    formula = r"h = W_0 x + \frac{\alpha}{\sqrt{r}} B A x"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 40})
    size_knob = SizeKnob("rank")
    search = MappingProxyType({"rank": (1, 2, 4, 8, 16), "dropout": (0.0, 0.1, 0.25, 0.4, 0.5)})

    class Config(Lora.Config):
        """Options of LoRA with the defaults of CLIP-LoRA.

        Attributes:
            targets: Patterns of sites; ``image.*.attn.q`` and its like keep to one tower of a dual encoder.
        """

        rank: int = Field(2, ge=1)
        alpha: float = Field(1.0, gt=0)
        rank_stabilised: bool = True
        dropout: float = Field(0.25, ge=0, lt=1)
        targets: tuple[str, ...] = Field(("q", "k", "v"), min_length=1)
