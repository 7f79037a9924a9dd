"""Earlier name of :mod:`medgraft.adapter.class_prompts`, for code that imports it."""

from medgraft.adapter.class_prompts import (
    ClassAdapter,
    class_adapters,
    shared_embedding,
    shares_prompts,
    unit_embedding,
)

__all__ = [
    "ClassAdapter",
    "class_adapters",
    "shared_embedding",
    "shares_prompts",
    "unit_embedding",
]
