"""Built-in adapters on encoders of the libraries; the rules themselves, on tiny encoders, are in ``tests/testing``."""

from __future__ import annotations

import functools
import unittest

import grafts
import pytest
import tiny_encoders as tiny
import torch
from grafts import grafted_with_head

from medgraft import plugins
from medgraft.testing import ConformanceError, check_adapter

pytestmark = pytest.mark.usefixtures("seeded")
# Found through the entry points, so a new adapter is covered without an edit here.
ADAPTERS = sorted(name for name, plugin in plugins.discover("adapter").items() if plugin.builtin)
LIBRARIES = {name: functools.partial(tiny.fresh, name) for name in ("timm", "timm_cnn", "hf_vit", "hf_clip")}
# Rules whose answer depends on how a library writes its modules. Those about options are the same on every encoder.
RULES = {
    "attaches_where_it_fits",
    "coverage_names_sites",
    "every_parameter_learns",
    "identity_at_the_start_is_true",
    "only_adapter_and_head_train",
    "saving_and_loading_is_exact",
    "the_file_holds_no_encoder_weight",
    "the_first_stage_is_true",
    "training_leaves_the_encoder_alone",
    "ungraft_restores_the_outputs",
    "ungraft_restores_the_tree",
}


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


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_conforms_on_the_encoders_of_the_libraries(adapter):
    problems = []
    for check in check_adapter(adapter, encoders=LIBRARIES):
        if check.name in RULES:
            try:
                check()
            except ConformanceError as error:
                problems.append(f"{check}: {error}")
            except unittest.SkipTest:
                continue
    assert not problems


def test_the_rules_that_are_chosen_exist():
    assert {str(check) for check in check_adapter("lora", encoders=LIBRARIES)} >= RULES


@pytest.mark.slow
def test_the_whole_compiler_gives_the_numbers_of_eager_mode():
    """The kit traces only, since an author's machine may have no C++ compiler."""
    encoder = tiny.fresh("mha")
    inputs = tiny.batch(encoder)
    grafted = grafted_with_head(encoder, "lora").eval()

    def run(batch):
        value = grafts.loss(grafted, grafted.encode(batch))
        value.backward()
        gradients = [p.grad.clone() for p in grafted.trainable_parameters() if p.grad is not None]
        grafted.zero_grad()
        return value.detach(), gradients

    wanted = run(inputs)
    torch.compiler.reset()
    grafted.encode = torch.compile(grafted.encode, backend="inductor")
    got = run(inputs)
    # Fused kernels sum in another order; 1e-4 is a hundred roundings of float32.
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
