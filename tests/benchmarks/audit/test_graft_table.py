"""The table of grafts: on small members of odd families every cell works or is refused with a reason."""

from __future__ import annotations

import pytest
import torch

from medgraft.benchmarks.audit import graft_table
from medgraft.benchmarks.audit.graft_table import ADAPTERS, ENCODERS, attempt, build

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = ("lora", "lora *.qkv", "ssf", "bitfit", "peft:lora *.qkv", "lora *", "houlsby")
FAMILIES = (
    "timm:vit_tiny_patch16_224",  # a packed qkv
    "timm:beit_base_patch16_224",  # biases beside the packed qkv
    "timm:swinv2_tiny_window8_256",
    "timm:vit_base_patch16_siglip_224",  # pooled by attention
    "timm:resnetv2_50x1_bit",  # standardised convolutions
    "timm:tf_efficientnet_b0",  # padded as TensorFlow pads
    "embedded:chest",  # two towers
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_cell_is_wrong(name):
    encoder = build(name, ENCODERS[name])
    cells = {row: attempt(encoder, *ADAPTERS[row]) for row in ROWS}
    assert {row: cell.text for row, cell in cells.items() if cell.status == "wrong"} == {}
    assert all(cell.text for cell in cells.values() if cell.status == "refused")
    assert any(cell.status == "works" for cell in cells.values())


def test_a_graft_whose_parameter_learns_nothing_is_wrong(monkeypatch):
    encoder = build("timm:vit_tiny_patch16_224", ENCODERS["timm:vit_tiny_patch16_224"])
    assert attempt(encoder, *ADAPTERS["lora"]).status == "works"
    monkeypatch.setattr(graft_table, "_gradients", lambda grafted, inputs: "1 of 8 parameters get no gradient: a")
    cell = attempt(encoder, *ADAPTERS["lora"])
    assert (cell.status, cell.text) == ("wrong", "1 of 8 parameters get no gradient: a")


def test_a_merge_that_changes_the_result_is_wrong(monkeypatch):
    encoder = build("timm:vit_tiny_patch16_224", ENCODERS["timm:vit_tiny_patch16_224"])
    outputs, calls = graft_table._outputs, []

    def off_by_a_tenth(model, inputs):
        calls.append(model)
        found = outputs(model, inputs)
        return [value * 1.1 for value in found] if len(calls) == 3 else found  # bare, adapted, merged

    monkeypatch.setattr(graft_table, "_outputs", off_by_a_tenth)
    cell = attempt(encoder, *ADAPTERS["lora"])
    assert cell.status == "wrong" and "merge() changes the features by 0.1" in cell.text
    assert not any(torch.isnan(value).any() for value in outputs(encoder, graft_table.batch(encoder)))
