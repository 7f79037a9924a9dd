"""Weights as files: digests, reading them without running anything in them, and loading them strictly."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from medgraft.checkpoints.torchscript import is_torchscript, load_torchscript
from medgraft.checkpoints.unpickling import load_tensors
from medgraft.encoder.stored import as_bytes, stored_parts
from medgraft.errors import CheckpointError
from medgraft.files.archives import check_weights, names_bytearray
from medgraft.files.limits import RATIO_FROM
from medgraft.typed.values import is_a

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "teacher", "net", "network", "network_weights", "model_ema"),
    *("encoder", "backbone", "student"),
)
"""Entries under which training code saves a model's tensors, the first that is there first: Lightning and MMEngine
(``state_dict``), MAE and the trainer of transformers (``model``), DINO (``teacher``), MONAI (``net``, ``network``),
nnU-Net (``network_weights``)."""

UNRECORDED = "unrecorded"
"""``base_digest`` of an adapter from a foreign file that does not say which encoder weights it was trained on."""


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}\n".encode())
        for part in stored_parts(tensor):
            digest.update(as_bytes(part).cpu().numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads tensors ``[...]`` by name from a safetensors file, or from a PyTorch file without running code in it.

    A checkpoint of PyTorch Lightning holds objects beside the tensors (hyper-parameters, callbacks); they are left out,
    see :mod:`medgraft.checkpoints.unpickling`.

    Args:
        path: ``.safetensors``, or a ``torch.save`` file.
        sha256: Expected digest of the file, checked before anything is read.

    Returns:
        Name -> tensor; what training code wraps around it (:data:`WRAPPERS`) is opened.

    Raises:
        CheckpointError: The file is missing, unreadable, holds no table of tensors, asks to run code, or fails the
            checksum.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if sha256 is not None and (digest := file_digest(path)) != sha256:
        raise CheckpointError(
            f"checkpoint {path} has sha256 {digest[:16]}..., expected {sha256[:16]}...; fetch it again"
        )
    try:
        check_weights(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        state = _load_pickled(path)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # pickle.UnpicklingError and what a damaged archive may raise
        raise CheckpointError(
            f"checkpoint {path} is refused: it holds more than tensors, or is damaged "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]}). Save it again as safetensors"
        ) from error
    state = _opened(state)
    if not is_a(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"checkpoint {path} is not a table of tensors; save the model's state_dict()")
    for name, tensor in state.items():
        if _repeats(tensor):
            raise CheckpointError(
                f"checkpoint {path} is refused: {name} repeats a few stored numbers {tensor.numel():,} times"
            )
    return state


def _opened(state: Any) -> Any:
    """The table of tensors in what a training script saved; of a teacher and its student (DINO) the teacher's."""
    while is_a(state, dict) and not any(isinstance(value, Tensor) for value in state.values()):
        inner = next((state[name] for name in WRAPPERS if is_a(state.get(name), dict) and state[name]), None)
        if inner is None:
            return state
        state = inner
    return state


def _repeats(tensor: Tensor) -> bool:
    """True where a tensor is far larger than what is stored of it, so that a copy of it would not fit."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    size = tensor.numel() * tensor.element_size()
    return size > RATIO_FROM and size > 4 * tensor.untyped_storage().nbytes()


def _load_pickled(path: Path) -> Any:
    """Content of a PyTorch file; objects that are no tensors are blank."""
    if is_torchscript(path):
        return load_torchscript(path)
    if not names_bytearray(path):
        with suppress(pickle.UnpicklingError):
            return torch.load(path, map_location="cpu", weights_only=True)
    return load_tensors(path)


@dataclass(frozen=True)
class Matched:
    """What of a file went into a module.

    Attributes:
        where: The file.
        loaded: Tensors that were taken.
        needed: Tensors that the module has.
        missing: Names of those that kept their fresh values.
        left_out: Names in the file that are of no part of the module, or have another shape.
        prefix: What was taken off the names in the file.
        renamed: The file's layout is another one, and its names were converted.
    """

    where: str
    loaded: int
    needed: int
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    renamed: bool = False

    def __str__(self) -> str:
        parts = [f"{self.loaded} of {self.needed} tensors from {self.where}"]
        parts += [f"prefix {self.prefix!r} taken off"] if self.prefix else []
        parts += ["names converted from another layout"] if self.renamed else []
        parts += [f"not in the file, fresh: {_named(self.missing)}"] if self.missing else []
        parts += [f"left out of the file: {_named(self.left_out)}"] if self.left_out else []
        return "; ".join(parts)


def _named(keys: Sequence[str]) -> str:
    return f"{', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}"


_partial: ContextVar[bool] = ContextVar("_partial", default=False)


@contextmanager
def partial_weights(allowed: bool = True) -> Generator[None]:
    """Inside it, :func:`load_strict` takes what fits of a file and leaves the rest fresh; ``False`` changes nothing."""
    token = _partial.set(allowed or _partial.get())
    try:
        yield
    finally:
        _partial.reset(token)


def partial_allowed() -> bool:
    """Whether a file may fit in part, see :func:`partial_weights`."""
    return _partial.get()


def load_strict(module: nn.Module, state: dict[str, Tensor], where: str) -> Matched:
    """Loads ``state``, tensors of any shape by name, into ``module``; names every missing, unexpected, misshapen key.

    Returns:
        What was taken; everything, unless :func:`partial_weights` allows less.

    Raises:
        CheckpointError: The keys or shapes differ, or nothing at all fits.
    """
    module_state = module.state_dict()
    missing, unexpected = sorted(module_state.keys() - state.keys()), sorted(state.keys() - module_state.keys())
    misshapen = sorted(key for key in module_state.keys() & state.keys() if module_state[key].shape != state[key].shape)
    shapes = [f"{key} is {tuple(state[key].shape)}, expected {tuple(module_state[key].shape)}" for key in misshapen]
    problems = [
        f"{label}: {_named(keys)}"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    fitting = {key: state[key] for key in state if key in module_state and key not in misshapen}
    if problems and not (partial_allowed() and fitting):
        raise CheckpointError(f"{where} does not fit: {'; '.join(problems)}")
    refuse_not_finite(fitting, {name for name, _ in module.named_buffers()}, where)
    module.load_state_dict(fitting, strict=not problems)
    fresh = (*missing, *misshapen)
    return Matched(
        where, len(fitting), len(module_state), tuple(sorted(fresh)), tuple(sorted([*unexpected, *misshapen]))
    )


def refuse_not_finite(state: Mapping[str, Tensor], buffers: Collection[str], where: str) -> None:
    """Refuses weights ``[...]`` that make every output NaN, as a training that diverged or a damaged file leaves.

    Args:
        state: Name -> tensor.
        buffers: Names that may hold infinities, as masks do.
        where: The checkpoint, for the error.

    Raises:
        CheckpointError: With the name of each such tensor, and how many of its numbers are not finite.
    """
    problems: list[str] = []
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        nan = int(tensor.isnan().sum())
        infinite = 0 if name in buffers else int(tensor.isinf().sum())
        kinds = [f"{count:,} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
        if kinds:
            problems.append(f"{name} ({' and '.join(kinds)} of {tensor.numel():,} numbers)")
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(
            f"{where} holds numbers that are not finite: {', '.join(problems[:6])}{more}; its training diverged or the "
            "file is damaged; take an earlier checkpoint"
        )
