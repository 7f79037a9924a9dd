"""The losses of one space around an anchor, against plain loops in double precision, and as properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_ranks
from torch import Tensor

from medgraft.anchored_losses import (
    AnchoredLoss,
    Temperature,
    Weights,
    cross_correlation,
    near_duplicates,
    pair_info_nce,
    specific_info_nce,
    split_parts,
)
from medgraft.errors import ConfigError
from medgraft.losses import label_guided_info_nce
from medgraft.world import World

EXACT: Any = {"rel": 1e-9, "abs": 1e-9}
NAMES = ("t1", "pet", "dmri")


def grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


quick = settings(max_examples=25, deadline=None)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def pair_by_hand(first, second, scale, subjects, same_subject="positive", ignored=None):
    """The formula, one positive at a time."""
    total, n = 0.0, len(first)
    for rows, columns, flip in ((first, second, False), (second, first, True)):
        for i in range(n):
            mine = [j for j in range(n) if subjects[j] == subjects[i]] if same_subject == "positive" else [i]
            rest = [j for j in range(n) if subjects[j] != subjects[i]]
            if ignored is not None:
                rest = [j for j in rest if not (ignored[j][i] if flip else ignored[i][j])]
            others = sum(math.exp(scale * cosine(rows[i], columns[j])) for j in rest)
            for j in mine:
                hit = math.exp(scale * cosine(rows[i], columns[j]))
                total -= math.log(hit / (hit + others)) / len(mine)
    return total / n / 2


def correlation_by_hand(common, specific):
    def standard(column):
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / len(column))
        return [(x - mean) / deviation for x in column]

    cs, us = ([standard(column) for column in zip(*rows, strict=True)] for rows in (common, specific))
    return sum((sum(a * b for a, b in zip(c, u, strict=True)) / len(common)) ** 2 for c in cs for u in us)


@pytest.mark.parametrize("same_subject", ["positive", "masked"])
@pytest.mark.parametrize("subjects", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 0], [3, 3, 3, 3, 1]])
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_pairs_are_the_formula(subjects, scale, same_subject):
    first, second = numbers(5, 4), numbers(5, 4, seed=1)
    loss = pair_info_nce(first, second, scale, torch.tensor(subjects), same_subject=same_subject)
    expected = pair_by_hand(first.tolist(), second.tolist(), scale, subjects, same_subject)
    assert loss.item() == pytest.approx(expected, **EXACT)


def test_near_duplicates_leave_the_negatives():
    first, second, subjects = numbers(6, 3), numbers(6, 3, seed=1), [0, 1, 2, 3, 4, 5]
    ignored = near_duplicates(first, 0.3)
    assert 6 < int(ignored.sum()) < 36
    loss = pair_info_nce(first, second, 5.0, torch.tensor(subjects), ignored=ignored)
    expected = pair_by_hand(first.tolist(), second.tolist(), 5.0, subjects, ignored=ignored.tolist())
    assert loss.item() == pytest.approx(expected, **EXACT)
    assert loss < pair_info_nce(first, second, 5.0)


def test_of_one_visit_each_it_is_the_clip_loss():
    first, second = (torch.nn.functional.normalize(numbers(7, 5, seed=seed), dim=1) for seed in (0, 1))
    plain = label_guided_info_nce(first, second, 9.0)
    assert pair_info_nce(first, second, 9.0).item() == pytest.approx(plain.item(), **EXACT)
    masked = pair_info_nce(first, second, 9.0, torch.arange(7) // 2, same_subject="masked")
    guided = label_guided_info_nce(first, second, 9.0, (torch.arange(7) // 2)[:, None])
    assert masked.item() == pytest.approx(guided.item(), **EXACT)


@pytest.mark.parametrize(("samples", "common", "specific"), [(2, 1, 1), (5, 3, 2), (9, 2, 4)])
def test_decorrelation_is_the_formula(samples, common, specific):
    c, u = 3 + 2 * numbers(samples, common), numbers(samples, specific, seed=1)
    expected = correlation_by_hand(c.tolist(), u.tolist())
    assert cross_correlation(c, u).item() == pytest.approx(expected, **EXACT)
    assert cross_correlation(5 * c - 1, u / 7).item() == pytest.approx(expected, **EXACT)


def test_the_sum_is_the_sum_of_its_terms_over_modalities():
    z, again, has, subjects, scale = batch(8)
    terms = AnchoredLoss("t1")(z, scale, subjects, has, again)
    common = specific = apart = 0.0
    for name in NAMES:
        here = has[name]
        c, u = z[name][here, :6], z[name][here, 6:]
        apart += correlation_by_hand(c.tolist(), u.tolist())
        mine = subjects[here].tolist()
        specific += pair_by_hand(u.tolist(), again[name][here, 6:].tolist(), scale, mine, "masked")
        if name != "t1":
            both = here & has["t1"]
            anchor, other = (z[each][both, :6].tolist() for each in ("t1", name))
            common += pair_by_hand(anchor, other, scale, subjects[both].tolist())
    for term, expected in zip((terms.common, terms.specific, terms.orthogonal), (common, specific, apart), strict=True):
        assert term.item() == pytest.approx(expected, **EXACT)
    assert terms.total.item() == pytest.approx(common + 0.5 * specific + 0.05 * apart, **EXACT)


def batch(count: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor, float]:
    """Embeddings of two views, who has what, subjects (some with two visits), a multiplier."""
    generator = torch.Generator().manual_seed(seed)
    z = {name: numbers(count, 8, seed=seed + i) for i, name in enumerate(NAMES)}
    again = {name: rows + 0.3 * numbers(count, 8, seed=seed + 9) for name, rows in z.items()}
    has = {name: torch.rand(count, generator=generator) < 0.7 for name in NAMES}
    has["t1"][:] = True
    return z, again, has, torch.randint(0, 1 + count // 2, (count,), generator=generator), 5.0


@quick
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9))
def test_the_order_of_a_batch_does_not_matter(seed, count):
    z, again, has, subjects, scale = batch(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    loss = AnchoredLoss("t1", near=0.6)
    moved = [{name: rows[order] for name, rows in each.items()} for each in (z, has, again)]
    assert torch.allclose(
        loss(moved[0], scale, subjects[order], moved[1], moved[2]).total,
        loss(z, scale, subjects, has, again).total,
        rtol=1e-10,
        atol=1e-10,
    )


@quick
@given(seed=st.integers(0, 10_000), same=st.sampled_from(["positive", "masked"]))
def test_what_is_missing_contributes_nothing(seed, same):
    z, again, has, subjects, scale = batch(7, seed)
    loss = AnchoredLoss("t1", same_subject=same)
    leaves = {name: rows.clone().requires_grad_() for name, rows in z.items()}
    terms = loss(leaves, scale, subjects, has, again)
    terms.total.backward()
    for name in NAMES:
        assert not grad(leaves[name])[~has[name]].any() and torch.isfinite(grad(leaves[name])).all()
    filled = {name: torch.where(has[name][:, None], rows, 1e3) for name, rows in z.items()}
    assert loss(filled, scale, subjects, has, again).total == terms.total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(seed):
    z, again, has, subjects, _ = batch(4, seed)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def total(scale: Tensor, *rows: Tensor) -> Tensor:
        return AnchoredLoss("t1")(dict(zip(NAMES, rows, strict=True)), scale, subjects, has, again).total

    leaves = tuple(rows.clone().requires_grad_() for rows in z.values())
    assert torch.autograd.gradcheck(total, (scale, *leaves), atol=1e-6, rtol=1e-5, fast_mode=True)


@quick
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 50))
def test_other_visits_of_a_subject_push_nothing_away(seed, factor):
    """The second visit's partner may lie anywhere: what the first visit loses does not change."""
    first, second = numbers(4, 3, seed=seed), numbers(4, 3, seed=seed + 1)
    subjects = torch.tensor([0, 0, 1, 2])
    row = first.clone().requires_grad_()
    pair_info_nce(row, second, factor, subjects, same_subject="masked").backward()
    before = grad(row)[0].clone()
    moved = second.clone()
    moved[1] = -second[1]
    row.grad = None
    pair_info_nce(row, moved, factor, subjects, same_subject="masked").backward()
    assert torch.allclose(grad(row)[0], before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("same", ["positive", "masked"])
def test_one_subject_alone_has_a_loss_of_zero_and_no_gradient(count, same):
    z = {name: numbers(count, 8, seed=i).requires_grad_() for i, name in enumerate(NAMES)}
    loss = AnchoredLoss("t1", weights=Weights(orthogonal=0.0), same_subject=same)
    terms = loss(z, 14.0, torch.zeros(count, dtype=torch.int64), again={n: rows * 2 for n, rows in z.items()})
    terms.total.backward()
    assert terms.common == 0 and terms.specific == 0
    assert all(not grad(rows).any() for rows in z.values())


def test_columns_that_do_not_vary_correlate_with_nothing():
    c = torch.full((5, 2), 3.3, dtype=torch.float64).requires_grad_()
    loss = cross_correlation(c, numbers(5, 3))
    loss.backward()
    assert loss == 0 and torch.isfinite(grad(c)).all()


def test_only_the_anchor_is_paired_unless_all_are():
    z, _, _, subjects, scale = batch(6)
    subjects = torch.arange(6)
    few, every = (AnchoredLoss("t1", pairs=pairs) for pairs in ("anchor", "all"))
    extra = pair_info_nce(z["pet"][:, :6], z["dmri"][:, :6], scale, subjects)
    difference = every(z, scale, subjects).common - few(z, scale, subjects).common
    assert difference.item() == pytest.approx(extra.item(), **EXACT)
    assert every.pairs_of(NAMES) == [("t1", "pet"), ("t1", "dmri"), ("pet", "dmri")]


def test_a_share_of_one_is_plain_info_nce():
    z, again, has, subjects, scale = batch(6)
    terms = AnchoredLoss("t1", share=1.0)(z, scale, subjects, has, again)
    assert terms.specific == 0 and terms.orthogonal == 0 and terms.total == terms.common > 0


def test_the_temperature_is_learnt_and_ends_at_100():
    temperature = Temperature()
    assert temperature().item() == pytest.approx(1 / 0.07, rel=1e-6)
    temperature.log_scale.data.fill_(7.0)
    assert temperature().item() == 100.0
    temperature().backward()
    assert temperature.log_scale.grad == 0


def test_widths_of_the_parts():
    assert [[p.shape[-1] for p in split_parts(torch.zeros(1, 64), share)] for share in (0.75, 1.0)] == [
        [48, 16],
        [64, 0],
    ]
    assert [p.shape[-1] for p in split_parts(torch.zeros(1, 2), 0.01)] == [1, 1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: split_parts(torch.zeros(1, 4), 0.0), "above 0 and at most 1, not 0.0"),
        (lambda: pair_info_nce(torch.zeros(2, 3), torch.zeros(3, 3), 1.0), "of one shape"),
        (lambda: pair_info_nce(torch.zeros(2, 3), torch.zeros(2, 3), 1.0, torch.zeros(3)), "as many subjects"),
        (lambda: pair_info_nce(torch.eye(2), torch.eye(2), 1.0, ignored=torch.zeros(3, 3)), r"ignored \[2, 2\]"),
        (lambda: AnchoredLoss("t1")({"pet": torch.eye(2)}, 1.0, torch.arange(2)), "anchor 't1' is not among .* pet"),
        (lambda: AnchoredLoss("t1")({"t1": torch.eye(3)}, 1.0, torch.arange(2)), r"t1 has \[3, 3\] of 2 samples"),
        (lambda: Temperature(0.0), "above 0"),
    ],
)
def test_what_does_not_fit_is_said(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


def test_specific_parts_of_other_people_are_told_apart():
    apart = torch.eye(4, dtype=torch.float64)
    assert specific_info_nce(apart, apart, 50.0) < 1e-9 < specific_info_nce(apart, apart.roll(1, 0), 50.0)


# -- several processes ------------------------------------------------------------------------------------------------

LENGTHS = [(4, 4), (2, 6), (7, 1)]


def of_rows(rows: slice, world: World | None) -> dict[str, Any]:
    """Loss and gradients of a linear map for each modality and the multiplier, from some rows of a batch."""
    z, again, has, subjects, _ = batch(8, 3)
    maps = {name: numbers(8, 8, seed=20 + i).requires_grad_() for i, name in enumerate(NAMES)}
    temperature = Temperature().double()
    parts = [{name: each[name][rows] @ maps[name] for name in NAMES} for each in (z, again)]
    here = {name: has[name][rows] for name in NAMES}
    terms = AnchoredLoss("t1", near=0.9)(parts[0], temperature(), subjects[rows], here, parts[1], world)
    terms.total.backward()
    leaves = {**maps, "scale": temperature.log_scale}
    if world is not None:
        world.average_gradients(leaves.values())
    return {"loss": terms.total.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def find(rank: int) -> dict[str, Any]:
    starts = {lengths: (0, *lengths)[rank] for lengths in LENGTHS}
    return {f"{n}": of_rows(slice(starts[n], starts[n] + n[rank]), World()) for n in LENGTHS}


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    single = of_rows(slice(None), None)
    for found in run_ranks(tmp_path, 2, find, 120):
        for lengths in LENGTHS:
            torch.testing.assert_close(found[f"{lengths}"], single, rtol=1e-11, atol=1e-13)
