"""QLoRA: LoRA on every linear map of a language model's blocks, whose frozen weights are stored in four bits.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023 (arXiv 2305.14314), equation 5:
``h = x dequantise(W) + (alpha / r) x A B``. The weights are NF4 in blocks of 64, their scales quantised once more
(section 3); gradients pass through the dequantised map, and only ``A`` and ``B`` are trained. Quantising is the
encoder's, so its name says it: ``causal_lm:FOLDER,bits=4``. Paged optimisers (section 3) are left out: the optimiser's
state is that of the adapter alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from medgraft.adapters.lora import Lora
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.stored import weight_bits
from medgraft.encoder.towers import text_tower
from medgraft.errors import ConfigError, IncompatibleError

BITS = 4


class QLora(Lora):
    """LoRA on a base of four bits; it fits no other, where ``lora`` with the same targets is the method's name.

    The paper trains rank 64 and finds that the rank hardly matters where every linear map has one (its figure 4); the
    default is smaller. It cannot be merged: four bits have no place for an update. Load what was trained on the base
    in full precision as ``lora`` to merge it there.
    """

    paper = "Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023 (arXiv 2305.14314)"
    licence = "Apache-2.0"
    formula = r"h = \mathrm{dequantise}(W^{\mathrm{NF4}})\, x + \frac{\alpha}{r} B A x"
    train_defaults = MappingProxyType({"lr": 0.0002, "epochs": 6})
    mergeable = False

    class Config(Lora.Config):
        """Options.

        Attributes:
            dropout: Dropout on the branch's input; 0.1 in the paper for models of up to 13 billion parameters.
            targets: Patterns of sites in the language model's blocks; all of their linear maps by default.
        """

        dropout: float = Field(0.1, ge=0, lt=1)
        targets: tuple[str, ...] = Field(("*",), min_length=1)

    config: Config

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> dict[str, list[Site]]:
        """Linear maps of the language model's blocks, all of four bits."""
        reader = text_tower(encoder)
        if reader is None:
            raise IncompatibleError("it reads no text; qlora needs a language model, such as causal_lm:FOLDER,bits=4")
        tower = reader[0] if len(encoder.towers()) > 1 else ""
        maps = {
            name: site
            for name, site in sites.items()
            if site.tower == tower and site.block is not None and site.kind in ("projection", "layer")
        }
        if not maps:
            raise IncompatibleError(f"the blocks of {reader[1].spec.name} cannot be found, so qlora has no linear map")
        for site in maps.values():
            if (bits := weight_bits(encoder.get_submodule(site.path))) != BITS:
                raise IncompatibleError(
                    f"{site.name} of {reader[1].spec.name} is stored in {bits} bits, and qlora is LoRA on {BITS}: name "
                    "the encoder causal_lm:<model>,bits=4, or use lora"
                )
        return super().select(encoder, maps)

    def merge(self) -> None:
        """Refused: see the class."""
        raise ConfigError(
            "qlora cannot be merged into a base of four bits, which has no place for the update; load what it learnt "
            "as lora on the base in full precision and merge there"
        )
