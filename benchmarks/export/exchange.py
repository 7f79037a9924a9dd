"""Grafts as ONNX and TorchScript files."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.export.served import Served
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError

Run = Callable[[Mapping[str, Tensor]], list[Any]]
"""An exported model: inputs by name, ``[B, ...]`` -> its outputs in order."""

LARGEST_ONNX = 2_000_000_000
"""Bytes of weights that one ONNX file can hold: protobuf ends at 2 GB."""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters write progress to the terminal and warn of what is not the user's to change."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def _why(error: Exception) -> str:
    text = str(error)
    if "specialized it to be a constant" in text:
        return "its code fixes the size of the batch, as len() of a tensor does where x.shape[0] would not"
    return one_line(f"{type(error).__name__}: {text.strip()}", 240)


def write_onnx(served: Served, batch: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> Run:
    """Writes an ONNX file with a dynamic batch, and opens it in ONNX Runtime.

    Args:
        served: The graft.
        batch: Inputs to trace it with, ``[B, ...]`` each, ``B`` at least 2.
        path: The file.
        facts: Stored in the file's metadata.

    Raises:
        ConfigError: onnx or ONNX Runtime is missing, the model is too large, or cannot be traced.
    """
    ort = _onnx_runtime()
    size = sum(tensor.numel() * tensor.element_size() for tensor in served.state_dict().values())
    if size > LARGEST_ONNX:
        raise ConfigError(
            f"an ONNX file holds 2 GB at most, and the graft has {size:,} bytes; use --to torchscript or hf"
        )
    dim = torch.export.Dim("batch", min=1)
    try:
        with _quietly(), torch.no_grad():
            shapes = {"batches": tuple({0: dim} for _ in batch)}
            program = torch.export.export(served, tuple(batch.values()), dynamic_shapes=shapes, strict=False)
            model = torch.onnx.export(
                program, dynamo=True, input_names=list(batch), output_names=list(served.outputs), verbose=False
            )
            assert model is not None
            model.model.metadata_props["medgraft"] = json.dumps(facts)
            model.save(str(path), external_data=False)
    except Exception as error:  # whatever the exporters raise
        raise ConfigError(f"the graft cannot be written as ONNX: {_why(error)}; try --to torchscript") from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(
        list(served.outputs), {name: np.ascontiguousarray(value.numpy()) for name, value in rows.items()}
    )


def _onnx_runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--to onnx needs {error.name}; install it with: pip install 'medgraft[export]'") from error
    return onnxruntime


def write_torchscript(served: Served, batch: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]) -> Run:
    """Writes a traced TorchScript file, and opens it.

    Args:
        served: The graft.
        batch: Inputs to trace it with, ``[B, ...]`` each.
        path: The file.
        facts: Stored in the archive as ``medgraft.json``.

    Raises:
        ConfigError: It cannot be traced.
    """
    try:
        with _quietly(), torch.no_grad():
            traced = torch.jit.trace(served, tuple(batch.values()), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={"medgraft.json": json.dumps(facts)})
            opened = torch.jit.load(str(path))
    except Exception as error:  # whatever the tracer raises
        raise ConfigError(
            f"the graft cannot be written as TorchScript: {_why(error)}; predict with medgraft"
        ) from error

    def run(rows: Mapping[str, Tensor]) -> list[Any]:
        with torch.no_grad():
            return list(opened(*rows.values()))

    return run
