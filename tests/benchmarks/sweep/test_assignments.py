"""``--set``: what is written, what it becomes, what wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweeping import Toy

from medgraft.benchmarks.commands.arguments import listed, listed_encoders, parse_seeds
from medgraft.benchmarks.sweep.assignments import canonical_encoder, read_assignments, split_assignments
from medgraft.benchmarks.sweep.checks import check_names, check_size
from medgraft.benchmarks.sweep.recipe import adapter_options, training
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.benchmarks.sweep.rows import rows
from medgraft.errors import ConfigError, MedgraftError
from medgraft.registry import build_adapters


def asked(*items: str, file: Path | None = None, **overrides: Any) -> Sweep:
    return read_sweep(file, {"adapters": ["lora"], "tasks": ["chexpert"], **overrides}, items)


@pytest.mark.parametrize(
    ("items", "found"),
    [
        (["lora.rank=4"], [("lora.rank", "4")]),
        (["lora.rank=4,lora.alpha=8"], [("lora.rank", "4"), ("lora.alpha", "8")]),
        (["lora.targets=q,v,lora.rank=2"], [("lora.targets", "q,v"), ("lora.rank", "2")]),
        (["lora.targets=*.attn.q,blocks.3.mlp"], [("lora.targets", "*.attn.q,blocks.3.mlp")]),
        (["chexpert_5x200.templates=a {}, b=c {}"], [("chexpert_5x200.templates", "a {}, b=c {}")]),
        (["peft:vera.options.r=4", "train.lr=1e-3"], [("peft:vera.options.r", "4"), ("train.lr", "1e-3")]),
    ],
)
def test_commas_part_assignments_and_the_items_of_lists(items, found):
    assert split_assignments(items) == found


@pytest.mark.parametrize("text", ["", "lora", "lora.rank", "rank=4", "lora.=4", ".rank=4", "lora.rank=", "a.b=1,a.b=2"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(ConfigError, match="--set"):
        split_assignments([text])


def test_values_have_the_type_of_their_option():
    found = read_assignments(
        [
            "lora.rank=4,lora.targets=q,v,lora.rank_stabilised=yes", "peft:vera.options.r=16", "train.lr=1e-4",
            "train.lora.epochs=3", "chexpert.shots=none", "inflate3d.slices=8",
        ]
    )  # fmt: skip
    assert found.options == {
        "lora": {"rank": 4, "targets": ("q", "v"), "rank_stabilised": True},
        "peft:vera": {"options": {"r": 16}},
        "chexpert": {"shots": None},
    }
    assert (found.train, found.every) == ({"lora": {"epochs": 3}}, {"lr": 1e-4})
    assert found.encoders == {"inflate3d": {"slices": 8}}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("lora.rnak=4", r"options of adapter 'lora': rnak: no such option; did you mean rank\?; its options are: rank"),
        ("lorra.rank=4", "unknown adapter, task, encoder source or launcher in --set 'lorra'; did you mean lora"),
        ("LORA.rank=4", "did you mean lora"),
        ("train.lrr=1", "training options: lrr: no such option; did you mean lr"),
        ("train.lora.lrr=1", "training options of 'lora': lrr: no such option"),
        ("train.lorra.lr=1", "'lorra'; did you mean lora"),
        ("chexpert.label=all", "options of task 'chexpert': label: no such option; did you mean labels"),
        ("timm.img_size=8", "this source of encoders has no options"),
        ("peft:vera.r=4", "for an entry of its table write options.r"),
        ("lora.rank.x=4", "rank is no table"),
        ("lora+vpt.rank=4", r"write lora.OPTION=VALUE and vpt.OPTION=VALUE"),
    ],
)
def test_what_does_not_exist_is_named(item, says):
    with pytest.raises(MedgraftError, match=says):
        read_assignments([item])


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("lora.rank=x", "rank: must be a number"),
        ("lora.rank=0", "rank: .*greater than or equal to 1"),
        ("lora.rank=true", "rank: must be a number"),
        ("lora.rank_stabilised=7", "rank_stabilised: must be true or false"),
        ("lora.depth=top", "depth"),
        ("train.lr=0", "lr: .*greater than 0"),
        ("train.epochs=0", "epochs 0 would leave"),
        ("train.batch_size=0", "batch_size"),
        ("chexpert.split_seed=4294967296", "split_seed: .*less than or equal to 4294967295"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_anything_is_made(item, says):
    with pytest.raises(ConfigError, match=says):
        check_names(asked(item))


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("options: {lora: {rank: 2, alpha: 3}}\ntrain: {lora: {lr: 0.5, epochs: 9}}\nepochs: 7\n")
    sweep = asked("lora.rank=4", "train.lora.epochs=3", file=path)
    assert sweep.options["lora"] == {"rank": 4, "alpha": 3}
    assert (training(sweep, "lora").epochs, training(sweep, "lora").lr) == (3, 0.5)
    assert training(sweep, "vpt").epochs == 7  # what the file says of all others still holds
    assert training(asked("train.lr=0.1", "train.epochs=2", file=path), "lora").model_dump(
        include={"lr", "epochs"}
    ) == {"lr": 0.1, "epochs": 2}
    assert training(asked(file=path), "lora").epochs == 7  # as it was: the file's epochs are for every adapter
    assert training(asked(file=path, epochs=5), "lora").epochs == 5


def test_the_particular_wins_over_the_general_on_one_command_line():
    sweep = asked("train.lr=0.1,train.lora.lr=0.2")
    assert (training(sweep, "lora").lr, training(sweep, "vpt").lr) == (0.2, 0.1)
    assert training(asked("train.lora.epochs=3", epochs=2), "lora").epochs == 3
    with pytest.raises(ConfigError, match="say the same thing"):
        asked("train.epochs=3", epochs=2)


def test_what_trains_nothing_stays_so():
    assert training(asked("train.epochs=3"), "zero_shot").epochs == 0


def test_options_reach_the_parts_of_composed_adapters():
    sweep = asked("lora.rank=2", adapters=["lora+ace_hgnn"])
    built = build_adapters("lora+ace_hgnn", adapter_options(sweep, "lora+ace_hgnn"))
    assert built["lora"].config.rank == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_an_option_that_no_row_has_is_refused():
    with pytest.raises(
        ConfigError, match="--set ssf: no row of the sweep has it; the rows have chexpert, linear_probe"
    ):
        check_size(asked("ssf.std=0.1"), rows(asked()))
    check_size(asked("linear_probe.pooling=mean"), rows(asked()))


def test_options_of_a_source_stand_in_the_encoders_name():
    sweep = asked("inflate3d.slices=4", tasks=["adni_image"], encoders=["inflate3d:window=3:phantom_chest@random"])
    assert sweep.encoders == ("inflate3d:window=3,slices=4:phantom_chest@random",)
    with pytest.raises(ConfigError, match="no encoder of the sweep is of that source"):
        asked("inflate3d.slices=4", encoders=["phantom_chest"])
    with pytest.raises(ConfigError, match="slices"):
        asked("inflate3d.slices=0", encoders=["inflate3d:phantom_chest"])


# --- sizes, lists, aliases --------------------------------------------------------------------------------------------


def test_an_enormous_sweep_asks_back():
    many = asked(seeds=range(10_001), baselines=False)
    with pytest.raises(ConfigError, match=r"1 rows of 10,001 seeds are 10,001 cells; give --yes"):
        check_size(many, rows(many))
    check_size(asked(seeds=range(10_001), baselines=False, yes=True), rows(many))
    check_size(asked(seeds=range(10_000), baselines=False), rows(many))


@pytest.mark.parametrize("text", ["lora,,bitfit", "", " ", ",lora", "lora,"])
def test_empty_items_are_refused(text):
    with pytest.raises(ConfigError, match=r"--adapters .* has an empty item"):
        listed(text, "--adapters")


def test_commas_inside_of_an_encoders_name_stay_there():
    text = "timm:a@random, inflate3d:slices=8,window=3:phantom_chest@random,phantom_brain"
    assert listed_encoders(text) == [
        "timm:a@random",
        "inflate3d:slices=8,window=3:phantom_chest@random",
        "phantom_brain",
    ]


@pytest.mark.parametrize("text", ["4-0", "0-99999999999", "0-2000000", "1--2", "0,,1", "٣", "1e3"])
def test_seeds_that_cannot_be_are_refused_at_once(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("adapters: lora, bitfit", {"adapters": ("lora", "bitfit")}),
        ("adapters: [lora]\nencoders: phantom_chest", {"encoders": ("phantom_chest",)}),
        ("adapters: lora\ntasks: chexpert,nih", {"tasks": ("chexpert", "nih")}),
        ("adapters: lora\nseeds: 0-2,5", {"seeds": (0, 1, 2, 5)}),
        ("adapters: lora\nseeds: 3", {"seeds": (3,)}),
        ("adapters: lora\ntrain: {lr: 1e-3}", {"train": {"lr": 1e-3}}),
    ],
)
def test_a_file_may_write_lists_as_the_command_line_does(tmp_path, line, fields):
    (tmp_path / "sweep.yaml").write_text(line)
    assert read_sweep(tmp_path / "sweep.yaml", {}).model_dump(include=set(fields)) == fields


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("epochs: yes", "epochs: must be a number"),
        ('epochs: "3"', "epochs: must be a number"),
        ("threads: 1.5", "threads"),
        ("jobs: 1000000", "jobs: .*less than or equal to 1024"),
        ("timeout: .inf", "timeout"),
        ("timeout: .nan", "timeout"),
        ("seeds: [4294967296]", "seeds"),
        ("seeds: [yes]", "seeds: must be a number"),
        ("baselines: 1", "baselines: must be true or false"),
        ("adapters: lora,,vpt", "has an empty item"),
        ("epochs: 3\nepochs: 4", "'epochs' is given twice, in lines 1 and 2"),
        ("options: {lora: {rank: 2, rank: 3}}", "'rank' is given twice"),
        ("assigned: [lora]", "assigned: no such option"),
    ],
)
def test_a_file_that_means_something_else_is_refused(tmp_path, line, says):
    (tmp_path / "sweep.yaml").write_text(line)
    with pytest.raises(ConfigError, match=says):
        read_sweep(tmp_path / "sweep.yaml", {})


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("embedded:chest", "phantom_chest"),
        ("phantom_chest@default", "phantom_chest"),
        ("embedded:chest@random", "phantom_chest@random"),
        ("medgraft:embedded:chest", "phantom_chest"),
        ("open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "biomedclip"),
        ("timm:vit_tiny_patch16_224@random", "timm:vit_tiny_patch16_224@random"),
    ],
)
def test_names_of_one_encoder_are_one_row(name, canonical):
    assert canonical_encoder(name) == canonical
    assert Sweep(adapters=("lora",), encoders=(name, canonical)).encoders == (canonical,)


def test_a_sweep_with_options_runs_from_the_command_line(toy: Toy, medgraft, tmp_path):
    from medgraft.benchmarks.results.reading import read_results

    options = toy.options("--seeds", "0", "--results", str(tmp_path), "--set", "toy_gain.noise=0.5,train.lr=0.01")
    done = medgraft("run", "--adapters", "toy_gain", *options)
    assert done.exit_code == 0, done.output
    (found,) = (each for _, each in read_results([tmp_path]))
    assert found.spec.adapter_options["noise"] == 0.5 and found.spec.train.lr == 0.01
