"""The table of peft's methods: each cell is what happened, and a failure leaves the encoder as it was."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny

from medgraft.benchmarks.speed import peft_table
from medgraft.checkpoints.weights import state_digest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("lora", "3,072"),  # 2 blocks, rank 8, on a packed qkv: 8 * 48 + 8 * 144
        ("poly", "no: it needs a task id with every sample"),
        ("prompt_tuning", "no: it does not act on layers that one can name"),
    ],
)
def test_a_cell_is_a_count_or_a_reason(method, wanted):
    encoder = tiny.fresh("timm")
    before = state_digest(encoder)
    assert peft_table.attempt(method, encoder, ("q", "v")) == wanted
    assert state_digest(encoder) == before


def test_a_method_that_fails_while_it_trains_is_a_reason(monkeypatch):
    def fail(grafted):
        raise RuntimeError("no such kernel\nsecond line")

    monkeypatch.setattr(peft_table, "_trains", fail)
    encoder = tiny.fresh("timm")
    before = state_digest(encoder)
    assert peft_table.attempt("lora", encoder, ("q",)) == "no: RuntimeError: no such kernel"
    assert state_digest(encoder) == before


def test_the_page_numbers_its_reasons_and_lists_what_is_not_offered():
    rows = {
        "lora": dict.fromkeys(peft_table.COLUMNS, "10") | {"open_clip": "no: too odd"},
        "poly": dict.fromkeys(peft_table.COLUMNS, "no: needs a task"),
    }
    text = peft_table.render(rows, "9.9")
    assert "| `peft:lora` | 10 | 10 | no [1] | 10 |" in text
    assert "1. `peft:lora` on open_clip: too odd" in text and "- `peft:poly`: needs a task" in text


def test_every_registered_method_gets_a_row():
    assert {"lora", "vera", "loha", "ia3", "boft", "poly"} <= set(peft_table.methods())
