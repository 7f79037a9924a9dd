"""What is said of an encoder: its facts, and what hangs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class EncoderSpec(BaseModel):
    """Facts about an encoder that a result must carry.

    Attributes:
        name: Full name as the registry resolves it, ``source:model``.
        modality: What a sample is, by the name of a :class:`medgraft.modality.Modality`; an encoder of several
            joins them with ``+``.
        input_size: Size of a prepared input without its channels: ``(H, W)`` or ``(D, H, W)``, ``(L,)`` tokens for
            text, ``(T,)`` for a signal.
        channels: Input channels.
        spacing: Voxel size in mm that the weights expect, or ``None`` where they carry no such fact.
        intensity: What a prepared input's values mean, in words.
        dim: Width ``C`` of the tokens.
        heads: Attention heads, 0 for a CNN.
        pooling: Rule that makes ``pooled`` from the tokens. An encoder that says ``cls`` itself, and does not leave
            it to the default, may be run for its CLS token alone (:mod:`medgraft.fast.cls_block`).
        licence: Licence of the weights.
        cohorts: Cohorts seen in pre-training, for leakage checks (``"ADNI"``, ``"CheXpert"``).
        weights: ``"random"``, ``"none"`` (nothing to train) or ``"pretrained:<sha256 of the parameters>"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    input_size: tuple[int, ...]
    channels: int = 1
    spacing: float | None = None
    intensity: str = ""
    dim: int
    heads: int = 0
    pooling: str = "cls"
    licence: str = "unknown"
    cohorts: tuple[str, ...] = Field(default=())
    weights: str


class Carried(Protocol):
    """What an encoder knows of an adapter that is attached to it; see :class:`medgraft.Attachment`."""

    name: str
    adapter: Any

    def detach(self) -> None:
        """Takes the adapter off for good."""
        ...

    def substitutes(self) -> Sequence[Any]:
        """What stands in the place of parameters of the encoder."""
        ...
