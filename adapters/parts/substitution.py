"""Trained copies in the place of an encoder's own values, which stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from medgraft.adapter import Attachment
from medgraft.errors import ConfigError


class Substitution(nn.ParameterDict):
    """Copies of an encoder's parameters that its modules read in place of the originals.

    A copy shadows the attribute of one module instance, which every forward pass reads, fused kernels included; the
    encoder's parameters and its state dict know nothing of it. What is stored are the copies. Ordinary weight decay
    pulls them to zero, as in fine-tuning of the encoder itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[str, nn.Parameter] = {}
        self._kept: dict[str, torch.Tensor] = {}
        self.register_load_state_dict_pre_hook(self._refuse_if_merged)

    def _refuse_if_merged(self, *_: Any) -> None:
        if self._kept:
            raise ConfigError("these values are merged, so the encoder would keep the old ones; unmerge before loading")

    def clear(self) -> None:
        """Forgets everything, for a new attachment."""
        super().clear()
        self._originals.clear()

    def add(self, attachment: Attachment, path: str, name: str) -> None:
        """Puts a copy of ``path``'s parameter ``name`` in its place; one that several modules share has one copy.

        Args:
            attachment: Undoes it.
            path: Module path inside the encoder.
            name: Attribute of the module.
        """
        module = attachment.encoder.get_submodule(path)
        original = module._parameters[name]
        assert original is not None
        key = next((key for key, parameter in self._originals.items() if parameter is original), None)
        if key is None:
            key = f"{path or 'encoder'}.{name}".replace(".", "/")
            self._originals[key] = original
            self[key] = nn.Parameter(original.detach().clone())
        attachment.set_attribute(module, name, self[key])

    def pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Each original, of any shape, with its copy."""
        for key, original in self._originals.items():
            yield original, self[key]

    def merge(self) -> None:
        """Writes the copies into the encoder.

        Raises:
            ConfigError: They are there already.
        """
        if self._kept:
            raise ConfigError("these values are merged already; unmerge first")
        with torch.no_grad():
            for key, original in self._originals.items():
                self._kept[key] = original.detach().clone()
                original.copy_(self[key])

    def unmerge(self) -> None:
        """Writes the kept originals back, bit for bit."""
        with torch.no_grad():
            for key, kept in self._kept.items():
                self._originals[key].copy_(kept)
        self._kept = {}
