"""BiomedCoOp: CoOp held to an ensemble of written prompts, by its mean and by the predictions of its typical members.

Koleilat et al., "BiomedCoOp: Learning to Prompt for Biomedical Vision-Language Models", CVPR 2025 (arXiv 2411.15232),
code ``HealthX-Lab/BiomedCoOp``. With ``P`` written prompts ``t_kp`` of each class, their normalised mean ``t_k``, the
learnt ``w_k`` and logits ``z`` of a batch:

    loss = CE + sccm mean_kc (w_kc - t_kc)^2 + kdsp mean_bk KL(softmax z' || softmax z)

``z'`` are the logits of the batch by the normalised mean of the prompts ``p`` that are kept: those whose score
``s_p = mean_b max_k scale (x_b . t_kp)`` lies within ``tau`` standard deviations of the mean score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapter import Attachment
from medgraft.adapters.coop import CoOp
from medgraft.adapters.kgcoop import WrittenPrompts
from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import ConfigError


def typical_prompts(images: Tensor, written: Tensor, scale: Tensor | float, tau: float) -> Tensor:
    """Which prompts are kept, ``bool [P]``.

    The authors first divide a score's distance from the median by the median absolute deviation, and then standardise,
    which undoes it. Where scores do not differ, or one prompt is all there is, all are kept; their code divides by 0.

    Args:
        images: Unit embeddings ``[B, E]``.
        written: Unit embeddings ``[K, P, E]``.
        scale: Multiplier of the cosine.
        tau: Standard deviations (with ``P - 1``) that a score may lie from the mean.
    """
    scores = (scale * torch.einsum("be,kpe->bkp", images, written)).amax(dim=1).mean(dim=0)
    everything = torch.ones_like(scores, dtype=torch.bool)
    if len(scores) < 2 or not (deviation := scores.std()) > 0:
        return everything
    kept = (scores - scores.mean()).abs() <= tau * deviation
    return kept if kept.any() else everything


class BiomedCoOp(WrittenPrompts):
    """Trained vectors in front of class names, held to many written prompts.

    The authors let a language model write 50 prompts of each class. Here they are the task's own unless ``prompts``
    names others, best in a file of ``--config``; all classes get as many as the class with the fewest has. Not the
    identity at the start, as CoOp.
    """

    title = "BiomedCoOp: CoOp held to an ensemble of written prompts"
    paper = (
        "Koleilat et al., BiomedCoOp: Learning to Prompt for Biomedical Vision-Language Models, CVPR 2025 (arXiv "
        "2411.15232)"
    )
    licence = "Apache-2.0"
    formula = (
        r"\mathcal{L} = \mathrm{CE} + \mathrm{sccm} \cdot \frac{1}{K C} \sum_{k, c} (w_{kc} - t_{kc})^2 "
        r"+ \mathrm{kdsp} \cdot \frac{1}{B K} \sum_{b, k} \mathrm{KL}\left(\mathrm{softmax}\, z'_b "
        r"\parallel \mathrm{softmax}\, z_b\right)_k"
    )
    train_defaults = MappingProxyType({"lr": 0.002, "epochs": 100})
    identity_at_init = False

    class Config(CoOp.Config):
        """Options: those of CoOp, and below.

        Attributes:
            prompts: Class, spelt as the task spells it but for case and underscores -> its prompts; empty takes the
                task's.
            sccm: Weight of the distance to the mean prompt.
            kdsp: Weight of the distance to the predictions of the prompts that are kept.
            tau: Standard deviations from the mean score within which a prompt is kept.
        """

        prompts: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
        sccm: float = Field(1.0, ge=0)
        kdsp: float = Field(1.0, ge=0)
        tau: float = Field(1.5, gt=0)

    config: Config
    _scale: float = 1.0

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """As CoOp; notes the multiplier of the encoder's similarity."""
        assert isinstance(encoder, DualEncoder) and encoder.logit_scale is not None
        self._scale = float(encoder.logit_scale)
        return super().attach(encoder, sites)

    def fit_prompts(
        self, embed: Callable[[Sequence[str]], Tensor], names: Sequence[str], prompts: Sequence[Sequence[str]]
    ) -> None:
        """Keeps unit embeddings of ``P`` prompts of each class, ``[K, P, E]``.

        Raises:
            ConfigError: The option ``prompts`` has none for a class.
        """
        own = {_plainly(name): tuple(each) for name, each in self.config.prompts.items()}
        if own and (missing := [name for name in names if not own.get(_plainly(name))]):
            raise ConfigError(
                f"biomedcoop.prompts has none for {', '.join(missing)}; give every class some, or leave the option out"
            )
        written = [own[_plainly(name)] for name in names] if own else prompts
        fewest = min(len(each) for each in written)
        with self.plain():
            self._written = torch.stack([embed(each[:fewest]) for each in written])

    def prompt_loss(self, classes: Tensor, images: Tensor, logits: Tensor) -> Tensor | None:
        """Both terms, a scalar, for learnt embeddings ``[K, E]``, images ``[B, E]`` and logits ``[B, K]``."""
        if self._written is None:
            return None
        config, written = self.config, self._written
        with torch.no_grad():
            kept = typical_prompts(images, written, self._scale, config.tau)
            teacher = self._scale * images @ F.normalize(written[:, kept].mean(dim=1), dim=-1).T
        consistency = F.mse_loss(classes, F.normalize(written.mean(dim=1), dim=-1))
        mine, theirs = F.log_softmax(logits, dim=-1), F.log_softmax(teacher, dim=-1)
        distance = F.kl_div(mine, theirs, reduction="sum", log_target=True) / logits.numel()
        return config.sccm * consistency + config.kdsp * distance


def _plainly(name: str) -> str:
    return name.lower().replace("_", " ")
