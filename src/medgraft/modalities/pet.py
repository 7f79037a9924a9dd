"""``pet``: the uptake of a tracer ``float32 [D, H, W]``, relative to a reference region where the task says so."""

from __future__ import annotations

from medgraft.modalities.volume import Volume


class Pet(Volume):
    """A volume of positron emission tomography; prepared, ``float32 [channels, D, H, W]``."""

    name = "pet"
    raw = "a volume of tracer uptake, float32 [D, H, W]"
