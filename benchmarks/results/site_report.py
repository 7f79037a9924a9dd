"""What a result says of sites: how well features tell them apart, and what is left of the task without that."""

from __future__ import annotations

from pydantic import Field

from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.spec import StoredModel


class SiteProbe(StoredModel):
    """What linear probes of the same features reach on the same test samples.

    Attributes:
        site_auc: Macro AUC, one site against the rest, of a logistic regression that predicts the site; 0.5 where the
            features say nothing of it. ``None`` where none could be fitted.
        task: The task's primary metric of a probe that predicts the task; ``None`` where its head is no regression.
    """

    site_auc: Estimate | None = None
    task: Estimate | None = None


class SiteReport(StoredModel):
    """How much the frozen encoder's pooled features say of the site, beside what they say of the task.

    Probes are fitted on the training samples and scored on the test samples of the sites that take part; their
    strength of L2 is the best of six by folds of the training subjects. No name of a site is stored.

    Attributes:
        sites: Sites that take part: those with enough training subjects that have a test subject.
        train_samples: Training samples of these sites.
        test_samples: Test samples of these sites.
        left_out: Why samples of the two splits take no part -> how many.
        features: Numbers of a sample.
        metric: Name of the task's primary metric.
        frozen: On the features as they are; ``None`` where fewer than two sites take part.
        harmonised: After ComBat, fitted on the training samples without covariates and applied to the test samples by
            their sites; ``None`` where it was not.
        harmonisation: What harmonised them, with its version.
        note: Why something is missing, in a sentence.
    """

    sites: int
    train_samples: int = 0
    test_samples: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    features: int = 0
    metric: str
    frozen: SiteProbe | None = None
    harmonised: SiteProbe | None = None
    harmonisation: str = ""
    note: str = ""
