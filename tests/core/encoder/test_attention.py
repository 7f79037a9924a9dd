import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.encoder.attention import attend, fast_attention


def draw(seed: int, B: int, heads: int, N: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, B, N, heads, width, generator=generator).to(dtype).transpose(2, 3)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    B=st.integers(1, 3),
    heads=st.integers(1, 3),
    N=st.integers(1, 9),
    masked=st.sampled_from(["none", "boolean", "additive"]),
    autocast=st.booleans(),
)
def test_bf16_on_a_cpu_equals_the_fp32_attention(
    seed: int, B: int, heads: int, N: int, masked: str, autocast: bool
) -> None:
    q, k, v = draw(seed, B, heads, N, 8, torch.bfloat16)
    bias = None
    if masked != "none":
        seen = torch.rand(B, 1, 1, N, generator=torch.Generator().manual_seed(seed)) > 0.4
        seen[..., 0] = True
        bias = seen if masked == "boolean" else torch.zeros(seen.shape).masked_fill(~seen, -1e4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mixed = attend(q, k, v, bias)
    grads = torch.autograd.grad(mixed.float().square().sum(), (q, k, v))

    reference = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*reference, attn_mask=bias)
    wanted = torch.autograd.grad(expected.square().sum(), reference)

    assert mixed.dtype == torch.bfloat16
    # bf16 holds 8 bits: 2^-8 relative per rounding, a handful of roundings.
    torch.testing.assert_close(mixed.float(), expected, rtol=0.04, atol=0.04)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got.float(), want, rtol=0.08, atol=0.08)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_are_the_librarys_own_attention(dtype: torch.dtype) -> None:
    q, k, v = draw(0, 2, 3, 7, 8, dtype)
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 8**-0.5}, {"scale": 0.1}, {"attn_mask": "boolean"}, {"positional": True}],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_librarys_call_keeps_its_meaning(options: dict, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(1, 2, 3, 7, 8, dtype)
    seen = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(3)) > 0.3
    seen[..., 0] = True
    positional = (seen,) if options.get("positional") else ()
    named = {key: seen if value == "boolean" else value for key, value in options.items() if key != "positional"}
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), *positional, **named)
    taken = []
    monkeypatch.setattr("medgraft.encoder.attention.attend", lambda *args: taken.append(1) or attend(*args))
    found = fast_attention(q, k, v, *positional, **named)
    torch.testing.assert_close(found.float(), expected, rtol=0.04, atol=0.04)
    assert bool(taken) == (options not in ({"is_causal": True}, {"scale": 0.1}))


def test_grouped_heads_are_left_to_the_library() -> None:
    q, k, v = draw(2, 1, 4, 5, 8, torch.bfloat16)
    found = fast_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
    assert torch.equal(found, F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True))


def test_a_mask_that_hides_everything_gives_nothing() -> None:
    q, k, v = (x.requires_grad_() for x in draw(3, 2, 3, 5, 8, torch.bfloat16))
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    seen[0, 0, 2] = False
    for mask in (seen, torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))):
        found = attend(q, k, v, mask)
        assert not found[0, :, 2].any()
        expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=seen)
        torch.testing.assert_close(found.float(), expected, rtol=0.04, atol=0.04)
        assert all(x.isfinite().all() for x in torch.autograd.grad(found.float().sum(), (q, k, v)))


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -1e38])
def test_a_wide_mask_whose_lowest_number_bf16_cannot_hold_gives_no_nan(lowest: float) -> None:
    q, k, v = (x.requires_grad_() for x in draw(3, 2, 3, 5, 8, torch.bfloat16))
    seen = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    seen[..., 0] = True
    seen[0, 0, 2] = False  # nothing is left there, so all tokens count the same
    bias = torch.zeros(seen.shape).masked_fill(~seen, lowest)
    found = attend(q, k, v, bias)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias)
    torch.testing.assert_close(found.float(), expected, rtol=0.04, atol=0.04)
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.float().sum(), (q, k, v)))


@pytest.mark.parametrize(
    ("of_q", "of_k", "of_v"),
    [
        ((1, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8)),
        ((2, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 4)),
        ((0, 3, 5, 8), (0, 3, 5, 8), (0, 3, 5, 8)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"scale": 8**-0.5}])
def test_unusual_shapes_are_left_to_the_library(of_q, of_k, of_v, options) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in (of_q, of_k, of_v))
    assert torch.equal(fast_attention(q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options))
