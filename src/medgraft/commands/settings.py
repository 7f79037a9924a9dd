"""How this process computes: the settings of PyTorch that numbers depend on and that belong to whoever runs a graft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Settings:
    """PyTorch's settings at one moment.

    Attributes:
        facts: Setting, as PyTorch asks for it -> value.
    """

    facts: dict[str, Any]

    @classmethod
    def now(cls) -> Settings:
        """The settings of this moment."""
        backends: Any = torch.backends
        return cls(
            {
                "torch.get_default_dtype()": torch.get_default_dtype(),
                "torch.get_default_device()": torch.get_default_device(),
                "torch.get_num_threads()": torch.get_num_threads(),
                "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
                "torch.is_grad_enabled()": torch.is_grad_enabled(),
                "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
                "torch.is_autocast_enabled()": any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")),
                "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
                "torch.backends.mkldnn.enabled": backends.mkldnn.enabled,
                "torch.backends.cudnn.enabled": backends.cudnn.enabled,
                "torch.backends.cudnn.benchmark": backends.cudnn.benchmark,
                "torch.backends.cudnn.deterministic": backends.cudnn.deterministic,
            }
        )

    def problem(self, seed: int) -> str:
        """What is set to another value now, in words; empty if nothing is.

        Args:
            seed: That PyTorch's random numbers must come from; reseeded ones repeat themselves in every run.
        """
        now = Settings.now().facts
        if changed := [name for name, value in self.facts.items() if now[name] != value]:
            return "; ".join(f"{name} is now {now[name]} and was {self.facts[name]}" for name in changed[:4])
        current = torch.initial_seed()
        return "" if current == seed else f"PyTorch's random numbers are now seeded with {current} in place of {seed}"
