"""The kernel benchmark on its small shapes: every form agrees, a red gate hides the fused number."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.kernels import command as kernels
from medgraft.benchmarks.kernels import floors as kernel_floors
from medgraft.benchmarks.kernels.cases import CASES
from medgraft.benchmarks.kernels.peers import Peer
from medgraft.benchmarks.kernels.results import read_operations, section, store
from medgraft.benchmarks.results.result_files import OPERATION_SUFFIX
from medgraft.ops import backends


def small(case):
    return dataclasses.replace(case, build=lambda device, dtype, form, _: case.build(device, dtype, form, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(CASES))
def test_parity_is_green(name, dtype):
    assert kernels.parity(small(CASES[name]), "cpu", dtype) == []


PEERS = [(name, peer) for name, case in CASES.items() for peer in case.peers if not case.peers[peer].cuda_only]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "peer"), PEERS)
def test_a_peer_runs_both_ways_and_agrees_where_it_computes_the_same(name, peer, dtype):
    case = CASES[name]
    exact = case.build("cpu", torch.float64, "eager", True)()
    made = case.peers[peer].gather(case.build("cpu", dtype, peer, True)())
    assert [part.shape for part in made] == [part.shape for part in exact]
    assert all(part.isfinite().all() for part in made)
    if not case.peers[peer].differs:
        assert kernels.differing(case, made, exact, dtype) == []
    elif dtype == torch.float32:
        assert kernels.differing(case, made, exact, dtype), "it may stand in the gate and say nothing"


def test_every_operation_with_a_rival_library_has_its_peers():
    assert {name: list(case.peers) for name, case in CASES.items() if case.peers} == {
        "info_nce": ["published", "open_clip without labels", "liger without labels"],
        "info_nce_8192": ["published", "open_clip without labels", "liger without labels"],
        "hypergraph": ["torch_geometric"],
        "packed_lora": ["peft"],
        "moe": ["transformers grouped_mm", "transformers batched_mm"],
    }


def test_liger_gets_both_directions_of_the_clip_loss(monkeypatch):
    # In Liger's place the plain form of its signature: without a GPU its kernels do not run.
    class PlainLoss:
        def __call__(self, weight, embeddings, target):
            return F.cross_entropy(F.linear(embeddings, weight), target)

    module = types.SimpleNamespace(LigerFusedLinearCrossEntropyLoss=PlainLoss)
    monkeypatch.setitem(sys.modules, "liger_kernel", types.SimpleNamespace(transformers=module))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    case = CASES["info_nce"]
    liger, open_clip = (
        case.build("cpu", torch.float64, f"{name} without labels", True)() for name in ("liger", "open_clip")
    )
    for got, expected in zip(liger, open_clip, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_peer_without_its_library_is_left_out_and_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    liger = CASES["info_nce"].peers["liger without labels"]
    assert liger.obstacle("cuda") == "liger_kernel is not installed; pip install liger-kernel"
    result = kernels.run_case(small(CASES["info_nce"]), "cpu", torch.float32, ["fused", "peer"], 1, 1e9)
    assert [each.form for each in result.forms] == ["eager", "fused", "peer published"]
    assert result.verdicts[-2:] == [
        "peer open_clip without labels is left out: open_clip is not installed; pip install open_clip_torch",
        "peer liger without labels is left out: it runs on cuda alone, not on cpu",
    ]


def test_a_peer_that_is_wrong_or_raises_is_left_out_and_named():
    case = small(CASES["moe"])

    def build(device, dtype, form, _):
        if form == "transformers batched_mm":
            raise TypeError("no such form")
        step = case.build(device, dtype, form, True)
        if form not in case.peers:
            return step
        return lambda: tuple(part * 1.5 for part in step())

    steps, told = kernels.peers_of(dataclasses.replace(case, build=build), "cpu", torch.float32)
    assert steps == {}
    assert told[0].startswith("peer transformers grouped_mm is left out: y differs from float64 by 5.0e-01")
    assert told[1] == "peer transformers batched_mm is left out: it raises TypeError: no such form"


def test_the_report_tells_all_peers_and_the_fastest(tmp_path):
    result = kernels.run_case(small(CASES["info_nce"]), "cpu", torch.float32, ["fused", "peer"], 1, 1e9)
    assert read_operations([store(result, tmp_path).parent]) == [result]
    peers = [each for each in result.forms if each.form.startswith("peer ")]
    assert [each.form for each in peers] == ["peer published", "peer open_clip without labels"]
    fastest = max(peers, key=lambda each: each.ratio).form.removeprefix("peer ")
    lines = kernels.report(result)
    assert any(line.endswith(f"x the speed of the fastest peer, {fastest}") for line in lines)
    assert any(
        "peer open_clip without labels is another function, outside of the parity gate" in line for line in lines
    )


def test_a_goal_against_peers_is_judged_by_the_fastest_of_the_same_function():
    peers = {name: Peer(lambda: None, differs=differs) for name, differs in (("a", ""), ("b", ""), ("c", "other"))}
    case = dataclasses.replace(CASES["hypergraph"], peers=peers, goal_speed=1.8)
    ratios = (("eager", 1.0), ("fused", 3.0), ("peer a", 0.5), ("peer b", 1.5), ("peer c", 2.0))
    found = [kernels.Measured(form, [1.0], None, None, ratio, 0.1) for form, ratio in ratios]
    assert kernels.verdicts(case, found, 10) == ["2.00x the speed of peer b, goal 1.8x: met"]


def test_pytest_benchmark_and_the_fallback_give_the_same_statistics(monkeypatch):
    pytest.importorskip("pytest_benchmark")
    seconds = [0.004, 0.001, 0.003, 0.002, 0.009]
    found = kernels.statistics_of(seconds)
    monkeypatch.setitem(sys.modules, "pytest_benchmark.stats", None)
    assert kernels.statistics_of(seconds) == found == pytest.approx((3.0, 2.0, 4.0))


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


def test_a_fused_form_that_fell_back_turns_the_gate_red():
    case = small(CASES["moe"])

    def build(device, dtype, form, _):
        def step():
            if form == "fused":
                backends.choose("moe", "auto", "too wide")
            return case.build(device, dtype, "eager", True)()

        return step

    wrong = kernels.parity(dataclasses.replace(case, build=build), "cpu", torch.float32)
    assert wrong == ["moe ran in eager mode: too wide"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_small_shapes_reach_the_kernels_of_a_gpu(name, monkeypatch):
    """Or the gate would hold eager mode against itself."""
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: ())  # fake tensors of a missing GPU have no backward
    with FakeTensorMode(), backends.recording() as record:
        CASES[name].build("cuda", torch.bfloat16, "fused", True)()
    assert {each.used for each in record.choices} == {"fused"}


def test_memory_of_a_form_on_a_gpu_leaves_out_what_the_forms_before_it_held(monkeypatch):
    pool, steps = [0], {form: (lambda: None) for form in ("eager", "fused")}

    def peak(step, device):
        assert device == "cuda"
        pool[0] += 10
        return 1

    monkeypatch.setattr(kernels, "peak_allocation", peak)
    monkeypatch.setattr(kernels, "one_run", lambda step, device: 1.0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pool.__setitem__(0, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: pool[0])
    found = kernels.measure(CASES["moe"], steps, "cuda", 1, 1.0)
    assert [each.reserved for each in found] == [10, 10]


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
def test_products_run_in_every_type(dtype, monkeypatch):
    monkeypatch.setattr("medgraft.fast.linear.has_onednn", lambda: False)  # the counter does not know its operator
    for step in (
        kernel_floors.info_nce("cpu", dtype, N=10, C=4, rows=3),
        kernel_floors.perceiver("cpu", dtype, L=2, heads=2, B=1, C=8),
        kernel_floors.moe("cpu", dtype, T=12, D=6, h=4, E=3),
    ):
        with FlopCounterMode(display=False) as counter:
            step()
        assert counter.get_total_flops() > 0


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
    text = markdown([], BoardOptions("x", found))
    (row,) = [line for line in text.splitlines() if line.startswith("| moe")]
    assert "## Operations" in text and result.machine in text and f"{result.forms[1].ratio:.2f}" in row
    assert "Operations" not in markdown([], BoardOptions("x", []))


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
