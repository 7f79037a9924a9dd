"""Files of one's own: OpenAI's archives of CLIP, positions of another grid, lukemelas' EfficientNets, grey stems."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from medgraft.checkpoints.weights import read_weights
from medgraft.encoders.m3d import ANCHOR, vit_state
from medgraft.encoders.monai import MonaiSource
from medgraft.encoders.open_clip import OpenClipSource
from medgraft.encoders.parts import positions
from medgraft.encoders.parts.timm_files import quick_gelu, rename_efficientnet
from medgraft.encoders.timm import TimmSource
from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import CheckpointError, ConfigError

VISION = {"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}
CLIP: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
VIT: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8, "img_size": 32}
HF = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}


def write(state, path: Path, **metadata: str) -> str:
    save_file({k: v.clone().contiguous() for k, v in state.items()}, path, metadata=metadata or None)
    return str(path)


# -- QuickGELU --------------------------------------------------------------------------------------------------------


def clip_pair(quick: bool) -> Any:
    torch.manual_seed(0)
    return CustomTextCLIP(**CLIP, quick_gelu=quick).eval()


def openai_state(model: Any, marked: bool) -> dict[str, torch.Tensor]:
    """The layout of OpenAI's archives: text at the top, and sizes as tensors beside the weights."""
    state = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    marks = {"input_resolution": 32, "context_length": 8, "vocab_size": 60} if marked else {}
    return state | {key: torch.tensor(value) for key, value in marks.items()}


@pytest.mark.parametrize("marked", [True, False])
def test_openais_archives_have_quick_gelu_and_others_do_not(marked, tmp_path):
    model = clip_pair(marked)
    encoder = OpenClipSource.build("tiny", write(openai_state(model, marked), tmp_path / "c.safetensors"), config=CLIP)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tower = encoder.towers()["image"]
    with torch.no_grad():
        assert torch.allclose(tower.project(tower(x).pooled), model.encode_image(x), atol=1e-6)
        assert not torch.allclose(tower.project(tower(x).pooled), clip_pair(not marked).encode_image(x), atol=1e-4)


def test_what_a_configuration_says_wins_over_the_mark(tmp_path):
    path = write(openai_state(clip_pair(False), True), tmp_path / "c.safetensors")
    x = torch.zeros(1, 3, 32, 32)
    plain = OpenClipSource.build("tiny", path, config=CLIP | {"quick_gelu": False}).towers()["image"]
    quick = OpenClipSource.build("tiny", path, config=CLIP).towers()["image"]
    assert not torch.equal(plain(x).pooled, quick(x).pooled)


def test_a_file_that_does_not_say_which_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny", "tiny-quickgelu"])
    path = write(openai_state(clip_pair(False), False), tmp_path / "c.safetensors")
    with caplog.at_level(logging.WARNING):
        OpenClipSource.build("tiny", path, config=CLIP)
    assert "open_clip:tiny-quickgelu" in caplog.text


@pytest.mark.parametrize("marked", [True, False])
def test_timms_clip_takes_quick_gelu_from_the_mark(marked, tmp_path):
    name, small = "vit_base_patch32_clip_224", VIT | {"img_size": 32}
    model = clip_pair(marked)
    path = write(openai_state(model, marked), tmp_path / "c.safetensors")
    encoder = TimmSource.build(name, path, **small)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model.visual._pool(model.visual.transformer(model.visual._embeds(x)))[0]
        assert torch.allclose(encoder(x).pooled, wanted, atol=1e-5)
    assert quick_gelu("resnet50", Path(path), None, {}) == {}
    assert quick_gelu(name, Path(path), None, {"act_layer": "gelu"}) == {}


class Archive(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Linear(3, 2)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2)])
        self.scale = torch.nn.Parameter(torch.tensor(2.5))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x):
        return self.visual(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_gives_its_tensors_and_runs_nothing(tmp_path, monkeypatch):
    module = Archive()
    torch.jit.save(torch.jit.script(module), str(tmp_path / "clip.pt"))
    monkeypatch.setattr(torch.jit, "load", None)
    found = read_weights(tmp_path / "clip.pt")
    wanted = module.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) and found[key].dtype == wanted[key].dtype for key in wanted)


@pytest.mark.parametrize("damage", ["code", "storage", "no module"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_with_other_content_is_refused(tmp_path, damage):
    import zipfile

    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    torch.jit.save(torch.jit.script(Archive()), str(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for name in source.namelist():
            body = source.read(name)
            if name.endswith("data.pkl") and damage != "storage":
                body = pickle.dumps(Bomb() if damage == "code" else {"a": 1}, protocol=2)
            if name.endswith("data/0") and damage == "storage":
                body = body[:-4]
            target.writestr(name, body)
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "b.pt")


# -- positions --------------------------------------------------------------------------------------------------------


def ramp(rows: int, columns: int, prefix: int = 1) -> torch.Tensor:
    """A table whose channels are the row and the column of each place, each from 0 to 1."""
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    table = torch.stack([y, x], -1).reshape(1, rows * columns, 2)
    return torch.cat([torch.full((1, prefix, 2), 7.0), table], 1)


def test_positions_are_interpolated_from_their_own_grid():
    found = positions.fitted(ramp(4, 4), (2, 8), 1, (4, 4), "file")
    assert found.shape == (1, 17, 2) and torch.equal(found[:, :1], ramp(4, 4)[:, :1])
    maps = found[0, 1:].view(2, 8, 2)
    assert (maps[0, :, 0] < 0.4).all() and (maps[1, :, 0] > 0.6).all(), "rows grow downwards"
    assert (maps[:, 1:, 1] > maps[:, :-1, 1] - 1e-3).all(), "columns grow to the right"


def test_positions_of_the_models_grid_stay_as_they_are():
    table = ramp(4, 4)
    for own, stored in (((4, 4), None), ((4, 4), (4, 4)), ((2, 8), (2, 8)), ((5, 5), None)):
        assert positions.fitted(table, own, 1, stored, "file") is table
    rectangle = ramp(2, 6)  # twelve places are no square, so the model's word is all there is
    assert positions.fitted(rectangle, (3, 4), 1, None, "file") is rectangle


def test_a_grid_that_nothing_tells_is_refused_and_a_wrong_one_too():
    with pytest.raises(CheckpointError, match=r"4 x 4 or the model's 2 x 8.*weights_grid=\(4, 4\)"):
        positions.fitted(ramp(4, 4), (2, 8), 1, None, "file")
    with pytest.raises(CheckpointError, match="no grid of 3 x 3"):
        positions.fitted(ramp(4, 4), (2, 8), 1, (3, 3), "file")
    with pytest.raises(CheckpointError, match="2 x 2 x 2"):
        positions.fitted(torch.zeros(1, 8, 2), (1, 2, 4), 0, None, "file")


@pytest.mark.parametrize(
    ("content", "grid"),
    [
        ({"image_size": [16, 64]}, (2, 8)),
        ({"image_size": 32}, (4, 4)),
        ({"pretrained_cfg": {"input_size": [3, 16, 64]}}, (2, 8)),
        ({"model_args": {"img_size": [16, 64]}, "pretrained_cfg": {"input_size": [3, 32, 32]}}, (2, 8)),
        ({"vision_config": {"image_size": [64, 16]}}, (8, 2)),
        ({"model_cfg": {"vision_cfg": {"image_size": 32}}}, (4, 4)),
        ({"hidden_size": 5}, None),
        ([1, 2], None),
    ],
)
def test_configurations_beside_a_file_record_its_grid(content, grid, tmp_path):
    path = Path(write({"a": torch.zeros(1)}, tmp_path / "w.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert positions.recorded_grid(path, (8, 8)) == grid


def test_a_files_own_metadata_records_its_grid(tmp_path):
    assert positions.recorded_grid(
        Path(write({"a": torch.zeros(1)}, tmp_path / "w.safetensors", grid="2, 8")), (8, 8)
    ) == (
        2,
        8,
    )


@pytest.fixture
def square(tmp_path):
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    return model, write(model.state_dict(), tmp_path / "square.safetensors")


def test_timm_refuses_or_resamples_as_many_tokens_in_another_shape(square, tmp_path):
    model, path = square
    wide = VIT | {"img_size": (16, 64)}
    with pytest.raises(CheckpointError, match="weights_grid"):
        TimmSource.build("vit_tiny_patch16_224", path, **wide)
    told = TimmSource.build("vit_tiny_patch16_224", path, weights_grid=(4, 4), **wide)
    assert torch.equal(told.model.pos_embed, positions.fitted(model.pos_embed.data, (2, 8), 1, (4, 4), ""))  # pyright: ignore
    kept = TimmSource.build("vit_tiny_patch16_224", path, weights_grid=(2, 8), **wide)
    assert torch.equal(kept.model.pos_embed, model.pos_embed)  # pyright: ignore
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 32, 32]}}))
    beside = TimmSource.build("vit_tiny_patch16_224", path, **wide)
    assert torch.equal(beside.model.pos_embed, told.model.pos_embed)  # pyright: ignore
    assert TimmSource.build("vit_tiny_patch16_224", path, **VIT).spec.input_size == (32, 32)


def test_what_timm_fetches_is_resampled_from_the_published_grid(monkeypatch):
    from medgraft.encoders.parts.timm_files import reshape_published

    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT | {"img_size": (16, 64)})
    before = model.pos_embed.data.clone()
    model.pretrained_cfg["input_size"] = (3, 32, 32)
    reshape_published(model)
    assert torch.equal(model.pos_embed, positions.fitted(before, (2, 8), 1, (4, 4), ""))
    reshaped = model.pos_embed.data.clone()
    model.pretrained_cfg["input_size"] = (3, 16, 64)
    reshape_published(model)
    assert torch.equal(model.pos_embed, reshaped)


def test_open_clip_refuses_or_resamples_too(tmp_path):
    path = write(clip_pair(False).state_dict(), tmp_path / "c.safetensors")
    wide = CLIP | {"vision_cfg": VISION | {"image_size": [16, 64]}}
    with pytest.raises(CheckpointError, match="weights_grid"):
        OpenClipSource.build("tiny", path, config=wide)
    tower = OpenClipSource.build("tiny", path, config=wide, weights_grid=(4, 4)).towers()["image"]
    wanted = positions.fitted(clip_pair(False).visual.positional_embedding.data, (2, 8), 1, (4, 4), "")
    assert torch.equal(tower.model.positional_embedding, wanted)  # pyright: ignore


@pytest.mark.parametrize("family", ["vit", "beit"])
def test_transformers_refuses_or_resamples_too(family, tmp_path):
    config = HF | {"image_size": 32} | ({"use_absolute_position_embeddings": True} if family == "beit" else {})
    square: Any = TransformersSource.build(family, "random", config=config)
    path = write(square.model.state_dict(), tmp_path / "m.safetensors")
    wide = config | {"image_size": [16, 64]}
    with pytest.raises(CheckpointError, match="weights_grid"):
        TransformersSource.build(family, path, config=wide)
    found: Any = TransformersSource.build(family, path, config=wide, weights_grid=(4, 4))
    wanted = positions.fitted(square.model.embeddings.position_embeddings.data, (2, 8), 1, (4, 4), "")
    assert torch.equal(found.model.embeddings.position_embeddings, wanted)


def test_monai_and_m3d_refuse_or_resample_too(tmp_path):
    small: dict[str, Any] = {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    cube: Any = MonaiSource.build("vit", "random", img_size=(32, 32, 32), **small)
    path = write(cube.model.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(CheckpointError, match="weights_grid"):
        MonaiSource.build("vit", path, img_size=(16, 32, 64), **small)
    found: Any = MonaiSource.build("vit", path, img_size=(16, 32, 64), weights_grid=(2, 2, 2), **small)
    table = cube.model.patch_embedding.position_embeddings.data
    assert torch.equal(
        found.model.patch_embedding.position_embeddings, positions.fitted(table, (1, 2, 4), 0, (2, 2, 2), "")
    )
    key = "patch_embedding.position_embeddings"
    state = {key: torch.randn(1, 2048, 4), ANCHOR: torch.zeros(4)}
    same = vit_state(state, (8, 16, 16))[key]
    other = vit_state(state, (16, 16, 8))[key]
    assert torch.equal(same, state[key]) and other.shape == same.shape and not torch.equal(other, same)


# -- EfficientNet-PyTorch, one channel --------------------------------------------------------------------------------


def lukemelas(model: Any) -> dict[str, torch.Tensor]:
    """Weights of timm's model under the names of EfficientNet-PyTorch."""
    slim = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    wide = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    wide |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    found, index = {}, 0
    for key, value in model.state_dict().items():
        if not key.startswith("blocks."):
            name, _, rest = key.partition(".")
            found[f"{top[name]}.{rest}"] = value
    for stage in model.blocks:
        for block in stage:
            names = wide if hasattr(block, "conv_pwl") else slim
            for key, value in block.state_dict().items():
                key = key.replace("se.conv_reduce", "_se_reduce").replace("se.conv_expand", "_se_expand")
                name, _, rest = key.partition(".")
                found[f"_blocks.{index}.{names.get(name, name)}.{rest}"] = value
            index += 1
    return found | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def test_efficientnets_of_lukemelas_load_into_the_model_that_pads_alike(tmp_path):
    torch.manual_seed(0)
    model: Any = timm.create_model("tf_efficientnet_b0", num_classes=0).eval()
    state = lukemelas(model)
    assert "_blocks.15._project_conv.weight" in state and "_blocks.0._se_reduce.bias" in state
    path = write(state, tmp_path / "efficientnet-b0.safetensors")
    encoder = TimmSource.build("tf_efficientnet_b0", path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(encoder(x).pooled, model(x), rtol=1e-5, atol=1e-6)
    (matched,) = encoder.loaded
    assert matched.loaded == matched.needed and matched.renamed and len(matched.left_out) == 2
    even = TimmSource.build("efficientnet_b0", path)  # pads evenly, which these weights were not trained for
    assert even.spec.name == "timm:tf_efficientnet_b0"
    with torch.no_grad():
        assert torch.equal(even(x).pooled, encoder(x).pooled)
    with pytest.raises(CheckpointError, match="does not fit"):
        TimmSource.build("efficientnet_b1", path)
    assert rename_efficientnet(model, state).keys() >= model.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "options"), [("vit_tiny_patch16_224", VIT), ("test_resnet", {}), ("test_convnext", {})]
)
def test_timm_models_of_one_channel_run_on_their_own_input(name, options, radiograph, tmp_path):
    encoder = TimmSource.build(name, "random", in_chans=1, **options)
    x = encoder.prepare(radiograph)
    assert x.shape[0] == encoder.spec.channels == 1
    assert encoder(x[None]).pooled.isfinite().all()
    with pytest.raises(ConfigError, match="4 channels"):
        TimmSource.build(name, "random", in_chans=4, **options)
    coloured: Any = timm.create_model(name, num_classes=0, **options)
    path = write(coloured.state_dict(), tmp_path / "three.safetensors")
    grey: Any = TimmSource.build(name, path, in_chans=1, **options)
    stem = coloured.pretrained_cfg["first_conv"]
    weight = coloured.state_dict()[f"{stem}.weight"]
    assert torch.allclose(grey.model.state_dict()[f"{stem}.weight"], weight.sum(1, keepdim=True), atol=1e-6)
