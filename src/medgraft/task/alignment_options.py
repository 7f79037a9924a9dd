"""How several modalities of a sample are brought into one space, as options of tasks that do so."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from medgraft.options import Options


class Alignment(Options):
    """Options of the objective ``anchored``; its losses are those of :mod:`medgraft.anchored_losses`.

    Attributes:
        width: Of an embedding.
        common_share: Of the width that is common to a person's modalities; 1 is plain InfoNCE, without a specific part.
        pairs: ``anchor`` trains pairs of each modality with the first alone, ``all`` trains every pair.
        same_subject: Other visits of a person are further partners (``positive``), or left out (``masked``).
        near: Cosine above which two samples of a modality are no negatives of each other; 1 leaves none out.
        grouped: Batches are made of samples that are alike, so that their negatives are hard.
        temperature: At the start; it is learnt.
        specific_weight: Of the loss of the specific part.
        orthogonal_weight: Of the correlation of the two parts.
    """

    width: int = Field(64, ge=2, le=4096)
    common_share: float = Field(0.75, gt=0, le=1)
    pairs: Literal["anchor", "all"] = "anchor"
    same_subject: Literal["positive", "masked"] = "positive"
    near: float = Field(1.0, gt=0, le=1)
    grouped: bool = False
    temperature: float = Field(0.07, gt=0, le=10)
    specific_weight: float = Field(0.5, ge=0)
    orthogonal_weight: float = Field(0.05, ge=0)

    def alignment(self) -> dict[str, Any]:
        """What :attr:`medgraft.task.TaskData.alignment` is to be."""
        return {name: getattr(self, name) for name in Alignment.model_fields}
