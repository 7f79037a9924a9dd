"""Both forms of the attentive probe against their equations in plain loops, padding, and what the head then reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from torch import Tensor, nn

from medgraft.adapters.attentive_probe import BlockPooling, LightPooling, divisor
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
C, N = 6, 5


def tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, N, C, dtype=torch.float64)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("value_projection", [False, True])
@pytest.mark.parametrize("queries", [1, 2, 3, 6])
def test_the_light_form_gathers_one_slice_by_each_query(queries, value_projection):
    pooling, x = LightPooling(C, queries, value_projection).double(), tokens()
    got, width = pooling(x), C // queries
    values = x if not value_projection else x @ dict(pooling.named_parameters())["value.weight"].T
    for b in range(len(x)):
        wanted = []
        for m in range(queries):
            a = softmax([float(pooling.query[m].detach() @ x[b, n]) / math.sqrt(C) for n in range(N)])
            for c in range(m * width, (m + 1) * width):
                wanted.append(sum(a[n] * float(values[b, n, c].detach()) for n in range(N)))
        assert got[b].tolist() == pytest.approx(wanted, rel=1e-9)


def norm(v: list[float], layer: nn.LayerNorm) -> list[float]:
    mean = sum(v) / len(v)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in v) / len(v) + layer.eps)
    return [(a - mean) / deviation * float(w) + float(b) for a, w, b in zip(v, layer.weight, layer.bias, strict=True)]


def linear(v: list[float], layer: nn.Linear) -> list[float]:
    return [
        sum(float(w) * a for w, a in zip(row, v, strict=True)) + float(b)
        for row, b in zip(layer.weight, layer.bias, strict=True)
    ]


def block_by_hand(pooling: BlockPooling, x: list[list[float]]) -> list[float]:
    width, out = C // pooling.heads, []
    both = [linear(norm(row, pooling.norm1), pooling.kv) for row in x]
    for query in pooling.query.tolist():
        asked, gathered = linear(query, pooling.q), []
        for h in range(pooling.heads):
            part = range(h * width, (h + 1) * width)
            a = softmax([sum(asked[c] * row[c] for c in part) / math.sqrt(width) for row in both])
            gathered += [sum(a[n] * both[n][C + c] for n in range(len(x))) for c in part]
        q = [u + v for u, v in zip(query, linear(gathered, pooling.proj), strict=True)]
        hidden = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in linear(norm(q, pooling.norm2), pooling.fc1)]
        out.append([u + v for u, v in zip(q, linear(hidden, pooling.fc2), strict=True)])
    return [sum(column) / len(out) for column in zip(*out, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize(("queries", "heads"), [(1, 1), (1, 3), (4, 2)])
def test_the_block_is_v_jepas(queries, heads):
    pooling, x = BlockPooling(C, queries, heads, 4.0).double(), tokens()
    for parameter in pooling.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    got = pooling(x)
    for row, sample in zip(got.tolist(), x.tolist(), strict=True):
        assert row == pytest.approx(block_by_hand(pooling, sample), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("pooling", [LightPooling(C, 3), BlockPooling(C, 2, 3, 2.0)], ids=["light", "block"])
def test_padding_is_not_attended_to(pooling):
    pooling, x = pooling.double(), tokens()
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * N])
    got, other = pooling(x, mask), x.clone()
    other[0, 3:] = 1e3
    torch.testing.assert_close(pooling(other, mask), got)
    torch.testing.assert_close(got[:1], pooling(x[:1, :3]))
    torch.testing.assert_close(got[1:], pooling(x[1:]))


@pytest.mark.parametrize("form", ["light", "block"])
def test_the_head_reads_what_was_gathered_of_all_tokens(form):
    encoder = tiny.shared("timm")
    x = tiny.batch(encoder)["image"]
    with torch.no_grad():
        plain = encoder(x)
        grafted = graft(encoder, f"attentive_probe:{form}")
        adapter: Any = next(iter(grafted.adapters.values()))
        features = grafted(x)
        wanted = adapter.pooling["image"](plain.tokens)
        grafted.ungraft()
    torch.testing.assert_close(features.pooled, wanted)
    assert torch.equal(features.tokens, plain.tokens) and features.pooled.shape == (len(x), encoder.spec.dim)


def test_the_light_form_trains_its_queries_alone():
    grafted = graft("embedded:chest@random", "attentive_probe")
    assert grafted.trainable_count() == {"attentive_probe": 32 * 192}
    assert divisor(192, 32) == 32 and divisor(10, 4) == 2 and divisor(7, 3) == 1


def test_single_values_are_refused():
    reason = build_adapter("attentive_probe").supports(tiny.shared("pixels_2d")).reason
    assert "single values" in reason
