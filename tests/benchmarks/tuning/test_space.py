"""Spaces of one size for every adapter that trains, made of options that exist and values that are allowed."""

from __future__ import annotations

import pytest

from medgraft import plugins
from medgraft.adapter.knobs import SEARCH_VALUES
from medgraft.benchmarks.tuning.space import DIMENSIONS, applied, epochs_around, size_of, space_of, with_default
from medgraft.errors import PluginError
from medgraft.objective import objective_class
from medgraft.registry import TrainDefaults, adapter_facts, build_adapters, resolve_adapter

NAMES = [name for name, plugin in plugins.discover("adapter").items() if plugin.builtin]
NAMES += ["peft:vera", "linear_probe:sgd", "lora+ace_hgnn", "perceiver_resampler+gated_xattn"]
SOLVED = {
    "linear_probe",
    "logistic",
    "knn",
    "prototypes",
    "ss_text",
    "zero_shot",
    "lp_text",
    "zslp",
    "clap",
    "nearest_report",
}


def space(name: str, objective: str = "multiclass", fixed=()):
    train = adapter_facts(resolve_adapter(name.split("+")[-1])).train
    return space_of(build_adapters(name), objective_class(objective), train, fixed), train


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_that_trains_searches_625_points_and_its_defaults_are_one(name):
    found, train = space(name)
    if name not in SOLVED:
        assert [len(each.values) for each in found] == [SEARCH_VALUES] * DIMENSIONS and size_of(found) == 625
    for each in found:
        assert each.values.count(each.default) == 1
    built = build_adapters(name)
    options = {part: each.config.model_dump(mode="json") for part, each in built.items()}
    whole = options[name] if len(options) == 1 else options
    same, same_train = applied(found, {each.name: each.default for each in found}, whole, train)
    assert same == whole and same_train == train


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_space_is_allowed(name):
    found, train = space(name)
    built = build_adapters(name)
    for each in found:
        part, _, option = each.name.rpartition(".")
        for value in each.values:
            if part == "train":
                TrainDefaults.model_validate(train.model_dump() | {option: value})
            else:
                config = built[part].config
                type(config).model_validate(config.model_dump() | {option: value})


def test_what_trains_nothing_has_only_its_own_options():
    assert [each.name for each in space("knn")[0]] == ["knn.k", "knn.temperature"]
    assert space("zero_shot")[0] == []
    assert all("train." not in each.name for each in space("linear_probe")[0])


def test_a_solved_head_trains_where_the_task_has_no_regression():
    assert space("linear_probe", "segmentation")[0][0].name == "train.lr"


def test_what_somebody_has_set_stays_and_the_space_keeps_its_size():
    found, _ = space("lora", fixed={"lora.rank", "train.lr"})
    assert [each.name for each in found] == ["lora.alpha", "train.epochs", "train.weight_decay", "train.warmup"]


def test_parts_of_a_composed_adapter_take_turns():
    assert [each.name for each in space("lora+ace_hgnn")[0]][:2] == ["lora.rank", "ace_hgnn.top_k"]


def test_an_option_that_does_not_exist_is_named():
    (adapter,) = build_adapters("lora").values()
    adapter.search = {"rang": (1, 2, 3, 4, 5)}
    with pytest.raises(PluginError, match="names 'rang' in `search`"):
        space_of({"lora": adapter}, objective_class("multiclass"), TrainDefaults())


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6, 7, 10, 20, 60, 100])
def test_five_different_numbers_of_epochs(epochs):
    values = epochs_around(epochs)
    assert len(set(values)) == SEARCH_VALUES and epochs in values and min(values) >= 1 and values == sorted(values)


def test_a_default_that_is_no_candidate_takes_the_place_of_the_nearest():
    assert with_default((0.0, 0.1, 1.0), 0.09) == [0.0, 0.09, 1.0]
    assert with_default(("a", "b"), "c") == ["c", "b"]
