"""The label-guided InfoNCE kernels against float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided, turned

from medgraft.adapters.kernels.info_nce.op import label_ids, reference
from medgraft.adapters.kernels.info_nce.triton import (
    backward_traffic,
    forward_traffic,
    launch_backward,
    launch_forward,
)
from medgraft.ops.triton_runtime import Tile

LSE = Tile({"BM": 32, "BN": 32, "BC": 32})
GRAD = Tile({"BM": 32, "BN": 32, "BC": 32, "BO": 32})


def batch(n: int, c: int, dtype: torch.dtype, n_labels: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        F.normalize(torch.randn(n, c, generator=generator, dtype=torch.float64), dim=-1).to(dtype) for _ in range(2)
    )
    return image, text, torch.randint(0, 2, (n, n_labels), generator=generator)


def check(image, text, scale, labels):
    wide = [x.detach().double().requires_grad_() for x in (image, text, torch.tensor(scale))]
    expected = reference(*wide, labels)
    gradients = torch.autograd.grad(expected * 1.7, wide)
    factor, ids = torch.tensor(scale), label_ids(labels)
    with poisoned():
        loss, rows, columns = launch_forward(image, text, factor, ids, LSE)
        got = launch_backward(torch.tensor(1.7), image, text, factor, ids, rows, columns, GRAD)
    assert abs(loss.item() - expected.item()) <= 1e-4 * max(1.0, abs(expected.item()))
    # A batch in which hardly any pair is left has gradients of rounding size, which have no relative error to speak of.
    for name, mine, exact in zip(("image", "text", "scale"), got, gradients, strict=True):
        if exact.norm() > 1e-3:
            assert_close(mine, exact, f"gradient of {name}", factor=12, dtype=image.dtype)
        else:
            assert (mine.double() - exact).abs().max() < 1e-3


@DTYPES
def test_forward_and_backward(dtype):
    image, text, labels = batch(70, 40, dtype)
    check(image, text, 10.0, labels)


@DTYPES
def test_strided_embeddings(dtype):
    image, text, labels = batch(33, 20, dtype)
    check(strided(image), turned(text), 14.0, labels)


def test_large_logits_do_not_overflow():
    image, text, labels = batch(40, 16, torch.float32)
    check(image, text, 100.0, labels)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 67), st.integers(1, 50), st.integers(1, 4), st.floats(0.5, 30.0), st.sampled_from(KINDS))
def test_any_shape(n, c, n_labels, scale, dtype):
    image, text, labels = batch(n, c, dtype, n_labels)
    check(image, text, scale, labels)


def test_equal_labels_everywhere_give_zero():
    image, text, _ = batch(37, 16, torch.float32)
    ids = torch.zeros(37, dtype=torch.int32)
    with poisoned():
        loss, rows, columns = launch_forward(image, text, torch.tensor(5.0), ids, LSE)
        got = launch_backward(torch.tensor(1.0), image, text, torch.tensor(5.0), ids, rows, columns, GRAD)
    assert abs(loss.item()) < 1e-5
    assert all(part.abs().max() < 1e-5 for part in got)


@DTYPES
def test_traffic_is_what_the_formula_says(dtype):
    image, text, labels = batch(70, 40, dtype)
    scale, ids = torch.tensor(10.0), label_ids(labels)
    with counting() as forward:
        _, rows, columns = launch_forward(image, text, scale, ids, LSE)
    assert (forward.loaded, forward.stored) == forward_traffic(70, 40, image.itemsize, LSE)
    with counting() as backward:
        launch_backward(torch.tensor(1.0), image, text, scale, ids, rows, columns, GRAD)
    assert (backward.loaded, backward.stored) == backward_traffic(70, 40, image.itemsize, GRAD)
