"""Grafts, and the attachments that make them reversible."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from torch import nn

import medgraft
from medgraft.adapter import Adapter, Attachment, Support, add_rows
from medgraft.adapters.ace_hgnn import AceHgnnAdapter
from medgraft.adapters.lora import Lora
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


class Probe(Adapter):
    """Does what the test asks for."""

    def __init__(self, action=lambda attachment: None) -> None:
        super().__init__()
        self.action = action
        self.weight = nn.Parameter(torch.ones(2))

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        self.action(attachment)
        return attachment


def hooks(encoder) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in encoder.modules())


def x_of(encoder) -> torch.Tensor:
    return next(iter(tiny.batch(encoder).values()))


# -- making a graft ---------------------------------------------------------------------------------------------------


def test_a_graft_is_made_from_names():
    grafted = graft("embedded:brain@random", "lora", rank=2)
    assert grafted.adapters["lora"].config.rank == 2 and grafted.encoder.spec.weights == "random"


def test_a_graft_is_made_from_instances():
    encoder = tiny.shared("timm")
    grafted = graft(encoder, [Lora(), AceHgnnAdapter()])
    grafted.ungraft()
    assert list(grafted.adapters) == ["lora", "acehgnnadapter1"]


def test_options_beside_an_instance_are_refused():
    with pytest.raises(ConfigError, match=r"options \['rank'\] belong in the adapter's own Config"):
        graft(tiny.shared("timm"), Lora(), rank=2)


def test_an_unknown_adapter_is_refused_before_anything_is_touched():
    encoder = tiny.shared("timm")
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        graft(encoder, "loras")
    assert hooks(encoder) == 0


def test_grafting_freezes_the_encoder():
    encoder = tiny.MhaViT().train()
    encoder.requires_grad_(True)
    graft(encoder, "lora")
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_the_package_offers_the_same_objects_as_its_modules():
    assert medgraft.graft is graft and medgraft.Adapter is Adapter
    for name in medgraft.__all__:
        assert getattr(medgraft, name) is not None


def test_an_unknown_attribute_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'grafft'"):
        _ = medgraft.grafft


# -- nothing half-made is left behind ---------------------------------------------------------------------------------


def fail_after_hooks(attachment: Attachment) -> None:
    tower = attachment.encoder
    attachment.map_features(tower, lambda features: features)
    attachment.set_attribute(tower, "encode", lambda x: x)
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("before", [[], [Lora()]], ids=["alone", "after another"])
def test_an_attach_that_fails_halfway_is_undone(before):
    encoder = tiny.fresh("timm")
    own = set(encoder.__dict__)
    with pytest.raises(RuntimeError, match="out of memory"):
        graft(encoder, [*before, Probe(fail_after_hooks)])
    assert hooks(encoder) == 0 and set(encoder.__dict__) == own


@pytest.mark.parametrize("answer", [Support(False, "it has no such thing"), RuntimeError("cannot say")])
def test_a_refusal_undoes_the_adapters_before_it(answer):
    class Refusing(Probe):
        def supports(self, encoder):
            if isinstance(answer, Exception):
                raise answer
            return answer

    encoder = tiny.fresh("timm")
    with pytest.raises((IncompatibleError, RuntimeError), match=r"no such thing|cannot say"):
        graft(encoder, [Lora(), Refusing()])
    assert hooks(encoder) == 0


def test_an_addition_that_fails_leaves_an_earlier_one_in_place():
    encoder = tiny.fresh("timm")
    first = graft(encoder, "lora")
    count = hooks(encoder)
    with pytest.raises(RuntimeError):
        first.add("probe", Probe(fail_after_hooks))
    assert hooks(encoder) == count
    first.ungraft()
    assert hooks(encoder) == 0


def test_ungrafting_twice_is_harmless():
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "lora+ace_hgnn")
    grafted.ungraft()
    assert grafted.ungraft() is encoder and hooks(encoder) == 0


# -- several adapters -------------------------------------------------------------------------------------------------


def test_composed_adapters_act_in_the_order_of_their_names():
    encoder = tiny.fresh("timm")
    inputs = x_of(encoder)
    mean = encoder(inputs).tokens[:, 1:].mean(dim=1)
    last = graft(encoder, "ace_hgnn+linear_probe", linear_probe={"pooling": "mean"})
    assert torch.equal(last(inputs).pooled, mean)
    last.ungraft()
    first = graft(encoder, "linear_probe+ace_hgnn", linear_probe={"pooling": "mean"})
    assert torch.equal(first(inputs).pooled, first(inputs).embedding)


def test_two_loras_on_one_layer_add_up():
    encoder = tiny.fresh("timm")
    qkv = encoder.get_submodule(encoder.attention[0].path)
    x = torch.randn(2, 5, 48)
    before = qkv(x)
    grafted = Grafted(encoder, {"a": Lora(), "b": Lora()})
    for adapter in grafted.adapters.values():
        nn.init.normal_(adapter.delta["blocks/0/attn/q"].B)
    change = qkv(x) - before
    parts = [adapter.delta["blocks/0/attn/q"](x) for adapter in grafted.adapters.values()]
    # float32: two sums in another order, with updates of some tens.
    torch.testing.assert_close(change[..., :48], sum(parts), rtol=1e-4, atol=1e-3)


def test_a_graft_of_parts_that_cannot_all_be_merged_merges_none():
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "lora+ace_hgnn")
    nn.init.normal_(grafted.adapters["lora"].delta["blocks/0/attn/q"].B)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match="cannot merge ace_hgnn"):
        grafted.merge()
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


# -- accounting -------------------------------------------------------------------------------------------------------


def test_the_parameters_of_adapters_and_head_are_counted_by_part():
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "lora", head=nn.Linear(48, 3), rank=2)
    assert grafted.trainable_count() == {"lora": 2 * 2 * 2 * (48 + 48), "head": 48 * 3 + 3}
    assert sum(p.numel() for p in grafted.trainable_parameters()) == sum(grafted.trainable_count().values())


def test_a_parameter_that_adapter_and_head_share_is_trained_once():
    shared = Probe()
    head = nn.Module()
    head.weight = shared.weight
    grafted = Grafted(tiny.fresh("timm"), {"probe": shared}, head)
    assert len(grafted.trainable_parameters()) == 1


def test_the_first_stage_is_the_earliest_of_all_adapters_for_each_tower():
    encoder = tiny.shared("chest")
    grafted = graft(encoder, "lora+ace_hgnn", lora={"targets": ["image.blocks.2.attn.q"]})
    first = grafted.first_stage()
    grafted.ungraft()
    assert first == {"image": 3, "text": 1}


def test_the_similarity_multiplier_is_the_encoders_unless_an_adapter_trains_one():
    chest = tiny.shared("chest")
    scales = []
    for name in ("lora", "ace_lora"):
        grafted = graft(chest, name)
        scales.append(grafted.logit_scale())
        grafted.ungraft()
    assert scales[0] == chest.logit_scale and isinstance(scales[1], nn.Parameter)


def test_a_multiplier_without_a_shared_space_is_an_error():
    grafted = graft(tiny.shared("brain"), "lora")
    grafted.ungraft()
    with pytest.raises(IncompatibleError, match="no space that two modalities share"):
        grafted.logit_scale()


def test_the_terms_of_all_adapters_are_summed():
    class Costly(Probe):
        def extra_loss(self, outputs):
            return self.weight.sum()

    grafted = graft(tiny.fresh("timm"), [Costly(), Lora(), Costly()])
    assert grafted.extra_loss({}).item() == 4.0


def test_training_mode_reaches_adapters_and_head():
    grafted = graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 3))
    assert grafted.train().adapters["lora"].training and grafted.head.training and grafted.training
    assert not grafted.eval().adapters["lora"].training and not grafted.head.training and not grafted.training


def test_random_encoders_are_told_apart_by_their_weights_and_pretrained_ones_by_their_name():
    first, second = tiny.MhaViT(), tiny.MhaViT()
    assert Grafted(first, {}).base_digest != Grafted(second, {}).base_digest
    second.spec = second.spec.model_copy(update={"weights": "pretrained:abc"})
    assert Grafted(second, {}).base_digest == "pretrained:abc"


# -- attachments ------------------------------------------------------------------------------------------------------


def test_rows_of_a_packed_output_are_added_out_of_place():
    output = torch.zeros(2, 6)
    added = add_rows(output, torch.ones(2, 2), slice(1, 3))
    assert added[0].tolist() == [0, 1, 1, 0, 0, 0] and not output.any()


def test_a_block_that_returns_a_tuple_has_its_first_element_mapped():
    encoder = tiny.fresh("timm")
    site = encoder.sites()["blocks.0"]
    block = encoder.get_submodule(site.path)
    forward = block.forward
    attachment = Attachment(encoder)
    attachment.set_attribute(block, "forward", lambda x: (forward(x), "weights"))
    attachment.map_output(site, lambda x: x * 0)
    output = block(torch.randn(1, 17, 48))
    assert not output[0].any() and output[1] == "weights"


def test_a_mapped_layer_is_mapped_and_restored():
    encoder = tiny.fresh("timm")
    x = x_of(encoder)
    before = encoder(x).tokens
    attachment = Attachment(encoder)
    attachment.map_output(encoder.sites()["blocks.1.attn.out"], lambda y: y + 1)
    assert not torch.equal(encoder(x).tokens, before)
    attachment.detach()
    assert torch.equal(encoder(x).tokens, before)


def test_a_projection_inside_a_fused_attention_cannot_be_added_to():
    encoder = tiny.shared("mha")
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.q lies in an nn\.MultiheadAttention"):
        Attachment(encoder).add_to_output(encoder.sites()["blocks.0.attn.q"], lambda x: x)


def test_an_attribute_that_is_changed_already_is_refused():
    encoder = tiny.fresh("timm")
    Attachment(encoder).set_attribute(encoder, "encode", None)
    with pytest.raises(ConfigError, match="already changed by another adapter"):
        Attachment(encoder).set_attribute(encoder, "encode", None)


def test_an_absorbed_attachment_is_undone_once_by_the_one_that_took_it():
    encoder = tiny.fresh("timm")
    undone = []
    first, second = Attachment(encoder), Attachment(encoder)
    second.on_detach(lambda: undone.append("second"))
    second.set_attribute(encoder, "encode", None)
    first.absorb(second)
    first.detach()
    second.detach()
    assert undone == ["second"] and "encode" not in encoder.__dict__


def test_what_was_done_last_is_undone_first():
    attachment, order = Attachment(tiny.shared("timm")), []
    for i in range(3):
        attachment.on_detach(lambda i=i: order.append(i))
    attachment.detach()
    assert order == [2, 1, 0]


# -- the contract's defaults ------------------------------------------------------------------------------------------


def test_features_pass_through_so_that_an_adapter_can_run_from_a_cache():
    encoder = tiny.shared("timm")
    features = Features(torch.ones(1, 2, 3), torch.ones(1, 3), 1, (1,))
    assert encoder(features) is features


@pytest.mark.parametrize("method", ["merge", "unmerge"])
def test_an_adapter_that_is_no_change_of_weights_cannot_be_merged(method):
    with pytest.raises(ConfigError, match="Probe cannot be merged"):
        getattr(Probe(), method)()


def test_an_adapter_without_attach_says_so():
    with pytest.raises(TypeError, match=r"Adapter must implement attach\(\)"):
        Adapter().attach(tiny.shared("timm"), {})


def test_support_is_true_or_false_by_itself():
    assert Support(True) and not Support(False, "reason")


def test_names_may_stand_in_a_list():
    both = graft("embedded:chest", ["lora", "ace_hgnn"])
    assert list(both.adapters) == list(graft("embedded:chest", "lora+ace_hgnn").adapters)
    assert list(graft("embedded:chest", ["lora"], rank=2).trainable_count().values()) == [8192]


@pytest.mark.parametrize("strange", [["lora", Lora()], [Lora], [None], ["lora", 3]])
def test_what_is_no_adapter_is_refused_by_name(strange):
    with pytest.raises(ConfigError, match="is no adapter; give names, or instances"):
        graft("embedded:chest", strange)
