"""Base of adapters with one module per site: what is built for a site, how it hangs there, and the rest is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig
from medgraft.attachment.attachment import Attachment
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class SiteAdapter(Adapter):
    """Builds one module for each site that :meth:`select` finds, and hangs it there.

    A method says where (:meth:`select`), what (:meth:`build`) and, unless its module reads a site's output and is added
    to it, how (:meth:`connect`). Modules are kept by site, dots turned to slashes, in the attribute that
    :attr:`modules_name` says, which is part of the names in ``state_dict()``.

    Attributes:
        modules_name: Attribute that holds the modules.

    Example:
        >>> import torch
        >>> from medgraft import graft, match_sites
        >>> class Low(SiteAdapter):
        ...     def select(self, encoder, sites):
        ...         return match_sites(sites, ("*.mlp",), "low.targets")
        ...     def build(self, encoder, site):
        ...         linear = torch.nn.Linear(encoder.towers()[site.tower].spec.dim, 1)
        ...         return torch.nn.Sequential(linear, torch.nn.Linear(1, linear.in_features))
        >>> grafted = graft("embedded:chest", [Low()])
        >>> len(grafted.adapters["low"].site_modules)
        6
    """

    modules_name: ClassVar[str] = "site_modules"

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        setattr(self, self.modules_name, nn.ModuleDict())

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Mapping[str, Sequence[Site]]:
        """Target pattern -> sites that get a module.

        Raises:
            IncompatibleError: A pattern has none; the sentence says which.
        """
        raise TypeError(f"{type(self).__name__} must implement select()")

    def build(self, encoder: Encoder, site: Site) -> nn.Module:
        """The module of one site, in the type and on the device of the encoder's weights there.

        Args:
            encoder: The frozen encoder, nothing hung into it yet.
            site: One of those that :meth:`select` found.
        """
        raise TypeError(f"{type(self).__name__} must implement build()")

    def connect(self, attachment: Attachment, site: Site, module: nn.Module) -> None:
        """Hangs a module at its site: ``h`` becomes ``h + module(h)``, ``[B, N, C] -> [B, N, C]`` for tokens.

        Args:
            attachment: Takes the changes.
            site: Where.
            module: What :meth:`build` made for it.
        """
        attachment.map_output(site, Residual(module))

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Builds and hangs one module per site, in the encoder's order."""
        attachment = Attachment(encoder)
        hits = self.select(encoder, sites)
        attachment.record(hits)
        modules: nn.ModuleDict = getattr(self, self.modules_name)
        modules.clear()
        places = {site.name: site for matches in hits.values() for site in matches}
        for site in places.values():
            modules[site.key] = self.build(encoder, site)
        self.connect_all(attachment, [(site, modules[site.key]) for site in places.values()])
        return attachment

    def connect_all(self, attachment: Attachment, modules: Sequence[tuple[Site, nn.Module]]) -> None:
        """Hangs every module; for methods whose sites share a layer, such as the parts of a packed ``qkv``."""
        for site, module in modules:
            self.connect(attachment, site, module)


class Residual(Portable):
    """``h + module(h)``, ``[..., C] -> [..., C]``.

    Args:
        module: What is added.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, h: Tensor) -> Tensor:
        """Adds what the module makes of ``h``, ``[..., C] -> [..., C]``."""
        return h + self.module(h)
