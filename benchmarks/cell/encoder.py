"""The encoder of a cell."""

from __future__ import annotations

from medgraft.encoder import Encoder
from medgraft.encoder.towers import select_towers
from medgraft.errors import IncompatibleError
from medgraft.registry import build_encoder


def select_encoder(name: str, inputs: tuple[str, ...]) -> Encoder:
    """The encoder that a task's inputs need: one tower, some of them, or the whole.

    Raises:
        IncompatibleError: It lacks a modality that the task has.
    """
    encoder = build_encoder(name)
    towers = encoder.towers()
    if missing := [modality for modality in inputs if modality not in towers]:
        has = " and ".join(towers)
        raise IncompatibleError(f"the task reads {' and '.join(missing)}, encoder {name!r} reads only {has}")
    return select_towers(encoder, inputs)
