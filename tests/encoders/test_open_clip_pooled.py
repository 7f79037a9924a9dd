"""open_clip's image towers that pool by attention, ResNets among them, and CoCa without its decoder."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from medgraft.encoders.open_clip import OpenClipSource
from medgraft.errors import ConfigError, IncompatibleError

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 60, "width": 24, "heads": 2, "layers": 2}
POOLED = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}
CAPTIONS = {
    "vision_cfg": POOLED | {"output_tokens": True},
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "coca": {"embed_dim": 16, **CAPTIONS},
    "attention": {"embed_dim": 16, "vision_cfg": POOLED, "text_cfg": TEXT},
    "average": {"embed_dim": 16, "vision_cfg": POOLED | {"pool_type": "avg"}, "text_cfg": TEXT},
    "parallel": {"embed_dim": 32, "vision_cfg": POOLED | {"attentional_pool": "parallel"}, "text_cfg": TEXT},
    "cascade": {"embed_dim": 32, "vision_cfg": POOLED | {"attentional_pool": "cascade"}, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": TEXT,
    },
}
IDS = torch.tensor([[58, 4, 5, 59, 0, 0, 0, 0], [58, 9, 8, 7, 6, 5, 4, 59]])


def stirred(kind: str) -> Any:
    config = copy.deepcopy(CONFIGS[kind])
    torch.manual_seed(0)
    model = (CoCa if "multimodal_cfg" in config else CustomTextCLIP)(**config).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape)) if "var" in key else value.add_(
                    0.1 * torch.randn(value.shape)
                )
    return model


def loaded(kind: str, model: Any, tmp_path: Any) -> Any:
    state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    return OpenClipSource.build(f"tiny-{kind}", str(tmp_path / "whole.safetensors"), config=CONFIGS[kind])


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_towers_end_in_the_librarys_shared_space(kind, tmp_path):
    model = stirred(kind)
    encoder = loaded(kind, model, tmp_path)
    image, text = (tower.double() for tower in encoder.towers().values())
    model = model.double()
    x = torch.randn(2, 3, *image.spec.input_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        seen, read = image(x), text(IDS)
        wanted, words = model.encode_image(x, normalize=False), model.encode_text(IDS, normalize=False)
        shared = image.project(seen.tokens)
        assert torch.allclose(image.project(seen.pooled), wanted.reshape(2, -1), rtol=1e-9, atol=1e-9)
        assert torch.allclose(text.project(read.pooled), words, rtol=1e-9, atol=1e-9)
        for stage in range(image.n_stages):
            assert torch.equal(image(image.prefix(x, stage), start=stage).pooled, seen.pooled)
    assert shared.shape == (*seen.tokens.shape[:2], wanted.shape[-1])
    assert seen.tokens.shape[1] == seen.n_prefix + seen.grid[0] * seen.grid[1]
    assert image.spec.pooling == "attention pooling" and seen.tokens.shape[-1] == image.spec.dim


@pytest.mark.parametrize("kind", ["coca", "resnet"])
def test_a_token_is_projected_as_a_sample_of_that_token_alone(kind, tmp_path):
    model = stirred(kind)
    tower = loaded(kind, model, tmp_path).towers()["image"].double()
    visual = model.visual.double()
    x = torch.randn(1, 3, *tower.spec.input_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        features = tower(x)
        if kind == "coca":
            alone = torch.randn(1, 1, 32, dtype=torch.float64)
            wanted = visual._pool(alone)[0] @ visual.proj
            found = tower.project(tower.pool(alone).tokens[:, 0])
        else:
            pool = tower.model.attnpool
            pool.positional_embedding.data = torch.zeros(2, 256, dtype=torch.float64)
            wanted = pool(features.tokens[:, :1].transpose(1, 2)[..., None])
            found = tower.project(features.tokens[:, 0])
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_pooling_of_a_resnet_calls_its_linears(tmp_path):
    """The library hands their weights to a function, so that an adapter there would train nothing."""
    tower = loaded("resnet", stirred("resnet"), tmp_path).towers()["image"]
    called = []
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        tower.model.attnpool.get_submodule(name).register_forward_hook(lambda m, a, o, n=name: called.append(n))
    tower(torch.zeros(1, 3, 64, 64))
    assert called == ["q_proj", "k_proj", "v_proj", "c_proj"]


def test_cocas_padding_is_not_read(tmp_path):
    """Its published mask lies one place too far to the right, and ``mask`` says what is read."""
    text = loaded("coca", stirred("coca"), tmp_path).towers()["text"]
    features = text(IDS)
    assert features.mask.sum(dim=1).tolist() == [5, 8] and features.grid == (8,)
    handle = text.model.token_embedding.register_forward_hook(
        lambda m, a, out: torch.where(features.mask[..., None], out, out + 1.0)
    )
    with torch.no_grad():
        again = text(IDS)
    handle.remove()
    assert torch.allclose(again.pooled, features.pooled, atol=1e-6)


def test_what_the_library_itself_cannot_run_is_refused_at_build():
    with pytest.raises(ConfigError, match="normalized_shape"):
        OpenClipSource.build("tiny", "random", config=CONFIGS["parallel"] | {"embed_dim": 16})
    with pytest.raises(IncompatibleError, match="pools"):
        nothing = CONFIGS["attention"] | {"vision_cfg": VISION | {"pool_type": "none"}}
        OpenClipSource.build("tiny", "random", config=nothing)
