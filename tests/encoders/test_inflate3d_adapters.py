"""What the sweep over all adapters leaves out: peft's methods, text that reads an inflated volume, a compiled graft."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import Tensor

from medgraft.benchmarks.measure.costs import forward_flops
from medgraft.encoder import Encoder
from medgraft.encoders.inflate3d import inflate
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def volumes(encoder: Encoder, batch: int = 2) -> Tensor:
    spec = encoder.towers()["volume"].spec
    return torch.randn(batch, spec.channels, *spec.input_size)


def pooled(grafted: Grafted, inputs: dict[str, Tensor], name: str) -> Tensor:
    return grafted.encode(inputs)[name].pooled


@pytest.mark.parametrize("method", ["peft:lora", "peft:ia3"])
def test_pefts_methods_train_on_an_inflated_encoder_and_leave_it_as_it_was(method):
    tower = inflate(tiny.fresh("timm"), slices=2, depth_2d=1)
    x = volumes(tower)
    with torch.no_grad():
        before = tower(x).tokens
    grafted = graft(tower, method).train()
    out = pooled(grafted, {"volume": x}, "volume")
    (out * torch.linspace(-1, 2, out.shape[1])).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in grafted.trainable_parameters())
    grafted.ungraft()
    with torch.no_grad():
        assert torch.equal(tower(x).tokens, before)


def test_a_run_leaves_no_trace_in_the_encoder():
    tower = inflate(tiny.fresh("timm"), slices=2)
    before = {name: set(vars(module)) for name, module in tower.named_modules()}
    with torch.no_grad():
        tower(volumes(tower))
    assert {name: set(vars(module)) for name, module in tower.named_modules()} == before


def test_text_attends_to_an_inflated_volume_and_to_its_own_only():
    encoder = inflate(tiny.fresh("chest"), slices=2, depth_2d=1)
    x, words = volumes(encoder), torch.tensor([[1, 3, 4, 0], [1, 3, 4, 0]])
    grafted = graft(encoder, "gated_xattn").eval()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        first = pooled(grafted, {"volume": x, "text": words}, "text")
        x[1] = torch.randn_like(x[1])
        second = pooled(grafted, {"volume": x, "text": words}, "text")
    torch.testing.assert_close(second[0], first[0])
    assert not torch.allclose(second[1], first[1])


def test_a_resampler_on_an_inflated_encoder_has_its_operations_counted():
    tower = inflate(tiny.fresh("timm"), slices=2)
    x = volumes(tower)
    grafted = graft(tower, "perceiver_resampler").eval()
    assert forward_flops(lambda: grafted.encode({"volume": x}), 2) > 0


def test_a_compiled_graft_on_an_inflated_encoder_gives_the_same_numbers():
    tower = inflate(tiny.fresh("timm"), slices=2, depth_2d=1)
    x = volumes(tower)
    grafted = graft(tower, "lora").eval()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wanted = pooled(grafted, {"volume": x}, "volume")
        # The graph is what is asked here, not the code that a compiler writes for it.
        found = torch.compile(grafted.encode, backend="eager", dynamic=True)({"volume": x}, {})["volume"].pooled
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
