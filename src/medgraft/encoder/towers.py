"""Towers of an encoder by what they read: the text tower, and the visual ones, which are all others.

Adapters ask here and not by the number of towers, so that they fit encoders with any number of them.
"""

from __future__ import annotations

from typing import Literal

from medgraft.encoder import Encoder, MultimodalEncoder
from medgraft.modality import find_modality, is_text

Reading = Literal["visual", "text", "both"]
"""Which towers: those that do not read text, those that do, or all."""


def reads_text(tower: Encoder) -> bool:
    """Whether a tower reads text."""
    return is_text(tower.spec.modality)


def towers_reading(encoder: Encoder, reading: Reading) -> dict[str, Encoder]:
    """Modality -> tower, those that read text, those that do not, or both.

    Args:
        encoder: The encoder.
        reading: Which.
    """
    return {
        name: tower
        for name, tower in encoder.towers().items()
        if reading == "both" or reads_text(tower) == (reading == "text")
    }


def text_tower(encoder: Encoder) -> tuple[str, Encoder] | None:
    """Modality and tower of the first that reads text; ``None`` where there is none."""
    return next(iter(towers_reading(encoder, "text").items()), None)


def visual_tower(encoder: Encoder) -> tuple[str, Encoder] | None:
    """Modality and tower of the first that does not read text; ``None`` where there is none."""
    return next(iter(towers_reading(encoder, "visual").items()), None)


def grid_axes(tower: Encoder) -> int:
    """Axes of the image or volume that a tower's tokens lie in: 2 or 3, and 0 where they lie in none."""
    return find_modality(tower.spec.modality).axes_of(tower.spec)


def shares_space(encoder: Encoder, *modalities: str) -> bool:
    """Whether an encoder has a space that modalities share, and some of them by name.

    Args:
        encoder: The encoder.
        modalities: Which must share it; none asks for a space of any.
    """
    return (
        isinstance(encoder, MultimodalEncoder)
        and encoder.logit_scale is not None
        and set(modalities) <= set(encoder.shared)
    )


def select_towers(encoder: Encoder, modalities: tuple[str, ...]) -> Encoder:
    """The part of an encoder that reads some modalities: one tower, some, or the encoder itself.

    Args:
        encoder: The encoder, which has a tower for each.
        modalities: Their names.

    Example:
        >>> from medgraft import build_encoder
        >>> chest = build_encoder("embedded:chest")
        >>> select_towers(chest, ("image",)).spec.modality, select_towers(chest, ("image", "text")) is chest
        ('image', True)
    """
    if len(modalities) == 1:
        return encoder.towers()[modalities[0]]
    if isinstance(encoder, MultimodalEncoder) and set(encoder.towers()) - set(modalities):
        return encoder.only(modalities)
    return encoder
