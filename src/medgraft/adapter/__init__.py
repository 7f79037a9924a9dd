"""Adapters: their base, what they may do beside attaching, and how they are scaled."""

from medgraft.adapter.base import (
    API_VERSION,
    Adapter,
    AdapterConfig,
    Attachment,
    Support,
    add_rows,
    all_or_nothing,
    train_in_float32,
)

__all__ = [
    "API_VERSION",
    "Adapter",
    "AdapterConfig",
    "Attachment",
    "Support",
    "add_rows",
    "all_or_nothing",
    "train_in_float32",
]
