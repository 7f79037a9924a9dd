"""Every method of the peft library as an adapter: ``peft:lora``, ``peft:vera``, ``peft:ia3`` and so on.

Mangrulkar et al., "PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods", 2022. peft replaces modules; the
attachment keeps the originals and puts them back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.placement import check_rank
from medgraft.attachment.hooks import HALVES
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site, match_sites
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.options import Option

NAME = "default"
# Methods of peft that cannot keep the contract of an adapter, and why.
UNFIT = {
    "adalora": "its rank budget needs a call after every step, which no other adapter needs",
    "adaption_prompt": "it is made for the attention of language models",
    "ln_tuning": "it trains a copy of every layer that it names, so its file would hold the encoder's weights",
    "osf": "it trains parts of the encoder's own weights, so its file would hold them",
    "poly": "it needs a task id with every sample",
    "shadow": "it is made for the layers of language models",
    "trainable_tokens": "it trains rows of an embedding, and no site is one",
}
# Methods whose fresh layers change the encoder, unless options say otherwise.
NOT_IDENTITY = {"c3a", "fourierft", "unilora", "vblora"}
# Options that peft can only guess for the architectures that it knows by name.
DEFAULTS: dict[str, dict[str, Any]] = {"ia3": {"feedforward_modules": []}}


class PeftAdapter(Adapter):
    """A peft method on the linear maps and convolutions that ``targets`` names.

    A packed ``qkv`` is one linear map to peft; ``lora`` of this package treats its projections one by one.
    A fresh graft equals the encoder (to rounding, for methods that decompose the weight). It does not with ``c3a``,
    ``fourierft``, ``unilora`` and ``vblora``, which peft starts at random (``identity_at_init`` is false for them), nor
    with options that choose such a start.
    """

    paper = "Mangrulkar et al., PEFT, 2022; the method's own paper by peft's documentation"
    licence = "Apache-2.0"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    text_padding = 0

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
        options: dict[str, Any] = Field(default_factory=dict)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.method = self.config.method.lower()
        self._fixed: list[tuple[nn.Module, str, str]] = []
        self.identity_at_init = self.method not in NOT_IDENTITY
        self.misfit = UNFIT.get(self.method, "")
        if not self.misfit and "target_modules" not in {field.name for field in dataclasses.fields(self._kind())}:
            self.misfit = "it does not act on layers that one can name"
        if not self.misfit:
            self._peft_config(["x"])  # says here what is wrong with the options

    @property
    def size_knob(self) -> SizeKnob | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The rank, of methods that have one; that of VeRA sizes what is frozen."""
        options = () if self.misfit or self.method == "vera" else dataclasses.fields(self._kind())
        if "r" not in {field.name for field in options}:
            return None
        return SizeKnob("options.r")

    @classmethod
    def variant_options(cls, variant: str | None) -> Sequence[Option]:
        """Arguments of peft's configuration class for the method, in peft's words."""
        from medgraft.adapters.parts.peft_options import options_of

        return options_of(variant or cls.Config.model_fields["method"].default, DEFAULTS)

    def _kind(self) -> Any:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        configs = {kind.value.lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if self.method not in configs:
            raise UnknownNameError("peft method", self.config.method, configs)
        return configs[self.method]

    def _peft_config(self, modules: list[str]) -> Any:
        options = DEFAULTS.get(self.method, {}) | self.config.options
        try:
            return self._kind()(target_modules=modules, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"peft:{self.method} refuses its options {self.config.options}: {error}") from error

    def _matched(self, encoder: Encoder, sites: Mapping[str, Site]) -> dict[str, list[Site]]:
        hits = match_sites(sites, self.config.targets, f"peft:{self.config.method} targets")
        for pattern, matches in hits.items():
            hits[pattern] = [site for site in matches if site.kind in ("projection", "layer")]
            if not hits[pattern]:
                raise IncompatibleError(f"peft targets: {pattern!r} matches no linear map or convolution")
            if any(site.in_mha for site in hits[pattern]):
                raise IncompatibleError(
                    f"peft targets: {pattern!r} lies in an nn.MultiheadAttention, whose projections peft cannot take "
                    "one by one; use the built-in lora"
                )
            if any(type(encoder.get_submodule(site.path)).__module__.startswith("peft.") for site in hits[pattern]):
                raise IncompatibleError(f"peft targets: {pattern!r} already carries a layer of another peft method")
        if self.method == "lora":
            rank = self._peft_config(["x"]).r
            for site in (site for matches in hits.values() for site in matches):
                weight = getattr(encoder.get_submodule(site.path), "weight", None)
                if isinstance(weight, Tensor) and weight.dim() > 1:
                    check_rank(rank, weight.shape, dataclasses.replace(site, rows=None))
        return hits

    def supports(self, encoder: Encoder) -> Support:
        """Fits where the targets exist and the method keeps the contract of an adapter."""
        if self.misfit:
            return Support(False, f"peft:{self.method} is not offered: {self.misfit}")
        try:
            self._matched(encoder, encoder.sites())
        except IncompatibleError as error:
            return Support(False, str(error))
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Lets peft inject its layers, and registers their trainable parameters as this adapter's own."""
        from peft import PEFT_TYPE_TO_TUNER_MAPPING

        attachment = Attachment(encoder)
        hits = self._matched(encoder, sites)
        attachment.record(hits)
        paths = sorted({site.path for matches in hits.values() for site in matches})
        before = _Snapshot(encoder, paths)
        attachment.on_detach(before.restore, redo=lambda: injected.restore())
        config = self._peft_config(paths)
        try:
            # Not inject_adapter_in_model, which refuses methods whose layers share what the tuner holds (VeRA).
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](encoder, config, adapter_name=NAME)
        except Exception as error:  # each of some forty methods refuses in its own way
            attachment.detach()
            raise IncompatibleError(f"peft:{self.method} does not fit this encoder: {error}") from error
        if broken := before.broken_promise():
            attachment.detach()
            raise IncompatibleError(f"peft:{self.method} with options {self.config.options} {broken}")
        injected = _Tree(encoder)
        self._wrapped = [(encoder.get_submodule(path), before.modules[path]) for path in paths]
        # The encoder was frozen before, so what takes gradients now is what peft means to train.
        trainable = {
            name: p for name, p in tuner.named_parameters() if p.requires_grad and id(p) not in before.tensor_ids
        }
        self.trained = nn.ParameterDict({n.removeprefix("model.").replace(".", "/"): p for n, p in trainable.items()})
        self._fixed = before.new_fixed(tuner, {id(p) for p in trainable.values()})
        self._cast_fixed(lambda x: x.float() if x.dtype in HALVES else x)
        return attachment

    def hung_tensors(self) -> list[Tensor]:
        """Projections, of any shape, that some methods draw once and never train."""
        return [getattr(module, places)[name] for module, places, name in self._fixed]

    def _cast_fixed(self, fn: Callable[[Tensor], Tensor]) -> None:
        for module, places, name in self._fixed:
            tensors = getattr(module, places)
            if places == "_buffers":
                tensors[name] = fn(tensors[name])
            else:
                tensors[name].data = fn(tensors[name].data)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PeftAdapter:
        self._cast_fixed(fn)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> PeftAdapter:
        """Also switches the dropout inside peft's layers, which lie in the frozen encoder."""
        super().train(mode)
        for wrapper, module in getattr(self, "_wrapped", ()):
            wrapper.train(mode)
            module.train(False)  # lies inside, and is the encoder's own
        return self


class _Tree:
    """An encoder's modules and where they hang."""

    def __init__(self, encoder: Encoder) -> None:
        self.children = [(module, dict(module._modules)) for module in encoder.modules()]

    def restore(self) -> None:
        """Hangs every module where it was."""
        for module, children in self.children:
            module._modules.clear()
            module._modules.update(children)


class _Snapshot:
    """An encoder's module tree and the weights of some modules, from before peft changes them."""

    def __init__(self, encoder: Encoder, paths: Sequence[str]) -> None:
        self.encoder = encoder
        self.paths = set(paths)
        self.modules = dict(encoder.named_modules())
        self.tree = _Tree(encoder)
        self.attributes = set(encoder.__dict__)
        self.tensor_ids = {id(tensor) for tensor in (*encoder.parameters(), *encoder.buffers())}
        self.weights = [
            (parameter, parameter.detach().clone())
            for path in paths
            for parameter in encoder.get_submodule(path).parameters()
        ]
        self.frozen = [parameter for parameter in encoder.parameters() if not parameter.requires_grad]

    def new_fixed(self, tuner: nn.Module, trained: set[int]) -> list[tuple[nn.Module, str, str]]:
        """Where the floating-point tensors hang that peft added and does not train: module, kind of place, name."""
        fixed = {}
        for module in tuner.modules():
            for places in ("_parameters", "_buffers"):
                for name, tensor in getattr(module, places).items():
                    excluded = id(tensor) in self.tensor_ids or id(tensor) in trained
                    if tensor is not None and tensor.is_floating_point() and not excluded:
                        fixed[id(module), name] = (module, places, name)
        return list(fixed.values())

    def broken_promise(self) -> str:
        """What was changed besides the modules that were named, in words; empty if nothing was."""
        if any(parameter.requires_grad for parameter in self.frozen):
            return "trains parameters of the encoder itself"
        if not all(torch.equal(parameter, kept) for parameter, kept in self.weights):
            return "changes weights of the encoder itself"
        replaced = {name for name, module in self.modules.items() if self.encoder.get_submodule(name) is not module}
        if others := sorted(replaced - self.paths):
            return f"replaces modules that targets does not name: {', '.join(others[:6])}"
        return ""

    def restore(self) -> None:
        """Puts modules, weights and attributes back."""
        self.tree.restore()
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        with torch.no_grad():
            for parameter, kept in self.weights:
                if not torch.equal(parameter, kept):
                    parameter.copy_(kept)
        for name in set(self.encoder.__dict__) - self.attributes:
            object.__delattr__(self.encoder, name)
