"""Options: values of their kind, text of the command line, and words for people about every built-in's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from medgraft import plugins
from medgraft.errors import ConfigError, UnknownNameError, nearest
from medgraft.options import Options, Seed, allowed_by, as_text, checked, described, from_text, in_words, kind_of, plain
from medgraft.registry import TrainDefaults

INTERNALS = re.compile(
    r"typing|Annotated|Literal|Optional|Union|NoneType|<class|Field\(|tuple\[|dict\[|list\[|\bint\b|`"
)


class Sample(Options):
    """Options.

    Attributes:
        number: A number,
            over two lines.
        share: See ``number`` and :class:`medgraft.options.Options`.
    """

    number: int = Field(3, ge=1, lt=10)
    share: float | None = Field(None, gt=0, le=1)
    flag: bool = Field(True, description="A switch.")
    name: str = Field("x", description="A name.")
    kind: Literal["a", "b"] = Field("a", description="A choice.")
    several: tuple[Annotated[int, Field(ge=0)], ...] = Field((1, 2), min_length=1, description="Numbers.")
    three: int | tuple[int, int, int] = Field(4, description="One or three.")
    table: dict[str, Any] = Field(default_factory=dict, description="Anything.")
    seed: Seed = 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": True}, {"number": "3"}, {"number": 0}, {"number": 10}, {"number": 2.5}, {"share": "0.5"},
        {"share": False}, {"share": 0}, {"flag": 1}, {"flag": "yes"}, {"flag": 0.0}, {"name": 3}, {"kind": "c"},
        {"several": [True]}, {"several": ["1"]}, {"several": []}, {"three": True}, {"three": [1, 2, "3"]},
        {"three": [1, 2]}, {"seed": -1}, {"seed": 2**32}, {"nmber": 1},
    ],
)  # fmt: skip
def test_no_value_stands_for_one_of_another_kind(wrong):
    with pytest.raises(ValidationError):
        Sample.model_validate(wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"number": 9}, {"number": 3.0}, {"share": 1}, {"share": None}, {"flag": False}, {"several": [5]},
        {"three": 7}, {"three": [1, 2, 3]}, {"table": {"a": True, "b": "2"}}, {"seed": 2**32 - 1},
    ],
)  # fmt: skip
def test_right_values_stay_as_they_are(right):
    ((name, value),) = right.items()
    found = getattr(Sample.model_validate(right), name)
    assert found == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("number", "4", 4), ("share", "1e-3", 1e-3), ("share", "none", None), ("flag", "no", False),
        ("flag", "TRUE", True), ("name", "4", "4"), ("kind", "b", "b"), ("several", "3,4", (3, 4)),
        ("several", "[3]", (3,)), ("three", "8,4,4", (8, 4, 4)), ("three", "8", 8), ("number", "x", "x"),
    ],
)  # fmt: skip
def test_text_is_read_as_what_the_option_is(field, text, value):
    found = from_text(Sample.model_fields[field].annotation, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('["streamlines", "correlation"]', ("streamlines", "correlation")), ("['a', 'b']", ("a", "b")),
        ('["left, right", "both"]', ("left, right", "both")), ("a, b", ("a", "b")), ("[Crohn's, b]", ("Crohn's", "b")),
        ('("a",)', ("a",)), ("[]", ()), ("['tis, b]", ("'tis", "b")), ("[a\nb]", ("a\nb",)),
    ],
)  # fmt: skip
def test_lists_are_read_with_and_without_quotation_marks(text, value):
    assert from_text(tuple[str, ...], text) == value
    assert not text.startswith("[") or tuple(from_text(Any, text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [('["8"]', ["8"]), ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]), ("[8, a]", [8, "a"]), ("[true, null]", [True, None])],
)
def test_a_list_whose_parts_have_no_type_is_what_it_looks_like(text, value):
    assert plain(text) == value


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters='\\"[]()', categories=["L", "N", "P", "S"]))))
def test_a_list_in_json_is_the_list(texts):
    given_texts = [text for text in texts if text]
    assert from_text(tuple[str, ...], json.dumps(given_texts)) == tuple(given_texts)


def test_what_was_told_can_be_read_back():
    for name, info in Sample.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if name != "table":
            assert from_text(info.annotation, as_text(default)) == default


def test_options_are_described_in_plain_words():
    rows = {row.name: row for row in described(Sample)}
    assert rows["number"][1:] == ("whole number", "3", "at least 1, below 10", "A number, over two lines.")
    assert rows["share"][1:] == ("number or none", "none", "above 0, at most 1", "See number and Options.")
    assert rows["three"].kind == "whole number or 3 whole numbers"
    assert rows["several"][1:4] == ("list of whole numbers", "1,2", "not empty; each at least 0")
    assert described(Sample, {"number": 7})[0].default == "7"


@pytest.mark.parametrize(
    ("annotation", "kind", "allowed"),
    [
        (Literal["a"] | float, "choice or number", "a"),
        (tuple[str, ...] | None, "list of texts or none", ""),
        (Path, "path", ""),
        (Annotated[float, Field(ge=0, le=1)], "number", "0 to 1"),
    ],
)
def test_types_and_ranges_have_words(annotation, kind, allowed):
    assert (kind_of(annotation), allowed_by(annotation)) == (kind, allowed)


def test_markup_is_taken_off():
    assert in_words("see :class:`~a.b.C` and ``None``, `x`") == "see C and none, x"


def test_an_unknown_option_suggests_one():
    with pytest.raises(ConfigError, match=r"a thing: nmber: no such option; its options are: .*; did you mean number"):
        checked(Sample, {"nmber": 1}, "a thing")


@pytest.mark.parametrize(("name", "wanted"), [("LORA", "lora"), ("Brain_Adaptor", "brain_adapter"), ("zzz", "")])
def test_names_are_suggested_whatever_their_case(name, wanted):
    assert nearest(name, ["lora", "brain_adapter", "vpt"]) == wanted
    assert ("did you mean" in str(UnknownNameError("adapter", name, ["lora", "brain_adapter"]))) == bool(wanted)


# --- every built-in ---------------------------------------------------------------------------------------------------


def built_in_options() -> list[Any]:
    found = [("training", TrainDefaults, None)]
    for kind in ("adapter", "task"):
        for name, plugin in plugins.discover(kind).items():
            if plugin.builtin:
                found.append((name, plugins.load(plugin).Config, kind))
    found.append(("inflate3d", plugins.load(plugins.find("encoder", "inflate3d")).Config, "encoder"))
    return [pytest.param(config, id=f"{kind}-{name}") for name, config, kind in found]


@pytest.mark.parametrize("config", built_in_options())
def test_every_option_says_what_it_is_in_words(config):
    for row in described(config):
        assert len(row.meaning) >= 12 and row.meaning[0] not in ".,;", f"{row.name} needs a description"
        for text in row:
            assert not INTERNALS.search(text), f"{row.name}: {text}"


@pytest.mark.parametrize("config", built_in_options())
def test_every_number_has_a_lower_bound(config):
    assert [row.name for row in described(config) if "number" in row.kind and not row.allowed] == []


@pytest.mark.parametrize("method", ["lora", "vera", "IA3", "boft", "hra"])
def test_options_of_peft_methods_are_described(method):
    from medgraft.adapters.peft import PeftAdapter

    rows = PeftAdapter.variant_options(method)
    assert rows and all(row.name.startswith("options.") and row.meaning for row in rows)
    for row in rows:
        assert not INTERNALS.search(f"{row.kind} {row.default} {row.allowed}"), row
    assert not {"options.target_modules", "options.task_type"} & {row.name for row in rows}


def test_an_unknown_peft_method_is_named():
    from medgraft.adapters.peft import PeftAdapter

    with pytest.raises(UnknownNameError, match="did you mean vera"):
        PeftAdapter.variant_options("veraa")
