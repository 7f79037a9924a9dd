"""CoCoOp: CoOp whose vectors are moved by the image that a prompt is compared with.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (arXiv 2203.05557), equations 3 and 4:
``v_m(x) = v_m + h(x)``, where ``h`` is a two-layer network, ``E -> E / 16 -> C`` with a ReLU between, on the unit
embedding of the image; class prompts are therefore embedded anew for every image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment
from medgraft.adapter.class_prompts import unit_embedding
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.coop import ContextPrompts
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.features import Features

LEAST_WIDTH = 4
"""Hidden units at least, since a single ReLU is easily dead from the start; spaces of 64 and more never get there."""


class CoCoOp(ContextPrompts):
    """Trained vectors in front of every text, moved by the image of the same row.

    Not the identity at the start, as CoOp. A pair of image and text that run in one call belong together; a text that
    runs alone gets the vectors unmoved.
    """

    paper = "Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022 (arXiv 2203.05557)"
    licence = "Apache-2.0"
    formula = (
        r"v_m(x) = v_m + h(x), \quad p(k \mid x) \propto \exp\left(s \cos(x, g(v_1(x), \ldots, v_M(x), "
        r"c_k))\right)"
    )
    train_defaults = MappingProxyType({"lr": 0.002, "epochs": 10, "batch_size": 4})
    size_knob = SizeKnob("reduction", shrinks=True)
    search = MappingProxyType({"length": (1, 2, 4, 8, 16)})
    identity_at_init = False
    per_image = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            length: ``M``, number of vectors.
            init: Words that the vectors start from; their number of tokens takes the place of ``length``. Empty draws
                them; the authors start from ``a photo of a``.
            reduction: Width of the image's embedding divided by that of the network's hidden layer, which has at least
                4 units.
        """

        length: int = Field(4, ge=1)
        init: str = ""
        reduction: int = Field(16, ge=1)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.meta = nn.Sequential()
        self._images: Tensor | None = None

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Makes the vectors and the network, and has the image run before the text."""
        attachment = Attachment(encoder)
        fresh = self.open_room(attachment, sites, self.config.init, self.config.length)
        self.context = nn.Parameter(fresh)
        visual, tower = next(iter(encoder.towers().items()))
        kind = fresh.dtype
        width = tower.project(torch.zeros(1, tower.spec.dim, device=tower.device, dtype=kind)).shape[-1]
        inner = max(LEAST_WIDTH, width // self.config.reduction)
        self.meta = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, fresh.shape[-1])).to(kind)
        attachment.first.add(visual)
        attachment.on_call.append(self._forget)

        def see(features: Features) -> Features:
            self._images = unit_embedding(tower, features)
            return features

        attachment.map_features(tower, see)
        return attachment

    def _forget(self) -> None:
        self._images = None

    @contextmanager
    def prompting(self, classes: Tensor, images: Tensor | None) -> Iterator[None]:
        """Moves the vectors by ``images``, ``[R, E]``, whatever ran before."""
        self._override = images
        try:
            yield
        finally:
            self._override = None

    _override: Tensor | None = None

    def contexts(self, rows: int) -> Tensor | None:
        """``v_m + h(x)``, ``[rows, M, C]``."""
        assert self.context is not None
        images = self._images if self._override is None else self._override
        if images is None or len(images) != rows:
            return self.context.expand(rows, -1, -1)
        return self.context + self.meta(images.to(self.context.dtype))[:, None]
