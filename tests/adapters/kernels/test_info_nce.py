"""The label-guided InfoNCE operation on a CPU: the numbers, the registration, the memory, the choice of form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda, reason_on_a_gpu, relative
from torch.func import vmap

from medgraft.adapters.kernels.info_nce.op import (
    info_nce_backward,
    info_nce_forward,
    label_ids,
    label_info_nce,
)
from medgraft.benchmarks.measure.costs import peak_allocation
from medgraft.errors import ConfigError
from medgraft.losses import label_guided_info_nce
from medgraft.ops import backends


def batch(n: int, c: int, dtype: torch.dtype = torch.float64, n_labels: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    image, text = (
        F.normalize(torch.randn(n, c, generator=generator, dtype=torch.float64), dim=-1).to(dtype).requires_grad_()
        for _ in range(2)
    )
    return image, text, torch.randint(0, 2, (n, n_labels), generator=generator)


def gradients(loss, *inputs):
    return loss.detach(), *torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("scale", [1.0, 14.3, 39.0, 100.0, -5.0, 0.0])
@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_equal_to_the_reference_in_float64(n, scale):
    image, text, labels = batch(n, 12)
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    got = gradients(label_info_nce(image, text, factor, labels, backend="fused"), image, text, factor)
    exact = gradients(label_guided_info_nce(image, text, factor, labels), image, text, factor)
    for mine, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.floats(0.1, 60.0), st.integers(0, 9))
def test_equal_to_the_reference_for_any_shape(n, c, n_labels, scale, seed):
    image, text, labels = batch(n, c, n_labels=n_labels, seed=seed)
    got = gradients(label_info_nce(image, text, scale, labels, backend="fused"), image, text)
    exact = gradients(label_guided_info_nce(image, text, scale, labels), image, text)
    for mine, expected in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_bfloat16_stays_within_its_precision(scale):
    image, text, labels = batch(600, 64, torch.bfloat16)
    got = gradients(label_info_nce(image, text, scale, labels, backend="fused"), image, text)
    wide = [x.detach().double().requires_grad_() for x in (image, text)]
    exact = gradients(label_guided_info_nce(*wide, scale, labels), *wide)
    assert got[0].dtype == torch.float32 and got[1].dtype == torch.bfloat16
    assert abs(got[0].item() - exact[0].item()) < 5e-3 * exact[0].item()
    assert max(relative(mine, expected) for mine, expected in zip(got[1:], exact[1:], strict=True)) < 0.02


def test_without_labels_it_is_the_clip_loss():
    image, text, _ = batch(30, 8)
    logits, target = 7 * image @ text.T, torch.arange(30)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(label_info_nce(image, text, 7.0, backend="fused"), expected)


def test_an_unknown_label_equals_no_other():
    labels = torch.tensor([[1.0, float("nan")], [1.0, float("nan")], [0.0, 1.0], [-0.0, 1.0]])
    ids = label_ids(labels)
    assert ids[2] == ids[3] and len(set(ids.tolist())) == 3
    image, text, _ = batch(4, 5)
    torch.testing.assert_close(
        label_info_nce(image, text, 3.0, labels, backend="fused"), label_guided_info_nce(image, text, 3.0, labels)
    )


def test_strided_embeddings():
    image, text, labels = batch(40, 16)
    got = label_info_nce(image[:, ::2], text.T.contiguous().T[:, ::2], 4.0, labels, backend="fused")
    torch.testing.assert_close(got, label_guided_info_nce(image[:, ::2], text[:, ::2], 4.0, labels))


@pytest.mark.parametrize("scale", [5.0, 90.0])
def test_registration(scale):
    image, text, labels = batch(6, 4)
    factor, ids = torch.tensor(scale, dtype=torch.float64, requires_grad=True), label_ids(labels)
    check_registration(info_nce_forward, (image, text, factor, ids))
    loss, rows, columns = (x.detach() for x in info_nce_forward(image, text, factor, ids))
    plain = image.detach(), text.detach(), factor.detach()
    check_registration(info_nce_backward, (torch.ones_like(loss), *plain, ids, rows, columns))
    check_registration(label_ids, (labels,))
    assert torch.autograd.gradcheck(lambda i, t, s: info_nce_forward(i, t, s, ids)[0], (image, text, factor))


def test_compiles_into_one_graph():
    image, text, labels = batch(9, 4)
    factor = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    check_compiles(lambda i, t, s: label_info_nce(i, t, s, labels, backend="fused") * 2, image, text, factor)


def test_vmap_over_adapters():
    image, text, labels = batch(8, 4)
    many = torch.stack([image.detach() * k for k in (1.0, 0.5, 2.0)]).requires_grad_()
    losses = vmap(lambda i: label_info_nce(i, text.detach(), 3.0, labels, backend="fused"))(many)
    got = torch.autograd.grad(losses.sum(), many)[0]
    exact = torch.stack([label_guided_info_nce(each, text.detach(), 3.0, labels) for each in many])
    torch.testing.assert_close(losses, exact)
    torch.testing.assert_close(got, torch.autograd.grad(exact.sum(), many)[0])


def test_fake_cuda_tensors():
    image, text, labels = batch(8, 4, torch.bfloat16)
    loss, rows, _ = fake_cuda(info_nce_forward, image, text, torch.tensor(1.0), label_ids(labels))
    assert loss.device.type == "cuda" and loss.dtype == torch.float32 and rows.shape == (8,)


def test_memory_is_a_small_part_of_the_matrix():
    n = 3000
    image, text, labels = batch(n, 32, torch.float32)
    peaks = {}
    for backend in ("eager", "fused"):
        peaks[backend] = peak_allocation(
            lambda b=backend: label_info_nce(image, text, 9.0, labels, backend=b).backward()
        )
    assert peaks["eager"] > n * n * 4
    assert peaks["fused"] < 0.25 * peaks["eager"]


def test_the_choice_is_recorded_and_never_silent():
    image, text, labels = batch(5, 4)
    with backends.recording() as record:
        label_info_nce(image, text, 1.0, labels, backend="fused")
        label_info_nce(image, text, 1.0, labels, backend="eager")
        with pytest.warns(backends.FusedFallbackWarning, match="batch is empty"):
            label_info_nce(image[:0], text[:0], 1.0, backend="fused")
    told = record.summary()["info_nce"]
    assert {(use["form"], use["asked"], use["reason"]) for use in told} == {
        ("fused", "fused", ""), ("eager", "eager", ""), ("eager", "fused", "the batch is empty")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "text", "labels"), [((3, 4), (4, 4), None), ((3, 4), (3, 5), None), ((3, 4), (3, 4), (2, 1))]
)
def test_shapes_that_disagree_are_named(image, text, labels):
    with pytest.raises(ConfigError, match=r"\(3, 4\)"):
        label_info_nce(torch.ones(image), torch.ones(text), 1.0, None if labels is None else torch.ones(labels))


@pytest.mark.parametrize(
    ("width", "told"), [(64, ""), (72, "width 72 is not a multiple of 16; "), (1040, "embeddings")]
)
def test_a_width_that_spills_falls_back_on_a_gpu(width, told):
    image, text, _ = batch(8, width, torch.bfloat16)
    reason = reason_on_a_gpu("info_nce", label_info_nce, image.detach(), text.detach(), 3.0)
    assert reason.startswith(told.removesuffix("; ")) and bool(reason) is bool(told)
