"""Copies of grafts obey their own adapters; a grafted encoder takes no second graft; the way back without the graft."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medgraft import encoder_of, ungraft_all
from medgraft.adapter import Adapter, Attachment
from medgraft.attachment.portable import LocalFunction, portable
from medgraft.encoder import DualEncoder, Encoder
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted, graft
from medgraft.testing.adapter_rules.copies import replica_of, stored

pytestmark = pytest.mark.usefixtures("seeded")
WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda graft: pickle.loads(pickle.dumps(graft)), "torch.save": stored}
ADAPTERS = ["lora", "ace_lora", "bitfit", "houlsby", "ssf", "vpt", "peft:lora", "linear_probe"]


def run(model: nn.Module) -> torch.Tensor:
    encoder = encoder_of(model)
    with torch.no_grad():
        return model(next(iter(tiny.batch(encoder).values()))).pooled


def shake(grafted: Grafted, size: float = 0.3) -> Grafted:
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * size)
    return grafted


class Gain(Adapter):
    """As the documentation of plugins shows it: lambdas over what the adapter trains."""

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        features = [site for site in sites.values() if site.kind == "features"]
        blocks = [site for site in sites.values() if site.kind == "block"]
        attachment.record({"features": features, "blocks": blocks})
        self.gain = nn.Parameter(torch.ones(()))
        calls = 0

        def counted(x):
            nonlocal calls
            calls += 1
            return x * self.gain

        self.calls = lambda: calls
        for site in blocks:
            attachment.map_output(site, lambda x, gain=self.gain: x * gain.to(x.dtype))
            attachment.map_output(site, counted)
        return attachment


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "adapter"),
    [("chest", "ace_lora"), ("hf_vit", "houlsby"), ("mha", "lora"), ("chest", "peft:lora"), ("hf_clip", "lora")],
)
def test_a_copy_on_an_encoder_of_a_library_stands_alone(name, adapter, way):
    grafted = shake(graft(tiny.fresh(name), adapter)).eval()
    bare, before = run(tiny.fresh(name)), run(grafted)
    twin = WAYS[way](grafted)
    assert torch.equal(run(twin), before)
    shake(twin)
    assert not torch.equal(run(twin), before) and torch.equal(run(grafted), before)
    twin(next(iter(tiny.batch(twin.encoder).values()))).pooled.sum().backward()
    assert not any(p.grad is not None for p in grafted.parameters())
    assert any(p.grad is not None for p in twin.trainable_parameters())
    assert torch.equal(run(twin.ungraft()), bare) and torch.equal(run(grafted), before)


@pytest.mark.parametrize("way", WAYS)
def test_lambdas_of_a_plugin_follow_the_copy_and_share_what_they_shared(way):
    grafted = Grafted(tiny.fresh("timm"), {"gain": Gain()}).eval()
    run(grafted)
    kept = grafted.adapters["gain"].calls()
    twin = WAYS[way](grafted)
    gain: Any = grafted.adapters["gain"]
    other: Any = twin.adapters["gain"]
    with torch.no_grad():
        other.gain.fill_(2.0)
    assert not torch.equal(run(twin), run(grafted)), "a default argument and a variable are the copy's"
    assert (gain.calls(), other.calls()) == (kept + 2, kept + 2), "two blocks, once more each"


@pytest.mark.parametrize("state", ["merged", "paused", "second"])
@pytest.mark.parametrize("way", WAYS)
def test_the_state_of_a_graft_is_copied(state, way):
    grafted = shake(graft(tiny.fresh("timm"), "lora")).eval()
    bare, plain = run(tiny.fresh("timm")), run(grafted)
    if state == "merged":
        grafted.merge()
    elif state == "paused":
        grafted.activate()
    else:
        grafted.add("second", Gain())
    before = run(grafted)
    twin = WAYS[way](grafted)
    assert torch.equal(run(twin), before) and twin.active == grafted.active and not twin.training
    if state == "merged":
        twin.unmerge()
        assert torch.equal(run(grafted), before), "the original stays merged"
    twin.activate("lora")
    assert torch.equal(run(twin), plain)
    assert torch.equal(run(twin.ungraft()), bare)


def test_a_copy_keeps_flags_types_heads_and_shared_parameters():
    head = nn.Linear(48, 3)
    grafted = graft(tiny.fresh("timm"), "lora", head=head)
    lora: Any = grafted.adapters["lora"]
    deltas: list[Any] = list(lora.delta.values())
    deltas[0].A.requires_grad_(False)
    deltas[1].A = deltas[2].A
    head.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64), requires_grad=False)
    state = torch.get_rng_state()
    for way in WAYS.values():
        twin = way(grafted)
        own = list(twin.adapters["lora"].delta.values())
        assert not own[0].A.requires_grad and own[1].A is own[2].A and own[1].A is not deltas[1].A
        assert twin.head.bias.dtype == torch.float64 and twin.training
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in grafted.named_parameters()]
    assert torch.equal(torch.get_rng_state(), state), "a copy draws no random numbers"


class Model(nn.Module):
    """A model that holds the encoder before its graft."""

    def __init__(self, grafted: Grafted) -> None:
        super().__init__()
        self.encoder = grafted.encoder
        self.grafted = grafted

    def forward(self, x):
        return self.grafted(x)


@pytest.mark.parametrize("way", WAYS)
def test_a_graft_inside_a_larger_model_is_copied_with_it(way):
    grafted = shake(graft(tiny.fresh("timm"), "lora")).eval()
    before = run(grafted)
    twin = WAYS[way](Model(grafted))
    assert twin.encoder is twin.grafted.encoder
    shake(grafted)
    assert torch.equal(run(twin.grafted), before)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_average_of_weights_is_that_and_not_the_live_model(adapter):
    grafted = shake(graft(tiny.fresh("chest"), adapter)).eval()
    average, before = AveragedModel(grafted), run(grafted)
    average.update_parameters(grafted)
    shake(grafted)
    assert torch.equal(run(average.module), before)


def test_an_optimizer_of_a_copy_moves_the_copy():
    grafted = shake(graft(tiny.fresh("timm"), "lora")).eval()
    before, twin = run(grafted), copy.deepcopy(grafted)
    optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=0.1)
    twin(tiny.batch(twin.encoder)["image"]).pooled.square().sum().backward()
    optimizer.step()
    assert not torch.equal(run(twin), before) and torch.equal(run(grafted), before)


def _in_another_process(received, answers) -> None:
    grafted = received.get()
    answers.put(run(grafted).numpy())


@pytest.mark.slow
def test_a_graft_goes_to_another_process():
    grafted = shake(graft(tiny.fresh("timm"), "ace_lora")).eval()
    context = multiprocessing.get_context("spawn")
    given, answers = context.Queue(), context.Queue()
    process = context.Process(target=_in_another_process, args=(given, answers))
    process.start()
    given.put(pickle.loads(pickle.dumps(grafted)))
    assert torch.equal(torch.from_numpy(answers.get(timeout=120)), run(grafted))
    process.join()


@pytest.mark.parametrize("adapter", ["lora", "full_finetune", "gated_xattn"])
def test_gradients_of_a_replica_reach_the_original(adapter):
    grafted = shake(graft(tiny.fresh("hf_clip"), adapter), 0.05)
    replica = replica_of(grafted)
    outputs = replica.encode(tiny.batch(grafted.encoder))
    torch.stack([each.pooled.sum() for each in outputs.values()]).sum().backward()
    assert all(p.grad is not None for p in grafted.trainable_parameters() if p.numel() > 1) or adapter != "lora"
    assert any(p.grad is not None for p in grafted.trainable_parameters())


# -- an encoder that is grafted ---------------------------------------------------------------------------------------


def test_a_copy_of_the_encoder_alone_is_bare():
    grafted = shake(graft(tiny.fresh("timm"), "lora")).eval()
    before = run(grafted)
    grafted.merge()
    twin = copy.deepcopy(grafted.encoder)
    assert torch.equal(run(twin), run(tiny.fresh("timm"))) and not twin.carried()
    assert torch.equal(run(graft(twin, "lora")), run(tiny.fresh("timm")))
    grafted.unmerge()
    assert torch.equal(run(grafted), before)


def test_a_pickle_of_the_encoder_alone_carries_adapters_that_come_off():
    grafted = shake(graft(tiny.fresh("timm"), "lora")).eval()
    whole: Any = grafted.encoder
    twin = stored(whole)
    assert torch.equal(run(twin), run(grafted.encoder))
    assert torch.equal(run(ungraft_all(twin)), run(tiny.fresh("timm")))


@pytest.mark.parametrize("second", ["lora", "bitfit", "linear_probe"])
@pytest.mark.parametrize("state", ["fresh", "merged", "paused", "copied", "stored", "let go of"])
def test_a_second_graft_is_refused(second, state):
    grafted = shake(graft(tiny.fresh("chest"), "lora")).eval()
    if state == "merged":
        grafted.merge()
    elif state == "paused":
        grafted.activate()
    elif state in ("copied", "stored"):
        grafted = {"copied": copy.deepcopy, "stored": stored}[state](grafted)
    encoder: Encoder = grafted.encoder
    if state == "let go of":
        del grafted
        gc.collect()
    towers = [encoder, *encoder.towers().values()]
    for each in towers:
        with pytest.raises(ConfigError, match=r"carries lora already; ungraft\(\) it or add\(\)"):
            graft(each, second)
    assert torch.equal(run(ungraft_all(encoder)), run(tiny.fresh("chest")))
    graft(encoder, second)


def test_a_graft_is_no_place_for_a_graft():
    grafted = graft(tiny.fresh("timm"), [Gain(), Gain()])
    with pytest.raises(ConfigError, match="carries gain, gain1 already"):
        graft(grafted, "lora")


def test_a_tower_that_two_encoders_share_is_grafted_once():
    encoder = tiny.fresh("chest")
    other = DualEncoder(encoder.spec, encoder.towers())
    grafted = graft(encoder, "lora")
    with pytest.raises(ConfigError, match="carries lora already"):
        graft(other, "lora")
    grafted.ungraft()
    first = graft(other, "lora")
    with pytest.raises(ConfigError, match="carries lora already"):
        graft(encoder, "lora")
    assert ungraft_all(encoder) is encoder and not other.carried()
    assert not first.trainable_parameters() or torch.equal(run(first.encoder), run(tiny.fresh("chest")))


def test_everything_comes_off_an_encoder_of_a_larger_model():
    grafted = shake(graft(tiny.fresh("timm"), "lora+ace_hgnn"))
    model = Model(grafted)
    assert encoder_of(model) is grafted.encoder
    assert ungraft_all(model) is grafted.encoder and torch.equal(run(grafted.encoder), run(tiny.fresh("timm")))
    with pytest.raises(ConfigError, match="taken off its encoder, so its adapters act no more"):
        run(grafted)
    with pytest.raises(ConfigError, match="should hold one encoder, and holds none"):
        ungraft_all(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="holds test:mha, test:mha"):
        encoder_of(nn.ModuleList([tiny.fresh("mha"), tiny.fresh("mha")]))


# -- functions --------------------------------------------------------------------------------------------------------


def _two_lambdas(a, b):
    return [lambda: a, lambda: (a, b)]


def test_functions_that_look_alike_are_told_apart_in_a_pickle():
    first, second = pickle.loads(pickle.dumps([portable(f) for f in _two_lambdas(1, 2)]))
    assert (first(), second()) == (1, (1, 2))


def test_functions_of_a_module_are_constants():
    assert portable(_two_lambdas) is _two_lambdas
    assert portable((len, torch.relu, 3)) == (len, torch.relu, 3)
    assert isinstance(portable(_two_lambdas(1, 2))[0], LocalFunction)


def test_a_function_of_no_module_is_refused_by_name():
    made = eval("lambda x: lambda: x")(1)
    assert copy.deepcopy(portable(made))() == 1
    with pytest.raises(pickle.PicklingError, match="found under that name in no module"):
        pickle.dumps(portable(made))
