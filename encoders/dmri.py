"""``dmri:<encoder of volumes>``: a frozen encoder of volumes reads maps of diffusion MRI side by side.

``dmri:embedded:brain`` reads two maps, ``dmri:maps=4:embedded:brain`` four; how the first layer takes them, says
:mod:`medgraft.encoders.parts.volume_maps`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from medgraft.encoder import Encoder
from medgraft.encoders.parts.volume_maps import on_volumes
from medgraft.errors import ConfigError
from medgraft.options import Options, checked, from_text
from medgraft.registry import check_encoder
from medgraft.sources import Source


class Maps(Options):
    """How many maps a sample has.

    Attributes:
        maps: Such as 2 for FA and MD.
    """

    maps: int = Field(2, ge=1, le=16)


class DmriSource(Source):
    """Entry point ``dmri``."""

    name, hub_ids = "dmri", True

    @classmethod
    def check(cls, model: str, weights: str) -> None:
        """Raises for an encoder that there is not, and for options of another form."""
        check_encoder(parse(model, weights)[1])

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"maps=<number>:<encoder of volumes>": "any encoder of volumes, on maps of diffusion MRI; 2 by default"}

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> Encoder:
        """Builds the encoder.

        Args:
            model: Perhaps ``maps=<number>:``, and the name of the encoder of volumes.
            weights: Its weights.
            sha256: Not accepted; a checksum belongs to the encoder of volumes.

        Raises:
            ConfigError: A checksum is given, or the number of maps is none.
            IncompatibleError: It reads no volumes.
        """
        if sha256 is not None:
            raise ConfigError(f"a checksum of dmri:{model} is that of the encoder in it; load this one by its own name")
        options, inner = parse(model, weights)
        return on_volumes(inner, "dmri", options.maps, f"dmri:maps={options.maps}:{inner}")


def parse(model: str, weights: str = "default") -> tuple[Maps, str]:
    """Options and encoder of a name.

    Raises:
        ConfigError: The number of maps is none from 1 to 16.

    Example:
        >>> options, inner = parse("maps=4:m3d:clip", "random")
        >>> options.maps, inner
        (4, 'm3d:clip@random')
    """
    first, _, rest = model.partition(":")
    values: dict[str, Any] = {}
    if "=" in first:
        name, _, text = first.partition("=")
        values, model = {name: from_text(int, text) if name == "maps" else text}, rest
    return checked(Maps, values, "options of dmri"), model if weights == "default" else f"{model}@{weights}"
