"""LP++: a linear probe whose logits are blended with those of the class prompts, by a trained factor of each class.

Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP", CVPR 2024 (arXiv 2404.02285), and on medical
models Shakeri et al., "Few-shot Adaptation of Medical Vision-Language Models", MICCAI 2024 (arXiv 2409.03868), code
``FereshteShakeri/few-shot-MedVLMs``, ``methods/linear_probe_p2.py``. With unit features ``x`` and unit prompts ``t_k``:

    logits_k = w_k . x + b_k + alpha_k (t_k . x)

trained by full-batch gradient descent, momentum 0.9, whose steps come from the data ``X`` ``[N, C]``:
``lr_W = 4 N / lambda_max(X^T X)`` for ``W`` and ``b``, ``lr_alpha = N / (4 max_k sum_i (t_k . x_i)^2)``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapter.support_set import SupportSet
from medgraft.adapters.parts.unit_prototypes import MOMENTUM

ALPHA_START = 250.0
"""Factor of the mean similarity of a class's images with its prompt that every ``alpha_k`` starts from."""

ALPHA_EVERY = 10
"""``alpha`` moves in every tenth step."""

Start = Literal["means", "sums"]


class LpTextWeights(NamedTuple):
    """What is trained.

    Attributes:
        weight: ``W``, ``[K, C]``.
        bias: ``b``, ``[K]``.
        alpha: Factors of the prompts' similarities, ``[K]``.
    """

    weight: Tensor
    bias: Tensor
    alpha: Tensor


def lp_text_start(features: Tensor, labels: Tensor, text: Tensor, start: Start = "means") -> LpTextWeights:
    """Where training begins: class means as weights, no bias, and one value for all factors.

    Args:
        features: Unit features ``[N, C]``.
        labels: Classes ``int64 [N]``; one without images starts from zeros.
        text: Unit prompts ``[K, C]``.
        start: Weights are class means, or sums as in the authors' code, which is the same direction.

    Returns:
        ``alpha_k`` is 250 times the mean over classes of the mean ``t_k . x`` over the class's own images, where a
        class without images counts as 0.
    """
    one_hot = F.one_hot(labels, len(text)).to(features.dtype)
    counts = one_hot.sum(dim=0).clamp(min=1)
    weight = one_hot.T @ features
    own = (one_hot * (features @ text.T)).sum(dim=0) / counts
    alpha = (ALPHA_START * own.mean()).expand(len(text)).clone()
    return LpTextWeights(weight / counts[:, None] if start == "means" else weight, torch.zeros_like(alpha), alpha)


def lp_text_rates(features: Tensor, text: Tensor) -> tuple[float, float]:
    """Step sizes of ``W`` and ``b``, and of ``alpha``, for features ``[N, C]`` and prompts ``[K, C]``."""
    N = len(features)
    largest = torch.linalg.eigvalsh(features.T @ features)[-1]
    return float(4 * N / largest), float(N / (4 * (features @ text.T).square().sum(dim=0).max()))


def lp_text_fit(
    features: Tensor, labels: Tensor, text: Tensor, steps: int = 300, start: Start = "means"
) -> LpTextWeights:
    """Trains LP++, equations in the module's docstring.

    The gradient of ``alpha`` is never cleared: each tenth step moves it by the sum of its gradients of all steps since
    the first, as in the authors' code.

    Args:
        features: Unit features ``[N, C]``.
        labels: Classes ``int64 [N]``.
        text: Unit prompts ``[K, C]``.
        steps: Full-batch steps.
        start: See :func:`lp_text_start`.
    """
    (weight, bias, alpha), (rate, alpha_rate) = (
        lp_text_start(features, labels, text, start),
        lp_text_rates(features, text),
    )
    one_hot, similarity = F.one_hot(labels, len(text)).to(features.dtype), features @ text.T
    moving, gathered = [torch.zeros_like(weight), torch.zeros_like(bias)], torch.zeros_like(alpha)
    for step in range(1, steps + 1):
        logits = features @ weight.T + bias + alpha * similarity
        error = (torch.softmax(logits, dim=-1) - one_hot) / len(features)  # gradient of the mean cross-entropy
        gathered = gathered + (error * similarity).sum(dim=0)
        moving = [MOMENTUM * moving[0] + error.T @ features, MOMENTUM * moving[1] + error.sum(dim=0)]
        weight, bias = weight - rate * moving[0], bias - rate * moving[1]
        if step % ALPHA_EVERY == 0:
            alpha = alpha - alpha_rate * gathered
    return LpTextWeights(weight, bias, alpha)


class LpText(SupportAdapter):
    """LP++ by its own solver, in float64, before the harness would train anything; no validation sample is seen.

    The authors report the test score of the epoch that is best on a validation set; this is the last one, as in the
    benchmark of Silva-Rodriguez et al. (arXiv 2506.17500). Biases start at 0, where the authors draw them.
    """

    title = "LP++: a linear probe blended with class prompts"
    paper = (
        "Huang et al., LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP, CVPR 2024 (arXiv 2404.02285), and "
        "Shakeri et al., MICCAI 2024 (arXiv 2409.03868)"
    )
    licence = "Apache-2.0"
    formula = r"z_k = w_k \cdot x + b_k + \alpha_k\, (t_k \cdot x)"
    train_defaults = MappingProxyType({"epochs": 0})
    search = MappingProxyType({"steps": (50, 100, 200, 300, 600)})
    kept = ("weight", "bias", "alpha", "text")
    trained = ("weight", "bias", "alpha")
    reads_prompts = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            steps: Full-batch steps; the authors' 300 epochs.
            start: Weights start from class means, or from sums as in the authors' code.
        """

        steps: int = Field(300, ge=1)
        start: Start = "means"

    config: Config

    def fit_support(self, support: SupportSet) -> None:
        """Trains ``W`` ``[K, C]``, ``b`` and ``alpha`` ``[K]``."""
        text, _ = self.classes_of(support)
        features = support.features.double()
        made = lp_text_fit(features, support.targets, text.double(), self.config.steps, self.config.start)
        kind = support.features.dtype
        self.hold(text=text, **{name: value.to(kind) for name, value in made._asdict().items()})

    def support_logits(self, features: Tensor) -> Tensor:
        """``W x + b + alpha (t . x)``, ``[B, C] -> [B, K]``; the encoder's scale has no part in it."""
        text = self.held("text")
        features = features.to(text.dtype)
        return F.linear(features, self.held("weight"), self.held("bias")) + self.held("alpha") * (features @ text.T)
