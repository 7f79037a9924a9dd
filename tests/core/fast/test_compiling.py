"""A compiled graft keeps the hooks of each block, also where blocks share compiled code."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.encoder import Encoder
from medgraft.encoders.inflate3d import inflate
from medgraft.fast import compiling
from medgraft.fast.compiling import CompiledEncode, compiled, graphs_obstacle
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")


def inflated() -> Encoder:
    return inflate(tiny.fresh("timm"), slices=2, depth_2d=1)


@pytest.mark.parametrize("build", [inflated, lambda: tiny.fresh("timm")], ids=["inflated", "2d"])
def test_blocks_with_and_without_hooks_keep_their_own_numbers(build):
    encoder = build()
    # Its experts are chosen in Python, so the graph breaks inside every block.
    grafted = graft(encoder, build_adapter("conv_lora", {"experts": 2, "depth": "half_up"})).eval()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    (name, tower), *_ = encoder.towers().items()
    x = torch.randn(2, tower.spec.channels, *tower.spec.input_size)
    with torch.no_grad():
        wanted = grafted.encode({name: x})[name]
        torch.compiler.reset()
        found = compiled(grafted.encode, backend="eager")({name: x})[name]
        torch.compiler.reset()
    torch.testing.assert_close(found.tokens, wanted.tokens, rtol=1e-4, atol=1e-5)


def test_hooks_that_change_are_compiled_anew():
    layer = nn.Linear(3, 3)
    run, x = compiled(lambda x: layer(x), backend="eager"), torch.randn(2, 3)
    plain = run(x)
    handle = layer.register_forward_hook(lambda module, args, output: output + 1)
    torch.testing.assert_close(run(x), plain + 1)
    handle.remove()
    torch.testing.assert_close(run(x), plain)


class Fakes:
    """Stand-ins for a GPU and for the compiler, which note how they are asked."""

    def __init__(self, monkeypatch, fails: str = "") -> None:
        self.options: list[dict[str, object]] = []
        self.steps = 0
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        monkeypatch.setattr(compiling, "compiled", self.compile)
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.mark)
        self.fails = fails

    def compile(self, function, **options):
        self.options.append(options)

        def run(x):
            if self.fails and "mode" in options:
                raise RuntimeError(self.fails)
            return function(x)

        return run

    def mark(self) -> None:
        self.steps += 1


def test_on_a_gpu_a_graft_is_recorded_and_what_is_kept_is_copied(monkeypatch):
    fakes, memory = Fakes(monkeypatch), torch.zeros(2)

    def encode(x):
        return {"image": memory.copy_(x)}  # as a graph does: every run writes to the same place

    run = CompiledEncode(encode, "cuda")
    assert fakes.options == [{"dynamic": True, "mode": "reduce-overhead"}] and run.reason == ""
    with torch.no_grad():
        first, second = run(torch.ones(2))["image"], run(torch.full((2,), 2.0))["image"]
    assert first.tolist() == [1, 1] and second.tolist() == [2, 2]
    assert fakes.steps == 2
    assert run(torch.ones(2))["image"] is memory and fakes.steps == 2  # in training the step says when it begins


def test_what_cannot_be_recorded_runs_without_graphs_and_says_why(monkeypatch, caplog):
    fakes = Fakes(monkeypatch, fails="CUDA graph capture failed\nmore of it")
    run = CompiledEncode(lambda x: x + 1, "cuda")
    assert run(torch.zeros(1)).item() == 1
    assert run.reason == "recording a CUDA graph failed: CUDA graph capture failed"
    assert run.reason in caplog.text and fakes.options[-1] == {"dynamic": True}
    run.begin_step()
    assert fakes.steps == 0


def test_other_errors_are_not_taken_for_one_of_recording(monkeypatch):
    Fakes(monkeypatch, fails="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        CompiledEncode(lambda x: x, "cuda")(torch.zeros(1))


def test_a_cpu_and_an_old_gpu_have_no_graphs(monkeypatch):
    assert graphs_obstacle("cpu") == "device cpu has no CUDA graphs"
    Fakes(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 1))
    assert "6.1" in (graphs_obstacle("cuda") or "")
    assert CompiledEncode(lambda x: x, "cuda").reason
