import pytest
import torch
from torch import nn

from medgraft.fast.forms import fast_forms


def weight_gradient(conv: nn.Conv3d, x: torch.Tensor, *, bf16: bool) -> torch.Tensor:
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), fast_forms("cpu", bf16=True):
        y = conv(x)
    y.float().square().sum().backward()
    assert conv.weight.grad is not None
    return conv.weight.grad.clone()


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_weight_gradient_is_right_whatever_the_depth(kernel, depth):
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    x = torch.randn(2, 16, depth, 6, 6)
    wanted = weight_gradient(conv, x, bf16=False)
    found = weight_gradient(conv, x, bf16=True)
    # bf16 keeps 8 bits: a sum of products is right to about a hundredth; the arbitrary gradient is wrong by its size.
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_only_where_the_kernel_is_deeper_than_the_input_is_bf16_given_up():
    conv = nn.Conv3d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16), fast_forms("cpu", bf16=True):
        assert conv(torch.ones(1, 4, 2, 4, 4)).dtype == torch.float32
        assert conv(torch.ones(1, 4, 3, 4, 4)).dtype == torch.bfloat16
        assert conv(torch.ones(1, 4, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32
        assert nn.Conv2d(4, 4, 3, padding=1)(torch.ones(1, 4, 2, 4)).dtype == torch.bfloat16
