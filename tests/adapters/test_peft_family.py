"""peft's methods under the contract of an adapter: what fits trains and goes without a trace, the rest says why."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
from grafts import outputs_of, tensors, train
from test_adapter_contract import owned, trace

from medgraft.adapters.peft import NOT_IDENTITY, UNFIT, PeftAdapter
from medgraft.errors import ConfigError, IncompatibleError, UnknownNameError
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:Sparse invariant checks")]
# Methods that every supported peft has; those that need an option for widths of 48 say which.
METHODS = {
    "lora": {"r": 2},
    "ia3": {},
    "loha": {"r": 2},
    "lokr": {"r": 2},
    "vera": {"r": 4},
    "oft": {"oft_block_size": 16},
    "hra": {"r": 2},
    "fourierft": {"n_frequency": 20},
    "vblora": {"vector_length": 16, "num_vectors": 8, "r": 2},
    "randlora": {"r": 4},
    "shira": {"r": 2},
    "c3a": {"block_size": 16},
    "miss": {"r": 4},
    "road": {"group_size": 16},
}
every_method = pytest.mark.parametrize("method", METHODS)


def options(method: str) -> dict:
    return {"options": METHODS[method]}


@every_method
def test_a_method_trains_and_leaves_no_trace(method):
    encoder = tiny.fresh("timm")
    inputs = tiny.batch(encoder)
    before, outputs = trace(encoder), tensors(outputs_of(encoder, inputs))
    weights = {key: tensor.clone() for key, tensor in owned(encoder).items()}
    grafted = graft(encoder, f"peft:{method}", head=torch.nn.Linear(48, 3), **options(method))
    start = {key: p.detach().clone() for key, p in grafted.adapters.named_parameters()}
    train(grafted, inputs, steps=2)
    assert start and any(not torch.equal(p, start[key]) for key, p in grafted.adapters.named_parameters())
    grafted.ungraft()
    assert trace(encoder) == before
    assert all(torch.equal(tensor, weights[key]) for key, tensor in owned(encoder).items())
    assert all(torch.equal(value, outputs[key]) for key, value in tensors(outputs_of(encoder, inputs)).items())


@every_method
def test_a_method_says_truly_whether_it_starts_as_the_identity(method):
    encoder = tiny.shared("timm")
    inputs = tiny.batch(encoder)
    before = outputs_of(encoder, inputs)["image"].pooled
    grafted = graft(encoder, f"peft:{method}", **options(method))
    change = (outputs_of(grafted, inputs)["image"].pooled - before).abs().max().item()
    grafted.ungraft()
    # Methods that rotate the weight multiply by an identity that they computed: some roundings of float32.
    assert (change < 1e-5) == grafted.adapters[f"peft:{method}"].identity_at_init == (method not in NOT_IDENTITY)


@every_method
def test_a_method_is_stored_and_loaded_bit_exactly(method, tmp_path):
    encoder = tiny.shared("timm")
    inputs = tiny.batch(encoder)
    torch.manual_seed(1)
    first = graft(encoder, f"peft:{method}", head=torch.nn.Linear(48, 3), **options(method))
    train(first, inputs, steps=2)
    wanted = outputs_of(first, inputs)["image"].pooled
    first.save(tmp_path)
    first.ungraft()
    torch.manual_seed(2)  # whatever a method draws at random must be stored, or not depend on the state
    second = graft(encoder, f"peft:{method}", head=torch.nn.Linear(48, 3), **options(method)).load(tmp_path)
    got = outputs_of(second, inputs)["image"].pooled
    second.ungraft()
    assert torch.equal(got, wanted)


def test_the_case_of_a_method_does_not_matter():
    assert build_adapter("peft:LoRA").method == "lora"


def test_an_unknown_method_is_an_error_with_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"unknown peft method 'verra'; did you mean vera"):
        build_adapter("peft:verra")


def test_an_unknown_option_of_a_method_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"peft:lora refuses its options.*'rnak'"):
        build_adapter("peft:lora", {"options": {"rnak": 2}})


@pytest.mark.parametrize("method", [*UNFIT, "prompt_tuning", "prefix_tuning"])
def test_a_method_that_cannot_keep_the_contract_is_refused_with_the_reason(method):
    try:
        adapter = build_adapter(f"peft:{method}")
    except UnknownNameError:
        pytest.skip(f"this release of peft has no {method}")
    support = adapter.supports(tiny.shared("timm"))
    assert not support and f"peft:{method} is not offered: " in support.reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"bias": "all"}, "trains parameters of the encoder itself"),
        ({"init_lora_weights": "pissa"}, "changes weights of the encoder itself"),
        ({"modules_to_save": ["proj"]}, "replaces modules that targets does not name"),
    ],
)
def test_an_option_that_touches_the_encoder_is_refused_and_undone(given, reason):
    encoder = tiny.fresh("timm")
    before = trace(encoder)
    weights = {key: tensor.clone() for key, tensor in owned(encoder).items()}
    with pytest.raises(IncompatibleError, match=reason):
        graft(encoder, "peft:lora", options=given)
    assert trace(encoder) == before
    assert all(torch.equal(tensor, weights[key]) for key, tensor in owned(encoder).items())


def test_what_peft_itself_refuses_is_one_sentence_and_leaves_no_trace():
    encoder = tiny.fresh("timm")
    before = trace(encoder)
    with pytest.raises(IncompatibleError, match="peft:c3a does not fit this encoder: The block size"):
        graft(encoder, "peft:c3a", options={"block_size": 31})
    assert trace(encoder) == before


def test_a_fused_attention_is_refused_with_the_way_out():
    support = PeftAdapter().supports(tiny.shared("mha"))
    assert not support and "nn.MultiheadAttention" in support.reason and "built-in lora" in support.reason


def test_a_pattern_that_matches_no_layer_is_refused():
    adapter = PeftAdapter(PeftAdapter.Config(targets=("features",)))
    assert "no linear map or convolution" in adapter.supports(tiny.shared("timm")).reason


def test_a_projection_stands_for_the_module_that_holds_it():
    encoder = tiny.shared("timm")
    grafted = graft(encoder, "peft:lora", targets=("blocks.0.attn.k",), options={"r": 2})
    grafted.ungraft()
    # One rank-2 update of the whole packed 144 x 48 weight.
    assert grafted.trainable_count() == {"peft:lora": 2 * (48 + 144)}


def test_convolutions_are_taken_too():
    encoder = tiny.fresh("timm_cnn")
    pattern = next(name for name in encoder.sites() if name.endswith("conv1"))
    head = torch.nn.Linear(encoder.spec.dim, 3)
    grafted = graft(encoder, "peft:lora", head=head, targets=(pattern,))
    train(grafted, tiny.batch(encoder), steps=1)
    assert grafted.coverage()["peft:lora"] == {pattern: [pattern]}


def test_dropout_inside_the_encoder_follows_the_mode_of_the_graft():
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "peft:lora", options={"lora_dropout": 0.5, "init_lora_weights": False})
    x = tiny.batch(encoder)["image"]
    with torch.no_grad():
        grafted.train()
        assert not torch.equal(grafted(x).pooled, grafted(x).pooled)
        grafted.eval()
        assert torch.equal(grafted(x).pooled, grafted(x).pooled)


@pytest.mark.parametrize("names", ["peft:ia3+lora", "lora+peft:ia3"])
def test_a_method_composes_with_the_built_in_lora(names):
    encoder = tiny.fresh("timm")
    before = trace(encoder)
    grafted = graft(encoder, names, lora={"targets": ["q", "v"]}, head=torch.nn.Linear(48, 3))
    alive = set.union(*train(grafted, tiny.batch(encoder), steps=2))
    assert {name.split(".")[1] for name in alive if name.startswith("adapters.")} == {"peft:ia3", "lora"}
    grafted.ungraft()
    assert trace(encoder) == before


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_methods_compose_on_different_targets():
    encoder = tiny.fresh("timm")
    before = trace(encoder)
    grafted = graft(encoder, "peft:lora+peft:ia3", **{"peft:ia3": {"targets": ["out"]}})
    assert grafted(tiny.batch(encoder)["image"]).pooled.requires_grad
    grafted.ungraft()
    assert trace(encoder) == before


def test_two_methods_on_one_target_are_refused_and_the_first_is_undone():
    encoder = tiny.fresh("timm")
    before = trace(encoder)
    with pytest.raises(IncompatibleError, match="already carries a layer of another peft method"):
        graft(encoder, "peft:lora+peft:ia3")
    assert trace(encoder) == before
