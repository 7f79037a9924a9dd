"""Two separate frozen encoders as one dual encoder: ``pair:<visual encoder>|<text encoder>``.

Each half is any encoder by its name, weights included: ``pair:m3d:clip_pooled@FILE|transformers:llama@FOLDER``,
``pair:brainiac:v2|transformers:bert@random``. A half that is itself dual gives the tower that is needed. The two share
no space; an adapter that projects both, such as Brain-Adapter, makes one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from medgraft.encoder import DualEncoder, Encoder
from medgraft.errors import ConfigError
from medgraft.registry import build_encoder, check_encoder

FORM = "pair:<image or volume encoder>|<text encoder>"


class PairSource:
    """Entry point ``pair``."""

    api_version = 1
    hub_ids = True

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for a name of another form, and for a half that there is not."""
        for half in _halves(model, weights):
            check_encoder(half)

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {"<image or volume encoder>|<text encoder>": "two encoders by their own names, without a shared space"}

    @classmethod
    def build(cls, model: str, weights: str = "default", sha256: str | None = None) -> DualEncoder:
        """Builds both halves.

        Args:
            model: Everything up to the first ``@`` of the name, or all of it.
            weights: What follows that ``@``; the weights of the second half have their own.
            sha256: Not accepted, since there is no single file.

        Raises:
            ConfigError: The name has another form, or a half is not what it should be.
            MedgraftError: A half cannot be built.
        """
        if sha256 is not None:
            raise ConfigError(f"encoder pair:{model} is two encoders, of which no checksum can be given")
        first, second = _halves(model, weights)
        visual = _tower(first, ("volume", "image"))
        text = _tower(second, ("text",))
        modality = visual.spec.modality
        own = [visual.spec, text.spec]
        changes: dict[str, Any] = {
            "name": f"pair:{first}|{second}",
            "modality": f"{modality}+text",
            "licence": " and ".join(dict.fromkeys(each.licence for each in own)),
            "cohorts": tuple(dict.fromkeys(cohort for each in own for cohort in each.cohorts)),
            "weights": _joined([each.weights for each in own]),
        }
        return DualEncoder(visual.spec.model_copy(update=changes), {modality: visual, "text": text})


def _halves(model: str, weights: str) -> tuple[str, str]:
    name = model if weights == "default" else f"{model}@{weights}"
    first, bar, second = name.partition("|")
    if not (first and bar and second) or "|" in second:
        raise ConfigError(f"encoder pair:{name} is not of the form {FORM}")
    return first, second


def _tower(name: str, modalities: tuple[str, ...]) -> Encoder:
    towers = build_encoder(name).towers()
    for modality in modalities:
        if modality in towers:
            return towers[modality]
    raise ConfigError(f"encoder {name} reads {' and '.join(towers)}, not {' or '.join(modalities)}; {FORM}")


def _joined(weights: list[str]) -> str:
    """``random`` if both are; else a digest of both, so that either one's change is seen."""
    if all(each == "random" for each in weights):
        return "random"
    return f"pretrained:{hashlib.sha256('|'.join(weights).encode()).hexdigest()}"
