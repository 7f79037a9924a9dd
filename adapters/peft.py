"""Every method of the peft library as an adapter: ``peft:lora``, ``peft:vera``, ``peft:ia3`` and so on.

Mangrulkar et al., "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods", 2022. peft replaces modules; the
attachment keeps the originals and puts them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.sites import Site, match_sites

NAME = "default"


class PeftAdapter(Adapter):
    """A peft method on the linear maps and convolutions that ``targets`` names.

    A packed ``qkv`` is one linear map to peft; ``lora`` of this package treats its projections one by one.
    ``identity_at_init`` is peft's default for each method and holds for all that this class accepts by default.
    """

    variant_field: ClassVar[str | None] = "method"

    class Config(AdapterConfig):
        """Options.

        Attributes:
            method: peft's name of the method, any case.
            targets: Patterns of sites, as for ``lora``; a projection stands for the module that holds it.
            options: Arguments of peft's configuration class for the method.
        """

        method: str = "lora"
        targets: tuple[str, ...] = Field(("q", "v"), min_length=1)
        options: dict[str, Any] = {}

    config: Config

    def _peft_config(self, modules: list[str]) -> Any:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

        known = {kind.value.lower(): kind for kind in PeftType if kind in PEFT_TYPE_TO_CONFIG_MAPPING}
        method = self.config.method.lower()
        if method not in known:
            raise UnknownNameError("peft method", self.config.method, known)
        try:
            return PEFT_TYPE_TO_CONFIG_MAPPING[known[method]](target_modules=modules, **self.config.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"peft:{method} refuses its options {self.config.options}: {error}") from error

    def _modules(self, encoder: Encoder, sites: Mapping[str, Site]) -> dict[str, list[Site]]:
        hits = match_sites(sites, self.config.targets, f"peft:{self.config.method} targets")
        for pattern, found in hits.items():
            hits[pattern] = [site for site in found if site.kind in ("projection", "layer")]
            if not hits[pattern]:
                raise IncompatibleError(f"peft targets: {pattern!r} matches no linear map or convolution")
            if any(site.in_mha for site in hits[pattern]):
                raise IncompatibleError(
                    f"peft targets: {pattern!r} lies in an nn.MultiheadAttention, whose projections peft cannot take "
                    "one by one; use the built-in lora"
                )
        return hits

    def supports(self, encoder: Encoder) -> Support:
        """Fits where the targets exist and peft knows the method."""
        try:
            self._peft_config(["x"])
            self._modules(encoder, encoder.sites())
        except (ConfigError, IncompatibleError) as error:
            return Support(False, str(error))
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Lets peft inject its layers, and registers their trainable parameters as this adapter's own."""
        from peft import inject_adapter_in_model

        attachment = Attachment(encoder)
        hits = self._modules(encoder, sites)
        attachment.record(hits)
        paths = sorted({site.path for found in hits.values() for site in found})
        before = {path: encoder.get_submodule(path) for path in paths}
        known = {id(parameter) for parameter in encoder.parameters()}
        attachment.on_detach(lambda: _restore(encoder, before))
        try:
            inject_adapter_in_model(self._peft_config(paths), encoder, adapter_name=NAME)
        except (ValueError, TypeError, NotImplementedError) as error:
            attachment.detach()
            raise IncompatibleError(f"peft:{self.config.method} does not fit this encoder: {error}") from error
        self._wrapped = [encoder.get_submodule(path) for path in paths]
        # The encoder was frozen before, so what takes gradients now is what peft means to train.
        own = {name: p for name, p in encoder.named_parameters() if id(p) not in known and p.requires_grad}
        self.trained = nn.ParameterDict({name.replace(".", "/"): p for name, p in own.items()})
        return attachment

    def train(self, mode: bool = True) -> PeftAdapter:
        """Also switches the dropout inside peft's layers, which lie in the frozen encoder."""
        super().train(mode)
        for module in getattr(self, "_wrapped", ()):
            module.train(mode)
        return self


def _restore(encoder: Encoder, before: Mapping[str, nn.Module]) -> None:
    for path, module in before.items():
        parent, _, leaf = path.rpartition(".")
        setattr(encoder.get_submodule(parent), leaf, module)
    encoder.__dict__.pop("peft_config", None)
