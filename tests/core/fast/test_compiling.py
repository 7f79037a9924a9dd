"""A compiled graft keeps the hooks of each block, also where blocks share compiled code."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.encoder import Encoder
from medgraft.encoders.inflate3d import inflate
from medgraft.fast.compiling import compiled
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
