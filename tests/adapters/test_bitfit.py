"""BitFit and full fine-tuning: copies in the place of the encoder's values, against training the encoder itself."""

from __future__ import annotations

import copy

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapters.bitfit import BitFit
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def descend(forward, parameters, x, steps=3):
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        forward(x).pooled.square().sum().backward()
        optimizer.step()


def is_bias(name: str) -> bool:
    return name.endswith("bias") and not name.startswith("unused")


@pytest.mark.parametrize(
    ("adapter", "trained"), [("bitfit", is_bias), ("full_finetune", lambda name: not name.startswith("unused"))]
)
def test_training_the_copies_equals_training_the_encoder(adapter, trained):
    tower = plain.PlainTower()
    own = copy.deepcopy(tower)
    own.requires_grad_(False)
    parameters = [p.requires_grad_(True) for name, p in own.named_parameters() if trained(name)]
    x = tower.images()
    weights = {key: value.clone() for key, value in tower.state_dict().items()}
    grafted = graft(tower, adapter)
    assert sum(grafted.trainable_count().values()) == plain.count(parameters)
    descend(grafted, grafted.trainable_parameters(), x)
    descend(own, parameters, x)
    torch.testing.assert_close(grafted(x).tokens, own(x).tokens, **plain.EXACT)
    assert all(torch.equal(value, weights[key]) for key, value in tower.state_dict().items())


@pytest.mark.parametrize("adapter", ["bitfit", "full_finetune"])
@pytest.mark.parametrize("name", ["timm", "hf_vit", "mha", "timm_cnn"])
def test_merging_writes_the_copies_and_unmerging_the_bits(adapter, name):
    encoder = tiny.fresh(name).double()
    x = next(iter(tiny.batch(encoder).values())).double()
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    grafted = graft(encoder, adapter).eval()
    with torch.no_grad():
        for parameter in grafted.adapters.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wanted = grafted(x).pooled
        grafted.merge()
        merged = grafted(x).pooled
        bare = copy.deepcopy({key: value.clone() for key, value in encoder.state_dict().items()})
        grafted.unmerge()
    assert torch.equal(merged, wanted)
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
    grafted.ungraft()
    encoder.load_state_dict(bare)
    # nn.MultiheadAttention may take its native path for inference, which sums in another order.
    torch.testing.assert_close(encoder(x).pooled, wanted, **plain.EXACT)


@pytest.mark.parametrize("name", ["timm", "hf_vit", "mha", "chest", "timm_cnn"])
def test_every_bias_that_a_feature_depends_on_is_trained_once(name):
    encoder = tiny.fresh(name)
    projections = ("shared",)  # into the space shared with text
    wanted = {n for n, _ in encoder.named_parameters() if n.endswith("bias") and n.split(".")[-2] not in projections}
    adapter = BitFit()
    Grafted(encoder, {"it": adapter})
    assert {key.replace("/", ".") for key in adapter.bias} == wanted


def test_a_packed_bias_is_trained_as_a_whole():
    adapter = BitFit(BitFit.Config(targets=("q",)))
    Grafted(plain.PlainTower(), {"it": adapter})
    assert {key: len(value) for key, value in adapter.bias.items()} == {
        "blocks/0/qkv/bias": 36,
        "blocks/1/qkv/bias": 36,
    }


def test_the_papers_smaller_variant_where_projections_are_apart():
    grafted = graft(tiny.fresh("hf_vit"), "bitfit", targets=("q", "fc1"))
    assert grafted.trainable_count()["bitfit"] == 2 * (32 + 64)


def test_an_encoder_without_biases_is_refused_in_words():
    class Bare(plain.PlainTower):
        def __init__(self) -> None:
            super().__init__()
            for module in self.modules():
                if getattr(module, "bias", None) is not None:
                    module.register_parameter("bias", None)

    with pytest.raises(IncompatibleError, match=r"nothing that '\*' matches, .* has no bias"):
        graft(Bare(), "bitfit")


def test_two_adapters_do_not_train_the_same_value():
    tower = plain.PlainTower()
    used = plain.count(p for name, p in tower.named_parameters() if not name.startswith("unused"))
    grafted = graft(tower, "bitfit+full_finetune")
    assert sum(grafted.trainable_count().values()) == used  # the second one takes what is left
    grafted.ungraft()
    with pytest.raises(IncompatibleError, match="no bias that a feature depends on"):
        graft(tower, "full_finetune+bitfit")
    assert all("bias" not in module.__dict__ and "weight" not in module.__dict__ for module in tower.modules())


def test_merged_values_are_neither_merged_again_nor_loaded_over():
    adapter = BitFit()
    grafted = Grafted(plain.PlainTower(), {"it": adapter})
    grafted.merge()
    with pytest.raises(ConfigError, match="merged already"):
        adapter.merge()
    with pytest.raises(ConfigError, match="unmerge before loading"):
        adapter.load_state_dict(adapter.state_dict())


def test_a_value_that_two_modules_share_has_one_copy():
    tower = plain.PlainTower()
    first, second = tower.blocks[0], tower.blocks[1]
    second.fc1 = first.fc1
    second.norm1.bias = first.norm1.bias
    grafted = graft(tower, "full_finetune")
    used = [p for n, p in tower.named_parameters() if not n.startswith("unused")]
    assert grafted.trainable_count()["full_finetune"] == plain.count(used)
    assert first.norm1.bias is second.norm1.bias and isinstance(first.norm1.bias, nn.Parameter)


def test_the_last_blocks_alone_leave_the_cache_before_them():
    tower = plain.PlainTower(depth=4)
    x = tower.images()
    hidden = tower.prefix(x, 3)
    for adapter in ("bitfit", "full_finetune"):
        grafted = graft(tower, adapter, depth="half_up")
        assert grafted.first_stage() == {"image": 3}
        descend(grafted, grafted.trainable_parameters(), x, steps=1)
        assert torch.equal(tower.prefix(x, 3), hidden)
        assert torch.equal(grafted(hidden, start=3).tokens, grafted(x).tokens)
        grafted.ungraft()


def test_statistics_of_batch_norms_stay():
    encoder = tiny.fresh("timm_cnn")
    x = next(iter(tiny.batch(encoder).values()))
    buffers = {key: value.clone() for key, value in encoder.named_buffers()}
    grafted = graft(encoder, "full_finetune").train()
    descend(grafted, grafted.trainable_parameters(), x, steps=1)
    assert buffers and all(torch.equal(value, buffers[key]) for key, value in encoder.named_buffers())


def test_the_file_of_full_fine_tuning_is_as_large_as_the_encoder(tmp_path):
    encoder = tiny.fresh("timm")
    stored = graft(encoder, "full_finetune").save(tmp_path) / "adapter_model.safetensors"
    assert stored.stat().st_size >= 4 * plain.count(encoder.parameters())
