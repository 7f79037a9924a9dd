"""``pet:<encoder of volumes>``: a frozen encoder of volumes reads positron emission tomography.

``pet:embedded:brain``, ``pet:m3d:clip@FILE``: the name of any encoder of volumes follows, weights included. It sees a
volume of uptake as one of its own, prepared as it prepares its own.
"""

from __future__ import annotations

from medgraft.encoder import Encoder
from medgraft.encoders.parts.volume_maps import on_volumes
from medgraft.errors import ConfigError
from medgraft.registry import check_encoder
from medgraft.sources import Source


class PetSource(Source):
    """Entry point ``pet``."""

    name, hub_ids = "pet", True

    @classmethod
    def check(cls, model: str, weights: str) -> None:
        """Raises for an encoder that there is not."""
        check_encoder(_inner(model, weights))

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"<encoder of volumes>": "any encoder of volumes, on volumes of tracer uptake"}

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> Encoder:
        """Builds the encoder.

        Args:
            model: Name of the encoder of volumes.
            weights: Its weights.
            sha256: Not accepted; a checksum belongs to the encoder of volumes.

        Raises:
            ConfigError: A checksum is given.
            IncompatibleError: It reads no volumes.
        """
        if sha256 is not None:
            raise ConfigError(f"a checksum of pet:{model} is that of {model}; load this one by its own name")
        inner = _inner(model, weights)
        return on_volumes(inner, "pet", 1, f"pet:{inner}")


def _inner(model: str, weights: str) -> str:
    return model if weights == "default" else f"{model}@{weights}"
