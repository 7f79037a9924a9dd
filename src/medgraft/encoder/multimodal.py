"""Encoders of several towers, one per modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from medgraft.encoder.base import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.spec import EncoderSpec
from medgraft.errors import ConfigError
from medgraft.features import Features


class MultimodalEncoder(Encoder):
    """Any number of towers, one per modality, of which some may share an embedding space.

    Args:
        spec: Facts of the whole; its modality joins those of the towers with ``+``.
        towers: Modality -> tower; the first one is run where the encoder is called.
        logit_scale: Multiplier of the cosine similarity, already exponentiated; ``None`` without a shared space.
        shared: Modalities that share the space; ``None`` for all.

    Attributes:
        logit_scale: See above.
        shared: Modalities that share a space; empty without one.
    """

    logit_scale: float | None = None
    _shared: tuple[str, ...] | None = None

    def __init__(
        self,
        spec: EncoderSpec,
        towers: Mapping[str, Encoder],
        logit_scale: float | None = None,
        shared: Sequence[str] | None = None,
    ) -> None:
        super().__init__(spec)
        self.tower = nn.ModuleDict(dict(towers))
        self.logit_scale = logit_scale
        self._shared = None if shared is None else tuple(shared)

    @property
    def shared(self) -> tuple[str, ...]:
        """Modalities that share a space; empty without one."""
        if self.logit_scale is None:
            return ()
        return tuple(name for name in self.tower if self._shared is None or name in self._shared)

    def only(self, modalities: Sequence[str]) -> MultimodalEncoder:
        """An encoder of some of the towers, which are the same modules under the same paths.

        Args:
            modalities: Those to keep; their order stays this encoder's.

        Raises:
            ConfigError: There is no such tower.
        """
        if missing := [name for name in modalities if name not in self.tower]:
            raise ConfigError(f"encoder {self.spec.name} has no {' or '.join(missing)} tower")
        kept = {name: tower for name, tower in self.towers().items() if name in modalities}
        shared = [name for name in self.shared if name in kept]
        spec = next(iter(kept.values())).spec
        facts = {"name": self.spec.name, "modality": "+".join(kept), "weights": self.spec.weights}
        facts |= {"licence": self.spec.licence, "cohorts": self.spec.cohorts}
        scale = self.logit_scale if len(shared) > 1 else None
        part = MultimodalEncoder(spec.model_copy(update=facts), kept, scale, shared)
        part.train(False)
        return part

    def towers(self) -> dict[str, Encoder]:
        """The towers by modality, as they were given; of image and text, the image first."""
        return {name: tower for name, tower in self.tower.items() if isinstance(tower, Encoder)}

    def forward(self, x: Tensor | Features, *, scores: bool = False, start: int = 0) -> Features:
        """Encodes with the first tower, so that the whole serves wherever an encoder of that modality does.

        See :meth:`Encoder.forward`.
        """
        return next(iter(self.towers().values()))(x, scores=scores, start=start)

    def block_paths(self) -> Sequence[str]:
        """Blocks of all towers, the first tower's first; paths begin at the whole, ``tower.image.blocks.0``."""
        return [f"tower.{name}.{path}" for name, tower in self.towers().items() for path in tower.block_paths()]

    def sites(self) -> Mapping[str, Site]:
        """The sites of all towers; names and paths carry the tower, ``image.blocks.0.attn.q``."""
        sites: dict[str, Site] = {}
        for tower_name, tower in self.towers().items():
            for name, site in tower.sites().items():
                sites[f"{tower_name}.{name}"] = site.within(tower_name, f"tower.{tower_name}")
        return sites


DualEncoder = MultimodalEncoder
"""The name of the time when there were two towers at most."""
