"""The encoder's own network from scratch: it trains in training mode, and the encoder is left as it was."""

from __future__ import annotations

import copy

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapters.from_scratch import FromScratch
from medgraft.encoder import Encoder
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def encoder() -> Encoder:
    return tiny.fresh("timm_cnn")


def descend(grafted: Grafted, x: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(grafted.trainable_parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        grafted(x).pooled.square().sum().backward()
        optimizer.step()


def norms(grafted: Grafted) -> list[nn.BatchNorm2d]:
    return [module for module in grafted.encoder.modules() if isinstance(module, nn.BatchNorm2d)]


def images(encoder: Encoder) -> torch.Tensor:
    return next(iter(tiny.batch(encoder, 4).values()))


def test_a_fresh_graft_changes_nothing(encoder):
    x = images(encoder)
    before = encoder(x)
    after = graft(encoder, "from_scratch").eval()(x)
    assert torch.equal(after.tokens, before.tokens) and torch.equal(after.pooled, before.pooled)


def test_batch_norms_take_the_batch_in_training_and_gather_statistics_for_tests(encoder):
    grafted = graft(encoder, "from_scratch").train()
    x, first = 3 * images(encoder) + 2, norms(grafted)[0]
    seen = []
    first.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out.clone(), m.running_mean.clone())))
    grafted(x)
    values, scaled, mean = seen[0]
    wanted = values.mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean, first.momentum * wanted)  # from a running mean of 0
    normed = nn.functional.batch_norm(values, None, None, first.weight, first.bias, training=True, eps=first.eps)
    torch.testing.assert_close(scaled, normed)
    grafted.eval()
    grafted(x)
    assert torch.equal(seen[1][2], mean) and not torch.allclose(seen[1][1], scaled)
    assert not first.running_mean.any()  # of the encoder


def test_dropout_drops_in_training_alone(encoder):
    encoder.get_submodule("model.conv1").append(nn.Dropout(0.5))
    x = images(encoder)
    grafted = graft(encoder.freeze(), "from_scratch").train()
    assert not torch.equal(grafted(x).pooled, grafted(x).pooled)
    grafted.eval()
    assert torch.equal(grafted(x).pooled, grafted(x).pooled)


def test_the_encoder_stays_as_it_was_and_in_evaluation_mode(encoder):
    kept, x = copy.deepcopy(encoder.state_dict()), images(encoder)
    before = encoder(x).pooled
    grafted = graft(encoder, "from_scratch").train()
    descend(grafted, x, steps=2)
    assert not any(module.training for module in encoder.modules())
    assert not torch.equal(grafted.eval()(x).pooled, before)
    assert torch.equal(grafted.ungraft()(x).pooled, before)
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())


def test_a_file_brings_the_running_statistics_back(encoder, tmp_path):
    x = images(encoder)
    grafted = graft(encoder, "from_scratch").train()
    descend(grafted, x, steps=2)
    wanted = grafted.eval()(x).pooled
    grafted.save(tmp_path)
    other = graft(tiny.fresh("timm_cnn"), "from_scratch").load(tmp_path).eval()
    assert torch.equal(other(x).pooled, wanted)


def test_a_copy_of_the_graft_trains_its_own_network(encoder):
    x, grafted = images(encoder), graft(encoder, "from_scratch").eval()
    twin, before = copy.deepcopy(grafted), grafted(x).pooled
    descend(twin.train(), x, steps=1)
    assert torch.equal(grafted(x).pooled, before) and not torch.equal(twin.eval()(x).pooled, before)


@pytest.mark.parametrize(
    ("weights", "remedy"), [("none", "scratch_cnn brings a network"), ("pretrained:1", "name it with @random")]
)
def test_an_encoder_that_is_not_random_is_refused(encoder, weights, remedy):
    encoder.spec = encoder.spec.model_copy(update={"weights": weights})
    support = FromScratch().supports(encoder)
    assert not support and encoder.spec.name in support.reason and remedy in support.reason
