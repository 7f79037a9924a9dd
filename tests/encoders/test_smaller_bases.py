"""Language models in 16, 8 and 4 bits and over several memories: near the full ones, smaller, and trained through."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from language_folders import folder_of

from medgraft import build_encoder, graft
from medgraft.benchmarks.results.intact import FrozenEncoder
from medgraft.checkpoints.weights import state_digest
from medgraft.encoder.stored import stored_bytes, weight_bits, weight_of
from medgraft.encoders.causal_lm import CausalLmSource, parse
from medgraft.encoders.parts.hf import storage
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.language_model import Decoding

how: Any = Decoding
PROMPTS = ["the lungs are", "small left effusion is seen there"]
WIDE: Any = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of("llama", tmp_path_factory.mktemp("wide"), **WIDE)


@pytest.fixture(scope="module")
def full(folder) -> Any:
    return build_encoder(f"causal_lm:llama@{folder}")


def logits(model: Any) -> torch.Tensor:
    return model.logits(model.prompts(PROMPTS))


@torch.no_grad()
def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative root mean square difference."""
    return float((found.float() - expected).norm() / expected.norm())


def maps(model: Any) -> list[Any]:
    """Linear maps of the blocks."""
    linear = [
        site for site in model.sites().values() if site.block is not None and site.kind in ("projection", "layer")
    ]
    return [model.get_submodule(site.path) for site in linear]


@pytest.mark.parametrize(
    ("options", "bits", "rounding", "share"),
    [
        # Root mean square error of a product over normal weights: 2^-9 / sqrt(3) and less of bfloat16 (its rows, too,
        # are rounded); 1/127 of the largest of 64 numbers (2.5 deviations), over sqrt(12); 0.09 to 0.1 in NF4.
        ("bits=16", 16, 0.004, 0.51),
        ("bits=8", 8, 0.01, 0.29),
        ("bits=4", 4, 0.12, 0.17),
        ("bits=8,library=bitsandbytes", 8, 0.02, 0.29),
        ("bits=4,library=bitsandbytes", 4, 0.12, 0.19),  # each map has a table of its own,
    ],
)
def test_a_smaller_base_is_near_the_full_one_and_adapters_train_on_it(folder, full, options, bits, rounding, share):
    if "bitsandbytes" in options:
        pytest.importorskip("bitsandbytes")
    model: Any = build_encoder(f"causal_lm:llama,{options}@{folder}")
    assert {weight_bits(each) for each in maps(model)} == {bits}
    for packed, plain in zip(maps(model), maps(full), strict=True):
        x = torch.randn(256, plain.in_features, generator=torch.Generator().manual_seed(0))
        assert rounding / 8 < apart(packed(x.to(model.dtype)), plain(x)) < rounding
    assert apart(logits(model), logits(full)) < 8 * rounding  # fourteen maps, one behind the other in two blocks
    blocks = sum(weight_of(each).shape.numel() * 4 for each in maps(full))
    outside = stored_bytes(full) - blocks if bits < 16 else (stored_bytes(full) - blocks) / 2
    assert stored_bytes(model) - outside < share * blocks
    assert model.spec.weights != full.spec.weights and model.spec.weights.startswith("pretrained:")
    assert len(model.generate(model.prompts(PROMPTS), how(limit=3)).ids) == 2

    before = FrozenEncoder(model)
    grafted = graft(model, "lora", rank=2, targets=["q", "model.layers.*.mlp.down_proj"])
    loss = model.answer_loss(model.prompts(PROMPTS), model.answers(["clear", "heart"])).mean()
    loss.backward()
    gradients = [p.grad for p in grafted.trainable_parameters()]
    assert len(gradients) == 8 and all(gradient is not None for gradient in gradients)
    assert (
        sum(float(each.abs().sum()) > 0 for each in gradients if each is not None) == 4
    )  # B alone learns where B is 0
    if bits < 16:
        with pytest.raises(ConfigError, match=rf"cannot merge at blocks\.0\.attn\.q.*stored in {bits} bits"):
            grafted.merge()
    grafted.ungraft()
    assert before.restored_problem() == ""


def test_the_gradient_is_that_of_the_unpacked_map(folder):
    model = build_encoder(f"causal_lm:llama,bits=4@{folder}")
    linear = maps(model)[0]
    unpacked = linear.weight.get_original_weight()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (linear(x) ** 2).sum().backward()
    y = x.detach().clone().requires_grad_()
    (torch.nn.functional.linear(y, unpacked) ** 2).sum().backward()
    assert x.grad is not None and y.grad is not None
    torch.testing.assert_close(x.grad, y.grad)


def test_copies_digests_and_checks_know_packed_weights(folder):
    model = build_encoder(f"causal_lm:llama,bits=4@{folder}")
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model)) and state_digest(twin) == state_digest(model)
    found = FrozenEncoder(twin)
    with torch.no_grad():
        weight_of(maps(twin)[1]).quantized_data[0] ^= 1  # pyright: ignore
    assert "now have other values" in found.problem() and state_digest(twin) != state_digest(model)
    model.hold_in_bf16()
    assert {weight_bits(each) for each in maps(model)} == {4}


def test_a_model_over_the_cpu_and_the_disk_is_the_same_model(folder, full, tmp_path):
    name = f"causal_lm:llama,device_map=auto,cpu=250KB,offload={tmp_path}@{folder}"
    model: Any = build_encoder(name)
    assert set(map(str, model.spread.places.values())) == {"cpu", "disk"} and list(tmp_path.iterdir())
    assert any(p.is_meta for p in model.parameters()) and model.device.type == "cpu"
    assert model.spec.weights == full.spec.weights
    assert torch.equal(logits(model), logits(full))
    assert torch.equal(model(model.tokenize(PROMPTS)).pooled, full(full.tokenize(PROMPTS)).pooled)
    told = how(limit=6, beams=2)
    assert model.generate(model.prompts(PROMPTS), told).ids == full.generate(full.prompts(PROMPTS), told).ids
    losses = []
    for each in (model, full):
        torch.manual_seed(0)
        grafted = graft(each, "lora", rank=2)
        grafted.to("cpu")  # as the harness does
        loss = each.answer_loss(each.prompts(PROMPTS), each.answers(["clear", "heart"])).mean()
        loss.backward()
        losses.append([loss.detach(), *(p.grad for p in grafted.trainable_parameters())])
        if each is model:
            with pytest.raises(ConfigError, match="loaded for each call"):
                grafted.merge()
        grafted.ungraft()
    torch.testing.assert_close(losses[0], losses[1])


def test_an_adapter_is_not_put_on_a_map_of_another_device(folder):
    model: Any = build_encoder(f"causal_lm:llama@{folder}")
    model.get_submodule("model.layers.1.self_attn.q_proj")._hf_hook = type("Hook", (), {"execution_device": "cuda:1"})()
    with pytest.raises(IncompatibleError, match=r"blocks\.1\.attn\.q runs on cuda:1 and the adapter on cpu"):
        graft(model, "lora")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("bits=5", "bits"),
        ("bit=4", "bit: no such option; .*did you mean bits"),
        ("library=torchao", "name bits=4 or bits=8"),
        ("offload=/tmp", "name device_map=auto"),
        ("bits=4,device_map=auto", "lies on one device"),
        ("device_map=auto,cpu=much", "cpu"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(folder, options, problem):
    with pytest.raises(ConfigError, match=problem):
        build_encoder(f"causal_lm:llama,{options}@{folder}")


@pytest.mark.parametrize(("wanted", "missing"), [("", "torchao or bitsandbytes"), (",library=torchao", "torchao")])
def test_bits_that_no_installed_library_has_are_refused(folder, monkeypatch, wanted, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        storage.importlib.util, "find_spec", lambda n, *a: None if n in ("torchao", "bitsandbytes") else found(n, *a)
    )
    with pytest.raises(ConfigError, match=rf"4 bits need {missing}, which is not installed: pip install medgraft"):
        build_encoder(f"causal_lm:llama,bits=4{wanted}@{folder}")


def test_what_cannot_be_packed_is_refused(tmp_path):
    odd = folder_of("gpt2", tmp_path, n_embd=36, n_inner=20)
    with pytest.raises(ConfigError, match=r"4 bits .* blocks of 64 numbers, and model\.h\.0\.\S+ has \d+; name bits=8"):
        build_encoder(f"causal_lm:gpt2,bits=4@{odd}")
    assert build_encoder(f"causal_lm:gpt2,bits=8@{odd}").spec.dim == 36
    with pytest.raises(ConfigError, match="device_map is for weights in files"):
        build_encoder("causal_lm:gpt2,device_map=auto@random")
    with pytest.raises(ConfigError, match=r"no memory has room for its largest layer; raise cpu="):
        build_encoder(f"causal_lm:gpt2,device_map=auto,cpu=1KB@{odd}")
    with pytest.raises(ConfigError, match="blocks cannot be found"):
        storage.quantise("name", torch.nn.Identity(), [], 4, "torchao")


def test_names_carry_options():
    assert parse("owner/name") == ("owner/name", {})
    assert CausalLmSource.with_options("owner/name,bits=8", {"bits": 4}) == "owner/name,bits=4"
    with pytest.raises(ConfigError):
        CausalLmSource.with_options("gpt2", {"bits": 3})
