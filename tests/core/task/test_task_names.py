"""Names of tasks: variants, groups, tags, and the names of earlier releases."""

from __future__ import annotations

import logging

import pytest

from medgraft.errors import ConfigError, PluginError, UnknownNameError
from medgraft.registry import catalogue
from medgraft.task import Task, TaskConfig, Variant
from medgraft.task import names as task_names
from medgraft.task.names import build_task, expand_tasks, resolve_task, task_class, task_facts, variant_class

FORMER = {
    "adni_ad_cn": "adni_image:ad_cn",
    "adni_mci_cn": "adni_image:mci_cn",
    "adni_ad_mci": "adni_image:ad_mci",
    "adni_image_nogap": "adni_image:nogap",
    "adni_mci_conversion_text": "adni_mci_conversion:text",
    "adni_mci_conversion_image_text": "adni_mci_conversion:image_text",
    "brain_prompts_without_text": "brain_prompts:without_text",
    "brain_prompts_diagnosis": "brain_prompts:diagnosis",
    "brain_prompts_age": "brain_prompts:age",
    "brain_prompts_sex": "brain_prompts:sex",
    "brain_prompts_ventricles": "brain_prompts:ventricles",
    "chest_prompts_without_text": "chest_prompts:without_text",
    "chest_prompts_atelectasis": "chest_prompts:atelectasis",
    "chest_prompts_cardiomegaly": "chest_prompts:cardiomegaly",
    "chest_prompts_consolidation": "chest_prompts:consolidation",
    "chest_prompts_edema": "chest_prompts:edema",
    "chest_prompts_pleural_effusion": "chest_prompts:pleural_effusion",
    "chexpert_nogap": "chexpert:nogap",
}
"""Names of the classes that variants took the place of."""

FORMER_DEFAULTS = {
    "adni_image:ad_cn": ({"contrast": "CN-AD"}, ("volume",), "adni"),
    "adni_image:mci_cn": ({"contrast": "CN-MCI"}, ("volume",), "adni"),
    "adni_image:ad_mci": ({"contrast": "MCI-AD"}, ("volume",), "adni"),
    "adni_image:nogap": ({}, ("volume",), "adni_nogap"),
    "adni_mci_conversion:text": ({}, ("text",), "adni_visits"),
    "adni_mci_conversion:image_text": ({}, ("volume", "text"), "adni_visits"),
    "brain_prompts:without_text": ({}, ("volume",), "adni"),
    "brain_prompts:diagnosis": ({"questions": ("diagnosis",)}, ("volume", "text"), "adni"),
    "brain_prompts:age": ({"questions": ("age",)}, ("volume", "text"), "adni"),
    "brain_prompts:sex": ({"questions": ("sex",)}, ("volume", "text"), "adni"),
    "brain_prompts:ventricles": ({"questions": ("ventricles",)}, ("volume", "text"), "adni"),
    "chest_prompts:without_text": ({}, ("image",), "chexpert"),
    "chest_prompts:atelectasis": ({"questions": ("atelectasis",)}, ("image", "text"), "chexpert"),
    "chest_prompts:cardiomegaly": ({"questions": ("cardiomegaly",)}, ("image", "text"), "chexpert"),
    "chest_prompts:consolidation": ({"questions": ("consolidation",)}, ("image", "text"), "chexpert"),
    "chest_prompts:edema": ({"questions": ("edema",)}, ("image", "text"), "chexpert"),
    "chest_prompts:pleural_effusion": ({"questions": ("pleural effusion",)}, ("image", "text"), "chexpert"),
    "chexpert:nogap": ({}, ("image",), "chexpert_nogap"),
}
"""Variant -> options, inputs and cohort of the class it took the place of; other options are the family's."""


@pytest.fixture
def unnoted():
    """No note of a former name was logged yet."""
    task_names._note.cache_clear()


class Counting(Task):
    """Counts."""

    inputs = ("image",)
    objective = "multiclass"
    cohort = "counted"
    tags = ("numbers",)

    class Config(TaskConfig):
        """Options."""

        limit: int = 3


def with_variant(variant: object) -> type[Task]:
    return type("Family", (Counting,), {"variants": {"odd": variant}})


def test_every_former_name_is_tested_here():
    assert task_names.former_names() == FORMER
    assert set(FORMER_DEFAULTS) == set(FORMER.values())
    assert set(FORMER_DEFAULTS) == {name for name, entry in catalogue().tasks.items() if entry.formerly}


@pytest.mark.parametrize("name", FORMER_DEFAULTS)
def test_a_variant_is_the_class_that_it_took_the_place_of(name):
    options, inputs, cohort = FORMER_DEFAULTS[name]
    task, family = build_task(name), task_class(name.partition(":")[0])
    assert task.config.model_dump() == family.Config().model_dump() | options
    assert (task.inputs, task.cohort) == (inputs, cohort)
    assert (task.objective, task.primary, task.version) == (family.objective, family.primary, family.version)
    assert isinstance(task, family)


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_a_former_name_is_the_variant(former, name):
    assert task_class(former) is task_class(name)
    assert resolve_task(former) == resolve_task(name)
    assert task_facts(former) is task_facts(name)


def test_a_former_name_is_noted_once(unnoted, caplog):
    with caplog.at_level(logging.WARNING):
        build_task("adni_ad_cn")
        build_task("adni_ad_cn")
    assert [record.message for record in caplog.records] == [
        "task 'adni_ad_cn' is now called 'adni_image:ad_cn'; the old name still works, and its results are read"
    ]


def test_a_default_of_a_variant_may_still_be_set():
    assert build_task("brain_prompts:age", {"questions": ["sex"]}).config.questions == ("sex",)  # pyright: ignore
    with pytest.raises(ConfigError, match=r"options of task 'brain_prompts:age'"):
        build_task("brain_prompts:age", {"questions": []})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adni_image:ad_nc", r"unknown adni_image variant 'ad_nc'; did you mean ad_cn"),
        ("rsna:any", r"task 'rsna' has no variants"),
        ("adni_imag:ad_cn", r"unknown task 'adni_imag'; did you mean .*adni_image"),
    ],
)
def test_an_unknown_variant_is_one_sentence_with_a_remedy(name, says):
    with pytest.raises(UnknownNameError, match=says) as error:
        build_task(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["chest_prompts:*", "tag:few_shot"])
def test_a_group_is_no_single_task(name):
    with pytest.raises(ConfigError, match=r"is a group of tasks; name one of them: .*(edema|rsna_few_shot)"):
        build_task(name)


def test_groups_are_the_variants_of_a_task_and_the_tasks_of_a_tag():
    chest = [name for name in FORMER_DEFAULTS if name.startswith("chest_prompts:")]
    assert expand_tasks(["chest_prompts:*"]) == tuple(chest)
    assert expand_tasks(["tag:control"]) == ("adni_image:nogap", "chexpert:nogap")
    assert expand_tasks(["chexpert_nogap", "rsna", "tag:control", "rsna"]) == (
        "chexpert:nogap",
        "rsna",
        "adni_image:nogap",
    )


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("rsna:*", ConfigError, "the task has no variants; name it without"),
        ("tag:few_shots", UnknownNameError, "unknown tag of tasks 'few_shots'; did you mean few_shot"),
        ("chest_prompt:*", UnknownNameError, "did you mean chest_prompts"),
    ],
)
def test_a_group_of_nothing_is_named(name, error, says):
    with pytest.raises(error, match=says):
        expand_tasks([name])


def test_a_variant_takes_what_it_says_and_leaves_the_family_as_it_was():
    family = with_variant(Variant("Odd ones", {"limit": 5}, ("text",), "others", "auc_macro", ("odd",)))
    cls = variant_class(family, "odd")
    assert (cls.Config().limit, family.Config().limit) == (5, 3)  # pyright: ignore[reportAttributeAccessIssue]
    assert (cls.inputs, cls.cohort, cls.primary, cls.tags) == (("text",), "others", "auc_macro", ("numbers", "odd"))
    assert (family.inputs, family.cohort, family.primary) == (("image",), "counted", "f1_macro")
    assert not cls.variants and variant_class(family, "odd") is cls
    learns = with_variant(Variant(objective="regression"))
    assert (variant_class(learns, "odd").objective, learns.objective) == ("regression", cls.objective)


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (Variant(defaults={"limits": 5}), "sets 'limits', which is none of the task's options: .*limit"),
        (Variant(defaults={"limit": "many"}), "has a default that its options refuse"),
        ({"limit": 5}, r"make it a medgraft.task.Variant"),
    ],
)
def test_a_variant_that_does_not_fit_its_task_is_the_authors_mistake(variant, says):
    with pytest.raises(PluginError, match=says):
        variant_class(with_variant(variant), "odd")


def test_variants_that_are_no_dictionary_are_the_authors_mistake():
    with pytest.raises(PluginError, match=r"variants of task class Family are \('odd',\); make it a dictionary"):
        variant_class(type("Family", (Counting,), {"variants": ("odd",)}), "odd")
