"""Channel mixing against its equation, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medgraft.adapters.channel_mixing import ChannelMixing, LowRankMixing
from medgraft.grafting import graft
from medgraft.testing.tiny_signal import CHANNELS, SIGNAL_ENCODERS

pytestmark = pytest.mark.usefixtures("seeded")
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


def mixing(**options: Any) -> ChannelMixing:
    return ChannelMixing(ChannelMixing.Config(**options))


def drawn(groups: int = 2, channels: int = 4, rank: int = 2) -> LowRankMixing:
    module = LowRankMixing(groups, channels, rank, torch.zeros(1, dtype=torch.float64))
    torch.nn.init.normal_(module.write)
    return module


def test_a_map_is_that_of_the_equation():
    module, x = drawn(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    got = module(x)
    for group in range(2):
        low_rank = module.write[group] @ module.read[group].T  # [channels, channels]
        assert torch.linalg.matrix_rank(low_rank) == 2
        for c in range(3 * group, 3 * group + 3):
            torch.testing.assert_close(got[:, c], low_rank @ x[:, c], **EXACT)


def test_it_mixes_channels_of_one_time_and_one_number_of_the_width():
    module, x = drawn(), torch.randn(1, 6, 4, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, 1, 2, 3] += 1
    moved = (module(changed) - module(x))[0].abs() > 1e-9
    assert moved[1, :, 3].all() and moved.sum() == 4


@pytest.mark.parametrize(("rank", "groups"), [(1, 1), (3, 4), (2, 8)])
def test_the_number_of_parameters_is_that_of_the_formula(rank, groups):
    adapter = mixing(rank=rank, groups=groups)
    grafted = graft(SIGNAL_ENCODERS["split-signal"](), adapter)
    assert sum(grafted.trainable_count().values()) == 2 * 2 * CHANNELS * rank * groups


def test_the_prefix_stays_in_front_of_the_first_block():
    encoder = SIGNAL_ENCODERS["packed-signal"]()
    adapter = mixing(depth="half_bottom")
    grafted = graft(encoder, adapter)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    seen = []
    norm: Any = encoder.get_submodule("blocks.0").norm1
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(2, *((encoder.spec.channels, *encoder.spec.input_size)))
    grafted.encode({"signal": x})
    grafted.ungraft()
    encoder(x)
    torch.testing.assert_close(seen[0][:, 0], seen[1][:, 0], rtol=0, atol=0)
    assert not torch.allclose(seen[0][:, 1:], seen[1][:, 1:])
