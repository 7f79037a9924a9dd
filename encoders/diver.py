"""DIVER: a transformer of EEG on all patches of all channels at once, at random or from one's own training.

``diver:base``. "DIVER-0" (arXiv 2507.14141) and "DIVER-1" (arXiv 2512.19097), written from the papers; see
:mod:`medgraft.encoders.parts.diver.network`. The authors' weights carry no licence and are not read. A raw sample is a
:class:`~medgraft.modalities.signal.Recording`, brought to 500 Hz and microvolts as for the networks of braindecode.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.block_tokens import BlockTokens
from medgraft.encoders.parts.diver.attention import HEAD_DIM, Block, grid_places
from medgraft.encoders.parts.diver.network import Diver
from medgraft.encoders.parts.eeg.electrodes import check_names
from medgraft.encoders.parts.eeg.recordings import Preparation, Recorded, preparation_of
from medgraft.encoders.parts.eeg.towers import EegEncoder
from medgraft.encoders.parts.loading import file_in, finish, options_of, origin, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.name_options import ListedModels
from medgraft.errors import CheckpointError, ConfigError
from medgraft.features import Features
from medgraft.modalities.eeg import TEN_TWENTY, electrode, positions

RATE = 500
FILES = ("model.safetensors", "pytorch_model.bin")
CONFIGS: dict[str, dict[str, Any]] = {
    "base": {"dim": 512, "depth": 12, "seconds": 10.0},
    "tiny": {"dim": 64, "depth": 2, "seconds": 2.0},
}


class Chosen(Recorded):
    """How recordings are read, and the patches.

    Attributes:
        patch: Samples of a patch, 1 s or 0.1 s.
    """

    patch: Literal[500, 50] = 500


class DiverTower(EegEncoder):
    """DIVER, block by block, on windows ``[B, C, T]``; ``pooled`` is the mean of the patches.

    Tokens are the global register, one for each channel, one for each time, and the patches channel by channel on a
    grid ``(C, N)``. Nothing depends on the order of the channels, and any may be left out.

    Args:
        spec: Facts.
        model: The network.
        preparation: How a recording is brought to what it takes.
    """

    has_cls = True
    droppable = True
    model: Diver

    def __init__(self, spec: EncoderSpec, model: Diver, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        self.register_buffer("xyz", torch.from_numpy(places_of(preparation.channels)), persistent=False)
        self.frames = preparation.length // model.patch
        self.set_blocks([f"model.blocks.{i}" for i in range(model.depth)])
        self.attention = [
            AttentionLayout(
                "packed",
                f"{path}.attn.qkv",
                heads=model.dim // HEAD_DIM,
                dim=model.dim,
                out_path=f"{path}.attn.proj",
                scale=1 / HEAD_DIM,
                scored=False,
            )
            for path in self.block_paths()
        ]

    @property
    def prefix_tokens(self) -> int:
        """Registers where all channels are there."""
        return 1 + len(self.preparation.channels) + self.frames

    def token_mask(self, present: Tensor, patches: int) -> Tensor:
        """Which tokens a recording has; a channel that is not there has no register either, ``bool [N]``."""
        times = present.new_ones(self.frames)
        return torch.cat([present.new_ones(1), present, times, present.repeat_interleave(patches)])

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time, behind the registers."""
        channels = len(self.preparation.channels) if count is None else count // (self.frames + 1) - 1
        prefix, varying = 1 + channels + self.frames, self.preparation.missing == "drop"
        return BlockTokens(prefix, (channels, self.frames), "ct", self.model.dim, varying=varying)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[B, C, T]`` -> ``[B, (C + 1) * (N + 1), width]``."""
        assert isinstance(self.xyz, Tensor)
        return self.model.embed(x, self.xyz if present is None else self.xyz[present])

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs blocks ``first`` to ``stop - 1`` on ``[B, (C + 1) * (N + 1), width]``, of however many channels."""
        places = grid_places(self._channels_in(x), self.frames, x.device)
        for path in self.block_paths()[first:stop]:
            block = self.get_submodule(path)
            assert isinstance(block, Block)
            x = block(x, places)
        return x

    def pool(self, x: Tensor) -> Features:
        """Last norm, ``[B, (C + 1) * (N + 1), width]``."""
        tokens, channels = self.model.norm(x), self._channels_in(x)
        prefix = 1 + channels + self.frames
        return Features(tokens, tokens[:, prefix:].mean(dim=1), prefix, (channels, self.frames))

    def _channels_in(self, x: Tensor) -> int:
        return x.shape[1] // (self.frames + 1) - 1


def places_of(channels: Sequence[str]) -> np.ndarray:
    """Places of electrodes in millimetres by the template of the 10-05 system, ``float32 [C, 3]``.

    A difference of two electrodes has none, and is ``nan``.
    """
    unknown = np.full(3, np.nan)
    places = [positions().get(electrode(name)) for name in channels]
    return np.stack([unknown if place is None else 1e3 * place for place in places]).astype(np.float32)


class DiverSource(ListedModels):
    """Entry point ``diver``."""

    name = "diver"
    Config = Chosen
    listed = CONFIGS

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "base": "transformer of EEG on all patches of all channels, width 512, 12 blocks",
            "tiny": "the same of width 64 and 2 blocks, for tests",
        }

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        channels: Sequence[str] = TEN_TWENTY,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of recordings, prepared as ``[channels, T]`` at 500 Hz.

        Args:
            model: A key of :meth:`models`, options behind it.
            weights: ``"random"``, or a local file of this network, or a folder with one.
            sha256: Expected digest of the local file.
            channels: Electrodes or differences that it is given; the 19 of the 10-20 system unless given.
            **options: As :class:`Chosen` says, in place of what the name says; ``dim`` and ``depth`` of
                :class:`~medgraft.encoders.parts.diver.network.Diver` in place of the model's.

        Raises:
            UnknownNameError: There is no such model.
            ConfigError: An option does not fit the model, or MNE is not installed.
            CheckpointError: The weights cannot be read or fitted, or none are named.
        """
        own = {option: options.pop(option) for option in Chosen.model_fields if option in options}
        base, chosen = cls.parsed(model, own)
        name, source, config = f"diver:{cls.with_options(model, own)}", origin(weights, sha256), dict(CONFIGS[base])
        if source == "default":
            raise CheckpointError(
                f"encoder {name} has no weights that can be fetched: the authors' carry no licence; give a file of "
                "your own training as @/path/to/file, or @random"
            )
        usual = config.pop("seconds")
        seconds = usual if chosen.seconds is None else chosen.seconds
        preparation = preparation_of(
            name, channels, RATE, seconds, chosen.patch, "within_200", chosen.unit, chosen.missing
        )
        check_places(name, preparation.channels)
        with seeded(), options_of(name):
            network = Diver(**{**config, "patch": chosen.patch, **options})
        if isinstance(source, Path):
            load_file(network, file_in(source, FILES), sha256)
        return finish(
            DiverTower(_spec(name, network, preparation, source), network, preparation), source, preparation.words
        )


def check_places(name: str, channels: Sequence[str]) -> None:
    """Refuses channels whose names say no place.

    Raises:
        ConfigError: MNE, whose template of the 10-05 system is used, is not installed.
        DataError: A channel is no electrode of that system and no difference of two.
    """
    try:
        import mne  # noqa: F401  # pyright: ignore[reportUnusedImportStatement]
    except ImportError as error:
        raise ConfigError(f"encoder {name} needs MNE; pip install 'medgraft[eeg]' brings it ({error})") from error
    check_names(channels, f"encoder {name} is given")


def _spec(name: str, network: Diver, preparation: Preparation, source: str | Path) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        modality="signal",
        input_size=(preparation.length,),
        channels=len(preparation.channels),
        intensity=preparation.words,
        dim=network.dim,
        heads=network.dim // HEAD_DIM,
        pooling="mean",
        licence="Apache-2.0" if source == "random" else "unknown",
        weights="random",
    )
