"""Logistic regression on frozen features: the reference for every linear probe that is trained by steps.

Multinomial, with an L2 penalty, by L-BFGS on standardised features; ``C`` is the best of six by the log-loss of a
cross-validation over training *subjects*, stratified by class (Pedregosa et al., "Scikit-learn", JMLR 12, 2011; after
Kornblith et al., "Do Better ImageNet Models Transfer Better?", CVPR 2019). It is what ``linear_probe`` is
with its solver ``lbfgs``, under a name that says so and that no option turns into another.
"""

from __future__ import annotations

from types import MappingProxyType

from medgraft.adapter import AdapterConfig
from medgraft.adapters.linear_probe import LinearProbe, Pooling


class Logistic(LinearProbe):
    """The linear probe whose head is solved; see :class:`medgraft.adapters.linear_probe.LinearProbe`.

    Heads that are no regression (masks, boxes) are trained by steps, as the probe's are.
    """

    title = "Logistic regression by L-BFGS, C by cross-validation over training subjects"
    paper = "Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019 (arXiv 1805.08974)"
    licence = "Apache-2.0"
    formula = r"\min_{W, b}\; C \sum_i \ell(W x_i + b,\, y_i) + \frac{1}{2} \lVert W \rVert^2"
    train_defaults = MappingProxyType({"epochs": 60})  # of heads that are no regression
    search = MappingProxyType({"pooling": ("encoder", "cls", "mean", "cls+mean")})
    variant_field = None

    class Config(AdapterConfig):
        """Options.

        Attributes:
            pooling: ``encoder`` reads what the encoder pools; ``cls``, ``mean`` and ``cls+mean`` read its tokens.
        """

        pooling: Pooling = "encoder"

    config: Config

    @property
    def trained_by_steps(self) -> bool:
        """Never: the head is solved."""
        return False

    @property
    def refit_head(self) -> bool:
        """Always."""
        return True
