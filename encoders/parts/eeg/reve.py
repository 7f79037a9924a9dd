"""REVE (El Ouahidi et al., NeurIPS 2025, arXiv 2510.21585): the places of its electrodes, and its tower."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoder.block_tokens import BlockTokens
from medgraft.encoders.parts.eeg.attention import ResidualPair
from medgraft.encoders.parts.eeg.recordings import Preparation
from medgraft.encoders.parts.eeg.towers import EegEncoder
from medgraft.encoders.parts.loading import hub_file
from medgraft.errors import CheckpointError
from medgraft.features import Features
from medgraft.files.documents import read_json
from medgraft.modalities.eeg import electrode, positions

HUB = "brain-bzh/reve-positions"
"""Repository of the places that the published weights were trained with."""

FILES = ("positions.json", "reve_positions.json")
"""Their name there, and in the folder where the library keeps them."""

FOLDER = "REVE_POSITIONS_PATH"
"""Setting of MNE that names the folder in which the library looks for the second file before it fetches the first."""


@dataclass(frozen=True)
class Places:
    """Where the electrodes of a network lie.

    Attributes:
        by_name: Name -> place in metres, in the frame of MNE's templates.
        words: Where these come from.
    """

    by_name: Mapping[str, Sequence[float]]
    words: str


def template_places(channels: Sequence[str]) -> Places:
    """The places of electrodes of the 10-05 system on MNE's template.

    Args:
        channels: Names that the 10-05 system knows.
    """
    return Places(
        {name: positions()[electrode(name)].tolist() for name in channels}, "places of the electrodes by MNE's template"
    )


def places_of(name: str, channels: Sequence[str], source: str | Path) -> Places:
    """The places that some weights were trained with.

    Published weights have a list of their own. Beside weights on this disk such a list may lie, as one of
    :data:`FILES`; without it, and for random weights, for which nothing is fetched, MNE's template counts.

    Args:
        name: Of the encoder, for the error.
        channels: Names that the 10-05 system knows.
        source: ``"default"``, ``"random"``, or a file or folder of weights.

    Raises:
        CheckpointError: The list cannot be fetched or read, or lacks an electrode.
    """
    if source == "random":
        return template_places(channels)
    if source == "default":
        return _listed(name, channels, hub_file(name, HUB, FILES[0]))
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    found = [folder / each for each in FILES if (folder / each).is_file()]
    return _listed(name, channels, found[0]) if found else template_places(channels)


def _listed(name: str, channels: Sequence[str], path: Path) -> Places:
    listed = read_json(path, CheckpointError)
    if not isinstance(listed, dict):
        raise CheckpointError(f"encoder {name}: {path} is no list of places; it must map names of electrodes to them")
    spelled = {electrode(str(each)): place for each, place in listed.items()}
    places: dict[str, Sequence[float]] = {}
    for each in channels:
        place = spelled.get(electrode(each))
        if not (isinstance(place, list) and len(place) == 3 and all(_is_finite(value) for value in place)):
            said = "no place" if place is None else f"{place!r}"
            raise CheckpointError(
                f"encoder {name}: {path} has {said} for {each}, and each electrode needs three finite numbers; name "
                "others as channels=, or mend the file"
            )
        places[each] = place
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Places(places, f"places of the electrodes by {path.name} (sha256 {digest}...)")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def supplied(places: Places) -> Iterator[None]:
    """Inside, a REVE that is built finds its list of places on this disk, which the library would else fetch.

    The library looks first for a file in the folder that the setting :data:`FOLDER` names; so it is given one that
    holds these places and no others. The setting is as it was afterwards.

    Args:
        places: Of all electrodes that it is built with.
    """
    before = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="medgraft-places-") as folder:
        listed = {name: list(place) for name, place in places.by_name.items()}
        (Path(folder) / FILES[1]).write_text(json.dumps(listed))
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = before


class ReveTower(EegEncoder):
    """REVE, block by block; ``pooled`` is the mean of the tokens, or what the network's attention pooling gives.

    A token is a second of a channel, and its place and time are added to it, so that nothing depends on the order of
    the channels.
    """

    droppable = True

    def __init__(self, spec: EncoderSpec, model: Any, preparation: Preparation) -> None:
        super().__init__(spec, model, preparation)
        self.register_buffer("places", model.default_pos.clone(), persistent=False)
        layers = model.transformer.layers
        for i, layer in enumerate(layers):
            layers[i] = ResidualPair(layer)
        paths = [f"model.transformer.layers.{i}" for i in range(len(layers))]
        self.set_blocks(paths)
        self.attention = [
            AttentionLayout(
                "packed",
                f"{path}.0.to_qkv",
                heads=model.heads,
                dim=model.heads * model.head_dim,
                out_path=f"{path}.0.to_out",
            )
            for path in paths
        ]

    @property
    def _patches(self) -> int:
        step = self.model.patch_size - self.model.patch_overlap
        return (self.preparation.length - self.model.patch_size) // step + 1

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time."""
        return self.tokens_by_channel(self._patches, self.spec.dim, count)

    def embed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Patches of 1 s that overlap, with their place and time, ``[B, C * patches, width]``."""
        model = self.model
        assert isinstance(self.places, Tensor)
        places = self.places if present is None else self.places[present]
        patches = x.unfold(2, model.patch_size, model.patch_size - model.patch_overlap)
        where = model.fourier4d.add_time_patch(places[None], patches.shape[2]).to(x.dtype)
        return model.to_patch_embedding(patches).flatten(1, 2) + model.ln(model.fourier4d(where) + model.mlp4d(where))

    def pool(self, x: Tensor) -> Features:
        """Tokens ``[B, N, C]`` as they are: the network has no norm behind its last block."""
        pooled = self.model._attention_pooling(x[:, None]) if self.model.use_attention_pooling else x.mean(dim=1)
        return Features(x, pooled, 0, (x.shape[1] // self._patches, self._patches))
