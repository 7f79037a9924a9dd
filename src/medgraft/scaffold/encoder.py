"""plugin_name: one layer of attention on the patches of a radiograph, with random weights."""

from typing import Any

import torch
from medgraft import Encoder, EncoderSpec, Features
from medgraft.encoder.attention import AttentionLayout
from medgraft.errors import UnknownNameError
from torch import Tensor, nn


class PluginEncoder(Encoder):
    api_version, has_cls = 1, False  # the class is its own source, with ``models`` and ``build``
    models = staticmethod(lambda: {"tiny": "one layer of width 64, 33 thousand random parameters"})

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.patches = nn.Conv2d(spec.channels, spec.dim, 16, stride=16)
        self.attend = nn.MultiheadAttention(spec.dim, spec.heads, batch_first=True)
        self.attention = [AttentionLayout("mha", "attend", spec.heads, spec.dim)]

    def prepare(self, raw: Any) -> Tensor:  # uint8 [H, W] -> [1, 64, 64] in -1..1
        return nn.functional.interpolate(torch.tensor(raw)[None, None] / 127.5 - 1, self.spec.input_size)[0]

    def encode(self, x: Tensor, *, start: int = 0) -> Features:  # [B, 1, 64, 64] -> tokens [B, 16, 64]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return Features(x, x.mean(dim=1), 0, (4, 4))

    def block_paths(self) -> list[str]:
        return ["attend"]

    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None) -> Encoder:
        if model != "tiny" or weights not in ("default", "random"):
            raise UnknownNameError("plugin_name encoder", f"{model}@{weights}", ["tiny@random"])
        spec: dict[str, Any] = {"modality": "image", "input_size": (64, 64), "dim": 64, "heads": 4, "weights": "random"}
        with torch.random.fork_rng():  # pyright: ignore[reportUnknownMemberType]
            torch.manual_seed(0)  # random, yet the same in every process  # pyright: ignore[reportUnknownMemberType]
            return cls(EncoderSpec(name="plugin_name:tiny", pooling="mean", **spec)).freeze()
