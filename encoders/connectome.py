"""Encoders of connectomes: weights between the regions of an atlas, structural, functional or both.

``connectome:base``
    a graph transformer (:mod:`medgraft.encoders.parts.connectome.network`), a token for each region.

There are no published weights, so it begins at random, always the same; train it with ``full_finetune``, or give a file
that was saved before. Options stand in the name: ``connectome:base,regions=200,kinds=2,scaling=log+as_is``. With
``features=profile`` a region is told by its row of weights, so that the order of the regions is part of what is learnt,
as one atlas has it; with ``features=degree`` by five numbers of its neighbourhood, whatever the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.connectome.network import Block, Edges, edges_of, real_regions
from medgraft.encoders.parts.loading import StagedEncoder, file_in, finish, options_of, origin, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.name_options import ListedModels
from medgraft.errors import CheckpointError, ConfigError, DataError
from medgraft.features import Features
from medgraft.modality import find_modality
from medgraft.options import Options

CONFIGS: dict[str, dict[str, Any]] = {
    "base": {"dim": 128, "heads": 4, "depth": 3},
    "tiny": {"dim": 16, "heads": 2, "depth": 2},
}
FILES = ("model.safetensors", "pytorch_model.bin")
DEGREES = 5
SCALINGS = ("as_is", "log", "largest")


class Atlas(Options):
    """What graphs are read.

    Attributes:
        regions: Most regions; of a graph with fewer, the last places stay empty.
        kinds: Kinds of weights, such as 2 for structural and functional ones.
        scaling: What becomes of weights: ``as_is`` (correlations), ``log`` (``sign(w) log(1 + |w|)``, counts of
            streamlines) or ``largest`` (divided by the graph's largest absolute weight); one word for all kinds, or one
            for each, joined by ``+``.
        features: What a region is told by: ``profile``, its weights to all regions, or ``degree``, for each kind its
            number of connections, the mean and deviation of its absolute weights, and the mean and the largest number
            of connections of its neighbours.
    """

    regions: int = Field(116, ge=2, le=4096)
    kinds: int = Field(1, ge=1, le=16)
    scaling: str = "as_is"
    features: Literal["profile", "degree"] = "profile"

    @field_validator("scaling")
    @classmethod
    def _known(cls, value: str) -> str:
        if unknown := [word for word in value.split("+") if word not in SCALINGS]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(SCALINGS)}")
        return value

    def scalings(self) -> list[str]:
        """One word for each kind.

        Raises:
            ConfigError: There are as many as neither one nor the kinds.
        """
        words = self.scaling.split("+")
        if len(words) not in (1, self.kinds):
            raise ConfigError(f"scaling={self.scaling} has {len(words)} words for {self.kinds} kinds of weights")
        return words * self.kinds if len(words) == 1 else words


def scaled(weights: np.ndarray, scaling: str) -> np.ndarray:
    """Weights of one kind as the network is given them, ``float32 [R, R]``; their signs stay."""
    if scaling == "log":
        return np.sign(weights) * np.log1p(np.abs(weights))
    largest = np.abs(weights).max()
    return weights / largest if scaling == "largest" and largest else weights


def degrees(weights: Tensor) -> Tensor:
    """Numbers of each region's neighbourhood, ``[B, E, R, R] -> [B, R, 5 E]``; counts are shares of all regions."""
    linked = (weights != 0).to(weights.dtype)
    count = linked.sum(dim=3)
    most = count.clamp(min=1)
    mean = weights.abs().sum(dim=3) / most
    spread = ((weights.abs() - mean[..., None]).square() * linked).sum(dim=3) / most
    of_neighbours = linked * count[:, :, None]
    parts = [count / weights.shape[-1], mean, spread.sqrt()]
    parts += [of_neighbours.sum(dim=3) / most / weights.shape[-1], of_neighbours.amax(dim=3) / weights.shape[-1]]
    return torch.stack(parts, dim=-1).transpose(1, 2).flatten(2)


class ConnectomeEncoder(StagedEncoder):
    """A graph transformer on weights ``[B, E, R, R]``, block by block; ``pooled`` is the mean over regions.

    Tokens are the regions. One without any connection is masked and counts for nothing, so a graph of fewer regions
    leaves the last places empty. Hidden states carry the weights behind the tokens, ``[B, R, C + E * R]``.

    Args:
        spec: Facts; ``channels`` is ``E`` and ``input_size`` ``(R, R)``.
        atlas: How graphs are read.
        depth: Blocks.
    """

    def __init__(self, spec: EncoderSpec, atlas: Atlas, depth: int) -> None:
        super().__init__(spec)
        self.atlas, self.scalings = atlas, atlas.scalings()
        self.has_cls = False
        self.rotary = True  # tokens attend along edges, and none leads to one that is put between them
        width = atlas.kinds * (atlas.regions if atlas.features == "profile" else DEGREES)
        self.embedding = nn.Linear(width, spec.dim)
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads, atlas.kinds) for _ in range(depth))
        self.norm = nn.LayerNorm(spec.dim)
        self.set_blocks([f"blocks.{i}" for i in range(depth)])
        self.attention = [
            AttentionLayout(
                "split",
                f"{path}.attn.conv.lin_query",
                heads=spec.heads,
                dim=spec.dim,
                key_path=f"{path}.attn.conv.lin_key",
                value_path=f"{path}.attn.conv.lin_value",
                out_path=f"{path}.attn.proj",
                scored=False,
            )
            for path in self.block_paths()
        ]

    def prepare(self, raw: Any) -> Tensor:
        """Weights ``float32 [E, r, r]`` of up to ``R`` regions -> ``float32 [E, R, R]``, scaled, the rest 0.

        Raises:
            DataError: They are no symmetric graph, of other kinds, or of more regions than there are places for.
        """
        find_modality("graph").check(raw)
        kinds, regions = raw.shape[:2]
        if kinds != self.atlas.kinds or regions > self.atlas.regions:
            raise DataError(
                f"encoder {self.spec.name} reads {self.atlas.kinds} kinds of weights between up to "
                f"{self.atlas.regions} regions, and got {kinds} between {regions}; set kinds= and regions= in its name"
            )
        x = np.zeros((kinds, self.atlas.regions, self.atlas.regions), np.float32)
        for kind, (weights, scaling) in enumerate(zip(raw, self.scalings, strict=True)):
            x[kind, :regions, :regions] = scaled((weights + weights.T) / 2, scaling)
        return torch.from_numpy(x)

    def embed(self, x: Tensor) -> Tensor:
        """``[B, E, R, R]`` -> ``[B, R, C]``."""
        rows = x.transpose(1, 2).flatten(2) if self.atlas.features == "profile" else degrees(x)
        return self.embedding(rows)

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage 0 is the prepared batch; later ones are tokens with their weights, ``[B, R, C + E * R]``."""
        self._check_stage(stop)
        if stop == 0:
            return x
        x = self.checked(x)
        tokens = self.run_along(self.embed(x), edges_of(x), 0, stop - 1)
        return torch.cat([tokens, x.transpose(1, 2).flatten(2).to(tokens.dtype)], dim=-1)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a prepared batch ``[B, E, R, R]``, or of what :meth:`prefix` gave."""
        self._check_stage(start)
        if start == 0:
            weights = self.checked(x)
            tokens = self.embed(weights)
        else:
            tokens, rows = x[..., : self.spec.dim], x[..., self.spec.dim :]
            weights = rows.unflatten(2, (self.atlas.kinds, -1)).transpose(1, 2)
        tokens = self.norm(self.run_along(tokens, edges_of(weights), max(start - 1, 0), len(self.blocks)))
        real = real_regions(weights)
        pooled = (tokens * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return Features(tokens, pooled, 0, (tokens.shape[1],), mask=None if bool(real.all()) else real)

    def run_along(self, x: Tensor, edges: Edges, first: int, stop: int) -> Tensor:
        """Runs blocks ``first`` to ``stop - 1`` along connections, ``[B, R, C] -> [B, R, C]``."""
        for path in self.block_paths()[first:stop]:
            x = self.get_submodule(path)(x, edges)
        return x


class ConnectomeSource(ListedModels):
    """Entry point ``connectome``."""

    name = "connectome"
    Config = Atlas
    listed = CONFIGS

    @classmethod
    def parsed(cls, model: str, options: Mapping[str, Any]) -> tuple[str, Atlas]:
        """See :meth:`ListedModels.parsed`; scalings fit the kinds."""
        base, atlas = super().parsed(model, options)
        atlas.scalings()
        return base, atlas

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "base": "graph transformer on regions of an atlas, width 128, 3 blocks, from scratch",
            "tiny": "the same of width 16 and 2 blocks, for tests",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None, **options: Any) -> Encoder:
        """Builds an encoder of graphs, prepared as ``[E, R, R]``.

        Args:
            model: A key of :meth:`models`, options behind it.
            weights: ``"default"`` or ``"random"``, which are the same (seeded), or a local file of its parameters, or a
                folder with one.
            sha256: Expected digest of the file.
            **options: As :class:`Atlas` says, in place of what the name says.

        Raises:
            UnknownNameError: There is no such model.
            ConfigError: An option does not fit.
            CheckpointError: The file cannot be read or does not fit.
        """
        base, atlas = cls.parsed(model, options)
        name, source, config = f"connectome:{cls.with_options(model, options)}", origin(weights, sha256), CONFIGS[base]
        spec = EncoderSpec(
            name=name,
            modality="graph",
            input_size=(atlas.regions, atlas.regions),
            channels=atlas.kinds,
            intensity=f"weights, {' and '.join(atlas.scalings())}; their signs stay",
            dim=config["dim"],
            heads=config["heads"],
            pooling="mean over regions with a connection",
            licence="unknown" if isinstance(source, Path) else "Apache-2.0",
            weights="random",
        )
        with seeded(), options_of(name):
            encoder = ConnectomeEncoder(spec, atlas, config["depth"])
        if isinstance(source, Path):
            try:
                load_file(encoder, file_in(source, FILES), sha256)
            except CheckpointError as error:
                raise CheckpointError(f"encoder {name}: {error}") from error
            return finish(encoder, source)
        return finish(encoder, "random")
