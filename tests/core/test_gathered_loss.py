"""The contrastive loss over several data-parallel processes against one process with the joined batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medgraft.errors import ConfigError
from medgraft.losses import gathered_info_nce, label_guided_info_nce

pytestmark = pytest.mark.usefixtures("seeded")
# float64: the exchange changes the order of a few sums.
EXACT = {"rtol": 1e-12, "atol": 1e-14}
WORLD = 2
# Pairs on each rank, and whether labels guide.
CASES = [((4, 4), True), ((5, 3), True), ((2, 6), False)]


class Pair(nn.Module):
    """Two linear towers and a trained multiplier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.image = nn.Linear(4, 3, dtype=torch.float64)
        self.text = nn.Linear(4, 3, dtype=torch.float64)
        self.scale = nn.Parameter(torch.tensor(7.0, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.normalize(self.image(x), dim=1), F.normalize(self.text(y), dim=1), self.scale


def samples() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(6)
    x, y = (torch.randn(8, 4, dtype=torch.float64) for _ in range(2))
    return x, y, torch.tensor([[0], [1], [0], [2], [1], [0], [3], [1]])


def step(rank: int, lengths: tuple[int, ...], with_labels: bool) -> dict[str, Tensor]:
    model = DistributedDataParallel(Pair())
    rows = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
    x, y, labels = (each[rows] for each in samples())
    image, text, scale = model(x, y)
    loss = gathered_info_nce(image, text, scale, labels if with_labels else None)
    loss.backward()
    return {name: p.grad for name, p in model.module.named_parameters()} | {"loss": loss.detach()}


def local_step(rank: int) -> dict[str, Tensor]:
    """What the published script did: negatives and gradients of each rank alone."""
    model = Pair()
    x, y, labels = (each[4 * rank : 4 * rank + 4] for each in samples())
    image, text, scale = model(x, y)
    label_guided_info_nce(image, text, scale, labels).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def disagree(rank: int) -> str:
    unit = F.normalize(torch.randn(3, 4), dim=1)
    with pytest.raises(ConfigError) as caught:
        gathered_info_nce(unit, unit, 1.0, torch.zeros(3, 2) if rank else None)
    return str(caught.value)


def find(rank: int) -> dict[str, Any]:
    return {f"{case}": step(rank, *case) for case in CASES} | {"local": local_step(rank), "said": disagree(rank)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; starting them is what takes time, so all cases share them."""
    return run_ranks(tmp_path_factory.mktemp("gloo"), WORLD, find, 120)


def single(lengths: tuple[int, ...], with_labels: bool) -> dict[str, Tensor]:
    model, total = Pair(), sum(lengths)
    x, y, labels = (each[:total] for each in samples())
    image, text, scale = model(x, y)
    loss = label_guided_info_nce(image, text, scale, labels if with_labels else None)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_have_the_loss_and_the_gradients_of_one(ranks, case):
    for found in ranks:
        torch.testing.assert_close(found[f"{case}"], single(*case), **EXACT)


@pytest.mark.slow
def test_without_the_exchange_the_gradients_would_differ(ranks):
    wanted = single((4, 4), True)["image.weight"]
    averaged = (ranks[0]["local"]["image.weight"] + ranks[1]["local"]["image.weight"]) / 2
    assert all((g - wanted).abs().max() > 1e-3 for g in (ranks[0]["local"]["image.weight"], averaged))


@pytest.mark.slow
def test_ranks_that_disagree_are_told_so_on_every_rank(ranks):
    for found in ranks:
        assert "labels on all or on none" in found["said"] and "rank 1: width 4, 2 labels" in found["said"]


def test_without_processes_it_is_the_plain_loss():
    x, _, labels = samples()
    unit = F.normalize(x, dim=1)
    assert torch.equal(gathered_info_nce(unit, unit, 3.0, labels), label_guided_info_nce(unit, unit, 3.0, labels))
