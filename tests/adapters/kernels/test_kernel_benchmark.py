"""The kernel benchmark on its small shapes: every form agrees, a red gate hides the fused number."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medgraft.benchmarks import kernels
from medgraft.benchmarks.kernel_cases import CASES


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

    lines = kernels.run_case(dataclasses.replace(case, build=build), "cpu", torch.float32, ["fused"], 1, 1e9)
    assert any("y differs from float64" in line for line in lines)
    assert not any(line.startswith("| fused") for line in lines)
    assert lines[-2] == "- no fused number: the parity gate is red"


def test_goals_are_judged_against_the_faster_rival():
    case = dataclasses.replace(CASES["moe"], goal_speed=1.4, goal_memory=0.25)
    found = [
        kernels.Measured(form, [1.0], memory, None, ratio, 0.1)
        for form, memory, ratio in (("eager", 100, 1.0), ("compile", 90, 1.25), ("fused", 20, 1.5))
    ]
    told = kernels.verdicts(case, found)
    assert told == ["1.20x the speed of compile, goal 1.4x: not met", "20.0% of eager's memory, goal 25%: met"]


def test_the_report_names_every_form():
    lines = kernels.run_case(small(CASES["info_nce"]), "cpu", torch.bfloat16, ["eager float32", "fused"], 2, 1e9)
    table = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert table == ["form", "eager", "eager float32", "fused"]
    assert "Parity: green." in lines


def test_cuda_without_a_gpu_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        kernels.main(["--device", "cuda"])
    assert "PyTorch sees no GPU" in capsys.readouterr().err
