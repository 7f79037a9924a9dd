"""What an adapter must leave as it is: the frozen encoder, the data, and how PyTorch computes.

A cell's row says that an encoder was frozen and how many parameters were trained. Whether that is so is checked in
every cell, after each of its steps, by a checksum over every parameter and buffer: version counters would be cheaper,
and a write through ``.data`` does not raise them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter
from medgraft.adapter.protocols import diagnostics_of
from medgraft.attachment.blank_run import leaves
from medgraft.benchmarks.results.values import json_safe
from medgraft.commands.plain_text import one_line
from medgraft.commands.settings import Settings
from medgraft.encoder import Encoder
from medgraft.encoder.stored import as_bytes, stored_parts
from medgraft.errors import MedgraftError, PluginError
from medgraft.grafting import Grafted
from medgraft.task import TaskData

WORDS = 1 << 15
"""Words of a block: with its products it fits a processor's second cache."""

SHOWN = 4
"""Names in a message."""


class NotIntactError(MedgraftError):
    """An adapter changed something that it must leave alone."""


def checksum(tensor: Tensor) -> tuple[Any, ...]:
    """A checksum of the bytes of ``[...]`` that tells any two apart that differ in a word, at three gigabytes a second.

    Each block of 64-bit words is multiplied with odd random numbers and summed, modulo 2^64 (multilinear hashing,
    Carter and Wegman, JCSS 1979); a multiplication with an odd number is invertible, so no single change is lost.

    Args:
        tensor: Dense, of any type, on any device; of a quantised one all parts count.
    """
    if tensor.is_meta:  # kept elsewhere until its layer runs, by a library that never writes it back
        return tuple(tensor.shape), str(tensor.dtype), b""
    parts = list(stored_parts(tensor))
    if len(parts) > 1:
        return tuple(tensor.shape), str(tensor.dtype), tuple(checksum(part) for part in parts)
    raw = as_bytes(tensor)
    end = raw.numel() // 8 * 8
    words = (raw[:end] if raw.data_ptr() % 8 == 0 else raw[:end].clone()).view(torch.int64)
    factors = _factors(raw.device)
    products = torch.empty_like(factors)  # written over and over: a new block each time costs more than the sums
    sums = [torch.mul(part, factors[: len(part)], out=products[: len(part)]).sum() for part in words.split(WORDS)]
    whole = torch.stack(sums).cpu().numpy().tobytes() if sums else b""
    return tuple(tensor.shape), str(tensor.dtype), hashlib.sha256(whole + bytes(raw[end:].tolist())).digest()


@functools.cache
def _factors(device: torch.device) -> Tensor:
    odd = np.random.default_rng(20).integers(-(2**62), 2**62, WORDS) | 1
    return torch.from_numpy(odd).to(device)


@dataclass
class _Snapshot:
    """A tensor as it was: the object itself, so that no renaming hides it."""

    tensor: Tensor
    sum: tuple[Any, ...]


class FrozenEncoder:
    """An encoder as it was before any adapter saw it.

    Args:
        encoder: Frozen and in evaluation mode.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self.modules = dict(encoder.named_modules())
        self.parameters = dict(encoder.named_parameters())
        self.tensors: dict[str, _Snapshot] = {}
        self.renew()

    def renew(self) -> None:
        """Takes the values of now, after a change that the harness itself made."""
        if self.tensors:
            held = {name: snapshot.tensor for name, snapshot in self.tensors.items()}
            self.parameters = {name: self._parameter(name) for name in self.parameters}  # others, once quantised
            pairs = (held | self.parameters).items()
        else:
            pairs = [*self.encoder.named_parameters(), *self.encoder.named_buffers()]
        self.tensors = {name: _Snapshot(tensor, checksum(tensor)) for name, tensor in pairs}

    def _parameter(self, name: str) -> nn.Parameter:
        """That of the encoder's own module; an adapter may have given the module another name meanwhile."""
        module, _, leaf = name.rpartition(".")
        return dict(self.modules[module].named_parameters(recurse=False)).get(leaf, self.parameters[name])

    def problem(self) -> str:
        """What is no longer as it was, in words; empty if nothing is."""
        if changed := [name for name, snapshot in self.tensors.items() if checksum(snapshot.tensor) != snapshot.sum]:
            return f"{named(changed)} of the encoder now have other values"
        return self.mode_problem()

    def mode_problem(self) -> str:
        """Which modules or parameters of it train, in words; empty if none does."""
        if loose := [name for name, parameter in self.parameters.items() if parameter.requires_grad]:
            return f"{named(loose)} of the encoder now require a gradient"
        if switched := [name for name, module in self.modules.items() if module.training]:
            return f"{named(switched)} of the encoder are now in training mode"
        return ""

    def restored_problem(self) -> str:
        """The same, where the adapters have been taken off: its modules and parameters are its own again."""
        modules, parameters = dict(self.encoder.named_modules()), dict(self.encoder.named_parameters())
        buffers = dict(self.encoder.named_buffers())
        if other := [name for name in modules.keys() | self.modules.keys() if not _same(modules, self.modules, name)]:
            return f"other modules at {named(sorted(other))} of the encoder, after ungraft()"
        original = self.parameters
        if other := [name for name in parameters.keys() | original.keys() if not _same(parameters, original, name)]:
            return f"other parameters at {named(sorted(other))} of the encoder, after ungraft()"
        snapshots = {name: each for name, each in self.tensors.items() if name not in original}
        # An encoder may keep a table anew in each run (positions, masks); its values count, not the object.
        if other := [name for name in snapshots if name in buffers and checksum(buffers[name]) != snapshots[name].sum]:
            return f"other buffers at {named(other)} of the encoder, after ungraft()"
        return self.problem()


def _same(current: Mapping[str, object], original: Mapping[str, object], name: str) -> bool:
    return name in current and name in original and current[name] is original[name]


def named(names: Iterable[str]) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> named(["a", "", "c", "d", "e", "f"])
        'a, the encoder itself, c, d and 2 more'
    """
    every = [name or "the encoder itself" for name in names]
    more = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class FixedData:
    """The targets, subjects and splits of a cell, which nobody may write to.

    Args:
        data: Read and checked.
    """

    def __init__(self, data: TaskData) -> None:
        self.data = data
        for array in self._arrays().values():
            array.flags.writeable = False
        self.digest = self._digest()

    def problem(self) -> str:
        """The first of them that has other values now, in words; empty if none has."""
        now = self._digest()
        return next((f"{name} of the data now has other values" for name in now if now[name] != self.digest[name]), "")

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("targets", "subjects", "mask", "labels", "asked")
        fields = {name: getattr(self.data, name) for name in names} | {
            f"split {k}": v for k, v in self.data.splits.items()
        }
        return {name: array for name, array in fields.items() if isinstance(array, np.ndarray)}

    def _digest(self) -> dict[str, str]:
        return {name: _array_digest(array) for name, array in self._arrays().items()}


class Untouched:
    """All that a cell's adapters must leave as it is.

    Args:
        encoder: Of the cell; it is frozen here, before anything is attached.
        data: Of the cell.
    """

    def __init__(self, encoder: Encoder, data: TaskData) -> None:
        self.encoder = FrozenEncoder(encoder.freeze())
        self.data = FixedData(data)
        self.settings = Settings.now()

    def problem(self, seed: int) -> str:
        """What is no longer as it was, in words; empty if nothing is.

        Args:
            seed: That PyTorch's random numbers must come from; one that is reseeded repeats itself in every run.
        """
        return self.encoder.problem() or self.data.problem() or self.settings.problem(seed)


def report_of(name: str, adapter: Adapter) -> dict[str, Any]:
    """What an adapter reports of itself, as JSON; numbers that are not finite become ``None``.

    Raises:
        PluginError: It is no JSON.
    """
    report = diagnostics_of(adapter)
    try:
        return json.loads(json.dumps(_finite(json_safe(report)), allow_nan=False)) if report else {}
    except (TypeError, ValueError, RecursionError) as error:
        text = one_line(str(error), 120)
        raise PluginError(f"diagnostics() of adapter {name!r} gives no JSON: {text}; give plain values") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _array_digest(array: np.ndarray) -> str:
    plain = array.astype(str) if array.dtype == object else array
    return hashlib.sha256(repr((array.shape, str(plain.dtype))).encode() + plain.tobytes()).hexdigest()


def hidden_leaves(loss: Tensor, grafted: Grafted) -> list[Tensor]:
    """Tensors that a loss, a scalar, would give a gradient, and that are no trainable parameters of the graft.

    Args:
        loss: Before its backward pass.
        grafted: The graft whose parameters are counted.
    """
    counted = {id(parameter) for parameter in grafted.trainable_parameters()}
    return [leaf for leaf in leaves(loss) if id(leaf) not in counted]
