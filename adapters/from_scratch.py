"""The encoder's own network, trained from scratch as its authors train it: the specialist that a graft has to beat.

He et al., "Rethinking ImageNet Pre-training", ICCV 2019 (arXiv 1811.08883): what a pre-trained network is worth is its
lead over the same or a specialised network that begins at random and trains to convergence. On EEG the specialists are
EEGNet (Lawhern et al., J. Neural Eng. 15, 2018, arXiv 1611.08024), and ShallowFBCSPNet and Deep4 (Schirrmeister et al.,
Human Brain Mapping 38, 2017, arXiv 1703.05051), each by the name of its encoder: ``braindecode:eegnet@random``.

Batch norms (Ioffe and Szegedy, ICML 2015, arXiv 1502.03167) take the statistics of the batch while it trains and gather
running ones for tests, and dropout drops. ``full_finetune`` does neither, which is right for pre-trained weights and
leaves a random network with batch norms at statistics that say nothing of its data.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from torch import Tensor

from medgraft.adapter import Adapter, Attachment, Support
from medgraft.attachment.blank_run import used_parameters
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.stored import is_packed
from medgraft.features import Features


class FromScratch(Adapter):
    """A trained copy of the encoder runs in its place, in training mode while the graft trains.

    Its file is as large as the encoder and holds running statistics too. The encoder stays as it was, bit for bit, and
    a fresh graft changes nothing: the copy begins at the encoder's random weights, which are the same for every seed,
    so seeds vary the order of samples and what dropout drops. Parameters that no token and no pooled embedding depends
    on stay frozen.
    """

    paper = (
        "He et al., Rethinking ImageNet Pre-training, ICCV 2019 (arXiv 1811.08883), for the comparison; the network "
        "is the encoder's own"
    )
    licence = "Apache-2.0"
    formula = r"y = f_\theta(x), \quad \theta \text{ trained from random values}"
    train_defaults = MappingProxyType({"lr": 0.001, "head_lr": 0.001, "epochs": 60, "batch_size": 16})
    text_padding = 0

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders with random weights."""
        spec = next((t.spec for t in encoder.towers().values() if t.spec.weights != "random"), None)
        if spec is not None and spec.weights == "none":
            return Support(False, f"{spec.name} has nothing to train; scratch_cnn brings a network of its own")
        if spec is not None:
            return Support(
                False, f"{spec.name} has trained weights; name it with @random, or train on from them by full_finetune"
            )
        if any(is_packed(parameter) for parameter in encoder.parameters()):
            return Support(False, "its weights are quantised, which trains nothing; leave the quantisation out")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Shadows ``encode`` of each tower with that of the copy."""
        attachment = Attachment(encoder)
        attachment.record({"input": [site for site in sites.values() if site.kind == "input"]})
        used = set().union(*(used_parameters(tower) for tower in encoder.towers().values()))
        self.network = copy.deepcopy(encoder).float()
        for original, trained in zip(encoder.parameters(), self.network.parameters(), strict=True):
            trained.requires_grad_(original in used)
        for name, tower in encoder.towers().items():
            attachment.set_attribute(tower, "encode", functools.partial(self._encode, name))
        return attachment

    def train(self, mode: bool = True) -> Self:
        """Batch norms and dropout of the copy follow, which an encoder's own ``train`` never lets them."""
        super().train(mode)
        for module in self.modules():
            module.training = mode
        return self

    def _encode(self, name: str, x: Tensor, *, start: int = 0) -> Features:
        return self.network.towers()[name].encode(x, start=start)
