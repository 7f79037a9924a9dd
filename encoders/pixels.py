"""No encoder at all: down-sampled grey values.

A linear probe on ``pixels:2d`` or ``pixels:3d`` is the baseline that every encoder has to beat, and a network that is
trained from scratch takes its prepared input from here. Nothing has parameters.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.embedded import BRAIN_SIZE, CHEST_SIZE, prepare_raw
from medgraft.errors import ConfigError
from medgraft.fast.convolution import average_pool_3d
from medgraft.features import Features
from medgraft.sources import Source

POOL = 4  # 128 x 128 -> 32 x 32, and 64 x 80 x 64 -> 16 x 20 x 16


class Pixels(Encoder):
    """Average-pooled grey values as tokens of one channel, all of them as ``pooled``.

    Args:
        spec: Facts; each axis of ``input_size`` must be divisible by 4.
    """

    has_cls = False

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.grid = tuple(length // POOL for length in spec.input_size)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` or ``[H, W, 3]``, or volume ``float32 [D, H, W]``, as the embedded encoders do it."""
        return prepare_raw(raw, self.spec.input_size)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """``[B, 1, *input_size]`` -> tokens ``[B, N, 1]`` and pooled ``[B, N]``."""
        if start != 0 or tuple(x.shape[1:]) != (1, *self.spec.input_size):
            expected = ", ".join(str(n) for n in ("B", 1, *self.spec.input_size))
            raise ConfigError(f"encoder {self.spec.name} takes [{expected}] at stage 0, got {list(x.shape)} at {start}")
        values = (F.avg_pool2d if x.ndim == 4 else average_pool_3d)(x, POOL).flatten(1)
        return Features(values[:, :, None], values, 0, self.grid)


class PixelsSource(Source):
    """Entry point ``pixels``."""

    name = "pixels"

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "2d": "grey values of a radiograph on a 32 x 32 grid",
            "3d": "grey values of a volume on a 16 x 20 x 16 grid",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> Pixels:
        """Builds a baseline.

        Args:
            model: ``"2d"`` or ``"3d"``.
            weights: ``"default"``, ``"random"`` or ``"none"``, which are all the same: there are none.
            sha256: Not accepted, since there is no file.

        Raises:
            ConfigError: A file was given.
        """
        if weights not in ("default", "random", "none") or sha256 is not None:
            raise ConfigError(f"encoder pixels:{model} has no weights, so it cannot take {weights!r}; drop the @ part")
        flat = model == "2d"
        spec = EncoderSpec(
            name=f"pixels:{model}",
            modality="image" if flat else "volume",
            input_size=CHEST_SIZE if flat else BRAIN_SIZE,
            channels=1,
            spacing=None if flat else 3.0,
            intensity="(grey / 255 - 0.5) / 0.25" if flat else "2 (value / mean brain value - 1), background 0",
            dim=1,
            pooling="none, all values",
            licence="Apache-2.0",
            weights="none",
        )
        encoder = Pixels(spec)
        encoder.freeze()
        return encoder
