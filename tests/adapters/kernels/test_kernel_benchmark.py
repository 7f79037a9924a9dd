"""The kernel benchmark on its small shapes: every form agrees, a red gate hides the fused number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from medgraft.benchmarks import cli as harness
from medgraft.benchmarks import kernel_floors, kernels
from medgraft.benchmarks.kernel_cases import CASES
from medgraft.benchmarks.kernel_results import read_operations, section, store
from medgraft.benchmarks.leaderboard import board_rows, markdown
from medgraft.benchmarks.results import OPERATION_SUFFIX
from medgraft.cli import app


def small(case):
    return dataclasses.replace(case, build=lambda device, dtype, form, _: case.build(device, dtype, form, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(CASES))
def test_parity_is_green(name, dtype):
    assert kernels.parity(small(CASES[name]), "cpu", dtype) == []


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.has_peer])
def test_the_peer_computes_the_same(name):
    exact = CASES[name].build("cpu", torch.float64, "eager", True)()
    peer = CASES[name].build("cpu", torch.float64, "peer", True)()
    # A peer may keep its weights in another layout, so what is compared is the result and the input's gradient.
    for got, expected in zip(peer[:2], exact[:2], strict=True):
        torch.testing.assert_close(got, expected)


def test_a_wrong_result_turns_the_gate_red_and_hides_the_number():
    case = small(CASES["moe"])

    def build(device, dtype, form, _):
        step = case.build(device, dtype, form, True)
        if form != "fused":
            return step
        return lambda: tuple(part * 1.5 for part in step())

    result = kernels.run_case(dataclasses.replace(case, build=build), "cpu", torch.float32, ["fused"], 1, 1e9)
    lines = kernels.report(result)
    assert result.parity and any("y differs from float64" in line for line in lines)
    assert not any(line.startswith("| fused") for line in lines)
    assert lines[-2] == "- no fused number: the parity gate is red"


def test_goals_are_judged_against_the_faster_rival():
    case = dataclasses.replace(CASES["moe"], goal_speed=1.4, goal_memory=0.25)
    found = [
        kernels.Measured(form, [1.0], memory, None, ratio, 0.1)
        for form, memory, ratio in (("eager", 100, 1.0), ("compile", 90, 1.25), ("fused", 20, 1.5))
    ]
    told = kernels.verdicts(case, found, 10)
    assert told == ["1.20x the speed of compile, goal 1.4x: not met", "20.0% of eager's memory, goal 25%: met"]


def test_an_impossible_goal_stands_beside_the_measurement_that_shows_it():
    case = dataclasses.replace(CASES["moe"], goal_speed=1.4, goal_memory=0.25)

    def told(most: float, returned: int) -> list[str]:
        forms = (("eager", 100, 1.0), ("fused", 40, 1.2), ("products", 5, most))
        found = [kernels.Measured(form, [1.0], memory, None, ratio, 0.1) for form, memory, ratio in forms]
        return kernels.verdicts(case, found, returned)

    impossible, possible = told(1.3, 30), told(1.6, 20)
    assert "its products alone take 1/1.30 of the time of eager: no form of it can meet the goal" in impossible
    assert "its products alone take 1/1.60 of the time of eager: the goal stays open" in possible
    assert impossible[-1] == (
        "what every form returns is 30.0% of eager's memory: no form can meet the goal; "
        "beyond that fused holds 14.3% of what eager does"
    )
    assert possible[-1].startswith("what every form returns is 20.0% of eager's memory; beyond that fused holds 25.0%")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_run_in_every_type(dtype):
    kernel_floors.info_nce("cpu", dtype, N=10, C=4, rows=3)()
    kernel_floors.perceiver("cpu", dtype, L=2, heads=2, B=1, C=8)()
    kernel_floors.moe("cpu", dtype, T=12, D=6, h=4, E=3)()


def test_products_of_the_bottleneck_are_those_of_its_formula():
    with FlopCounterMode(display=False) as counter:
        kernel_floors.bottleneck("cpu", torch.float32, C=4, c=2)()
    voxels = 32 * 64 * 64
    assert counter.get_total_flops() == 3 * 2 * voxels * (2 * 4 * 2 + 27 * 2 * 2)


def test_a_stored_result_becomes_a_section_of_the_board(tmp_path):
    result = kernels.run_case(small(CASES["moe"]), "cpu", torch.float32, ["fused"], 1, 1e9)
    path = store(result, tmp_path / "ops")
    (tmp_path / "ops" / f"damaged{OPERATION_SUFFIX}").write_text("{")
    assert path.name == "moe-float32-cpu.ops.json"
    found = read_operations([tmp_path])
    assert found == [result]
    assert board_rows([tmp_path]) == []
    text = markdown([], "x", found)
    (row,) = [line for line in text.splitlines() if line.startswith("| moe")]
    assert "## Operations" in text and result.machine in text and f"{result.forms[1].ratio:.2f}" in row
    assert "Operations" not in markdown([], "x", [])


def test_the_board_shows_no_fused_number_behind_a_red_gate():
    result = kernels.run_case(small(CASES["moe"]), "cpu", torch.float32, [], 1, 1e9)
    red = result.model_copy(update={"parity": ["y differs"], "verdicts": ["no fused number: the parity gate is red"]})
    (row,) = [line for line in "\n".join(section([red])).splitlines() if line.startswith("| moe")]
    assert row.split("|")[3].strip() == "-" and "parity gate is red" in row


def test_the_command_writes_what_the_leaderboard_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(kernels.CASES, "moe", small(CASES["moe"]))
    chosen = ["--op", "moe", "--dtype", "float32", "--form", "fused", "--rounds", "1", "--device", "cpu"]
    assert kernels.main([*chosen, "--json", str(tmp_path)]) == 0
    assert "Parity: green." in capsys.readouterr().out
    if not any(each.name == "leaderboard" for each in app.registered_commands):
        harness.register(app)
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path), "--out", str(tmp_path / "board")])
    assert done.exit_code == 0, done.output
    assert "## Operations" in (tmp_path / "board" / "leaderboard.md").read_text()


def test_the_report_names_every_form():
    lines = kernels.report(
        kernels.run_case(small(CASES["info_nce"]), "cpu", torch.bfloat16, ["eager float32", "fused"], 2, 1e9)
    )
    table = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert table == ["form", "eager", "eager float32", "fused"]
    assert "Parity: green." in lines


def test_cuda_without_a_gpu_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        kernels.main(["--device", "cuda"])
    assert "PyTorch sees no GPU" in capsys.readouterr().err
