"""merge() changes no result, or is refused with the site and leaves every bit as it was."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from medgraft.adapter import Adapter, Attachment
from medgraft.attachment.merging import tolerance
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.errors import ConfigError, MergeError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters
from medgraft.testing.odd import StandardisedConv
from medgraft.testing.snapshots import copied, difference, tree_difference, tree_of, weights_of

pytestmark = pytest.mark.usefixtures("seeded")


class Stack(Encoder):
    """Modules one after another on images ``[B, 3, 9, 9]``; linear maps read the channels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(
            EncoderSpec(name="test:stack", modality="image", input_size=(9, 9), channels=3, dim=5, weights="random")
        )
        self.layers = nn.ModuleList(layers)

    def encode(self, x, *, start=0):
        for layer in self.layers:
            flat = isinstance(layer, nn.Linear)
            x = layer(x.movedim(1, -1)).movedim(-1, 1) if flat else layer(x)
        tokens = x.flatten(2).transpose(1, 2)
        return Features(tokens, tokens.mean(dim=1), 0, tuple(x.shape[2:]))


class Halved(nn.Linear):
    """Multiplies by half of its weight."""

    def forward(self, x):
        return F.linear(x, self.weight / 2, self.bias)


class Negated(nn.Module):
    def forward(self, weight):
        return -weight


def parametrised() -> nn.Module:
    layer = nn.Linear(3, 5)
    parametrize.register_parametrization(layer, "weight", Negated())
    return layer


# Layers that do not multiply by their weight as stored.
UNLIKE = {
    "weight standardisation": lambda: StandardisedConv(3, 5, 3, stride=2),
    "a subclass": lambda: Halved(3, 5),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 5)),
    "spectral norm of a convolution": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 5, 3)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 5)),
    "weight norm of old": lambda: nn.utils.weight_norm(nn.Conv2d(3, 5, 3)),
    "another parametrisation": parametrised,
}
LIKE = {
    "a linear map": lambda: nn.Linear(3, 5),
    "without a bias": lambda: nn.Linear(3, 5, bias=False),
    "a convolution": lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2),
    "padding by name": lambda: nn.Conv2d(3, 5, 3, padding="same"),
    "a subclass that adds nothing": lambda: type("Mine", (nn.Linear,), {})(3, 5),
}


def shaken(encoder: Encoder, adapter: str, **options) -> Grafted:
    """A graft whose adapters do something, in evaluation mode."""
    torch.manual_seed(0)
    grafted = Grafted(encoder.freeze(), build_adapters(adapter, options))
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return grafted.eval()


def run(grafted: Grafted, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return grafted(x).tokens


def assert_refused(grafted: Grafted, x: torch.Tensor, match: str) -> None:
    """A merge is refused; every weight, module and result is what it was."""
    tree, weights, before = tree_of(grafted.encoder), copied(weights_of(grafted.encoder)), run(grafted, x)
    own = copied(dict(grafted.adapters.named_parameters()))
    tree = tree_of(grafted.encoder)
    with pytest.raises(MergeError, match=match):
        grafted.merge()
    assert not difference(weights, weights_of(grafted.encoder)) and torch.equal(run(grafted, x), before)
    assert not difference(own, dict(grafted.adapters.named_parameters()))
    assert not tree_difference(tree, tree_of(grafted.encoder))
    grafted(x).tokens.sin().sum().backward()  # not taken for merged
    assert all(parameter.grad is not None for parameter in grafted.trainable_parameters())


def assert_merges(grafted: Grafted, x: torch.Tensor, rtol: float = 1e-5) -> None:
    """A merge changes nothing beyond rounding, and is undone to the bit."""
    weights, before = copied(weights_of(grafted.encoder)), run(grafted, x)
    grafted.merge()
    apart = (run(grafted, x) - before).abs().max()
    assert apart <= rtol * before.abs().max()
    assert difference(weights, weights_of(grafted.encoder)), "nothing was merged"
    grafted.unmerge()
    assert not difference(weights, weights_of(grafted.encoder)) and torch.equal(run(grafted, x), before)


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", UNLIKE)
def test_lora_is_not_merged_where_a_layer_does_not_multiply_by_its_weight(layer):
    grafted = shaken(Stack(UNLIKE[layer]()), "lora", targets=("layers.0",), rank=1)
    assert_refused(grafted, torch.randn(2, 3, 9, 9), r"cannot merge.* layers\.0 of encoder 'test:stack'")


@pytest.mark.parametrize("layer", ["weight standardisation", "a subclass"])
def test_neither_is_ssf(layer):
    layer = UNLIKE[layer]() if layer != "a subclass" else type("Squared", (nn.Linear,), {
        "forward": lambda self, x: F.linear(x, self.weight**2, self.bias)})(3, 5)  # fmt: skip
    assert_refused(shaken(Stack(layer), "ssf"), torch.randn(2, 3, 9, 9), r"cannot merge at layers\.0 of")


@pytest.mark.parametrize("layer", [name for name in UNLIKE if "norm" in name or "parametrisation" in name])
def test_ssf_keeps_its_scale_behind_a_parametrised_layer_and_merges_the_others(layer):
    grafted = shaken(Stack(UNLIKE[layer](), nn.Conv2d(5, 4, 1)), "ssf")
    if "old" in layer or layer == "spectral norm":  # their weight is a tensor like any other
        assert len(grafted.adapters["ssf"].scale_shift) == 2
    assert_merges(grafted, torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("adapter", ["bitfit", "full_finetune"])
@pytest.mark.parametrize("layer", ["weight standardisation", "a subclass"])
def test_trained_copies_merge_everywhere(adapter, layer):
    assert_merges(shaken(Stack(UNLIKE[layer]()), adapter), torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("adapter", ["lora", "ssf", "bitfit", "full_finetune"])
@pytest.mark.parametrize("layer", LIKE)
def test_plain_layers_are_merged(adapter, layer):
    if adapter == "bitfit" and layer == "without a bias":
        return
    options = {"targets": ("layers.0",), "rank": 1} if adapter == "lora" else {}
    assert_merges(shaken(Stack(LIKE[layer]()), adapter, **options), torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize(("kind", "rtol"), [(torch.float64, 1e-13), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_what_counts_as_rounding_goes_by_the_type(kind, rtol):
    x = torch.randn(2, 3, 9, 9).to(kind)
    for layer, fine in ((nn.Linear(3, 5), True), (StandardisedConv(3, 5, 3), False)):
        grafted = shaken(Stack(layer).to(kind), "lora", targets=("layers.0",), rank=1)
        assert_merges(grafted, x, rtol) if fine else assert_refused(grafted, x, "cannot merge at")


def test_rounding_is_that_of_the_coarsest_type():
    assert tolerance(torch.float64) < tolerance(torch.float32) < tolerance(torch.float16) < tolerance(torch.bfloat16)
    assert tolerance(torch.float32, torch.bfloat16) == tolerance(torch.bfloat16)


def test_a_weight_that_another_module_shares_is_not_merged_into():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    x = torch.randn(2, 3, 9, 9)
    match = r"cannot merge at layers\.0 \(its weight is that of layers\.1 too\)"
    assert_refused(shaken(Stack(first, second), "lora", targets=("layers.0",), rank=1), x, match)


@pytest.mark.parametrize("name", ["timm", "hf_clip", "mha", "chest"])
def test_whole_encoders_are_merged(name):
    encoder = tiny.fresh(name)
    assert_merges(shaken(encoder, "lora"), next(iter(tiny.batch(encoder).values())), 1e-4)


# -- several adapters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapters", ["lora+ssf", "ssf+lora", "bitfit+lora", "lora+clip_lora", "ssf+clip_lora+lora"])
def test_several_adapters_are_merged_together(adapters):
    encoder = tiny.fresh("timm")
    assert_merges(shaken(encoder, adapters), tiny.batch(encoder)["image"], 1e-4)


@pytest.mark.parametrize("adapters", ["ssf+bitfit", "bitfit+ssf"])
def test_a_shift_is_not_folded_into_a_bias_that_another_adapter_replaces(adapters):
    encoder = tiny.fresh("timm")
    match = "or its adapters do not fold together"
    assert_refused(shaken(encoder, adapters), tiny.batch(encoder)["image"], match)


def test_an_adapter_is_not_merged_into_what_another_one_trains():
    encoder = tiny.fresh("timm")
    assert_refused(shaken(encoder, "full_finetune+lora"), tiny.batch(encoder)["image"], "which an adapter of the graft")


class HalfMerge(Adapter):
    """Changes a weight and fails."""

    mergeable = True

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({"layers.0": [sites["layers.0"]]})
        self.weight, self.base = nn.Parameter(torch.ones(5)), [encoder.get_submodule("layers.0")]
        self.kept = None
        attachment.add_to_output(sites["layers.0"], lambda x: self.weight.expand(*x.shape[:-1], 5))
        return attachment

    def merge(self):
        self.kept = self.base[0].weight.detach().clone()
        self.base[0].weight.data.add_(1)
        raise RuntimeError("not implemented for this layout")

    def unmerge(self):
        if self.kept is not None:
            self.base[0].weight.data.copy_(self.kept)


def test_a_merge_that_fails_half_way_is_undone_for_all():
    adapters = {**build_adapters("lora", {"targets": ("layers.0",), "rank": 1}), "half": HalfMerge()}
    grafted = Grafted(Stack(nn.Linear(3, 5)).freeze(), adapters).eval()
    assert_refused(grafted, torch.randn(2, 3, 9, 9), "cannot merge half: RuntimeError: not implemented for this layout")


# -- while merged -----------------------------------------------------------------------------------------------------


@pytest.fixture
def merged() -> tuple[Grafted, torch.Tensor]:
    grafted = shaken(tiny.fresh("timm"), "lora")
    grafted.merge()
    return grafted, tiny.batch(grafted.encoder)["image"]


@pytest.mark.parametrize("training", [True, False])
def test_training_a_merged_graft_says_so(merged, training):
    grafted, x = merged
    head = nn.Linear(grafted.encoder.spec.dim, 2)
    loss = head(grafted.train(training)(x).pooled).sum()
    with pytest.raises(ConfigError, match=r"is merged.*unmerge\(\) before training"):
        loss.backward()
    grafted.unmerge()
    grafted(x).pooled.sin().sum().backward()
    assert all(parameter.grad is not None for parameter in grafted.trainable_parameters())


def test_what_reads_a_merged_graft_is_trained_and_its_input_has_gradients(merged):
    grafted, x = merged
    head = nn.Linear(grafted.encoder.spec.dim, 2)
    with torch.no_grad():
        pooled = grafted(x).pooled
    head(pooled).sum().backward()
    assert head.weight.grad is not None
    x = x.clone().requires_grad_(True)
    grafted.eval().encode({"image": x})["image"].pooled.sin().sum().backward()
    assert bool(x.grad.any())


def test_merging_twice_is_an_error_and_switching_ends_a_merge(merged):
    grafted, x = merged
    with pytest.raises(ConfigError, match="is merged already"):
        grafted.merge()
    grafted.activate("lora")
    grafted(x).pooled.sin().sum().backward()
    assert all(parameter.grad is not None for parameter in grafted.trainable_parameters())
