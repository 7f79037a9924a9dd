"""Reads the tensors of a TorchScript archive without running anything in it; OpenAI publishes CLIP as such archives.

The archive holds modules as pickled objects, their code beside them. Here a module is a blank that keeps its
attributes, tensors are built from the stored numbers, and every other name in the pickle is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor_v2  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]


class _Module:
    """Stands in for a module of any class: keeps its attributes, none of which is called."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _without_tag(value: Any, tag: Any) -> Any:
    return value


def _as_it_is(values: Any) -> Any:
    return values


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with code and constants beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or name == "constants.pkl" for name in archive.namelist())


def load_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters, buffers and other tensors ``[...]`` of the module in an archive, by their dotted names.

    Args:
        path: The archive.

    Raises:
        pickle.UnpicklingError: The pickle names what is no module and no tensor.
        Exception: Whatever a damaged archive makes the readers raise.
    """
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        root = record.removesuffix("data.pkl")
        with archive.open(record) as handle:
            whole = _reader(archive, root)(handle).load()
    if not isinstance(whole, _Module):
        raise pickle.UnpicklingError("the archive holds no module")
    return dict(_tensors(whole, "", set()))


def _reader(archive: zipfile.ZipFile, root: str) -> type[pickle.Unpickler]:
    storages: dict[str, Any] = {}
    classes: dict[tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch.jit._pickle", "restore_type_tag"): _without_tag,
    }
    for each in ("intlist", "tensorlist", "doublelist", "boollist"):
        classes["torch.jit._pickle", f"build_{each}"] = _as_it_is

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            """A blank module, a kind of storage, or what rebuilds tensors."""
            if module == "__torch__" or module.startswith("__torch__."):
                return type(name.rpartition(".")[2], (_Module,), {})
            if (module, name) in classes:
                return classes[module, name]
            kind = getattr(torch, name, None) if module == "torch" and name.endswith("Storage") else None
            if kind is None or not hasattr(kind, "dtype"):
                raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")
            return kind

        def persistent_load(self, pid: Any) -> Any:
            """The numbers of one storage."""
            _, kind, key, _, count = pid
            if key not in storages:
                values = bytearray(archive.read(f"{root}data/{key}"))
                flat = torch.frombuffer(values, dtype=kind.dtype) if values else torch.empty(0, dtype=kind.dtype)
                if flat.numel() != count:
                    raise pickle.UnpicklingError(f"a storage has {flat.numel()} numbers in place of {count}")
                storages[key] = torch.storage.TypedStorage(
                    wrap_storage=flat.untyped_storage(), dtype=kind.dtype, _internal=True
                )
            return storages[key]

    return Reader


def _tensors(module: _Module, prefix: str, open_: set[int]) -> list[tuple[str, Tensor]]:
    if id(module) in open_:
        raise pickle.UnpicklingError("a module holds itself")
    tensors: list[tuple[str, Tensor]] = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors.append((f"{prefix}{name}", value))
        elif isinstance(value, _Module):
            tensors += _tensors(value, f"{prefix}{name}.", open_ | {id(module)})
    return tensors
