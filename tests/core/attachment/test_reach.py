"""A graft is tried on a blank sample: what is never called, or fails, is refused with the site."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

from medgraft.adapter import Adapter, Attachment
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.errors import ConfigError, IncompatibleError, UnreachedError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_adapter
from medgraft.testing.odd import odd_encoder
from medgraft.testing.snapshots import copied, difference, tree_difference, tree_of, weights_of

pytestmark = pytest.mark.usefixtures("seeded")


class Layers(Encoder):
    """Runs what a test gives it on ``[B, *size]``."""

    def __init__(self, size: tuple[int, ...], run, channels: int = 1, **layers: nn.Module) -> None:
        modality = "volume" if len(size) == 3 else "image"
        super().__init__(
            EncoderSpec(
                name="test:layers", modality=modality, input_size=size, channels=channels, dim=4, weights="random"
            )
        )
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def encode(self, x, *, start=0):
        y = self.run(self, x)
        tokens = y.flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(dim=1), 0, (tokens.shape[1],))


def refused(encoder: Encoder, adapter, match: str, kind=UnreachedError, **options) -> None:
    """A graft is refused with a reason and leaves no trace."""
    tree, weights = tree_of(encoder.freeze()), copied(weights_of(encoder))
    with pytest.raises(kind, match=match):
        graft(encoder, adapter, **options)
    assert not tree_difference(tree, tree_of(encoder)) and not difference(weights, weights_of(encoder))


# -- sites that are never called --------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["lora", "clip_lora", "peft:lora", "peft:ia3", "peft:vera"])
def test_a_weight_that_the_library_multiplies_by_itself_is_no_place_for_an_adapter(adapter):
    refused(odd_encoder(), adapter, r"2 of its sites: blocks\.0\.attn\.qkv is never called", targets=("*.qkv",))


def test_dora_of_peft_is_refused_there_too():
    options = {"targets": ("*.qkv",), "options": {"use_dora": True}}
    refused(odd_encoder(), "peft:lora", "is never called", **options)


def test_one_site_of_many_is_enough_to_refuse_and_is_named():
    refused(odd_encoder(), "lora", r"at 2 of its sites: blocks\.0\.attn\.qkv is never called", targets=("*",))


@pytest.mark.parametrize("adapter", ["bitfit", "full_finetune", "ssf"])
def test_trained_copies_are_read_where_no_module_is_called_and_ssf_leaves_such_places_out(adapter):
    grafted = graft(odd_encoder(), adapter)
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    features = grafted(torch.randn(2, 1, 15, 22))
    (features.tokens.sin().sum() + features.pooled.sin().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in grafted.trainable_parameters())
    assert adapter != "ssf" or not [name for name in grafted.adapters["ssf"].scale_shift if name.endswith("qkv")]


def test_a_call_whose_result_nothing_reads_trains_nothing():
    encoder = Layers((8, 8), lambda e, x: (e.seen(x), e.cut(x).detach() + e.used(x))[1], seen=nn.Conv2d(1, 4, 1),
                     cut=nn.Conv2d(1, 4, 1), used=nn.Conv2d(1, 4, 1))  # fmt: skip
    for name in ("seen", "cut"):
        refused(encoder, "lora", f"{name} is called, but nothing reads what it returns", targets=(name,), rank=1)
    assert graft(encoder, "lora", targets=("used",), rank=1).coverage()["lora"] == {"used": ["used"]}


def test_towers_that_an_adapter_touches_are_tried_text_too():
    encoder = tiny.fresh("hf_clip")
    mlp = encoder.get_submodule("tower.text.model.encoder.layers.0.mlp")
    mlp.forward = lambda x: mlp.fc2(nn.functional.linear(x, mlp.fc1.weight, mlp.fc1.bias))
    with pytest.raises(UnreachedError, match=r"text\.model\.encoder\.layers\.0\.mlp\.fc1 is never called"):
        graft(encoder, "lora", targets=("text.*.fc1",))
    graft(encoder, "lora", targets=("image.*.fc1",)).ungraft()


def test_the_projection_into_a_shared_space_counts_as_read():
    grafted = graft(tiny.fresh("hf_clip"), "lora", targets=("projection",))
    assert len(grafted.coverage()["lora"]["projection"]) == 2


def test_an_adapter_added_later_is_tried_too_and_the_first_one_stays():
    grafted = graft(odd_encoder(), "lora", targets=("*fc1",))
    with pytest.raises(UnreachedError):
        grafted.add("second", build_adapter("lora", {"targets": ("*.qkv",)}))
    assert grafted.active == ("lora",) and list(grafted.adapters) == ["lora"]


class Unused(Adapter):
    """Says that it sits at every block, and does nothing there."""

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({"block": [site for site in sites.values() if site.kind == "block"]})
        self.weight = nn.Parameter(torch.ones(3))
        return attachment


def test_an_adapter_none_of_whose_parameters_reaches_the_features_is_refused():
    with pytest.raises(UnreachedError, match="the features depend on none of its 1 parameters"):
        Grafted(tiny.fresh("timm"), {"unused": Unused()})


@pytest.mark.parametrize(("adapter", "targets"), [("lora", ("q", "v")), ("lora", ("*linear1",)),
                                                  ("peft:lora", ("*linear1",))])  # fmt: skip
def test_pytorchs_fused_layer_does_not_pass_an_adapter_by_in_evaluation(adapter, targets):
    layers = {f"b{i}": nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for i in range(2)}
    encoder = Layers((4, 16), lambda e, x: e.b1(e.b0(x[:, 0])).transpose(1, 2), **layers)
    encoder.attention = [AttentionLayout("mha", f"b{i}.self_attn", 2, 16) for i in range(2)]
    x = torch.randn(2, 1, 4, 16)
    with torch.no_grad():
        bare = encoder.freeze()(x).tokens
        grafted = graft(encoder, adapter, targets=targets).eval()
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter))
        moved = grafted(x).tokens
    assert float((moved - bare).abs().max()) > 1e-2
    torch.testing.assert_close(moved, grafted(x).tokens.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(grafted.ungraft()(x).tokens, bare)


# -- what fails at the first run --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("adapter", "layer", "size"), [
    ("peft:lora", nn.Conv2d(1, 4, 3, dilation=2), (9, 9)),
    ("peft:lora", nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2), (9, 9)),
    ("peft:hira", nn.Conv3d(1, 6, 1), (5, 5, 5)),
])  # fmt: skip
def test_what_would_fail_at_the_first_run_is_refused_with_the_site(adapter, layer, size):
    encoder = Layers(size, lambda e, x: e.conv(x), conv=layer)
    refused(encoder, adapter, f"{adapter}.*(run on|fit)", kind=IncompatibleError, targets=("conv",))


class Broadcasts(Adapter):
    """Adds one number per sample to a layer's output of another shape."""

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({"conv": [sites["conv"]]})
        self.weight = nn.Parameter(torch.ones(1))
        attachment.add_to_output(sites["conv"], lambda x: self.weight * x.new_ones(len(x), 4, 3, 3))
        return attachment


def test_a_change_that_broadcasts_a_layers_output_is_refused():
    encoder = Layers((2, 2), lambda e, x: e.conv(x), conv=nn.Conv2d(1, 4, 2))
    with pytest.raises(ConfigError, match=r"adds \[1, 4, 3, 3\] to a layer's output of \[1, 4, 1, 1\]"):
        Grafted(encoder, {"broadcasts": Broadcasts()})


def test_trying_leaves_modes_random_state_and_reports_alone():
    grafted = graft(tiny.fresh("timm"), "lora", dropout=0.5).train()
    state = torch.random.get_rng_state()
    grafted._check_reach()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in grafted.adapters.modules()) and not grafted.encoder.training


# -- after ungraft() --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [
    lambda g, x: g(x), lambda g, x: g.encode({"image": x}), lambda g, x: g.merge(), lambda g, x: g.unmerge(),
    lambda g, x: g.activate("lora"), lambda g, x: g.add("more", Unused()), lambda g, x: g.load("nowhere"),
])  # fmt: skip
def test_a_graft_that_was_taken_off_says_so(use):
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "lora")
    grafted.ungraft()
    with pytest.raises(ConfigError, match="was taken off its encoder"):
        use(grafted, tiny.batch(encoder)["image"])
