"""The authors' checkpoint: in, out, and every way in which a file can be wrong, in one sentence."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from medgraft.adapters.parts.ace_lora_files import SOURCE_NAME, export_ace_lora, import_ace_lora
from medgraft.benchmarks.commands.main import app
from medgraft.checkpoints.folder import WEIGHTS_NAME, read_config
from medgraft.checkpoints.weights import UNRECORDED, read_weights
from medgraft.commands.main import LAYOUTS
from medgraft.errors import CheckpointError
from medgraft.grafting import graft
from medgraft.plugins import BUILTIN_DISTRIBUTION, discover, load
from medgraft.registry import build_encoder

pytestmark = pytest.mark.usefixtures("seeded")
# Two text and four image layers; the layout is that of BiomedCLIP's twelve and twelve.
ENCODER, TEXT, IMAGE = "embedded:chest@random", 2, 4
METADATA = {"loss_type": "clip_loss_ace_hgat", "alpha": 1, "r": 4, "note": ["kept", 2.5]}


def published(width: int = 0, joint: int = 0, layers: int = TEXT + IMAGE, rank: int = 4) -> dict[str, Any]:
    """A file as the authors' code writes it, with random numbers."""
    torch.manual_seed(11)
    towers = build_encoder(ENCODER).towers() if not width else {}
    widths = [width] * layers if width else [towers["text"].spec.dim] * TEXT + [towers["image"].spec.dim] * IMAGE
    if not joint:
        joint = towers["text"].project(torch.zeros(1, widths[0])).shape[-1]
    weights: dict[str, Any] = {
        f"layer_{i}": {f"{p}_proj": {"w_lora_A": torch.randn(rank, C), "w_lora_B": torch.randn(C, rank)} for p in "qkv"}
        for i, C in enumerate(widths)
    }
    for name in ("img_edge_adapter", "img_node_adapter", "text_edge_adapter", "text_node_adapter"):
        weights[name] = {
            "down.weight": torch.randn(128, joint),
            "down.bias": torch.randn(128),
            "up.weight": torch.randn(joint, 128),
            "up.bias": torch.randn(joint),
        }
    weights["logit_scale"] = torch.tensor(78.3486)
    return {"weights": weights, "metadata": dict(METADATA)}


@pytest.fixture
def content() -> dict[str, Any]:
    return published()


def write(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "ACE_LoRA.pt")
    return folder / "ACE_LoRA.pt"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return (
            isinstance(b, dict)
            and list(map(str, sorted(a))) == list(map(str, sorted(b)))
            and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def test_every_number_arrives_unchanged_at_its_place(content, tmp_path):
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    encoder = build_encoder(ENCODER)
    grafted = graft(encoder, "ace_lora").load(made.folder)
    adapter, weights = grafted.adapters["ace_lora"], content["weights"]
    for layer in range(TEXT + IMAGE):
        tower, block = ("text", layer) if layer < TEXT else ("image", layer - TEXT)
        for p in "qkv":
            delta = adapter.lora.delta[f"{tower}/blocks/{block}/attn/{p}"]
            assert torch.equal(delta.A, weights[f"layer_{layer}"][f"{p}_proj"]["w_lora_A"])
            assert torch.equal(delta.B, weights[f"layer_{layer}"][f"{p}_proj"]["w_lora_B"])
            assert delta.scaling == 0.5
    for tower, short in (("image", "img"), ("text", "text")):
        for part in ("edge", "node"):
            wanted = weights[f"{short}_{part}_adapter"]
            assert same(dict(getattr(adapter.hgnn.layer[tower], part).state_dict()), wanted)
    assert adapter.scale.item() == weights["logit_scale"].item()
    assert made.numbers == sum(p.numel() for p in adapter.parameters())


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_file_comes_back_as_it_was(content, tmp_path, shape):
    content["weights"]["logit_scale"] = content["weights"]["logit_scale"].reshape(shape)
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    export_ace_lora(made.folder, tmp_path / "back.pt")
    assert same(torch.load(tmp_path / "back.pt", weights_only=True), content)


def test_nested_maps_are_read_as_flat_ones(content, tmp_path):
    maps = content["weights"]["img_edge_adapter"]
    content["weights"]["img_edge_adapter"] = {
        part: {kind: maps[f"{part}.{kind}"] for kind in ("weight", "bias")} for part in ("down", "up")
    }
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    state = read_weights(made.folder / WEIGHTS_NAME)
    assert torch.equal(state["adapters.ace_lora.hgnn.layer.image.edge.up.bias"], maps["up.bias"])


def test_the_scaling_follows_the_alpha_of_the_file(content, tmp_path):
    content["metadata"]["alpha"] = 3
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    assert read_config(made.folder)["adapters"]["ace_lora"]["config"]["alpha"] == 3.0


def test_another_rank_is_taken_when_it_is_asked_for(tmp_path):
    made = import_ace_lora(write(published(rank=8), tmp_path), tmp_path / "out", ENCODER, rank=8)
    assert read_config(made.folder)["adapters"]["ace_lora"]["config"]["rank"] == 8


def test_a_trained_graft_is_exported_without_the_metadata_of_the_file_it_came_from(content, tmp_path):
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    grafted = graft(build_encoder(ENCODER), "ace_lora").load(made.folder)
    with torch.no_grad():
        grafted.adapters["ace_lora"].scale.add_(1)
    grafted.save(made.folder)
    export_ace_lora(made.folder, tmp_path / "back.pt")
    found = torch.load(tmp_path / "back.pt", weights_only=True)
    assert found["metadata"] == {"r": 4, "alpha": 1.0, "loss_type": "clip_loss_ace_hgnn"}
    assert found["weights"]["logit_scale"] == content["weights"]["logit_scale"] + 1


# -- wrong files ------------------------------------------------------------------------------------------------------


def spoil(content: dict[str, Any], how: str) -> Any:
    weights = content["weights"]
    if how == "missing layer":
        del weights["layer_5"]
    elif how == "missing key":
        del weights["text_node_adapter"]["up.bias"]
    elif how == "missing scale":
        del weights["logit_scale"]
    elif how == "extra layer":
        weights["layer_6"] = weights["layer_5"]
    elif how == "extra key":
        weights["layer_0"]["o_proj"] = weights["layer_0"]["q_proj"]
    elif how == "extra table":
        content["optimizer"] = {}
    elif how == "rank":
        return published(rank=8)
    elif how == "one rank":
        weights["layer_1"]["k_proj"] = {"w_lora_A": torch.zeros(2, 64), "w_lora_B": torch.zeros(64, 2)}
    elif how == "dims":
        weights["img_edge_adapter"]["down.weight"] = torch.zeros(64, 7)
    elif how == "turned":
        weights["layer_0"]["q_proj"]["w_lora_B"] = weights["layer_0"]["q_proj"]["w_lora_B"].T.contiguous()
    elif how == "integers":
        weights["layer_0"]["q_proj"]["w_lora_A"] = weights["layer_0"]["q_proj"]["w_lora_A"].long()
    elif how == "text":
        weights["logit_scale"] = "78.3"
    elif how == "nan":
        weights["logit_scale"] = torch.tensor(float("nan"))
    elif how == "double":
        weights["logit_scale"] = torch.tensor(0.1, dtype=torch.float64)
    elif how == "alpha":
        content["metadata"]["alpha"] = "one"
    elif how == "metadata":
        content["metadata"] = [1]
    elif how == "flat":
        return weights
    elif how == "list":
        return [1, 2]
    return content


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing layer", r"lacks layer_5\.k_proj\.w_lora_A, .* and 2 more; it is incomplete"),
        ("missing key", r"lacks text_node_adapter\.up\.bias"),
        ("missing scale", "lacks logit_scale"),
        ("extra layer", r"holds layer_6\.k_proj\.w_lora_A.*which ACE-LoRA on this encoder has not"),
        ("extra key", r"holds layer_0\.o_proj\.w_lora_A"),
        ("extra table", "holds 'optimizer' beside 'weights' and 'metadata'"),
        ("rank", "has LoRA of rank 8, not 4; pass the rank"),
        ("one rank", "has LoRA of rank 2 and 4, not 4"),
        ("dims", r"img_edge_adapter\.down\.weight is \(64, 7\), expected \(128, "),
        ("turned", r"layer_0\.q_proj\.w_lora_B is \(4, "),
        ("integers", r"layer_0\.q_proj\.w_lora_A is torch\.int64, not a tensor of real numbers"),
        ("text", "logit_scale is str, not a tensor"),
        ("nan", "logit_scale holds NaN"),
        ("double", "logit_scale holds NaN, or torch.float64 numbers that would change"),
        ("alpha", "alpha in its metadata is 'one', not a positive number"),
        ("metadata", "'metadata' must be a table, not list"),
        ("flat", "must hold the tables 'weights' and 'metadata', and holds img_edge_adapter"),
        ("list", "holds list"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence_and_nothing_is_written(content, tmp_path, how, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        import_ace_lora(write(spoil(content, how), tmp_path), tmp_path / "out", ENCODER)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_code_in_a_file_is_not_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content["metadata"]["payload"] = Payload()
    with pytest.raises(CheckpointError, match="is damaged or holds more than data"):
        import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_missing_or_damaged_is_named(content, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        import_ace_lora(tmp_path / "none.pt", tmp_path / "out", ENCODER)
    path = write(content, tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="is damaged"):
        import_ace_lora(path, tmp_path / "out", ENCODER)


@pytest.mark.parametrize(
    ("adapter", "options", "says"),
    [
        ("lora", {}, "holds lora; ACE-LoRA's file takes one ace_lora"),
        ("ace_lora", {"depth": "up"}, "has depth 'up'; ACE-LoRA's file takes 'all' only"),
        ("ace_lora", {"hypergraph": "text"}, "has hypergraph 'text'"),
        ("ace_lora", {"graph": "gat"}, "has graph 'gat'"),
        ("ace_lora", {"train_logit_scale": False}, "has train_logit_scale False"),
    ],
)
def test_what_the_layout_has_no_place_for_is_not_exported(tmp_path, adapter, options, says):
    graft(build_encoder(ENCODER), adapter, **options).save(tmp_path / "own")
    with pytest.raises(CheckpointError, match=says):
        export_ace_lora(tmp_path / "own", tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()


def test_a_damaged_note_of_the_source_is_named_with_the_remedy(content, tmp_path):
    made = import_ace_lora(write(content, tmp_path), tmp_path / "out", ENCODER)
    (made.folder / SOURCE_NAME).write_text("{")
    with pytest.raises(CheckpointError, match="remove it to export without its metadata"):
        export_ace_lora(made.folder, tmp_path / "back.pt")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_command_imports_and_exports(run, content, tmp_path):
    path = write(content, tmp_path)
    done = run("import", "ace_lora", path, "--out", tmp_path / "out", "--encoder", ENCODER)
    assert done.exit_code == 0 and "numbers of ACE-LoRA written to" in done.stdout
    done = run("export", tmp_path / "out", "--format", "ace_lora", "--out", tmp_path / "back.pt")
    assert done.exit_code == 0
    assert same(torch.load(tmp_path / "back.pt", weights_only=True), content)


@pytest.mark.parametrize(
    ("name", "says"),
    [("lora", "reads no file of its authors; ace_lora, soft_prefix and xattn do"), ("ace_lra", "mean ace_lora")],
)
def test_the_command_refuses_in_one_sentence(run, content, tmp_path, name, says):
    done = run("import", name, write(content, tmp_path), "--out", tmp_path / "out")
    assert done.exit_code == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_those_that_the_refusal_names_are_those_that_can():
    own = [load(plugin) for plugin in discover("adapter").values() if plugin.distribution == BUILTIN_DISTRIBUTION]
    for function, said in LAYOUTS.items():
        able = {each.__module__.rpartition(".")[2] for each in own if hasattr(each, function)}
        assert able == set(re.findall(r"\w+_\w+|xattn", said))


@pytest.mark.slow
def test_without_the_encoders_weights_the_folder_says_so_and_loads_with_a_warning(run, tmp_path, caplog):
    content = published(width=768, joint=512, layers=24)
    done = run("import", "ace_lora", write(content, tmp_path), "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "969,217 numbers" in done.stdout and "loading it cannot check them" in done.stdout
    config = read_config(tmp_path / "out")
    assert config["base_digest"] == config["base_encoder"]["weights"] == UNRECORDED
    assert "not checked when the adapter is loaded" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / SOURCE_NAME).read_text())["metadata"] == METADATA
    grafted = graft("biomedclip@random", "ace_lora")
    with caplog.at_level(logging.WARNING):
        grafted.load(tmp_path / "out")
    assert "does not say which weights of open_clip:hf-hub:microsoft/BiomedCLIP" in caplog.text
    delta = grafted.adapters["ace_lora"].lora.delta["image/blocks/0/attn/q"]
    assert torch.equal(delta.A, content["weights"]["layer_12"]["q_proj"]["w_lora_A"])
    assert grafted.logit_scale().item() == content["weights"]["logit_scale"].item()
