"""What the 3D networks that authors publish as one file share: fetching it, fitting it, and the facts of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.parts.hub import demand
from medgraft.encoders.parts.loading import file_in, finish, options_of, origin, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.errors import ConfigError
from medgraft.sources import Source


@dataclass(frozen=True)
class Release:
    """Where weights come from and what of them belongs to the encoder.

    Attributes:
        place: Repository or address of the file.
        fetch: Downloads the file.
        files: Names that it has in a local folder.
        drop: Patterns of keys that are no part of the encoder.
        licence: Of the published weights.
        cohorts: Seen in pre-training.
        local_licence: Of a file of the user's, where it can only be a copy of the release.
        local_cohorts: Assumed of a file of the user's.
        convert: Renames keys of a foreign layout.
    """

    place: str
    fetch: Callable[[], Path]
    files: Sequence[str]
    drop: Sequence[str]
    licence: str
    cohorts: tuple[str, ...]
    local_licence: str = "unknown"
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
        """Facts of a network of volumes, whose last map is averaged unless they say otherwise.

        Args:
            name: Of the encoder.
            source: What :func:`~medgraft.encoders.parts.loading.origin` found.
            **facts: ``input_size``, ``intensity``, ``dim`` and whatever else of :class:`EncoderSpec` is known.
        """
        return EncoderSpec(
            name=name,
            modality="volume",
            licence={"random": "Apache-2.0", "default": self.licence}.get(str(source), self.local_licence),
            cohorts={"random": (), "default": self.cohorts}.get(str(source), self.local_cohorts),
            weights="random",
            **{"pooling": "mean", **facts},
        )


class PublishedSource(Source):
    """Base of sources whose authors publish one file: a source says what network, which file and which encoder.

    Attributes:
        size: Depth, height and width of a prepared volume unless the user says otherwise.
        multiple: What each of them must be a multiple of.
    """

    size: ClassVar[tuple[int, int, int]]
    multiple: ClassVar[int] = 1

    @classmethod
    def release(cls, model: str) -> Release:
        """The published file of a model."""
        raise TypeError(f"{cls.__name__} must implement release()")

    @classmethod
    def network(cls, model: str, size: tuple[int, int, int], **options: Any) -> nn.Module:
        """The network of a model with random weights, for volumes ``[B, 1, *size]``."""
        raise TypeError(f"{cls.__name__} must implement network()")

    @classmethod
    def encoder(cls, model: str, network: Any, facts: Callable[..., EncoderSpec]) -> Encoder:
        """The encoder around a loaded network.

        Args:
            model: Which.
            network: Its network.
            facts: Makes the spec of what is known by then and of the rest: ``dim``, ``intensity``, and so on.
        """
        raise TypeError(f"{cls.__name__} must implement encoder()")

    @classmethod
    def make(
        cls, model: str, weights: str, sha256: str | None, img_size: Sequence[int] | None = None, **options: Any
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (the release), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            img_size: Depth, height and width of a prepared volume; those of :attr:`size` unless given.
            **options: Of the network.

        Raises:
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        name, source, release = f"{cls.name}:{model}", origin(weights, sha256), cls.release(model)
        size = volume_size(name, cls.size if img_size is None else img_size, cls.multiple)
        if source == "default":
            demand(name, release.place)
        with seeded(), options_of(name):
            network = cls.network(model, size, **options)
        release.load(network, source, sha256)
        return finish(cls.encoder(model, network, partial(release.spec, name, source, input_size=size)), source)


def volume_size(name: str, img_size: Sequence[int], multiple: int = 1) -> tuple[int, int, int]:
    """Depth, height and width of a prepared volume.

    Raises:
        ConfigError: They are not three positive multiples of ``multiple``.
    """
    size = tuple(int(n) for n in img_size)
    if len(size) != 3 or any(length < 1 or length % multiple for length in size):
        requirement = f"multiples of {multiple}" if multiple > 1 else "sizes"
        raise ConfigError(f"encoder {name}: img_size {size} must be three {requirement}")
    return size[0], size[1], size[2]
