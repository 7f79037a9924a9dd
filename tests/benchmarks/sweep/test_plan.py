"""From a request to cells: defaults, reference rows, composed names, reasons, and every mistake before any training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medgraft.benchmarks.cell import encoder as cell_encoder
from medgraft.benchmarks.cohorts.places import Cohort
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.benchmarks.sweep import plan as planning
from medgraft.benchmarks.sweep import rows as rows_of_sweep
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.compatible import fits
from medgraft.benchmarks.sweep.plan import cells_of, make_plan, precision_of
from medgraft.benchmarks.sweep.recipe import training
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.benchmarks.sweep.rows import Row, resolve_row, rows, tasks_of
from medgraft.benchmarks.tasks import task_class
from medgraft.errors import CheckpointError, ConfigError, DataError, MedgraftError, UnknownNameError
from medgraft.registry import adapter_facts, build_encoder, catalogue, resolve_adapter

COHORT = Cohort(CohortId(name="toy", revision="r", phantom=True), Path("/nowhere"))
CHEST = "phantom_chest@random"


def sweep(**values: Any) -> Sweep:
    return Sweep.model_validate({"adapters": ["lora"], **values})


def cells(row: Row, request: Sweep) -> list[CellSpec]:
    return cells_of(row, resolve_row(row, request), request, COHORT)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("adapters: [lora]\nepochs: 7\nseeds: [1, 2]\n")
    found = read_sweep(path, {"epochs": 2, "seeds": None})
    assert (found.epochs, found.seeds, found.adapters) == (2, (1, 2), ("lora",))


def test_options_of_adapters_come_from_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("adapters: [lora]\noptions: {lora: {rank: 2}}\n")
    assert read_sweep(path, {}).options == {"lora": {"rank": 2}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adapters: [lora", "cannot be read"),
        ("- lora", "must hold a mapping of options, not list"),
        ("just words", "must hold a mapping of options, not str"),
        ("adapters: [lora]\nepoch: 3", "epoch: no such option"),
        ("adapters: [lora]\nepochs: -1", "epochs: .*greater than or equal to 0"),
        ("adapters: [lora]\nseeds: [-1]", "seeds.*greater than or equal to 0"),
        ("adapters: [lora]\nseeds: []", "seeds.*at least 1"),
        ("adapters: [lora]\ntasks: []", "tasks.*at least 1"),
        ("adapters: [lora]\njobs: 0", "jobs.*greater than or equal to 1"),
        ("adapters: [lora]\nlimit: 1", "limit.*greater than or equal to 4"),
        ("adapters: [lora]\ntimeout: 0", "timeout.*greater than 0"),
        ("adapters: [lora]\nbackend: fast", "backend.*'eager'"),
        ("adapters: [lora]\nprecision: fp4", "precision.*'fp32'"),
        ("epochs: 3", "no adapter was named.*--adapters"),
        ("", "no adapter was named"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, says):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read_sweep(path, {})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00adapters")
    for name in ("none.yaml", "binary.yaml", "."):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_sweep(tmp_path / name, {})


def test_blanks_around_a_plus_do_not_make_another_adapter():
    assert sweep(adapters=["lora + ace_hgnn"]).adapters == ("lora+ace_hgnn",)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"adapters": ["brain_adaptor"]}, "unknown adapter 'brain_adaptor'; did you mean brain_adapter"),
        ({"adapters": ["lora+ace_hgn"]}, "unknown adapter 'ace_hgn'; did you mean ace_hgnn"),
        ({"encoders": ["phantom_chst"]}, "unknown encoder 'phantom_chst'; did you mean phantom_chest"),
        ({"tasks": ["chexprt"]}, "unknown task 'chexprt'; did you mean chexpert"),
        ({"preset": "quik"}, "unknown preset 'quik'; did you mean quick"),
        ({"options": {"lora_": {}}}, "unknown .*'lora_'; did you mean lora"),
        ({"train": {"lorra": {}}}, "unknown .*'lorra'; did you mean lora"),
        ({"options": {"lora": {"rnak": 2}}}, "options of adapter 'lora': rnak: no such option; .*rank"),
        ({"options": {"linear_probe": {"pool": 1}}}, "options of adapter 'linear_probe': pool: no such option"),
        ({"options": {"chexpert": {"label": 1}}}, "options of task 'chexpert': label: no such option; .*labels"),
        ({"options": {"adni_image": {"test_fraction": 0.9, "val_fraction": 0.2}}}, "leave no subject for training"),
        ({"options": {"chexpert": {"labels": "all"}}}, "'best' is defined for the five"),
        ({"train": {"lora": {"lrr": 1}}}, "training options of 'lora': lrr: no such option"),
        ({"train": {"lora": {"lr": 0}}}, "training options of 'lora': lr: .*greater than 0"),
        ({"train": {"chexpert": {"lr": 1}}}, "training options go by adapter"),
        ({"adapters": ["lora+lora"]}, "names the same adapter twice"),
    ],
)
def test_a_mistake_is_named_before_anything_is_made(request_, says):
    with pytest.raises(MedgraftError, match=says):
        check_names(sweep(**request_))


def test_an_unknown_model_of_a_known_source_is_named(toy):
    wanted = sweep(adapters=["toy_gain"], tasks=["toy"], encoders=["toy:tyni"], data={"toy": toy.cohort})
    with pytest.raises(UnknownNameError, match=r"unknown toy encoder 'tyni'; did you mean tiny"):
        make_plan(wanted, Console(quiet=True))


def test_a_plugin_that_does_not_load_fails_only_a_sweep_that_asks_for_it(toy):
    check_names(sweep(adapters=["toy_gain"]))
    with pytest.raises(MedgraftError, match=r"toy_broken.*medgraft-toy 1\.5\) failed to import"):
        check_names(sweep(adapters=["toy_broken"]))


# --- rows -------------------------------------------------------------------------------------------------------------


def test_default_tasks_and_encoders_are_the_catalogues():
    for adapter, entry in catalogue().adapters.items():
        assert tasks_of(adapter) == entry.tasks
    wanted = rows(sweep(adapters=["lora"], baselines=False))
    assert wanted == [
        Row(task, encoder, "lora")
        for task in catalogue().adapters["lora"].tasks
        for encoder in catalogue().tasks[task].encoders
    ]


def test_a_composed_adapter_runs_on_the_tasks_of_its_parts():
    lora, hgnn = catalogue().adapters["lora"].tasks, catalogue().adapters["ace_hgnn"].tasks
    assert tasks_of("lora+ace_hgnn") == tuple(dict.fromkeys((*lora, *hgnn)))


def test_a_foreign_adapter_runs_on_the_default_tasks_and_not_on_controls(toy):
    assert tasks_of("toy_gain") == tuple(name for name, entry in catalogue().tasks.items() if entry.default)
    assert any(not entry.default for entry in catalogue().tasks.values())


def test_reference_rows_come_first_and_once():
    wanted = rows(sweep(adapters=["lora", "linear_probe"], tasks=["chexpert"]))
    baselines = catalogue().tasks["chexpert"].baselines
    assert wanted[0] == Row("chexpert", "phantom_chest", "linear_probe")
    assert [Row("chexpert", b.encoder, b.adapter) for b in baselines] == wanted[1 : 1 + len(baselines)]
    assert len(set(wanted)) == len(wanted)


def test_no_baselines_leaves_only_what_was_asked_for():
    assert {row.adapter for row in rows(sweep(tasks=["chexpert"], baselines=False))} == {"lora"}


def test_a_contrastive_task_without_listed_baselines_gets_zero_shot_for_reference(monkeypatch):
    entry = catalogue().tasks["chexpert_5x200"].model_copy(update={"baselines": ()})
    monkeypatch.setattr(rows_of_sweep, "task_facts", lambda name: entry)
    wanted = rows(sweep(adapters=["ace_lora"], tasks=["chexpert_5x200"]))
    assert Row("chexpert_5x200", "phantom_chest", "zero_shot") in wanted


def test_a_foreign_task_is_run_on_the_encoders_of_tasks_that_read_the_same(toy):
    assert {row.encoder for row in rows(sweep(tasks=["toy"]))} == {"phantom_chest"}


def test_a_foreign_task_that_no_default_encoder_can_read_asks_for_one(toy, monkeypatch):
    monkeypatch.setattr(task_class("toy"), "inputs", ("image", "volume"))
    with pytest.raises(ConfigError, match="no default encoder reads what task 'toy' does; choose some with --encoders"):
        rows(sweep(adapters=["toy_gain"], tasks=["toy"]))


# --- what fits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("adni_image", CHEST, "lora"), r"reads volume, encoder .* reads only image and text"),
        (Row("chexpert", CHEST, "brain_adapter"), "'brain_adapter' does not fit"),
        (Row("chexpert", CHEST, "scratch_cnn"), "'scratch_cnn' does not fit .*uses no encoder"),
        (Row("chexpert", "pixels:2d", "lora"), "'lora' does not fit"),
    ],
)
def test_a_pair_that_does_not_fit_is_left_out_with_its_reason(row, reason):
    good, skipped = fits(sweep(), [row], set())
    assert good == {} and re.search(reason, skipped[row]), skipped


@pytest.mark.parametrize("scale", [None, 10.0])
def test_a_contrastive_task_needs_a_shared_space(monkeypatch, scale):
    row, encoder = Row("chexpert_5x200", CHEST, "linear_probe"), build_encoder(CHEST)
    monkeypatch.setattr(encoder, "logit_scale", scale)
    monkeypatch.setattr(cell_encoder, "select_encoder", lambda name, inputs: encoder)
    reason = {row: "the task compares image and text, and the encoder has no space that they share"}
    good, skipped = fits(sweep(), [row], set())
    assert (list(good), skipped) == (([row], {}) if scale else ([], reason))


def test_an_encoder_that_cannot_be_built_stops_the_sweep_only_if_it_was_asked_for(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    row = Row("chexpert", f"embedded:chest@{tmp_path / 'bad.safetensors'}", "lora")
    assert "cannot be read" in fits(sweep(), [row], set())[1][row]
    with pytest.raises(CheckpointError, match=r"bad\.safetensors cannot be read"):
        fits(sweep(), [row], {row.encoder})


def test_nothing_to_run_is_an_error_that_says_why(toy):
    wanted = sweep(adapters=["scratch_cnn"], tasks=["toy"], encoders=["toy:tiny"], data={"toy": toy.cohort})
    with pytest.raises(ConfigError, match=r"nothing to run: toy / toy:tiny / scratch_cnn: .*does not fit"):
        make_plan(wanted, Console(quiet=True))


# --- data -------------------------------------------------------------------------------------------------------------


def toy_request(toy: Any, **values: Any) -> Sweep:
    asked = {"tasks": ["toy"], "encoders": ["toy:tiny"], "data": {"toy": toy.cohort}, "baselines": False}
    return sweep(**{"adapters": ["toy_gain"], **asked, **values})


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"toyy": "."}, UnknownNameError, "unknown cohort in --data 'toyy'; did you mean toy"),
        ({"toy": "/nowhere/at/all"}, DataError, "toy=/nowhere/at/all: there is no such folder"),
        ({}, DataError, "no phantom of cohort 'toy'; give a folder: --data toy=PATH"),
    ],
)
def test_data_that_cannot_be_found_are_named(toy, data, error, says):
    with pytest.raises(error, match=says):
        make_plan(toy_request(toy, data=data), Console(quiet=True))


def test_a_folder_without_tables_is_named(toy, tmp_path):
    with pytest.raises(DataError, match="has no CSV or TSV table"):
        make_plan(toy_request(toy, data={"toy": tmp_path}), Console(quiet=True))


def test_a_table_without_a_needed_column_is_named_while_planning(toy, tmp_path):
    (tmp_path / "toy.csv").write_text("subject,film\na,b\n")
    with pytest.raises(DataError, match=r"toy\.csv has no column label"):
        make_plan(toy_request(toy, data={"toy": tmp_path}), Console(quiet=True))


# --- cells ------------------------------------------------------------------------------------------------------------


def test_one_cell_per_seed_and_distinct_keys(toy):
    plan = make_plan(toy_request(toy, seeds=[3, 1, 1]), Console(quiet=True))
    assert [cell.seed for cell in plan.cells] == [3, 1]
    assert len({cell.key() for cell in plan.cells}) == 2


def test_seeds_default_to_the_presets(toy):
    plan = make_plan(toy_request(toy), Console(quiet=True))
    assert tuple(cell.seed for cell in plan.cells) == catalogue().presets["quick"].seeds


def test_a_row_that_trains_nothing_has_one_seed():
    row = Row("chexpert_5x200", CHEST, "zero_shot")
    assert [cell.seed for cell in cells(row, sweep(seeds=[4, 5]))] == [4]


@pytest.mark.parametrize("asked", [{"epochs": 0}, {"train": {"lora": {"epochs": 0}}}, {"train": {"epochs": 0}}])
def test_no_epochs_are_refused_where_there_is_something_to_train(asked):
    with pytest.raises(ConfigError, match="training options of 'lora': epochs 0 would leave"):
        check_names(sweep(**asked))


def test_a_cell_records_the_foreign_distribution_and_version(toy):
    cell = make_plan(toy_request(toy), Console(quiet=True)).cells[0]
    assert cell.plugins == {"medgraft-toy": "1.5"}


def test_the_version_of_a_plugin_is_part_of_the_key(toy):
    cell = make_plan(toy_request(toy), Console(quiet=True)).cells[0]
    assert cell.model_copy(update={"plugins": {"medgraft-toy": "1.6"}}).key() != cell.key()


def test_defaults_written_out_are_the_same_cell(toy):
    plain = make_plan(toy_request(toy), Console(quiet=True)).cells[0]
    explicit = make_plan(toy_request(toy, options={"toy_gain": {"noise": 0.05}}), Console(quiet=True)).cells[0]
    assert plain.key() == explicit.key()


def test_other_weights_under_one_name_are_another_cell(tmp_path):
    from importlib import resources

    from safetensors.torch import load_file, save_file

    path = tmp_path / "chest.safetensors"
    path.write_bytes((resources.files("medgraft.encoders") / "weights" / "chest.safetensors").read_bytes())
    row, keys = Row("chexpert", f"embedded:chest@{path}", "lora"), []
    for factor in (1.0, 2.0):
        save_file({name: value * factor for name, value in load_file(path).items()}, path)
        planning.weights_of.cache_clear()
        keys.append(cells(row, sweep(seeds=[0]))[0].key())
    assert keys[0] != keys[1]


# --- hyper-parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_training_values_come_from_the_catalogue_then_the_preset_then_the_request(preset):
    entry = adapter_facts(resolve_adapter("ace_lora")).train
    named = catalogue().presets[preset].train.get("ace_lora", {})
    assert training(sweep(preset=preset), "ace_lora") == entry.model_copy(update=named)
    asked = {"ace_lora": {"epochs": 3, "lr": 0.5}}
    found = training(sweep(preset=preset, train=asked), "ace_lora")
    assert found == entry.model_copy(update={**named, "epochs": 3, "lr": 0.5})
    assert training(sweep(preset=preset, train=asked, epochs=2), "ace_lora").epochs == 2


def test_epochs_do_not_make_a_row_train_that_trains_nothing():
    assert training(sweep(epochs=5), "zero_shot").epochs == 0


# --- the device -------------------------------------------------------------------------------------------------------


def cell_on(device: str) -> CellSpec:
    return cells(Row("chexpert", "embedded:chest", "lora"), sweep(device=device))[0]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="PyTorch sees no GPU; use --device cpu"):
        cell_on("cuda")
    assert cell_on("auto").device == "cpu"


@pytest.mark.parametrize("device", ["cuda", "auto"])
@pytest.mark.parametrize("native", [False, True])
def test_a_gpu_decides_on_the_precision_and_is_part_of_the_key(device, native, monkeypatch):
    cpu = cell_on("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: native)
    cell = cell_on(device)
    assert (cell.device, cell.precision) == ("cuda", "bf16" if native else "fp32")
    assert cell.key() != cpu.key() and cell_on("cpu").key() == cpu.key()
    assert "device" not in cpu.defining()  # results from before there was a choice keep their keys


@pytest.mark.parametrize(("backend", "says"), [("eager", "compute capability 8.9"), ("fused", "--backend eager")])
def test_eighth_precision_is_refused_before_anything_runs(backend, says):
    sweep = Sweep(adapters=("lora",), precision="fp8", backend=backend)
    with pytest.raises(ConfigError) as caught:
        precision_of(sweep, "cpu")
    assert says in str(caught.value) and "\n" not in str(caught.value)
