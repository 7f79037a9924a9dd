"""A budget of parameters is kept, and used as far as the size knob goes; parameters are counted on real grafts."""

from __future__ import annotations

import pytest
import tiny_encoders

from medgraft import plugins
from medgraft.adapter.sizing import parse_count, shown_count, sized, trainable_of
from medgraft.errors import ConfigError, IncompatibleError, MedgraftError
from medgraft.registry import build_adapters

NAMES = [name for name, plugin in plugins.discover("adapter").items() if plugin.builtin and name != "peft"]
BUDGET = 9_000


PLACES = [(name, "hf_clip") for name in NAMES] + [("lora", "timm_cnn"), ("ssf", "timm_cnn"), ("houlsby", "brain")]


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_the_budget_is_kept_and_the_next_size_would_break_it(name, kind):
    encoder = tiny_encoders.shared(kind)
    adapter = next(iter(build_adapters(name).values()))
    if not adapter.supports(encoder):
        return
    try:
        sizing = sized(encoder, name, {}, BUDGET)
    except IncompatibleError as error:
        assert "more than the budget of 9,000" in str(error)
        return
    assert sizing.reached == trainable_of(encoder, name, sizing.options) <= BUDGET
    if adapter.size_knob is None:
        assert sizing.value is None and sizing.options == {}
        return
    knob = adapter.size_knob
    assert sizing.value is not None and sizing.option == f"{name}.{knob.option}"
    larger = sizing.value - knob.step if knob.shrinks else sizing.value + knob.step
    try:
        above = trainable_of(encoder, name, knob.set_in(sizing.options, larger))
    except MedgraftError:
        above = None
    if above is None or above <= BUDGET:  # the option's range or the encoder ends here
        assert sizing.above is None
    else:
        assert sizing.above == above > BUDGET


def test_a_rank_of_peft_is_a_knob_and_that_of_vera_is_not():
    (lora,), (vera,) = (build_adapters(name).values() for name in ("peft:lora", "peft:vera"))
    assert lora.size_knob is not None and lora.size_knob.option == "options.r" and vera.size_knob is None


def test_of_a_composed_adapter_the_first_part_is_scaled_and_the_whole_counts():
    encoder = tiny_encoders.shared("chest")
    rest = trainable_of(encoder, "ace_hgnn", {"hidden_dim": 8})
    sizing = sized(encoder, "lora+ace_hgnn", {"ace_hgnn": {"hidden_dim": 8}}, rest + 10_000)
    assert sizing.option == "lora.rank" and rest < sizing.reached <= rest + 10_000
    assert sizing.options["ace_hgnn"] == {"hidden_dim": 8}


@pytest.mark.parametrize(
    ("text", "count"), [("1M", 10**6), ("500k", 500_000), ("2.5M", 2_500_000), ("12000", 12_000), (" .5m ", 500_000)]
)
def test_counts_are_read(text, count):
    assert parse_count(text) == count == parse_count(shown_count(count))


@pytest.mark.parametrize("text", ["", "0", "M", "-1M", "1T", "1e6", "0.1", "one", "1 M k", "nan"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ConfigError, match="a budget is a number of parameters"):
        parse_count(text)
