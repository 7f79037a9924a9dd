"""A tree of numbers, texts and tensors in one file of safetensors, with a digest, read without running anything in it.

Tensors stand under numbers; the tree itself is JSON in the file's metadata, with ``{"tensor": number}`` in their
places.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from medgraft.benchmarks.results.writing import write_atomically
from medgraft.encoder.stored import as_bytes
from medgraft.errors import CheckpointError

TENSOR = "tensor"


def write_tree(path: Path, tree: Any) -> int:
    """Writes a tree, atomically; the bytes of its tensors.

    Raises:
        OSError: It cannot be written.
        TypeError: There is something else in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(tree, tensors))
    facts = {"tree": text, "sha256": _digest(text, tensors)}
    write_atomically(path, lambda handle: save_file(tensors, handle.name, facts))
    return sum(each.nbytes for each in tensors.values())


def read_tree(path: Path) -> Any:
    """Reads a tree; tensors are on the CPU.

    Raises:
        FileNotFoundError: There is none.
        CheckpointError: It is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if facts.get("sha256") != _digest(facts["tree"], tensors):
            raise CheckpointError(f"{path.name} is not what was written: its digest differs")
        return _unpacked(json.loads(facts["tree"]), tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is damaged: {type(error).__name__}: {error}") from error


def _packed(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON of a tree, whose tensors go into ``tensors``."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        # Of two names for the same numbers safetensors takes only one.
        tensors[name] = torch.empty_like(tree, device="cpu", memory_format=torch.contiguous_format).copy_(tree.detach())
        return {TENSOR: name}
    if isinstance(tree, Mapping):
        return {"map": {str(key): _packed(value, tensors) for key, value in tree.items()}}
    if isinstance(tree, list | tuple):
        return [_packed(value, tensors) for value in tree]
    if tree is None or isinstance(tree, bool | int | str):
        return tree
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else {"float": str(tree)}
    raise TypeError(f"a checkpoint cannot hold a {type(tree).__name__}")


def _unpacked(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    match tree:
        case {"tensor": name}:
            return tensors[name]
        case {"float": text}:
            return float(text)
        case {"map": entries}:
            return {key: _unpacked(value, tensors) for key, value in entries.items()}
        case list():
            return [_unpacked(value, tensors) for value in tree]
        case _:
            return tree


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"|{name} {tuple(tensor.shape)} {tensor.dtype}|".encode())
        digest.update(as_bytes(tensor).numpy().data)
    return digest.hexdigest()
