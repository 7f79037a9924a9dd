"""Compiles every kernel for every target without a GPU and reads what the compilers made of it.

``python -m medgraft.adapters.kernels.aot docs/kernels.md`` writes the table into a page, between its two marks. No
device is touched: Triton compiles for a named target, registers and stack come from the binary.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medgraft.errors import ConfigError
from medgraft.ops.triton_runtime import TARGETS, Variant, precision, triton_obstacle

BEGIN, END = "<!-- aot table: begin -->", "<!-- aot table: end -->"
# Shared memory per block in KiB (of the smallest GPU that uses the target's tiles, for sm_80 that is 8.6 and 8.9), and
# per multiprocessor; CUDA C++ Programming Guide, technical specifications per compute capability. LDS of CDNA 3: 64.
SHARED_LIMIT = {"sm_80": 99, "sm_90": 227, "sm_100": 227, "gfx942": 64}
SHARED_TOTAL = {"sm_80": 164, "sm_90": 228, "sm_100": 228}
MATRIX_INSTRUCTIONS = {"sm_80": "HMMA", "sm_90": "HGMMA|HMMA", "sm_100": r"UTC\w*MMA|HMMA", "gfx942": "v_mfma"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One compiled variant.

    Attributes:
        kernel: Its name and label.
        target: Architecture.
        tile: Block sizes, warps and stages.
        registers: Per thread (vector registers for gfx942).
        spills: Bytes per thread in local memory (NVIDIA) or spilled registers (AMD).
        shared: Shared memory per block in bytes.
        matrix: Tensor-core instructions in the binary.
        occupancy: Warps that fit on a multiprocessor, as a share; ``None`` for gfx942.
    """

    kernel: str
    target: str
    tile: str
    registers: int
    spills: int
    shared: int
    matrix: int
    occupancy: float | None

    def cells(self) -> list[str]:
        """The row of the table."""
        share = "-" if self.occupancy is None else f"{self.occupancy:.2f}"
        numbers = [str(value) for value in (self.registers, self.spills, self.shared, self.matrix)]
        return [self.kernel, self.target, self.tile, *numbers, share]


HEADER = ["kernel", "target", "tile", "registers", "spills", "shared bytes", "tensor-core instr.", "occupancy"]


def variants() -> list[Variant]:
    """Every kernel of this package as it is launched."""
    from medgraft.adapters.kernels import OPS, load_op

    return [variant for name in OPS for variant in load_op(name).VARIANTS]


def compile_variant(variant: Variant, target: str) -> Row:
    """Compiles one variant for one target.

    Raises:
        ConfigError: Triton is missing, too old, or interpreting.
    """
    if (obstacle := triton_obstacle()) is not None:
        raise ConfigError(obstacle)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, tile = variant.kernel, variant.tuned[target]
    if not isinstance(kernel, triton.JITFunction):
        raise ConfigError("Triton is interpreting; unset TRITON_INTERPRET to compile kernels")
    amd = target.startswith("gfx")
    constants = {**variant.constants, **tile.blocks}
    if "PRECISION" in kernel.arg_names:
        constants["PRECISION"] = precision(amd)
    signature = {name: "constexpr" if name in constants else variant.types[name] for name in kernel.arg_names}
    aligned = [n for n, kind in signature.items() if kind.startswith("*") or n in variant.divisible]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    gpu = GPUTarget("hip", target, 64) if amd else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    built = triton.compile(source, target=gpu, options=options)
    blocks = " ".join(f"{key}={value}" for key, value in tile.blocks.items())
    name = f"{kernel.__name__} {variant.label}".strip()
    facts = (name, target, f"{blocks} w={tile.num_warps} s={tile.num_stages}")
    if amd:
        return Row(*facts, *_read_amd(built.asm["amdgcn"], built.metadata.shared), None)
    return Row(*facts, *_read_nvidia(built, target))


def _read_amd(assembly: str, shared: int) -> tuple[int, int, int, int]:
    def number(field: str) -> int:
        match = re.search(rf"\.{field}:\s*(\d+)", assembly)
        assert match is not None, field
        return int(match.group(1))

    matrix = len(re.findall(MATRIX_INSTRUCTIONS["gfx942"], assembly))
    return number("vgpr_count"), number("vgpr_spill_count"), shared, matrix


def _read_nvidia(built: Any, target: str) -> tuple[int, int, int, int, float]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(built.asm["cubin"])
        binary.flush()
        read = [
            subprocess.run([str(tool), flag, binary.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        ]
    usage = {key: int(re.findall(rf"{key}:(\d+)", read[0])[0]) for key in ("REG", "STACK")}
    matrix = len(re.findall(rf"\b(?:{MATRIX_INSTRUCTIONS[target]})\b", read[1]))
    spilled = usage["STACK"] or 4 * len(re.findall(r"\b(?:LDL|STL)\b", read[1]))
    shared = built.metadata.shared
    return usage["REG"], spilled, shared, matrix, occupancy(usage["REG"], shared, built.metadata.num_warps, target)


def occupancy(registers: int, shared: int, warps: int, target: str) -> float:
    """Share of a multiprocessor's 64 warps that fit, limited by registers, shared memory and 32 blocks.

    Args:
        registers: Per thread.
        shared: Bytes per block; the system reserves 1 KiB more.
        warps: Per block.
        target: An NVIDIA target.
    """
    of_warp = -(-registers * 32 // 256) * 256
    blocks = min(64 // warps, 65536 // (of_warp * warps), SHARED_TOTAL[target] * 1024 // (shared + 1024), 32)
    return blocks * warps / 64


def problems(row: Row, needs_matrix: bool) -> list[str]:
    """What disqualifies a variant: spills, too much shared memory, no tensor cores where it multiplies matrices."""
    reasons = []
    if row.spills:
        reasons.append(f"spills {row.spills}")
    if row.shared > SHARED_LIMIT[row.target] * 1024:
        reasons.append(f"uses {row.shared} bytes of shared memory of {SHARED_LIMIT[row.target] * 1024}")
    if needs_matrix and not row.matrix:
        reasons.append("uses no tensor cores")
    return [f"{row.kernel} ({row.tile}) on {row.target} {problem}" for problem in reasons]


def table(rows: Iterable[Row]) -> str:
    """Markdown, with the versions that it holds for."""
    import triton

    lines = [HEADER, ["---"] * 3 + ["---:"] * 5, *(row.cells() for row in rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"Compiled with Triton {triton.__version__}.\n\n{body}"


def parse(page: str) -> tuple[str, list[Row]]:
    """Reads a page's table back.

    Returns:
        The version of Triton that made it, and its rows.

    Raises:
        ConfigError: The page has no such table.
    """
    try:
        body = page.split(BEGIN, 1)[1].split(END, 1)[0]
        version = re.findall(r"Triton ([\w.+]+)\.\n", body)[0]
    except IndexError:
        raise ConfigError(f"no table between {BEGIN} and {END}; make it with this module") from None
    rows = []
    for line in body.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(HEADER) and cells[1] in TARGETS:
            share = None if cells[-1] == "-" else float(cells[-1])
            registers, spills, shared, matrix = map(int, cells[3:7])
            rows.append(Row(cells[0], cells[1], cells[2], registers, spills, shared, matrix, share))
    return version, rows


def main(path: str) -> None:
    """Writes the table into the page at ``path``, or nothing if a variant is disqualified.

    Raises:
        ConfigError: A variant is disqualified; all of them are named.
    """
    results = [(variant, compile_variant(variant, target)) for variant in variants() for target in variant.tuned]
    if bad := [problem for variant, row in results for problem in problems(row, variant.matrix)]:
        raise ConfigError("; ".join(bad))
    page = Path(path)
    before, rest = page.read_text().split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n\n{table(row for _, row in results)}\n\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1])
