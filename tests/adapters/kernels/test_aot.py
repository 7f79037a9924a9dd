"""Every kernel compiles for every target, and no worse than the committed table says."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from medgraft.adapters.kernels import OPS, aot, load_op
from medgraft.errors import ConfigError
from medgraft.ops.triton_runtime import TARGETS

triton = pytest.importorskip("triton")
PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"


@pytest.fixture(scope="module")
def committed():
    version, rows = aot.parse(PAGE.read_text())
    return version, {(row.kernel, row.target): row for row in rows}


def test_the_table_has_every_variant_and_no_other(committed):
    named = {(f"{v.kernel.__name__} {v.label}".strip(), t) for v in aot.variants() for t in v.tuned}
    assert set(committed[1]) == named
    assert {target for _, target in named} == set(TARGETS)


def test_the_table_holds_no_spills(committed):
    assert not [problem for row in committed[1].values() for problem in aot.problems(row, False)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the page's command writes: ``python -m medgraft.adapters.kernels.aot docs/kernels.md``."""
    page = tmp_path_factory.mktemp("docs") / "kernels.md"
    shutil.copy(PAGE, page)
    aot.main(str(page))
    return {(row.kernel, row.target): row for row in aot.parse(page.read_text())[1]}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("op", OPS)
def test_compiles_as_committed(op, committed, compiled):
    version, table = committed
    problems = []
    for variant in load_op(op).VARIANTS:
        for target in variant.tuned:
            row = compiled[f"{variant.kernel.__name__} {variant.label}".strip(), target]
            problems += aot.problems(row, variant.matrix)
            known = table[row.kernel, target]
            # Another Triton may colour registers differently; spills and tensor cores are held to in any case.
            if triton.__version__ == version and (row.registers > known.registers or row.shared > known.shared):
                problems.append(f"{row} needs more than {known}")
    assert not problems


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("op", OPS)
def test_float16_compiles_without_spills(op):
    """It takes bfloat16's tiles and is not in the table."""
    found = [aot.compile_variant(in_float16(v), "sm_90") for v in load_op(op).VARIANTS if "bf16" in v.label]
    assert found and not [problem for row in found for problem in aot.problems(row, row.matrix > 0)]
    assert {row.matrix > 0 for row in found} == {v.matrix for v in load_op(op).VARIANTS}


def in_float16(variant):
    types = {name: kind.replace("bf16", "fp16") for name, kind in variant.types.items()}
    return dataclasses.replace(variant, types=types, label=variant.label.replace("bf16", "fp16"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("op", ["info_nce", "perceiver", "bottleneck"])
def test_an_even_width_is_all_that_the_tiles_need(op):
    """Batches and numbers of tokens are odd as often as not; what falls back is an odd width alone."""
    problems = []
    for variant in load_op(op).VARIANTS:
        narrow = dataclasses.replace(variant, divisible=tuple({"C", "sxn", "syn"} & set(variant.types)))
        problems += aot.problems(aot.compile_variant(narrow, "sm_90"), variant.matrix)
    assert not problems


def test_occupancy_is_limited_by_the_scarcest_resource():
    assert aot.occupancy(32, 0, 4, "sm_90") == 1.0
    assert aot.occupancy(255, 0, 8, "sm_90") == 8 / 64
    assert aot.occupancy(32, 100 * 1024, 4, "sm_90") == 2 * 4 / 64


def test_a_spill_too_much_memory_and_idle_tensor_cores_are_named():
    row = aot.Row("k", "sm_90", "BM=1", 255, 8, 300 * 1024, 0, 0.1)
    told = " ".join(aot.problems(row, True))
    assert "spills 8" in told and "shared memory" in told and "no tensor cores" in told
    assert not aot.problems(aot.Row("k", "sm_90", "BM=1", 64, 0, 1024, 0, 0.1), False)


def test_the_table_round_trips():
    rows = [
        aot.Row("k bf16", "sm_90", "BM=1 w=4 s=2", 64, 0, 1024, 8, 0.25),
        aot.Row("k", "gfx942", "x", 9, 0, 5, 1, None),
    ]
    version, read = aot.parse(f"text {aot.BEGIN}\n\n{aot.table(rows)}\n\n{aot.END} more")
    assert (version, read) == (triton.__version__, rows)
    with pytest.raises(ConfigError, match="no table"):
        aot.parse("nothing")
