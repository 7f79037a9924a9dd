"""One variable turns every shortcut off, and nothing that is there to be right."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.errors import ConfigError
from medgraft.fast import linear
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.forms import Forms, fast_forms
from medgraft.fast.switch import VARIABLE, is_plain
from medgraft.grafting import graft
from medgraft.ops import backends


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "1")


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("1", True), (" 1 ", True)])
def test_the_variable_is_read_at_each_call(monkeypatch, value, expected):
    monkeypatch.setenv(VARIABLE, value)
    assert is_plain() is expected
    monkeypatch.delenv(VARIABLE)
    assert not is_plain()


@pytest.mark.parametrize("value", ["yes", "true", "2"])
def test_another_value_is_refused(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigError, match=f"MEDGRAFT_PLAIN is '{value}'; set it to 1 for plain PyTorch"):
        is_plain()


def replaced(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> set[object]:
    """The functions that a context replaces."""
    found: list[set[object]] = [set()]
    real = Forms.__init__
    monkeypatch.setattr(Forms, "__init__", lambda self, forms: (found.append(set(forms)), real(self, forms))[1])
    with fast_forms("cpu", bf16=bf16, read_out=ClsReadOut(graft(tiny.fresh("chest"), "lora"))):
        pass
    return found[-1]


def test_nothing_is_replaced_but_what_would_be_wrong(monkeypatch):
    attention = F.scaled_dot_product_attention
    assert replaced(monkeypatch, True) == {F.linear, attention, torch.conv3d}
    monkeypatch.setenv(VARIABLE, "1")
    assert replaced(monkeypatch, False) == set()
    assert replaced(monkeypatch, True) == {torch.conv3d}


def test_the_last_block_runs_whole(plain):
    grafted = graft(tiny.fresh("chest"), "lora", rank=2).eval()
    read_out, batch = ClsReadOut(grafted), tiny.batch(grafted.encoder)
    with torch.no_grad():
        expected = grafted.encode(batch)["image"].tokens
        with fast_forms("cpu", bf16=False, read_out=read_out):
            assert torch.equal(grafted.encode(batch)["image"].tokens, expected)


@pytest.mark.parametrize("asked", ["auto", "fused"])
@pytest.mark.filterwarnings("ignore::medgraft.ops.backends.FusedFallbackWarning")
def test_operations_run_eager_and_say_why(plain, asked):
    with backends.recording() as record:
        assert backends.choose("lora", asked, None) == "eager"
    assert record.summary()["lora"][0]["reason"] == "MEDGRAFT_PLAIN=1 turns fused forms off"


def test_products_are_pytorchs_own(plain, monkeypatch):
    monkeypatch.setattr(linear, "has_onednn", lambda: True)
    monkeypatch.setattr(linear, "fast_choice", lambda: pytest.fail("measured"))
    monkeypatch.setattr(linear, "onednn_linear", lambda *_: pytest.fail("oneDNN"))
    x, weight, bias = torch.ones(2048, 128), torch.ones(128, 128), torch.ones(128)
    assert linear.fp32_choice().product == "mkl"
    assert torch.equal(linear.linear(x, weight, bias), F.linear(x, weight, bias))
    assert not linear.takes_onednn_bias(x.bfloat16(), weight.bfloat16(), bias.bfloat16())


def test_nothing_is_precomputed_from_features(plain):
    assert graft(tiny.fresh("chest"), "ace_hgnn").condensers() == {}
