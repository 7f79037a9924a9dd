"""The page of the brain: its tables are those of its numbers, its numbers those of results, and its commands hold."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from medgraft.benchmarks.audit import brain_page
from medgraft.benchmarks.audit.brain_page import END, PARTS, START, commands_shown, main, numbers_beside, with_tables
from medgraft.benchmarks.audit.brain_rows import Page, Table, markdown, read_table
from medgraft.benchmarks.cohorts.places import data_of
from medgraft.benchmarks.commands.arguments import listed, listed_encoders, parse_seeds
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult, Efficiency
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.errors import ConfigError, MedgraftError
from medgraft.metric import Predictions
from medgraft.task.names import task_class

DOCS = Path(__file__).parents[3] / brain_page.PAGE
CLASSES = ("CN", "AD")


@pytest.fixture(scope="module")
def numbers() -> Page:
    """Those of the page in docs."""
    return Page.model_validate_json(numbers_beside(DOCS).read_text())


def test_the_tables_of_the_page_are_those_of_its_numbers(numbers):
    assert with_tables(DOCS.read_text(), numbers) == DOCS.read_text(), "python -m benchmarks.audit.brain_page"


def test_the_parts_of_the_page_are_as_they_are_made_now_and_it_names_those_that_it_lacks(numbers):
    assert list(numbers.tables) == [name for name in PARTS if name in numbers.tables]
    lacking = [part.title for name, part in PARTS.items() if name not in numbers.tables]
    assert all(title in DOCS.read_text() for title in lacking)
    for name, table in numbers.tables.items():
        assert (table.title, table.commands) == (PARTS[name].title, tuple(commands_shown(name)))
        assert table.numbers == PARTS[name].numbers and table.splits["test"][1] > 1


def test_every_row_of_the_page_has_an_interval_and_what_it_costs(numbers):
    for table in numbers.tables.values():
        for line in table.lines:
            value, low, high = line.metrics[table.numbers[0]]
            assert value is not None and low is not None and high is not None and low <= value <= high
            if line.encoder:
                assert line.seeds >= 2 and line.trainable is not None and line.infer_rate is not None
                assert (line.step_bytes is not None) == (line.epochs > 0)
    assert numbers.tables["fmri"].savings


def run_options(command: str) -> dict[str, Any]:
    """The options of a command of the page."""
    words = shlex.split(command)[1:]
    parser = typer.main.get_command(app)
    with parser.make_context("medgraft", list(words)) as context:
        _, own, rest = parser.resolve_command(context, list(words))  # pyright: ignore[reportAttributeAccessIssue]
        with own.make_context(words[0], list(rest), parent=context) as found:
            return dict(found.params)


@pytest.mark.parametrize("name", PARTS)
def test_the_commands_of_a_part_ask_for_what_there_is(name):
    cohort, *sweeps = commands_shown(name)
    assert cohort.startswith(f"medgraft cohort {PARTS[name].cohort[0]} ")
    for command in sweeps:
        asked = run_options(command)
        tasks, encoders = listed(asked["tasks"], "tasks"), listed_encoders(asked["encoders"])
        check_names(
            read_sweep(
                None,
                {
                    "adapters": listed(asked["adapters"], "adapters"), "tasks": tasks, "encoders": encoders,
                    "seeds": parse_seeds(asked["seeds"]), "epochs": asked["epochs"], "limit": asked["limit"],
                },
                asked["set_"] or (),
            )
        )  # fmt: skip
        assert {data_of(task_class(task).cohort) for task in tasks or ()} == {PARTS[name].cohort[0]}


# --- numbers from results ---------------------------------------------------------------------------------------------


def store(folder: Path, adapter: str, seed: int, *, hit: bool, seconds: float, stage: int = 5, steps: int = 0) -> None:
    """Writes a result on ten subjects, with what a cell says of its cache and its time."""
    spec = CellSpec.model_validate(
        {
            "task": "adni_image",
            "cohort": {"name": "adni", "revision": "rev", "phantom": True},
            "encoder": "phantom_brain",
            "adapter": adapter,
            "seed": seed,
            "train": {"epochs": 3},
        }
    )
    targets = np.arange(10) % 2
    first = np.clip(0.5 * (1 - targets) + np.random.default_rng(seed).random(10) / 2, 0, 1)
    predictions = Predictions(np.stack([first, 1 - first], axis=1), targets, np.arange(10), CLASSES)
    rates = {"train_samples_per_s": 30.0 * (seed + 1), "train_step_peak_bytes": 2_000_000} if steps else {}
    kind = "prefix" if stage else "prepared"
    result = CellResult(
        key=spec.key(),
        status="success",
        spec=spec,
        phantom=True,
        metrics=evaluate(predictions, resamples=50),
        efficiency=Efficiency(
            trainable={adapter: 40, "head": 2},
            encoder_parameters=9,
            forward_flops=2.5e6,
            cached_stage={"volume": (stage, 5)},
            **rates,
        ),
        training={"steps": steps},
        data={
            "classes": list(CLASSES),
            "splits": {"test": {"samples": 10, "subjects": 10}},
            "bayes_f1_macro": 0.9,
            "table_baselines": {
                "age": {"fields": ["age"], "n_train": 8, "auc_macro": [0.4, 0.2, 0.6], "f1_macro": [0.4, 0.3, 0.5]},
                "APOE": {"unavailable": ["APOE4"]},
            },
        },
        cache={"entries": [{"kind": kind, "hit": hit, "size": 4000, "samples": 20}]},
        timing={"prefix": seconds},
    )
    scores = np.stack([first, 1 - first], axis=1)
    ResultStore(folder).put(result, {"scores": scores, "targets": targets, "groups": np.arange(10)})


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    """Of a probe, twice, and a graft with a part of the encoder in front of it."""
    folder = tmp_path_factory.mktemp("results")
    for seed in range(3):
        store(folder, "linear_probe", seed, hit=seed > 0, seconds=[8.0, 0.5, 0.1][seed])
    for seed in range(2):
        store(folder, "lora", seed, hit=seed > 0, seconds=5.0, stage=1, steps=7)
    return read_table("A title", ["medgraft run"], ("auc_macro", "f1_macro"), [folder])


def test_a_row_is_what_its_seeds_say(table):
    probe, lora = (next(line for line in table.lines if line.adapter == name) for name in ("linear_probe", "lora"))
    assert (probe.seeds, probe.epochs, probe.trainable, probe.stages) == (3, 0, 42, (5, 5))
    assert (lora.seeds, lora.epochs, lora.stages) == (2, 3, (1, 5))
    assert (lora.train_rate, lora.step_bytes) == (45.0, 2_000_000)
    assert (probe.train_rate, probe.step_bytes) == (None, None)


def test_regressions_stand_among_the_rows_in_the_order_of_the_first_number(table):
    values = [line.metrics["auc_macro"][0] for line in table.lines]
    assert values == sorted(values, reverse=True)
    (age,) = (line for line in table.lines if not line.encoder)
    assert (age.adapter, age.seeds, age.metrics["auc_macro"]) == ("age", 0, (0.4, 0.2, 0.6))
    assert table.best == {"f1_macro": 0.9}


def test_what_the_cache_saves_is_told_of_encoders_that_are_frozen_as_a_whole(table):
    (saving,) = table.savings
    assert (saving.cold, saving.warm, saving.later, saving.samples, saving.kept_bytes) == (8.0, 0.3, 2, 20, 4000)


def test_an_encoder_whose_features_were_found_from_the_start_has_no_saving(tmp_path):
    for seed in range(2):
        store(tmp_path, "linear_probe", seed, hit=True, seconds=1.0)
    assert read_table("", [], ("auc_macro",), [tmp_path]).savings == ()


def test_numbers_come_back_from_json_as_they_were(table):
    page = Page(made="Made.", tables={"smri": table})
    assert Page.model_validate_json(page.model_dump_json()) == page
    text = "\n".join(markdown(page))
    assert "| `phantom_brain` | `lora` |" in text and "| 45 |" in text and "| 2.5 | 1 of 5 | 3 | 2 |" in text
    assert "| none | age | 0.400 [.20-.60] | 0.400 [.30-.50] |" in text
    assert "| 20 | 8 | 0.3 | 27 | 0.004 | 2 |" in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_text_around_the_tables_stays(table):
    page = Page(made="Made.", tables=dict.fromkeys(PARTS, table))
    once = with_tables(f"# A\n\nbefore\n\n{START}\nold\n{END}\n\nbehind\n", page)
    assert once.startswith(f"# A\n\nbefore\n\n{START}\n\nMade.\n") and once.endswith(f"\n\n{END}\n\nbehind\n")
    assert "old" not in once and with_tables(once, page) == once
    assert "Not made so far" not in once
    without = Page(made="Made.", tables={name: table for name in PARTS if name != "eeg"})
    assert with_tables(once, without).endswith(f"Not made so far: {PARTS['eeg'].title}.\n\n{END}\n\nbehind\n")


@pytest.mark.parametrize("text", ["# A\n", f"{START}\n", f"{END}\n{START}\n"])
def test_a_page_without_a_place_for_tables_says_what_to_write(text, table):
    with pytest.raises(ConfigError, match=r"no line '<!-- tables.*put both where the tables should go"):
        with_tables(text, Page(made="", tables={"smri": table}))


def test_a_part_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="no part 'ct' of the page; it has fmri, "):
        main(["--parts", "omics,ct"])


def test_a_page_whose_sweep_failed_stays_as_it_was(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"{START}\nold\n{END}\n")
    monkeypatch.setattr(brain_page.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 3}))
    with pytest.raises(MedgraftError, match=r"medgraft cohort adni_expression .* ended with 3; the same command goes"):
        brain_page.make(["omics"], tmp_path / "results", page)
    assert page.read_text() == f"{START}\nold\n{END}\n" and not numbers_beside(page).exists()


def test_other_parts_stay_as_the_numbers_have_them_and_in_the_order_of_the_page(tmp_path, monkeypatch, table):
    page = tmp_path / "page.md"
    page.write_text(f"{START}\n{END}\n")
    monkeypatch.setattr(brain_page, "sweep", lambda *_: None)
    monkeypatch.setattr(brain_page, "read_table", lambda title, *_: table.model_copy(update={"title": title}))
    for name in ("omics", "fmri"):
        brain_page.make([name], tmp_path / "results", page)
    found = Page.model_validate_json(numbers_beside(page).read_text())
    assert list(found.tables) == ["fmri", "omics"] and page.read_text().index(PARTS["omics"].title) > 0
