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

import functools
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.full_finetune import FullFinetune
from medgraft.adapters.parts.placement import DepthGroup
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.stored import is_packed
from medgraft.features import Features


class FromScratch(FullFinetune):
    """Trained copies of all values, and of the running statistics, with the encoder's modules in training mode.

    Modules are in training mode while the graft trains and runs, and read the copies; the encoder stays as it was, bit
    for bit, and a fresh graft changes nothing: the copies begin at the encoder's random weights, which are the same for
    every seed, so seeds vary the order of samples and what dropout drops. Parameters that no token and no pooled
    embedding depends on stay frozen. It does not merge, since a merged encoder would keep its own statistics.
    """

    paper = (
        "He et al., Rethinking ImageNet Pre-training, ICCV 2019 (arXiv 1811.08883), for the comparison; the network "
        "is the encoder's own"
    )
    licence = "Apache-2.0"
    formula = r"y = f_\theta(x), \quad \theta \text{ trained from random values}"
    train_defaults = MappingProxyType({"lr": 0.001, "head_lr": 0.001, "epochs": 60, "batch_size": 16})
    mergeable = False

    class Config(AdapterConfig):
        """No options."""

        @property
        def depth(self) -> DepthGroup:
            """A network from scratch is trained whole."""
            return "all"

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)  # pyright: ignore[reportArgumentType]
        self.statistics = nn.Module()

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
        """Puts the copies in the place of the values, and training mode around each tower."""
        attachment = super().attach(encoder, sites)
        self.statistics = nn.Module()
        for tower_name, tower in encoder.towers().items():
            for path, module in norms_of(tower):
                for name, value in module.named_buffers(recurse=False):
                    self.statistics.register_buffer(f"{tower_name}/{path}/{name}".replace(".", "/"), value.clone())
            attachment.set_attribute(tower, "encode", functools.partial(self._encode, tower_name, tower))
        return attachment

    def merge(self) -> None:
        """Refused: a merged encoder would keep its own running statistics.

        Raises:
            ConfigError: Always.
        """
        Adapter.merge(self)

    def _encode(self, tower_name: str, tower: Encoder, x: Tensor, *, start: int = 0) -> Features:
        modes = [(module, module.training) for module in tower.modules()]
        norms = [(path, module, dict(module._buffers)) for path, module in norms_of(tower)]
        try:
            for path, module, buffers in norms:
                for name in buffers:
                    key = f"{tower_name}/{path}/{name}".replace(".", "/")
                    module._buffers[name] = self.statistics._buffers.get(key)
            for module, _ in modes:
                module.training = self.training
            return type(tower).encode(tower, x, start=start)
        finally:
            for module, mode in modes:
                module.training = mode
            for _, module, buffers in norms:
                module._buffers.update(buffers)


def norms_of(tower: Encoder) -> list[tuple[str, nn.Module]]:
    """Norms of a tower that gather running statistics, with their paths."""
    kind = nn.modules.batchnorm._NormBase  # pyright: ignore[reportPrivateUsage]  # no other name of all its kinds
    return [(path, each) for path, each in tower.named_modules() if isinstance(each, kind) and each.track_running_stats]
