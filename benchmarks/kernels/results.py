"""What ``benchmarks.kernels`` stores: one JSON per operation, type and device, and its section of the leaderboard."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medgraft.benchmarks.results.result_files import OPERATION_SUFFIX, UnreadableError, files_below, read_json
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.commands.plain_text import markdown_text, one_line
from medgraft.errors import MedgraftError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One form of one case.

    Attributes:
        form: ``eager``, ``compile``, ``fused`` and so on.
        seconds: Of each round, forward and backward.
        allocated: Peak bytes above the start.
        reserved: Peak bytes that the allocator held (GPU only).
        ratio: Eager time over this form's, the median over rounds.
        bandwidth: Bytes that must move, per second, as a share of the device's own copy rate.
    """

    form: str
    seconds: list[float]
    allocated: int | None
    reserved: int | None
    ratio: float
    bandwidth: float


class OperationResult(BaseModel):
    """One case in one type on one device.

    Attributes:
        schema_version: Of this record.
        case: Name of the case, as on the command line.
        told: Shape and setting.
        dtype: Type of the inputs.
        device: ``cpu`` or ``cuda``.
        parity: What failed the parity gate; empty if it is green.
        forms: What was measured; no fused form where the gate is red.
        returned: Bytes of the result and the gradients, which every form returns.
        verdicts: Goals beside what was measured.
        environment: Of :func:`medgraft.benchmarks.measure.environment.describe`.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    case: str
    told: str
    dtype: str
    device: str
    parity: list[str]
    forms: list[Measured]
    returned: int
    verdicts: list[str]
    environment: dict[str, Any]

    @model_validator(mode="after")
    def _complete(self) -> OperationResult:
        forms = {each.form for each in self.forms}
        if "eager" not in forms or not all(each.seconds for each in self.forms):
            raise ValueError("it has no times of eager mode")
        if not isinstance(self.environment.get("packages", {}), dict):
            raise ValueError("environment.packages is no table of versions")
        return self

    @property
    def machine(self) -> str:
        """Processor or GPU, threads and PyTorch: what the rows of one table share."""
        facts = self.environment
        name = facts.get("gpu") if self.device == "cuda" else f"{facts.get('cpu')}, {facts.get('threads')} thread(s)"
        return f"{name}, torch {facts.get('packages', {}).get('torch')}"


def store(result: OperationResult, folder: Path) -> Path:
    """Writes a result to ``folder``, in the place of an older one of the same case, type and device.

    Raises:
        MedgraftError: The folder cannot be written.
    """
    path = folder / f"{result.case}-{result.dtype}-{result.device}{OPERATION_SUFFIX}"
    text = result.model_dump_json(indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda handle: handle.write(text.encode()))
    except OSError as error:
        raise MedgraftError(f"{path} cannot be written: {error}; choose another --json folder") from error
    return path


def read_operations(folders: Iterable[Path]) -> list[OperationResult]:
    """All readable results of operations below the folders, by machine, case and type."""
    operations = []
    for folder in folders:
        for path in files_below(Path(folder), OPERATION_SUFFIX):
            try:
                operations.append(OperationResult.model_validate(read_json(path)))
            except (UnreadableError, ValidationError) as error:
                text = one_line(str(error), 200)
                _log.warning("%s is not a readable result and is left out: %s", path, text)
    return sorted(operations, key=lambda each: (each.machine, each.case, each.dtype))


def section(results: Sequence[OperationResult]) -> list[str]:
    """The leaderboard's part on operations as lines of Markdown, a table per machine; nothing for no results."""
    if not results:
        return []
    lines = [
        "## Operations", "",
        "Made by `python -m benchmarks.kernels --json FOLDER`. Speed is forward and backward relative to eager mode in "
        "the same type, memory the fused form's peak relative to eager mode's; a fused number stands only behind "
        "a green parity check.", "",
    ]  # fmt: skip
    for machine in dict.fromkeys(each.machine for each in results):
        rows = [_row(each) for each in results if each.machine == machine]
        heads = ["operation", "type", "fused", "compile", "eager float32", "peer", "memory", "eager ms", "outcome"]
        safe = [[markdown_text(text) for text in row] for row in rows]
        body = pd.DataFrame(safe, columns=heads).to_markdown(index=False, disable_numparse=True)
        lines += [f"{markdown_text(machine)}:", "", body, ""]
    return lines


def _row(result: OperationResult) -> list[str]:
    by_form = {each.form: each for each in result.forms}
    ratios = [
        f"{by_form[form].ratio:.2f}" if form in by_form else "-" for form in ("fused", "compile", "eager float32")
    ]
    peers = [each for each in result.forms if each.form.startswith("peer ")]
    first = max(peers, key=lambda each: each.ratio, default=None)
    ratios.append("-" if first is None else f"{first.ratio:.2f} ({first.form.removeprefix('peer ')})")
    eager, fused = by_form["eager"], by_form.get("fused")
    peak = fused.allocated if fused is not None else None
    memory = f"{peak / eager.allocated:.0%}" if peak and eager.allocated else "-"
    median = f"{1e3 * statistics.median(eager.seconds):.1f}"
    outcome = "; ".join(result.verdicts) or "-"
    return [result.case, result.dtype, *ratios, memory, median, outcome]
