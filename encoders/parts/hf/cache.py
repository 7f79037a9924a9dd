"""Keys and values of a language model while it decodes, kept in memory that grows by doubling.

The library's own cache copies all of them for every new token, which for many rows behind an image costs more than the
model itself. What the model gets to see is the same.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor


def growing_cache(network: Any) -> Any:
    """An empty cache for a library's model; ``None`` where the library keeps something else than keys and values.

    Layers of which the library keeps a window alone stay its own.
    """
    if not network._supports_default_dynamic_cache():
        return None
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=network.config)
    cache.layers = [_layer_class()() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Growing:
    """Rows ``[B, H, L, D]`` to which others are appended without copying those that are there."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def append(self, held: Tensor, new: Tensor) -> Tensor:
        """What is held, ``[B, H, L, D]`` or empty, and ``[B, H, n, D]`` behind it.

        Rows that somebody has chosen from what this returned before (a search by beams) are copied once.
        """
        length = held.shape[-2] if held.numel() else 0
        end, room = length + new.shape[-2], self._room
        if room is None or (length and held.data_ptr() != room.data_ptr()) or room.shape[-2] < end:
            room = self._room = new.new_empty(*new.shape[:2], max(2 * length, end), new.shape[-1])
            if length:
                room[:, :, :length] = held
        room[:, :, length:end] = new
        return room[:, :, :end]


@functools.cache
def _layer_class() -> type:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        """The library's layer, with room for what follows."""

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self._rooms = Growing(), Growing()
            assert self.keys is not None and self.values is not None
            self.keys = self._rooms[0].append(self.keys, key_states)
            self.values = self._rooms[1].append(self.values, value_states)
            return self.keys, self.values

    return GrowingLayer
