"""The rules that every adapter must hold, over every built-in adapter and every tiny encoder that it supports."""

from __future__ import annotations

import inspect
import re

import grafts
import pytest
import tiny_encoders as tiny
import torch
from grafts import ADAPTERS, PAIRS, grafted_with_head, outputs_of, tensors
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from medgraft import plugins
from medgraft.adapter import Adapter
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import graft
from medgraft.registry import adapter_class, build_adapter, resolve_adapter

pytestmark = pytest.mark.usefixtures("seeded")
every_pair = pytest.mark.parametrize(("adapter", "name"), PAIRS)
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


def class_of(adapter: str) -> type[Adapter]:
    return adapter_class(resolve_adapter(adapter))


def owned(encoder) -> dict[str, torch.Tensor]:
    return dict([*encoder.named_parameters(), *encoder.named_buffers()])


def trace(encoder) -> dict[str, tuple]:
    """Names, identities and everything that a hook, a replaced module or a shadowed attribute would change."""
    return {
        name: (
            id(module),
            sorted(module.__dict__),
            list(module._modules),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            module.training,
            [(key, id(p), p.requires_grad) for key, p in module._parameters.items() if p is not None],
        )
        for name, module in encoder.named_modules()
    }


# -- what it says about itself ----------------------------------------------------------------------------------------


@every_adapter
def test_every_adapter_fits_an_encoder(adapter):
    build_adapter(adapter)
    assert [name for name, _ in PAIRS].count(adapter) >= 1


@pytest.mark.parametrize("name", tiny.BUILDERS)
@every_adapter
def test_a_refusal_has_a_reason_and_leaves_no_trace(adapter, name):
    if (adapter, name) in PAIRS:
        assert not build_adapter(adapter).supports(tiny.shared(name)).reason
        return
    encoder = tiny.shared(name)
    before = trace(encoder)
    reason = build_adapter(adapter).supports(encoder).reason
    assert len(reason.split()) >= 4
    with pytest.raises(IncompatibleError, match=re.escape(reason)):
        graft(encoder, adapter)
    assert trace(encoder) == before


@every_adapter
def test_every_option_is_documented(adapter):
    config = class_of(adapter).Config
    documented = re.findall(r"^\s*(\w+): \S", inspect.cleandoc(config.__doc__ or "").partition("Attributes:")[2], re.M)
    assert set(config.model_fields) <= set(documented)


@every_adapter
def test_an_unknown_option_is_an_error_that_names_it(adapter):
    with pytest.raises(ConfigError, match="no_such_option: no such option"):
        build_adapter(adapter, {"no_such_option": 1})


@pytest.mark.parametrize(
    ("adapter", "field"), [(name, field) for name in ADAPTERS for field in class_of(name).Config.model_fields]
)
def test_a_value_of_the_wrong_kind_is_an_error_that_names_the_option(adapter, field):
    with pytest.raises(ConfigError, match=rf"{adapter}.*\b{field}\b"):
        build_adapter(adapter, {field: object()})


@every_adapter
def test_a_configuration_cannot_be_changed(adapter):
    config = build_adapter(adapter).config
    fields = list(type(config).model_fields) or ["anything"]
    with pytest.raises(ValueError, match=r"frozen|no field"):
        setattr(config, fields[0], None)


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if not class_of(name).identity_at_init])
def test_an_adapter_that_is_not_the_identity_says_so_in_its_docstring(adapter):
    assert "identity" in (class_of(adapter).__doc__ or "")


# -- the encoder stays as it is ---------------------------------------------------------------------------------------


@every_pair
def test_no_parameter_of_the_encoder_is_trainable(adapter, name):
    encoder = tiny.fresh(name)
    frozen = {id(tensor) for tensor in owned(encoder).values()}
    grafted = grafted_with_head(encoder, adapter)
    assert not frozen & {id(p) for p in grafted.trainable_parameters()}
    assert not any(p.requires_grad for p in grafted.parameters() if id(p) in frozen)


@every_pair
def test_the_encoder_is_bit_identical_after_training(adapter, name):
    encoder = tiny.fresh(name)
    tensors_before = owned(encoder)
    values = {key: tensor.clone() for key, tensor in tensors_before.items()}
    grafts.train(grafted_with_head(encoder, adapter), tiny.batch(encoder), steps=2)
    assert all(torch.equal(tensors_before[key], value) for key, value in values.items())
    assert all(tensor.grad is None for tensor in tensors_before.values())


@every_pair
def test_training_mode_never_reaches_the_encoder(adapter, name):
    encoder = tiny.shared(name)
    own = list(encoder.modules())
    grafted = graft(encoder, adapter).train()
    try:
        assert not any(module.training for module in own)
    finally:
        grafted.ungraft()


@every_pair
def test_ungraft_restores_the_tree_and_the_outputs(adapter, name):
    encoder = tiny.fresh(name)
    inputs = tiny.batch(encoder)
    before, outputs = trace(encoder), tensors(outputs_of(encoder, inputs))
    grafted = grafted_with_head(encoder, adapter)
    grafts.train(grafted, inputs, steps=1)
    assert grafted.ungraft() is encoder
    assert trace(encoder) == before
    after = tensors(outputs_of(encoder, inputs))
    assert outputs.keys() == after.keys() and all(torch.equal(outputs[key], after[key]) for key in outputs)


# -- the adapter trains, is stored and comes back ---------------------------------------------------------------------


@every_pair
def test_every_trainable_parameter_gets_a_gradient_within_two_steps(adapter, name):
    encoder = tiny.shared(name)
    grafted = grafted_with_head(encoder, adapter)
    try:
        steps = grafts.train(grafted, tiny.batch(encoder), steps=2)
        named = {id(p): key for key, p in grafted.named_parameters(remove_duplicate=False)}
        assert {named[id(p)] for p in grafted.trainable_parameters()} == set.union(*steps)
    finally:
        grafted.ungraft()


@every_pair
def test_save_and_load_round_trip_bit_exactly(adapter, name, tmp_path):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    first = grafted_with_head(encoder, adapter)
    grafts.train(first, inputs, steps=2)
    trained = tensors(outputs_of(first, inputs))
    head = first.head.state_dict()
    first.save(tmp_path)
    first.ungraft()
    second = grafted_with_head(encoder, adapter, seed=7).load(tmp_path)
    try:
        loaded = tensors(outputs_of(second, inputs))
        assert trained.keys() == loaded.keys() and all(torch.equal(trained[key], loaded[key]) for key in trained)
        assert all(torch.equal(value, head[key]) for key, value in second.head.state_dict().items())
    finally:
        second.ungraft()


@every_pair
def test_the_file_holds_what_was_trained_and_no_weight_of_the_encoder(adapter, name, tmp_path):
    encoder = tiny.fresh(name)
    weights = list(owned(encoder).values())
    grafted = grafted_with_head(encoder, adapter)
    grafts.train(grafted, tiny.batch(encoder), steps=2)
    stored = load_file(grafted.save(tmp_path) / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(grafted.trainable_count().values())
    assert not [
        key
        for key, tensor in stored.items()
        if any(weight.shape == tensor.shape and torch.equal(weight, tensor) for weight in weights)
    ]


@every_pair
def test_coverage_names_sites_of_the_encoder(adapter, name):
    encoder = tiny.shared(name)
    known = set(encoder.sites())
    grafted = graft(encoder, adapter)
    coverage = grafted.coverage()
    grafted.ungraft()
    assert list(coverage) == [adapter] and coverage[adapter]
    assert all(sites and set(sites) <= known for sites in coverage[adapter].values())


@pytest.mark.parametrize(("adapter", "name"), [p for p in PAIRS if "targets" in class_of(p[0]).Config.model_fields])
def test_a_target_that_matches_nothing_is_an_error_that_names_it(adapter, name):
    encoder = tiny.shared(name)
    before = trace(encoder)
    with pytest.raises(IncompatibleError, match="'mispelt'"):
        graft(encoder, adapter, targets=("q", "mispelt"))
    assert trace(encoder) == before


# -- the numbers do not depend on how they are computed ---------------------------------------------------------------


@pytest.mark.parametrize(("adapter", "name"), [p for p in PAIRS if class_of(p[0]).identity_at_init])
def test_a_fresh_identity_adapter_changes_nothing(adapter, name):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    before = tensors(outputs_of(encoder, inputs))
    grafted = graft(encoder, adapter)
    after = tensors(outputs_of(grafted, inputs))
    grafted.ungraft()
    # nn.MultiheadAttention has a native path for inference, which sums in another order than the adapter's forward.
    tolerance = 2e-5 if name == "mha" else 0.0
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=tolerance)


@every_pair
def test_running_from_the_first_changed_stage_equals_the_whole_run(adapter, name):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        first = graft_stage(encoder, adapter)
        cached = {}
        for modality, tower in encoder.towers().items():
            stage = first[modality]
            if stage >= tower.n_stages:  # nothing but the features is read
                cached[modality] = tower(inputs[modality], scores=bool(tower.attention) and tower.has_cls)
            else:
                cached[modality] = tower.prefix(inputs[modality], stage)
        torch.manual_seed(0)
        grafted = graft(encoder, adapter).eval()
        whole = tensors(grafted.encode(inputs))
        towers = encoder.towers()
        resumed = {}
        for modality, x in cached.items():
            kept = first[modality] >= towers[modality].n_stages
            resumed |= grafted.encode({modality: x}, {} if kept else {modality: first[modality]})
        grafted.ungraft()
    for key, value in tensors(resumed).items():
        # The same operations on the same values; only the scores' kernels may be chosen anew.
        torch.testing.assert_close(value, whole[key], rtol=1e-5, atol=1e-6)


def graft_stage(encoder, adapter) -> dict[str, int]:
    grafted = graft(encoder, adapter)
    first = grafted.first_stage()
    grafted.ungraft()
    return first


@every_pair
def test_gradient_checkpointing_changes_neither_the_loss_nor_the_gradients(adapter, name):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    grafted = grafted_with_head(encoder, adapter).train()
    found = []
    for run in (grafted.encode, lambda batch: checkpoint(grafted.encode, batch, use_reentrant=False)):
        torch.manual_seed(3)  # the same dropout masks
        grafted.zero_grad()
        value = grafts.loss(grafted, run(inputs))
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in grafted.trainable_parameters() if p.grad is not None)])
    grafted.ungraft()
    # The recomputation repeats the same kernels; gradients may be summed in another order.
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


@every_pair
def test_autocast_gives_the_numbers_of_full_precision(adapter, name):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    torch.manual_seed(0)
    grafted = graft(encoder, adapter)
    full = outputs_of(grafted, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = outputs_of(grafted, inputs)
    grafted.ungraft()
    for tower, features in full.items():
        # bfloat16 keeps 8 bits, 0.4% per rounding; the towers chain some tens of them.
        wanted, got = features.pooled, half[tower].pooled.float()
        assert torch.linalg.vector_norm(got - wanted) < 0.05 * torch.linalg.vector_norm(wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "name", "backend"),
    # The whole compiler once; tracing alone, which is where hooks and shadowed forwards could get lost, for the others.
    [("lora", "mha", "inductor"), ("ace_lora", "timm", "aot_eager"), ("brain_adapter", "brain", "aot_eager")],
)
def test_compilation_gives_the_numbers_of_eager_mode(adapter, name, backend):
    encoder = tiny.fresh(name)
    inputs = tiny.batch(encoder)
    grafted = grafted_with_head(encoder, adapter).eval()

    def run(batch):
        value = grafts.loss(grafted, grafted.encode(batch))
        value.backward()
        gradients = [p.grad.clone() for p in grafted.trainable_parameters() if p.grad is not None]
        grafted.zero_grad()
        return value.detach(), gradients

    wanted = run(inputs)
    torch.compiler.reset()
    grafted.encode = torch.compile(grafted.encode, backend=backend)
    got = run(inputs)
    # Fused kernels sum in another order; 1e-4 is a hundred roundings of float32.
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_builtin_adapters_are_found():
    assert {"lora", "ace_lora", "brain_adapter", "linear_probe"} <= set(ADAPTERS)
    assert all(plugins.discover("adapter")[name].distribution == "medgraft" for name in ADAPTERS)
