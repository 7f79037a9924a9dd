"""Putting adapters on an encoder, and taking them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from medgraft.adapter import Adapter
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError
from medgraft.grafting.grafted import Grafted, refuse_carried


def encoder_of(model: nn.Module) -> Encoder:
    """The encoder of a graft, or the one inside a larger model; adapters stay on it.

    Raises:
        ConfigError: There is none, or more than one.

    Example:
        >>> from medgraft import encoder_of, graft
        >>> encoder_of(graft("embedded:chest", "lora")).spec.dim
        192
    """
    if isinstance(model, Encoder):
        return model
    if isinstance(model, Grafted):
        return model.encoder
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    inside = {id(part) for encoder in encoders for part in encoder.modules() if part is not encoder}
    outer = [encoder for encoder in encoders if id(encoder) not in inside]
    if len(outer) != 1:
        named = ", ".join(encoder.spec.name for encoder in outer) or "none"
        raise ConfigError(
            f"a {type(model).__name__} should hold one encoder, and holds {named}; pass the encoder itself"
        )
    return outer[0]


def ungraft_all(model: nn.Module) -> Encoder:
    """Takes every adapter off an encoder, last first, whichever graft put it there and whether that is still known.

    Args:
        model: An encoder, one of its towers, a graft, or a model that holds one of them.

    Returns:
        The bare encoder, bit for bit as it was.

    Raises:
        ConfigError: The model holds no encoder, or more than one.

    Example:
        >>> from medgraft import build_encoder, graft, ungraft_all
        >>> encoder = build_encoder("embedded:chest")
        >>> grafted = graft(encoder, "lora")
        >>> del grafted
        >>> grafted = graft(ungraft_all(encoder), "bitfit")
    """
    encoder = encoder_of(model)
    for attachment in reversed(encoder.carried()):
        attachment.detach()
    return encoder


def graft(
    encoder: Encoder | Grafted | str,
    adapter: str | Adapter | Sequence[str] | Sequence[Adapter],
    *,
    head: nn.Module | None = None,
    **config: Any,
) -> Grafted:
    """Attaches adapters to an encoder.

    Args:
        encoder: An encoder, or the name of one (``"embedded:chest"``, ``"timm:vit_base_patch16_224"``). One that
            carries adapters already is refused.
        adapter: A registered name (``"lora"``), several joined with ``+`` (``"lora+ace_hgnn"``) or in a
            list, or instances.
        head: A module on the features, trained and saved with the adapters.
        **config: Options of the adapter, by the names of its ``Config``; only for a single registered name.

    Raises:
        UnknownNameError: No such adapter or encoder.
        ConfigError: The encoder carries adapters already, or what is to be attached is no adapter.
        IncompatibleError: The adapter does not fit the encoder, or a target pattern matches nothing.

    Example:
        >>> from medgraft import graft
        >>> grafted = graft("embedded:chest", "lora", rank=2)
        >>> sum(grafted.trainable_count().values())
        8192
    """
    from medgraft.registry import build_adapters, build_encoder

    if isinstance(encoder, str):
        encoder = build_encoder(encoder)
    encoder = encoder_of(encoder)
    refuse_carried(encoder)
    parts: list[Any] = [adapter] if isinstance(adapter, (str, Adapter)) else list(adapter)
    if parts and all(isinstance(each, str) for each in parts):
        return Grafted(encoder, build_adapters("+".join(parts), config), head)
    if config:
        raise ConfigError(f"options {sorted(config)} belong in the adapter's own Config when an instance is passed")
    if strange := [each for each in parts if not isinstance(each, Adapter)]:
        raise ConfigError(f"{strange[0]!r} is no adapter; give names, or instances of medgraft.Adapter, and not both")
    adapters = {f"{type(each).__name__.lower()}{i or ''}": each for i, each in enumerate(parts)}
    return Grafted(encoder, adapters, head)
