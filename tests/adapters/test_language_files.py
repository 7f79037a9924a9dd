"""Published weights into xattn and soft_prefix: names and shapes of the authors' files, against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft import graft
from medgraft.adapters.parts.language import import_m3d, import_openflamingo, openflamingo_state
from medgraft.encoder import MultimodalEncoder
from medgraft.errors import CheckpointError, ConfigError
from medgraft.grafting import Grafted
from medgraft.registry import build_adapter
from medgraft.testing.tiny import TEXT_WIDTH, WIDTH
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

HEADS, HEAD_DIM, LATENTS, DEPTH = 2, 64, 5, 2
INNER = HEADS * HEAD_DIM
EMBEDDINGS = "lang_encoder.transformer.wte.weight"


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) / math.sqrt(shape[-1])


def resampler() -> dict[str, Tensor]:
    state = {"latents": torch.randn(LATENTS, WIDTH, dtype=torch.float64)}
    for i in range(DEPTH):
        for norm in ("norm_media", "norm_latents"):
            state |= {f"layers.{i}.0.{norm}.weight": 1 + normal(WIDTH), f"layers.{i}.0.{norm}.bias": normal(WIDTH)}
        state[f"layers.{i}.0.to_q.weight"] = normal(INNER, WIDTH)
        state[f"layers.{i}.0.to_kv.weight"] = normal(2 * INNER, WIDTH)
        state[f"layers.{i}.0.to_out.weight"] = normal(WIDTH, INNER)
        state |= {f"layers.{i}.1.0.weight": 1 + normal(WIDTH), f"layers.{i}.1.0.bias": normal(WIDTH)}
        state |= {
            f"layers.{i}.1.1.weight": normal(4 * WIDTH, WIDTH),
            f"layers.{i}.1.3.weight": normal(WIDTH, 4 * WIDTH),
        }
    return state | {"norm.weight": 1 + normal(WIDTH), "norm.bias": normal(WIDTH)}


def block() -> dict[str, Tensor]:
    return {
        "attn.norm.weight": 1 + normal(TEXT_WIDTH),
        "attn.norm.bias": normal(TEXT_WIDTH),
        "attn.to_q.weight": normal(INNER, TEXT_WIDTH),
        "attn.to_kv.weight": normal(2 * INNER, WIDTH),
        "attn.to_out.weight": normal(TEXT_WIDTH, INNER),
        "attn_gate": torch.tensor([0.7], dtype=torch.float64),
        "ff.0.weight": 1 + normal(TEXT_WIDTH),
        "ff.0.bias": normal(TEXT_WIDTH),
        "ff.1.weight": normal(4 * TEXT_WIDTH, TEXT_WIDTH),
        "ff.3.weight": normal(TEXT_WIDTH, 4 * TEXT_WIDTH),
        "ff_gate": torch.tensor([-0.4], dtype=torch.float64),
    }


PREFIXES = {
    "today": "lang_encoder.transformer.blocks.{}.gated_cross_attn_layer.",
    "earlier": "lang_encoder.gated_cross_attn_layers.{}.",
    "distributed": "module.lang_encoder.model.layers.{}.gated_cross_attn_layer.",
}


def published(layout: str, blocks: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    front = "module." if layout == "distributed" else ""
    state = {f"{front}perceiver.{key}": value for key, value in resampler().items()}
    for i in blocks:
        state |= {PREFIXES[layout].format(i) + key: value for key, value in block().items()}
    return state | {front + EMBEDDINGS: normal(7, TEXT_WIDTH)}


# -- the formulas, written down a second time -------------------------------------------------------------------------


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = []
    for head in range(HEADS):
        of = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        weights = torch.softmax(q[:, of] @ k[:, of].T / math.sqrt(HEAD_DIM), dim=-1)
        parts.append(weights @ v[:, of])
    return torch.cat(parts, dim=-1)


def mlp(state: dict[str, Tensor], front: str, x: Tensor) -> Tensor:
    h = F.layer_norm(x, x.shape[-1:], state[f"{front}0.weight"], state[f"{front}0.bias"]) @ state[f"{front}1.weight"].T
    return (h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))) @ state[f"{front}3.weight"].T


def resampled(state: dict[str, Tensor], media: Tensor) -> Tensor:
    latents = state["latents"]
    for i in range(DEPTH):
        at = f"layers.{i}.0."
        m, q = (
            F.layer_norm(x, (WIDTH,), state[f"{at}{norm}.weight"], state[f"{at}{norm}.bias"])
            for x, norm in ((media, "norm_media"), (latents, "norm_latents"))
        )
        k, v = (torch.cat([m, q]) @ state[f"{at}to_kv.weight"].T).chunk(2, dim=-1)
        latents = latents + attended(q @ state[f"{at}to_q.weight"].T, k, v) @ state[f"{at}to_out.weight"].T
        latents = latents + mlp(state, f"layers.{i}.1.", latents)
    return F.layer_norm(latents, (WIDTH,), state["norm.weight"], state["norm.bias"])


def crossed(state: dict[str, Tensor], x: Tensor, media: Tensor) -> Tensor:
    h = F.layer_norm(x, (TEXT_WIDTH,), state["attn.norm.weight"], state["attn.norm.bias"])
    k, v = (media @ state["attn.to_kv.weight"].T).chunk(2, dim=-1)
    read = attended(h @ state["attn.to_q.weight"].T, k, v) @ state["attn.to_out.weight"].T
    x = x + torch.tanh(state["attn_gate"]) * read
    return x + torch.tanh(state["ff_gate"]) * mlp(state, "ff.", x)


@pytest.fixture
def encoder() -> MultimodalEncoder:
    made = LANGUAGE_ENCODERS["language-2d"]()
    assert isinstance(made, MultimodalEncoder)
    return made


@pytest.mark.parametrize(("layout", "blocks"), [("today", (1,)), ("earlier", (0, 1)), ("distributed", (1,))])
def test_openflamingo_computes_what_its_paper_says(encoder, layout, blocks, tmp_path, monkeypatch):
    state, path = published(layout, blocks), tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, "model_state_dict": {k: v.float() for k, v in state.items()}}, path)
    monkeypatch.setattr("medgraft.adapters.parts.language.build_encoder", lambda name: encoder)
    said = import_openflamingo(path, tmp_path / "out", "pair:tiny")
    front = "module." if layout == "distributed" else ""
    assert f"{len(blocks)} cross-attentions" in said and said.endswith(
        f"left as the encoder has them: {front}{EMBEDDINGS}"
    )
    for attachment in reversed(encoder.carried()):
        attachment.detach()

    options = {"every": 1 if len(blocks) > 1 else 2, "first": blocks[0], "heads": HEADS, "num_latents": LATENTS}
    adapter: Any = build_adapter("xattn", {**options, "resampler_depth": DEPTH})
    grafted = Grafted(encoder, {"xattn": adapter}).load(tmp_path / "out").double().eval()
    assert list(adapter.layers) == [str(i) for i in blocks]
    seen = grafted.encode({"image": torch.rand(1, 1, 16, 24, dtype=torch.float64)})
    media = seen["image"].tokens[0, seen["image"].n_prefix :]
    mine = {key.removeprefix(f"{front}perceiver."): value.float().double() for key, value in state.items()}
    latents = resampled(mine, media)
    x = torch.randn(4, TEXT_WIDTH, dtype=torch.float64)
    with adapter.looking_at(seen):
        torch.testing.assert_close(adapter._media[0][0, 0], latents, atol=1e-12, rtol=1e-12)
        for i in blocks:
            front_of = PREFIXES[layout].format(i)
            own = {k.removeprefix(front_of): v.float().double() for k, v in state.items() if k.startswith(front_of)}
            torch.testing.assert_close(
                adapter._reading(str(i))(x[None])[0], crossed(own, x, latents), atol=1e-12, rtol=1e-12
            )


def test_unfiltered_checkpoints_hold_each_block_twice():
    once = published("today", (1,))
    twice = once | {k: v for k, v in published("earlier", (1,)).items() if "gated_cross" in k}
    state, others = openflamingo_state(twice)
    assert state.keys() == openflamingo_state(once)[0].keys() and others == [EMBEDDINGS]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.pop("perceiver.norm.bias"), "missing: resampler.norm.bias"),
        (
            lambda s: s.update({PREFIXES["today"].format(1) + "attn.bias": torch.zeros(2)}),
            r"unexpected: layers\.1\.attn",
        ),
        (lambda s: s.update({PREFIXES["today"].format(1) + "ff.3.weight": torch.zeros(3, 2)}), "of another shape"),
        (lambda s: [s.pop(k) for k in list(s) if "gated_cross" in k], "no gated_cross_attn_layer"),
        (lambda s: [s.pop(k) for k in list(s) if "perceiver" in k], "no key that ends in 'latents'"),
        (lambda s: s.update({PREFIXES["today"].format(9) + "attn_gate": torch.zeros(1)}), "missing|unexpected|layers"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(encoder, change, problem):
    state = published("today", (1,))
    change(state)
    options: Any = {"every": 2, "first": 1, "heads": HEADS, "resampler_depth": DEPTH, "num_latents": LATENTS}
    adapter: Any = dict(graft(encoder, "xattn", **options).named_adapters())["xattn"]
    before = {key: value.clone() for key, value in adapter.state_dict().items()}
    with pytest.raises(CheckpointError, match=problem):
        adapter.load_openflamingo(state)
    assert all(torch.equal(value, before[key]) for key, value in adapter.state_dict().items())


def test_m3ds_projector_computes_what_its_code_does(encoder, tmp_path, monkeypatch):
    torch.manual_seed(1)
    front = "model.mm_projector.projector."
    state = {f"{front}0.weight": normal(TEXT_WIDTH, WIDTH), f"{front}0.bias": normal(TEXT_WIDTH)}
    state |= {f"{front}2.weight": normal(TEXT_WIDTH, TEXT_WIDTH), f"{front}2.bias": normal(TEXT_WIDTH)}
    path = tmp_path / "mm_projector.bin"
    beside = {"model.embed_tokens.weight": normal(4, TEXT_WIDTH), "model.seg_projector.0.weight": normal(2, 2)}
    torch.save({key: value.float() for key, value in (state | beside).items()}, path)
    monkeypatch.setattr("medgraft.adapters.parts.language.build_encoder", lambda name: encoder)
    assert "model.embed_tokens.weight, model.seg_projector.0.weight" in import_m3d(path, tmp_path / "out", "pair:tiny")
    for attachment in reversed(encoder.carried()):
        attachment.detach()
    image = torch.rand(1, 1, 16, 24, dtype=torch.float64)
    plain = LANGUAGE_ENCODERS["language-2d"]().double().towers()["image"](image)  # pyright: ignore
    grafted = Grafted(encoder, {"soft_prefix": build_adapter("soft_prefix")}).load(tmp_path / "out").double().eval()
    tokens = plain.tokens[0, plain.n_prefix :].reshape(2, 2, 3, 2, WIDTH).mean(dim=(1, 3)).reshape(-1, WIDTH)
    w = {key.removeprefix(front): value.float().double() for key, value in state.items()}
    h = tokens @ w["0.weight"].T + w["0.bias"]
    expected = (h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))) @ w["2.weight"].T + w["2.bias"]
    torch.testing.assert_close(grafted.encode({"image": image})["image"].tokens[0], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("load", [import_openflamingo, import_m3d])
def test_the_encoder_must_be_named(load, tmp_path):
    with pytest.raises(ConfigError, match="does not say which encoder it is for; --encoder 'pair:"):
        load(tmp_path / "none.pt", tmp_path / "out", None)
