"""The label-guided contrastive loss against plain loops and against the CLIP loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgraft.losses import label_guided_info_nce

pytestmark = pytest.mark.usefixtures("seeded")
fast = settings(max_examples=40, deadline=None, derandomize=True, database=None)
# float64, sums over at most ten terms.
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def pair(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return tuple(F.normalize(torch.randn(batch, 5, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))


def reference(image: Tensor, text: Tensor, scale: float, labels: Tensor) -> Tensor:
    n = len(image)
    total = torch.zeros((), dtype=image.dtype)
    for anchors, others in ((image, text), (text, image)):
        for i in range(n):
            kept = [j for j in range(n) if i == j or labels[i].tolist() != labels[j].tolist()]
            denominator = sum(torch.exp(scale * anchors[i] @ others[j]) for j in kept)
            total = total - torch.log(torch.exp(scale * anchors[i] @ others[i]) / denominator) / n / 2
    return total


@fast
@given(batch=st.integers(1, 10), classes=st.integers(1, 4), scale=st.floats(0.1, 30), seed=st.integers(0, 2**31))
def test_the_loss_equals_plain_loops(batch, classes, scale, seed):
    image, text = pair(batch, seed)
    labels = torch.randint(0, 2, (batch, classes))
    wanted = reference(image, text, scale, labels)
    torch.testing.assert_close(label_guided_info_nce(image, text, scale, labels), wanted, **EXACT)


@fast
@given(batch=st.integers(1, 10), classes=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_the_gradients_equal_those_of_plain_loops(batch, classes, seed):
    image, text = pair(batch, seed)
    labels = torch.randint(0, 2, (batch, classes))
    wanted = torch.autograd.grad(reference(image, text, 7.0, labels), [image, text])
    got = torch.autograd.grad(label_guided_info_nce(image, text, 7.0, labels), [image, text])
    torch.testing.assert_close(got, wanted, **EXACT)


def test_images_and_texts_may_change_places():
    image, text = pair(6)
    labels = torch.randint(0, 2, (6, 2))
    forward, backward = (label_guided_info_nce(*each, 5.0, labels) for each in ((image, text), (text, image)))
    torch.testing.assert_close(forward, backward, **EXACT)


def test_a_batch_of_one_label_has_no_loss_and_no_gradient():
    image, text = pair(6)
    value = label_guided_info_nce(image, text, 9.0, torch.ones(6, 14))
    value.backward()
    assert value.item() == 0
    assert not image.grad.any() and not text.grad.any()


def test_samples_without_any_finding_are_no_negatives_of_each_other():
    image, text = pair(2)
    assert label_guided_info_nce(image, text, 9.0, torch.zeros(2, 14)).item() == 0


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_without_labels_it_is_the_clip_loss(batch):
    from open_clip import ClipLoss

    image, text = pair(batch)
    torch.testing.assert_close(label_guided_info_nce(image, text, 8.0), ClipLoss()(image, text, 8.0), **EXACT)


def test_labels_that_all_differ_remove_no_pair():
    image, text = pair(5)
    with_labels = label_guided_info_nce(image, text, 8.0, torch.eye(5))
    torch.testing.assert_close(with_labels, label_guided_info_nce(image, text, 8.0), **EXACT)


def test_one_shared_label_removes_exactly_that_pair():
    image, text = pair(3)
    labels = torch.tensor([[1, 0], [1, 0], [0, 1]])
    logits = 4.0 * image @ text.T
    kept = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.float64)
    rows = (torch.exp(logits) * kept).sum(1).log() - logits.diagonal()
    columns = (torch.exp(logits) * kept).sum(0).log() - logits.diagonal()
    wanted = (rows.mean() + columns.mean()) / 2
    torch.testing.assert_close(label_guided_info_nce(image, text, 4.0, labels), wanted, **EXACT)


def test_masked_pairs_give_finite_gradients_to_everything():
    image, text = pair(6)
    scale = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)
    label_guided_info_nce(image, text, scale, torch.tensor([[0], [0], [0], [0], [0], [1]])).backward()
    assert all(each.grad.isfinite().all() and each.grad.any() for each in (image, text, scale))


def test_gradcheck():
    image, text = pair(4)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0], [0], [1], [2]])
    assert torch.autograd.gradcheck(lambda *args: label_guided_info_nce(*args, labels), (image, text, scale))


def test_a_large_scale_does_not_overflow():
    image, text = (each.detach().float() for each in pair(4))
    value = label_guided_info_nce(image, text, 1e4)
    assert math.isfinite(value.item()) and value.item() > 1
