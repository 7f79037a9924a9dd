"""SwiFT: a Swin transformer over space and time for functional MRI.

Kim et al., "SwiFT: Swin 4D fMRI Transformer", NeurIPS 2023 (arXiv 2307.05916). Checkpoints of the authors' training
are Lightning's, with the network under ``model.`` beside a head; bare ones are taken too. Their files lie in their
repository under Git LFS and are read from a local copy: ``swift:hcp@contrastive_pretrained.ckpt``.

A subject's score is published as the mean of the scores of its windows. A head there is linear on the mean of all
tokens, so the mean of the windows' features gives the same; an encoder reads up to ``windows`` of a run,
``swift:hcp,windows=8``, and averages those that there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.block_tokens import BlockTokens
from medgraft.encoders.parts.loading import StagedEncoder, file_in, finish, options_of, origin, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.name_options import ListedModels
from medgraft.encoders.parts.swift.network import Block, SwiFT, WindowAttention
from medgraft.encoders.parts.swift.runs import prepare_run, real_windows
from medgraft.errors import CheckpointError, ConfigError
from medgraft.features import Features
from medgraft.options import Options

__all__ = ["SwiFT", "SwiftEncoder", "SwiftSource", "prepare_run"]

CONFIGS: dict[str, dict[str, Any]] = {
    "hcp": {
        "img_size": (96, 96, 96, 20),
        "in_chans": 1,
        "embed_dim": 36,
        "window_size": (4, 4, 4, 4),
        "first_window_size": (4, 4, 4, 4),
        "patch_size": (6, 6, 6, 1),
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
        "last_layer_full_MSA": True,
    },
    "tiny": {
        "img_size": (16, 16, 16, 4),
        "in_chans": 1,
        "embed_dim": 12,
        "window_size": (2, 2, 2, 2),
        "first_window_size": (2, 2, 2, 2),
        "patch_size": (4, 4, 4, 1),
        "depths": (2, 2),
        "num_heads": (2, 4),
        "last_layer_full_MSA": True,
    },
}
PUBLISHED = {"contrastive_pretrained.ckpt": ("ABCD", "HCP", "UKB"), "hcp_sex_classification.ckpt": ("HCP",)}
"""Files of the authors' repository, by which a copy is known, and the cohorts that each saw."""
FILES = (*PUBLISHED, "model.safetensors")
# Heads of the authors' training, and a norm that the network does without.
NOT_ENCODER = (r"^output_head\.", r"^head\.", r"^norm\.")


class Windows(Options):
    """How much of a run is read.

    Attributes:
        windows: Most windows; of a longer run as many, evenly spread, and of a shorter one those that there are.
    """

    windows: int = Field(4, ge=1, le=256)


def load_checkpoint(network: SwiFT, path: Path, sha256: str | None = None) -> None:
    """Loads a file of the authors' training, or another with the network's names, strictly; heads are left out.

    Args:
        network: What receives the weights.
        path: Lightning's checkpoint, a bare state dict or safetensors.
        sha256: Expected digest of the file.

    Raises:
        CheckpointError: The file cannot be read, or is of another configuration.
    """
    load_file(network, path, sha256, drop=NOT_ENCODER)


class SwiftEncoder(StagedEncoder):
    """SwiFT on windows of a run ``[B, 1, K * T, x, y, z]``, block by block; blocks run on ``[B * K, N, C]``.

    The tokens are those of the last stage without a norm, as published, window by window, on a grid
    ``(K, h, w, d, T)``, without its first axis where ``K`` is 1. ``pooled`` is their mean over the windows that a run
    has; the others are masked.

    Args:
        spec: Facts; ``input_size`` is ``(K * T, x, y, z)``.
        model: The network.
    """

    def __init__(self, spec: EncoderSpec, model: SwiFT) -> None:
        super().__init__(spec)
        self.model = model
        self.frames = model.img_size[3]
        self.sliced = spec.input_size[0] // self.frames
        self.real_slices = None  # an attribute from the start, so that a run leaves no trace in the encoder
        self.has_cls = False
        self.rotary = True  # tokens attend by their place in a grid, so none can be put between them
        self.set_blocks([f"model.layers.{stage}.blocks.{index}" for stage, index in model.places()])
        self.attention = [self._layout(path) for path in self.block_paths()]

    def _layout(self, path: str) -> AttentionLayout:
        attention = self.get_submodule(f"{path}.attn")
        assert isinstance(attention, WindowAttention)
        place, dim = f"{path}.attn", attention.proj.out_features
        return AttentionLayout("packed", f"{place}.qkv", attention.heads, dim, out_path=f"{place}.proj", scored=False)

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Height, width, depth and time of one window, which blocks run on as if it were a sample."""
        stage, inside = self.model.places()[index]
        block = self.model.layers[stage].get_submodule(f"blocks.{inside}")
        assert isinstance(block, Block)
        frames = self.frames if count is None else count // math.prod(block.space)
        return BlockTokens(0, (*block.space, frames), "ssst", block.mlp.linear1.in_features)

    def prepare(self, raw: Any) -> Tensor:
        """Run ``float32 [T, x, y, z]`` in MNI space at 2 mm -> ``float32 [1, K * T', x', y', z']``.

        See :mod:`medgraft.encoders.parts.swift.runs`. Axes are read as they come, no volume is turned or resampled.

        Raises:
            DataError: It is shorter than a window, shows no brain, or is no run at all.
        """
        return prepare_run(raw, self.spec.input_size[1:], self.frames, self.sliced)

    def embed(self, x: Tensor) -> Tensor:
        """Windows ``[B * K, 1, T, x, y, z]`` -> tokens ``[B * K, N, C]``."""
        return self.model.embed(x.movedim(2, -1))

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs blocks ``first`` to ``stop - 1``, with positions and merging between stages, ``[B * K, N, C]``."""
        for stage, index in self.model.places()[first:stop]:
            x = self.model.run_block(x, stage, index)
        return x

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage 0 is the prepared batch; later ones are tokens ``[B, K, N, C]``, NaN in windows that a run lacks."""
        self._check_stage(stop)
        if stop == 0:
            return x
        windows, real = self._windows(x, 0)
        with self._among(real):
            hidden = self.run(self.embed(windows), 0, stop - 1).unflatten(0, (-1, self.sliced))
        return hidden if real is None else hidden.masked_fill(~real[:, :, None, None], float("nan"))

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a prepared batch ``[B, 1, K * T, x, y, z]``, or of what :meth:`prefix` gave."""
        self._check_stage(start)
        windows, real = self._windows(x, start)
        with self._among(real):
            tokens = self.embed(windows) if start == 0 else windows
            return self._gathered(self.run(tokens, max(start - 1, 0), len(self.block_paths())), real)

    def _windows(self, x: Tensor, start: int) -> tuple[Tensor, Tensor | None]:
        """Windows ``[B * K, ...]``, and which are real, ``[B, K]``, or ``None`` for all."""
        if start == 0:
            parts = self.checked(x).unflatten(2, (self.sliced, -1)).movedim(2, 1)
            real = None if self.sliced == 1 else real_windows(parts)
        elif x.ndim == 4 and x.shape[1] == self.sliced:
            parts, real = x, None if self.sliced == 1 else ~x[:, :, 0, 0].isnan()
        else:
            shape = f"[B, {self.sliced}, N, C]"
            raise ConfigError(f"encoder {self.spec.name} takes hidden states {shape}, got {list(x.shape)}")
        flat = parts.flatten(0, 1)
        if real is None or bool(real.all()):
            return flat, None
        return flat.masked_fill(~real.view(-1, *(1 for _ in flat.shape[1:])), 0.0), real

    @contextmanager
    def _among(self, real: Tensor | None) -> Iterator[None]:
        """Inside, adapters are told which windows are padding."""
        self.real_slices = real
        try:
            yield
        finally:
            self.real_slices = None

    def _gathered(self, flat: Tensor, real: Tensor | None) -> Features:
        tokens = flat.unflatten(0, (-1, self.sliced))
        space = tuple(self.model.space)
        grid = (*((self.sliced,) if self.sliced > 1 else ()), *space, self.frames)
        each = tokens.mean(dim=2)
        if real is None:
            return Features(tokens.flatten(1, 2), each.mean(dim=1), 0, grid)
        tokens = tokens.masked_fill(~real[:, :, None, None], 0.0)
        pooled = each.masked_fill(~real[:, :, None], 0.0).sum(dim=1) / real.sum(dim=1)[:, None]
        mask = real.repeat_interleave(tokens.shape[2], dim=1)
        return Features(tokens.flatten(1, 2), pooled, 0, grid, mask=mask)


class SwiftSource(ListedModels):
    """Entry point ``swift``."""

    name = "swift"
    Config = Windows
    listed = CONFIGS

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each; ``hcp,windows=8`` reads eight windows of a run."""
        return {
            "hcp": "the published SwiFT on windows of 20 volumes of 96 x 96 x 96 voxels, 288 features",
            "tiny": "a small one on windows of 4 volumes of 16 x 16 x 16 voxels, for tests; it has no weights",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None, windows: int | None = None, **options: Any) -> Encoder:
        """Builds an encoder of runs ``[1, K * T, x, y, z]``.

        Args:
            model: A key of :meth:`models`, options behind it.
            weights: ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            windows: As :class:`Windows` says, in place of what the name says.
            **options: Of :class:`SwiFT`, in place of the model's.

        Raises:
            UnknownNameError: There is no such model.
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be read or fitted, or none are named.
        """
        base, chosen = cls.parsed(model, {} if windows is None else {"windows": windows})
        name = f"swift:{model}" if windows is None else f"swift:{cls.with_options(model, {'windows': windows})}"
        source = origin(weights, sha256)
        if source == "default":
            raise CheckpointError(
                f"encoder {name} has no weights that can be fetched: the authors' files lie in their repository "
                "(Transconnectome/SwiFT, pretrained_models, Git LFS); give a copy as @/path/to/file, or @random"
            )
        with seeded(), options_of(name):
            network = SwiFT(**{**CONFIGS[base], **options})
        network.norm = nn.Identity()
        if isinstance(source, Path):
            source = file_in(source, FILES)
            load_checkpoint(network, source, sha256)
        return finish(SwiftEncoder(_spec(name, network, chosen.windows, source), network), source)


def _spec(name: str, network: SwiFT, windows: int, source: str | Path) -> EncoderSpec:
    *space, frames = network.img_size
    known = source == "random" or Path(source).name in PUBLISHED
    return EncoderSpec(
        name=name,
        modality="volume_sequence",
        input_size=(windows * frames, *space),
        channels=network.in_chans,
        spacing=2.0,
        intensity="z-scores over the voxels of the run that are not 0, background at the lowest of them",
        dim=network.num_features,
        heads=_heads(network),
        pooling="mean, then mean over windows",
        licence="Apache-2.0" if known else "unknown",
        cohorts=PUBLISHED.get(Path(source).name, ()),
        weights="random",
    )


def _heads(network: SwiFT) -> int:
    block = network.layers[-1].get_submodule("blocks.0.attn")
    assert isinstance(block, WindowAttention)
    return block.heads
