"""What an adapter may do beside attaching: protocols that it offers by having a method, under old names too."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny_encoders as tiny
import torch

from medgraft.adapter import Adapter, Attachment, protocols
from medgraft.adapter.class_prompts import ClassAdapter
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapters.kgcoop import KgCoOp
from medgraft.adapters.linear_probe import LinearProbe
from medgraft.fast.cls_block import ClsReadOut
from medgraft.features import Condenser
from medgraft.grafting import Grafted
from medgraft.schedule import ONE_PHASE, Phase, Stage


class Plain(Adapter):
    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment


class Today(Plain):
    token_wise = True

    def phases(self):
        return Phase("one", share=0.5), Phase("two", share=0.5)

    def enter_phase(self, phase):
        self.entered = phase

    def set_task_ids(self, tasks):
        self.tasks = tasks

    def diagnostics(self):
        return {"load": 1}

    def reset_diagnostics(self):
        self.was_reset = True

    def prompt_ensemble(self, count):
        return nullcontext()

    def precompute(self, tower):
        return Condenser("key", lambda features: features)


class Earlier(Plain):
    """The same, written for an earlier version."""

    row_wise = True

    def schedule(self):
        return Stage("one", share=0.5), Stage("two", share=0.5)

    def enter_stage(self, stage):
        super().enter_stage(stage)
        self.entered = stage

    def tell_tasks(self, tasks):
        super().tell_tasks(tasks)
        self.tasks = tasks

    def report(self):
        return {**super().report(), "load": 1}

    def reset_report(self):
        super().reset_report()
        self.was_reset = True

    def joining_prompts(self, count):
        assert super().joining_prompts(count) is None
        return nullcontext()

    def condenser(self, tower):
        assert super().condenser(tower) is None
        return Condenser("key", lambda features: features)


METHODS = (
    protocols.TrainsInPhases,
    protocols.EntersPhases,
    protocols.TakesTaskIds,
    protocols.HasDiagnostics,
    protocols.ResetsDiagnostics,
    protocols.EnsemblesPrompts,
    protocols.Precomputes,
)


@pytest.mark.parametrize("protocol", METHODS)
def test_an_adapter_offers_what_it_has_and_nothing_else(protocol):
    assert isinstance(Today(), protocol) and isinstance(Earlier(), protocol)
    assert not isinstance(Plain(), protocol)


@pytest.mark.parametrize("cls", [Today, Earlier])
def test_the_harness_asks_for_the_protocol_whatever_the_name(cls):
    adapter, tasks = cls(), torch.tensor([1, 0])
    encoder = tiny.fresh("timm")
    grafted = Grafted(encoder, {"it": adapter})
    assert [phase.name for phase in protocols.phases_of(adapter)] == ["one", "two"]
    protocols.enter_phase(adapter, "two")
    protocols.set_task_ids(adapter, tasks)
    protocols.reset_diagnostics(adapter)
    assert (adapter.entered, adapter.tasks is tasks, adapter.was_reset) == ("two", True, True)
    assert protocols.diagnostics_of(adapter) == {"load": 1}
    assert type(protocols.prompt_ensemble([Plain(), adapter], 2)) is nullcontext
    assert [condenser.key for condenser in grafted.condensers().values()] == ["key"]
    assert adapter.token_wise and adapter.row_wise and ClsReadOut(grafted) is not None


@pytest.mark.parametrize("cls", [Today, Earlier])
@pytest.mark.parametrize(("earlier", "name"), protocols.EARLIER_NAMES.items())
def test_a_caller_may_use_either_name(cls, earlier, name):
    if hasattr(cls, name):
        assert getattr(cls, earlier) is getattr(cls, name)


def test_baselines_offer_what_the_harness_asks_them_for():
    by_support, prompts = SupportAdapter(), KgCoOp()
    assert isinstance(by_support, protocols.ClassifiesBySupport) and isinstance(prompts, protocols.HeldToPrompts)
    assert all(isinstance(each, protocols.ResizesForLoad) for each in (by_support, prompts, ClassAdapter()))
    offered = (protocols.ClassifiesBySupport, protocols.HeldToPrompts, protocols.ResizesForLoad)
    assert not any(isinstance(Plain(), each) for each in offered)


def test_a_plain_adapter_answers_the_earlier_calls_as_it_did():
    adapter = Plain()
    assert adapter.schedule() == protocols.phases_of(adapter) == ONE_PHASE
    assert adapter.report() == protocols.diagnostics_of(adapter) == {}
    assert adapter.condenser(tiny.shared("timm")) is adapter.joining_prompts(2) is None
    assert not adapter.row_wise and not adapter.token_wise
    for harmless in (protocols.reset_diagnostics, lambda each: protocols.set_task_ids(each, None)):
        harmless(adapter)


@pytest.mark.parametrize(("assigned", "read"), [("row_wise", "token_wise"), ("token_wise", "row_wise")])
def test_an_instance_may_change_its_mind_under_either_name(assigned, read):
    adapter = Today()
    setattr(adapter, assigned, False)
    assert getattr(adapter, read) is False and Today.token_wise is True


def test_an_earlier_name_in_a_subclass_wins_over_todays_in_its_base():
    class Probe(LinearProbe):
        def condenser(self, tower):
            return super().condenser(tower) and None

    class Mixin:
        def meet_classes(self, images, targets, count):
            self.count = count

    class Memory(Mixin, ClassAdapter):
        def evidence(self, images):
            return 2 * images

    assert protocols.precomputation_of(LinearProbe(), tiny.shared("timm")) is not None
    assert protocols.precomputation_of(Probe(), tiny.shared("timm")) is None
    memory = Memory()
    assert isinstance(memory, protocols.LearnsClasses) and not isinstance(Plain(), protocols.LearnsClasses)
    memory.fit_classes(torch.zeros(2, 3), torch.tensor([0, 1]), 2)
    assert memory.count == 2 and torch.equal(memory.extra_logits(torch.ones(1, 2)), torch.full((1, 2), 2.0))
    assert memory.make_room({}) is None and memory.own_prompts(["a"]) is None
