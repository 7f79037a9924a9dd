"""What the 3D networks that authors publish as one file share: fetching it, fitting it, and the facts of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medgraft.encoder import EncoderSpec
from medgraft.encoders.loading import file_in, load_file
from medgraft.errors import ConfigError


@dataclass(frozen=True)
class Release:
    """Where weights come from and what of them belongs to the encoder.

    Attributes:
        fetch: Downloads the file.
        files: Names that it has in a local folder.
        drop: Patterns of keys that are no part of the encoder.
        licence: Of the published weights; nobody knows that of a file of the user's.
        cohorts: Seen in pre-training.
        local_cohorts: Assumed of a file of the user's.
        convert: Renames keys of a foreign layout.
    """

    fetch: Callable[[], Path]
    files: Sequence[str]
    drop: Sequence[str]
    licence: str
    cohorts: tuple[str, ...]
    local_cohorts: tuple[str, ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def load(self, network: Any, source: str | Path, sha256: str | None) -> None:
        """Loads the release or the user's copy of it into ``network``; leaves it as it is for ``random``.

        Raises:
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if source != "random":
            path = self.fetch() if source == "default" else file_in(Path(source), self.files)
            load_file(network, path, sha256, drop=self.drop, convert=self.convert)

    def spec(self, name: str, source: str | Path, **facts: Any) -> EncoderSpec:
        """Facts of a network of volumes whose last map is averaged.

        Args:
            name: Of the encoder.
            source: What :func:`~medgraft.encoders.loading.origin` found.
            **facts: ``input_size``, ``intensity``, ``dim`` and whatever else of :class:`EncoderSpec` is known.
        """
        return EncoderSpec(
            name=name,
            modality="volume",
            pooling="mean",
            licence={"random": "Apache-2.0", "default": self.licence}.get(str(source), "unknown"),
            cohorts={"random": (), "default": self.cohorts}.get(str(source), self.local_cohorts),
            weights="random",
            **facts,
        )


def volume_size(name: str, img_size: Sequence[int], multiple: int = 1) -> tuple[int, int, int]:
    """Depth, height and width of a prepared volume.

    Raises:
        ConfigError: They are not three positive multiples of ``multiple``.
    """
    size = tuple(int(n) for n in img_size)
    if len(size) != 3 or any(length < 1 or length % multiple for length in size):
        wanted = f"multiples of {multiple}" if multiple > 1 else "sizes"
        raise ConfigError(f"encoder {name}: img_size {size} must be three {wanted}")
    return size[0], size[1], size[2]
