"""The catalogue against the entry points, and names turned into encoders and adapters."""

from __future__ import annotations

import dataclasses

import pytest

from medgraft import plugins, registry
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.registry import (
    AliasEntry,
    Catalogue,
    adapter_class,
    build_adapter,
    build_adapters,
    build_encoder,
    catalogue,
    resolve_adapter,
    resolve_encoder,
)
from medgraft.task.names import resolve_task, variants_of

BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


def ours(kind: plugins.Kind) -> set[str]:
    return {name for name, plugin in plugins.discover(kind).items() if plugin.builtin}


@pytest.fixture
def changed(monkeypatch):
    """Puts another catalogue in the place of the shipped one."""

    def change(**entries) -> None:
        other = catalogue().model_copy(update=entries)
        monkeypatch.setattr(registry, "catalogue", lambda: other)

    return change


# -- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "encoder", "task"])
def test_the_catalogue_lists_exactly_our_entry_points(kind):
    tables = {"adapter": catalogue().adapters, "encoder": catalogue().encoders.sources, "task": catalogue().tasks}
    variants = {name for name in tables["task"] if ":" in name} if kind == "task" else set()
    assert set(tables[kind]) - variants == ours(kind)


def test_the_catalogue_lists_exactly_the_variants_that_our_tasks_declare():
    listed = {name for name in catalogue().tasks if ":" in name}
    assert listed == {variant for task in ours("task") for variant in variants_of(task)}


@pytest.mark.parametrize("kind", sorted({*plugins.GROUPS} - {"adapter", "encoder", "task"}))
def test_a_built_in_plugin_without_an_entry_says_in_a_line_what_it_is(kind):
    for plugin in plugins.discover(kind).values():
        if plugin.builtin:
            assert 10 < len(plugins.summary(plugin)) < 200, plugin.name


@pytest.mark.parametrize("name", catalogue().adapters)
def test_an_adapters_default_tasks_are_ours(name):
    assert set(catalogue().adapters[name].tasks) <= ours("task")


@pytest.mark.parametrize("name", catalogue().adapters)
def test_an_adapters_defaults_are_options_that_it_has(name):
    defaults = catalogue().adapters[name].defaults
    built = build_adapter(name).config.model_dump()
    assert {key: built[key] for key in defaults} == defaults


@pytest.mark.parametrize("name", catalogue().adapters)
def test_an_adapters_entry_class_gives_a_paper_with_its_year(name):
    facts = registry.adapter_facts(resolve_adapter(name))
    assert facts.title and facts.licence and any(str(year) in facts.paper for year in range(2010, 2040))
    assert {"paper", "licence", "train_defaults"} <= set(vars(adapter_class(resolve_adapter(name))))


def test_an_adapter_needs_no_block_in_the_catalogue(changed):
    lora = adapter_class(resolve_adapter("lora"))
    changed(adapters={name: entry for name, entry in catalogue().adapters.items() if name != "lora"})
    facts = registry.adapter_facts(resolve_adapter("lora"))
    assert (facts.paper, facts.train.epochs, facts.title) == (lora.paper, 6, lora.title)
    assert build_adapter("lora", {"rank": 2}).config.rank == 2


def test_a_foreign_adapter_takes_no_recipe_from_a_built_in_one():
    lora = adapter_class(resolve_adapter("lora"))
    derived = type("Derived", (lora,), {"__module__": "acme", "licence": "MIT"})
    again = type("Again", (derived,), {"__module__": "acme"})
    said = [registry.recipe(again, field, None) for field in ("licence", "paper", "train_defaults")]
    assert said == ["MIT", "", {}] and registry.recipe(lora, "train_defaults", {})["epochs"] == 6


@pytest.mark.parametrize("name", catalogue().encoders.aliases)
def test_an_alias_names_one_of_our_sources(name):
    assert resolve_encoder(name).plugin.builtin and resolve_encoder(name).model


@pytest.mark.parametrize("name", catalogue().tasks)
def test_a_tasks_encoders_and_baselines_exist(name):
    entry = catalogue().tasks[name]
    for encoder in (*entry.encoders, *(each.encoder for each in entry.baselines)):
        resolve_encoder(encoder)
    assert {each.adapter for each in entry.baselines} <= ours("adapter")


@pytest.mark.parametrize("name", catalogue().presets)
def test_a_preset_changes_hyper_parameters_that_exist_of_adapters_that_exist(name):
    fields = set(registry.TrainDefaults.model_fields)
    for adapter, values in catalogue().presets[name].train.items():
        assert adapter in catalogue().adapters and set(values) <= fields


@pytest.mark.parametrize("name", catalogue().presets)
def test_a_presets_variants_and_options_are_those_of_plugins_that_exist(name):
    preset = catalogue().presets[name]
    for variant in preset.variants:
        build_adapters(variant.adapter, variant.options)
    for each, options in preset.options.items():
        if each in ours("adapter"):
            build_adapter(each, options)
        else:
            assert resolve_task(each).plugin.builtin
    for each in (*preset.tasks, *(task for variant in preset.variants for task in variant.tasks or ())):
        assert resolve_task(each).plugin.builtin


@pytest.mark.parametrize(
    ("text", "reason"),
    [("adapters: [", "not a valid catalogue"), ("version: 1", "Field required"), ("surprise: 1", "surprise")],
)
def test_a_damaged_catalogue_is_an_error_that_names_the_file(tmp_path, monkeypatch, text, reason):
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    monkeypatch.setattr(registry, "catalogue_path", lambda: path)
    with pytest.raises(ConfigError, match=rf"(?s)registry\.yaml.*{reason}"):
        registry.catalogue.__wrapped__()


def test_a_misspelt_key_in_the_catalogue_is_an_error():
    broken = catalogue().model_dump()
    broken["adapters"]["lora"]["licens"] = "MIT"
    with pytest.raises(ValueError, match="licens"):
        Catalogue.model_validate(broken)


def test_the_catalogues_defaults_hold_where_the_caller_is_silent(changed):
    entry = catalogue().adapters["lora"].model_copy(update={"defaults": {"rank": 3, "alpha": 5.0}})
    changed(adapters={**catalogue().adapters, "lora": entry})
    config = build_adapter("lora", {"rank": 7}).config
    assert (config.rank, config.alpha) == (7, 5.0)


# -- names of encoders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "model", "weights"),
    [
        ("embedded:chest", "embedded", "chest", "default"),
        ("embedded:chest@random", "embedded", "chest", "random"),
        ("timm:vit_base_patch14_dinov2.lvd142m", "timm", "vit_base_patch14_dinov2.lvd142m", "default"),
        ("timm:resnet50@/data/w.pth", "timm", "resnet50", "/data/w.pth"),
        ("timm:resnet50@/data/a@b/w.pth", "timm", "resnet50", "/data/a@b/w.pth"),
        (f"open_clip:{BIOMEDCLIP}@random", "open_clip", BIOMEDCLIP, "random"),
        ("transformers:/models/rad-dino", "transformers", "/models/rad-dino", "default"),
        ("phantom_chest", "embedded", "chest", "default"),
        ("phantom_brain@random", "embedded", "brain", "random"),
        ("biomedclip@/data/folder", "open_clip", BIOMEDCLIP, "/data/folder"),
        ("medgraft:embedded:chest", "medgraft:embedded", "chest", "default"),
    ],
)
def test_a_name_is_a_source_a_model_and_weights(name, source, model, weights):
    parsed = resolve_encoder(name)
    assert (parsed.full, parsed.model, parsed.weights) == (name, model, weights)
    assert parsed.plugin == plugins.find("encoder", source)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("embeded:chest", "unknown encoder 'embeded:chest'.*embedded"),
        ("phantom_chst", "did you mean phantom_chest"),
        ("chest", "encoders are named source:model"),
        ("", "unknown encoder ''"),
    ],
)
def test_an_unknown_encoder_is_an_error_with_a_remedy(name, remedy):
    with pytest.raises(UnknownNameError, match=remedy):
        resolve_encoder(name)


def test_an_unknown_model_of_a_source_is_an_error_with_its_models():
    with pytest.raises(UnknownNameError, match="did you mean chest"):
        build_encoder("embedded:chst@random")


@pytest.mark.parametrize(("weights", "sha256"), [("", "abc"), ("@random", None), ("@/data/w.pth", None)])
def test_an_aliass_checksum_holds_for_its_own_weights_only(changed, weights, sha256):
    aliases = {"ours": AliasEntry(name="timm:resnet50", sha256="abc")}
    changed(encoders=catalogue().encoders.model_copy(update={"aliases": aliases}))
    assert resolve_encoder(f"ours{weights}").sha256 == sha256


def test_a_built_encoder_is_frozen():
    encoder = build_encoder("embedded:chest@random")
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


# -- names of adapters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lorra", "unknown adapter 'lorra'; did you mean"),
        ("brain-adapter", "did you mean brain_adapter"),
        ("zzz", "known: ace_hgnn, ace_lora"),
        ("", "unknown adapter ''"),
        ("lora:fast", "unknown adapter 'lora:fast'; did you mean"),
        ("lora+", "unknown adapter ''"),
    ],
)
def test_an_unknown_adapter_is_an_error_with_a_suggestion(name, message):
    with pytest.raises(UnknownNameError, match=message):
        build_adapters(name)


def test_a_variant_sets_the_option_of_its_family():
    assert resolve_adapter("peft:vera").variant == "vera"
    assert build_adapter("peft:vera").config.method == "vera"


def test_a_variant_that_contradicts_an_option_is_an_error():
    with pytest.raises(ConfigError, match="'method' contradicts the name"):
        build_adapter("peft:vera", {"method": "lora"})


def test_an_option_out_of_range_is_an_error_with_the_value_and_the_options():
    with pytest.raises(
        ConfigError, match=r"'lora': rank: .*greater than or equal to 1 \(got 0\); its options are: rank, "
    ):
        build_adapter("lora", {"rank": 0})


def test_every_wrong_option_is_named_at_once():
    with pytest.raises(ConfigError, match=r"rank: .*dropout: .*colour: no such option"):
        build_adapter("lora", {"rank": 0, "dropout": 1.0, "colour": "red"})


def test_a_composed_name_builds_its_parts_in_order():
    assert [type(each).__name__ for each in build_adapters("ace_hgnn + lora").values()] == ["AceHgnnAdapter", "Lora"]


def test_the_options_of_a_composed_name_go_by_its_parts():
    built = build_adapters("lora+ace_hgnn", {"lora": {"rank": 3}})
    assert (built["lora"].config.rank, built["ace_hgnn"].config.top_k) == (3, 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora+lora", {}, "names the same adapter twice"),
        ("lora+ace_hgnn", {"rank": 3}, "'rank' is none"),
        ("lora+ace_hgnn", {"lora": 3}, "options of 'lora' in a composed adapter must be a table, not 3"),
        ("lora+ace_hgnn", {"lora": {"rnak": 3}}, "rnak: no such option"),
    ],
)
def test_wrong_options_of_a_composed_name_are_errors(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_adapters(name, options)


def test_a_name_is_resolved_without_importing_its_plugin(monkeypatch):
    monkeypatch.setattr(plugins, "load", lambda plugin: pytest.fail(f"{plugin.name} was imported"))
    for name in (*ours("adapter"), "peft:vera"):
        assert resolve_adapter(name).plugin.name == name.partition(":")[0]
    assert resolve_encoder("biomedclip").plugin.name == "open_clip"


def test_each_of_our_adapters_is_named_after_its_file():
    for name in ours("adapter"):
        found = adapter_class(resolve_adapter(name))
        assert found.__module__ == f"medgraft.adapters.{name}"


def test_a_plugin_is_a_value():
    lora = plugins.find("adapter", "lora")
    with pytest.raises(dataclasses.FrozenInstanceError):
        lora.name = "other"
