"""Separate frozen encoders as one: ``pair:<visual encoder>|<text encoder>``, or more, each of another modality.

Each part is any encoder by its name, weights included: ``pair:m3d:clip_pooled@FILE|transformers:llama@FOLDER``,
``pair:brainiac:v2|transformers:bert@random``. A part that has several towers itself gives the first that no other part
reads: of two parts, the first one's visual tower and the second one's text tower. They share no space; an adapter that
projects them, such as Brain-Adapter, makes one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from medgraft.encoder import Encoder, MultimodalEncoder
from medgraft.encoder.towers import reads_text
from medgraft.errors import ConfigError
from medgraft.registry import build_encoder, check_encoder
from medgraft.sources import Source

FORM = "pair:<visual encoder>|<text encoder>, or more encoders, each of another modality"


class PairSource(Source):
    """Entry point ``pair``."""

    name, hub_ids = "pair", True

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for a name of another form, and for a part that there is not."""
        for part in _parts(model, weights):
            check_encoder(part)

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"<image or volume encoder>|<text encoder>": "two encoders by their own names, without a shared space"}

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None) -> MultimodalEncoder:
        """Builds the parts.

        Args:
            model: Everything up to the first ``@`` of the name, or all of it.
            weights: What follows that ``@``; the weights of the other parts have their own.
            sha256: Not accepted, since there is no single file.

        Raises:
            ConfigError: The name has another form, or a part reads nothing that no other one does.
            MedgraftError: A part cannot be built.
        """
        if sha256 is not None:
            raise ConfigError(f"encoder pair:{model} is several encoders, of which no checksum can be given")
        names = _parts(model, weights)
        towers: dict[str, Encoder] = {}
        for place, name in enumerate(names):
            modality, tower = _tower(name, set(towers), text=place == len(names) - 1)
            towers[modality] = tower
        specs = [tower.spec for tower in towers.values()]
        changes: dict[str, Any] = {
            "name": f"pair:{'|'.join(names)}",
            "modality": "+".join(towers),
            "licence": " and ".join(dict.fromkeys(spec.licence for spec in specs)),
            "cohorts": tuple(dict.fromkeys(cohort for spec in specs for cohort in spec.cohorts)),
            "weights": _joined([spec.weights for spec in specs]),
        }
        return MultimodalEncoder(specs[0].model_copy(update=changes), towers)


def _parts(model: str, weights: str) -> list[str]:
    name = model if weights == "default" else f"{model}@{weights}"
    parts = name.split("|")
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f"encoder pair:{name} is not of the form {FORM}")
    return parts


def _tower(name: str, taken: set[str], *, text: bool) -> tuple[str, Encoder]:
    """The tower that a part gives: of several, a visual one, but a text tower from the last part."""
    towers = build_encoder(name).towers()
    free = {modality: tower for modality, tower in towers.items() if modality not in taken}
    if len(free) > 1:
        free = {m: tower for m, tower in free.items() if reads_text(tower) == text} or free
    if not free:
        raise ConfigError(
            f"encoder {name} reads {' and '.join(towers)}, which another part reads already; the form is {FORM}"
        )
    return next(iter(free.items()))


def _joined(weights: list[str]) -> str:
    """``random`` if both are; else a digest of both, so that either one's change is seen."""
    if all(each == "random" for each in weights):
        return "random"
    return f"pretrained:{hashlib.sha256('|'.join(weights).encode()).hexdigest()}"
